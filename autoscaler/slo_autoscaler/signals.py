"""Defines the numbers of a decision: one record for each observed signal and each derived number. [P]

A signal is one field of ``Observation``. Queries, the inputs of a decision, gauges, the journal, words, the
page and the reference follow from its record. ``law`` fills in the derived numbers (``DERIVED``).

One query per signal covers every function, ``by (function_name)``. ``$W`` is the window, ``$R`` that of
rates, ``$N`` its newest two scrapes, ``$G`` the seconds for which a gauge counts, ``$F`` the matcher of
functions without a watchdog: ``sources.promql``.

- Quantiles: bucket rates are summed over replicas *before* the quantile is taken, and the sum keeps ``le``.
  Quantiles of replicas cannot be averaged; without ``le`` the result is empty.
- ``rate`` before ``sum``: a counter reset of one replica shows only in its own series.
- Attainment divides good requests by *all* outcomes: sheds, errors and expiries count as misses. Latency
  covers successes only, because quick refusals would lower it.
- SLO classes (label ``slo_class``; older watchdogs have none) are one function with one count of replicas:
  its misses are those of all classes, and the objectives of all classes give its error budget.
- A gauge counts for four scrapes, as long as a rate. Prometheus itself repeats the last sample for five
  minutes if no marker ends the series. So after a crash of Prometheus, replicas that left meanwhile would
  show a backlog and a capacity that do not exist. ``last_over_time`` ignores the markers of replicas that
  left in order, so the queries compare timestamps. The declared SLO has no such bound: a function with old
  samples has no data but still has an SLO.
- A comparison drops NaN: a replica without a learned capacity does not hide the others.
- Burn rates come from the raw counters over the autoscaler's own windows and need no rules. The error budget
  over 30 days needs the recording rules; without them it is unknown.
- Service and queueing times are means, because they are compared with baselines: a mean is exact, a quantile
  jumps between buckets.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import Enum
from typing import Any, Final


class Unit(Enum):
    """Units of numbers; ``words`` formats each."""

    SECONDS = "seconds"
    RATE = "requests per second"
    COUNT = "count"
    SHARE = "share"
    FACTOR = "factor"
    TIME = "Unix seconds"


class InShadow(Enum):
    """Conversion of a measured signal to the shadow's replicas, in shadow mode."""

    SAME = "same"
    BY_LOAD = "grows as the replicas become fewer"
    BY_REPLICAS = "as many short of the replicas that serve"
    UNKNOWN = "made of what the incumbent has missed: no data"


class Summed(Enum):
    """Pages whose values a signal adds up: with each scraped twice it is twice as high."""

    NO = "of no kind: a share, a quantile, a time"
    WATCHDOGS = "of replicas with our watchdog"
    GATEWAYS = "of gateways"
    ALL = "of replicas with our watchdog, or of gateways for functions without it"


@dataclass(frozen=True, slots=True)
class Signal:
    """One input of decisions."""

    unit: Unit
    meaning: str
    """Description in the reference, and of the gauge."""
    gauge: str | None = None
    """Name of the exported metric."""
    restored: str | None = None
    """Aggregation over autoscalers, ``min`` or ``max``, to restore the last export after a restart."""
    watchdog: str | None = None
    """Query for functions with our watchdog; None: no query."""
    new: str | None = None
    """Query for functions with new replicas, which ``watchdog`` misses; ``$F`` selects these functions."""
    gateway: str | None = None
    """Query for functions without our watchdog, which the gateway measures."""
    in_shadow: InShadow = InShadow.SAME
    summed: Summed = Summed.NO
    seldom: bool = False
    """Whether the source queries it only once in many reconciles, and repeats the answer in between."""
    clause: str | None = None
    """Clause of the sentence of every decision, whatever its reason; left out while one of its numbers is
    unknown."""
    title: str | None = None
    """Name among the numbers of the prediction on a function's page, left out while unknown; None: not
    there."""


def _signal(unit: Unit, meaning: str, **record: Any) -> Any:
    return field(default=None, metadata={"signal": Signal(unit, meaning, **record)})


def _fresh(gauge: str) -> str:
    """Return the samples of a selector that are no older than ``$G`` seconds."""
    return f"({gauge} and timestamp({gauge}) > time() - $G)"


_DECLARED: Final = 'slo_latency_seconds{slo_class=~"|default"}'
"""One series for each replica with our watchdog, scraped with its counters."""
_CHOSEN: Final = 'slo_latency_seconds{slo_class=~"|default",$F}'
"""Likewise, of chosen functions."""

