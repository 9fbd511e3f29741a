"""The batching policies: choose the requests and the time of a batch. [P]

A policy gets the lanes with waiting requests, the time and the learned l(b), and returns ``Take`` (a number
of requests from a lane) or ``Wait``. It changes no lane: ``Engine`` executes the answer. To add a policy,
write a class and a line in ``POLICIES``.
"""

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import inf
from operator import attrgetter
from types import MappingProxyType
from typing import Final, NamedTuple, Protocol

from batching_watchdog.engine.lanes import Lane
from batching_watchdog.engine.latency import LEAST
from batching_watchdog.messages import DispatchReason

BACK_OFF: Final = 0.9
"""Factor of the batch size of policy ``aimd`` after a batch that took too long (Clipper: 10% less)."""

RESERVE: Final = 0.025
"""Share of the smallest SLO latency that ``slo`` leaves unused under overload, for the way to the client."""

STEP: Final = 1.05
"""Growth factor from one tried size to the next."""

NOT_URGENT: Final = 0.5
"""Value under overload of a request that would also be on time in the next such batch, as a share of one that
would not. With 0.5 and 1, goodput was 0.92 and 0.88 of the bound (three classes, twice the capacity)."""

AGE: Final = 10.0
"""Budgets after which ``slo`` serves a lane or an SLO class that it has passed over, regardless of goodput.
This costs up to 2% of goodput; with 3 it was up to 9% (two or three classes, twice the capacity)."""


class Take(NamedTuple):
    """Send ``size`` requests of ``lane`` now, from place ``start`` on."""

    lane: Lane
    size: int
    reason: DispatchReason
    start: int = 0


class Late(NamedTuple):
    """The first ``number`` requests of ``lane`` can no longer be on time."""

    lane: Lane
    number: int


class Wait(NamedTuple):
    """Send no batch before ``until``, unless more requests arrive."""

    until: float


class Situation(NamedTuple):
    """The inputs of a policy besides the lanes."""

    now: float
    workers: int
    overloaded: bool
    """Whether so many requests go late that only throughput counts."""
    following: float = inf
    """Time at which the next worker will be idle, by prediction; infinite without another busy one."""


class BatchingPolicy(Protocol):
    """Cuts a batch when a worker is free."""

    @property
    def by_deadline(self) -> bool:
        """Whether lanes are ordered by deadline; otherwise by arrival."""

    def choose(self, lanes: Sequence[Lane], at: Situation) -> Take | Late | Wait:
        """Return the choice among ``lanes``, at least one, each with requests on time."""

    def observe(self, size: int, seconds: float) -> None:
        """Learn that a batch of ``size`` took a worker ``seconds``, for a policy with a state of its own."""


@dataclass(frozen=True, slots=True)
class PolicySettings:
    """Settings of the policies; each uses a part of them."""

    max_batch_size: int
    max_batch_delay: float
    slo_latency: float
    """Seconds: that of the SLO class with the smallest."""


