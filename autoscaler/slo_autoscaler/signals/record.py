"""Defines the numbers of a decision: one record for each observed signal and each derived number. [P]

A signal is one field of ``Observation``. From its record follow the gate, the direct reads, the query of a
gauge, lines of charts and dashboards, what holds during a boost and without replicas, the inputs of a
decision, gauges, the journal, words, the page and the reference. ``queries`` has the other queries; it
refuses to be imported without one. ``law`` fills in the derived numbers (``DERIVED``).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from enum import Enum
from statistics import median
from typing import Any, Final

LARGEST: Final = 1e18
"""No count, rate or time is as large. A function's page may say so, and what is computed of it overflows."""
LEAST: Final = 1e-9
"""Of what must be above 0."""


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


class Of(Enum):
    """Subject of a signal: says what holds of it during a boost and without replicas."""

    REPLICA = "a replica at nominal CPU: the value from before holds during a boost, and without replicas"
    FUNCTION = "the function: a boost changes nothing, and the last value holds without replicas"
    LOAD = "the load: 0 without replicas"
    MOMENT = "the last seconds, or the window of rates: unknown without replicas"
    WINDOW = "the source's window: as it is seen"


class Joined(Enum):
    """How the values of several replicas are one value."""

    SUM = "sum"
    LEAST = "min"
    MOST = "max"
    MEDIAN = "median"

    def of(self, values: Sequence[float]) -> float:
        """Return the value of all replicas. There must be one."""
        joins: dict[Joined, Callable[[Iterable[float]], float]] = {
            Joined.SUM: sum,
            Joined.LEAST: min,
            Joined.MOST: max,
            Joined.MEDIAN: median,
        }
        return joins[self](values)


@dataclass(frozen=True, slots=True)
class Shown:
    """A line of a chart on the function's page and of a panel in Grafana: the sum over all replicas."""

    chart: str
    """Key of the chart in ``charts``; the panel of the dashboard asks for it too."""
    key: str
    label: str
    role: str = "main"
    """As ``charts.Line`` has it."""


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
    in_shadow: InShadow = InShadow.SAME
    summed: Summed = Summed.NO
    clause: str | None = None
    """Clause of the sentence of every decision, whatever its reason; left out while one of its numbers is
    unknown."""
    title: str | None = None
    """Name among the numbers of the prediction on a function's page, left out while unknown; None: not
    there."""
    of: Of = Of.WINDOW
    page: str | None = None
    """Sample of a replica's page, name and labels; None: not there, or made of several samples."""
    joined: Joined | None = None
    """Of a signal with ``page``."""
    queried: bool = True
    """Whether Prometheus is queried for it: without a query of its own in ``queries``, for its ``page``."""
    within: tuple[float, float] = (0.0, LARGEST)
    """The least possible value, and the first that is too large: what is not within is no data."""
    shown: Shown | None = None
    """Needs ``page``."""

    def __post_init__(self) -> None:
        """Raise ``TypeError`` if a part of the record is missing."""
        if (self.page is None) != (self.joined is None) or (self.shown and not self.page):
            raise TypeError(f"{self.meaning!r}: page, joined and shown need each other")
        if self.joined and (self.joined is Joined.SUM) != (self.summed is not Summed.NO):
            raise TypeError(f"{self.meaning!r}: a sum over pages is summed, and nothing else is")

    def chosen(self, matcher: str) -> str:
        """Return the selector of its ``page`` with a further matcher."""
        name, brace, labels = (self.page or "").partition("{")
        return f"{name}{{{matcher}{f',{labels}' if brace else '}'}"


def _signal(unit: Unit, of: Of, meaning: str, **record: Any) -> Any:
    return field(default=None, metadata={"signal": Signal(unit, meaning, of=of, **record)})


