"""Estimates the capacity of one replica from its workers, its front thread and its cores. [P]

Owns the exported capacity; ``latency`` knows the service times. Times are the model's own: of a batch that
waited for a core because of a CPU quota or a neighbor, that wait is left out. It depends on the load, so an
overload would count as a slow model for as long as its batches are remembered.

**The workers within the objective** (``sustained``). Where few requests fit into the SLO, a burst of arrivals
uses all of it, and workers that are out of step share neither the wait nor the requests evenly. No formula
that was tried is right within a third. So the rate is searched with a replica in virtual time, which cuts
batches by the policy's own ``cut`` and draws their times from the learned deviations. ``Engine`` would need
about ten times its CPU time, which the search takes from the requests. Requests that share no batches wait in
queues of their own, and the earliest deadline goes first. One curve of all batches would be
wrong for them: its large batches are those of the short requests. The arrivals are the same in each run, so
equal mixes give equal rates.

**The front end and the cores** (``CpuCost``) limit the workers of a small model. The utilization law (Denning
and Buzen, 1978, "The Operational Analysis of Queueing Network Models") applies: a resource that spends D
seconds on each request serves at most 1/D of them per second. CPU per request falls as load rises, since
more requests share a batch. So the search adds up the CPU time of the batches that it plays, and lets them
wait where the cores of a period are used up. ``batch_cost`` converts the front end's cost to full batches.
Its CPU time without requests is no request's: health checks and scrapes.
"""

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from heapq import heapreplace
from math import inf, log, nan, sqrt
from typing import Final, NamedTuple, Protocol

from batching_watchdog.engine.cost import CostModel
from batching_watchdog.engine.latency import LEAST
from batching_watchdog.engine.policy import cut, first_on_time
from batching_watchdog.engine.tuning import TUNING

DRAWS_EVERY: Final = 15
"""Arrivals per drawn deviation: drawing one for each would take as long as the run."""
BATCHES: Final = 128
"""Batches of a step of the search: about a millisecond."""
STEP: Final = 1.2
"""Ratio between two rates of the search. It descends: some rates below the highest miss the objective."""
LOWEST: Final = 0.01
"""Share of the throughput at which the search ends: replicas that idle for 99% of the time are no remedy."""
READ_SECONDS: Final = 1.0
"""Minimum seconds between two readings: the kernel counts CPU time in ticks."""
UNITS: Final = 10_000.0
"""Requests, with ``batch_cost`` for each batch, after whose number a reading weighs half: seconds under load,
minutes at some requests per second."""
PERIOD: Final = 0.1
"""Seconds of a CPU quota's period, as container runtimes set it."""
CHANGED: Final = 1.05
"""Factor between two curves from which the capacity is searched again."""


class Curve(Protocol):
    """l(b), as far as it is known."""

    @property
    def best_size(self) -> int:
        """Largest size in use, at least 1."""

    @property
    def deviations(self) -> Sequence[float]:
        """Times of batches as multiples of the mean of their size, ascending; at least one."""

    def predict(self, size: int) -> float:
        """Return the upper quantile of the seconds for ``size`` requests."""

    def predict_mean(self, size: int) -> float:
        """Return the mean seconds for ``size`` requests."""

    def predict_cpu(self, size: int) -> float:
        """Return the mean CPU seconds for ``size`` requests; 0 while unknown."""


Mix = Sequence[tuple[float, Curve]]
"""Share of the requests and l(b) of each queue; the shares add up to 1."""


class Sustained(NamedTuple):
    """A rate within the objective."""

    rate: float
    """Requests per second; 0 if not even one request fits into the SLO, or too many do not."""
    size: float
    """Mean batch size at it."""
    cpu_seconds: float = 0.0
    """Mean CPU seconds of a worker per request at it; 0 while unknown."""


NONE: Final = Sustained(0.0, 1.0)


