"""Bounds a count, and says why. [P]

``bounds`` gathers the limits of one function; ``decide`` adds its share of the fleet. A new bound is one line
there, with its own reason.
"""

from dataclasses import dataclass
from typing import Final

from slo_autoscaler.law.schedule import bounds as scheduled
from slo_autoscaler.law.situation import Situation
from slo_autoscaler.model import Reason
from slo_autoscaler.settings.schedule import Hold


@dataclass(frozen=True, slots=True)
class Bounds:
    """The lowest and the highest count allowed, each with the reason of a hold at it.

    The highest count wins: a floor above it is cut.
    """

    lowest: int
    highest: int
    why_lowest: Reason = Reason.AT_MINIMUM
    why_highest: Reason = Reason.AT_MAXIMUM
    firm: bool = False
    """Whether the lowest count holds without data too, and ends a scale to zero."""

    def at_most(self, replicas: int, why: Reason) -> "Bounds":
        """Return the same with a ceiling, where it is lower than the highest count."""
        if replicas >= self.highest:
            return self
        return Bounds(min(self.lowest, replicas), replicas, self.why_lowest, why, self.firm)

    def within(self, replicas: int) -> int:
        """Return the count nearest to ``replicas``."""
        return min(max(replicas, self.lowest), self.highest)

    def violated(self, replicas: int) -> Reason | None:
        """Return the reason to change a count outside the bounds; None: it is within."""
        if replicas < self.lowest:
            return _CHANGES.get(self.why_lowest, self.why_lowest)
        return _CHANGES.get(self.why_highest, self.why_highest) if replicas > self.highest else None


def bounds(at: Situation) -> Bounds:
    """Return the bounds of a hold, else the function's own, within the platform's limits."""
    limits, hold = _own(at), current_hold(at)
    if hold is not None and hold.max_replicas is not None:
        limits = limits.at_most(hold.max_replicas, Reason.HELD)
    elif hold is not None:
        count = hold.replicas or at.scale.desired
        limits = Bounds(count, count, Reason.HELD, Reason.HELD)
    if at.scale.cap is not None:
        limits = limits.at_most(at.scale.cap, Reason.PLATFORM_CAP)
    if at.memory.refusal is not None:
        limits = limits.at_most(max(1, at.memory.refusal.granted), Reason.PLATFORM_CAP)
    return limits


def current_hold(at: Situation) -> Hold | None:
    """Return the hold that is in force, or None."""
    hold = at.scale.hold
    return hold if hold is not None and at.wall is not None and at.wall < hold.until else None


def _own(at: Situation) -> Bounds:
    """Return the bounds of the schedule, where an entry gives one, else of labels or settings."""
    schedule = at.spec.schedule if at.scale.schedule is None else at.scale.schedule
    least, most = (None, None) if at.wall is None else scheduled(schedule, at.wall)
    lowest = least or max(1, at.spec.min_replicas if at.scale.min is None else at.scale.min)
    highest = most or max(lowest, at.spec.max_replicas if at.scale.max is None else at.scale.max)
    return Bounds(
        min(lowest, highest),
        highest,
        Reason.SCHEDULED if least else Reason.AT_MINIMUM,
        Reason.SCHEDULED if most else Reason.AT_MAXIMUM,
        firm=least is not None,
    )


_CHANGES: Final = {
    Reason.AT_MINIMUM: Reason.BELOW_MINIMUM,
    Reason.AT_MAXIMUM: Reason.ABOVE_MAXIMUM,
    Reason.PLATFORM_CAP: Reason.ABOVE_MAXIMUM,
}
"""Reason of a hold at a bound -> of the change to it, where they differ."""
