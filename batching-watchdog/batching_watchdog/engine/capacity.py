"""Estimates the capacity of one replica from its workers, its front thread and its cores. [P]

Owns the exported capacity; ``latency`` knows the service times. Next step: ``metrics``.

**The workers within the objective** (``sustained``). Throughput alone does not give this rate. Where few
requests fit into the SLO, a burst of arrivals uses all of it. Workers that are out of step share neither the
wait nor the requests evenly: the one that becomes free takes the whole queue, the next finds one request. No
formula that was tried is right within a third, so ``SHARES`` comes from runs of the engine itself. Three
numbers determine the rate with 99% on time: the workers, the requests that fit into the SLO, and the share of
the SLO that l(b) takes before the first request. In addition:

- Batches whose times have a standard deviation of v count as if they took v longer.
- All demand beyond the servable amount is late, and demand is approximately normal (``_late``). This converts
  99% to other objectives. ``slo_autoscaler.law.curve`` has the same shape.
- Where two successive requests do not fit, a request is late if all workers have just begun (``_arrivals``).

**The front end and the cores** (``CpuCost``) limit the workers of a small model. The utilization law (Denning
and Buzen, 1978, "The Operational Analysis of Queueing Network Models") applies: a resource that spends D
seconds on each request serves at most 1/D of them per second.

CPU per request falls as load rises, since more requests share a batch and a wake-up: ``BATCH_COST`` converts
the front end's cost to full batches. Readings count only while it is busy: in an idle one, health checks and
scrapes would dominate the cost of the few requests.

The CPU cost of a batch is learned by size, as its service time is. On busy cores a batch takes longer but
needs no more CPU time, so measurements on idle cores still hold.
"""

from bisect import bisect_right
from collections.abc import Sequence
from itertools import product
from math import erfc, exp, log, pi, sqrt
from typing import Final, NamedTuple, Protocol

from batching_watchdog.engine.latency import LEAST, LatencyModel

CAUTION: Final = 0.25
"""Share subtracted while no batch as large as fits into the SLO has run; less as larger ones run. A line
through small batches errs by some 10%, and does not show models that are slower in large ones. With this,
after a minute at a third of its highest rate, 95 of 100 functions reached the stated capacity.
"""
WORKERS: Final = (1, 2, 4, 8)
FITTING: Final = (2, 3, 5, 15, 50, 200)
"""Requests whose batch takes the SLO."""
CONSTANTS: Final = (0.0, 0.15, 0.3, 0.4, 0.45, 0.5)
"""The constant a of l(b) = a + c b, as a share of the SLO."""
VARIATION: Final = 0.05
"""Standard deviation of a batch's time, as a share of it, in the runs for ``SHARES``."""
OBJECTIVE: Final = 0.99
"""Objective of the runs for ``SHARES``."""
SHARES: Final = (
    109, 31, 16, 12, 11, 10,
    356, 159, 40, 15, 12, 10,
    622, 346, 133, 35, 16, 9,
    903, 582, 311, 131, 43, 9,
    989, 706, 418, 192, 42, 6,
    1000, 767, 480, 219, 75, 2,
    392, 207, 121, 96, 85, 74,
    632, 394, 216, 119, 90, 73,
    818, 537, 328, 188, 120, 75,
    962, 712, 473, 273, 170, 78,
    992, 788, 560, 311, 162, 73,
    1000, 810, 589, 319, 151, 42,
    638, 468, 322, 261, 232, 212,
    818, 593, 406, 300, 254, 208,
    918, 680, 501, 351, 278, 220,
    987, 786, 614, 372, 265, 203,
    1000, 842, 689, 401, 204, 89,
    1000, 832, 641, 477, 239, 47,
    816, 655, 504, 423, 376, 351,
    920, 707, 548, 445, 387, 342,
    964, 743, 589, 464, 401, 350,
    1000, 828, 668, 434, 207, 196,
    1000, 762, 595, 585, 380, 65,
    1000, 693, 588, 606, 383, 34,
)  # fmt: skip
"""The highest rate that meets ``OBJECTIVE``, in thousandths of the throughput of batches that take the SLO.

Workers by fitting requests (a line each) by constants. ``tailbound_lab.simulate.curves`` computes it with
this engine and Poisson arrivals; ``bench promise`` compares the resulting capacity with the engine.
"""
LEAST_REQUESTS: Final = 10.0
"""1 / variance of the demand where seldom more than one request waits."""
PER_REQUEST: Final = 6.0
"""Increase of it per request that fits into the SLO."""
WAIT_SPREAD: Final = 0.4
"""Standard deviation of demand that a request as long as the SLO adds, since others wait for it."""
PAIRS: Final = 0.25
"""Share of the goodput below which requests are late only if two meet, in proportion to the rate."""
PRECISION: Final = 1e-6
"""Relative precision of a rate."""
SIZES: Final = 64
"""Batch sizes to search for the best one."""
READ_SECONDS: Final = 1.0
"""Minimum seconds between two readings: the kernel counts CPU time in ticks."""
BUSY: Final = 0.1
"""Minimum share of a core that the front end must have used for a reading to count."""
BATCH_COST: Final = 4.0
"""The front end's CPU time for a batch (to the worker, back, and the wake-ups), in multiples of a request's.
Measured with batches of 1 to 50: 4.2 (tabular), 4.4 (text), 4.3 (accelerator) on one machine."""
BUSIEST: Final = 0.85
"""Share of the cores that front end and workers can use with 99% on time: the rest is for the kernel, other
processes and bursts. At the maximum rate of models limited by the cores it was 0.76 to 0.85, and 0.86 to 0.94
with the clients on the same cores (tabular, text)."""
WEIGHT: Final = 0.5
"""Weight of the newest reading."""
FIRST: Final = 256
"""First batches whose CPU time is all learned, including those of ``example()``."""
EVERY: Final = 8
"""Afterwards one in this many batches is learned: CPU time varies little, and learning costs time."""