def sustained(mix: Mix, workers: int, slo_latency: float, objective: float, cpus: float = inf) -> Sustained:
    """Return the highest rate of ``workers`` within the objective. Takes some 20 ms of CPU time."""
    steps = search(mix, workers, slo_latency, objective, cpus)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: Sustained = end.value
            return result


def search(
    mix: Mix, workers: int, slo_latency: float, objective: float, cpus: float
) -> Generator[None, None, Sustained]:
    """Return the same as ``sustained``, in steps of about a millisecond. Reads ``mix`` in the first one."""
    parts = [(share, _Table.of(curve)) for share, curve in mix]
    fits = sum(times.largest_within(slo_latency) for _, times in parts)
    if not fits:
        return NONE
    allowed = 1.0 - objective
    # One slow run of few would leave nothing for the load: the capacity would be 0, though replicas help.
    alone = sum(share * times.late_alone(slo_latency) for share, times in parts)
    count = min(TUNING.arrivals, max(round(TUNING.late / allowed), TUNING.periods * workers * fits))
    late = max(allowed, alone + allowed / 2) * count
    late -= sqrt(late)  # a run shows the late share only roughly
    split, below = [], 0.0
    for share, times in parts:
        split.append((times, _drawn(count, below, below + share)))
        below += share
        yield
    serve = partial(_serve, split, workers, slo_latency, TUNING.busiest * cpus)
    high = low = TUNING.saturation * workers / sum(share * times.least(slo_latency) for share, times in parts)
    lowest = LOWEST * high
    while (served := (yield from serve(low, late))) is None:
        low, high = low / STEP, low
        if low < lowest:
            return NONE
    while high > TUNING.precision * low:
        rate = sqrt(low * high)
        if faster := (yield from serve(rate, late)):
            low, served = rate, faster
        else:
            high = rate
    return served


@dataclass(frozen=True, slots=True)
class _Table:
    """Learned service times as lists, for speed; sizes up to the best."""

    means: Sequence[float]
    """Seconds by size, from 0."""
    upper: Sequence[float]
    cpu: Sequence[float]
    deviations: Sequence[float]

    @classmethod
    def of(cls, curve: Curve) -> "_Table":
        sizes = range(curve.best_size + 1)
        means = [TUNING.margin * curve.predict_mean(size) for size in sizes]
        upper = [TUNING.margin * curve.predict(size) for size in sizes]
        cpu = [curve.predict_cpu(size) for size in sizes]
        # The next run exceeds the highest of n with odds of 1 / (n + 1).
        return cls(means, upper, cpu, [*curve.deviations, 2.0 * curve.deviations[-1] - 1.0])

    @property
    def best_size(self) -> int:
        return len(self.upper) - 1

    ceiling = best_size

    def predict(self, size: int) -> float:
        return self.upper[size]

    predict_mean = predict

    def largest_within(self, seconds: float) -> int:
        return bisect_right(self.upper, seconds, 1) - 1

    def untried(self, size: int) -> bool:
        return False

    def out_of_memory(self, size: int) -> int:
        return size

    def deviation(self, draw: float) -> float:
        """Return the deviation for a number from 0 to 1."""
        return self.deviations[int(draw * len(self.deviations))]

    def late_alone(self, slo_latency: float) -> float:
        """Return the share of requests that are late although there is no other."""
        return sum(self.means[1] * times > slo_latency for times in self.deviations) / len(self.deviations)

    def least(self, slo_latency: float) -> float:
        """Return the seconds of a request in the best of the batches that fit."""
        largest = max(1, self.largest_within(slo_latency))
        return min(self.means[size] / size for size in range(1, largest + 1))


@dataclass(slots=True)
class _Queue:
    """The requests of one part of the mix in a run."""

    times: _Table
    deadlines: Sequence[float]
    """Of all of them, ascending; the last one is infinite."""
    first: int = 0
    """The next one to serve."""
    late: deque[float] = field(default_factory=deque)
    """Deadlines of requests that are late by prediction: on time if their batch is faster."""


