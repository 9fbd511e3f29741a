"""Defines the values that a reconcile passes along: scale, need, hold or change, decision. [P]

The rules are in ``law``.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, Self

from slo_autoscaler.settings import schedule as times
from slo_autoscaler.settings.fields import Mode

Numbers = Mapping[str, float | None]


PREDICTED: Final = (
    "{count}: {predicted} late",
    "{count_fewer}: {predicted_fewer}",
    "{count_more}: {predicted_more}",
    "at a steady rate {allowed} may be",
    "a replica must save {worth} of all requests",
)
"""Clauses that compare the decided count with its neighbors, by the rates that may come."""

LATE_NOW: Final = (
    "{late} were late, {allowed} may be",
    "{queue_length} wait",
    "requests wait {queue_mean} for a worker",
)
"""Clauses of what was measured."""


class Reason(StrEnum):
    """The reason of a decision: the closed list that logs, metrics and alerts may rely on.

    Each has a name and clauses, from which ``words`` makes a sentence. The first clause has no numbers; each
    other one appears only if the decision's inputs hold all its numbers.
    """

    _value_: str
    clauses: tuple[str, ...]

    def __new__(cls, name: str, *clauses: str) -> Self:
        """Return the member that is called ``name``."""
        reason = str.__new__(cls, name)
        reason._value_ = name
        reason.clauses = clauses
        return reason

    # hold: without data, or outside the autoscaler's control
    DISABLED = "Disabled", "its mode is off"
    """Hold: the mode is ``off``."""
    HELD = "Held", "an operator holds the count"
    """Hold, up or down: an operator has paused the function at this count, or capped it, until a time."""
    SET_BY_HAND = "SetByHand", "another client has changed the count"
    """Hold: another client, such as ``kubectl scale``, has set the count; for ``manual_hold``."""
    SCALED_TO_ZERO = (
        "ScaledToZero",
        "it is at 0 replicas, which a request, a schedule or an operator changes",
    )
    """Hold: the count is 0, and nothing wakes it now."""
    NO_DATA = "NoData", "there is no usable data", "the newest sample is {sample_age} old"
    """Hold: no observation, a stale one, or none of the rate; also when Prometheus fails."""
    NOT_MANAGED = "NotManaged", "Prometheus has no SLO for it"
    """Hold: no watchdog exports an SLO, and the configuration has none."""
    TOO_FEW_SAMPLES = (
        *("TooFewSamples", "there are too few requests to act on"),
        *("{samples} in the window", "{in_flight} in flight"),
    )
    """Hold: latency alone decides, on too few requests."""
    PARTIAL_DATA = (
        *("PartialData", "not all replicas are observed, so the low load may be an illusion"),
        "Prometheus reaches {up_replicas} of {ready}",
        "the rates include {rated_replicas}",
    )
    """Hold: not every serving replica is seen, so the low rate may be an illusion."""
    # hold: no change is needed, or a rule says to wait
    WITHIN_RANGE = "DesiredWithinRange", "the count is right", *PREDICTED
    """Hold: one replica fewer would let too many be late, one more would save too few."""
    AT_MINIMUM = (
        *("AtMinimum", "fewer would do, but this is the minimum"),
        *("the recommendation is {recommended}", "{min} is the minimum", *PREDICTED),
    )
    """Hold: the minimum of the label or the configuration is reached."""
    WITHIN_TOLERANCE = (
        *("WithinTolerance", "the recommendation is within tolerance of the current count"),
        "it is {recommended}",
    )
    """Hold (``proportional``): the latency is close to its target."""
    SETTLING = "Settling", "replicas are starting, or the window still holds the time before they served"
    """Hold (``proportional``): the effect of a change is not in the window yet."""
    COOLING_DOWN = (
        *("CoolingDown", "cooldown after the last change has not expired"),
        "the recommendation is {recommended}",
    )
    """Hold: a cooldown runs."""
    SCALE_DOWN_STABILIZED = (
        *("ScaleDownStabilized", "fewer would do now, but not for a whole start-up yet"),
        *("{recommended} would do", *PREDICTED),
    )
    """Hold: fewer are enough now, but were not at every reconcile of one start-up time."""
    SCALE_DOWN_UNSAFE = (
        "ScaleDownUnsafe",
        "more are late than allowed, or wait for longer than the SLO, so that no replica is removed",
        *LATE_NOW,
    )
    """Hold: fewer would do, but more requests are late than allowed, because they waited."""
    FEWER_WERE_TOO_FEW = (
        *("FewerWereTooFew", "fewer would do by the prediction, but were too few at this load lately"),
        *("{recommended} would do", *PREDICTED),
    )
    """Hold: a lower count had to be taken back at this load, and is tried again later."""
    SCALE_CHANGED = "ScaleChanged", "another writer changed the count while this was decided; it stays"
    """Hold: another writer changed the count after it was read; the next reconcile decides anew."""
    FURTHER_METRIC_UNKNOWN = (
        *("FurtherMetricUnknown", "a further metric has no data, so nothing is scaled down"),
        "{recommended} is needed at least",
    )
    """Hold: fewer would do by all that is known, and a metric of ``also`` is unknown."""
    # hold: more would be needed, or would not help
    AT_MAXIMUM = (
        *("AtMaximum", "more is needed than the maximum"),
        *("the recommendation is {recommended}", "{max} is the maximum", *PREDICTED),
    )
    """Hold: the maximum of the label or the configuration is reached."""
    PLATFORM_CAP = (
        *("PlatformCap", "the platform does not give more"),
        *(
            "the recommendation is {recommended}",
            "the request was for {requested}",
            "the platform granted {granted}",
        ),
    )
    """Hold: the platform gives no more; the inputs ``requested`` and ``granted`` have both numbers."""
    FLEET_FULL = (
        *("FleetFull", "the replica budget saves more late requests elsewhere"),
        *("the recommendation is {recommended}", "{share} is its share", *PREDICTED),
    )
    """Hold or down: the shared replicas save more late requests elsewhere."""
    WILL_NOT_HELP = (
        *("MoreReplicasWillNotHelp", "more replicas will not help"),
        "one request alone takes {service_time_single} of {slo_latency}",
        "a batch takes {service_mean}",
        "waiting for a worker {queue_mean}",
    )
    """Hold: requests are late in execution, or the capacity is 0; look at the model and what it calls."""
    UNSCHEDULABLE = "Unschedulable", "the cluster has no room for replicas that are needed"
    """Hold: no node has room for requested replicas; the decision says what the cluster would need."""
    FURTHER_METRIC = "FurtherMetric", "a further metric needs the most", "{recommended} replicas"
    """Hold, up or down: a metric of ``also`` needs more replicas than the requests do."""
    SCHEDULED = "Scheduled", "its schedule bounds the count", "at least {min}", "at most {max}"
    """Hold, up or down: an entry of its schedule is in force, and the count is at or outside its bounds."""
    # up
    REQUESTS_WAIT = "RequestsWait", "it is at 0 replicas, and requests come in", "{waiting} wait"
    """Up, from 0: a request came in. On Knative as a class; elsewhere the platform wakes a function."""
    LOAD_ABOVE_CAPACITY = "LoadAboveCapacity", "too many would be late at this load", *PREDICTED
    """Up: at the current load more would be late than the spending window allows."""
    PEAK_EXPECTED = (
        *("PeakExpected", "too many would be late at the load that may come"),
        *("{arrival_rate} come in now, {expected} are expected", *PREDICTED),
    )
    """Up or hold: the load may rise so far within one start-up time."""
    STILL_LATE = (
        *("StillLate", "too many have been late for minutes, whatever the prediction says"),
        *LATE_NOW,
    )
    """Up: for minutes more were late than allowed, they waited, and by the prediction the count is right."""
    SLO_MISSED = "SloMissed", "the SLO is missed, and the missing replicas cannot be computed"
    """Up or hold: no capacity is known, and the objective is missed."""
    LATENCY_ABOVE_TARGET = "LatencyAboveTarget", "latency is above its target"
    """Up (``proportional``): the latency exceeds its target."""
    BELOW_MINIMUM = "BelowMinimum", "there were fewer than the minimum", "that is {min}"
    """Up: the count violated the lower bound."""
    # down
    LOAD_BELOW_CAPACITY = "LoadBelowCapacity", "fewer are enough", *PREDICTED
    """Down: fewer are enough, now and until they could be brought back."""
    NOT_WORTH_A_REPLICA = (
        *("NotWorthAReplica", "a rise may come, but is too unlikely to be worth a replica"),
        "{arrival_rate} come in now, {expected} are expected",
        *("{count}: {predicted} late", "{count_more}: {predicted_more}"),
        "a replica must save {worth} of all requests",
    )
    """Down: with fewer the predicted share is above the allowed one, but another replica saves too little of
    it."""
    LATENCY_BELOW_TARGET = "LatencyBelowTarget", "latency is well below its target"
    """Down (``proportional``): the latency is well below its target."""
    NO_TRAFFIC = "NoTraffic", "there is no traffic"
    """Down: fewer are enough, and no requests come in."""
    IDLE = "Idle", "there was no request for long enough to do without a replica"
    """Down, to 0: no request came in for ``scale_to_zero_after``."""
    ABOVE_MAXIMUM = "AboveMaximum", "there were more than the maximum", "that is {max}"
    """Down: the count violated the upper bound."""


@dataclass(frozen=True, slots=True)
class Scale:
    """The counts and bounds of one function, from the platform."""

    desired: int
    available: int
    min: int | None = None
    """Lower bound of the function's label; None without one. ``max`` is the upper bound."""
    max: int | None = None
    cap: int | None = None
    """Most replicas that the platform grants to any function; None if unknown."""
    mode: Mode = "active"
    """Mode by its label and the configuration."""
    zero_after: float | None = None
    """Seconds without a request after which the function's labels allow 0 replicas, infinity for never; None
    without such labels: ``scale_to_zero_after`` applies."""
    waiting: float | None = None
    """Requests that the platform holds for a function without replicas, whose decision ends that; None: a
    request wakes it by itself, or it has replicas."""
    schedule: times.Schedule | None = None
    """The function's own schedule; None: the configuration's."""
    hold: times.Hold | None = None
    """The function's own hold, which may be over."""
    scaler: str | None = field(default=None, compare=False)
    """Client that set the count by itself, by its name at the API; empty: a deployment or the platform did;
    None: the platform does not tell."""
    revision: str = ""
    """The revision with these counts, where a function has several in succession (on Knative)."""
    unschedulable: int | None = None
    """Replicas for which no node has room; None if the platform does not report them."""
    shortage: str = field(default="", compare=False)
    """The reason, and the resources that the cluster would need; empty if none or unknown."""
    rollout_failed: bool = field(default=False, compare=False)
    """Whether the platform has given up on a new version, while the one before serves."""
    wrong: str = field(default="", compare=False)
    """The rules that some of its keys violate, whose last good values these are; empty: none."""
    unknown: str = field(default="", compare=False)
    """Its labels and annotations of our domain that mean nothing, with the likely ones; empty: none."""
    version: str = field(default="", compare=False)
    """Opaque version of the platform's object: a write that names it cannot overwrite a newer one."""

    @property
    def pending(self) -> int:
        """Requested replicas that do not serve yet."""
        return max(0, self.desired - self.available)


