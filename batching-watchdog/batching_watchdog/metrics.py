"""Every metric of the watchdog: name, labels, buckets, help.

The autoscaler, the rules and the dashboards know the watchdog by these names alone (tests/contract holds them
together). The first three are of-watchdog's. One process measures, so there is no multiprocess mode; and
since a request touches several of them, they are plain numbers here that become prometheus-client families
only when somebody scrapes.
"""

import math
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from batching_watchdog.engine.capacity import CpuCost, Reading
from batching_watchdog.engine.latency import LatencyModel
from batching_watchdog.errors import REFUSALS
from batching_watchdog.messages import DispatchReason

DEFAULT_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""of-watchdog's and the gateway's."""
SLO_FRACTIONS: Final = (0.1, 0.25, 0.5, 0.75, 0.9, 1.0, 1.25, 1.5, 2.0, 4.0)
"""Further edges, as multiples of slo_latency. One lies exactly on it: attainment needs no interpolation."""
OUTCOMES: Final = ("good", "slow", "error", "shed", "expired")
STATES: Final = ("starting", "idle", "busy")
METHODS: Final = frozenset(("connect", "delete", "get", "head", "options", "patch", "post", "put", "trace"))


class Histogram:
    """Counts per bucket and their sum; ``edges`` are upper bounds, ascending, without +Inf."""

    __slots__ = ("counts", "edges", "total")

    def __init__(self, edges: tuple[float, ...]) -> None:
        self.edges = edges
        self.counts = [0] * (len(edges) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count ``value`` in the first bucket whose edge is not below it."""
        self.counts[bisect_left(self.edges, value)] += 1
        self.total += value

    def cumulative(self) -> list[tuple[str, float]]:
        """(le, count) pairs, as the exposition wants them."""
        running, pairs = 0, []
        for edge, count in zip((*map(str, self.edges), "+Inf"), self.counts, strict=True):
            running += count
            pairs.append((edge, float(running)))
        return pairs


