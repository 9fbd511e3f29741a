"""Which requests go together, and when: the batching policies. [P]

A policy looks at the lanes in which something waits, at the time and at the learned l(b), and answers
``Take`` (from this lane, so many) or ``Wait``. It changes no lane: ``Engine`` carries the answer out. To add
one, write a class and a line in ``POLICIES``.
"""

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from operator import attrgetter
from types import MappingProxyType
from typing import Final, NamedTuple, Protocol

from batching_watchdog.engine.lanes import Lane
from batching_watchdog.engine.latency import LEAST, TIE
from batching_watchdog.messages import DispatchReason

BACK_OFF: Final = 0.9
"""What is left of the batch size of policy ``aimd`` after a batch that took too long (Clipper: 10% less)."""

RESERVE: Final = 0.025
"""Of a request's budget: what ``slo`` leaves unused under overload, for an answer's way to the client."""

KEEP_UP: Final = 0.9
"""Of what is demanded, what batches must give before ``slo`` gives requests up for larger ones: near the
capacity a queue that is too long for its head is shorter a moment later. Of 0.9, 0.95, 1.0 and 1.1 the best
at each load from 300 to 600 requests/s (two workers, l(b) = 32 + 2 b ms, 100 ms)."""

STEP: Final = 1.1
"""By how much a size grows from one look to the next."""

AGE: Final = 10.0
"""Budgets after which ``slo`` serves a lane or an SLO class that it has passed over, whatever the goodput
says. An SLO class then takes at most one budget of one worker in eleven. Goodput fell by up to 2% so, and
with 3 by up to 9% (two or three classes with budgets from 50 ms to 2 s, l(b) = 10 or 32 + 2 b ms, twice the
capacity)."""


class Take(NamedTuple):
    """Send ``size`` requests of ``lane`` now; the ``skip`` before them can no longer be on time.

    A size of 0: those before it only leave the queue.
    """

    lane: Lane
    size: int
    reason: DispatchReason
    skip: int = 0


class Wait(NamedTuple):
    """Send nothing before ``until``, unless more requests come."""

    until: float


class Situation(NamedTuple):
    """What a policy may know besides the lanes."""

    now: float
    workers: int
    demand: float
    """Of the workers' time, what would be needed for all that comes in, in batches that can be kept up."""
    ahead: float
    """Batches that a request waits for before its own: one, or one of each other lane per worker."""
    late: bool
    """Whether late requests wait somewhere."""


class BatchingPolicy(Protocol):
    """How a batch is cut when a worker is free."""

    @property
    def by_deadline(self) -> bool:
        """Whether lanes are ordered by deadline; otherwise by arrival."""

    def choose(self, lanes: Sequence[Lane], at: Situation) -> Take | Wait:
        """Answer for ``lanes``, of which there is one at least, each with requests on time."""

    def observe(self, size: int, seconds: float) -> None:
        """A batch of ``size`` took a worker ``seconds``: for a policy that keeps a state of its own."""


@dataclass(frozen=True, slots=True)
class PolicySettings:
    """What the policies are made from; each takes what it needs."""

    max_batch_size: int
    max_batch_delay: float
    slo_latency: float


@dataclass(frozen=True, slots=True)
class Unbatched:
    """One request at a time, in order of arrival: what a plain Flask worker does. A baseline."""

    by_deadline: bool = False

    def choose(self, lanes: Sequence[Lane], at: Situation) -> Take | Wait:
        """Take the one that came first."""
        return Take(min(lanes, key=_first_key), 1, DispatchReason.IDLE)

    def observe(self, size: int, seconds: float) -> None:
        """Nothing to learn."""


