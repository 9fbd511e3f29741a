"""Answers HTTP requests: routes, deadlines, and the conversion of every outcome to a status.

Owns of-watchdog's public interface: the function on every path, ``/_/health``, ``/_/ready``, and the headers
of every answer. ``Front`` serves the function's port, ``MetricsPage`` the metrics port; both use
``protocol``. Next step of a request: ``shell``.
"""

import itertools
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import Final

from batching_watchdog.config import Config, parse_duration
from batching_watchdog.engine.effects import Answer, Piece
from batching_watchdog.errors import Abandoned, ShuttingDown, WatchdogError
from batching_watchdog.front.ended import Ended
from batching_watchdog.front.exchange import Exchange
from batching_watchdog.front.streams import END_ID, StreamedAnswer, whole, whole_answer
from batching_watchdog.front.tracing import RequestTracing, caller
from batching_watchdog.front.weight import WeightFunction
from batching_watchdog.function.messages import DEFAULT_CLASS, PROBE, Batch, DispatchReason, Reply, Request
from batching_watchdog.observe.logs import AccessLog, RequestLine, loggable
from batching_watchdog.observe.metrics import Exposition, Metrics, Traced
from batching_watchdog.observe.spans import RequestTrace, Tracer
from batching_watchdog.observe.trace_context import TRACEPARENT, SpanContext, may_be_sampled
from batching_watchdog.shell import Shell

TEXT: Final = b"Content-Type: text/plain; charset=utf-8\r\n"
GET_ONLY: Final = TEXT + b"Allow: GET\r\n"
READ_ONLY: Final = TEXT + b"Allow: GET, HEAD\r\n"
HEALTH_PATH: Final = b"/_/health"
READY_PATH: Final = b"/_/ready"
TIMEOUT: Final = b"x-timeout"
START_TIME: Final = b"x-start-time"
BATCH_KEY: Final = b"x-batch-key"
CALL_ID: Final = b"x-call-id"
SLO_CLASS: Final = b"x-slo-class"
DEADLINE_MS: Final = b"x-deadline-ms"
ACCEPT: Final = b"accept"
LAST_EVENT_ID: Final = b"last-event-id"
BEST_EFFORT_SHARE: Final = 0.5
"""Share of max_queued_bytes that requests of best effort may fill: the rest is left to others."""
MAX_START_TIME_DIGITS: Final = 20
MAX_UPSTREAM_SECONDS: Final = 5.0
"""Maximum age of X-Start-Time in seconds: an older one is from another clock, or was queued on purpose."""

_OURS: Final = b"X-OpenFaaS-Internal: batching-watchdog\r\n"
"""Header by which OpenFaaS' components mark their own answers, as distinct from the function's."""

_BATCH_REASONS: Final = {reason: b"X-Batch-Reason: %b\r\n" % reason.encode() for reason in DispatchReason}

_ABANDONED: Final = Abandoned("the client closed the connection before its answer")

_SHED: Final = frozenset(("queue_full", "too_many_connections", "predicted_late", "shutting_down"))

log = logging.getLogger(__name__)