@dataclass(frozen=True, slots=True)
class Fixed:
    """Sends by size or delay, in order of arrival, as Triton, TorchServe and mosec do. A baseline.

    Leaves when ``max_batch_size`` requests wait, or when the first has waited ``max_batch_delay``. With a
    size of 1 it is policy ``unbatched``, which serves as a plain Flask worker does.
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


class Aimd:
    """Clipper's adaptive batching, in order of arrival and without a delay. A baseline.

    D. Crankshaw et al., "Clipper: A Low-Latency Online Prediction Serving System", NSDI'17, section 4.3:
    additive increase, multiplicative decrease. A batch of the whole limit that stays within ``budget``
    seconds raises the limit by one; a batch that exceeds it lowers the limit by a tenth. Smaller batches do
    not raise it: they do not test the limit (as in TCP, RFC 7661, where an unused window does not grow). It
    ignores deadlines.
    """

    __slots__ = ("_budget", "_max", "_size")

    by_deadline = False

    def __init__(self, max_batch_size: int, budget: float) -> None:
        self._max = max_batch_size
        self._budget = budget
        self._size = 1.0

    @property
    def size(self) -> int:
        """The limit now: at least 1, at most ``max_batch_size``."""
        return int(self._size)

    def choose(self, lanes: Sequence[Lane], at: Situation) -> Take | Wait:
        """Take the requests of the first lane at once, up to the limit."""
        lane = min(lanes, key=_first_key)
        size = min(len(lane.keys), self.size)
        return Take(lane, size, DispatchReason.IDLE if size == len(lane.keys) else DispatchReason.FULL)

    def observe(self, size: int, seconds: float) -> None:
        """Move the limit."""
        if seconds > self._budget:
            self._size = max(1.0, self._size * BACK_OFF)
        elif size >= self.size:
            self._size = min(float(self._max), self._size + 1.0)


class Cut(NamedTuple):
    """The batch that a lane would send now."""

    deadline: float
    """Deadline of its first request, the tightest."""
    lane: Lane
    start: int
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
    """Maximizes the requests on time per second of the workers. Work-conserving below overload.

    **In a lane** the batch is the largest prefix that meets the deadline of its first request, up to the size
    with the best throughput (as in Clipper and AlpaServe). If more requests wait than the sustainable batch
    size, a first request that would make the batch smaller is passed over. A smaller batch would lose
    throughput, and the next requests would go late as well (Nexus, SOSP'19, "early drop").

    **Under overload** requests go late in any order, so throughput decides: the batch may begin at any place,
    and is the one with the most requests on time per second. Those that can also wait for the next batch
    count ``NOT_URGENT``, since they are not lost. With one size known l(b) seems proportional, so another is
    tried although it seems late: single requests would leave most others late for as long as the load lasts.
    Workers that start at once fall into step: one that becomes idle just after another finds few
    requests, and its short batch ends with the other's. So the batches of a lane leave l(b) / workers apart,
    unless one has its best size or no time for one more request (L. Chen et al., "Symphony", arXiv
    2308.07470, 2023). In deadline order an overloaded queue finishes each request just before its deadline,
    so a millisecond of network makes most of them late: ``RESERVE`` is kept.

    **Among lanes** the cuts are jobs with a deadline, a time and a value. J. M. Moore's rule applies ("An n
    job, one machine sequencing algorithm for minimizing the number of late jobs", Management Science 15,
    1968): in order of deadline, whenever a job would be late, drop the one with the fewest requests per
    second. All remaining jobs can be on time. The densest one goes first unless that makes another late,
    since lanes fill while they wait. A lane that was passed over for ``AGE`` of its budgets goes first.

    **Among SLO classes** in a lane the deadline decides, so a class whose budget hardly exceeds the others'
    batches may never be served. After ``AGE`` of its budgets since a request of it went late, with none on
    time since, the next batch holds one, as soon as one can be on time in its own batch. Of several such
    classes or lanes, each waits for one batch of each of the others.
    """

    max_batch_size: int
    reserve: float
    """Seconds that are kept for the way to the client under overload."""
    by_deadline: bool = True

    def choose(self, lanes: Sequence[Lane], at: Situation) -> Take | Late | Wait:
        """Take the best cut, unless a lane has late requests or every cut waits for more."""
        cuts, opens = [], inf
        begin = at.now + (self.reserve if at.overloaded else 0.0)
        for lane in lanes:
            late = _first_on_time(lane, 1, begin)
            if late:
                return Late(lane, late)
            cut = _with_overdue(self._cut(lane, begin, at), begin, at.now)
            if at.overloaded and (waits := self._waits(cut, begin, at)) > at.now:
                opens = min(opens, waits)
            else:
                cuts.append(cut)
        if not cuts:
            return Wait(opens)
        cut = cuts[0] if len(cuts) == 1 else _first_job(cuts, at)
        # Of those passed over, the next worker may serve some.
        late = min(cut.start, _first_on_time(cut.lane, 1, min(at.following, at.now + cut.seconds)))
        return Late(cut.lane, late) if late else Take(cut.lane, cut.size, self._reason(cut), cut.start)

    def observe(self, size: int, seconds: float) -> None:
        """Do nothing: the lanes' models hold all state."""

    def _cut(self, lane: Lane, begin: float, at: Situation) -> Cut:
        """Return the batch that ``lane`` would send now; it must be on time from ``begin`` on."""
        keys, best = lane.keys, lane.model.best_size
        most = min(len(keys), best)
        if _first_on_time(lane, most, begin) == 0:
            return _cut_of(lane, 0, most)
        if not at.overloaded:
            # The sustainable size: a request first waits for a batch like its own.
            least = max(1, min(best, lane.model.largest_within(lane.budget(0) / 2)))
            start = _first_on_time(lane, least, begin) if len(keys) > least else 0
            if start == 0 or start + least <= len(keys):
                return _cut_from(lane, start, begin)
        elif lane.model.untried(most):
            return _cut_of(lane, 0, most)
        return _densest(lane, most, begin)

    def _waits(self, cut: Cut, begin: float, at: Situation) -> float:
        """Return the time until which ``cut`` waits for more requests under overload."""
        lane = cut.lane
        full = cut.size == lane.model.best_size or cut.start + cut.size < len(lane.keys)
        if full or cut.overdue or at.workers == 1:
            return at.now
        spare = cut.deadline - begin - lane.model.predict(cut.size + 1)
        return min(at.now + spare, lane.served + cut.seconds / at.workers)

    def _reason(self, cut: Cut) -> DispatchReason:
        waiting = len(cut.lane.keys) - cut.start
        if cut.size == self.max_batch_size:
            return DispatchReason.FULL
        if cut.size == waiting:
            return DispatchReason.IDLE
        full = cut.size >= cut.lane.model.best_size
        return DispatchReason.BEST_SIZE if full else DispatchReason.DEADLINE


