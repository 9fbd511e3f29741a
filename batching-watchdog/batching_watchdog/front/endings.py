"""Ends requests: the answer, and what metrics, log and spans are told. Every request ends here, once.

Owns the headers of every answer, the outcome for the SLO, and errors as answers. Used by ``routes``, which
knows when a request ends.
"""

import logging
import time
from collections.abc import Mapping
from typing import Final

from batching_watchdog.errors import Abandoned, WatchdogError
from batching_watchdog.front.ended import Ended
from batching_watchdog.front.exchange import Exchange
from batching_watchdog.front.tracing import RequestTracing, caller
from batching_watchdog.function.messages import DispatchReason, Reply, Request
from batching_watchdog.observe.logs import AccessLog, RequestLine, loggable
from batching_watchdog.observe.metrics import Metrics, Traced
from batching_watchdog.observe.spans import RequestTrace
from batching_watchdog.observe.trace_context import TRACEPARENT, SpanContext, may_be_sampled

TEXT: Final = b"Content-Type: text/plain; charset=utf-8\r\n"
CALL_ID: Final = b"x-call-id"
ABANDONED: Final = Abandoned("the client closed the connection before its answer")
SHED: Final = frozenset(("queue_full", "too_many_connections", "predicted_late", "shutting_down"))
"""Reasons of errors that the SLO counts as shed."""

_OURS: Final = b"X-OpenFaaS-Internal: batching-watchdog\r\n"
"""Header by which OpenFaaS' components mark their own answers, as distinct from the function's."""

_BATCH_REASONS: Final = {reason: b"X-Batch-Reason: %b\r\n" % reason.encode() for reason in DispatchReason}

log = logging.getLogger(__name__)


class Endings:
    """The ends of one front's requests."""

    def __init__(
        self,
        metrics: Metrics,
        access_log: AccessLog,
        tracing: RequestTracing | None,
        class_lines: Mapping[str, bytes],
    ) -> None:
        """``class_lines``: header lines of answers by class; empty if none are declared."""
        self._metrics = metrics
        self._access_log = access_log
        self._tracing = tracing
        self._class_lines = class_lines
        self._refusal: WatchdogError | None = None
        self._refusal_answer = (b"", b"")

    def end(self, exchange: Exchange, ended: Ended, trace: RequestTrace | None) -> None:
        """End a request: answer it, and tell metrics, log and spans. Every request ends here, once."""
        outcome, metrics = ended.outcome, self._metrics
        logged = self._access_log.on or (outcome.status >= 500 and not isinstance(outcome, Reply))
        context, size = None, 0
        if TRACEPARENT in exchange.captured_headers and (
            logged or may_be_sampled(exchange.captured_headers[TRACEPARENT])
        ):
            context = caller(exchange)
        if outcome is ABANDONED:
            metrics.request_abandoned(ended.meaning, ended.slo_class)
        else:
            # One that is refused at its header has not arrived: under overload most are.
            seconds = 0.0 if exchange.refused else ended.now - exchange.arrived
            metrics.request_finished(outcome.status, exchange.method, seconds, ended.meaning, ended.slo_class)
            if context is not None and context.sampled and ended.slo_class in metrics.slos:
                traced = Traced(context.trace_id, time.time())
                metrics.request_traced(outcome.status, exchange.method, seconds, traced)
            if ended.sent is None:
                head, body = self._answer(exchange, ended, seconds)
                exchange.respond(outcome.status, head, body)
                size = len(body)
            else:
                size = ended.sent
        if logged:
            self._log(exchange, ended, size, context)
        if trace is not None and self._tracing is not None:
            self._tracing.end(exchange, trace, ended, slo_class=self._shown(ended.slo_class))

    def _answer(self, exchange: Exchange, ended: Ended, seconds: float) -> tuple[bytes, bytes]:
        """Return header lines and body of the answer; an error is counted as a refusal, if it is one."""
        outcome, batch = ended.outcome, ended.batch
        if isinstance(outcome, Reply):
            head, body = outcome.header_block, outcome.body
        else:
            if ended.slo_class in self._metrics.slos:
                self._metrics.refused(outcome.reason)
            if outcome is not self._refusal:
                self._refusal = outcome
                self._refusal_answer = (error_head(outcome), f"{outcome}\n".encode())
            head, body = self._refusal_answer
        if not exchange.refused:
            head += b"X-Duration-Seconds: %.6f\r\nX-Batch-Size: %d\r\nX-Queue-Seconds: %.6f\r\n" % (
                seconds,
                0 if batch is None else len(batch.requests),
                ended.waited,
            )
        if batch is not None:
            head += _BATCH_REASONS[batch.reason]
        if self._class_lines:
            head += self._class_lines[ended.slo_class]
        return head, body

    def _log(self, exchange: Exchange, ended: Ended, size: int, context: SpanContext | None) -> None:
        """Write the request's line to the log, unless it is left out. ``size``: bytes of the answer."""
        outcome, batch = ended.outcome, ended.batch
        missed = ended.meaning not in (None, "good") or outcome.status >= 500
        left_out = self._access_log.admit(missed=missed)
        if left_out is None:
            return
        error = None if isinstance(outcome, Reply) else outcome
        call_id = exchange.captured_headers.get(CALL_ID)
        line = RequestLine(
            method=loggable(exchange.method),
            target=loggable(exchange.target),
            status=outcome.status,
            bytes=size,
            seconds=round(ended.now - exchange.arrived, 6),
            call_id=loggable(call_id) if call_id else None,
            outcome=ended.meaning,
            slo_class=self._shown(ended.slo_class),
            batch=None if batch is None else batch.number,
            batch_size=None if batch is None else len(batch.requests),
            batch_reason=None if batch is None else batch.reason,
            queue_seconds=round(ended.waited, 6) if batch or ended.waited else None,
            reason=None if error is None else error.reason,
            error=None if error is None else str(error),
            trace_id=None if context is None else context.trace_id,
            left_out=left_out or None,
        )
        log.log(line.level, line)

    def _shown(self, slo_class: str) -> str | None:
        """The class as logs and spans tell it: not at all if none are declared."""
        return slo_class if self._class_lines else None


def error_head(error: WatchdogError) -> bytes:
    """Return the header lines of an error: its origin, its reason, and the time to retry."""
    head = TEXT + _OURS + b"X-Watchdog-Reason: %b\r\n" % error.reason.encode()
    if error.retry_after is not None:
        head += b"Retry-After: %d\r\n" % error.retry_after
    return head


def meaning_of(outcome: Reply | WatchdogError, request: Request, *, late: bool) -> str | None:
    """Return the outcome of an admitted request for the SLO; None: the SLO does not count it."""
    if not isinstance(outcome, Reply):
        if outcome.status == 504:
            # A client that gives up before the deadline of its class says nothing about the SLO.
            return None if request.expires < request.deadline and not request.best_effort else "expired"
        return "shed" if outcome.reason in SHED else "error"
    if outcome.client_error:
        return None
    if outcome.failed or outcome.status >= 500:
        return "error"
    return "slow" if late else "good"