_SCRAPED: Final = 'up{function_name!=""}'
"""One sample for each scrape of a replica, also of one that failed."""

_CAPACITY: Final = "watchdog_capacity_requests_per_second"
_STARTED_IN: Final = "watchdog_start_up_seconds"
_PREDICTED: Final = 'watchdog_service_seconds_predicted{size="1"}'

_STARTED: Final = "gateway_function_invocation_started{$F}"
_ENDED: Final = "gateway_function_invocation_total{$F}"
_SERVICES: Final = "gateway_service_count{$F}"
"""One series for each gateway."""

# Both counters began with the same process, so their difference is the requests under way. A function has no
# counter of ended requests until its first one ends.
_UNDER_WAY: Final = f"{_fresh(_STARTED)} - (sum without (code) ({_ENDED}) or 0 * {_STARTED})"


# A rate ignores a counter's first sample and needs two samples. But a process counts from 0, so the first
# sample of a new process is an increase as well. Otherwise the load of a new replica would be missing until
# its second scrape. This query costs several times as much, so it covers only functions with new replicas.
STARTS: Final = "process_start_time_seconds"
_PROCESS: Final = f"{STARTS}{{$F}}"
_NEW: Final = (
    f"({_PROCESS} > time() - 2 * $G and timestamp({_PROCESS}) > time() - $G / 2 unless {_PROCESS} offset $R)"
)
"""Start times of processes that did not exist a window ago and were scraped just now."""
HAS_NEW: Final = f"count by (function_name) ({_PROCESS} > time() - 2 * $G unless {_PROCESS} offset $R)"
"""Query of the functions that have such processes."""


def _scrapes(address: str, chosen: str = "") -> str:
    """Return the number of scrapes of each process with this address, in the window of rates.

    Processes of a scale-up start at the same time, and an address may be a node's. Both together are one
    process.
    """
    return f'count_values by ({address}) ("start", max_over_time({_PROCESS}[$R]){chosen})'


_IDENTITIES: Final = (
    'count_values by (function_name, job) ("identity", max_over_time(watchdog_identity{$F}[$R]))'
)
"""Jobs by the process that each scrapes. Copies restored from one snapshot share the identity: as one job
scrapes them, each counts."""
SCRAPES: Final = (
    f"avg by (function_name) (count by (function_name, identity) ({_IDENTITIES})) > 1"
    f" or avg by (function_name) ({_scrapes('function_name, instance')}) > 1"
)
"""Query of the number of jobs that scrape each replica of a function, where these are several. An older
watchdog has no identity, and is recognized at one address alone."""
GATEWAY_SCRAPES: Final = f"avg ({_scrapes('instance', ' and on (job, instance) gateway_service_count')}) > 1"
"""Likewise of the gateways; its result has no labels."""

_PART: Final = f"(timestamp({_PROCESS}) - time() + $G + clamp_min(time() - $G - {_NEW}, 0))"
"""Seconds of the window until their last scrape, or since their start if that is longer."""
_AGE: Final = f"clamp_min(timestamp({_PROCESS}) - {_NEW}, $G / 4)"
"""Seconds from their start to their last scrape, an interval at least."""
_ALL: Final = "sum without (outcome, slo_class)"
_REQUESTS: Final = "slo_requests_total{$F}"
_INSIDE: Final = "http_requests_in_flight{$F}"


def _rated(series: str, new: str = "") -> str:
    """Return the count of current series that have the two samples in ``$R`` of a rate, and of ``new``."""
    return f"count by (function_name) (count_over_time({series}[$R]) >= 2 and {series}{new})"


def _scrape_ratio(series: str) -> str:
    """Return the expected scrapes in ``$M`` over the highest count in any ``$M`` of the last ``$L``.

    The highest count, because a pause of Prometheus empties some windows, not all. Series younger than ``$D``
    are left out: they may not have filled a window.
    """
    held = f"max_over_time(count_over_time({series}[$M])[$L:$M])"
    return f"$E / max by (function_name) ({held} and {series} offset $D)"