@dataclass(frozen=True, slots=True)
class Observation:
    """The signals of one function over the source's windows; None is no data, never zero.

    ``window`` takes the rates of a slow function over longer.
    """

    rate: float | None = _signal(
        Unit.RATE, Of.LOAD, "Completions of every outcome: a shed request was demand too.", summed=Summed.ALL
    )
    # The source chooses it, ``window``.
    rate_window: float | None = _signal(
        Unit.SECONDS,
        Of.MOMENT,
        "Window over which the rates were measured; null: the shortest one.",
        queried=False,
    )
    # Counted where requests start. Needs function_namespace in the gateway, for name.namespace labels.
    gateway_rate: float | None = _signal(
        Unit.RATE,
        Of.MOMENT,
        "Arrivals at the gateway, which include those of replicas that are not scraped yet.",
        summed=Summed.GATEWAYS,
    )
    rate_now: float | None = _signal(
        Unit.RATE,
        Of.MOMENT,
        "Arrivals between the newest two scrapes, by the watchdogs: noisy, but a step shows in full.",
        summed=Summed.ALL,
        within=(-LARGEST, LARGEST),
    )
    gateway_rate_now: float | None = _signal(
        Unit.RATE,
        Of.MOMENT,
        "Arrivals between the newest two scrapes, by the gateway.",
        summed=Summed.GATEWAYS,
    )
    # ``direct`` reads it, and the next.
    direct_rate: float | None = _signal(
        Unit.RATE,
        Of.WINDOW,
        "Arrivals of the last second or three, read directly, less three standard deviations of chance; only "
        "between reconciles, if the replicas cannot serve them.",
        queried=False,
    )
    direct_in_flight: float | None = _signal(
        Unit.COUNT,
        Of.WINDOW,
        "Requests inside the function, read directly between reconciles: for a boost.",
        queried=False,
    )
    in_flight: float | None = _signal(
        Unit.COUNT,
        Of.LOAD,
        "Requests inside the watchdogs now.",
        in_shadow=InShadow.BY_LOAD,
        summed=Summed.ALL,
        page="http_requests_in_flight",
        joined=Joined.SUM,
        shown=Shown("queue", "in_flight", "in flight", "area"),
    )
    in_flight_growth: float | None = _signal(
        Unit.RATE,
        Of.LOAD,
        "Growth of `in_flight`: under overload arrivals exceed completions by it.",
        summed=Summed.ALL,
        within=(-LARGEST, LARGEST),
    )
    stalled: float | None = _signal(
        Unit.COUNT,
        Of.LOAD,
        "Lower bound of the requests in flight for the whole window of rates, which no counter shows yet. "
        "They are misses if the SLO is shorter than the window. Streams that run are none of them.",
        in_shadow=InShadow.UNKNOWN,
        summed=Summed.ALL,
    )
    queue_length: float | None = _signal(
        Unit.COUNT,
        Of.LOAD,
        "Requests that wait for a worker.",
        in_shadow=InShadow.BY_LOAD,
        summed=Summed.ALL,
        page="watchdog_queue_length",
        joined=Joined.SUM,
        shown=Shown("queue", "waiting", "waiting for a worker"),
    )
    capacity: float | None = _signal(
        Unit.RATE,
        Of.REPLICA,
        "Requests per second with which one replica still meets the objective, as its watchdog estimates.",
        gauge="slo_autoscaler_capacity_requests_per_second",
        page="watchdog_capacity_requests_per_second",
        joined=Joined.MEDIAN,
        shown=Shown("load", "capacity", "capacity", "limit"),
    )
    concurrency: float | None = _signal(
        Unit.COUNT,
        Of.REPLICA,
        "Streams that one replica holds with each piece within its interval, as its watchdog estimates; only "
        "of a function that streams.",
        page="watchdog_concurrency",
        joined=Joined.MEDIAN,
        shown=Shown("streams", "held", "held within the interval", "limit"),
    )
    p95: float | None = _signal(
        Unit.SECONDS,
        Of.WINDOW,
        "95th percentile of the latency of successes: quick refusals would make overload look good. Of a "
        "function that streams: to the first piece, of requests that name no class.",
        in_shadow=InShadow.BY_LOAD,
    )
    p99: float | None = _signal(
        Unit.SECONDS,
        Of.WINDOW,
        "The 99th percentile likewise.",
        in_shadow=InShadow.BY_LOAD,
        clause="{p99_of} {p99} of {slo_latency}",
    )
    interval_p99: float | None = _signal(
        Unit.SECONDS,
        Of.WINDOW,
        "99th percentile of the time between two pieces of a stream, of requests that name no class.",
        in_shadow=InShadow.BY_LOAD,
        clause="interval p99 {interval_p99} of {slo_interval}",
    )
    attainment: float | None = _signal(
        Unit.SHARE,
        Of.WINDOW,
        "Share of requests within the SLO; shed, failed and expired ones count as misses.",
        clause="{attainment} within the SLO of {slo_objective}",
    )
    burn_short: float | None = _signal(
        Unit.FACTOR,
        Of.WINDOW,
        "Share of late requests (slow, shed or expired; errors are not late) over the share that the "
        "objective allows, in the window of rates.",
        in_shadow=InShadow.UNKNOWN,
    )
    budget_remaining: float | None = _signal(
        Unit.SHARE,
        Of.WINDOW,
        "Error budget of 30 days left, of the class with the least; below 0 overspent. Needs the recording "
        "rules.",
        in_shadow=InShadow.UNKNOWN,
        clause="{budget_remaining} of the error budget of 30 days unspent",
        within=(-LARGEST, LARGEST),
    )
    samples: float | None = _signal(
        Unit.COUNT, Of.WINDOW, "Requests completed in the window.", summed=Summed.ALL
    )
    # For one request: a larger batch may take longer than the SLO without being a fault.
    service_time_single: float | None = _signal(
        Unit.SECONDS,
        Of.REPLICA,
        "Predicted service time of one request alone (upper quantile), on the median replica.",
        page='watchdog_service_seconds_predicted{size="1"}',
        joined=Joined.MEDIAN,
    )
    process_start_up: float | None = _signal(
        Unit.SECONDS,
        Of.WINDOW,
        "Time from the start of a replica's process to its first ready worker, on the median replica: less "
        "than from the request for it.",
        page="watchdog_start_up_seconds",
        joined=Joined.MEDIAN,
    )
    service_mean: float | None = _signal(
        Unit.SECONDS, Of.WINDOW, "Mean service time of a batch in the window."
    )
    queue_mean: float | None = _signal(
        Unit.SECONDS,
        Of.WINDOW,
        "Mean time that a request waited for a worker in the window.",
        in_shadow=InShadow.BY_LOAD,
    )
    slo_latency: float | None = _signal(
        Unit.SECONDS,
        Of.FUNCTION,
        "Latency target of requests that name no class.",
        page='slo_latency_seconds{slo_class="default"}',
        joined=Joined.LEAST,
        within=(LEAST, LARGEST),
    )
    slo_interval: float | None = _signal(
        Unit.SECONDS,
        Of.FUNCTION,
        "Target of each piece after the first, of requests that name no class; only of streams.",
        page='slo_interval_seconds{slo_class="default"}',
        joined=Joined.LEAST,
        within=(LEAST, LARGEST),
    )
    slo_objective: float | None = _signal(
        Unit.SHARE,
        Of.FUNCTION,
        "Share of requests that must meet their SLO: the mean of the classes, weighted by requests.",
        page='slo_objective_ratio{slo_class="default"}',
        joined=Joined.MOST,
        within=(LEAST, 1.0),
    )
    up_replicas: float | None = _signal(
        Unit.COUNT,
        Of.WINDOW,
        "Replicas that Prometheus reaches; fewer than `ready` are partial data.",
        in_shadow=InShadow.BY_REPLICAS,
        summed=Summed.WATCHDOGS,
    )
    rated_replicas: float | None = _signal(
        Unit.COUNT,
        Of.WINDOW,
        "Replicas that the rates include (two scrapes in the window, one of a new replica); with fewer than "
        "`ready` no scale-down relies on the rates. Right after a pause of Prometheus: 0.",
        in_shadow=InShadow.BY_REPLICAS,
        summed=Summed.WATCHDOGS,
    )
    sample_age: float | None = _signal(
        Unit.SECONDS,
        Of.WINDOW,
        "Age of the newest sample, by Prometheus' own clock.",
        within=(-LARGEST, LARGEST),
    )
    sampled_at: float | None = _signal(
        Unit.TIME,
        Of.WINDOW,
        "Time of the newest sample, by Prometheus' own clock. Unchanged: no new sample; a scrape interval "
        "later: a new one of every replica.",
    )
    scrape_ratio: float | None = _signal(
        Unit.FACTOR,
        Of.WINDOW,
        "Measured scrape interval over `prometheus.scrape_interval`; above 1.25 rates miss part of the "
        "replicas.",
        gauge="slo_autoscaler_scrape_interval_ratio",
    )

    further: tuple[float | None, ...] = ()
    """The function's further metrics, in the order of ``also``; shorter: the rest are unknown."""
    refused: tuple[str, ...] = ()
    """Why signals that the source has are no data, as ``gate`` found."""

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
    def held(self) -> float | None:
        """Requests that one replica holds with the objective met; None without a capacity.

        Its streams where the function streams, for as long as they take. Else by Little's law those that it
        answers within the SLO.
        """
        if self.capacity is None:
            return None
        return self.capacity * (self.slo_latency or 0.0) if self.concurrency is None else self.concurrency

    @property
    def burn_rate(self) -> float | None:
        """Burn rate over the window: 1 spends the error budget exactly in the SLO's period."""
        if self.attainment is None or self.slo_objective is None or self.slo_objective >= 1.0:
            return None
        return (1.0 - self.attainment) / (1.0 - self.slo_objective)


