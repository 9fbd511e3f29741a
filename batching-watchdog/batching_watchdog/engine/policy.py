"""The batching policies: choose the requests and the time of a batch. [P]

A policy gets the lanes with waiting requests, the time and the learned l(b), and returns ``Take`` (requests
of a lane), ``Late`` or ``Wait``. It changes no lane: ``Engine`` executes the answer. To add a policy, write a
class and a line in ``POLICIES``. ``cut`` is the rule for one queue; ``capacity`` searches with the same.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import exp, inf
from types import MappingProxyType
from typing import Final, NamedTuple, Protocol

from batching_watchdog.engine.cost import ServiceTimes
from batching_watchdog.engine.lanes import Lane
from batching_watchdog.engine.latency import LEAST
from batching_watchdog.engine.tuning import TUNING
from batching_watchdog.function.messages import DispatchReason

BACK_OFF: Final = 0.9
"""Factor of the batch size of policy ``aimd`` after a batch that took too long (Clipper: 10% less)."""


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
    overloaded: bool
    """Whether so many requests go late that only throughput counts."""
    following: float = inf
    """Time at which the next worker will be idle, by prediction; infinite without another busy one."""


class Overload:
    """Detects that so many requests go late that only throughput counts."""

    __slots__ = ("_at", "_late", "_on_time")

    def __init__(self) -> None:
        self._late = self._on_time = self._at = 0.0

    def count(self, now: float, budget: float, *, late: int = 0, on_time: int = 0) -> None:
        """Count requests that went late, or left on time, and forget older ones over some budgets."""
        span = TUNING.overload_budgets * max(budget, LEAST)
        keep = exp(min(0.0, (self._at - now) / span))
        self._late, self._on_time, self._at = self._late * keep + late, self._on_time * keep + on_time, now

    @property
    def now(self) -> bool:
        """Whether it is so by the recent requests."""
        return self._late > TUNING.overload * (self._late + self._on_time) + TUNING.overload_least


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
    """That of the SLO class with the smallest."""


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
            waiting, most = len(lane.keys), min(self.max_batch_size, lane.times.ceiling)
            if waiting >= most:
                return Take(lane, most, DispatchReason.FULL)
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
        size = min(len(lane.keys), self.size, lane.times.ceiling)
        return Take(lane, size, DispatchReason.IDLE if size == len(lane.keys) else DispatchReason.FULL)

    def observe(self, size: int, seconds: float) -> None:
        """Move the limit."""
        if seconds > self._budget:
            self._size = max(1.0, self._size * BACK_OFF)
        elif size >= self.size:
            self._size = min(float(self._max), self._size + 1.0)


class Cut(NamedTuple):
    """A batch that a queue would send now: ``size`` requests from place ``start`` on."""

    start: int
    size: int
    seconds: float
    """Predicted seconds, by the upper quantile."""


class Job(NamedTuple):
    """The cut of a lane, among those of others."""

    lane: Lane
    cut: Cut
    turn: float
    """Its order: by deadline, or under overload by requests on time per second."""


def first_on_time(deadlines: Sequence[float], times: ServiceTimes, size: int, begin: float) -> int:
    """Return the place from which requests are on time in a batch of ``size`` that begins at ``begin``."""
    return bisect_left(deadlines, begin + times.predict(size))


def cut(
    deadlines: Sequence[float], times: ServiceTimes, begin: float, *, budget: float, overloaded: bool = False
) -> Cut:
    """Return the batch to send from a queue in order of deadline, whose first can be on time alone.

    The largest prefix that meets the deadline of its first request, up to the size with the best throughput
    (as in Clipper and AlpaServe). If more requests wait than the sustainable size, at which a batch takes
    half of ``budget``, a first request that would make the batch smaller is passed over: a smaller batch
    loses throughput, and the next requests go late as well (Nexus, SOSP'19, "early drop").

    ``overloaded``: requests go late in any order, so the batch may begin at any place, and is the largest
    that is on time: it serves the most requests per second. With one size known l(b) seems proportional, so
    another is tried although it seems late: single requests would leave most others late for as long as the
    load lasts.
    """
    waiting = len(deadlines)
    most = min(waiting, times.best_size)
    if first_on_time(deadlines, times, most, begin) == 0 or (overloaded and times.untried(most)):
        return Cut(0, most, times.predict(most))
    if overloaded:
        size = bisect_right(
            range(1, most + 1),
            waiting,
            key=lambda size: size + first_on_time(deadlines, times, size, begin),
        )
        return Cut(first_on_time(deadlines, times, size, begin), size, times.predict(size))
    least = max(1, min(times.best_size, times.largest_within(budget / 2)))
    start = first_on_time(deadlines, times, least, begin) if waiting > least else 0
    if start + least > waiting:
        start = 0
    fits = times.largest_within(deadlines[start] - begin)
    size = max(1, min(waiting - start, times.best_size, fits))
    return Cut(start, size, times.predict(size))


@dataclass(frozen=True, slots=True)
class ByDeadline:
    """Policy ``slo``: maximizes requests on time per second of the workers; ``cut`` is its rule for a lane.

    Among lanes the earliest deadline goes first, under overload the densest cut.

    In deadline order an overloaded queue finishes each request just before its deadline, so a millisecond of
    network makes most of them late: ``reserve`` is kept.
    """

    max_batch_size: int
    reserve: float
    """Seconds that are kept for the way to the client under overload."""
    by_deadline: bool = True

    def choose(self, lanes: Sequence[Lane], at: Situation) -> Take | Late | Wait:
        """Take the best cut, unless a lane has late requests."""
        jobs = []
        begin = at.now + (self.reserve if at.overloaded else 0.0)
        for lane in lanes:
            late = first_on_time(lane.keys, lane.times, 1, begin)
            if late:
                return Late(lane, late)
            jobs.append(_job(lane, begin, at))
        lane, chosen, _ = min(jobs, key=lambda job: job.turn)
        # Of those passed over, the next worker may serve some.
        following = min(at.following, at.now + chosen.seconds)
        late = min(chosen.start, first_on_time(lane.keys, lane.times, 1, following))
        return Late(lane, late) if late else Take(lane, chosen.size, self._reason(lane, chosen), chosen.start)

    def observe(self, size: int, seconds: float) -> None:
        """Do nothing: the lanes' models hold all state."""

    def _reason(self, lane: Lane, chosen: Cut) -> DispatchReason:
        if chosen.size == self.max_batch_size:
            return DispatchReason.FULL
        if chosen.size == len(lane.keys) - chosen.start:
            return DispatchReason.IDLE
        full = chosen.size >= lane.times.best_size
        return DispatchReason.BEST_SIZE if full else DispatchReason.DEADLINE


def _job(lane: Lane, begin: float, at: Situation) -> Job:
    """Return the cut of ``lane``, and its order among those of others."""
    chosen = cut(lane.keys, lane.times, begin, budget=lane.budget(0), overloaded=at.overloaded)
    density = chosen.size / max(LEAST, chosen.seconds)
    return Job(lane, chosen, -density if at.overloaded else lane.keys[chosen.start])


def _first_key(lane: Lane) -> float:
    return lane.keys[0]


POLICIES: Final[Mapping[str, Callable[[PolicySettings], BatchingPolicy]]] = MappingProxyType(
    {
        "aimd": lambda settings: Aimd(settings.max_batch_size, settings.slo_latency),
        "fixed": lambda settings: Fixed(settings.max_batch_size, settings.max_batch_delay),
        "slo": lambda settings: ByDeadline(settings.max_batch_size, TUNING.reserve * settings.slo_latency),
        "unbatched": lambda settings: Fixed(1, 0.0),
    }
)
"""Values of ``batch_policy`` -> policy."""