def _serve(
    parts: Sequence[tuple[_Table, Sequence[float]]],
    workers: int,
    slo: float,
    cpus: float,
    rate: float,
    allowed: float,
) -> Generator[None, None, Sustained | None]:
    """Return how ``workers`` in virtual time serve ``rate``, or None if more than ``allowed`` are late.

    ``parts``: service times and arrivals of each, at a rate of 1 for all together.
    """
    draws = _arrivals()[1][::-DRAWS_EVERY]
    queues = [_Queue(times, [*(slo + at / rate for at in arrivals), inf]) for times, arrivals in parts]
    free = [0.0] * workers
    batches = served = late = waits = 0
    cpu = spent = 0.0
    while (head := _head(queue := min(queues, key=_head))) < inf:
        if not batches % max(1, BATCHES // len(queues)):
            yield
        now = max(free[0], 0.0 if waits else head - slo)
        deviation = draws[batches % len(draws)]
        if head > now + slo:
            queue = min((queue for queue in queues if queue.late), key=lambda queue: queue.late[0])
            times = queue.times
            size = min(len(queue.late), times.largest_within(slo / 2) or times.best_size)
            waiting: Sequence[float] = [queue.late.popleft() for _ in range(size)]
            late -= size
            waits -= size
        else:
            times, first = queue.times, queue.first
            end = bisect_right(queue.deadlines, now + slo, first)
            waiting = queue.deadlines[first : min(end, first + MOST)]
            gone, size = first_on_time(waiting, times, 1, now), 0
            if not gone:
                gone, size, _ = cut(waiting, times, now, budget=slo)
            queue.first += gone or size
            if gone:
                late += gone
                waits += gone
                queue.late.extend(waiting[:gone])
                if late > allowed:
                    return None
                continue
        done = now + times.means[size] * times.deviation(deviation)
        spent = max(now, spent) + times.cpu[size] / cpus
        if spent > now + PERIOD:  # a quota stops nothing that it allows within its period
            done = max(done, spent)
        late += bisect_left(waiting, done, 0, size)
        batches += 1
        served += size
        cpu += times.cpu[size]
        heapreplace(free, done)
    if late > allowed:
        return None
    return Sustained(rate, max(1.0, served / max(1, batches)), cpu / max(1, served))


def _head(queue: _Queue) -> float:
    """Return the deadline of the next request; infinite without one."""
    return queue.deadlines[queue.first]


MOST: Final = 4096
"""Requests of a queue that a cut looks at."""


@cache
def _arrivals() -> tuple[Sequence[float], Sequence[float]]:
    """Return Poisson arrivals of rate 1, and numbers from 0 to 1, both from a fixed seed.

    The generator is the linear congruential one of Knuth and H. W. Lewis (Numerical Recipes, section 7.1).
    """
    seed, now = 1, 0.0
    arrivals, draws = [], []
    for _ in range(TUNING.arrivals + 1):
        seed = (1664525 * seed + 1013904223) % 2**32
        now -= log((seed + 0.5) / 2**32)
        arrivals.append(now)
        draws.append(seed / 2**32)
    return arrivals, draws


def _drawn(count: int, low: float, high: float) -> Sequence[float]:
    """Return those of the first ``count`` arrivals whose number lies between ``low`` and ``high``."""
    arrivals, draws = _arrivals()
    pairs = zip(arrivals[:count], reversed(draws), strict=False)
    return [at for at, draw in pairs if low <= draw < high]


class Reading(NamedTuple):
    """CPU seconds and counts since the start."""

    now: float
    front: float
    """CPU time of the front end's thread."""
    requests: int
    """Requests answered, whoever answered them, and pieces of streams after the first."""
    batches: int
    """Batches finished by workers."""


@dataclass(slots=True)
class CpuCost:
    """Learns the front end's CPU cost of a request from readings."""

    _last: Reading | None = None
    _idle: float = 0.0
    """Its least CPU seconds per second without a request; 0 while unknown."""
    _seconds: float = 0.0
    _units: float = 0.0
    """CPU seconds for requests, and these, with the batches; older ones weigh less."""

    @property
    def front(self) -> float:
        """The front end's CPU seconds per request, without its share of a batch; 0 while unknown."""
        return self._seconds / self._units if self._units else 0.0

    def read(self, reading: Reading) -> None:
        """Learn from the time since the last reading, if it is long enough."""
        last = self._last
        if last is not None and reading.now - last.now < READ_SECONDS:
            return
        self._last = reading
        if last is None:
            return
        past, front = reading.now - last.now, reading.front - last.front
        units = reading.requests - last.requests + TUNING.batch_cost * (reading.batches - last.batches)
        if units <= 0:
            self._idle = min(self._idle or inf, front / past)
            return
        keep = 0.5 ** (units / UNITS)
        self._seconds = keep * self._seconds + max(0.0, front - self._idle * past)
        self._units = keep * self._units + units

    def bound(self, sustained_rate: Sustained, cpus: float) -> float:
        """Return the requests per second of the workers, limited by front end and ``cpus`` cores."""
        front = self.front * (1.0 + TUNING.batch_cost / sustained_rate.size)
        worker = sustained_rate.cpu_seconds
        bounds = [sustained_rate.rate]
        if front:
            bounds.append(1.0 / front)
        if front or worker:
            bounds.append(TUNING.busiest * cpus / (front + worker))
        return min(bounds)


@dataclass(slots=True)
class Capacity:
    """The capacity of this replica, estimated again as batches finish."""

    times: CostModel
    workers: int
    slo_latency: float
    objective: float
    cpus: float
    cost: CpuCost = field(default_factory=CpuCost)
    cores: float = nan
    """The cores of ``requests_per_second``: those that the replica had when that was searched."""
    search_seconds: float = 0.0
    """CPU time of the steps of ``estimate``, which the caller adds: no request causes it."""
    _sustained: Sustained | None = None
    _searched: Sequence[float] = ()
    """What the last search began with: ``_shape``."""

    def resize(self, workers: int, cpus: float) -> None:
        """Take the number of workers and the cores as these in the next search."""
        self.workers, self.cpus, self._searched = workers, cpus, ()

    def estimate(self) -> Iterator[None]:
        """Search in steps of about a millisecond, if a batch has finished and the curves have changed."""
        if not self.times.overall.learned or self.workers <= 0:
            return
        mix, cpus, before = self.times.mix, self.cpus, self._searched
        shape = [number for share, curve in mix for number in _shape(share, curve)]
        ratios = [new / old for new, old in zip(shape, before, strict=False)]
        if len(shape) == len(before) and max(ratios) <= CHANGED and min(ratios) >= 1 / CHANGED:
            return
        self._searched = shape
        self._sustained = yield from search(mix, self.workers, self.slo_latency, self.objective, cpus)
        self.cores = cpus

    def requests_per_second(self) -> float:
        """Requests per second with which the objective is still met; NaN while unknown.

        0 only if one request alone takes longer than the SLO: so many late requests have other causes.
        """
        if self._sustained is None:
            return nan
        if not self._sustained.rate:
            return 0.0 if self.times.overall.own.alone > self.slo_latency else nan
        return self.cost.bound(self._sustained, self.cores)


def _shape(share: float, curve: Curve) -> Sequence[float]:
    """Return numbers above 0 that change with the curve by about as much as its capacity does."""
    sizes = [1 << power for power in range(curve.best_size.bit_length())]
    slowest = curve.deviations[-max(1, len(curve.deviations) // 10) :]
    means = [max(LEAST, curve.predict_mean(size)) for size in sizes]
    return [1.0 + share, curve.predict(1) / means[0], sum(slowest) / len(slowest), *means]
