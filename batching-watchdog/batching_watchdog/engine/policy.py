"""The batching policies: choose the requests and the time of a batch. [P]

A policy gets the lanes with waiting requests, the time and the learned l(b), and returns ``Take`` (a number
of requests from a lane) or ``Wait``. It changes no lane: ``Engine`` executes the answer. To add a policy,
write a class and a line in ``POLICIES``.
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
"""Factor of the batch size of policy ``aimd`` after a batch that took too long (Clipper: 10% less)."""

RESERVE: Final = 0.025
"""Share of a request's budget that ``slo`` leaves unused under overload, for the way to the client."""

KEEP_UP: Final = 0.9
"""Share of the demand below which ``slo`` gives requests up for larger batches: near the capacity a queue
that is too long for its head shrinks a moment later. Of 0.9, 0.95, 1.0 and 1.1 the best at each load from 300
to 600 requests/s (two workers, l(b) = 32 + 2 b ms, 100 ms)."""

STEP: Final = 1.1
"""Growth factor from one tried size to the next."""

AGE: Final = 10.0
"""Budgets after which ``slo`` serves a lane or an SLO class that it has passed over, regardless of goodput.
An SLO class then takes at most one budget of one worker in eleven. This costs up to 2% of goodput; with 3 it
was up to 9% (two or three classes with budgets from 50 ms to 2 s, l(b) = 10 or 32 + 2 b ms, twice the
capacity)."""


class Take(NamedTuple):
    """Send ``size`` requests of ``lane`` now; the ``skip`` before them can no longer be on time.

    With size 0 only the skipped ones leave the queue.
    """

    lane: Lane
    size: int
    reason: DispatchReason
    skip: int = 0


class Wait(NamedTuple):
    """Send no batch before ``until``, unless more requests arrive."""

    until: float


class Situation(NamedTuple):
    """The inputs of a policy besides the lanes."""

    now: float
    workers: int
    demand: float
    """Demand: the time needed for all arrivals in sustainable batches, as a share of the workers' time."""
    ahead: float
    """Batches before a request's own: one, or one of each other lane per worker."""
    late: bool
    """Whether any lane has late requests."""


class BatchingPolicy(Protocol):
    """Cuts a batch when a worker is free."""

    @property
    def by_deadline(self) -> bool:
        """Whether lanes are ordered by deadline; otherwise by arrival."""

    def choose(self, lanes: Sequence[Lane], at: Situation) -> Take | Wait:
        """Return the choice among ``lanes``, at least one, each with requests on time."""

    def observe(self, size: int, seconds: float) -> None:
        """Learn that a batch of ``size`` took a worker ``seconds``, for a policy with a state of its own."""


@dataclass(frozen=True, slots=True)
class PolicySettings:
    """Settings of the policies; each uses a part of them."""

    max_batch_size: int
    max_batch_delay: float
    slo_latency: float


@dataclass(frozen=True, slots=True)
class Unbatched:
    """Sends one request at a time, in order of arrival, as a plain Flask worker does. A baseline."""

    by_deadline: bool = False

    def choose(self, lanes: Sequence[Lane], at: Situation) -> Take | Wait:
        """Take the one that came first."""
        return Take(min(lanes, key=_first_key), 1, DispatchReason.IDLE)

    def observe(self, size: int, seconds: float) -> None:
        """Nothing to learn."""


@dataclass(frozen=True, slots=True)
class Fixed:
    """Sends by size or delay, in order of arrival, as Triton, TorchServe and mosec do. A baseline.

    Leaves when ``max_batch_size`` requests wait, or when the first has waited ``max_batch_delay``.
    """

    max_batch_size: int
    max_batch_delay: float
    by_deadline: bool = False

    def choose(self, lanes: Sequence[Lane], at: Situation) -> Take | Wait:
        """Take a full batch, or a partial one after the delay; a waiting lane does not block others."""
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
    """Learns the batch size that fits into ``budget`` seconds: additive increase, multiplicative decrease.

    A batch at the limit that stayed within the budget raises the limit by one; a batch that exceeded it
    lowers the limit by a tenth. Smaller batches do not raise it: they do not test the limit (as in TCP, RFC
    7661, where an unused window does not grow).
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
    by 10%. Waiting requests are taken at once, up to that size. It ignores deadlines.
    """

    limit: BatchLimit
    by_deadline: bool = False

    def choose(self, lanes: Sequence[Lane], at: Situation) -> Take | Wait:
        """Take the requests of the first lane, up to the limit."""
        lane = min(lanes, key=_first_key)
        size = min(len(lane.keys), self.limit.size)
        return Take(lane, size, DispatchReason.IDLE if size == len(lane.keys) else DispatchReason.FULL)

    def observe(self, size: int, seconds: float) -> None:
        """Move the limit."""
        self.limit.observe(size, seconds)


