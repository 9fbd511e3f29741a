"""The front with a real queue; only the worker and the clock are the test's."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from types import SimpleNamespace

import pytest
from prometheus_client.parser import text_string_to_metric_families

from batching_watchdog.config import Config
from batching_watchdog.engine.capacity import Capacity
from batching_watchdog.engine.cost import CostModel
from batching_watchdog.engine.engine import Engine
from batching_watchdog.engine.latency import LatencyModel
from batching_watchdog.engine.streams import Streams
from batching_watchdog.errors import ShuttingDown
from batching_watchdog.front import terms
from batching_watchdog.front.exchange import Exchange
from batching_watchdog.front.metrics_page import MetricsPage
from batching_watchdog.front.protocol import HttpProtocol
from batching_watchdog.front.routes import Front
from batching_watchdog.front.streams import END_ID, KEEP_ALIVE_SECONDS
from batching_watchdog.function.messages import Batch, Iteration, Output, Reply, Response
from batching_watchdog.function.wire import Spent, parse_header_block
from batching_watchdog.observe.logs import RequestLine
from batching_watchdog.observe.metrics import Exposition, Metrics
from batching_watchdog.observe.trace_context import format_traceparent
from batching_watchdog.shell import Shell
from batching_watchdog.worker.results import encode_piece
from support.connection import GET, LIMITS, Answer, Clock, Connection, alive, no_collector, post, statuses
from support.loops import within
from support.tracer import KeepsSpans

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
OK = Reply(200, b"", b"ok")
SAMPLED, UNSAMPLED = (f"traceparent: 00-{TRACE}-00f067aa0ba902b7-{flags}\r\n" for flags in ("01", "00"))


@dataclass(eq=False)
class Bench:
    """A front, its clock, clients, and one worker that keeps what it is sent until the test answers."""

    front: Front
    shell: Shell
    clock: Clock
    metrics: Metrics
    model: LatencyModel
    tracer: KeepsSpans | None = None
    batches: list[Batch] = field(default_factory=list)
    left: list[int] = field(default_factory=list)
    """Streams that were taken off the worker."""

    def send(self, batch: Batch) -> None:
        self.batches.append(batch)

    join = send

    def leave(self, streams: Sequence[int]) -> None:
        self.left += streams

    def client(self) -> Connection:
        return Connection(self.front, clock=self.clock)

    async def ask(self, target: str = "/", headers: str = "", body: bytes = b"") -> Connection:
        """Send a request on a connection of its own; it has been offered to the worker."""
        client = self.client()
        head = f"POST {target} HTTP/1.1\r\nHost: x\r\n{headers}Content-Length: {len(body)}\r\n\r\n"
        client.protocol.data_received(head.encode() + body)
        await self.turn()
        return client

    def answer(self, data: bytes) -> Answer:
        """The answer that ``data`` gets at once."""
        (answer,) = self.client().send(data)
        return answer

    async def reply(self, reply: Reply = OK) -> None:
        """The worker answers its last batch, and is idle again."""
        self.shell.batch_done(self, [reply for _ in self.batches[-1].requests], Spent())
        await self.turn()

    async def worker_idle(self) -> None:
        self.shell.worker_ready(self)
        await self.turn()

    async def piece(self, reply: Reply = OK, *, done: bool = False, seconds: float = 0.0) -> None:
        """The worker makes a step of its streams, each of which gets this piece."""
        outputs = [Output(stream.id, reply, done) for batch in self.batches for stream in batch.requests]
        self.shell.stepped(self, Iteration(outputs, 1, 0.0, 1, seconds, 0.0))
        await self.turn()

    @staticmethod
    async def turn() -> None:
        for _ in range(3):
            await asyncio.sleep(0)

    def refusals(self) -> dict[str, int]:
        return {reason: number for reason, number in self.metrics.refusals.items() if number}


@asynccontextmanager
async def a_bench(
    tracing: Callable[[], KeepsSpans] | None = None, **environ: str
) -> AsyncIterator[tuple[Bench]]:
    config = Config.from_env({"slo_latency": "100ms", **environ}, cpus=1)
    tracer = tracing and tracing()
    clock, cost = Clock(), CostModel(config.max_batch_size)
    metrics = Metrics(config.slos, Capacity(cost, 1, 0.1, 0.99, 1.0))
    of_bulk = CostModel(config.max_batch_size)
    engine = Engine(
        cost,
        max_inflight=config.max_inflight,
        workers=1,
        tightest=0.1,
        shed_late=config.shed_late,
        best_effort=of_bulk,
    )
    shell = Shell(
        clock, engine, cost, metrics, tracer,
        lambda closed: Streams(config.slos, max_inflight=9, max_streams=9, workers=1, closed=closed),
    )  # fmt: skip
    front = Front(
        config,
        shell,
        metrics,
        clock,
        not_ready=lambda: "",
        tracer=tracer,
    )
    yield (Bench(front, shell, clock, metrics, cost.overall, tracer),)


def scenario(tracing: Callable[[], KeepsSpans] | None = None, **environ: str):
    return within(lambda: a_bench(tracing, **environ))


def logged(caplog: pytest.LogCaptureFixture) -> list[RequestLine]:
    """The lines of requests."""
    return [record.msg for record in caplog.records if isinstance(record.msg, RequestLine)]


@pytest.mark.parametrize(("mix_paths", "batches"), [(True, [1, 2, 3]), (False, [1, 1, 2, 2])])
@scenario()
async def test_batch_key_keeps_requests_apart_and_the_path_where_the_handler_says_so(
    bench, mix_paths, batches
):
    bench.model.observe(8, 0.01)
    if mix_paths:
        bench.shell.mix_paths()
    for target, headers in (
        ("/a?x=1", ""),
        ("/a?x=2", ""),
        ("/b", ""),
        ("/a", "X-Batch-Key: short\r\n"),
        ("/a", "x-batch-key: short\r\n"),
        ("/a", "X-Batch-Key: long\r\n"),
    ):
        await bench.ask(target, headers)
        bench.clock.now += 0.001
    await bench.worker_idle()
    for _ in batches[1:]:
        await bench.reply()
    assert sorted(len(batch.requests) for batch in bench.batches) == batches


@pytest.mark.parametrize("answered", [True, False])
@scenario()
async def test_request_and_its_connection_are_freed_without_the_collector(bench, answered):
    with no_collector():
        client = await bench.ask()
        assert alive(Exchange, HttpProtocol) == 2
        if answered:
            await bench.worker_idle()
            await bench.reply()
            assert alive(Exchange, HttpProtocol) == 1
        client.lose()
        del client
        assert bench.metrics.in_flight == 0
        assert alive(Exchange, HttpProtocol) == 0


@scenario()
async def test_answer_has_the_functions_status_and_body_and_says_why_its_batch_left(bench):
    client = await bench.ask()
    bench.clock.now += 0.010
    await bench.worker_idle()
    bench.clock.now += 0.015
    await bench.reply(Reply(200, b"", b"hello"))
    (answer,) = client.answers()
    assert (answer.status, answer.body) == (200, b"hello")
    assert answer.headers["x-batch-reason"] == "idle"
    assert answer.headers["x-batch-size"] == "1"
    assert float(answer.headers["x-queue-seconds"]) == pytest.approx(0.010)
    assert float(answer.headers["x-duration-seconds"]) == pytest.approx(0.025)
    assert bench.metrics.outcomes["default", "good"] == 1
    assert bench.refusals() == {}


ABOUT = f"X-SLO-Class: fast\r\nX-Call-Id: 2a7b\r\n{SAMPLED}"
OUTCOMES = {
    "good": (200, None, "good"),
    "slow": (200, None, "slow"),
    "failed": (500, None, "error"),
    "client error": (400, None, None),
    "full": (429, "queue_full", "shed"),
    "full before its body": (429, "queue_full", "shed"),
    "large": (413, "body_too_large", None),
    "closing": (503, "shutting_down", "shed"),
    "expired": (504, "expired", "expired"),
    "expired early": (504, "expired", None),
    "gone": (499, "abandoned", None),
    "gone late": (499, "abandoned", "slow"),
}
"""The status, the reason of ours, and how the SLO counts it."""
WAITED = {
    "good": 0.125,
    "slow": 0.126,
    "gone": 0.125,
    "gone late": 0.126,
    "expired": 1.0,
    "expired early": 0.1,
}
SERVED = {
    "good": OK,
    "slow": OK,
    "failed": Reply(500, b"", b"", failed=True),
    "client error": Reply(400, b"", b"", client_error=True),
    "gone late": OK,
}


@pytest.mark.parametrize("kind", OUTCOMES)
@scenario(KeepsSpans, slo_classes="fast=125ms", max_inflight="1", access_log="true")
async def test_outcome_of_a_request_is_the_same_in_answer_metrics_log_and_span(bench, kind, caplog):
    caplog.set_level(logging.INFO)
    status, reason, outcome = OUTCOMES[kind]
    if kind == "full":
        await bench.ask(headers=UNSAMPLED)
    if kind in SERVED:
        await bench.worker_idle()
    bench.front.accepting = kind != "closing"
    timeouts = {"expired": "X-Timeout: 1s\r\n", "expired early": "X-Timeout: 100ms\r\n"}
    timeout = timeouts.get(kind, "")
    if kind == "full before its body":
        client = bench.client()
        client.send(f"POST /it HTTP/1.1\r\nHost: x\r\n{ABOUT}Content-Length: 1\r\n\r\n".encode())
        await bench.ask(headers=UNSAMPLED)
        client.protocol.data_received(b"x")
    else:
        client = await bench.ask("/it", ABOUT + timeout, bytes(2000 if kind == "large" else 0))
    bench.clock.now += WAITED.get(kind, 0.0)
    if status == 499:
        client.lose()
    if kind in timeouts:
        await bench.worker_idle()
    if kind in SERVED:
        await bench.reply(SERVED[kind])
    served = status in (200, 400, 500)
    answers = [] if status == 499 else client.answers()
    assert statuses(answers) == [status] * (status != 499)
    for headers in (answer.headers for answer in answers):
        assert (headers.get("x-watchdog-reason"), headers["x-slo-class"]) == (reason, "fast")
        assert (headers.get("x-openfaas-internal") == "batching-watchdog") == bool(reason)
        assert ("x-batch-reason" in headers) == served
        assert ("retry-after" in headers) == (status in (429, 503))
    counted = {key for key, number in bench.metrics.outcomes.items() if number}
    assert counted == ({("fast", outcome)} if outcome else set())
    assert bench.refusals() == ({reason: 1} if reason in bench.metrics.refusals else {})
    assert (bench.metrics.abandoned_requests, bench.metrics.in_flight) == (kind == "gone", "full" in kind)
    assert bench.metrics.client_errors == (kind == "client error")
    (line,) = logged(caplog)
    assert (line.status, line.reason, line.outcome, line.slo_class) == (status, reason, outcome, "fast")
    assert (line.call_id, line.trace_id, line.batch_size) == ("2a7b", TRACE, 1 if served else None)
    (span,) = (span for span in bench.tracer.spans if span.server)
    about = span.attributes
    assert (span.parent.trace_id, about["url.path"], about["tailbound.call_id"]) == (TRACE, "/it", "2a7b")
    assert about.get("http.response.status_code") == (None if status == 499 else status)
    assert about.get("error.type") == ("handler_error" if kind == "failed" else reason)
    assert about.get("tailbound.outcome") == outcome


@scenario(KeepsSpans, access_log="true")
async def test_request_without_a_whole_header_is_refused_and_counts_for_nothing(bench):
    answer = bench.answer(b"GET\r\n\r\n")
    assert (answer.status, answer.headers["x-watchdog-reason"]) == (400, "bad_request")
    assert (bench.refusals(), sum(bench.metrics.outcomes.values()), bench.tracer.spans) == ({}, 0, [])


@scenario()
async def test_our_own_errors_are_logged_without_an_access_log(bench, caplog):
    caplog.set_level(logging.INFO)
    await bench.worker_idle()
    await bench.ask("/good")
    await bench.reply()
    late = await bench.ask("/late", "X-Timeout: 1s\r\n")
    bench.clock.now += 1.0
    await bench.ask("/next")
    assert [answer.status for answer in late.answers()] == [504]
    assert [line.target for line in logged(caplog)] == ["/late"]


@scenario(late_requests="shed")
async def test_request_that_the_queue_makes_late_is_refused_before_its_body_is_read(bench):
    for _ in range(5):
        bench.model.observe(1, 0.04)
        bench.model.observe(2, 0.08)
    bench.shell.worker_ready(bench)
    for _ in range(3):
        await bench.ask()
    # One is with the worker, two wait, one at a time is best: a fourth would take 120 ms.
    refused = bench.answer(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 900\r\n\r\n")
    assert (refused.status, refused.headers["x-watchdog-reason"]) == (503, "predicted_late")
    assert bench.refusals() == {"predicted_late": 1}
    assert bench.metrics.outcomes["default", "shed"] == 1
    await bench.reply()
    assert (await bench.ask()).answers() == []


@scenario(max_inflight="1")
async def test_full_queue_is_not_ready_but_healthy_whatever_is_held(bench):
    client = bench.client()
    client.connections.queued_bytes = LIMITS.max_queued_bytes + 1
    health, ready = (GET.replace(b"/a?b=c", path) for path in (b"/_/health", b"/_/ready"))
    assert [answer.status for answer in client.send(GET, health, ready)] == [429, 200, 200]
    await bench.ask()
    assert [answer.status for answer in client.send(health, ready)] == [200, 429]
    refused = bench.answer(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 900\r\n\r\n")
    assert refused.status == 429, "before its body"


@scenario(max_inflight="3", ready_path="/warm")
async def test_probe_of_the_function_without_room_is_refused_and_its_connection_holds_nothing(bench):
    await bench.worker_idle()
    await bench.ask("/running")
    await bench.ask("/late")
    bench.clock.now += 0.15
    await bench.ask("/next")
    await bench.reply()
    await bench.ask()
    client = bench.client()
    (answer,) = client.send(GET.replace(b"/a?b=c", b"/_/ready"))
    assert (answer.status, answer.headers["x-watchdog-reason"]) == (429, "queue_full")
    client.lose()
    assert (len(client.connections.open), client.connections.queued_bytes) == (0, 0)
    assert bench.shell.admitted == 3


@scenario(ready_path="/warm")
async def test_probe_of_a_function_that_streams_ends_its_stream_at_the_first_piece(bench):
    bench.shell.stream(closed=False, starts=(), steps=())
    await bench.worker_idle()
    client = bench.client()
    client.protocol.data_received(GET.replace(b"/a?b=c", b"/_/ready"))
    await bench.turn()
    await bench.piece()
    (answer,) = client.answers()
    assert (answer.status, bench.left, bench.shell.admitted) == (200, [0], 0)


@scenario(ready_path="/warm")
async def test_probe_that_has_left_before_its_answer_is_withdrawn(bench):
    client = bench.client()
    client.send(GET.replace(b"/a?b=c", b"/_/ready"))
    assert bench.shell.admitted == 1
    client.lose()
    assert bench.shell.admitted == 0


@pytest.mark.parametrize("headers", ["X-Deadline-Ms: 0.001\r\n", "X-Timeout: 1ns\r\n"])
@scenario()
async def test_deadline_that_only_a_client_has_set_is_counted_apart_and_no_miss_of_the_slo(bench, headers):
    for _ in range(100):
        await bench.ask(headers=headers)
    bench.clock.now += 0.01
    await bench.worker_idle()
    while bench.metrics.in_flight:
        await bench.reply()
    assert {key for key, number in bench.metrics.outcomes.items() if number} <= {("default", "good")}
    assert bench.metrics.client_deadlines == {"met": 0, "missed": 100}


@pytest.mark.parametrize(("seconds", "outcome"), [(0.05, "met"), (0.06, "missed")])
@scenario()
async def test_tighter_deadline_of_a_client_is_met_by_an_answer_until_then(bench, seconds, outcome):
    await bench.worker_idle()
    await bench.ask(headers="X-Deadline-Ms: 50\r\n")
    bench.clock.now += seconds
    await bench.reply()
    assert bench.metrics.outcomes["default", "good"] == 1
    assert bench.metrics.client_deadlines[outcome] == 1


@pytest.mark.parametrize(("seconds", "missed"), [(0.04, 0), (0.06, 1)])
@scenario()
async def test_client_that_leaves_misses_its_own_deadline_only_after_it(bench, seconds, missed):
    client = await bench.ask(headers="X-Deadline-Ms: 50\r\n")
    bench.clock.now += seconds
    client.lose()
    assert bench.metrics.client_deadlines == {"met": 0, "missed": missed}


async def a_stream(bench: Bench, method: str = "POST", headers: str = "") -> Connection:
    """A client whose request has joined the only worker, which streams."""
    bench.shell.stream(closed=False, starts=(), steps=())
    await bench.worker_idle()
    client = bench.client()
    client.protocol.data_received(f"{method} / HTTP/1.1\r\nHost: x\r\n{headers}\r\n".encode())
    await bench.turn()
    return client


@pytest.mark.parametrize("leaves", [True, False])
@scenario()
async def test_tighter_deadline_of_a_client_is_for_the_first_piece_of_its_stream(bench, leaves):
    client = await a_stream(bench, headers="X-Deadline-Ms: 50\r\n")
    bench.clock.now += 0.04
    await bench.piece()
    bench.clock.now += 0.04
    if leaves:
        client.lose()
    else:
        await bench.piece(done=True)
    assert bench.metrics.client_deadlines == {"met": not leaves, "missed": 0}


@scenario()
async def test_head_ends_a_stream_at_its_first_piece_and_keeps_the_connection(bench):
    client = await a_stream(bench, "HEAD")
    await bench.piece()
    (answer,) = client.answers()
    assert (answer.status, answer.body, client.wire.closed) == (200, b"", False)
    assert bench.left == [0]
    assert (bench.shell.admitted, bench.metrics.in_flight) == (0, 0)


@scenario()
async def test_only_piece_with_a_type_of_its_own_is_an_answer_with_a_length(bench):
    client = await a_stream(bench)
    await bench.piece(
        encode_piece(Response({"a": 1}, headers={"Content-Type": "application/json"})), done=True
    )
    (answer,) = client.answers()
    assert (answer.headers["content-type"], answer.body) == ("application/json", b'{"a":1}')
    assert answer.headers["content-length"] == "7"
    assert bench.metrics.in_flight == 0


@pytest.mark.parametrize("slo_class", ["default", "bulk"])
@scenario(slo_classes="bulk=best-effort")
async def test_cpu_time_of_the_front_end_is_for_each_piece_and_each_answer_without_one(bench, slo_class):
    cpu = iter([(0.0, 0.0), (10.0, 4.0)])
    bench.metrics.cpu = lambda: next(cpu)
    bench.metrics.requests_per_second()
    await a_stream(bench, headers=f"X-SLO-Class: {slo_class}\r\n")
    for done in (False, False, True):
        await bench.piece(done=done)
    bench.front.accepting = False
    await bench.ask(headers=f"X-SLO-Class: {slo_class}\r\n")
    bench.metrics.requests_per_second()
    assert bench.metrics.capacity.cost.front == 4.0 / (3 + 1)


@scenario()
async def test_browser_that_connects_again_after_the_end_of_its_stream_starts_none(bench):
    again = b"GET / HTTP/1.1\r\nHost: x\r\nLast-Event-ID: %b\r\n\r\n"
    assert bench.answer(again % END_ID).status == 204
    assert bench.shell.admitted == 0
    bench.client().protocol.data_received(again % b"7")
    assert bench.shell.admitted == 1


@scenario()
async def test_stream_that_our_own_error_breaks_off_is_counted_by_its_reason_and_closes_its_connection(bench):
    client = await a_stream(bench)
    await bench.piece()
    bench.shell.give_up(ShuttingDown("it ends"))
    assert client.wire.sent.endswith(b"\r\nok\r\n")  # no last chunk
    assert client.wire.closed
    assert bench.metrics.stream_cancels["shutting_down"] == 1


@scenario()
async def test_stream_that_the_function_ends_with_an_error_is_answered_with_it(bench):
    client = await a_stream(bench)
    await bench.piece(Reply(404, b"", b"none"), done=True)
    (answer,) = client.answers()
    assert (answer.status, answer.body) == (404, b"none")
    assert (bench.shell.admitted, bench.metrics.in_flight) == (0, 0)


@scenario(slo_interval="1s")
async def test_stream_with_one_late_piece_is_slow_though_the_next_ones_are_early(bench):
    await a_stream(bench)
    bench.clock.now += 0.2
    await bench.piece()
    await bench.piece(done=True)
    assert {key: number for key, number in bench.metrics.outcomes.items() if number} == {
        ("default", "slow"): 1
    }


@pytest.mark.parametrize(
    ("pauses", "piece"), [((0.2, 0.2), "first"), ((0.0, 0.2, 0.2), "later"), ((0.0, 0.0), None)]
)
@scenario(slo_interval="50ms")
async def test_late_stream_is_counted_once_by_the_piece_that_was_late_first(bench, pauses, piece):
    await a_stream(bench)
    for pause in pauses:
        bench.clock.now += pause
        await bench.piece()
    counted = {key for key, number in bench.metrics.late_streams.items() if number == 1}
    assert counted == ({("default", piece)} if piece else set())


@scenario()
async def test_stream_of_events_that_is_silent_for_long_gets_a_comment(bench):
    client = await a_stream(bench, headers="Accept: text/event-stream\r\n")
    await bench.piece(Reply(200, b"Content-Type: application/json\r\n", b"1"))
    client.wire.sent.clear()
    bench.front.keep_alive()
    assert not client.wire.sent
    bench.clock.now += KEEP_ALIVE_SECONDS
    bench.front.keep_alive()
    assert client.wire.sent == b"3\r\n:\n\n\r\n"


def gateway(seconds: float) -> str:
    """What the gateway adds to a request that it got so long before we did, at 1001000 s by its clock."""
    return f"X-Start-Time: {1_001_000_000_000_000 - round(seconds * 1e9)}\r\n"


@scenario()
async def test_start_time_of_a_client_without_a_gateway_is_no_miss(bench, monkeypatch):
    monkeypatch.setattr(terms, "time", SimpleNamespace(time=lambda: bench.clock.now + 1_000_000))
    await bench.worker_idle()
    await bench.ask(headers=gateway(2.0))
    await bench.reply()
    assert {key for key, number in bench.metrics.outcomes.items() if number} == {("default", "good")}


@scenario()
async def test_slow_upload_is_no_miss(bench):
    await bench.worker_idle()
    client = bench.client()
    for piece in (b"POST / HTTP/1.1\r\nHost: x\r\n", b"Content-Length: 2\r\n\r\n", b"x", b"y"):
        client.send(piece)
        bench.clock.now += 0.5
    bench.clock.now -= 0.5
    await bench.turn()
    await bench.reply()
    assert bench.metrics.outcomes["default", "good"] == 1
    assert float(client.answers()[0].headers["x-duration-seconds"]) == 0.0


@scenario(late_requests="shed")
async def test_head_that_comes_slowly_is_not_refused_for_the_time_that_it_took(bench):
    bench.model.observe(1, 0.04)
    bench.shell.worker_ready(bench)
    await bench.ask()
    client = bench.client()
    client.send(b"POST / HTTP/1.1\r\nHost: x\r\n")
    bench.clock.now += 0.2
    assert client.send(b"Content-Length: 1\r\n\r\n") == []


IGNORED = (
    *("", "X-SLO-Class: default\r\n", "X-SLO-Class: Fast\r\n", "X-SLO-Class: \u00e4\r\n"),
    *(f"X-Deadline-Ms: {text}\r\n" for text in ("0", "-1", "+1", "1e1", "nan", "inf", "1_0", ".", "1.0.0")),
    *(f"X-Deadline-Ms: {text}\r\n" for text in ("50ms", "9" * 400, "0." + "0" * 400, "126")),
    *(f"X-Timeout: {text}\r\n" for text in ("soon", "0s", "5m", "9" * 5000)),
    *("X-Start-Time: now\r\n", f"X-Start-Time: {'9' * 310}\r\n", gateway(-0.5), gateway(5.1)),
)
TERMS = {
    **{f"ignored {n}": (each, "default", 0.125, 0.125, 30.0) for n, each in enumerate(IGNORED)},
    "a wider class": ("X-SLO-Class: batch\r\n", "batch", 2.0, 2.0, 30.0),
    "a tighter class": ("X-SLO-Class: fast\r\n", "fast", 0.0625, 0.0625, 30.0),
    "deadline within a class": ("X-SLO-Class: batch\r\nX-Deadline-Ms: 500\r\n", "batch", 0.5, 2.0, 30.0),
    "deadline beyond it": ("X-SLO-Class: fast\r\nX-Deadline-Ms: 500\r\n", "fast", 0.0625, 0.0625, 30.0),
    "a tighter deadline": ("X-Deadline-Ms: 62.5\r\n", "default", 0.0625, 0.125, 30.0),
    "deadline and start": ("X-Deadline-Ms: 50\r\n" + gateway(0.02), "default", 0.03, 0.105, 30.0),
    "timeout within a class": ("X-SLO-Class: batch\r\nX-Timeout: 1s\r\n", "batch", 1.0, 2.0, 1.0),
    "timeout below the budget": ("X-Timeout: 50ms\r\n", "default", 0.05, 0.125, 0.05),
    "a start": (gateway(0.02), "default", 0.105, 0.105, 30.0),
    "a start as far back as is believed": (gateway(4.9), "default", -4.775, -4.775, 30.0),
    "a start before the timeout": ("X-Timeout: 1s\r\n" + gateway(1.1), "default", 0.125, 0.125, 1.0),
    "client's and gateway's start": (gateway(-0.5) + gateway(0.02), "default", 0.105, 0.105, 30.0),
}
"""Headers; class; seconds from arrival to when the client wants the answer, to deadline and timeout."""


@pytest.mark.parametrize(("headers", "name", "wanted", "deadline", "expiry"), TERMS.values(), ids=TERMS)
@scenario(slo_latency="125ms", slo_classes="batch=2s, fast=62.5ms", trust_start_time="true")
async def test_request_sets_its_own_terms_which_count_from_its_last_byte(
    bench, headers, name, wanted, deadline, expiry, monkeypatch
):
    monkeypatch.setattr(terms, "time", SimpleNamespace(time=lambda: bench.clock.now + 1_000_000))
    client = bench.client()
    client.send(f"POST / HTTP/1.1\r\nHost: x\r\n{headers}Content-Length: 1\r\n\r\n".encode())
    bench.clock.now += 0.125
    client.send(b"x")
    complete = bench.clock.now
    await bench.worker_idle()
    ((request,),) = (batch.requests for batch in bench.batches)
    assert (request.slo_class, request.arrived) == (name, complete)
    ends = [end - complete for end in (request.wanted_by, request.deadline, request.expires)]
    assert ends == pytest.approx([wanted, deadline, expiry])


@scenario(slo_classes="bulk=best-effort", max_inflight="1")
async def test_best_effort_is_in_no_metric_of_other_requests(bench):
    await bench.worker_idle()
    before = Exposition(bench.metrics).scrape()[0].decode()
    bulk = "X-SLO-Class: bulk\r\nX-Deadline-Ms: 1\r\n"
    await bench.ask(headers=bulk)
    await bench.ask(headers=bulk)  # refused: there is no room
    assert bench.shell.queued == 0
    bench.clock.now += 0.02
    await bench.reply()
    after = Exposition(bench.metrics).scrape()[0].decode()
    assert changed(before, after) == {
        ("watchdog_best_effort", "good"),
        ("watchdog_best_effort", "shed"),
        ("watchdog_best_effort_seconds", ""),
        ("watchdog_batch_size", ""),
        ("watchdog_dispatch", "best_effort"),
    }


@scenario(slo_classes="bulk=best-effort")
async def test_best_effort_that_expires_is_counted_as_such(bench):
    before = Exposition(bench.metrics).scrape()[0].decode()
    await bench.ask(headers="X-SLO-Class: bulk\r\nX-Timeout: 1s\r\n")
    bench.clock.now += 1.0
    await bench.worker_idle()
    after = Exposition(bench.metrics).scrape()[0].decode()
    assert changed(before, after) == {("watchdog_best_effort", "expired")}


@scenario(slo_classes="bulk=best-effort")
async def test_step_of_a_stream_of_best_effort_beside_another_took_half_of_its_time_for_it(bench):
    await a_stream(bench, headers="X-SLO-Class: bulk\r\n")
    await bench.ask()
    await bench.piece()
    await bench.piece(seconds=0.02)
    assert bench.metrics.best_effort_seconds == pytest.approx(0.01)


@scenario(slo_classes="bulk=best-effort,quick=50ms")
async def test_bodies_of_best_effort_leave_room_for_those_of_others(bench):
    limits = replace(LIMITS, max_body_bytes=100_000, max_queued_bytes=200_000)
    bulk = Connection(bench.front, limits)
    quick, other, more = (Connection(beside=bulk) for _ in range(3))
    body = b"x" * 60_000
    assert bulk.send(post(60_000, b"X-SLO-Class: bulk\r\n") + body) == []
    assert statuses(more.send(post(60_000, b"X-SLO-Class: bulk\r\n"))) == [429]
    assert quick.send(post(60_000, b"X-SLO-Class: quick\r\n") + body) == []
    assert other.send(post(60_000) + body) == []


@scenario(slo_classes="bulk=best-effort")
async def test_stream_of_best_effort_is_in_no_metric_of_other_requests(bench):
    bench.shell.stream(closed=False, starts=(), steps=())
    before = Exposition(bench.metrics).scrape()[0].decode()
    await a_stream(bench, headers="X-SLO-Class: bulk\r\n")
    bench.clock.now += 9.0
    await bench.piece(seconds=0.02)
    own = {("watchdog_best_effort_seconds", ""), ("watchdog_joins", "idle")}
    assert changed(before, Exposition(bench.metrics).scrape()[0].decode()) == own
    await bench.piece(done=True)
    after = Exposition(bench.metrics).scrape()[0].decode()
    assert changed(before, after) == {*own, ("watchdog_best_effort", "good")}


def changed(before: str, after: str) -> set[tuple[str, str]]:
    """The families of the watchdog's own metrics that differ, with the outcome or reason."""
    old, new = (
        {
            (family.name, tuple(sample.labels.items()), sample.name): str(sample.value)
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if family.name.startswith(("watchdog_", "slo_", "http_"))
        }
        for text in (before, after)
    )
    differ = [
        (name, dict(labels))
        for name, labels, kind in new
        if new[name, labels, kind] != old.get((name, labels, kind))
    ]
    return {(name, labels.get("outcome") or labels.get("reason") or "") for name, labels in differ}


