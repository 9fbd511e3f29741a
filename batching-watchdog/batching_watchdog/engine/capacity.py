"""What one replica can do: its workers with the objective met, its front thread, its cores. [P]

Owns what is exported of it; ``latency`` knows the throughput of the workers. Next step: ``metrics``.

**The workers with the objective met** (``promised``). Their throughput does not tell it: where few requests
fit into the SLO a bunch of arrivals takes all of it, and workers out of step neither share the wait evenly
nor fill their batches alike (the one that becomes free takes all that waits, the next finds one request). No
formula that was tried is right within a third. So the rate is looked up in what the batching law did in
simulation (``capacity_table``), with l(b) as a line; where the size with the best throughput is below what
fits, Kingman's bound for heavy traffic ("The single server queue in heavy traffic", 1961) limits it besides.

**The front and the cores** (``CpuCost``). For a small model these hold the workers up. The law is the
utilization law (Denning and Buzen, 1978, "The Operational Analysis of Queueing Network Models"): a resource
that spends D seconds on each request serves at most 1/D of them per second.

CPU per request falls as load rises, since more requests share a batch and a wake-up: ``BATCH_COST`` tells
what the front's would be with full batches. Its readings count only while it is busy: of an idle one, health
checks and scrapes would be taken for the cost of the few requests.

What a batch costs a worker is learned by size, as its service time is, but from CPU time: on busy cores a
batch takes longer and computes no more, so that what was measured on idle ones still holds.
"""

from bisect import bisect_right
from collections.abc import Sequence
from itertools import product
from math import exp, log
from typing import Final, NamedTuple, Protocol

from batching_watchdog.engine.capacity_table import (
    CONSTANTS,
    FITTING,
    NONE,
    OBJECTIVES,
    RATES,
    VARIATIONS,
    WORKERS,
)
from batching_watchdog.engine.latency import LEAST, LatencyModel

CAUTION: Final = 0.75
"""Of what the table says, what is promised. After a minute at a third of the highest rate l(b) is known from
small batches alone; with this 94 of 100 promises were kept, for functions of all kinds (``bench promise``).
"""
SIZES: Final = 64
"""Batch sizes among which the best is looked for."""
READ_SECONDS: Final = 1.0
"""Readings that are closer together are one: the kernel counts CPU time in ticks."""
BUSY: Final = 0.1
"""The share of a core that the front must have used for a reading to say what a request costs."""
BATCH_COST: Final = 4.0
"""The front's CPU time for a batch (to the worker, back, and the wake-ups) in requests' worth. Measured with
batches of 1 to 50: 4.2 (tabular), 4.4 (text), 4.3 (accelerator) on one machine."""
BUSIEST: Final = 0.85
"""The share of the cores that front and workers can use while 99 % are in time: the rest is for the kernel,
for who else is there, and for arrivals in bunches. At the maximum rate of models that the cores limit it was
0.76 to 0.85, and 0.86 to 0.94 with the clients on the same cores (tabular, text)."""
WEIGHT: Final = 0.5
"""Of the newest reading."""
FIRST: Final = 256
"""Batches whose CPU time is learned one by one, those of ``example()`` among them."""
EVERY: Final = 8
"""Batches per one that is learned from after that: CPU time varies little, and learning has its price too."""


class Curve(Protocol):
    """What is known of l(b)."""

    @property
    def reach(self) -> int:
        """The largest size to count with, at least 1."""

    @property
    def variation(self) -> float:
        """Standard deviation of the time of a batch, as a share of it."""

    def predict_mean(self, size: float) -> float:
        """Mean of the seconds for ``size`` requests."""


