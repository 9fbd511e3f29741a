"""Estimates the capacity of one replica from its workers, its front thread and its cores. [P]

Owns the exported capacity; ``latency`` knows the service times.

**The workers within the objective** (``sustained``). Where few requests fit into the SLO, a burst of arrivals
uses all of it, and workers that are out of step share neither the wait nor the requests evenly. No formula
that was tried is right within a third. So the rate is searched with a replica in virtual time, which cuts
batches by the policy's own ``cut`` and draws their times from the learned deviations. Its arrivals are the
same in each run, so equal curves give equal rates.

**The front end and the cores** (``CpuCost``) limit the workers of a small model. The utilization law (Denning
and Buzen, 1978, "The Operational Analysis of Queueing Network Models") applies: a resource that spends D
seconds on each request serves at most 1/D of them per second. CPU per request falls as load rises, since
more requests share a batch: ``batch_cost`` converts the front end's cost to full batches. Readings count only
while it is busy: in an idle one, health checks and scrapes would dominate.
"""

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from heapq import heapreplace
from math import log, nan, sqrt
from typing import Final, NamedTuple, Protocol

from batching_watchdog.engine.latency import LatencyModel
from batching_watchdog.engine.policy import cut, first_on_time
from batching_watchdog.engine.tuning import TUNING

DRAWS_EVERY: Final = 15
"""Arrivals per drawn deviation: drawing one for each would take as long as the run."""
BATCHES: Final = 128
"""Batches of a step of the search: about a millisecond."""
STEP: Final = 1.2
"""Ratio between two rates of the search. It descends: some rates below the highest miss the objective."""
LOWEST: Final = 1e-4
"""Share of the throughput at which the search ends."""
READ_SECONDS: Final = 1.0
"""Minimum seconds between two readings: the kernel counts CPU time in ticks."""
BUSY: Final = 0.1
"""Minimum share of a core that the front end must have used for a reading to count."""
WEIGHT: Final = 0.5
"""Weight of the newest reading."""
FIRST: Final = 256
"""First batches whose CPU time is all learned, including those of ``example()``."""
EVERY: Final = 8
"""Afterwards one in this many batches is learned: CPU time varies little, and learning costs time."""


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


class Sustained(NamedTuple):
    """A rate within the objective."""

    rate: float
    """Requests per second; 0 if not even one request fits into the SLO."""
    size: float
    """Mean batch size at it."""


def sustained(curve: Curve, workers: int, slo_latency: float, objective: float) -> Sustained:
    """Return the highest rate of ``workers`` within the objective. Takes some 100 ms of CPU time."""
    steps = search(curve, workers, slo_latency, objective)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: Sustained = end.value
            return result


def search(
    curve: Curve, workers: int, slo_latency: float, objective: float
) -> Generator[None, None, Sustained]:
    """Return the same as ``sustained``, in steps of about a millisecond. Reads ``curve`` in the first one."""
    replica = _Replica(_Table.of(curve), workers, slo_latency)
    means = replica.times.means
    fits = replica.times.largest_within(slo_latency)
    if not fits:
        return Sustained(0.0, 1.0)
    allowed = 1.0 - objective
    # One slow run of few would leave nothing for the load: the capacity would be 0, though replicas help.
    alone = sum(means[1] * times > slo_latency for times in replica.times.deviations)
    count = min(TUNING.arrivals, max(round(TUNING.late / allowed), TUNING.periods * workers * fits))
    late = max(allowed, alone / len(replica.times.deviations) + allowed / 2) * count
    late -= sqrt(late)  # a run shows the late share only roughly
    largest = min(fits, replica.times.best_size)
    high = low = TUNING.saturation * workers * max(size / means[size] for size in range(1, largest + 1))
    lowest = LOWEST * high
    while (size := (yield from replica.serve(low, count, late))) is None:
        low, high = low / STEP, low
        if low < lowest:
            return Sustained(0.0, 1.0)
    while high > TUNING.precision * low:
        rate = sqrt(low * high)
        if larger := (yield from replica.serve(rate, count, late)):
            low, size = rate, larger
        else:
            high = rate
    return Sustained(low, size)


@dataclass(frozen=True, slots=True)
class _Table:
    """Learned service times as lists, for speed; sizes up to the best."""

    means: Sequence[float]
    """Seconds by size, from 0."""
    upper: Sequence[float]
    deviations: Sequence[float]

    @classmethod
    def of(cls, curve: Curve) -> "_Table":
        sizes = range(curve.best_size + 1)
        means = [TUNING.margin * curve.predict_mean(size) for size in sizes]
        upper = [TUNING.margin * curve.predict(size) for size in sizes]
        # The next run exceeds the highest of n with odds of 1 / (n + 1).
        return cls(means, upper, [*curve.deviations, 2.0 * curve.deviations[-1] - 1.0])

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


