"""Bounds a count, and says why. [P]

``bounds`` gathers the limits of one function; ``decide`` adds its share of the fleet. A new bound is one line
there, with its own reason.
"""

from dataclasses import dataclass, replace
from typing import Final

from slo_autoscaler.law.situation import Situation
from slo_autoscaler.model import Reason


@dataclass(frozen=True, slots=True)
class Bounds:
    """The lowest and the highest count allowed, each with the reason of a hold at it.

    The highest count wins: a floor above it is cut.
    """

    lowest: int
    highest: int
    why_lowest: Reason = Reason.AT_MINIMUM
    why_highest: Reason = Reason.AT_MAXIMUM

    def at_least(self, replicas: int, why: Reason) -> "Bounds":
        """Return the same with a floor, where it is higher than the lowest count."""
        floor = min(replicas, self.highest)
        return self if floor <= self.lowest else replace(self, lowest=floor, why_lowest=why)

    def at_most(self, replicas: int, why: Reason) -> "Bounds":
        """Return the same with a ceiling, where it is lower than the highest count."""
        if replicas >= self.highest:
            return self
        return replace(self, lowest=min(self.lowest, replicas), highest=replicas, why_highest=why)

    def within(self, replicas: int) -> int:
        """Return the count nearest to ``replicas``."""
        return min(max(replicas, self.lowest), self.highest)

    def violated(self, replicas: int) -> Reason | None:
        """Return the reason to change a count outside the bounds; None: it is within."""
        if replicas < self.lowest:
            return _CHANGES.get(self.why_lowest, self.why_lowest)
        return _CHANGES.get(self.why_highest, self.why_highest) if replicas > self.highest else None


def bounds(at: Situation) -> Bounds:
    """Return the function's own bounds: its labels or settings, then the platform's limits."""
    lowest = max(1, at.spec.min_replicas if at.scale.min is None else at.scale.min)
    found = Bounds(lowest, max(lowest, at.spec.max_replicas if at.scale.max is None else at.scale.max))
    if at.scale.cap is not None:
        found = found.at_most(at.scale.cap, Reason.PLATFORM_CAP)
    if at.memory.refusal is not None:
        found = found.at_most(max(1, at.memory.refusal.granted), Reason.PLATFORM_CAP)
    return found


_CHANGES: Final = {
    Reason.AT_MINIMUM: Reason.BELOW_MINIMUM,
    Reason.AT_MAXIMUM: Reason.ABOVE_MAXIMUM,
    Reason.PLATFORM_CAP: Reason.ABOVE_MAXIMUM,
}
"""Reason of a hold at a bound -> of the change to it, where they differ."""