def _first_on_time(lane: Lane, size: int, begin: float) -> int:
    """Return the place in ``lane`` from which requests are on time in a batch of ``size``."""
    return bisect_left(lane.keys, begin + lane.model.predict(size))


def _cut_of(lane: Lane, start: int, size: int) -> Cut:
    return Cut(lane.keys[start], lane, start, size, lane.model.predict(size) or LEAST)


def _cut_from(lane: Lane, start: int, begin: float) -> Cut:
    """Return the largest batch from the request at ``start`` on, at least that one."""
    fits = lane.model.largest_within(lane.keys[start] - begin)
    return _cut_of(lane, start, max(1, min(len(lane.keys) - start, lane.model.best_size, fits)))


def _densest(lane: Lane, most: int, begin: float) -> Cut:
    """Return the batch on time of up to ``most`` requests that serves the most urgent ones per second."""
    keys, predict = lane.keys, lane.model.predict
    found, highest, size = (0, 1), 0.0, 1
    while size <= most:
        seconds = predict(size) or LEAST
        start = bisect_left(keys, begin + seconds)
        if start + size > len(keys):
            break
        urgent = min(size, bisect_left(keys, begin + 2 * seconds, start) - start)
        density = (urgent + NOT_URGENT * (size - urgent)) / seconds
        if density >= highest:
            found, highest = (start, size), density
        size = max(size + 1, int(size * STEP))
    return _cut_of(lane, *found)


def _with_overdue(cut: Cut, begin: float, now: float) -> Cut:
    """Return ``cut``, or one with a request of an SLO class that was passed over for too long."""
    lane = cut.lane
    overdue = {slo_class for slo_class, since in lane.overdue_at.items() if since <= now}
    waiting = enumerate(lane.on_time) if overdue else ()
    start = next((place for place, request in waiting if request.slo_class in overdue), None)
    if start is None:
        return cut
    if not cut.start <= start < cut.start + cut.size:
        cut = _cut_from(lane, start, begin)
    return cut._replace(overdue=True)


def _first_job(cuts: list[Cut], at: Situation) -> Cut:
    """Return the cut that goes first: Moore's rule, then the densest that makes no other late."""
    for cut in cuts:
        if cut.overdue or at.now - cut.lane.served > AGE * cut.lane.budget(cut.start):
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
        "aimd": lambda settings: Aimd(settings.max_batch_size, settings.slo_latency),
        "fixed": lambda settings: Fixed(settings.max_batch_size, settings.max_batch_delay),
        "slo": lambda settings: Slo(settings.max_batch_size, RESERVE * settings.slo_latency),
        "unbatched": lambda settings: Fixed(1, 0.0),
    }
)
"""Values of ``batch_policy`` -> policy."""
