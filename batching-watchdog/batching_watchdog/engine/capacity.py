"""Estimates the capacity of one replica from its workers, its front thread and its cores. [P]

Owns the exported capacity; ``latency`` knows the service times. Next step: ``metrics``.

**The workers within the objective** (``sustained``). Where few requests fit into the SLO, a burst of arrivals
uses all of it, and workers that are out of step share neither the wait nor the requests evenly. No formula
that was tried is right within a third. So the rate is searched with a replica in virtual time (``_Replica``).
It has the learned l(b) and its deviations, and the rules of policy ``slo`` for requests of one kind. Its
arrivals are the same in each run, so equal curves give equal rates.

**The front end and the cores** (``CpuCost``) limit the workers of a small model. The utilization law (Denning
and Buzen, 1978, "The Operational Analysis of Queueing Network Models") applies: a resource that spends D
seconds on each request serves at most 1/D of them per second.

CPU per request falls as load rises, since more requests share a batch and a wake-up: ``BATCH_COST`` converts
the front end's cost to full batches. Readings count only while it is busy: in an idle one, health checks and
scrapes would dominate the cost of the few requests.

The CPU cost of a batch is learned by size, as its service time is. On busy cores a batch takes longer but
needs no more CPU time, so measurements on idle cores still hold.
"""

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Generator, Sequence
from functools import cache
from heapq import heapreplace
from math import log, sqrt
from typing import Final, NamedTuple, Protocol

from batching_watchdog.engine.latency import QUANTILE, LatencyModel

MARGIN: Final = 1.01
"""Factor by which batches are taken to be longer than the cautious mean."""
SATURATION: Final = 0.95
"""Maximum share of the throughput: above it, backlogs grow for longer than a run."""
ARRIVALS: Final = 32768
"""Maximum arrivals of a run."""
LATE: Final = 160
"""Late requests of a run at the objective; more are rarely needed, since the late share rises steeply."""
DRAWS_EVERY: Final = 15
"""Arrivals per drawn deviation: drawing one for each would take as long as the run."""
BY_LOAD: Final = 0.5
"""Minimum share of the objective's late requests that are for the load. One run of 64 that is too slow for a
request alone would leave none: the capacity would be 0, although more replicas help."""
PERIODS: Final = 20
"""Minimum times that the workers fill their SLO in a run: a backlog within the SLO needs time to grow."""
BATCHES: Final = 512
"""Batches of a step."""
STEP: Final = 1.2
"""Ratio between two rates of the search. It descends: some rates below the highest miss the objective."""
LOWEST: Final = 1e-4
"""Share of the throughput at which the search ends."""
PRECISION: Final = 1.02
"""Ratio between a rate that met the objective and one that did not."""
SIZES: Final = 64
"""Batch sizes to search for the best one."""
READ_SECONDS: Final = 1.0
"""Minimum seconds between two readings: the kernel counts CPU time in ticks."""
BUSY: Final = 0.1
"""Minimum share of a core that the front end must have used for a reading to count."""
BATCH_COST: Final = 4.0
"""The front end's CPU time for a batch (to the worker, back, and the wake-ups), in multiples of a request's:
4.2 to 4.4, with batches of 1 to 50."""
BUSIEST: Final = 0.85
"""Share of the cores that front end and workers can use with 99% on time: the rest is for the kernel, other
processes and bursts. At the maximum rate of models limited by the cores it was 0.76 to 0.85."""
WEIGHT: Final = 0.5
"""Weight of the newest reading."""
FIRST: Final = 256
"""First batches whose CPU time is all learned, including those of ``example()``."""
EVERY: Final = 8
"""Afterwards one in this many batches is learned: CPU time varies little, and learning costs time."""


class Curve(Protocol):
    """The known part of l(b)."""

    @property
    def best_size(self) -> int:
        """Largest size in use, at least 1."""

    @property
    def deviations(self) -> Sequence[float]:
        """Times of batches as multiples of the mean of their size, ascending; at least one."""

    def predict_cautious(self, size: float) -> float:
        """Return mean seconds for ``size`` requests that are probably not too low."""


def sustained(curve: Curve, workers: int, slo_latency: float, objective: float) -> tuple[float, float]:
    """Return the highest requests per second of ``workers`` within the objective, and the mean batch size.

    The rate is 0 if not even one request fits into the SLO. Takes some 30 ms of CPU time, up to 200.
    """
    steps = search(curve, workers, slo_latency, objective)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            found: tuple[float, float] = end.value
            return found


