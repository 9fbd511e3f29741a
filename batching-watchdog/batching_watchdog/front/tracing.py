"""Samples requests and records their spans: the link between an HTTP exchange and its trace.

Owns HTTP's part of tracing; ``spans`` has the rules, and a ``Tracer`` samples and records. Used by
``routes``.
"""

from batching_watchdog.errors import Abandoned, WatchdogError
from batching_watchdog.front.ended import Ended
from batching_watchdog.front.protocol import Exchange
from batching_watchdog.messages import Request
from batching_watchdog.spans import RequestTrace, Tracer, request_attributes, request_spans, server_name
from batching_watchdog.trace_context import (
    TRACEPARENT,
    SpanContext,
    format_traceparent,
    received_context,
    tracestate,
    with_context,
)


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
        outcome, error = ended.outcome, None
        if isinstance(outcome, WatchdogError):
            error = outcome.reason
        elif outcome.failed:
            error = "handler_error"
        spans = request_spans(
            trace,
            arrived=exchange.arrived,
            now=ended.now,
            status=None if isinstance(outcome, Abandoned) else outcome.status,
            error=error,
            outcome=ended.meaning,
            slo_class=slo_class,
            queued=ended.admitted,
            batch=ended.batch,
        )
        self._tracer.record(spans)

    def sample(self, exchange: Exchange) -> RequestTrace | None:
        """Sample a request; None if it is not recorded, as one with an incomplete header."""
        if not exchange.head_complete:
            return None
        parent = caller(exchange)
        if parent is not None and self._tracer.ignores(parent):
            return None
        attributes = request_attributes(
            exchange.method,
            exchange.target,
            http_1_0=exchange.http_1_0,
            call_id=exchange.captured_headers.get(self._call_id),
        )
        state = "" if parent is None else tracestate(exchange.header_block)
        return self._tracer.begin(parent, state, server_name(exchange.method), attributes)


def caller(exchange: Exchange) -> SpanContext | None:
    """Return the caller's span by the request's ``traceparent``; None without a valid one."""
    value = exchange.captured_headers.get(TRACEPARENT)
    return None if value is None else received_context(value, exchange.header_block)