def headers_of(batch: Batch) -> list[tuple[str, str]]:
    """What the worker is given of a batch's only request."""
    (request,) = batch.requests
    return parse_header_block(request.header_block)[2]


@pytest.mark.parametrize(("headers", "kept"), [(SAMPLED, True), (UNSAMPLED, False), ("", False)])
@scenario()
async def test_request_of_a_recorded_trace_is_an_exemplar_of_its_latency(bench, headers, kept):
    await bench.worker_idle()
    await bench.ask(headers=headers)
    bench.clock.now += 0.02
    await bench.reply()
    page = Connection(MetricsPage(Exposition(bench.metrics)), clock=bench.clock)
    accept = b"Accept: application/openmetrics-text; version=1.0.0\r\n"
    (answer,) = page.send(b"GET /metrics HTTP/1.1\r\nHost: x\r\n" + accept + b"\r\n")
    lines = [line.split("trace_id")[1] for line in answer.body.decode().splitlines() if "trace_id" in line]
    assert [line.startswith(f'="{TRACE}"}} 0.0') for line in lines] == [True] * kept


@pytest.mark.parametrize("headers", ["", "traceparent: wrong\r\ntracestate: a=1\r\n", SAMPLED + SAMPLED])
@scenario(KeepsSpans, access_log="true")
async def test_trace_that_begins_here_is_the_workers_and_the_logs(bench, headers, caplog):
    caplog.set_level(logging.INFO)
    await bench.worker_idle()
    await bench.ask(headers=headers)
    given = headers_of(bench.batches[0])
    await bench.reply()
    spans = bench.tracer.named()
    assert spans["POST"].parent is None
    own = format_traceparent(spans["execution"].context).decode()
    assert [pair for pair in given if pair[0].startswith("trace")] == [("traceparent", own)]
    (record,) = caplog.records
    assert record.msg.trace_id == bench.tracer.named()["POST"].context.trace_id != TRACE


@pytest.mark.parametrize(("headers", "samples"), [(UNSAMPLED, True), ("", False)])
@scenario(KeepsSpans)
async def test_request_that_is_not_recorded_has_no_span_and_reaches_the_worker_as_it_came(
    bench, headers, samples
):
    bench.tracer.samples = samples
    await bench.worker_idle()
    await bench.ask(headers=headers)
    (request,) = bench.batches[0].requests
    assert request.header_block == f"POST /\r\nHost: x\r\n{headers}Content-Length: 0\r\n".encode()
    await bench.reply()
    assert bench.tracer.spans == []


@scenario()
async def test_probe_with_another_method_is_told_the_allowed_one(bench):
    for path in ("/_/health", "/_/ready"):
        answer = bench.answer(f"HEAD {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert (answer.status, answer.headers["allow"]) == (405, "GET")
