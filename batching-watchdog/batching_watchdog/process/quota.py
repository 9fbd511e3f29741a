"""Decides the workers and threads that a CPU quota is worth. [P]

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