@dataclass(frozen=True, slots=True)
class Observation:
    """The signals of one function over the source's windows; None is no data, never zero."""

    rate: float | None = _signal(
        Unit.RATE,
        "Completions of every outcome: a shed request was demand too.",
        watchdog="sum by (function_name) (rate(slo_requests_total[$R]))",
        new=f"sum by (function_name) ({_ALL} ({_REQUESTS}) / {_PART} or {_ALL} (rate({_REQUESTS}[$R])))",
        # A function whose first request hangs has completed none: its rate is 0, not unknown.
        gateway=(
            f"sum by (function_name) (rate({_ENDED}[$R]))"
            f" or 0 * sum by (function_name) (rate({_STARTED}[$R]))"
        ),
        summed=Summed.ALL,
    )
    # Counted where requests start. Needs function_namespace in the gateway, for name.namespace labels.
    gateway_rate: float | None = _signal(
        Unit.RATE,
        "Arrivals at the gateway, which include those of replicas that are not scraped yet.",
        watchdog="sum by (function_name) (rate(gateway_function_invocation_started[$R]))",
        gateway=f"sum by (function_name) (rate({_STARTED}[$R]))",
        summed=Summed.GATEWAYS,
    )
    rate_now: float | None = _signal(
        Unit.RATE,
        "Arrivals between the newest two scrapes, by the watchdogs: noisy, but a step shows in full.",
        watchdog=(
            "sum by (function_name) (irate(slo_requests_total[$N]))"
            " + sum by (function_name) (deriv(http_requests_in_flight[$N]))"
        ),
        new=(
            f"sum by (function_name) ({_ALL} (irate({_REQUESTS}[$N])) or {_ALL} ({_REQUESTS}) / {_AGE})"
            f" + sum by (function_name) (deriv({_INSIDE}[$N]) or {_INSIDE} / {_AGE})"
        ),
        summed=Summed.ALL,
    )
    gateway_rate_now: float | None = _signal(
        Unit.RATE,
        "Arrivals between the newest two scrapes, by the gateway.",
        watchdog="sum by (function_name) (irate(gateway_function_invocation_started[$N]))",
        gateway=f"sum by (function_name) (irate({_STARTED}[$N]))",
        summed=Summed.GATEWAYS,
    )
    # Without a query: ``sources.direct`` reads it.
    direct_rate: float | None = _signal(
        Unit.RATE,
        "Arrivals of the last second or three, read directly, less three standard deviations of chance; only "
        "between reconciles, if the replicas cannot serve them.",
    )
    in_flight: float | None = _signal(
        Unit.COUNT,
        "Requests inside the watchdogs now.",
        watchdog=f"sum by (function_name) {_fresh('http_requests_in_flight')}",
        gateway=f"sum by (function_name) (clamp_min({_UNDER_WAY}, 0))",
        in_shadow=InShadow.BY_LOAD,
        summed=Summed.ALL,
    )
    in_flight_growth: float | None = _signal(
        Unit.RATE,
        "Growth of `in_flight`: under overload arrivals exceed completions by it.",
        watchdog="sum by (function_name) (deriv(http_requests_in_flight[$R]))",
        new=f"sum by (function_name) ({_INSIDE} / {_PART} or deriv({_INSIDE}[$R]))",
        summed=Summed.ALL,
    )
    # Both are lower bounds. A replica: the lowest count in flight, less all that it completed. A gateway: the
    # count in flight now, less all that started in the window.
    stalled: float | None = _signal(
        Unit.COUNT,
        "Lower bound of the requests in flight for the whole window of rates, which no counter shows yet. "
        "They are misses if the SLO is shorter than the window.",
        watchdog=(
            "sum by (function_name) (clamp_min(min_over_time(http_requests_in_flight[$R])"
            " - sum without (outcome, slo_class) (increase(slo_requests_total[$R])), 0)"
            f" and {_fresh('http_requests_in_flight')} and http_requests_in_flight offset $R)"
        ),
        gateway=(
            f"sum by (function_name) (clamp_min({_UNDER_WAY}"
            f" - clamp_min({_STARTED} - {_STARTED} offset $R, 0), 0))"
        ),
        in_shadow=InShadow.UNKNOWN,
        summed=Summed.ALL,
    )
    queue_length: float | None = _signal(
        Unit.COUNT,
        "Requests that wait for a worker; shown only.",
        watchdog=f"sum by (function_name) {_fresh('watchdog_queue_length')}",
        in_shadow=InShadow.BY_LOAD,
        summed=Summed.ALL,
    )
    # The median replica: one that has just learned something odd does not size the fleet. New ones often
    # start with too little CPU, and would soon be most of them: they count where no other has known its
    # capacity for a window.
    capacity: float | None = _signal(
        Unit.RATE,
        "Requests per second with which one replica still meets the objective, as its watchdog estimates.",
        gauge="slo_autoscaler_capacity_requests_per_second",
        watchdog=(
            f"quantile by (function_name) (0.5, {_fresh(_CAPACITY)} >= 0 and {_CAPACITY} offset $R >= 0)"
            f" or quantile by (function_name) (0.5, {_fresh(_CAPACITY)} >= 0)"
        ),
    )
    p95: float | None = _signal(
        Unit.SECONDS,
        "95th percentile of the latency of successes: quick refusals would make overload look good.",
        watchdog="histogram_quantile(0.95, sum by (function_name, le) ($BUCKETS))",
        gateway="histogram_quantile(0.95, sum by (function_name, le) ($GATEWAY_BUCKETS))",
        in_shadow=InShadow.BY_LOAD,
    )
    p99: float | None = _signal(
        Unit.SECONDS,
        "99th percentile of the latency of successes.",
        watchdog="histogram_quantile(0.99, sum by (function_name, le) ($BUCKETS))",
        gateway="histogram_quantile(0.99, sum by (function_name, le) ($GATEWAY_BUCKETS))",
        in_shadow=InShadow.BY_LOAD,
        clause="p99 {p99} of {slo_latency}",
    )
    attainment: float | None = _signal(
        Unit.SHARE,
        "Share of requests within the SLO; shed, failed and expired ones count as misses.",
        watchdog=(
            'sum by (function_name) (rate(slo_requests_total{outcome="good"}[$W]))'
            " / sum by (function_name) (rate(slo_requests_total[$W]))"
        ),
        gateway="$ATTAINED[$W]",
        clause="{attainment} within the SLO of {slo_objective}",
    )
    burn_short: float | None = _signal(
        Unit.FACTOR,
        "Burn rate over the window of rates, which is shorter than that of `attainment`.",
        watchdog=(
            'sum by (function_name) (rate(slo_requests_total{outcome!="good"}[$R]))'
            " / sum by (function_name) (sum by (function_name, slo_class) (rate(slo_requests_total[$R]))"
            " * (1 - max by (function_name, slo_class) (slo_objective_ratio)))"
        ),
        # The share that attained; the objective is configured.
        gateway="$ATTAINED[$R]",
        in_shadow=InShadow.UNKNOWN,
    )
    budget_remaining: float | None = _signal(
        Unit.SHARE,
        "Error budget left of 30 days, of the class with the least; below 0 overspent. Needs the recording "
        "rules.",
        watchdog="min by (function_name) (slo:error_budget_remaining:ratio)",
        in_shadow=InShadow.UNKNOWN,
        clause="{budget_remaining} of the error budget of 30 days unspent",
    )
    samples: float | None = _signal(
        Unit.COUNT,
        "Requests completed in the window.",
        watchdog="sum by (function_name) (increase(slo_requests_total[$W]))",
        gateway="sum by (function_name) (increase(gateway_function_invocation_total{$JUDGED,$F}[$W]))",
        summed=Summed.ALL,
    )
    # For one request: a larger batch may take longer than the SLO without being a fault.
    service_time_single: float | None = _signal(
        Unit.SECONDS,
        "Predicted service time of one request alone (upper quantile), on the median replica.",
        watchdog=(f"quantile by (function_name) (0.5, {_fresh(_PREDICTED)})"),
    )
    start_up_time: float | None = _signal(
        Unit.SECONDS,
        "Time from the start of a replica's process to its first ready worker, on the median replica: less "
        "than from the request for it.",
        watchdog=f"quantile by (function_name) (0.5, {_fresh(_STARTED_IN)} >= 0)",
        seldom=True,
    )
    service_mean: float | None = _signal(
        Unit.SECONDS,
        "Mean service time of a batch in the window.",
        watchdog=(
            "sum by (function_name) (rate(watchdog_service_seconds_sum[$W]))"
            " / sum by (function_name) (rate(watchdog_service_seconds_count[$W]))"
        ),
    )
    queue_mean: float | None = _signal(
        Unit.SECONDS,
        "Mean time that a request waited for a worker in the window.",
        watchdog=(
            "sum by (function_name) (rate(watchdog_queue_seconds_sum[$W]))"
            " / sum by (function_name) (rate(watchdog_queue_seconds_count[$W]))"
        ),
        in_shadow=InShadow.BY_LOAD,
    )
    # During an update old and new replicas may disagree; the stricter target holds.
    slo_latency: float | None = _signal(
        Unit.SECONDS,
        "Latency target of requests that name no class.",
        watchdog=f"min by (function_name) ({_DECLARED})",
    )
    # Gives one burn rate for all classes. Without requests: the function's own objective.
    slo_objective: float | None = _signal(
        Unit.SHARE,
        "Share of requests that must meet their SLO: the mean of the classes, weighted by requests.",
        watchdog=(
            "sum by (function_name) (sum by (function_name, slo_class) (rate(slo_requests_total[$W]))"
            " * max by (function_name, slo_class) (slo_objective_ratio))"
            " / sum by (function_name) (rate(slo_requests_total[$W])) > 0"
            ' or max by (function_name) (slo_objective_ratio{slo_class=~"|default"})'
        ),
    )
    # By the provider: the gateway sees every request, whichever replica serves it.
    up_replicas: float | None = _signal(
        Unit.COUNT,
        "Replicas that Prometheus reaches; fewer than `ready` are partial data.",
        watchdog=f"sum by (function_name) {_fresh(_SCRAPED)}",
        gateway=f"max by (function_name) {_fresh(_SERVICES)}",
        in_shadow=InShadow.BY_REPLICAS,
        summed=Summed.WATCHDOGS,
    )
    # The gateways' rates include all replicas, so the share of the gateways that are in them counts.
    rated_replicas: float | None = _signal(
        Unit.COUNT,
        "Replicas that the rates include (two scrapes in the window, one of a new replica); with fewer than "
        "`ready` no scale-down relies on the rates.",
        watchdog=_rated(_DECLARED),
        new=_rated(_CHOSEN, f" or {_CHOSEN} and ignoring (slo_class) {_NEW}"),
        gateway=(
            f"max by (function_name) {_fresh(_SERVICES)}"
            f" * {_rated(_SERVICES)} / count by (function_name) {_fresh(_SERVICES)}"
        ),
        in_shadow=InShadow.BY_REPLICAS,
        summed=Summed.WATCHDOGS,
    )
    sample_age: float | None = _signal(
        Unit.SECONDS,
        "Age of the newest sample, by Prometheus' own clock.",
        watchdog="time() - max by (function_name) (timestamp(slo_latency_seconds))",
        gateway=f"time() - max by (function_name) (timestamp({_SERVICES}))",
    )
    sampled_at: float | None = _signal(
        Unit.TIME,
        "Time of the newest sample, by Prometheus' own clock. Unchanged: no new sample; a scrape interval "
        "later: a new one of every replica.",
        watchdog="max by (function_name) (timestamp(slo_latency_seconds))",
        gateway=f"max by (function_name) (timestamp({_SERVICES}))",
    )
    scrape_ratio: float | None = _signal(
        Unit.FACTOR,
        "Measured scrape interval over `prometheus.scrape_interval`; above 1.25 rates miss part of the "
        "replicas.",
        gauge="slo_autoscaler_scrape_interval_ratio",
        watchdog=_scrape_ratio(_SCRAPED),
        gateway=_scrape_ratio(_SERVICES),
        seldom=True,
    )

    @property
    def arrival_rate(self) -> float | None:
        """Arrivals per second: the larger of two measurements, since each can only miss some.

        The watchdogs count completions. Under overload these are too few, so the growth of requests in flight
        is added; while a backlog drains they are too many, and its decrease is subtracted. The share of a
        new replica is missing until its first scrape. The gateway counts that share, but not requests that
        reach a function by another way.
        """
        if self.rate is None:
            return None
        inside = self.rate + (self.in_flight_growth or 0.0)
        return max(inside, self.gateway_rate or 0.0, 0.0)

    @property
    def arrival_rate_now(self) -> float | None:
        """Arrivals per second between the newest two scrapes, or as read directly if that is more.

        None if one of the scrapes was missed and nothing was read.
        """
        views = [view for view in (self.rate_now, self.gateway_rate_now) if view is not None]
        if self.direct_rate is not None:
            views += [self.direct_rate] if views else [self.direct_rate, self.arrival_rate or 0.0]
        return max(0.0, *views) if views else None

    @property
    def burn_rate(self) -> float | None:
        """Burn rate over the window: 1 spends the error budget exactly in the SLO's period."""
        if self.attainment is None or self.slo_objective is None or self.slo_objective >= 1.0:
            return None
        return (1.0 - self.attainment) / (1.0 - self.slo_objective)


