"""What one replica sustains: the slowest of its workers, its front thread and its cores. [P]

Owns what a request costs in CPU time. ``latency`` knows what the workers could do if nothing else held them
up; for a small model something else does. The law is the utilisation law (Denning and Buzen, 1978, "The
Operational Analysis of Queueing Network Models"): a resource that spends D seconds on each request serves
at most 1/D of them per second. Next step: ``metrics`` exports the result.

CPU per request falls as load rises, since more requests share a batch and a wake-up: ``BATCH_COST`` tells
what it would be with full batches. Readings count only while the front is busy: of an idle one, health checks
and scrapes would be taken for the cost of the few requests.
"""

from typing import Final, NamedTuple

READ_SECONDS: Final = 1.0
"""Readings that are closer together are one: the kernel counts CPU time in ticks."""
BUSY: Final = 0.1
"""The share of a core that the front must have used for a reading to say what a request costs; the seconds
that workers must have spent on batches for one to say how much of that is computing."""
BATCH_COST: Final = 4.0
"""The front's CPU time for a batch (to the worker, back, and the wake-ups) in requests' worth. Measured with
batches of 1 to 50: 4.2 (tabular), 4.4 (text), 4.3 (accelerator) on one machine."""
WEIGHT: Final = 0.5
"""Of the newest reading."""


class Reading(NamedTuple):
    """What has been spent since the start. Times are seconds."""

    now: float
    front: float
    """CPU time of the front's thread."""
    workers: float | None
    """CPU time of the workers; None where it can not be read."""
    busy: float
    """Time that workers have spent on batches, together."""
    served: int
    """Requests that a worker has answered."""
    batches: int
    """Batches that workers have finished."""


class CpuCost:
    """What a request costs in CPU time, learnt from readings."""

    def __init__(self) -> None:
        self._last: Reading | None = None
        self._front: float | None = None
        """Of one request, apart from its share of a batch."""
        self._share: float | None = None

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
        batches = reading.batches - last.batches
        self._front = _blend(self._front, front / (served + BATCH_COST * batches))
        busy = reading.busy - last.busy
        if reading.workers is None or last.workers is None or busy < BUSY:
            return
        if (spent := reading.workers - last.workers) >= 0.0:  # else one was replaced, and its time is gone
            self._share = _blend(self._share, spent / busy)

    def bound(self, capacity: float, size: int, workers: int, cpus: float) -> float:
        """``capacity`` (requests per second of ``workers``), or what the front or ``cpus`` cores allow.

        ``size`` is that of the batches with which the workers reach it.

        A worker takes workers / capacity seconds for a request, and uses a core for a share of them: all of
        it if the model computes on the CPU, hardly any if it waits for a device.
        """
        if self._front is None or capacity <= 0.0:
            return capacity
        front = self._front * (1.0 + BATCH_COST / size)
        bounds = [capacity, 1.0 / front]
        if self._share is not None:
            bounds.append(cpus / (front + self._share * workers / capacity))
        return min(bounds)


def _blend(old: float | None, new: float) -> float:
    return new if old is None else old + WEIGHT * (new - old)
