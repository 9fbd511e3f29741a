"""Every metric of the watchdog: name, kind, help, labels, buckets, one row each.

The autoscaler, the rules and the dashboards know the watchdog by these names alone (tests/contract holds them
together). The first three are of-watchdog's. One process measures, so there is no multiprocess mode; and
since a request touches several of them, they are plain numbers here that become prometheus-client families
only when somebody scrapes.
"""

import math
import secrets
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar
from prometheus_client.utils import floatToGoString

from batching_watchdog.engine.capacity import Capacity, Reading, Sustained
from batching_watchdog.engine.streams import Steady, Streams
from batching_watchdog.errors import REFUSALS
from batching_watchdog.function.messages import BEST_EFFORT, DEFAULT_CLASS, DispatchReason, Target

DEFAULT_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""of-watchdog's and the gateway's."""
SLO_FRACTIONS: Final = (0.1, 0.25, 0.5, 0.75, 0.9, 1.0, 1.25, 1.5, 2.0, 4.0)
"""Further edges, as multiples of slo_latency. One lies exactly on it: attainment needs no interpolation."""
SHORT_BUCKETS: Final = (0.0005, 0.001, 0.0025)
"""Further edges of what can be much shorter than a request."""
SIZE_BUCKETS: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256)
OUTCOMES: Final = ("good", "slow", "error", "shed", "expired")
BEST_EFFORT_OUTCOMES: Final = ("good", "error", "shed", "expired", "client_error", "abandoned")
JOIN_REASONS: Final = (DispatchReason.IDLE, DispatchReason.JOIN, DispatchReason.LATE)
LATE_PIECES: Final = ("first", "later")
CANCEL_REASONS: Final = ("client_left", "slow_reader", "expired", "shutting_down")
ANSWERED: Final = frozenset(("good", "slow"))
UNITS: Final = ("seconds", "bytes", "ratio")
"""Where a name ends with one of these, OpenMetrics has it as the metric's unit."""
UNCONNECTED: Final[Mapping[str, Callable[[], Any]]] = {
    **dict.fromkeys(
        (
            *("queue_length", "batch_ceiling", "log_lines_dropped"),
            *("worker_restarts", "workers_recycled", "workers_sick"),
        ),
        int,
    ),
    **dict.fromkeys(("workers", "worker_resident_bytes", "spans"), dict),
}
"""Gauges before those who know them are there."""
METHODS: Final = frozenset(("connect", "delete", "get", "head", "options", "patch", "post", "put", "trace"))


class Traced(NamedTuple):
    """What an exemplar tells of a request beside its value."""

    trace_id: str
    moment: float
    """When it was answered, in seconds since 1970."""


class Histogram:
    """Counts per bucket and their sum; ``edges`` are upper bounds, ascending, without +Inf."""

    __slots__ = ("counts", "edges", "exemplars", "total")

    def __init__(self, edges: tuple[float, ...]) -> None:
        self.edges = edges
        self.counts = [0] * (len(edges) + 1)
        self.total = 0.0
        self.exemplars: dict[int, tuple[float, Traced]] = {}
        """Value and trace of the newest request of each bucket whose trace is recorded."""

    def observe(self, value: float) -> None:
        """Count ``value`` in the first bucket whose edge is not below it."""
        self.counts[bisect_left(self.edges, value)] += 1
        self.total += value

    def remember(self, value: float, traced: Traced) -> None:
        """Keep an observation as the exemplar of its bucket."""
        self.exemplars[bisect_left(self.edges, value)] = value, traced

    def cumulative(self) -> list[tuple[str, float, Exemplar | None]]:
        """(le, count, exemplar) per bucket, as the exposition wants them."""
        running, buckets = 0, []
        for index, (edge, count) in enumerate(zip((*self.edges, math.inf), self.counts, strict=True)):
            running += count
            le: str = floatToGoString(edge)  # type: ignore[no-untyped-call]
            exemplar = None
            if index in self.exemplars:
                value, traced = self.exemplars[index]
                exemplar = Exemplar({"trace_id": traced.trace_id}, value, round(traced.moment, 3))
            buckets.append((le, float(running), exemplar))
        return buckets


