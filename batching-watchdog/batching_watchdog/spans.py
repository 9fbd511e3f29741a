"""Defines the spans of a request and of a batch: names, attributes, parents and links. [P]

A request has ``queue`` and ``execution`` below its server span, all in its client's trace. A batch may hold
requests of many traces, so ``batch`` is the only span of a trace of its own: it links to the requests, and
their ``execution`` links to it. Names and attributes follow OpenTelemetry's semantic conventions for HTTP
servers; others begin with ``tailbound``. ``Tracer`` is the seam to the recorder (``otel``). ``front.tracing``
makes the spans of requests, ``shell`` those of batches.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

from batching_watchdog.messages import Batch
from batching_watchdog.trace_context import SpanContext

Attributes = Mapping[str, str | int | float]

MAX_TEXT: Final = 1024
"""Maximum characters of a path, or of a query, in a span."""
_METHODS: Final = frozenset(
    ("CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "QUERY", "TRACE")
)
_SECRETS: Final = re.compile(r"(?<![^&])(AWSAccessKeyId|Signature|sig|X-Goog-Signature)=[^&]*")
"""Query parameters whose values the conventions redact (attribute ``url.query``)."""


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


def server_name(method: bytes) -> str:
    """Return the name of a server span: the method, as the watchdog knows no routes."""
    name = method.decode("latin-1")
    return name if name in _METHODS else "HTTP"


def request_attributes(
    method: bytes, target: bytes, *, http_1_0: bool, call_id: bytes | None
) -> dict[str, str | int | float]:
    """Return the attributes of a request that are known at arrival."""
    path, _, query = target.decode("latin-1").partition("?")
    name = method.decode("latin-1")
    attributes: dict[str, str | int | float] = {
        "http.request.method": name if name in _METHODS else "_OTHER",
        "url.scheme": "http",
        "url.path": path[:MAX_TEXT],
        "network.protocol.version": "1.0" if http_1_0 else "1.1",
    }
    if name not in _METHODS:
        attributes["http.request.method_original"] = name[:MAX_TEXT]
    if query:
        attributes["url.query"] = _SECRETS.sub(r"\1=REDACTED", query[:MAX_TEXT])
    if call_id:
        attributes["tailbound.call_id"] = call_id.decode("latin-1")[:MAX_TEXT]
    return attributes


def request_spans(
    trace: RequestTrace,
    *,
    arrived: float,
    now: float,
    status: int | None,
    error: str | None = None,
    outcome: str | None = None,
    slo_class: str | None = None,
    queued: bool = False,
    batch: Batch | None = None,
) -> list[Span]:
    """Return the spans of a request that is answered ``now``, or whose client disconnected.

    ``status``: of the answer; None without one. ``error``: one word for the failure; a status from 500 on
    needs none. ``queued``: whether it was admitted. ``batch``: the last batch that held it; the request waits
    until a worker begins with it.
    """
    attributes = dict(trace.attributes)
    if status is not None:
        attributes["http.response.status_code"] = status
        if error is None and status >= 500:
            error = str(status)
    if error is not None:
        attributes["error.type"] = error
    if outcome is not None:
        attributes["tailbound.outcome"] = outcome
    if slo_class is not None:
        attributes["tailbound.slo_class"] = slo_class
    # A client's mistake is no error of the server's (conventions for HTTP spans, "Status").
    failed = error is not None and (status is None or not 400 <= status < 500)
    state, server = trace.tracestate, trace.server
    spans = [
        Span(trace.name, server, trace.parent, arrived, now, attributes, (), failed, state, server=True),
    ]
    if not queued:
        return spans
    begun = now if batch is None else max(arrived, min(batch.dispatched, now))
    spans.append(Span("queue", trace.queue, server, arrived, begun, {}, tracestate=state))
    if batch is not None and batch.dispatched <= now:
        about, links = _about(batch), () if batch.trace is None else (batch.trace.context,)
        spans.append(Span("execution", trace.execution, server, begun, now, about, links, failed, state))
    return spans


def batch_span(trace: BatchTrace, batch: Batch, now: float, *, error: str | None, cpu_seconds: float) -> Span:
    """Return the span of a batch whose worker answered or died ``now``.

    ``cpu_seconds``: CPU time of the batch; 0: unknown.
    """
    attributes = _about(batch)
    if cpu_seconds:
        attributes["tailbound.batch.cpu_seconds"] = cpu_seconds
    if error is not None:
        attributes["error.type"] = error
    return Span("batch", trace.context, None, trace.sent, now, attributes, trace.links, error is not None)


def _about(batch: Batch) -> dict[str, str | int | float]:
    """Return the attributes that identify a batch."""
    return {
        "tailbound.batch.number": batch.number,
        "tailbound.batch.size": len(batch.requests),
        "tailbound.batch.reason": str(batch.reason),
    }