def search(
    curve: Curve, workers: int, slo_latency: float, objective: float
) -> Generator[None, None, tuple[float, float]]:
    """Return the same as ``sustained``, in steps of about a millisecond. Reads ``curve`` in the first one."""
    # The next run exceeds the highest of n with odds of 1 / (n + 1).
    deviations = [*curve.deviations, 2.0 * curve.deviations[-1] - 1.0]
    upper = deviations[int(QUANTILE * len(deviations))]
    sizes = {max(1, curve.best_size * part // SIZES) for part in range(1, SIZES + 1)}
    best = max(sizes, key=lambda size: size / curve.predict_cautious(size))
    fits = bisect_right(range(1, best + 1), slo_latency / (MARGIN * upper), key=curve.predict_cautious)
    if not fits:
        return 0.0, 1.0
    means = [MARGIN * curve.predict_cautious(size) for size in range(1, fits + 1)]
    count = min(ARRIVALS, max(round(LATE / (1.0 - objective)), PERIODS * workers * fits))
    replica = _Replica(means, deviations, upper, workers, slo_latency)
    alone = sum(means[0] * each > slo_latency for each in deviations) / len(deviations)
    late = max(1.0 - objective, alone + BY_LOAD * (1.0 - objective)) * count
    # Fewer by their standard error, since a run shows the late share only roughly.
    late -= sqrt(late)
    high = low = SATURATION * workers * max(size / mean for size, mean in enumerate(means, 1))
    lowest = LOWEST * high
    while (size := (yield from replica.serve(low, count, late))) is None:
        low, high = low / STEP, low
        if low < lowest:
            return 0.0, 1.0
    while high > PRECISION * low:
        rate = sqrt(low * high)
        if found := (yield from replica.serve(rate, count, late)):
            low, size = rate, found
        else:
            high = rate
    return low, size


class _Replica(NamedTuple):
    """One replica in virtual time."""

    means: Sequence[float]
    """Mean seconds of the sizes that fit into the SLO."""
    deviations: Sequence[float]
    upper: float
    """Deviation with which the policy predicts."""
    workers: int
    slo_latency: float

    def serve(self, rate: float, count: int, allowed: float) -> Generator[None, None, float | None]:
        """Return the mean size of the batches, or None if more than ``allowed`` requests are late.

        One unit of time has one arrival on average.
        """
        arrivals, draws = _arrivals()
        means = [0.0, *(rate * mean for mean in self.means)]
        predicted = [self.upper * mean for mean in means]
        budget, largest = rate * self.slo_latency, len(self.means)
        # The policy's sustainable size, and that of late requests, which leaves half of the SLO to others.
        sustainable = max(1, bisect_right(predicted, budget / 2) - 1)
        size_late = sustainable if predicted[1] <= budget / 2 else largest
        deviations = [self.deviations[int(draw * len(self.deviations))] for draw in draws]
        free = [0.0] * self.workers
        first = batches = late = 0
        waits: deque[float] = deque()
        while first < count:
            if not batches % BATCHES:
                yield
            came, now = arrivals[first], free[0]
            if now < came and waits:
                size = min(len(waits), size_late)
                done = now + means[size] * deviations[batches % len(deviations)]
                heapreplace(free, done)
                batches += 1
                # Late by prediction, and on time if the batch is faster.
                late -= sum([done <= waits.popleft() + budget for _ in range(size)])
                continue
            now = max(now, came)
            end = bisect_right(arrivals, now, first)
            size = min(end - first, largest)
            if predicted[size] > came + budget - now:
                least = sustainable if end - first > sustainable else 1
                start = bisect_left(arrivals, now + predicted[least] - budget, first, end)
                if end - start < least:
                    start = bisect_left(arrivals, now + predicted[1] - budget, first, end)
                late += start - first
                waits.extend(arrivals[first:start])
                if late > allowed:
                    return None
                first = start
                if first == end:
                    continue
                slack = arrivals[first] + budget - now
                size = max(1, bisect_right(predicted, slack, 1, min(end - first, largest) + 1) - 1)
            done = now + means[size] * deviations[batches % len(deviations)]
            batches += 1
            late += bisect_left(arrivals, done - budget, first, first + size) - first
            first += size
            heapreplace(free, done)
        return None if late > allowed else (first - len(waits)) / batches


@cache
def _arrivals() -> tuple[Sequence[float], Sequence[float]]:
    """Return Poisson arrivals of rate 1, and numbers from 0 to 1, both from a fixed seed.

    The generator is the linear congruential one of Knuth and H. W. Lewis (Numerical Recipes, section 7.1).
    """
    seed, now = 1, 0.0
    arrivals, draws = [], []
    for _ in range(ARRIVALS):
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


class CpuCost:
    """Learns the CPU cost of a request: the front end's from readings, the workers' from batches."""

    def __init__(self, max_batch_size: int) -> None:
        self._last: Reading | None = None
        self._front: float | None = None
        """The front end's CPU seconds per request, without its share of a batch."""
        self._worker = LatencyModel(max_batch_size)
        self._batches = 0

    def observe(self, size: int, seconds: float) -> None:
        """Learn from a batch of ``size`` requests on which a worker spent ``seconds`` of CPU time."""
        self._batches += 1
        if self._batches <= FIRST or self._batches % EVERY == 0:
            self._worker.observe(size, seconds)

    def of_batch(self, size: float) -> float:
        """CPU seconds that a worker spends on a batch of ``size`` requests; 0 while nothing is learned."""
        return self._worker.predict_mean(size)

    def read(self, reading: Reading) -> None:
        """Learn from the time since the last reading, if it is long enough and had enough load."""
        last = self._last
        if last is not None and reading.now - last.now < READ_SECONDS:
            return
        self._last = reading
        if last is None:
            return
        front, served = reading.front - last.front, reading.served - last.served
        if served <= 0 or front < BUSY * (reading.now - last.now):
            return
        cost = front / (served + BATCH_COST * (reading.batches - last.batches))
        self._front = cost if self._front is None else self._front + WEIGHT * (cost - self._front)

    def bound(self, capacity: float, size: float, cpus: float) -> float:
        """Return ``capacity`` (the workers' requests per second), limited by front end and ``cpus`` cores.

        ``size`` is the batch size with which the workers reach it.
        """
        front = (self._front or 0.0) * (1.0 + BATCH_COST / size)
        # The cautious curve follows a change of speed in sizes that have not run since.
        worker = self._worker.predict_cautious(size) / size
        bounds = [capacity]
        if front:
            bounds.append(1.0 / front)
        if front or worker:
            bounds.append(BUSIEST * cpus / (front + worker))
        return min(bounds)
