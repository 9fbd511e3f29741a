"""The batching policy: chooses the requests of a batch. [P]

``choose`` gets the lanes with waiting requests, the time and the learned l(b), and returns ``Take`` (requests
of a lane) or ``Late``. It changes no lane: ``Engine`` executes the answer. ``cut`` is the rule for one queue;
``capacity`` searches with the same.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from math import exp, inf
from typing import NamedTuple

from batching_watchdog.engine.cost import ServiceTimes
from batching_watchdog.engine.lanes import Lane
from batching_watchdog.engine.latency import LEAST
from batching_watchdog.engine.tuning import TUNING
from batching_watchdog.function.messages import DispatchReason


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


class Situation(NamedTuple):
    """The inputs of the policy besides the lanes."""

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


def choose(lanes: Sequence[Lane], at: Situation, *, reserve: float, max_batch_size: int) -> Take | Late:
    """Return the batch with the most requests on time per second of the workers, or requests that are late.

    ``lanes``: at least one, each with requests on time. The earliest deadline goes first, under overload the
    densest cut. ``reserve``: seconds that are kept for the way to the client under overload. In order of
    deadline an overloaded queue finishes each request just before its deadline, so a millisecond of network
    would make most of them late.
    """
    jobs = []
    begin = at.now + (reserve if at.overloaded else 0.0)
    for lane in lanes:
        late = first_on_time(lane.deadlines, lane.times, 1, begin)
        if late:
            return Late(lane, late)
        jobs.append(_job(lane, begin, at))
    lane, chosen, _ = min(jobs, key=lambda job: job.turn)
    # Of those passed over, the next worker may serve some.
    following = min(at.following, at.now + chosen.seconds)
    late = min(chosen.start, first_on_time(lane.deadlines, lane.times, 1, following))
    if late:
        return Late(lane, late)
    return Take(lane, chosen.size, _reason(lane, chosen, max_batch_size), chosen.start)


def _reason(lane: Lane, chosen: Cut, max_batch_size: int) -> DispatchReason:
    if chosen.size == max_batch_size:
        return DispatchReason.FULL
    if chosen.size == len(lane.deadlines) - chosen.start:
        return DispatchReason.IDLE
    full = chosen.size >= lane.times.best_size
    return DispatchReason.BEST_SIZE if full else DispatchReason.DEADLINE


def _job(lane: Lane, begin: float, at: Situation) -> Job:
    """Return the cut of ``lane``, and its order among those of others."""
    chosen = cut(lane.deadlines, lane.times, begin, budget=lane.budget(0), overloaded=at.overloaded)
    density = chosen.size / max(LEAST, chosen.seconds)
    return Job(lane, chosen, -density if at.overloaded else lane.deadlines[chosen.start])