class Metrics(Collector):
    """What is counted, and the collector that shows it. Gauges are read from callables at scrape time."""

    def __init__(
        self,
        *,
        slo_latency: float,
        slo_objective: float,
        workers: int,
        model: LatencyModel,
        cpus: float = math.inf,
    ) -> None:
        self._slo_latency = slo_latency
        self._slo_objective = slo_objective
        self._workers = workers
        self._model = model
        self._cpus = cpus
        self.cost = CpuCost(model.max_batch_size)
        edges = tuple(sorted({*DEFAULT_BUCKETS, *(round(slo_latency * f, 9) for f in SLO_FRACTIONS)}))
        self._edges = edges
        self.in_flight = 0
        self.durations = {("200", "post"): Histogram(edges)}
        self._durations: dict[tuple[int, bytes], Histogram] = {}
        self.outcomes = dict.fromkeys(OUTCOMES, 0)
        self.dispatches = dict.fromkeys(map(str, DispatchReason), 0)
        self.refusals = dict.fromkeys((error.reason for error in REFUSALS), 0)
        self.batch_size = Histogram((1, 2, 4, 8, 16, 32, 64, 128, 256))
        self.queue_seconds = Histogram((0.0005, 0.001, 0.0025, *edges))
        self.service_seconds = Histogram((0.0005, 0.001, 0.0025, *edges))
        self._queue_length: Callable[[], int] = lambda: 0
        self._workers_by_state: Callable[[], dict[str, int]] = lambda: dict.fromkeys(STATES, 0)
        self._restarts: Callable[[], int] = lambda: 0
        self._recycled: Callable[[], int] = lambda: 0
        self._resident_bytes: Callable[[], dict[int, int]] = dict
        self._cpu: Callable[[], tuple[float, float]] | None = None

    def read_gauges(
        self,
        *,
        queue_length: Callable[[], int],
        workers: Callable[[], dict[str, int]],
        restarts: Callable[[], int],
        recycled: Callable[[], int] = lambda: 0,
        resident_bytes: Callable[[], dict[int, int]] = dict,
        cpu: Callable[[], tuple[float, float]] | None = None,
    ) -> None:
        """Where to read, at scrape time, what others know already.

        ``cpu`` gives the time, and the CPU time of the front, in seconds.
        """
        self._queue_length, self._workers_by_state, self._restarts = queue_length, workers, restarts
        self._recycled, self._resident_bytes, self._cpu = recycled, resident_bytes, cpu

    def request_finished(self, status: int, method: bytes, seconds: float, outcome: str | None) -> None:
        """Count an answer. ``outcome`` is None for what is no request of the SLO (a client's broken one)."""
        histogram = self._durations.get((status, method))
        if histogram is None:
            histogram = self._new_duration(status, method)
        histogram.observe(seconds)
        if outcome is not None:
            self.outcomes[outcome] += 1

    def _new_duration(self, status: int, method: bytes) -> Histogram:
        """The histogram of a status and a method; methods that are not HTTP's share one."""
        name = method.decode("latin-1").lower()
        key = (str(status), name if name in METHODS else "unknown")
        histogram = self.durations.setdefault(key, Histogram(self._edges))
        if key[1] == name:
            self._durations[status, method] = histogram
        return histogram

    def batch_dispatched(self, size: int, reason: DispatchReason) -> None:
        """Count a batch that leaves for a worker."""
        self.dispatches[reason] += 1
        self.batch_size.observe(size)

    def refused(self, reason: str) -> None:
        """Count a refusal, if ``reason`` is one: other errors are the client's or the function's."""
        if reason in self.refusals:
            self.refusals[reason] += 1

    def collect(self) -> Iterator[Metric]:
        """Everything as prometheus-client families."""
        requests = CounterMetricFamily("http_requests", "Requests answered.", labels=("code", "method"))
        durations = HistogramMetricFamily(
            "http_request_duration_seconds",
            "Seconds from the arrival of a request to its answer.",
            labels=("code", "method"),
        )
        for key, histogram in self.durations.items():
            requests.add_metric(key, sum(histogram.counts))
            durations.add_metric(key, histogram.cumulative(), histogram.total)
        yield requests
        yield durations
        yield _gauge("http_requests_in_flight", "Requests received and not yet answered.", self.in_flight)
        yield _gauge("slo_latency_seconds", "The latency target of this function.", self._slo_latency)
        yield _gauge(
            "slo_objective_ratio", "The share of requests that must meet the target.", self._slo_objective
        )
        yield _counter(
            "slo_requests",
            "Requests by what they mean for the SLO: all but good ones miss it.",
            "outcome",
            self.outcomes,
        )
        yield _histogram("watchdog_batch_size", "Requests per batch.", self.batch_size)
        yield _histogram(
            "watchdog_queue_seconds", "Seconds a request waited for a worker.", self.queue_seconds
        )
        yield _histogram(
            "watchdog_service_seconds", "Seconds a worker took for a batch.", self.service_seconds
        )
        yield _counter("watchdog_dispatch", "Batches by why they left the queue.", "reason", self.dispatches)
        yield _counter("watchdog_refusals", "Requests refused or given up, by why.", "reason", self.refusals)
        yield _gauge("watchdog_queue_length", "Requests that wait for a worker.", self._queue_length())
        workers = GaugeMetricFamily("watchdog_workers", "Worker processes by state.", labels=("state",))
        for state, count in self._workers_by_state().items():
            workers.add_metric((state,), count)
        yield workers
        capacity = self._capacity()
        yield _gauge(
            "watchdog_capacity_requests_per_second",
            "Requests per second sustained within the SLO; NaN until learned, 0 if not even one fits.",
            float("nan") if capacity is None else capacity,
        )
        predicted = GaugeMetricFamily(
            "watchdog_service_seconds_predicted",
            "Upper quantile of the service time of a batch of this size, as learned.",
            labels=("size",),
        )
        for size in self._model.sizes_learned():
            predicted.add_metric((str(size),), self._model.predict(size))
        yield predicted
        yield CounterMetricFamily(
            "watchdog_worker_restarts", "Workers that died and were replaced.", value=self._restarts()
        )
        yield CounterMetricFamily(
            "watchdog_workers_recycled", "Workers replaced after max_requests.", value=self._recycled()
        )
        resident = GaugeMetricFamily(
            "watchdog_worker_resident_bytes",
            "Resident memory of the worker in this slot; what workers share counts in each.",
            labels=("worker",),
        )
        for slot, size in sorted(self._resident_bytes().items()):
            resident.add_metric((str(slot),), size)
        yield resident

    def _capacity(self) -> float | None:
        if self._cpu is not None:
            served = self.outcomes["good"] + self.outcomes["slow"] + self.outcomes["error"]
            self.cost.read(Reading(*self._cpu(), served, sum(self.service_seconds.counts)))
        found = self._model.sustained(self._workers, self._slo_latency)
        return None if found is None else self.cost.bound(*found, self._cpus)


class Exposition:
    """The text that /metrics answers: ours, and the process metrics every Prometheus user expects."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self, metrics: Metrics) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(metrics)
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        GCCollector(registry=self._registry)

    def text(self) -> bytes:
        """The exposition now."""
        return generate_latest(self._registry)


def _gauge(name: str, help_: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, help_, value=value)


def _counter(name: str, help_: str, label: str, values: Mapping[str, int]) -> CounterMetricFamily:
    family = CounterMetricFamily(name, help_, labels=(label,))
    for key, value in values.items():
        family.add_metric((key,), value)
    return family


def _histogram(name: str, help_: str, histogram: Histogram) -> HistogramMetricFamily:
    return HistogramMetricFamily(name, help_, buckets=histogram.cumulative(), sum_value=histogram.total)