class Curve(Protocol):
    """The known part of l(b)."""

    @property
    def reach(self) -> int:
        """Largest size to use, at least 1."""

    @property
    def tried(self) -> float:
        """Largest size that is known from finished batches."""

    @property
    def variation(self) -> float:
        """Standard deviation of a batch's time, as a share of it."""

    def predict_mean(self, size: float) -> float:
        """Return the mean seconds for ``size`` requests."""


def sustained(curve: Curve, workers: int, slo_latency: float, objective: float) -> tuple[float, float]:
    """Return the highest requests per second of ``workers`` within the objective, and the mean batch size.

    The rate is 0 if not even one request fits into the SLO.
    """
    longer = (1.0 + curve.variation) / (1.0 + VARIATION)
    if max(1.0, longer) * curve.predict_mean(1) >= slo_latency:
        return 0.0, 1.0
    sizes = {max(1, curve.reach * part // SIZES) for part in range(1, SIZES + 1)}
    best = max(sizes, key=lambda size: size / curve.predict_mean(size))
    fits = bisect_right(range(1, best + 1), slo_latency / longer, key=curve.predict_mean)
    # The line through the relevant sizes: those that take about the SLO, and half as long.
    large = max(2, fits)
    longest = curve.predict_mean(large)
    small = max(1, bisect_right(range(1, large), longest / 2, key=curve.predict_mean))
    shortest = curve.predict_mean(small)
    each = max(LEAST, longer * (longest - shortest) / (large - small))
    constant = max(0.0, longer * shortest - each * small)
    fitting = max(1.0, (slo_latency - constant) / each)
    rate = _at_objective(workers, fitting, constant / slo_latency) / slo_latency
    # At most the throughput of batches of the best size without pauses.
    at_best = slo_latency * best / (longer * curve.predict_mean(best))
    rate = min(rate, _at_objective(workers, at_best, 0.0) / slo_latency)
    if rate <= 0.0:
        return 0.0, 1.0
    by_chance = 1.0 / (LEAST_REQUESTS + PER_REQUEST * rate * slo_latency)
    spread = sqrt(by_chance + (WAIT_SPREAD * longer * curve.predict_mean(1) / slo_latency) ** 2)
    rate *= _load(spread, 1.0 - objective) / _load(spread, 1.0 - OBJECTIVE)
    rate = min(rate, workers * best / curve.predict_mean(best))
    if (too_fresh := 2.0 * longer * curve.predict_mean(1) - slo_latency) > 0.0:
        rate = min(rate, _arrivals(workers, 1.0 - objective) / too_fresh)
    rate *= 1.0 - CAUTION * max(0.0, 1.0 - curve.tried / large)
    size = 1.0
    for _ in range(SIZES):
        size = min(float(best), max(1.0, rate / workers * curve.predict_mean(size)))
    return rate, size


def _at_objective(workers: int, fitting: float, constant: float) -> float:
    """Return the requests per SLO period at the highest rate that meets ``OBJECTIVE``.

    ``SHARES``, linear between its entries and constant beyond them. For larger constants, the time that they
    leave, and that two successive batches leave, scales the last entry.
    """
    corners = []
    for axis, value in zip(_AXES, (log(workers), log(fitting), constant), strict=True):
        index = min(max(1, bisect_right(axis, value)), len(axis) - 1)
        share = (value - axis[index - 1]) / (axis[index] - axis[index - 1])
        share = min(1.0, max(0.0, share))
        corners.append(((index - 1, 1.0 - share), (index, share)))
    total = 0.0
    for corner in product(*corners):
        entry, weight = 0, 1.0
        for axis, (index, share) in zip(_AXES, corner, strict=True):
            entry = entry * len(axis) + index
            weight *= share
        total += weight * SHARES[entry]
    beyond = min(1.0, (1.0 - constant) / (1.0 - CONSTANTS[-1])) ** 2
    return total / 1000 * beyond * workers * fitting


def _arrivals(workers: int, late: float) -> float:
    """Return the mean of a Poisson number that reaches ``workers`` with probability ``late``.

    Where two successive requests do not fit into the SLO, one is late if every worker has just begun another.
    """
    low, high = 0.0, 10.0 + 2.0 * workers / (1.0 - late)
    while high - low > PRECISION * high:
        mean = (low + high) / 2.0
        term = fewer = exp(-mean)
        for number in range(1, workers):
            term *= mean / number
            fewer += term
        low, high = (low, mean) if 1.0 - fewer > late else (mean, high)
    return low


def _load(spread: float, late: float) -> float:
    """Return the load with the late share ``late``, by Newton's method on a convex function from above."""
    at_pairs = _late(PAIRS, spread)
    if late <= at_pairs:
        return PAIRS * late / at_pairs
    load, step = 1.0 / (1.0 - late), 1.0
    while step > PRECISION * load:
        more = 0.5 * erfc((1.0 - load) / spread * _ROOT_HALF) - late
        step = load * (_late(load, spread) - late) / more
        load -= step
    return load


def _late(load: float, spread: float) -> float:
    """Return the late share of demand that varies by ``spread``; ``load`` is a multiple of the goodput."""
    above = (load - 1.0) / spread
    excess = exp(-0.5 * above * above) * _NORMAL + 0.5 * above * erfc(-above * _ROOT_HALF)
    return spread * excess / load if excess > 0.0 else 0.0


_ROOT_HALF: Final = sqrt(0.5)
_NORMAL: Final = 1.0 / sqrt(2.0 * pi)
_AXES: Final[tuple[Sequence[float], ...]] = (
    [log(workers) for workers in WORKERS],
    [log(fitting) for fitting in FITTING],
    CONSTANTS,
)


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
        worker = self.of_batch(size) / size
        bounds = [capacity]
        if front:
            bounds.append(1.0 / front)
        if front or worker:
            bounds.append(BUSIEST * cpus / (front + worker))
        return min(bounds)