def _around(target: float) -> Histogram:
    """Return a histogram whose edges are multiples of ``target`` seconds."""
    return Histogram(tuple(round(target * fraction, 9) for fraction in SLO_FRACTIONS))


class Metrics(Collector):
    """What is counted, and the collector that shows it."""

    def __init__(self, slos: Mapping[str, Target], capacity: Capacity) -> None:
        """``slos``: by class, ``DEFAULT_CLASS`` among them.

        Classes of best effort have counters of their own. They are in no metric that asks for replicas.
        """
        self.slos = {name: target for name, target in slos.items() if target != BEST_EFFORT}
        self.best_effort = dict.fromkeys(BEST_EFFORT_OUTCOMES, 0) if len(self.slos) < len(slos) else {}
        self.best_effort_seconds = 0.0
        self.best_effort_batches = 0
        self.capacity = capacity
        self.streams: Streams | None = None
        """Of a function that streams: its engine."""
        self.joins: dict[str, int] = {}
        self.late_streams: dict[tuple[str, str], int] = {}
        self.stream_cancels: dict[str, int] = {}
        self.first_piece_seconds: dict[str, Histogram] = {}
        self.piece_interval_seconds: dict[str, Histogram] = {}
        self.identity = float(secrets.randbits(53))
        """Exact in a float. A start time would not tell replicas apart: those of a scale-up share it."""
        self.gauges: Mapping[str, Callable[[], Any]] = UNCONNECTED
        """Where to read, when scraped, what others know: by the metric's name without ``watchdog_``."""
        self.cpu: Callable[[], tuple[float, float]] | None = None
        """The time, and the CPU time of the front end, in seconds."""
        self.start_up_seconds = math.nan
        self._edges = tuple(sorted({*DEFAULT_BUCKETS, *_around(slos[DEFAULT_CLASS].latency).edges}))
        self.in_flight = 0
        self.handled = 0
        """Ended requests, and pieces of streams after the first, of every class: the front end's work."""
        self.http_requests = {("200", "post"): 0}
        self.durations = {"200": Histogram(self._edges)}
        self._answers: dict[tuple[int, bytes], tuple[tuple[str, str], Histogram]] = {}
        """By status and method: the key of its count, and its histogram."""
        self.outcomes = {(name, outcome): 0 for name in self.slos for outcome in OUTCOMES}
        self.class_durations = {
            name: _around(target.latency) for name, target in self.slos.items() if len(self.slos) > 1
        }
        self.abandoned_requests = 0
        self.client_errors = 0
        self.client_deadlines = {"met": 0, "missed": 0}
        self.dispatch = dict.fromkeys(map(str, DispatchReason), 0)
        self.refusals = dict.fromkeys((error.reason for error in REFUSALS), 0)
        self.weight_failures = 0
        self.batch_size = Histogram(SIZE_BUCKETS)
        self.queue_seconds = Histogram((*SHORT_BUCKETS, *self._edges))
        self.service_seconds = Histogram((*SHORT_BUCKETS, *self._edges))

    def request_finished(
        self, status: int, method: bytes, seconds: float, outcome: str | None, slo_class: str = DEFAULT_CLASS
    ) -> None:
        """Count an answer. ``outcome`` is None for what is no request of the SLO (a client's broken one)."""
        self.handled += 1
        if slo_class not in self.slos:
            self.best_effort[outcome or "client_error"] += 1
            return
        key, histogram = self._answers.get((status, method)) or self._new_answer(status, method)
        self.http_requests[key] += 1
        histogram.observe(seconds)
        if outcome is not None:
            self.outcomes[slo_class, outcome] += 1
            if self.class_durations and outcome in ANSWERED:
                self.class_durations[slo_class].observe(seconds)

    def request_abandoned(self, outcome: str | None, slo_class: str) -> None:
        """Count a request whose client left; ``outcome`` is None before the deadline of its class."""
        self.handled += 1
        if slo_class not in self.slos:
            self.best_effort["abandoned"] += 1
        elif outcome is None:
            self.abandoned_requests += 1
        else:
            self.outcomes[slo_class, outcome] += 1

    def client_deadline(self, *, met: bool) -> None:
        """Count a request whose client wanted it before the deadline of its class."""
        self.client_deadlines["met" if met else "missed"] += 1

    def request_traced(self, status: int, method: bytes, seconds: float, traced: Traced) -> None:
        """Keep a request that was counted, and whose trace is recorded, as the exemplar of its latency."""
        _, histogram = self._answers.get((status, method)) or self._new_answer(status, method)
        histogram.remember(seconds, traced)

    def _new_answer(self, status: int, method: bytes) -> tuple[tuple[str, str], Histogram]:
        """Return the key of a status and a method, and the status' histogram; other methods share a key."""
        name, code = method.decode("latin-1").lower(), str(status)
        key = (code, name if name in METHODS else "unknown")
        self.http_requests.setdefault(key, 0)
        answer = key, self.durations.setdefault(code, Histogram(self._edges))
        if key[1] == name:
            self._answers[status, method] = answer
        return answer

    def stream(self, streams: Streams) -> None:
        """Count streams from now on."""
        self.streams = streams
        self.joins = dict.fromkeys(JOIN_REASONS, 0)
        self.stream_cancels = dict.fromkeys(CANCEL_REASONS, 0)
        self.late_streams = {(name, piece): 0 for name in self.slos for piece in LATE_PIECES}
        self.first_piece_seconds = {name: _around(target.latency) for name, target in self.slos.items()}
        self.piece_interval_seconds = {name: _around(target.interval) for name, target in self.slos.items()}

    def piece_sent(self, seconds: float, slo_class: str, *, first: bool) -> None:
        """Count a piece of a stream, ``seconds`` after the arrival of its request or the piece before."""
        self.handled += not first  # the first one counts as its request, at its end
        if slo_class in self.slos:
            histograms = self.first_piece_seconds if first else self.piece_interval_seconds
            histograms[slo_class].observe(seconds)

    @property
    def concurrency(self) -> float:
        """Streams that the workers hold within their interval; NaN until learned."""
        return math.nan if self.streams is None else self._steady(self.streams).concurrency

    def batch_served(self, seconds: float, *, best_effort: bool) -> None:
        """Count a batch that a worker has ended."""
        if best_effort:
            self.best_effort_seconds += seconds
            self.best_effort_batches += 1
        else:
            self.service_seconds.observe(seconds)

    def batch_dispatched(self, size: int, reason: DispatchReason) -> None:
        """Count a batch that leaves for a worker."""
        self.dispatch[reason] += 1
        self.batch_size.observe(size)

    def refused(self, reason: str) -> None:
        """Count a refusal, if ``reason`` is one: other errors are the client's or the function's."""
        if reason in self.refusals:
            self.refusals[reason] += 1

    def requests_per_second(self) -> float:
        """Requests per second with which the objective is still met; NaN until learned."""
        if self.cpu is not None:
            now, front = self.cpu()
            batches = sum(self.service_seconds.counts) + self.best_effort_batches
            reading = Reading(now, front - self.capacity.search_seconds, self.handled, batches)
            self.capacity.cost.read(reading)
        if self.streams is not None:
            return self._steady(self.streams).rate
        return self.capacity.requests_per_second()

    def _steady(self, streams: Streams) -> Steady:
        """Return what the workers sustain, limited by the front end and the cores."""
        steady, capacity = streams.steady(), self.capacity
        pieces = Sustained(steady.rate * steady.pieces, math.inf, steady.cpu_seconds)
        if not pieces.rate > 0.0:
            return steady
        share = capacity.cost.bound(pieces, capacity.cpus) / pieces.rate
        return steady._replace(rate=share * steady.rate, concurrency=share * steady.concurrency)

    def collect(self) -> Iterator[Metric]:
        """Everything as prometheus-client families."""
        for row in ROWS:
            yield row.family(self)


