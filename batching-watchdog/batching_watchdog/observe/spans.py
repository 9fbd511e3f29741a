"""Defines what a span is, and makes that of a batch. [P]

A request has ``queue`` and ``execution`` below its server span, all in its client's trace. A batch may hold
requests of many traces, so ``batch`` is the only span of a trace of its own: it links to the requests, and
their ``execution`` links to it. Names and attributes follow OpenTelemetry's semantic conventions for HTTP
servers; others begin with ``tailbound``. ``Tracer`` is the seam to the recorder (``otel``). ``front.tracing``
makes the spans of requests, ``shell`` those of batches.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from batching_watchdog.function.messages import Batch
from batching_watchdog.observe.trace_context import SpanContext

Attributes = Mapping[str, str | int | float]


@dataclass(frozen=True, slots=True)
class RequestTrace:
    """The open spans of a recorded request."""

    name: str
    """Name of the server span."""
    parent: SpanContext | None
    """Caller's span; None: the trace begins here."""
    server: SpanContext
    queue: SpanContext
    execution: SpanContext
    """Parent of the spans that the handler makes."""
    tracestate: str
    attributes: Attributes
    """Attributes of the server span that are known at arrival."""


@dataclass(frozen=True, slots=True)
class BatchTrace:
    """The open span of a batch that was sent."""

    context: SpanContext
    sent: float
    links: tuple[SpanContext, ...]
    """Server spans of its recorded requests."""


class Span(NamedTuple):
    """One span, complete. Times are seconds on the watchdog's monotonic clock."""

    name: str
    context: SpanContext
    parent: SpanContext | None
    start: float
    end: float
    attributes: Attributes
    links: Sequence[SpanContext] = ()
    failed: bool = False
    """Whether the status is Error; otherwise it is unset."""
    tracestate: str = ""
    server: bool = False
    """Whether the kind is SERVER; otherwise it is INTERNAL."""


class Tracer(Protocol):
    """Samples requests and records spans. Never waits."""

    def ignores(self, parent: SpanContext) -> bool:
        """Return whether this caller's requests are not recorded: a cheap test for most requests."""

    def begin(
        self, parent: SpanContext | None, state: str, name: str, attributes: Attributes
    ) -> RequestTrace | None:
        """Sample a request; None if it is not recorded. ``state``: the caller's ``tracestate``."""

    def new_trace(self) -> SpanContext:
        """Return the first span of a new, recorded trace."""

    def record(self, spans: Sequence[Span]) -> None:
        """Record spans that have ended."""

    def counts(self) -> Mapping[str, int]:
        """Return the number of spans by result."""

    def close(self) -> None:
        """Send what waits. Waits for that, but not for long."""


def batch_span(trace: BatchTrace, batch: Batch, now: float, *, error: str | None, cpu_seconds: float) -> Span:
    """Return the span of a batch whose worker answered or died ``now``.

    ``cpu_seconds``: CPU time of the batch; 0: unknown.
    """
    attributes = batch_attributes(batch)
    if cpu_seconds:
        attributes["tailbound.batch.cpu_seconds"] = cpu_seconds
    if error is not None:
        attributes["error.type"] = error
    return Span("batch", trace.context, None, trace.sent, now, attributes, trace.links, error is not None)


def batch_attributes(batch: Batch) -> dict[str, str | int | float]:
    """Return the attributes that identify a batch."""
    return {
        "tailbound.batch.number": batch.number,
        "tailbound.batch.size": len(batch.requests),
        "tailbound.batch.reason": str(batch.reason),
    }
