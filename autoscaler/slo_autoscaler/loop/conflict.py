"""Detects counts that another client sets: an operator, or another autoscaler on the same function. [P]

Two autoscalers undo each other's changes. One unrequested change is an operator or a deployment; several
within minutes are another autoscaler. The controller acts on the result.
"""

from dataclasses import dataclass, replace
from typing import Final

from slo_autoscaler.model import Scale

FEW: Final = 3
"""Number of unrequested changes that only another autoscaler makes,"""
WITHIN: Final = 600.0
"""if they occur within this many seconds."""


@dataclass(frozen=True, slots=True)
class ScalerConflict:
    """Unrequested changes of one function's replicas; times are the caller's ``now``."""

    count: int | None = None
    """The count that the platform last reported; None: none yet."""
    lowest: int = 0
    """The expected counts: that one, and own requests until the platform reports a change."""
    highest: int = 0
    latest: int = 0
    """The last one of them."""
    foreign: tuple[float, ...] = ()
    """Times of the last few unrequested changes."""
    revision: str = ""
    """The revision of the expected counts: another revision's count is a hand-over, not a change."""
    by_hand: str = ""
    """The last unrequested change, until a deployment or an own request; empty: none."""

    def read(self, scale: Scale, now: float) -> "ScalerConflict":
        """Return the state after the platform has reported the desired count."""
        desired, same = scale.desired, scale.revision == self.revision
        if desired == self.count and same:
            # The platform may report an own request later, so it stays expected.
            return self
        foreign, by_hand = self.foreign, self.by_hand if same else ""
        if self.count is not None and same:
            # The platform wakes a function from zero itself.
            woken = self.highest == 0
            if not self.lowest <= desired <= self.highest and not woken:
                foreign = (*foreign, now)[-FEW:]
                client = f" by {scale.scaler}" if scale.scaler else ""
                deployed = scale.scaler == ""
                by_hand = "" if deployed or not desired else f"from {self.latest} to {desired}{client}"
        return ScalerConflict(desired, desired, desired, desired, foreign, scale.revision, by_hand)

    def requested(self, replicas: int) -> "ScalerConflict":
        """Return the state after a request for a count, of which the platform may grant a part."""
        lowest, highest = min(self.lowest, replicas), max(self.highest, replicas)
        return replace(self, lowest=lowest, highest=highest, latest=replicas, by_hand="")

    def set_by_hand(self, now: float, seconds: float) -> str:
        """Return the last unrequested change, if it is at most ``seconds`` old and no other autoscaler's."""
        lately = bool(self.foreign) and now - self.foreign[-1] <= seconds
        return self.by_hand if lately and not self.detected(now) else ""

    def detected(self, now: float) -> bool:
        """Return whether another autoscaler scales the function."""
        return len(self.foreign) == FEW and now - self.foreign[0] <= WITHIN