class Front:
    """The application on the function's port."""

    always_served = frozenset((HEALTH_PATH, READY_PATH))

    def __init__(
        self,
        config: Config,
        shell: Shell,
        metrics: Metrics,
        clock: Callable[[], float],
        *,
        not_ready: Callable[[], str],
        weight: WeightFunction | None = None,
        tracer: Tracer | None = None,
    ) -> None:
        """``weight``: the function's own; without it the length of the body determines the cost class.

        ``tracer``: takes the spans of requests; None: there are none.
        """
        self.captured_headers = frozenset(
            (TIMEOUT, BATCH_KEY, CALL_ID, DEADLINE_MS, LAST_EVENT_ID, TRACEPARENT)
        )
        if config.trust_start_time:
            self.captured_headers |= {START_TIME}
        self._config = config
        self._class_names: dict[bytes, str] = {}
        """Classes by the value of X-SLO-Class. Empty without declared classes: then the header is ignored."""
        if len(config.slos) > 1:
            self.captured_headers |= {SLO_CLASS}
            self._class_names = {name.encode(): name for name in config.slos}
        self._class_lines = {name: b"X-SLO-Class: %b\r\n" % text for text, name in self._class_names.items()}
        self._shell = shell
        self._metrics = metrics
        self._clock = clock
        self._weight = weight
        self._tracing = None if tracer is None else RequestTracing(tracer, CALL_ID)
        self._not_ready = not_ready
        """Why no worker can serve now; empty if one can."""
        self._ids = itertools.count()
        self._streamed: set[_Call] = set()
        """Requests whose answer has begun, and goes on."""
        self._access_log = AccessLog(config.access_log, clock)
        self._refusal: WatchdogError | None = None
        self._refusal_answer = (b"", b"")
        self._grouped = (b"", b"")
        self._last_group = (b"", b"")
        self.healthy = True
        """False from the first signal on: /_/health and /_/ready answer 503, requests are still served."""
        self.accepting = True
        """False once the listener is closed: further requests on open connections are refused."""

    def share(self, exchange: Exchange) -> float:
        """Return the share of max_queued_bytes that this request may help to fill."""
        slo = self._config.slos[self._slo_class(exchange)]
        return BEST_EFFORT_SHARE if slo.latency == inf else 1.0

    def refuse(self, exchange: Exchange) -> WatchdogError | None:
        """Return the error of a request that would be refused anyway, so that its body is not read."""
        if exchange.target.startswith(b"/_/") and exchange.path in self.always_served:
            return None
        if not self.accepting:
            return ShuttingDown("the watchdog is shutting down")
        if self._shell.at_limit or self._config.shed_late:
            deadline, _, _ = self._times(exchange, self._slo_class(exchange))
            return self._shell.refusal(deadline)
        return None

    def handle(self, exchange: Exchange) -> None:
        """Serve a complete request."""
        if exchange.target.startswith(b"/_/"):
            path = exchange.path
            if path == HEALTH_PATH:
                return self._health(exchange)
            if path == READY_PATH:
                return self._ready(exchange)
        if exchange.captured_headers.get(LAST_EVENT_ID) == END_ID:
            return exchange.respond(204, b"", b"")
        return self._call(exchange)

    def answer_error(self, exchange: Exchange, error: WatchdogError) -> None:
        """End a request that was never admitted with one of our own errors."""
        meaning = "shed" if error.reason in _SHED else None
        trace = None if self._tracing is None else self._tracing.sample(exchange)
        self._end(exchange, Ended(error, self._clock(), meaning, self._slo_class(exchange)), trace)

    def _health(self, exchange: Exchange) -> None:
        if exchange.method != b"GET":
            exchange.respond(405, GET_ONLY, b"")
        elif self.healthy:
            exchange.respond(200, TEXT, b"OK")
        else:
            exchange.respond(503, TEXT, b"")

    def _ready(self, exchange: Exchange) -> None:
        if exchange.method != b"GET":
            exchange.respond(405, GET_ONLY, b"")
        elif not self.healthy:
            exchange.respond(503, TEXT, b"shutting down\n")
        elif reason := self._not_ready():
            exchange.respond(503, TEXT, f"{reason}\n".encode())
        elif self._shell.full:
            exchange.respond(429, TEXT, b"as many requests as max_inflight allows are queued or running\n")
        elif self._config.ready_path:
            self._probe(exchange)
        else:
            exchange.respond(200, TEXT, b"")

    def _probe(self, exchange: Exchange) -> None:
        """Send a probe to the function itself (ready_path); metrics do not count it."""
        target = self._config.ready_path.encode()
        now = self._clock()
        request = Request(
            next(self._ids),
            b"GET %b\r\n%b" % (target, exchange.header_block.partition(b"\r\n")[2]),
            b"",
            arrived=now,
            deadline=now + self._config.slo_latency,
            expires=now + self._config.exec_timeout,
            cost_class=PROBE,
            client=_Probe(exchange, self._shell),
        )
        try:
            self._shell.offer(request)
        except WatchdogError as error:
            request.client = None
            exchange.respond(error.status, error_head(error), f"{error}\n".encode())
        else:
            exchange.on_disconnect = lambda: self._shell.withdraw(request)

    def _call(self, exchange: Exchange) -> None:
        slo_class = self._slo_class(exchange)
        deadline, expires, wanted_by = self._times(exchange, slo_class)
        header_block, body = exchange.header_block, exchange.body
        bucket = len(body).bit_length() if self._weight is None else self._weight.bucket(header_block, body)
        request = Request(
            next(self._ids),
            header_block,
            body,
            arrived=exchange.arrived,
            deadline=deadline,
            expires=expires,
            cost_class=(*self._group(exchange), bucket),
            slo_class=slo_class,
            wanted_by=wanted_by,
        )
        request.client = call = _Call(self, exchange, request)
        exchange.on_disconnect = call.gone
        self._metrics.in_flight += not request.best_effort
        try:
            self._shell.offer(request)
        except WatchdogError as error:
            request.client = None
            self._metrics.in_flight -= not request.best_effort
            self.answer_error(exchange, error)
        else:
            # The shell sends no batch before the end of this turn.
            if self._tracing is not None:
                self._tracing.begin(exchange, request)

    def deliver(self, call: "_Call", answer: Answer) -> None:
        """End an admitted request. Its outcome for the SLO is by its class, whatever its client wants."""
        outcome, batch, now = answer.outcome, answer.batch, self._clock()
        if call.streamed is not None:
            text = outcome.body.decode(errors="replace") if isinstance(outcome, Reply) else str(outcome)
            call.streamed.break_off(text.strip())
            if not isinstance(outcome, Reply) and outcome.reason in self._metrics.stream_cancels:
                self._metrics.stream_cancels[outcome.reason] += 1
        self._end_admitted(call, outcome, batch, now, late=now > call.request.deadline)

    def piece(self, call: "_Call", piece: Piece) -> None:
        """Send the next piece of an admitted request; the headers of its answer leave with the first one."""
        exchange, request, reply, now = call.exchange, call.request, piece.reply, self._clock()
        if reply is not None and reply.status >= 400:
            self.deliver(call, Answer(request, reply, piece.batch))
            return
        streamed = call.streamed
        if streamed is None and piece.last and reply is not None and (answer := whole_answer(reply)):
            self.deliver(call, Answer(request, answer, piece.batch))
            return
        first = streamed is None
        if streamed is None:
            target = self._config.slos[request.slo_class]
            streamed = call.streamed = StreamedAnswer(exchange, request, target, reply, now)
            self._streamed.add(call)
            self._metrics.piece_sent(now - request.arrived, request.slo_class, first=True)
        elif reply is not None:
            self._metrics.piece_sent(now - streamed.piece_at, request.slo_class, first=False)
        was_late = streamed.late
        fits = reply is None or streamed.add(reply, now)
        if streamed.late and not was_late:
            self._metrics.late_streams[request.slo_class, "first" if first else "later"] += 1
        if piece.last or exchange.method == b"HEAD":
            if not piece.last:
                self._shell.withdraw(request)
            streamed.end()
            sent = Reply(streamed.status, b"", b"")
            self._end_admitted(call, sent, piece.batch, now, late=streamed.late)
        elif not fits:
            exchange.on_disconnect = None
            self.withdraw(call, reason="slow_reader")
            exchange.abort()

    def keep_alive(self) -> None:
        """Send a comment on event streams that have been silent for long."""
        now = self._clock()
        for call in self._streamed:
            if call.streamed is not None:
                call.streamed.keep_alive(now)

    def _end_admitted(
        self, call: "_Call", outcome: Reply | WatchdogError, batch: Batch | None, now: float, *, late: bool
    ) -> None:
        request, streamed = call.request, call.streamed
        self._streamed.discard(call)
        self._metrics.in_flight -= not request.best_effort
        meaning = _meaning(outcome, request, late=late)
        client_error = isinstance(outcome, Reply) and outcome.client_error
        self._metrics.client_errors += client_error and not request.best_effort
        if request.wanted_by < request.deadline and not client_error:
            answered = now if streamed is None else streamed.first_at
            self._metrics.client_deadline(met=meaning == "good" and answered <= request.wanted_by)
        waited = (now if batch is None else batch.dispatched) - request.arrived
        sent = None if streamed is None else streamed.sent
        ended = Ended(outcome, now, meaning, request.slo_class, batch, waited, True, sent)
        self._end(call.exchange, ended, request.trace)

    def withdraw(self, call: "_Call", *, reason: str = "client_left") -> None:
        """End a request whose client left: a miss if its deadline has passed, else counted separately.

        A stream that has begun is a miss if a piece of it was late.
        """
        request, streamed, now = call.request, call.streamed, self._clock()
        self._shell.withdraw(request)
        self._metrics.in_flight -= not request.best_effort
        late, late_for_client = now > request.deadline, now > request.wanted_by
        if streamed is not None:
            self._streamed.discard(call)
            self._metrics.stream_cancels[reason] += 1
            late, late_for_client = streamed.late, streamed.first_at > request.wanted_by
        if request.wanted_by < request.deadline and late_for_client:
            self._metrics.client_deadline(met=False)
        meaning = "slow" if late else None
        self._end(call.exchange, Ended(_ABANDONED, now, meaning, request.slo_class), request.trace)

    def _shown_class(self, slo_class: str) -> str | None:
        """The class as logs and spans tell it: not at all if none are declared."""
        return slo_class if self._class_names else None

    def _times(self, exchange: Exchange, slo_class: str) -> tuple[float, float, float]:
        """Return from the header: end of the class's budget, expiry, and when the client wants the answer."""
        budget, timeout, spent = self._config.slos[slo_class].latency, self._config.exec_timeout, 0.0
        arrived, captured, class_budget = exchange.arrived, exchange.captured_headers, budget
        if captured:
            if DEADLINE_MS in captured:
                budget = _tighter(captured[DEADLINE_MS], budget)
            if TIMEOUT in captured:
                timeout = _shorter(captured[TIMEOUT], timeout)
                budget = min(budget, timeout)
            if START_TIME in captured:
                # Time before the first byte arrived; the transfer after it does not count.
                began = time.time() - (self._clock() - exchange.began)
                spent = _spent(captured[START_TIME], began, timeout)
        if class_budget == inf:
            return inf, arrived + timeout, inf
        arrived_upstream = arrived - spent
        return arrived_upstream + class_budget, arrived + timeout, arrived_upstream + budget

    def _slo_class(self, exchange: Exchange) -> str:
        """Return the class that a request names; ``DEFAULT_CLASS`` without one, or for an undeclared name.

        An undeclared name is no error: removing a class must not break clients that still name it. Answer,
        log and metrics show the class of the request.
        """
        name = exchange.captured_headers.get(SLO_CLASS)
        return DEFAULT_CLASS if name is None else self._class_names.get(name, DEFAULT_CLASS)

    def _group(self, exchange: Exchange) -> tuple[bytes, bytes]:
        """Return (batch key, method and path), cached because most requests repeat the previous one."""
        key = (exchange.method, exchange.target)
        if key != self._grouped:
            self._grouped, self._last_group = key, (b"", b"%b %b" % (exchange.method, exchange.path))
        if BATCH_KEY in exchange.captured_headers:
            return exchange.captured_headers[BATCH_KEY], self._last_group[1]
        return self._last_group

    def _end(self, exchange: Exchange, ended: Ended, trace: RequestTrace | None) -> None:
        """End a request: answer it, and tell metrics, log and spans. Every request ends here, once."""
        outcome, metrics = ended.outcome, self._metrics
        logged = self._access_log.on or (outcome.status >= 500 and not isinstance(outcome, Reply))
        context, size = None, 0
        if TRACEPARENT in exchange.captured_headers and (
            logged or may_be_sampled(exchange.captured_headers[TRACEPARENT])
        ):
            context = caller(exchange)
        if outcome is _ABANDONED:
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
            self._tracing.end(exchange, trace, ended, slo_class=self._shown_class(ended.slo_class))

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
        if self._class_names:
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
            slo_class=self._shown_class(ended.slo_class),
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