@dataclass(frozen=True, slots=True)
class _Replica:
    """One replica in virtual time."""

    times: _Table
    workers: int
    slo_latency: float

    def serve(self, rate: float, count: int, allowed: float) -> Generator[None, None, float | None]:
        """Return the mean size of the batches, or None if more than ``allowed`` of ``count`` are late."""
        times, slo = self.times, self.slo_latency
        arrivals, draws = _arrivals()
        deadlines = [slo + at / rate for at in arrivals[: count + 1]]
        deviations = [times.deviations[int(draw * len(times.deviations))] for draw in draws]
        free = [0.0] * self.workers
        waits: deque[float] = deque()
        """Deadlines of requests that are late by prediction: on time if their batch is faster."""
        first = batches = late = 0
        while first < count:
            if not batches % BATCHES:
                yield
            now = max(free[0], 0.0 if waits else deadlines[first] - slo)
            end = bisect_right(deadlines, now + slo, first, count)
            deviation = deviations[batches % len(deviations)]
            if first == end:
                size = min(len(waits), times.largest_within(slo / 2) or times.best_size)
                done = now + times.means[size] * deviation
                late -= sum([done <= waits.popleft() for _ in range(size)])
            else:
                queue = deadlines[first : min(end, first + MOST)]
                gone = first_on_time(queue, times, 1, now)
                if not gone:
                    batch = cut(queue, times, now, budget=slo)
                    gone, size = batch.start, batch.size
                if gone:
                    late += gone
                    waits.extend(queue[:gone])
                    first += gone
                    if late > allowed:
                        return None
                    continue
                done = now + times.means[size] * deviation
                late += bisect_left(queue, done, 0, size)
                first += size
            batches += 1
            heapreplace(free, done)
        return None if late > allowed else max(1.0, (first - len(waits)) / max(1, batches))


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
    return arrivals, draws[::-DRAWS_EVERY]


class Reading(NamedTuple):
    """CPU seconds and counts since the start."""

    now: float
    front: float
    """CPU time of the front end's thread."""
    served: int
    """Requests answered by workers."""
    batches: int
    """Batches finished by workers."""


@dataclass(slots=True)
class CpuCost:
    """Learns the CPU cost of a request: the front end's from readings, the workers' from batches."""

    worker: LatencyModel
    """CPU seconds of a batch. On busy cores a batch takes longer but needs no more CPU time."""
    _last: Reading | None = None
    _front: float = 0.0
    """The front end's CPU seconds per request, without its share of a batch; 0 while unknown."""
    _batches: int = 0

    def observe(self, size: int, seconds: float) -> None:
        """Learn from a batch of ``size`` requests on which a worker spent ``seconds`` of CPU time."""
        self._batches += 1
        if self._batches <= FIRST or self._batches % EVERY == 0:
            self.worker.observe(size, seconds)

    def read(self, reading: Reading) -> None:
        """Learn from the time since the last reading, if it is long enough and had enough load."""
        last = self._last
        if last is not None and reading.now - last.now < READ_SECONDS:
            return
        self._last = reading
        if last is None:
            return
        front, served = reading.front - last.front, reading.served - last.served
        if served > 0 and front >= BUSY * (reading.now - last.now):
            cost = front / (served + TUNING.batch_cost * (reading.batches - last.batches))
            self._front += (WEIGHT if self._front else 1.0) * (cost - self._front)

    def bound(self, sustained_rate: Sustained, cpus: float) -> float:
        """Return the requests per second of the workers, limited by front end and ``cpus`` cores."""
        front = self._front * (1.0 + TUNING.batch_cost / sustained_rate.size)
        worker = self.worker.predict_mean(sustained_rate.size) / sustained_rate.size
        bounds = [sustained_rate.rate]
        if front:
            bounds.append(1.0 / front)
        if front or worker:
            bounds.append(TUNING.busiest * cpus / (front + worker))
        return min(bounds)


@dataclass(slots=True)
class Capacity:
    """The capacity of this replica, estimated again as batches finish."""

    times: LatencyModel
    workers: int
    slo_latency: float
    objective: float
    cpus: float
    cost: CpuCost = field(init=False)
    cores: float = nan
    """The cores of ``requests_per_second``: those that the replica had when that was searched."""
    _sustained: Sustained | None = None
    _searched: int = 0
    """Batches that ``times`` had learned from when the last search began."""

    def __post_init__(self) -> None:
        self.cost = CpuCost(LatencyModel(self.times.max_batch_size))

    def resize(self, workers: int, cpus: float) -> None:
        """Take the number of workers and the cores as these in the next search."""
        self.workers, self.cpus, self._searched = workers, cpus, 0

    def estimate(self) -> Iterator[None]:
        """Search in steps of about a millisecond, if batches have finished."""
        if self.times.runs > self._searched and self.workers > 0:
            self._searched, cpus = self.times.runs, self.cpus
            self._sustained = yield from search(self.times, self.workers, self.slo_latency, self.objective)
            self.cores = cpus

    def requests_per_second(self) -> float:
        """Requests per second with which the objective is still met; NaN until learned."""
        if self._sustained is None:
            for _ in self.estimate():
                pass
        return nan if self._sustained is None else self.cost.bound(self._sustained, self.cores)
