"""What one replica sustains: the slowest of its workers, its front thread and its cores. [P]

Owns what a request costs in CPU time. ``latency`` knows what the workers could do if nothing else held them
up; for a small model something else does. The law is the utilization law (Denning and Buzen, 1978, "The
Operational Analysis of Queueing Network Models"): a resource that spends D seconds on each request serves
at most 1/D of them per second. Next step: ``metrics`` exports the result.

CPU per request falls as load rises, since more requests share a batch and a wake-up: ``BATCH_COST`` tells
what the front's would be with full batches. Its readings count only while it is busy: of an idle one, health
checks and scrapes would be taken for the cost of the few requests.

What a batch costs a worker is learned by size, as its service time is, but from CPU time: on busy cores a
batch takes longer and computes no more, so that what was measured on idle ones still holds.
"""

from typing import Final, NamedTuple

from batching_watchdog.engine.latency import LatencyModel

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

    def bound(self, capacity: float, size: int, cpus: float) -> float:
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
