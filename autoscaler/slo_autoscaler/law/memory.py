"""What the scaling policy remembers of a function between reconciles, and what it derives for a policy. [P]

Values only; the rules that change them are in ``decide``. Times are ``decide``'s ``now``.
"""

from dataclasses import dataclass
from typing import Final

from slo_autoscaler.law.forecast import TREND_HISTORY
from slo_autoscaler.law.headroom import Headroom
from slo_autoscaler.law.window import History, SlidingMax
from slo_autoscaler.model import Scale
from slo_autoscaler.spec import Spec

BUDGET_STRETCH: Final = 1.5
"""The stabilization window is this many times longer when no error budget is left."""

CORRECTION_FLOOR: Final = 0.5
"""Below half, capacity is not what is wrong: more replicas would be bought for nothing."""


@dataclass(frozen=True, slots=True)
class Outlook:
    """What ``decide`` adds to an observation before it asks a policy."""

    forecast: float
    """Arrivals per second expected one start-up time ahead."""
    horizon: float
    """How far ahead that is, seconds."""
    utilization: float
    """Share of the capacity to plan with."""
    correction: float
    """Factor on the learned capacity, at most 1: how far measured attainment contradicts it."""
    missed: bool
    """The objective is missed by more than chance explains, on enough samples, and that goes on."""
    settled: bool
    """No replica is starting, and the query window holds only the time since the last one did."""
    rising: bool = False
    """More is expected than there lately was."""
    burning: bool = False
    """The budget burns at a panic rate over the window and still does over the rate window, which holds only
    the time since the last change."""
    futile: bool = False
    """What is slow is execution, not waiting: more replicas would not help."""
    standing: float = 0.0
    """Requests per second that must be served at once whenever they come, at the capacity."""
    kept: float = 0.0
    """Likewise, so soon that what it takes is not given away before."""
    knee: float | None = None
    """Requests per second beyond which a replica was last seen to miss the SLO, if that was ever seen."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """The platform gave less than was asked for."""

    asked: int
    granted: int
    until: float


@dataclass(frozen=True, slots=True)
class TargetState:
    """What ``decide`` remembers of one function from one reconcile to the next; times are its ``now``."""

    decided_at: float
    """When it was last called."""
    desired: int
    """The count seen last."""
    asked: int | None
    """The count that the last decision asked for, until it is seen what became of it."""
    refusal: Refusal | None
    recommendations: SlidingMax
    rates: History
    changed_at: float
    """When replicas were last asked for or still starting."""
    scaled_at: float | None
    scaled_up_at: float | None
    pending_since: float | None
    start_up_time: float | None
    """Learned; None until a scale-up has been watched."""
    correction: float
    corrected_at: float
    seen_at: float
    """When usable data was last seen."""
    idle_since: float | None
    """Since when, without a gap, the data say that there is no request at all."""
    service_baseline: float | None
    """Seconds that a batch usually takes while the objective is met, learned slowly."""
    headroom: Headroom
    """How the error budget is spent."""
    surge: float | None
    """The rate that the last look saw all of a sudden, if it did."""
    knee: float | None
    """Requests per second that a replica completed when latency was last above the SLO; relaxes slowly."""

    @classmethod
    def initial(cls, spec: Spec, scale: Scale, now: float) -> "TargetState":
        """Start from what is there: the current count stands as a recommendation for one window.

        So a restart of the autoscaler never makes a dip, even at a peak.
        """
        window = BUDGET_STRETCH * spec.scale_down.stabilization_window
        return cls(
            decided_at=now,
            desired=scale.desired,
            asked=None,
            refusal=None,
            recommendations=SlidingMax(window).push(now, scale.desired),
            rates=History(max(TREND_HISTORY, spec.start_up_time)),
            changed_at=now,
            scaled_at=None,
            scaled_up_at=None,
            pending_since=None,
            start_up_time=None,
            correction=1.0,
            corrected_at=now,
            seen_at=now,
            idle_since=None,
            service_baseline=None,
            headroom=Headroom(),
            surge=None,
            knee=None,
        )
