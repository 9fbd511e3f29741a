"""Detects another autoscaler on the same function. [P]

Two autoscalers undo each other's changes. One unrequested change is an operator or a deployment; several
within minutes are another autoscaler. The controller acts on the result.
"""

from dataclasses import dataclass
from typing import Final

FEW: Final = 3
"""Number of unrequested changes that only another autoscaler makes,"""
WITHIN: Final = 600.0
"""if they occur within this many seconds."""


@dataclass(frozen=True, slots=True)
class ScalerConflict:
    """Unrequested changes of one function's replicas; times are the caller's ``now``."""

    lowest: int | None = None
    """The expected counts; None: no count is known yet."""
    highest: int | None = None
    foreign: tuple[float, ...] = ()
    """Times of the last few unrequested changes."""
    revision: str = ""
    """The revision of the expected counts: another revision's count is a hand-over, not a change."""

    def read(self, desired: int, now: float, revision: str = "") -> "ScalerConflict":
        """Return the state after the platform has reported the desired count."""
        foreign = self.foreign
        if self.lowest == self.highest == desired and revision == self.revision:
            return self
        if self.lowest is not None and self.highest is not None and revision == self.revision:
            # The platform wakes a function from zero itself.
            woken = self.lowest == self.highest == 0
            if not self.lowest <= desired <= self.highest and not woken:
                foreign = (*foreign, now)[-FEW:]
        return ScalerConflict(desired, desired, foreign, revision)

    def requested(self, replicas: int) -> "ScalerConflict":
        """Return the state after a request for a count, of which the platform may grant a part."""
        lowest = replicas if self.lowest is None else min(self.lowest, replicas)
        highest = replicas if self.highest is None else max(self.highest, replicas)
        return ScalerConflict(lowest, highest, self.foreign, self.revision)

    def detected(self, now: float) -> bool:
        """Return whether another autoscaler scales the function."""
        return len(self.foreign) == FEW and now - self.foreign[0] <= WITHIN
