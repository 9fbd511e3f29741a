"""The nouns that a reconcile passes along: what is known, what is wanted, what is done. [P]

Values only. The rules are in ``law``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Self

Numbers = Mapping[str, float | None]


class Reason(StrEnum):
    """Why a decision is what it is: the closed list that logs, metrics and alerts may rely on.

    Beside its name each has clauses, of which ``words`` makes a sentence. The first has no numbers; the
    others are told if all their numbers are inputs of the decision.
    """

    _value_: str
    clauses: tuple[str, ...]

    def __new__(cls, name: str, *clauses: str) -> Self:
        """Return the member that is called ``name``."""
        reason = str.__new__(cls, name)
        reason._value_ = name
        reason.clauses = clauses
        return reason

    # hold: nothing can be said, or nothing may be done
    DISABLED = "Disabled", "scaling is turned off for it by its label or annotation"
    SCALED_TO_ZERO = "ScaledToZero", "it is at 0 replicas, which only a request or an operator changes"
    NO_DATA = "NoData", "there is no usable data", "the newest sample is {sample_age} old"
    NOT_MANAGED = "NotManaged", "Prometheus has no SLO for it"
    TOO_FEW_SAMPLES = (
        *("TooFewSamples", "there are too few requests to act on"),
        *("{samples} in the window", "{in_flight} in flight"),
    )
    PARTIAL_DATA = (
        *("PartialData", "not all replicas are observed, so the low load may be an illusion"),
        "{up_replicas} of {ready} are",
    )
    # hold: all is well, or a rule says to wait
    WITHIN_RANGE = (
        *("DesiredWithinRange", "the count is right"),
        "{forecast} forecast {horizon} ahead against {ready} x {capacity}",
    )
    WITHIN_TOLERANCE = (
        *("WithinTolerance", "the recommendation is within tolerance of the current count"),
        "{recommended} are recommended",
    )
    SETTLING = "Settling", "replicas are starting, or the window still holds the time before they served"
    COOLING_DOWN = (
        *("CoolingDown", "cooldown after the last change has not expired"),
        "{recommended} are recommended",
    )
    SCALE_DOWN_STABILIZED = (
        *("ScaleDownStabilized", "more was recommended within the stabilization window"),
        "{recommended} would do now",
    )
    SCALE_DOWN_UNSAFE = (
        *("ScaleDownUnsafe", "the SLO is missed, or would be with fewer replicas"),
        *(
            "{recommended} are recommended",
            "{forecast} forecast {horizon} ahead",
            "{capacity} for each replica",
        ),
    )
    BUDGET_LOW = (
        *("BudgetLow", "too little of the error budget is left to risk fewer"),
        "{recommended} are recommended",
    )
    # hold: more would be needed, or would not help
    AT_MAXIMUM = (
        *("AtMaximum", "more is needed than the maximum"),
        *("{recommended} are recommended", "{max} is the maximum"),
    )
    PLATFORM_CAP = (
        *("PlatformCap", "the platform does not give more"),
        *("{recommended} are recommended", "{requested} were requested", "{granted} were granted"),
    )
    WILL_NOT_HELP = (
        *("MoreReplicasWillNotHelp", "more replicas will not help"),
        "one request alone takes {service_time_single} of {slo_latency}",
        "a batch takes {service_mean}, usually {service_time_baseline}",
        "waiting for a worker {queue_mean}",
    )
    # up
    LOAD_ABOVE_CAPACITY = (
        *("LoadAboveCapacity", "load above capacity"),
        "{forecast} forecast {horizon} ahead against {ready} x {capacity}",
    )
    BACKLOG = (
        *("Backlog", "a backlog must be drained"),
        *("{in_flight} in flight", "{queue_length} of them queued", "{ready} x {capacity} to do it"),
    )
    RECENT_PEAK = (
        *("RecentPeak", "recurring misses: capacity is kept for the recent peak"),
        *("it comes every {peak_every}", "{standing} must be served at once", "{ready} x {capacity}"),
    )
    SLO_MISSED = "SloMissed", "the SLO is missed although the model says that there is room"
    """Also a hold."""
    BURN_RATE = (
        *("BurnRate", "the error budget burns too fast to wait for the sizing"),
        *("{burn_rate} times as fast as it may", "{burn_short} times most recently"),
    )
    LATENCY_ABOVE_TARGET = "LatencyAboveTarget", "latency is above its target"
    BELOW_MINIMUM = "BelowMinimum", "there were fewer than the minimum", "that is {min}"
    # down
    LOAD_BELOW_CAPACITY = (
        *("LoadBelowCapacity", "load below capacity"),
        *("{forecast} forecast {horizon} ahead", "{capacity} for each replica"),
    )
    LATENCY_BELOW_TARGET = "LatencyBelowTarget", "latency is well below its target"
    NO_TRAFFIC = "NoTraffic", "there is no traffic"
    IDLE = "Idle", "there was no request for long enough to do without a replica"
    ABOVE_MAXIMUM = "AboveMaximum", "there were more than the maximum", "that is {max}"


@dataclass(frozen=True, slots=True)
class Scale:
    """What the platform says of one function."""

    desired: int
    available: int
    min: int | None = None
    """From the function's label; None where it has none. Likewise ``max``."""
    max: int | None = None
    cap: int | None = None
    """The most that the platform gives to any function, if it is known beforehand."""
    enabled: bool = True
    zero_after: float | None = None
    """Seconds without a request after which the function's own labels let it go to 0, infinity for never;
    None where they say nothing, and ``scale_to_zero_after`` holds."""
    revision: str = ""
    """Whose counts these are, where a function has several that take over from each other (on Knative)."""

    @property
    def pending(self) -> int:
        """Replicas that were asked for and do not serve yet."""
        return max(0, self.desired - self.available)


@dataclass(frozen=True, slots=True)
class Recommendation:
    """What a policy wants, before any limit."""

    replicas: int
    reason: Reason
    raw: float | None = None
    """The unrounded count, where a tolerance around it makes sense."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What is done, why, and the numbers that it came from."""

    replicas: int | None
    """The new count, or None: hold."""
    reason: Reason
    inputs: Numbers
