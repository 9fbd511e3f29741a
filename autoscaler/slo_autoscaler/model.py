"""The nouns that a reconcile passes along: what is known, what is wanted, what is done. [P]

Values only. The rules are in ``law``.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, Self

from slo_autoscaler.fields import Mode

Numbers = Mapping[str, float | None]


_PREDICTED: Final = (
    "{count}: {predicted} late",
    "{count_fewer}: {predicted_fewer}",
    "{count_more}: {predicted_more}",
    "allowed now {allowed}",
    "a replica must save {worth}",
)
"""Why a count was chosen, and not its neighbors; the counts are those of the decision."""


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
    DISABLED = "Disabled", "its mode is off"
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
    WITHIN_RANGE = "DesiredWithinRange", "the count is right", *_PREDICTED
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
        *("ScaleDownStabilized", "fewer would do now, but not for a whole start-up yet"),
        *("{recommended} would do", *_PREDICTED),
    )
    SCALE_DOWN_UNSAFE = "ScaleDownUnsafe", "the SLO is missed, or would be with fewer replicas"
    SCALE_CHANGED = "ScaleChanged", "another writer changed the count while this was decided; it stays"
    # hold: more would be needed, or would not help
    AT_MAXIMUM = (
        *("AtMaximum", "more is needed than the maximum"),
        *("{recommended} are recommended", "{max} is the maximum", *_PREDICTED),
    )
    PLATFORM_CAP = (
        *("PlatformCap", "the platform does not give more"),
        *("{recommended} are recommended", "{requested} were requested", "{granted} were granted"),
    )
    FLEET_FULL = (
        *("FleetFull", "the fleet's replicas save more misses elsewhere"),
        *("{recommended} are recommended", "{share} is its share", *_PREDICTED),
    )
    """Also down."""
    WILL_NOT_HELP = (
        *("MoreReplicasWillNotHelp", "more replicas will not help"),
        "one request alone takes {service_time_single} of {slo_latency}",
        "a batch takes {service_mean}",
        "waiting for a worker {queue_mean}",
    )
    UNSCHEDULABLE = "Unschedulable", "the cluster has no room for replicas that are needed"
    # up
    LOAD_ABOVE_CAPACITY = "LoadAboveCapacity", "too many would be late at this load", *_PREDICTED
    PEAK_EXPECTED = (
        *("PeakExpected", "too many would be late at the load that may come"),
        *("{arrival_rate} come in now, {expected} are expected", *_PREDICTED),
    )
    """Also a hold, of replicas that nothing needs now."""
    BACKLOG = (
        *("Backlog", "a backlog must be drained"),
        *("{in_flight} in flight", "{queue_length} of them queued", "{ready} x {capacity} to do it"),
    )
    SLO_MISSED = "SloMissed", "the SLO is missed, and nothing tells by how many replicas"
    """Also a hold."""
    LATENCY_ABOVE_TARGET = "LatencyAboveTarget", "latency is above its target"
    BELOW_MINIMUM = "BelowMinimum", "there were fewer than the minimum", "that is {min}"
    # down
    LOAD_BELOW_CAPACITY = "LoadBelowCapacity", "fewer are enough", *_PREDICTED
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
    mode: Mode = "active"
    """By its label and the configuration."""
    zero_after: float | None = None
    """Seconds without a request after which the function's own labels let it go to 0, infinity for never;
    None where they say nothing, and ``scale_to_zero_after`` holds."""
    revision: str = ""
    """Whose counts these are, where a function has several that take over from each other (on Knative)."""
    unschedulable: int | None = None
    """Replicas for which no node has room; None where the platform does not tell."""
    shortage: str = field(default="", compare=False)
    """Why that is, and what the cluster would need; empty: nothing, or not known."""
    version: str = field(default="", compare=False)
    """The platform's own, opaque: a write names it, so that no newer one is overwritten unseen."""

    @property
    def pending(self) -> int:
        """Replicas that were asked for and do not serve yet."""
        return max(0, self.desired - self.available)


@dataclass(frozen=True, slots=True)
class Recommendation:
    """What a policy wants, before any limit."""

    replicas: int
    """No fewer should serve when one that is asked for now would."""
    reason: Reason
    fewest: int | None = None
    """What is enough until then, if that is more: no fewer are kept. None: the same."""
    rate: float = 0.0
    """Requests per second that it is made for."""
    allowed: float | None = None
    """Share of requests that may end late now; None: nothing is predicted."""
    worth: float | None = None
    """Late requests per second that a replica must save."""
    late: Callable[[int], float] | None = None
    """Predicted late share by count."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What is done, why, and the numbers that it came from."""

    replicas: int | None
    """The new count, or None: hold."""
    reason: Reason
    inputs: Numbers