@dataclass(slots=True, eq=False)
class _Call:
    """A request between admission and answer. Thousands may wait, and two closures would be larger."""

    front: Front
    exchange: Exchange
    request: Request
    streamed: StreamedAnswer | None = None
    """Its answer, once the first piece of a stream has come."""

    def deliver(self, answer: Answer) -> None:
        """The shell: what became of it."""
        self.front.deliver(self, answer)

    def piece(self, piece: Piece) -> None:
        """The shell: a piece of its answer."""
        self.front.piece(self, piece)

    def gone(self) -> None:
        """The protocol: its client has gone."""
        self.front.withdraw(self, reason="slow_reader" if self.exchange.stalled else "client_left")


@dataclass(frozen=True, slots=True)
class _Probe:
    """A readiness probe of the function itself."""

    exchange: Exchange
    shell: Shell

    def deliver(self, answer: Answer) -> None:
        """The shell: what became of it."""
        outcome = answer.outcome
        if isinstance(outcome, Reply):
            self.exchange.respond(outcome.status, outcome.header_block, outcome.body)
        else:
            self.exchange.respond(outcome.status, TEXT, f"{outcome}\n".encode())

    def piece(self, piece: Piece) -> None:
        """The shell: the function streams, so its first piece is the answer."""
        if not piece.last:
            self.shell.withdraw(piece.request)
        pieces = [] if piece.reply is None else [piece.reply]
        self.deliver(Answer(piece.request, whole(piece.request.header_block, b"", pieces), piece.batch))