def promised(curve: Curve, workers: int, slo_latency: float, objective: float) -> tuple[float, float]:
    """Requests per second with which ``workers`` still meet the objective, and in which batches on average.

    A rate of 0: they cannot serve even one request in time.
    """
    if curve.predict_mean(1) >= slo_latency:
        return 0.0, 1.0
    sizes = {max(1, curve.reach * part // SIZES) for part in range(1, SIZES + 1)}
    best = max(sizes, key=lambda size: size / curve.predict_mean(size))
    fits = bisect_right(range(1, best + 1), slo_latency, key=curve.predict_mean)
    # The line through the sizes that matter: those that take about the SLO, and half as long.
    large = max(2, fits)
    longest = curve.predict_mean(large)
    small = max(1, bisect_right(range(1, large), longest / 2, key=curve.predict_mean))
    shortest = curve.predict_mean(small)
    each = max(LEAST, (longest - shortest) / (large - small))
    constant = max(0.0, shortest - each * small)
    fitting = max(1.0, (slo_latency - constant) / each)
    share = constant / slo_latency
    point = (-log(1.0 - objective), log(workers), curve.variation, share, log(fitting))
    # Beyond the table: more workers are no worse each, more requests are served as fast; of a larger constant
    # less is left, and what varies more misses more.
    beyond = max(1.0, fitting / FITTING[-1]) * min(1.0, VARIATIONS[-1] / max(LEAST, curve.variation))
    rate = (
        _looked_up(point) * workers / slo_latency * beyond * min(1.0, (1.0 - share) / (1.0 - CONSTANTS[-1]))
    )
    if fits == best:
        rate = min(rate, max(_heavy_traffic(curve, size, workers, slo_latency, objective) for size in sizes))
    # Between its entries the table can be a little above what is possible at all.
    rate = CAUTION * min(rate, workers * best / curve.predict_mean(best))
    size = 1.0
    for _ in range(SIZES):
        size = min(float(best), max(1.0, rate / workers * curve.predict_mean(size)))
    return rate, size


def _heavy_traffic(curve: Curve, size: int, workers: int, slo_latency: float, objective: float) -> float:
    """The rate at which batches of ``size`` keep the backlog within what can be served in time.

    Kingman: the backlog exceeds n with a probability of about exp(-2 (1 - rho) n / v), where v is the
    variance of what comes in and is served in a time that would serve one request.
    """
    seconds = curve.predict_mean(size)
    backlog = workers * size * (slo_latency / seconds - 1.0)
    if backlog <= 0.0:
        return 0.0
    variance = 1.0 + size * curve.variation**2 / workers
    return workers * size / seconds / (1.0 - log(1.0 - objective) * variance / (2.0 * backlog))


_AXES: Final[tuple[Sequence[float], ...]] = (
    [-log(1.0 - objective) for objective in OBJECTIVES],
    [log(workers) for workers in WORKERS],
    VARIATIONS,
    CONSTANTS,
    [log(fitting) for fitting in FITTING],
)


def _looked_up(point: Sequence[float]) -> float:
    """The table at ``point``, linear between its entries in their logarithm, and as at its rim beyond it."""
    corners = []
    for axis, value in zip(_AXES, point, strict=True):
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
        total += weight * RATES[entry]
    return exp(total / 100) if total > NONE else 0.0


class Reading(NamedTuple):
    """What has been spent since the start. Times are seconds."""

    now: float
    front: float
    """CPU time of the front's thread."""
    served: int
    """Requests that a worker has answered."""
    batches: int
    """Batches that workers have finished."""


class CpuCost:
    """What a request costs in CPU time: the front by readings, the workers by batch."""

    def __init__(self, max_batch_size: int) -> None:
        self._last: Reading | None = None
        self._front: float | None = None
        """Of one request, apart from its share of a batch."""
        self._worker = LatencyModel(max_batch_size)
        self._batches = 0

    def observe(self, size: int, seconds: float) -> None:
        """Learn from a batch of ``size`` requests on which a worker spent ``seconds`` of CPU time."""
        self._batches += 1
        if self._batches <= FIRST or self._batches % EVERY == 0:
            self._worker.observe(size, seconds)

    def read(self, reading: Reading) -> None:
        """Learn from what was spent since the last reading, if that was long enough ago and load enough."""
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
        """``capacity`` (requests per second of the workers), or what the front or ``cpus`` cores allow.

        ``size`` is that of the batches with which the workers reach it.
        """
        front = (self._front or 0.0) * (1.0 + BATCH_COST / size)
        worker = self._worker.predict_mean(size) / size
        bounds = [capacity]
        if front:
            bounds.append(1.0 / front)
        if front or worker:
            bounds.append(BUSIEST * cpus / (front + worker))
        return min(bounds)