SIGNALS: Final[Mapping[str, Signal]] = {each.name: each.metadata["signal"] for each in fields(Observation)}
"""Field of ``Observation`` -> its record."""

DERIVED: Final[Mapping[str, Signal]] = {
    "desired": Signal(Unit.COUNT, "Replicas requested from the platform."),
    "ready": Signal(Unit.COUNT, "Replicas that serve."),
    "pending": Signal(
        Unit.COUNT,
        "Replicas requested that do not serve yet.",
        clause="replicas starting: {pending} of {desired}",
    ),
    "arrival_rate": Signal(
        Unit.RATE, "The larger of `rate` + `in_flight_growth` and `gateway_rate`: neither counts too many."
    ),
    "expected": Signal(
        Unit.RATE,
        "Requests per second expected one start-up time ahead.",
        gauge="slo_autoscaler_expected_requests_per_second",
        title="Expected load",
    ),
    "predicted": Signal(
        Unit.SHARE,
        "Share of requests predicted to end late with the decided count.",
        gauge="slo_autoscaler_predicted_late_ratio",
    ),
    "predicted_fewer": Signal(
        Unit.SHARE,
        "Share of requests predicted to end late with one replica fewer than decided.",
        gauge="slo_autoscaler_predicted_late_fewer_ratio",
    ),
    "predicted_more": Signal(
        Unit.SHARE, "Share of requests predicted to end late with one replica more than decided."
    ),
    "worth": Signal(
        Unit.RATE,
        "Late requests per second that one more replica must save to be recommended.",
        title="Worth of a replica",
    ),
    "allowed": Signal(
        Unit.SHARE,
        "Share of requests that the error budget allows to end late now.",
        gauge="slo_autoscaler_allowed_late_ratio",
        title="Allowed now",
    ),
    "budget": Signal(
        Unit.SHARE,
        "Unspent share of the error budget of `budget_period`: 0 even, below 0 overspent.",
        gauge="slo_autoscaler_budget_ratio",
        restored="min",
        clause="{budget} of the period's error budget unspent",
        title="Period's budget",
    ),
    "correction": Signal(
        Unit.FACTOR,
        "Factor on the exported capacity with which the predictions agree with the measured lateness.",
        gauge="slo_autoscaler_correction_ratio",
        restored="min",
        clause="measured capacity: {correction} times the exported one",
        title="Measured capacity",
    ),
    "horizon": Signal(
        Unit.SECONDS,
        "Time from requesting a replica to its first answer, as observed.",
        gauge="slo_autoscaler_start_up_seconds",
        restored="max",
    ),
    "period": Signal(
        Unit.SECONDS,
        "Period with which the rates repeat, if they do.",
        clause="the load repeats every {period}",
        title="Repeats every",
    ),
    "burn_rate": Signal(
        Unit.FACTOR,
        "Rate at which the error budget is spent over the window; 1 spends it exactly.",
        clause="burn rate {burn_rate}",
    ),
    "stuck": Signal(
        Unit.COUNT,
        "Replicas that should serve by now and do not.",
        gauge="slo_autoscaler_stuck_replicas",
        clause="replicas not coming up: {stuck}",
        title="Stuck",
    ),
    "unschedulable": Signal(
        Unit.COUNT,
        "Replicas for which no node has room; null where the platform does not report them.",
        gauge="slo_autoscaler_unschedulable_replicas",
        clause="replicas without room on any node: {unschedulable}",
        title="No room",
    ),
    "min": Signal(Unit.COUNT, "Lowest count allowed."),
    "max": Signal(Unit.COUNT, "Highest count allowed, by label, configuration or platform."),
    "share": Signal(
        Unit.COUNT,
        "Replicas that the shared budget of the fleet gives the function.",
        gauge="slo_autoscaler_fleet_share_replicas",
        clause="its share of the fleet's replicas is {share}",
        title="Fleet's share",
    ),
    "recommended": Signal(
        Unit.COUNT,
        "Replicas that the policy recommends, before bounds, limits and stabilization.",
        gauge="slo_autoscaler_recommended_replicas",
    ),
    "requested": Signal(Unit.COUNT, "Count that the platform refused, with `PlatformCap`."),
    "granted": Signal(Unit.COUNT, "Count that the platform gave instead."),
}
"""The derived numbers."""

INPUTS: Final[Mapping[str, Signal]] = {**DERIVED, **SIGNALS}