class MetricsPage:
    """The application on the metrics port: only /metrics."""

    captured_headers = frozenset((ACCEPT,))
    always_served = frozenset((b"/metrics",))

    def __init__(self, exposition: Exposition) -> None:
        self._exposition = exposition

    def share(self, exchange: Exchange) -> float:
        """Return 1: all requests are alike."""
        return 1.0

    def refuse(self, exchange: Exchange) -> WatchdogError | None:
        """Return None: no request is refused at the header."""
        return None

    def handle(self, exchange: Exchange) -> None:
        """Serve /metrics."""
        if exchange.path != b"/metrics":
            exchange.respond(404, TEXT, b"/metrics is here, the function is on its own port\n")
        elif exchange.method not in (b"GET", b"HEAD"):
            exchange.respond(405, READ_ONLY, b"")
        else:
            accept = exchange.captured_headers.get(ACCEPT, b"").decode("latin-1")
            text, content_type = self._exposition.scrape(accept)
            exchange.respond(200, f"Content-Type: {content_type}\r\n".encode(), text)

    def answer_error(self, exchange: Exchange, error: WatchdogError) -> None:
        """Respond with an error of the protocol."""
        exchange.respond(error.status, error_head(error), f"{error}\n".encode())


def error_head(error: WatchdogError) -> bytes:
    """Return the header lines of an error: its origin, its reason, and the time to retry."""
    head = TEXT + _OURS + b"X-Watchdog-Reason: %b\r\n" % error.reason.encode()
    if error.retry_after is not None:
        head += b"Retry-After: %d\r\n" % error.retry_after
    return head


