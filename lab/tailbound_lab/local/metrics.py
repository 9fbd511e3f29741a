"""Exports the gateway's metrics under the gateway's names.

Owns names, labels and buckets of the OpenFaaS gateway's metrics (its ``metrics/metrics.go``):
``gateway_functions_seconds``, ``gateway_function_invocation_total``, ``gateway_function_invocation_started``
and ``gateway_service_count``. ``proxy`` feeds it.
"""

from collections import Counter as Counts
from collections.abc import Callable, Iterable
from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_EDGES: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


disable_created_metrics()  # type: ignore[no-untyped-call] # the gateway exports no times of creation


class GatewayMetrics:
    """Counts invocations; ``services`` returns (function_name, desired replicas) at a scrape."""

    def __init__(self, services: Callable[[], Iterable[tuple[str, int]]]) -> None:
        self._services = services
        self._invocations = Counts[str]()
        self._registry = registry = CollectorRegistry()
        labels = ("function_name", "code")
        self._seconds = Histogram(
            "gateway_functions_seconds", "Function time taken", labels, buckets=_EDGES, registry=registry
        )
        self._total = Counter("gateway_function_invocation", "Function metrics", labels, registry=registry)
        # A gauge, as the client adds _total to a counter's name and the gateway does not.
        self._started = Gauge(
            "gateway_function_invocation_started", "Invocations started", labels[:1], registry=registry
        )
        self._replicas = Gauge(
            "gateway_service_count", "Current count of replicas for function", labels[:1], registry=registry
        )

    def started(self, function_name: str) -> None:
        """Count an arrival; the request may be held before a replica gets it."""
        self._started.labels(function_name).inc()

    def finished(self, function_name: str, code: int, seconds: float) -> None:
        """Count an answer with ``code`` after ``seconds``; every start needs one."""
        self._invocations[function_name] += 1
        self._total.labels(function_name, code).inc()
        self._seconds.labels(function_name, code).observe(seconds)

    def invocations(self, function_name: str) -> int:
        """Return the finished invocations of a function, with any status."""
        return self._invocations[function_name]

    def exposition(self) -> bytes:
        """Return the text that Prometheus scrapes."""
        self._replicas.clear()
        for function_name, desired in self._services():
            self._replicas.labels(function_name).set(desired)
        return generate_latest(self._registry)
