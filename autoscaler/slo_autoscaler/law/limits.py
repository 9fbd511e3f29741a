"""Stage 5, ``limits``: what the user, a schedule, a hold, the platform and the fleet's share allow. [P]

``limits`` gathers the bounds of one function; ``decide`` adds its share of the fleet. A new bound is one line
there, with its own reason.

Next stage: ``step``.
"""

from dataclasses import dataclass, replace
from typing import Final

from slo_autoscaler.law.platform import Standing
from slo_autoscaler.law.schedule import bounds as scheduled
from slo_autoscaler.law.situation import Situation
from slo_autoscaler.model import Forecast, Hold, Need, Reason
from slo_autoscaler.settings import schedule


@dataclass(frozen=True, slots=True)
class Limits:
    """The lowest and the highest count allowed, each with the reason of a hold at it.

    The highest count wins: a floor above it is cut.
    """

    lowest: int
    highest: int
    why_lowest: Reason = Reason.AT_MINIMUM
    why_highest: Reason = Reason.AT_MAXIMUM
    firm: bool = False
    """Whether the lowest count holds without data too, and ends a scale to zero."""
    held: str = ""
    """The hold that gives a bound, as text."""

    def at_most(self, replicas: int, why: Reason) -> "Limits":
        """Return the same with a ceiling, where it is lower than the highest count."""
        if replicas >= self.highest:
            return self
        return replace(self, lowest=min(self.lowest, replicas), highest=replicas, why_highest=why)

    def within(self, replicas: int) -> int:
        """Return the count nearest to ``replicas``."""
        return min(max(replicas, self.lowest), self.highest)


@dataclass(frozen=True, slots=True)
class Allowed:
    """A count other than the present one that the limits allow."""

    count: int
    wanted: int
    """The needed count, before the limits."""
    because: Reason
    detail: str = ""
    lowest: int = 1
    """Lowest count allowed."""
    forecast: Forecast | None = None
    outright: bool = False
    """Whether the present count is outside the limits, so that it changes at once."""


def limited(at: Situation, standing: Standing, need: Need | Hold) -> tuple[Need | Hold, Limits | None]:
    """Return the need as an operator's pause changes it, and its limits; None: the function holds.

    Without data only a floor that needs none changes a count. A function without replicas gets its lowest
    count at once, without cooldown and rate limit.
    """
    if need.because is Reason.DISABLED:
        return need, None
    own = _limits(at, standing)
    paused = _paused(at, need, own)
    if paused is not need:
        return paused, None if isinstance(paused, Hold) else own
    if at.missing is not None:
        if own.firm and at.scale.desired < own.lowest:
            return need, own
        return need, replace(own, why_lowest=need.because) if isinstance(need, Need) else None
    if need.because is Reason.IDLE and not own.firm:
        own = replace(own, lowest=0)
    return need, own


def _limits(at: Situation, standing: Standing) -> Limits:
    """Return the limits of a hold, else the function's own, within those of the platform."""
    own, hold = _own(at), current_hold(at)
    if hold is not None and hold.max_replicas is not None:
        own = replace(own.at_most(hold.max_replicas, Reason.HELD), held=hold.text)
    elif hold is not None:
        count = hold.replicas or at.scale.desired
        own = Limits(count, count, Reason.HELD, Reason.HELD, held=hold.text)
    if at.scale.cap is not None:
        own = own.at_most(at.scale.cap, Reason.PLATFORM_CAP)
    if standing.refusal is not None:
        own = own.at_most(max(1, standing.refusal.granted), Reason.PLATFORM_CAP)
    return own


def current_hold(at: Situation) -> schedule.Hold | None:
    """Return the hold that is in force, or None."""
    hold = at.scale.hold
    return hold if hold is not None and at.wall is not None and at.wall < hold.until else None


def _paused(at: Situation, need: Need | Hold, own: Limits) -> Need | Hold:
    """Return the need as an operator's pause, or a count set by hand, changes it.

    The memory stays the policy's: what was learned meanwhile counts afterwards.
    """
    hold, current = current_hold(at), at.scale.desired
    if hold is not None and hold.max_replicas is None:
        if own.lowest == current:
            return Hold(Reason.HELD, hold.text, need.forecast)
        return Need(own.lowest, Reason.HELD, hold.text, need.forecast)
    return Hold(Reason.SET_BY_HAND, at.by_hand, need.forecast) if at.by_hand else need


def allowed(need: Need | Hold, current: int, own: Limits) -> Allowed | Hold:
    """Return the count nearest to the need within the limits, or the hold."""
    wanted = own.within(need.count if isinstance(need, Need) else current)
    if current < own.lowest or current > own.highest:
        why = own.why_lowest if current < own.lowest else own.why_highest
        count = wanted if current < own.lowest else own.highest
        return Allowed(
            count,
            wanted,
            _CHANGES.get(why, why),
            _detail(need, why, own),
            outright=True,
        )
    if isinstance(need, Hold):
        return need
    if wanted != current:
        return Allowed(wanted, need.count, need.because, need.detail, own.lowest, need.forecast)
    why = own.why_highest if need.count > current else own.why_lowest
    # A budget that is short explains a count better than the peak for which it is short.
    if need.insists and why is not Reason.FLEET_FULL:
        why = need.because
    return Hold(why, _detail(need, why, own))


def _detail(need: Need | Hold, why: Reason, own: Limits) -> str:
    if why is Reason.HELD:
        return own.held
    return need.detail if why is need.because else ""


def _own(at: Situation) -> Limits:
    """Return the bounds of the schedule, where an entry gives one, else of labels or settings."""
    own = at.declared
    least, most = (None, None) if at.wall is None else scheduled(own.schedule, at.wall)
    lowest = least or max(1, own.min)
    highest = most or max(lowest, own.max)
    return Limits(
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
"""Reason of a hold at a limit -> of the change to it, where they differ."""
