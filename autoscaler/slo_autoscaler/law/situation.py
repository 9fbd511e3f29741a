"""Holds what one decision on one function is made on. [P]

A rule takes a ``Situation`` and no further arguments: a new input of decisions is a field here.
"""

from dataclasses import dataclass, replace
from datetime import datetime

from slo_autoscaler.law.memory import Memory
from slo_autoscaler.model import Scale
from slo_autoscaler.settings.spec import Spec
from slo_autoscaler.signals.record import Observation


@dataclass(frozen=True, slots=True)
class Situation:
    """One function at one reconcile."""

    spec: Spec
    """Its settings, with its own labels applied."""
    seen: Observation
    """The newest observation; an empty one is no data."""
    scale: Scale
    """Its counts, by the platform; after the stage ``platform`` with own writes over stale reads."""
    memory: Memory
    """Its state since earlier reconciles."""
    now: float
    """Seconds on the clock of ``memory``."""
    wall: datetime | None = None
    """The time of day, for schedules and holds; None: none is in force."""
    by_hand: str = ""
    """Change of the count by another client that ``manual_hold`` respects, as text; empty: none."""
    boost: float = 1.0
    """Highest CPU of its serving replicas since the last reconcile, as a multiple of the nominal one."""
    bridge: float | None = None
    """Highest CPU factor with which a boost may bridge jumps; None: that of the settings."""

    @property
    def passed(self) -> float:
        """Seconds since the last usable data, at most a gap."""
        return min(max(0.0, self.now - self.memory.seen_at), self.spec.timing.longest_gap)

    def after(self, memory: Memory) -> "Situation":
        """Return the same with another memory."""
        return self if memory is self.memory else replace(self, memory=memory)