@dataclass(frozen=True, slots=True)
class Fixed:
    """Size or delay, in order of arrival: Triton's, TorchServe's and mosec's law. A baseline.

    Leaves when ``max_batch_size`` requests wait, or when the first has waited ``max_batch_delay``.
    """

    max_batch_size: int
    max_batch_delay: float
    by_deadline: bool = False

    def choose(self, lanes: Sequence[Lane], at: Situation) -> Take | Wait:
        """Take a full batch, or what there is once the delay has passed; while a lane waits, another's."""
        for lane in sorted(lanes, key=_first_key):
            waiting = len(lane.keys)
            if waiting >= self.max_batch_size:
                return Take(lane, self.max_batch_size, DispatchReason.FULL)
            if at.now >= lane.keys[0] + self.max_batch_delay:
                delayed = DispatchReason.DELAY if self.max_batch_delay > 0 else DispatchReason.IDLE
                return Take(lane, waiting, delayed)
        return Wait(min(map(_first_key, lanes)) + self.max_batch_delay)

    def observe(self, size: int, seconds: float) -> None:
        """Nothing to learn."""


class BatchLimit:
    """The batch size that keeps within ``budget`` seconds: additive increase, multiplicative decrease.

    A batch of the whole limit that stayed within the budget raises the limit by one; a batch that exceeded it
    lowers the limit by a tenth. Smaller batches raise nothing: they say nothing of the limit (as in TCP,
    RFC 7661, where an unused window does not grow).
    """

    __slots__ = ("_budget", "_max", "_size")

    def __init__(self, max_batch_size: int, budget: float) -> None:
        self._max = max_batch_size
        self._budget = budget
        self._size = 1.0

    @property
    def size(self) -> int:
        """The limit now: at least 1, at most ``max_batch_size``."""
        return int(self._size)

    def observe(self, size: int, seconds: float) -> None:
        """Learn from a batch of ``size`` requests that took a worker ``seconds``."""
        if seconds > self._budget:
            self._size = max(1.0, self._size * BACK_OFF)
        elif size >= self.size:
            self._size = min(float(self._max), self._size + 1.0)


@dataclass(frozen=True, slots=True)
class Aimd:
    """Clipper's adaptive batching, in order of arrival and without a delay. A baseline.

    D. Crankshaw et al., "Clipper: A Low-Latency Online Prediction Serving System", NSDI'17, section 4.3: the
    batch size grows by a fixed amount until a batch takes longer than the latency objective, then backs off
    by 10%. What waits is taken at once, up to that size. It does not look at deadlines.
    """

    limit: BatchLimit
    by_deadline: bool = False

    def choose(self, lanes: Sequence[Lane], at: Situation) -> Take | Wait:
        """Take what there is in the lane that is first, up to the limit."""
        lane = min(lanes, key=_first_key)
        size = min(len(lane.keys), self.limit.size)
        return Take(lane, size, DispatchReason.IDLE if size == len(lane.keys) else DispatchReason.FULL)

    def observe(self, size: int, seconds: float) -> None:
        """Move the limit."""
        self.limit.observe(size, seconds)


class Cut(NamedTuple):
    """The batch that a lane would give now."""

    deadline: float
    """Of its first request: the tightest."""
    lane: Lane
    skip: int
    size: int
    seconds: float
    """What it is predicted to take, by the upper quantile."""
    overdue: bool = False
    """Whether an SLO class of its requests has been passed over for too long."""

    @property
    def density(self) -> float:
        """Requests on time per second of a worker."""
        return self.size / self.seconds