@dataclass(frozen=True, slots=True)
class Forecast:
    """The prediction on which a need rests."""

    rate: float
    """Requests per second that may come."""
    allowed: float
    """Share of requests that may end late now."""
    worth: float
    """Share of all requests that a replica must keep from being late."""
    late: Callable[[int], float]
    """Predicted late share by count."""
    unbridged: Callable[[], int] | None = None
    """Count without a boost; None: no boost bridges."""


@dataclass(frozen=True, slots=True)
class Need:
    """The count that is needed when a replica requested now would serve, before any limit."""

    count: int
    because: Reason
    detail: str = ""
    """What the reason's clauses cannot say in numbers."""
    forecast: Forecast | None = None
    insists: bool = False
    """Whether the reason stands where a limit holds the count."""


@dataclass(frozen=True, slots=True)
class Hold:
    """The present count stays."""

    because: Reason
    detail: str = ""
    forecast: Forecast | None = None
    needed: bool = True
    """Whether the present count is needed; not where nothing says so, or fewer."""


@dataclass(frozen=True, slots=True)
class Change:
    """The count to request from the platform."""

    to: int
    because: Reason
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Decision:
    """What happens now, and the numbers that it was decided on."""

    step: Change | Hold
    inputs: Numbers

    @property
    def replicas(self) -> int | None:
        """The new count, or None: hold."""
        return self.step.to if isinstance(self.step, Change) else None

    @property
    def reason(self) -> Reason:
        """The reason of the change, or of the hold."""
        return self.step.because

    @property
    def detail(self) -> str:
        """What the reason's clauses cannot say in numbers: the end of a hold, the name of a metric."""
        return self.step.detail
