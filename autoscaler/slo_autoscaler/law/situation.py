"""Holds what one decision on one function is made on. [P]

A rule takes a ``Situation`` and no further arguments: a new input of decisions is a field here.
"""

from dataclasses import dataclass, replace
from datetime import datetime
from math import inf

from slo_autoscaler.law.memory import Memory
from slo_autoscaler.model import Reason, Scale
from slo_autoscaler.settings.schedule import Schedule
from slo_autoscaler.settings.spec import Spec
from slo_autoscaler.signals.record import Observation


@dataclass(frozen=True, slots=True)
class Declared:
    """The settings that a function's keys replace."""

    min: int
    max: int
    schedule: Schedule
    zero_after: float
    """Seconds without a request after which no replica is needed; infinity: never."""


@dataclass(frozen=True, slots=True)
class Situation:
    """One function at one reconcile."""

    spec: Spec
    """Its settings by the configuration; ``declared`` has those that its keys replace."""
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
    def declared(self) -> Declared:
        """What the function's own keys declare, else the configuration's: the one place where they meet."""
        spec, scale = self.spec, self.scale
        idle = inf if spec.scale_to_zero_after is None else spec.scale_to_zero_after
        return Declared(
            min=spec.min_replicas if scale.min is None else scale.min,
            max=spec.max_replicas if scale.max is None else scale.max,
            schedule=spec.schedule if scale.schedule is None else scale.schedule,
            zero_after=idle if scale.zero_after is None else scale.zero_after,
        )

    @property
    def passed(self) -> float:
        """Seconds since the last usable data, at most a gap."""
        return min(max(0.0, self.now - self.memory.seen_at), self.spec.timing.longest_gap)

    @property
    def asleep(self) -> bool:
        """Whether it has no replicas, and a decision ends that."""
        return self.scale.desired == 0 and self.scale.waiting is not None

    @property
    def missing(self) -> Reason | None:
        """Why the function cannot be sized by what was seen; None: it can."""
        seen = self.seen
        if self.scale.mode == "off":
            return Reason.DISABLED
        if self.scale.desired == 0:
            return Reason.SCALED_TO_ZERO
        if seen.sample_age is None or seen.sample_age > self.spec.timing.max_age:
            return Reason.NO_DATA
        if seen.slo_latency is None or seen.slo_objective is None:
            return Reason.NOT_MANAGED
        return Reason.NO_DATA if seen.arrival_rate is None or not seen.up_replicas else None

    def after(self, memory: Memory) -> "Situation":
        """Return the same with another memory."""
        return self if memory is self.memory else replace(self, memory=memory)