@dataclass(frozen=True, slots=True)
class Row:
    """One metric: the field of ``Metrics``, or the entry of its ``gauges``, with this name."""

    name: str
    """Without the ``_total`` of a counter; the field is also without ``watchdog_``."""
    kind: Callable[..., Any]
    help: str
    labels: tuple[str, ...] = ()
    read: Callable[[Metrics], Any] | None = None
    """In place of the field: a number, a ``Histogram``, or with labels a mapping from their values to one."""

    def family(self, metrics: Metrics) -> Metric:
        """The metric now."""
        unit = self.name.rpartition("_")[2]
        family: Any = self.kind(self.name, self.help, labels=self.labels, unit=unit if unit in UNITS else "")
        samples = self._value(metrics)
        for labels, value in samples.items() if self.labels else (((), samples),):
            names = labels if isinstance(labels, tuple) else (str(labels),)
            parts = (value.cumulative(), value.total) if isinstance(value, Histogram) else (value,)
            family.add_metric(names, *parts)
        result: Metric = family
        return result

    def _value(self, metrics: Metrics) -> Any:
        if self.read is not None:
            return self.read(metrics)
        field = self.name.removeprefix("watchdog_")
        gauge = metrics.gauges.get(field)
        return getattr(metrics, field) if gauge is None else gauge()


