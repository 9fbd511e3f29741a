"""Serves the function's port: the function on every path, ``/_/health`` and ``/_/ready``.

Owns of-watchdog's public interface, and a request between admission and answer. ``terms`` reads what it asks
for, ``endings`` ends it. Next step of a request: ``shell``.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from batching_watchdog.config import Config
from batching_watchdog.engine.effects import Answer, Piece
from batching_watchdog.errors import ShuttingDown, WatchdogError
from batching_watchdog.front.ended import Ended
from batching_watchdog.front.endings import ABANDONED, CALL_ID, SHED, TEXT, Endings, error_head, meaning_of
from batching_watchdog.front.exchange import Exchange
from batching_watchdog.front.streams import END_ID, StreamedAnswer, whole, whole_answer
from batching_watchdog.front.terms import Terms
from batching_watchdog.front.tracing import RequestTracing
from batching_watchdog.front.weight import WeightFunction
from batching_watchdog.function.messages import PROBE, Batch, Reply, Request
from batching_watchdog.observe.logs import AccessLog
from batching_watchdog.observe.metrics import Metrics
from batching_watchdog.observe.spans import Tracer
from batching_watchdog.observe.trace_context import TRACEPARENT
from batching_watchdog.shell import Shell

GET_ONLY: Final = TEXT + b"Allow: GET\r\n"
HEALTH_PATH: Final = b"/_/health"
READY_PATH: Final = b"/_/ready"
LAST_EVENT_ID: Final = b"last-event-id"


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
        self._terms = Terms(config, clock)
        self.captured_headers = self._terms.headers | {CALL_ID, LAST_EVENT_ID, TRACEPARENT}
        self._config = config
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
        access_log = AccessLog(config.access_log, clock)
        self._endings = Endings(metrics, access_log, self._tracing, self._terms.class_lines)
        self.healthy = True
        """False from the first signal on: /_/health and /_/ready answer 503, requests are still served."""
        self.accepting = True
        """False once the listener is closed: further requests on open connections are refused."""

    def share(self, exchange: Exchange) -> float:
        """Return the share of max_queued_bytes that this request may help to fill."""
        return self._terms.share(exchange)

    def refuse(self, exchange: Exchange) -> WatchdogError | None:
        """Return the error of a request that would be refused anyway, so that its body is not read."""
        if exchange.target.startswith(b"/_/") and exchange.path in self.always_served:
            return None
        if not self.accepting:
            return ShuttingDown("the watchdog is shutting down")
        if self._shell.at_limit or self._config.shed_late:
            deadline, _, _ = self._terms.times(exchange, self._terms.slo_class(exchange))
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
        meaning = "shed" if error.reason in SHED else None
        trace = None if self._tracing is None else self._tracing.sample(exchange)
        self._endings.end(
            exchange, Ended(error, self._clock(), meaning, self._terms.slo_class(exchange)), trace
        )

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
        slo_class = self._terms.slo_class(exchange)
        deadline, expires, wanted_by = self._terms.times(exchange, slo_class)
        header_block, body = exchange.header_block, exchange.body
        bucket = len(body).bit_length() if self._weight is None else self._weight.bucket(header_block, body)
        request = Request(
            next(self._ids),
            header_block,
            body,
            arrived=exchange.arrived,
            deadline=deadline,
            expires=expires,
            cost_class=(*self._terms.group(exchange), bucket),
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
        meaning = meaning_of(outcome, request, late=late)
        client_error = isinstance(outcome, Reply) and outcome.client_error
        self._metrics.client_errors += client_error and not request.best_effort
        if request.wanted_by < request.deadline and not client_error:
            answered = now if streamed is None else streamed.first_at
            self._metrics.client_deadline(met=meaning == "good" and answered <= request.wanted_by)
        waited = (now if batch is None else batch.dispatched) - request.arrived
        sent = None if streamed is None else streamed.sent
        ended = Ended(outcome, now, meaning, request.slo_class, batch, waited, True, sent)
        self._endings.end(call.exchange, ended, request.trace)

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
        self._endings.end(call.exchange, Ended(ABANDONED, now, meaning, request.slo_class), request.trace)


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
