"""Decides the workers and threads that a CPU quota is worth, and how a change of it changes l(b). [P]

A quota may change while the process runs: an autoscaler raises the CPU limit of a pod for seconds.
``machine`` reads it, ``app`` applies the decision.
"""

from collections import deque
from dataclasses import dataclass, field
from typing import Final

MAX_AUTO_WORKERS: Final = 4
"""Maximum workers that ``auto`` starts for the CPUs: each holds a copy of the model."""

SHRINK_SECONDS: Final = 5.0
"""Time after which a lower quota ends workers: one that changes every second starts and ends none."""

THROTTLED: Final = 0.5
"""Share of its CPUs that a worker uses in a batch, at least, if the quota slows it and not a device or a
disk. The rest is the front end's."""


@dataclass(frozen=True, slots=True)
class Asked:
    """The operator's numbers; None: ``auto``."""

    workers: int | None
    threads: int | None

    def counts(self, cpus: float) -> tuple[int, int]:
        """Return the workers, and the threads of each, for ``cpus``."""
        # Rounded: on 1.5 CPUs two workers met 100 ms at 550 requests/s, and one did not at 450.
        workers = self.workers or max(1, min(MAX_AUTO_WORKERS, int(cpus + 0.5)))
        return workers, self.threads or max(1, int(cpus / workers))


@dataclass(frozen=True, slots=True)
class Held:
    """The most CPUs of the last ``SHRINK_SECONDS``: counts grow at once, and shrink after that time."""

    _readings: deque[tuple[float, float]] = field(default_factory=deque)

    def read(self, cpus: float, now: float) -> float:
        """Take the quota at ``now``, in seconds; return the CPUs that the counts follow."""
        self._readings.append((now, cpus))
        while self._readings[0][0] <= now - SHRINK_SECONDS:
            self._readings.popleft()
        return max(read for _, read in self._readings)


@dataclass(frozen=True, slots=True)
class Cores:
    """The CPUs that all workers share, and what runs on them."""

    cpus: float
    workers: int
    threads: int
    """Of each worker."""

    @property
    def each(self) -> float:
        """CPUs of one worker while all are busy."""
        return self.cpus / self.workers


@dataclass(frozen=True, slots=True)
class Use:
    """The work of all workers in a time before a change."""

    elapsed: float
    seconds: float
    """Of all batches that ended."""
    cpu_seconds: float
    """Of the same batches."""


def slowdown(before: Cores, after: Cores, use: Use) -> float:
    """Return the factor by which a batch takes longer with the cores ``after``; 1 if that is not known.

    A worker that the quota slows gains in proportion to its CPUs, until each thread that it had uses a core:
    whether its handler uses more threads is not known. One that waits for something else gains nothing. A
    lower quota slows only workers that together use more than it.
    """
    if not (use.seconds > 0.0 and use.cpu_seconds > 0.0):
        return 1.0
    cores = use.cpu_seconds / use.seconds
    if after.each > before.each:
        if cores < THROTTLED * before.each:
            return 1.0
        return cores / max(cores, min(before.threads, cores * after.each / before.each))
    if use.cpu_seconds <= after.cpus * use.elapsed:
        return 1.0
    return cores / min(cores, after.each)