COUNTER, GAUGE, HISTOGRAM = CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

ROWS: Final = (
    Row(
        "http_requests",
        COUNTER,
        "Requests answered.",
        ("code", "method"),
    ),
    Row(
        "http_request_duration_seconds",
        HISTOGRAM,
        "Seconds from the last byte of a request to its answer.",
        ("code",),
        read=lambda m: m.durations,
    ),
    Row(
        "http_requests_in_flight",
        GAUGE,
        "Requests received and not yet answered.",
        read=lambda m: m.in_flight,
    ),
    Row(
        "slo_latency_seconds",
        GAUGE,
        "The latency target of this function, and of each of its SLO classes.",
        ("slo_class",),
        read=lambda m: {name: target.latency for name, target in m.slos.items()},
    ),
    Row(
        "slo_objective_ratio",
        GAUGE,
        "The share of requests that must meet the target.",
        ("slo_class",),
        read=lambda m: {name: target.objective for name, target in m.slos.items()},
    ),
    Row(
        "slo_requests",
        COUNTER,
        "Requests by outcome; all but good ones miss the SLO.",
        ("slo_class", "outcome"),
        read=lambda m: m.outcomes,
    ),
    Row(
        "slo_request_duration_seconds",
        HISTOGRAM,
        "Seconds from the arrival of a good or slow request to its answer; only where classes are declared.",
        ("slo_class",),
        read=lambda m: m.class_durations,
    ),
    Row(
        "watchdog_best_effort",
        COUNTER,
        "Requests of best effort by outcome; no other metric of requests counts them.",
        ("outcome",),
    ),
    Row(
        "watchdog_best_effort_seconds",
        COUNTER,
        "Seconds that workers took for best effort: whole batches, or its share of the streams of a step.",
    ),
    Row(
        "watchdog_abandoned_requests",
        COUNTER,
        "Requests whose client left before their deadline; the SLO does not count them.",
    ),
    Row(
        "watchdog_client_errors",
        COUNTER,
        "Requests that the handler blamed on their client (BadRequest, parse); the SLO does not count them.",
    ),
    Row(
        "watchdog_client_deadlines",
        COUNTER,
        "Admitted requests whose client set a tighter deadline; a miss of it is none of the SLO.",
        ("outcome",),
    ),
    Row(
        "watchdog_weight_failures",
        COUNTER,
        "Requests for which weight(event) failed and the length of the body counted.",
    ),
    Row("watchdog_batch_size", HISTOGRAM, "Requests per batch."),
    Row("watchdog_queue_seconds", HISTOGRAM, "Seconds a request waited for a worker."),
    Row("watchdog_service_seconds", HISTOGRAM, "Seconds a worker took for a batch."),
    Row("watchdog_dispatch", COUNTER, "Batches by the reason why they left the queue.", ("reason",)),
    Row("watchdog_refusals", COUNTER, "Requests refused or expired, by reason.", ("reason",)),
    Row(
        "slo_interval_seconds",
        GAUGE,
        "The target of each piece after the first, of each SLO class; only of a function that streams.",
        ("slo_class",),
        read=lambda m: {name: target.interval for name, target in m.slos.items()} if m.streams else {},
    ),
    Row(
        "watchdog_first_piece_seconds",
        HISTOGRAM,
        "Seconds from the arrival of a request to the first piece of its stream.",
        ("slo_class",),
    ),
    Row(
        "watchdog_piece_interval_seconds",
        HISTOGRAM,
        "Seconds from one piece of a stream to the next.",
        ("slo_class",),
    ),
    Row(
        "watchdog_late_streams",
        COUNTER,
        "Streams with a late piece, by the piece that was late before any other.",
        ("slo_class", "piece"),
    ),
    Row(
        "watchdog_streams",
        GAUGE,
        "Streams that run on the workers, without those of best effort.",
        read=lambda m: m.streams.due if m.streams else 0,
    ),
    Row(
        "watchdog_concurrency",
        GAUGE,
        "Streams that the workers hold with each piece within its interval; NaN while unknown.",
    ),
    Row(
        "watchdog_joins",
        COUNTER,
        "Streams that joined a worker: while it ran none, beside others, or late.",
        ("reason",),
    ),
    Row(
        "watchdog_stream_cancels",
        COUNTER,
        "Streams that had begun and were ended by their client or the watchdog, by reason.",
        ("reason",),
    ),
    Row("watchdog_queue_length", GAUGE, "Requests that wait for a worker."),
    Row("watchdog_workers", GAUGE, "Worker processes by state.", ("state",)),
    Row(
        "watchdog_capacity_requests_per_second",
        GAUGE,
        "Requests per second with which this replica still meets the objective; NaN while unknown.",
        read=lambda m: m.requests_per_second(),
    ),
    Row(
        "watchdog_capacity_cores",
        GAUGE,
        "CPUs for which that capacity holds: the quota when it was estimated; NaN while unknown.",
        read=lambda m: m.capacity.cores if m.streams is None else m.capacity.cpus,
    ),
    Row(
        "watchdog_batch_ceiling",
        GAUGE,
        "Largest batch of every cost class: less than max_batch_size after batches that ran out of memory.",
    ),
    Row(
        "watchdog_start_up_seconds",
        GAUGE,
        "Seconds from the start of this process until its first worker could serve; NaN until then.",
    ),
    Row(
        "watchdog_service_seconds_predicted",
        GAUGE,
        "Estimated service time of a batch of this size, as deadlines are tested with it: an upper quantile.",
        ("size",),
        read=lambda m: m.capacity.times.overall.predictions(),
    ),
    Row("watchdog_worker_restarts", COUNTER, "Workers that died and were replaced."),
    Row("watchdog_workers_recycled", COUNTER, "Workers replaced after max_requests."),
    Row(
        "watchdog_workers_sick",
        COUNTER,
        "Workers replaced because their batches failed whole, and example() too where there is one.",
    ),
    Row(
        "watchdog_worker_resident_bytes",
        GAUGE,
        "Resident memory of the worker with this index; shared memory counts in each.",
        ("worker",),
    ),
    Row(
        "watchdog_log_lines_dropped",
        COUNTER,
        "Lines of the log and of the workers' output that could not be written.",
    ),
    Row(
        "watchdog_identity",
        GAUGE,
        "A random number of this process: series that share it are scrapes of one page.",
    ),
    Row(
        "watchdog_spans",
        COUNTER,
        "Spans by result: exported, failed (the receiver did not take them), dropped (no room).",
        ("result",),
    ),
)


class Exposition:
    """The text that /metrics answers: ours, and the process metrics every Prometheus user expects."""

    def __init__(self, metrics: Metrics) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(metrics)
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        GCCollector(registry=self._registry)

    def scrape(self, accept: str = "") -> tuple[bytes, str]:
        """Return the exposition now, and its Content-Type.

        ``accept``: the scraper's header. If it names OpenMetrics, the answer is that, with exemplars; else it
        is Prometheus' text format.
        """
        try:
            encode, content_type = choose_encoder(accept)
        except TypeError:  # its version is no number
            encode, content_type = choose_encoder("")
        return encode(self._registry), content_type
