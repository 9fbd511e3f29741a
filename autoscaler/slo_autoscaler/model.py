"""The nouns that a reconcile passes along: what is known, what is wanted, what is done. [P]

Values only. The rules are in ``policies`` and ``decide``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

Numbers = Mapping[str, float | None]


class Reason(StrEnum):
    """Why a decision is what it is: the closed list that logs, metrics and alerts may rely on."""

    # hold: nothing can be said, or nothing may be done
    DISABLED = "Disabled"
    """The function's label com.tailbound.autoscale is "false"."""
    SCALED_TO_ZERO = "ScaledToZero"
    """Somebody wants 0 replicas; that is not undone."""
    NO_DATA = "NoData"
    """No observation, a stale one, or one without an arrival rate; the source's failure counts here."""
    NOT_MANAGED = "NotManaged"
    """There is no SLO for this function."""
    TOO_FEW_SAMPLES = "TooFewSamples"
    """Something seems wrong, but on fewer requests than ``min_samples``."""
    PARTIAL_DATA = "PartialData"
    """Some running replicas are not seen by the source, so a low rate may be an illusion."""
    # hold: all is well, or a rule says to wait
    WITHIN_RANGE = "DesiredWithinRange"
    WITHIN_TOLERANCE = "WithinTolerance"
    SETTLING = "Settling"
    """Replicas are starting, or the query window still holds the time before they served."""
    COOLING_DOWN = "CoolingDown"
    SCALE_DOWN_STABILIZED = "ScaleDownStabilized"
    """A higher count was recommended within the stabilization window."""
    SCALE_DOWN_UNSAFE = "ScaleDownUnsafe"
    """The SLO is missed now, or would be with fewer replicas."""
    BUDGET_LOW = "BudgetLow"
    """Little error budget is left, so it takes longer until a lower count is believed."""
    # hold: more would be needed, or would not help
    AT_MAXIMUM = "AtMaximum"
    PLATFORM_CAP = "PlatformCap"
    """The platform gives no more than this, whatever the labels say."""
    WILL_NOT_HELP = "MoreReplicasWillNotHelp"
    """Not even one request alone meets the SLO, or execution has become slower while nothing queues."""
    # up
    LOAD_ABOVE_CAPACITY = "LoadAboveCapacity"
    BACKLOG = "Backlog"
    RECENT_PEAK = "RecentPeak"
    """Misses at a load like this are regretted: what the recent peak needs is kept, as far as they are."""
    SLO_MISSED = "SloMissed"
    """Also a hold: the SLO is missed although the model says that there is room."""
    BURN_RATE = "BurnRate"
    """The error budget burns so fast that the sizing is not waited for."""
    LATENCY_ABOVE_TARGET = "LatencyAboveTarget"
    BELOW_MINIMUM = "BelowMinimum"
    # down
    LOAD_BELOW_CAPACITY = "LoadBelowCapacity"
    LATENCY_BELOW_TARGET = "LatencyBelowTarget"
    NO_TRAFFIC = "NoTraffic"
    IDLE = "Idle"
    """No request for ``scale_to_zero_after``, on positive evidence: down to 0."""
    ABOVE_MAXIMUM = "AboveMaximum"


@dataclass(frozen=True, slots=True)
class Observation:
    """What the source says of one function over its windows; None is no data, never zero."""

    rate: float | None = None
    """Completions per second, of every outcome."""
    gateway_rate: float | None = None
    """Requests per second that the gateway starts; None where they come in another way."""
    rate_now: float | None = None
    """Arrivals per second between the newest two scrapes, by the watchdogs' count: quick, and noisy."""
    gateway_rate_now: float | None = None
    """Likewise, by the gateway's count."""
    in_flight: float | None = None
    """Requests inside the watchdogs now."""
    in_flight_growth: float | None = None
    """Change of ``in_flight``, per second."""
    queue_length: float | None = None
    capacity: float | None = None
    """Requests per second of one replica within the SLO, as the batcher has learned it."""
    p50: float | None = None
    p95: float | None = None
    p99: float | None = None
    attainment: float | None = None
    """Share of all requests that were good; sheds, errors and expiries count as misses."""
    burn_short: float | None = None
    """Burn rate over the rate window, which is shorter than attainment's: it tells what is still going on."""
    budget_remaining: float | None = None
    """Share of the error budget that is left over the SLO's period; below 0 it is overspent."""
    samples: float | None = None
    """Requests completed in the window."""
    service_time_single: float | None = None
    """Seconds that a request alone is predicted to take a worker (upper quantile), on the median replica."""
    service_mean: float | None = None
    """Mean seconds of a batch in the window."""
    queue_mean: float | None = None
    """Mean seconds that a request waited for a worker in the window."""
    slo_latency: float | None = None
    slo_objective: float | None = None
    up_replicas: float | None = None
    """Replicas that Prometheus reaches."""
    age: float | None = None
    """Seconds since the newest sample, by Prometheus' own clock."""

    @property
    def arrival_rate(self) -> float | None:
        """Requests per second that come in: the larger of two views, since each can only miss some.

        Completions underestimate it under overload, so what piles up in flight is added; while a backlog is
        worked off they overestimate it, and what it loses is subtracted. A replica that has just started is
        not scraped for some seconds, and its share is missing until then; the gateway counts it, but nothing
        that reaches a function by another way.
        """
        if self.rate is None:
            return None
        inside = self.rate + (self.in_flight_growth or 0.0)
        return max(inside, self.gateway_rate or 0.0, 0.0)

    @property
    def arrival_rate_now(self) -> float | None:
        """Likewise, between the newest two scrapes; None where one of them was missed."""
        views = [view for view in (self.rate_now, self.gateway_rate_now) if view is not None]
        return max(0.0, *views) if views else None

    @property
    def burn(self) -> float | None:
        """How fast the error budget is spent over the window: 1 spends it exactly in the SLO's period."""
        if self.attainment is None or self.slo_objective is None or self.slo_objective >= 1.0:
            return None
        return (1.0 - self.attainment) / (1.0 - self.slo_objective)


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