class Cut(NamedTuple):
    """The batch that a lane would send now."""

    deadline: float
    """Deadline of its first request, the tightest."""
    lane: Lane
    skip: int
    size: int
    seconds: float
    """Predicted seconds, by the upper quantile."""
    overdue: bool = False
    """Whether an SLO class of its requests has been passed over for too long."""

    @property
    def density(self) -> float:
        """Requests on time per second of a worker."""
        return self.size / self.seconds


@dataclass(frozen=True, slots=True)
class Slo:
    """Maximizes the requests on time per second of the workers. Work-conserving.

    **In a lane** the batch is the largest prefix that meets the deadline of its first request, up to the size
    with the best throughput (as in Clipper and AlpaServe). If more requests wait than the sustainable batch
    size, a first request that would make the batch smaller goes late instead. A smaller batch would lose
    throughput under overload, and the next requests would go late as well (Nexus, SOSP'19, "early drop"). If
    no start allows such a batch, take the one with the most requests per second.

    **Among lanes** the cuts are jobs with a deadline, a time and a value. J. M. Moore's rule applies ("An n
    job, one machine sequencing algorithm for minimizing the number of late jobs", Management Science 15,
    1968): in order of deadline, whenever a job would be late, drop the one with the fewest requests per
    second. All remaining jobs can be on time. The densest one goes first unless that makes another late,
    since lanes fill while they wait. A lane that was passed over for ``AGE`` of its budgets goes first.

    **Among SLO classes** in a lane the deadline decides, so a class whose budget hardly exceeds the others'
    batches may never be served. After ``AGE`` of its budgets since a request of it went late, with none on
    time since, the next batch holds one, as soon as one can be on time in its own batch. Of several such
    classes or lanes, each waits for one batch of each of the others.

    In deadline order an overloaded queue finishes each request just before its deadline, so a millisecond of
    network makes most of them late. So once requests go late, ``RESERVE`` of the budget is kept.
    """

    max_batch_size: int
    by_deadline: bool = True

    def choose(self, lanes: Sequence[Lane], at: Situation) -> Take | Wait:
        """Take the best cut; one of size 0 if all requests of a lane are late."""
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
        """Do nothing: the lanes' models hold all state."""

    def _cut(self, lane: Lane, at: Situation) -> Cut:
        """Return the largest batch from the first request on that allows a sustainable size."""
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
        """Return the largest batch from the request at ``start`` on, at least that one even if late."""
        keys, model = lane.keys, lane.model
        size = max(1, min(len(keys) - start, model.best_size, model.largest_within(keys[start] - now)))
        return Cut(keys[start], lane, start, size, model.predict(size) or LEAST)

    def _with_overdue(self, cut: Cut, lane: Lane, at: Situation) -> Cut:
        """Return ``cut``, or a cut with a request of a class that was passed over for too long."""
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
        """Return the cut whose start gives the most requests on time per second."""
        keys, model = lane.keys, lane.model
        best = model.best_size
        found = Cut(keys[-1], lane, len(keys), 0, LEAST)
        size, start, highest = 0, 0, 0.0
        while start < len(keys):
            size = min(len(keys) - start, best, model.largest_within(keys[start] - at.now - reserve))
            if size:
                cut = Cut(keys[start], lane, start, size, model.predict(size) or LEAST)
                # Prefer a larger batch even if it seems slightly worse: the time of a rare size may come from
                # one lucky run, and the best size may be the one being tried.
                tie = -TIE if size == best else TIE if size < found.size else 0.0
                if cut.density > highest * (1 + tie):
                    found, highest = cut, cut.density
            larger = min(best, max(size + 1, int(size * STEP)))
            if size == larger:
                break
            start = max(start + 1, bisect_left(keys, at.now + model.predict(larger) + reserve, start))
        return found

    def _least(self, lane: Lane, budget: float, kept_up: int, at: Situation) -> int:
        """Return the size below which no batch is cut while more requests wait: it would lose throughput.

        The sustainable size; under higher demand the smallest size that serves ``KEEP_UP`` of the demand
        within the budget.
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
    """Return the cut that goes first: Moore's rule, then the densest that makes no other late."""
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
        # One of several workers finishes the cuts before it, and then does this one.
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
"""Values of ``batch_policy`` -> policy."""