@dataclass(frozen=True, slots=True)
class Slo:
    """As many requests on time per second of the workers as there can be. Work-conserving.

    **In a lane** the batch is the largest prefix that meets the deadline of its first request, never beyond
    the size with the best throughput (Clipper and AlpaServe cut alike). While more wait than can be kept up,
    a first request that would make the batch smaller than that goes late instead: shrinking it would cost
    throughput just when there is none to spare, and the next ones would go the same way (Nexus, SOSP'19,
    "early drop"). Where no start allows such a batch, the one with the most requests per second is taken.

    **Among lanes** the cuts are jobs with a deadline, a time and a worth, for which J. M. Moore's rule ("An n
    job, one machine sequencing algorithm for minimizing the number of late jobs", Management Science 15,
    1968) is used: in order of deadline, and whenever one would be late, the one with the fewest requests per
    second is left out. Of what remains, all can be on time; the one that gives most per second goes first
    unless that would make another late, since lanes fill while they wait. A lane that has been passed over
    for ``AGE`` of its budgets goes first all the same.

    **Among SLO classes** in a lane the deadline decides, so a class whose budget is hardly longer than the
    batches of the others may get nothing. Once ``AGE`` of its budgets have passed since a request of it went
    late, with none on time since, the next batch holds one, as soon as one can be on time in a batch of its
    own. Of several such classes or lanes each waits for one batch of each of the others.

    Under overload all that is served in order of deadline ends just before it, and a millisecond on the way
    to the client makes most of that late. So once requests go late, ``RESERVE`` of the budget is kept.
    """

    max_batch_size: int
    by_deadline: bool = True

    def choose(self, lanes: Sequence[Lane], at: Situation) -> Take | Wait:
        """Take the best cut; one of size 0 where all of a lane are late."""
        cuts = []
        for lane in lanes:
            cut = self._cut(lane, at)
            if lane.overdue_at:
                cut = self._with_overdue(cut, lane, at)
            if not cut.size:
                return Take(lane, 0, DispatchReason.LATE, cut.skip)
            cuts.append(cut)
        cut = cuts[0] if len(cuts) == 1 else _first_job(cuts, at)
        return Take(cut.lane, cut.size, self._reason(cut), cut.skip)

    def observe(self, size: int, seconds: float) -> None:
        """Nothing of its own: all that it needs is in the lanes' models."""

    def _cut(self, lane: Lane, at: Situation) -> Cut:
        """The largest batch from the first request that allows one that is worth while."""
        keys, model, now = lane.keys, lane.model, at.now
        wanted = min(len(keys), model.best_size)
        budget = keys[0] - lane.on_time[0].arrived
        reserve = RESERVE * budget if at.late else 0.0
        seconds = model.predict(wanted)
        if seconds <= keys[0] - now - reserve:
            return Cut(keys[0], lane, 0, wanted, seconds or LEAST)
        kept_up = max(1, lane.kept_up(budget, at.ahead))
        if len(keys) > kept_up:
            least = self._least(lane, budget, kept_up, at)
            start = bisect_left(keys, now + model.predict(least) + reserve)
            if len(keys) - start < least:
                return self._densest_cut(lane, at, reserve)
        else:
            start = bisect_left(keys, now + model.predict(1) + reserve)
        if start == len(keys):
            return Cut(keys[-1], lane, start, 0, LEAST)
        return self._from(lane, start, at.now + reserve)

    def _from(self, lane: Lane, start: int, now: float) -> Cut:
        """The largest batch from the request at ``start`` on; that one alone even if it is late."""
        keys, model = lane.keys, lane.model
        size = max(1, min(len(keys) - start, model.best_size, model.largest_within(keys[start] - now)))
        return Cut(keys[start], lane, start, size, model.predict(size) or LEAST)

    def _with_overdue(self, cut: Cut, lane: Lane, at: Situation) -> Cut:
        """``cut``, or one that holds a request of a class that has been passed over for too long."""
        overdue = [slo_class for slo_class, since in lane.overdue_at.items() if since <= at.now]
        if not overdue:
            return cut
        held = {request.slo_class for request in lane.on_time[cut.skip : cut.skip + cut.size]}
        earliest = at.now + lane.model.predict(1)
        for slo_class in overdue:
            if slo_class in held:
                return cut._replace(overdue=True)
            for start in range(bisect_left(lane.keys, earliest), len(lane.keys)):
                request = lane.on_time[start]
                reserve = RESERVE * (request.slot - request.arrived)
                if request.slo_class == slo_class and lane.keys[start] >= earliest + reserve:
                    return self._from(lane, start, at.now + reserve)._replace(overdue=True)
        return cut

    def _densest_cut(self, lane: Lane, at: Situation, reserve: float) -> Cut:
        """The start from which the most requests per second are on time."""
        keys, model = lane.keys, lane.model
        best = model.best_size
        found = Cut(keys[-1], lane, len(keys), 0, LEAST)
        size, start, highest = 0, 0, 0.0
        while start < len(keys):
            size = min(len(keys) - start, best, model.largest_within(keys[start] - at.now - reserve))
            if size:
                cut = Cut(keys[start], lane, start, size, model.predict(size) or LEAST)
                # A larger batch even if it seems a little worse: what a size that seldom runs seems to cost
                # may be one lucky run, and the best size may be the one that is being tried.
                tie = -TIE if size == best else TIE if size < found.size else 0.0
                if cut.density > highest * (1 + tie):
                    found, highest = cut, cut.density
            larger = min(best, max(size + 1, int(size * STEP)))
            if size == larger:
                break
            start = max(start + 1, bisect_left(keys, at.now + model.predict(larger) + reserve, start))
        return found

    def _least(self, lane: Lane, budget: float, kept_up: int, at: Situation) -> int:
        """The size below which no batch is cut while more than that wait: shrinking it costs throughput.

        What can be kept up; under more demand than that gives, the smallest size that gives ``KEEP_UP`` of
        what is demanded, and that the budget allows.
        """
        model, least = lane.model, kept_up
        largest = min(model.best_size, model.largest_within((1 - RESERVE) * budget))
        needed = KEEP_UP * at.demand * least / (model.predict_mean(least) or LEAST)
        while least < largest and least < needed * model.predict_mean(least):
            least = min(largest, max(least + 1, int(least * STEP)))
        return least

    def _reason(self, cut: Cut) -> DispatchReason:
        waiting = len(cut.lane.keys) - cut.skip
        if cut.size == self.max_batch_size:
            return DispatchReason.FULL
        if cut.size == waiting:
            return DispatchReason.IDLE
        full = cut.size >= cut.lane.model.best_size
        return DispatchReason.BEST_SIZE if full else DispatchReason.DEADLINE


