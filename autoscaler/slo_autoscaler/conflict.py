"""Detects another autoscaler on the same function. [P]

Two autoscalers undo each other's changes. One change that was not asked for is an operator or a deployment;
several within minutes are another autoscaler. The controller acts on the result.
"""

from dataclasses import dataclass
from typing import Final

FEW: Final = 3
"""So many changes that were not asked for are no operator's any more,"""
WITHIN: Final = 600.0
"""when they come within so many seconds."""


@dataclass(frozen=True, slots=True)
class ScalerConflict:
    """Changes of one function's replicas beside those asked for; times are the caller's ``now``."""

    lowest: int | None = None
    """The counts that are expected; None: nothing is known yet."""
    highest: int | None = None
    foreign: tuple[float, ...] = ()
    """When changes were seen that were not asked for, the last few."""
    revision: str = ""
    """Whose counts are expected: another revision's count is a hand-over, and no change."""

    def read(self, desired: int, now: float, revision: str = "") -> "ScalerConflict":
        """Return what is known after the platform has told the desired count."""
        foreign = self.foreign
        if self.lowest is not None and self.highest is not None and revision == self.revision:
            # The platform wakes a function from zero, and that is no scaling.
            woken = self.lowest == self.highest == 0
            if not self.lowest <= desired <= self.highest and not woken:
                foreign = (*foreign, now)[-FEW:]
        known = ScalerConflict(desired, desired, foreign, revision)
        return self if known == self else known

    def requested(self, replicas: int) -> "ScalerConflict":
        """Return what is known after a request for a count: the platform may give a part of it."""
        lowest = replicas if self.lowest is None else min(self.lowest, replicas)
        highest = replicas if self.highest is None else max(self.highest, replicas)
        return ScalerConflict(lowest, highest, self.foreign, self.revision)

    def detected(self, now: float) -> bool:
        """Tell whether another autoscaler is at work."""
        return len(self.foreign) == FEW and now - self.foreign[0] <= WITHIN
