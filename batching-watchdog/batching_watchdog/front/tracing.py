"""Samples requests and makes their spans: the link between an HTTP exchange and its trace.

A ``Tracer`` samples and records. Used by ``routes`` and ``endings``.
"""

import re
from typing import Final

from batching_watchdog.errors import Abandoned, WatchdogError
from batching_watchdog.front.ended import Ended
from batching_watchdog.front.exchange import Exchange
from batching_watchdog.function.messages import Request
from batching_watchdog.observe.spans import Attributes, RequestTrace, Span, Tracer, batch_attributes
from batching_watchdog.observe.trace_context import (
    TRACEPARENT,
    SpanContext,
    format_traceparent,
    received_context,
    tracestate,
    with_context,
)

MAX_TEXT: Final = 1024
"""Maximum characters of a path, or of a query, in a span."""
_METHODS: Final = frozenset(
    ("CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "QUERY", "TRACE")
)
_SECRETS: Final = re.compile(r"(?<![^&])(AWSAccessKeyId|Signature|sig|X-Goog-Signature)=[^&]*")
"""Query parameters whose values the conventions redact (attribute ``url.query``)."""


class RequestTracing:
    """Makes the spans of requests."""

    def __init__(self, tracer: Tracer, call_id: bytes) -> None:
        """Record spans with ``tracer``; ``call_id`` is the name of the captured header that they show."""
        self._tracer = tracer
        self._call_id = call_id

    def begin(self, exchange: Exchange, request: Request) -> None:
        """Sample an admitted request before its batch is sent.

        If it is recorded, its ``traceparent`` names the span ``execution`` from here on, for the handler and
        for the request's line in the log.
        """
        trace = self.sample(exchange)
        if trace is None:
            return
        request.trace = trace
        value = format_traceparent(trace.execution)
        exchange.captured_headers = {**exchange.captured_headers, TRACEPARENT: value}
        exchange.header_block = request.header_block = with_context(
            exchange.header_block, trace.execution, restarted=trace.parent is None
        )

    def end(self, exchange: Exchange, trace: RequestTrace, ended: Ended, *, slo_class: str | None) -> None:
        """Record a sampled request that has ended. ``slo_class``: None if none is declared."""
        self._tracer.record(request_spans(trace, exchange.arrived, ended, slo_class))

    def sample(self, exchange: Exchange) -> RequestTrace | None:
        """Sample a request; None if it is not recorded, as one with an incomplete header."""
        if not exchange.head_complete:
            return None
        parent = caller(exchange)
        if parent is not None and self._tracer.ignores(parent):
            return None
        attributes = request_attributes(
            exchange.method, exchange.target, exchange.http_1_0, exchange.captured_headers.get(self._call_id)
        )
        # Its name is the method, as the watchdog knows no routes.
        name = attributes["http.request.method"].replace("_OTHER", "HTTP")
        state = "" if parent is None else tracestate(exchange.header_block)
        return self._tracer.begin(parent, state, name, attributes)


def caller(exchange: Exchange) -> SpanContext | None:
    """Return the caller's span by the request's ``traceparent``; None without a valid one."""
    value = exchange.captured_headers.get(TRACEPARENT)
    return None if value is None else received_context(value, exchange.header_block)


def request_attributes(method: bytes, target: bytes, http_1_0: bool, call_id: bytes | None) -> dict[str, str]:
    """Return the attributes of a request that are known at arrival."""
    path, _, query = target.decode("latin-1").partition("?")
    name = method.decode("latin-1")
    attributes = {
        "http.request.method": name if name in _METHODS else "_OTHER",
        "url.scheme": "http",
        "url.path": path[:MAX_TEXT],
        "network.protocol.version": "1.0" if http_1_0 else "1.1",
    }
    if query:
        attributes["url.query"] = _SECRETS.sub(r"\1=REDACTED", query[:MAX_TEXT])
    if call_id:
        attributes["tailbound.call_id"] = call_id.decode("latin-1")[:MAX_TEXT]
    return attributes


def request_spans(trace: RequestTrace, arrived: float, ended: Ended, slo_class: str | None) -> list[Span]:
    """Return the spans of a request that has ended; it waits until a worker begins with its batch."""
    outcome, batch, now = ended.outcome, ended.batch, ended.now
    status = None if isinstance(outcome, Abandoned) else outcome.status
    if isinstance(outcome, WatchdogError):
        error: str | None = outcome.reason
    elif outcome.failed:
        error = "handler_error"
    else:
        error = str(outcome.status) if outcome.status >= 500 else None
    told = {
        "http.response.status_code": status,
        "error.type": error,
        "tailbound.outcome": ended.meaning,
        "tailbound.slo_class": slo_class,
    }
    attributes: Attributes = {**trace.attributes, **{name: it for name, it in told.items() if it is not None}}
    # A client's mistake is no error of the server's (conventions for HTTP spans, "Status").
    failed = error is not None and (status is None or not 400 <= status < 500)
    state, server = trace.tracestate, trace.server
    spans = [Span(trace.name, server, trace.parent, arrived, now, attributes, (), failed, state, server=True)]
    if ended.admitted:
        begun = now if batch is None else max(arrived, min(batch.dispatched, now))
        spans.append(Span("queue", trace.queue, server, arrived, begun, {}, tracestate=state))
        if batch is not None and batch.dispatched <= now:
            about, links = batch_attributes(batch), () if batch.trace is None else (batch.trace.context,)
            spans.append(Span("execution", trace.execution, server, begun, now, about, links, failed, state))
    return spans