def _first_job(cuts: list[Cut], at: Situation) -> Cut:
    """Which of several lanes' cuts goes first: Moore's rule, then the densest that makes no other late."""
    for cut in cuts:
        budget = cut.deadline - cut.lane.on_time[cut.skip].arrived
        if cut.overdue or at.now - cut.lane.served > AGE * budget:
            return cut
    cuts.sort(key=attrgetter("deadline"))
    kept: list[Cut] = []
    begins = at.now
    for cut in cuts:
        kept.append(cut)
        begins += cut.seconds / at.workers
        # One of several workers is through with the cuts before it, and then has this one to do.
        while kept and begins + cut.seconds * (1 - 1 / at.workers) > cut.deadline:
            left_out = min(kept, key=attrgetter("density"))
            kept.remove(left_out)
            begins -= left_out.seconds / at.workers
            if left_out is cut:
                break
    if not kept:
        return max(cuts, key=attrgetter("density"))
    first, slack, begins = kept[0], kept[0].deadline - at.now, at.now
    for before, cut in pairwise(kept):
        begins += before.seconds / at.workers
        slack = min(slack, before.deadline - begins - before.seconds * (1 - 1 / at.workers))
        if cut.seconds / at.workers <= slack and cut.density > first.density:
            first = cut
    return first


def _first_key(lane: Lane) -> float:
    return lane.keys[0]


POLICIES: Final[Mapping[str, Callable[[PolicySettings], BatchingPolicy]]] = MappingProxyType(
    {
        "aimd": lambda settings: Aimd(BatchLimit(settings.max_batch_size, settings.slo_latency)),
        "fixed": lambda settings: Fixed(settings.max_batch_size, settings.max_batch_delay),
        "slo": lambda settings: Slo(settings.max_batch_size),
        "unbatched": lambda settings: Unbatched(),
    }
)
"""The closed registry of ``batch_policy``: adding a policy is one line here and one class above."""
