"""The gateway's metrics under the gateway's names, and nothing else.

Owns names, labels and buckets of what OpenFaaS' gateway exports (its ``metrics/metrics.go``):
``gateway_functions_seconds``, ``gateway_function_invocation_total``, ``gateway_function_invocation_started``
and ``gateway_service_count``. ``proxy`` feeds it on the hot path, so counting is a dict look-up and a few
additions; the exposition is made when it is asked for.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
    UnknownMetricFamily,
)
from prometheus_client.registry import Collector

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_EDGES: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class _Durations:
    """A histogram of one function and status code: a count per bucket, and the sum."""

    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        self.counts = [0] * (len(_EDGES) + 1)
        self.total = 0.0

    def observe(self, seconds: float) -> None:
        self.counts[bisect_left(_EDGES, seconds)] += 1
        self.total += seconds

    @property
    def count(self) -> int:
        return sum(self.counts)

    def cumulative(self) -> list[tuple[str, float]]:
        buckets: list[tuple[str, float]] = []
        below = 0
        for edge, count in zip((*map(str, _EDGES), "+Inf"), self.counts, strict=True):
            below += count
            buckets.append((edge, below))
        return buckets


class GatewayMetrics:
    """Counts invocations; ``services`` gives (function_name, desired replicas) when it is asked to expose."""

    def __init__(self, services: Callable[[], Iterable[tuple[str, int]]]) -> None:
        self._services = services
        self._started: dict[str, int] = {}
        self._finished: dict[tuple[str, int], _Durations] = {}
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(_Exposition(self))

    def started(self, function_name: str) -> None:
        """A request has come in; it may be held before a replica has it."""
        self._started[function_name] = self._started.get(function_name, 0) + 1

    def finished(self, function_name: str, code: int, seconds: float) -> None:
        """It was answered with ``code`` after ``seconds``; every start has its finish."""
        key = (function_name, code)
        durations = self._finished.get(key)
        if durations is None:
            durations = self._finished[key] = _Durations()
        durations.observe(seconds)

    def invocations(self, function_name: str) -> int:
        """Finished invocations of a function, whatever their status."""
        return sum(item.count for (name, _), item in self._finished.items() if name == function_name)

    def exposition(self) -> bytes:
        """The text that Prometheus scrapes."""
        return generate_latest(self._registry)

    def families(self) -> Iterator[Metric]:
        """The metric families, made from what was counted."""
        seconds = HistogramMetricFamily(
            "gateway_functions_seconds", "Function time taken", labels=["function_name", "code"]
        )
        total = CounterMetricFamily(
            "gateway_function_invocation", "Function metrics", labels=["function_name", "code"]
        )
        for (name, code), durations in self._finished.items():
            labels = [name, str(code)]
            seconds.add_metric(labels, durations.cumulative(), durations.total)
            total.add_metric(labels, durations.count)
        # The gateway's name has no _total, which the client adds to anything that is called a counter.
        started = UnknownMetricFamily(
            "gateway_function_invocation_started", "Invocations started", labels=["function_name"]
        )
        for name, count in self._started.items():
            started.add_metric([name], count)
        replicas = GaugeMetricFamily(
            "gateway_service_count", "Current count of replicas for function", labels=["function_name"]
        )
        for name, desired in self._services():
            replicas.add_metric([name], desired)
        yield from (seconds, total, started, replicas)


class _Exposition(Collector):
    """What prometheus-client registers."""

    def __init__(self, metrics: GatewayMetrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        return self._metrics.families()
