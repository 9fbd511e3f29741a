"""Whether somebody else scales a function too. [P]

Two scalers that share a function undo each other's work. One change that we did not ask for is a person or a
new deployment; several within minutes are another scaler. What is known of one function is a ``Rival``; what
is done about it is the controller's.
"""

from dataclasses import dataclass
from typing import Final

FEW: Final = 3
"""So many changes that we did not ask for are not people's any more,"""
WITHIN: Final = 600.0
"""when they come within so many seconds."""


@dataclass(frozen=True, slots=True)
class Rival:
    """What one function's replicas have done beside what we asked for; times are the caller's ``now``."""

    lowest: int | None = None
    """The counts that are expected; None: nothing is known yet."""
    highest: int | None = None
    foreign: tuple[float, ...] = ()
    """When changes were seen that we had not asked for, the last few."""
    revision: str = ""
    """Whose counts are expected: another revision's count is a hand-over, and no change."""

    def read(self, desired: int, now: float, revision: str = "") -> "Rival":
        """Return what is known after the platform has said how many replicas are wanted."""
        foreign = self.foreign
        if self.lowest is not None and self.highest is not None and revision == self.revision:
            # From zero a function is woken by the platform, and nobody calls that scaling.
            woken = self.lowest == self.highest == 0
            if not self.lowest <= desired <= self.highest and not woken:
                foreign = (*foreign, now)[-FEW:]
        known = Rival(desired, desired, foreign, revision)
        return self if known == self else known

    def asked(self, replicas: int) -> "Rival":
        """Return what is known after we have asked for a count: the platform may give a part of it."""
        lowest = replicas if self.lowest is None else min(self.lowest, replicas)
        highest = replicas if self.highest is None else max(self.highest, replicas)
        return Rival(lowest, highest, self.foreign, self.revision)

    def suspected(self, now: float) -> bool:
        """Tell whether another scaler is at work."""
        return len(self.foreign) == FEW and now - self.foreign[0] <= WITHIN