def _meaning(outcome: Reply | WatchdogError, request: Request, *, late: bool) -> str | None:
    """Return the outcome of an admitted request for the SLO; None: the SLO does not count it."""
    if not isinstance(outcome, Reply):
        if outcome.status == 504:
            # A client that gives up before the deadline of its class says nothing about the SLO.
            return None if request.expires < request.deadline and not request.best_effort else "expired"
        return "shed" if outcome.reason in _SHED else "error"
    if outcome.client_error:
        return None
    if outcome.failed or outcome.status >= 500:
        return "error"
    return "slow" if late else "good"


def _shorter(value: bytes, timeout: float) -> float:
    """Return X-Timeout in seconds if it is a duration below ``timeout``; else ``timeout``, as of-watchdog."""
    try:
        asked = parse_duration(value.decode("ascii"))
    except ValueError:
        return timeout
    return asked if 0.0 < asked < timeout else timeout


def _tighter(value: bytes, budget: float) -> float:
    """Return X-Deadline-Ms in seconds if it is a positive number below ``budget``; otherwise ``budget``."""
    if not value.replace(b".", b"", 1).isdigit():
        return budget
    asked = float(value) / 1000
    return asked if 0.0 < asked < budget else budget


def _spent(value: bytes, wall_clock: float, timeout: float) -> float:
    """Return the seconds since the gateway's X-Start-Time (UTC nanoseconds); 0 if it is implausible."""
    # More digits than a present time would overflow a float, or int().
    if not value.isdigit() or len(value) > MAX_START_TIME_DIGITS:
        return 0.0
    spent = wall_clock - int(value) * 1e-9
    return spent if 0.0 < spent < min(timeout, MAX_UPSTREAM_SECONDS) else 0.0