SIGNALS: Final[Mapping[str, Signal]] = {
    each.name: each.metadata["signal"] for each in fields(Observation) if each.metadata
}
"""Field of ``Observation`` -> its record."""

ON_PAGE: Final[Mapping[str, Signal]] = {name: signal for name, signal in SIGNALS.items() if signal.page}
"""The signals that a replica's page tells."""


def signals_of(*subjects: Of) -> tuple[str, ...]:
    """Return the signals of these subjects."""
    return tuple(name for name, signal in SIGNALS.items() if signal.of in subjects)


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
    "late": Signal(
        Unit.SHARE,
        "Share of requests that were late because they waited, in the window of rates; null: none is known.",
    ),
    "worth": Signal(
        Unit.SHARE,
        "Share of all requests that one more replica must keep from being late to be recommended.",
        title="Worth of a replica",
    ),
    "allowed": Signal(
        Unit.SHARE,
        "Share of requests that the spending window allows to end late now.",
        gauge="slo_autoscaler_allowed_late_ratio",
        title="Allowed now",
    ),
    "unspent": Signal(
        Unit.SHARE,
        "Unspent share of the spending window (`budget_period`): 0 even, below 0 overspent; null: no "
        "request.",
        gauge="slo_autoscaler_spending_window_unspent_ratio",
        restored="min",
        clause="{unspent} of the spending window unspent",
        title="Spending window",
    ),
    "correction": Signal(
        Unit.FACTOR,
        "Factor on the exported capacity with which the predictions agree with the measured lateness.",
        gauge="slo_autoscaler_correction_ratio",
        restored="min",
        clause="measured capacity: {correction} times the exported one",
        title="Measured capacity",
    ),
    "start_up": Signal(
        Unit.SECONDS,
        "Time from requesting a replica to its first answer, as observed.",
        gauge="slo_autoscaler_start_up_seconds",
        restored="max",
    ),
    "new_node_start_up": Signal(
        Unit.SECONDS,
        "The same of replicas that waited for a node, which counts while one does.",
        gauge="slo_autoscaler_new_node_start_up_seconds",
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
    "boost": Signal(
        Unit.FACTOR,
        "Highest CPU of the serving replicas since the last reconcile, as a multiple of their nominal limit.",
        clause="boosted to {boost} x CPU",
        title="Boost",
    ),
    "unbridged": Signal(
        Unit.COUNT,
        "Replicas that would be recommended if no boost bridged jumps; null: none does.",
        clause="a boost bridges jumps; {unbridged} replicas would be recommended without it",
        title="Replicas without a boost",
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
    "waiting": Signal(
        Unit.COUNT, "Requests at Knative's activators for a function without replicas; null: it has some."
    ),
    "min": Signal(Unit.COUNT, "Lowest count allowed."),
    "max": Signal(Unit.COUNT, "Highest count allowed, by label, configuration or platform."),
    "share": Signal(
        Unit.COUNT,
        "Replicas that the replica budget gives the function.",
        gauge="slo_autoscaler_fleet_share_replicas",
        clause="its share of the replica budget is {share}",
        title="Share of the replica budget",
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

Entry = tuple[float, float]
"""(seconds, value)"""


@dataclass(frozen=True, slots=True)
class Recorded:
    """History of one function: (seconds ago, value), in any order; empty: unknown."""

    rate: tuple[Entry, ...] = ()
    """Arrivals per second."""
    start_up: tuple[Entry, ...] = ()
    """Start-up time in seconds, as the earlier autoscaler exported it."""
    new_node_start_up: tuple[Entry, ...] = ()
    """That of replicas that waited for a node, likewise."""
    correction: tuple[Entry, ...] = ()
    """Factor on the exported capacity, likewise."""
    unspent: tuple[Entry, ...] = ()
    """Unspent share of the spending window, likewise."""
