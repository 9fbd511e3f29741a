import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from math import inf

import pytest
import uvloop

from batching_watchdog.engine.capacity import Capacity
from batching_watchdog.engine.cost import CostModel
from batching_watchdog.engine.effects import Answer, Effect, WakeAt
from batching_watchdog.engine.engine import Engine
from batching_watchdog.errors import Expired, ShuttingDown
from batching_watchdog.function.messages import DROPPED, Batch, Reply, Request, Target
from batching_watchdog.function.wire import Spent
from batching_watchdog.observe.metrics import Exposition, Metrics
from batching_watchdog.shell import Shell
from support.connection import Clock
from support.loops import within
from support.tracer import KeepsSpans

OK = Reply(200, b"", b"")


@dataclass(eq=False)
class Worker:
    """Keeps what it is sent until the test answers."""

    batches: list[Batch] = field(default_factory=list)
    cancelled: list[int] = field(default_factory=list)
    sent: asyncio.Event = field(default_factory=asyncio.Event)

    def send(self, batch: Batch) -> None:
        self.batches.append(batch)
        self.sent.set()

    def cancel(self, indexes: Sequence[int]) -> None:
        self.cancelled += indexes


class CountsTicks(Engine):
    """Wants nothing but to be woken at ``until``."""

    def __init__(self) -> None:
        super().__init__(CostModel(8), max_inflight=1, workers=1, tightest=0.1)
        self.until, self.ticks, self.reached = 0.0, 0, asyncio.Event()

    def tick(self, now: float) -> list[Effect]:
        self.ticks += 1
        if now < self.until:
            return [WakeAt(self.until)]
        self.reached.set()
        return []


@dataclass
class Bench:
    """A shell, its clock, one worker, and what became of each request."""

    shell: Shell
    clock: Clock
    metrics: Metrics
    tracer: KeepsSpans
    worker: Worker = field(default_factory=Worker)
    answers: dict[int, Answer] = field(default_factory=dict)
    all_answered: asyncio.Event = field(default_factory=asyncio.Event)

    def deliver(self, answer: Answer) -> None:
        assert answer.request.id not in self.answers
        self.answers[answer.request.id] = answer
        if not self.shell.admitted:
            self.all_answered.set()

    def offer(
        self, number: int, *, timeout: float = 30.0, recorded: bool = False, body: bytes = b""
    ) -> Request:
        now = self.clock.now
        request = Request(number, b"POST /\r\n", body, now, now + 0.1, now + timeout, client=self)
        if recorded:
            request.trace = self.tracer.begin(None, "", "POST", {})
        self.shell.offer(request)
        return request

    def reply(self, cpu_seconds: float = 0.0) -> None:
        """The worker answers its last batch, and may have another."""
        self.clock.now += 0.01
        self.shell.batch_done(
            self.worker, [OK] * len(self.worker.batches[-1].requests), Spent(0.01, cpu_seconds)
        )

    def sizes(self) -> list[int]:
        return [len(batch.requests) for batch in self.worker.batches]


def a_capacity(cost: CostModel) -> Capacity:
    return Capacity(cost, 1, 0.1, 0.99, 1.0)


@asynccontextmanager
async def a_bench(max_inflight: int = 100, max_batch_bytes: float = inf) -> AsyncIterator[tuple[Bench]]:
    clock, cost = Clock(), CostModel(8)
    cost.overall.observe(8, 0.01)  # batches grow only as far as sizes are known
    metrics = Metrics({"default": Target(0.1, 0.99)}, a_capacity(cost))
    engine = Engine(
        cost, max_inflight=max_inflight, workers=1, tightest=0.1, max_batch_bytes=max_batch_bytes, lead=0.002
    )
    tracer = KeepsSpans()
    yield (Bench(Shell(clock, engine, cost, metrics, tracer), clock, metrics, tracer),)


scenario = partial(within, a_bench)


async def turn() -> None:
    """Let the loop run what is due now."""
    for _ in range(3):
        await asyncio.sleep(0)


@scenario()
async def test_start_up_lasts_from_the_shells_start_to_the_first_worker(bench):
    bench.clock.now += 3.0
    bench.shell.came_up()
    assert bench.metrics.start_up_seconds == 3.0


@scenario()
async def test_requests_of_one_turn_leave_together_and_those_after_it_when_the_worker_is_ready(bench):
    bench.shell.worker_ready(bench.worker)
    for number in range(2):
        bench.offer(number)
    assert bench.sizes() == []
    await turn()
    bench.offer(2)
    await turn()
    assert (bench.sizes(), bench.shell.queued) == ([2], 1)
    bench.reply()
    assert {number: answer.outcome for number, answer in bench.answers.items()} == {0: OK, 1: OK}
    await turn()
    assert bench.sizes() == [2, 1]


@scenario()
async def test_queue_of_a_full_batch_leaves_at_once_when_a_worker_is_ready(bench):
    for number in range(8):
        bench.offer(number)
    await turn()
    bench.shell.worker_ready(bench.worker)
    assert bench.sizes() == [8]


@pytest.mark.parametrize("late", [False, True])
@within(lambda: a_bench(max_batch_bytes=250))
async def test_batch_ends_where_its_bodies_exceed_its_bytes_and_the_rest_leaves_next(bench, late):
    for number in range(3):
        bench.offer(number, body=bytes(100))
    bench.offer(3, body=bytes(1000))
    bench.clock.now += 0.2 * late
    bench.shell.worker_ready(bench.worker)
    await turn()
    while bench.shell.admitted:
        bench.reply()
        await turn()
    assert [[request.id for request in batch.requests] for batch in bench.worker.batches] == [
        [0, 1],
        [2],
        [3],
    ]
    assert set(bench.answers) == {0, 1, 2, 3}


@pytest.mark.parametrize("late", [False, True])
@within(lambda: a_bench(max_batch_bytes=250))
async def test_batch_ends_where_its_expected_answers_exceed_its_bytes(bench, late):
    def reply() -> None:
        answers = [Reply(200, b"", bytes(100)) for _ in bench.worker.batches[-1].requests]
        bench.clock.now += 0.01
        bench.shell.batch_done(bench.worker, answers, Spent(0.01))

    bench.shell.worker_ready(bench.worker)
    bench.offer(0)
    await turn()
    for number in range(1, 5):
        bench.offer(number)
    bench.clock.now += 0.2 * late
    while bench.shell.admitted:
        reply()
        await turn()
    assert bench.sizes() == [1, 2, 2]


@scenario()
async def test_request_that_is_withdrawn_while_it_runs_holds_nothing(bench):
    bench.shell.worker_ready(bench.worker)
    gone = bench.offer(0)
    await turn()
    bench.shell.withdraw(gone)
    assert (gone.header_block, gone.body) == (b"", b"")
    bench.reply()
    assert bench.answers == {}


@scenario()
async def test_queued_and_running_requests_that_are_given_up_are_answered_once(bench):
    bench.shell.worker_ready(bench.worker)
    bench.offer(0)
    await turn()
    bench.offer(1)
    bench.shell.give_up(error := ShuttingDown())
    assert {number: answer.outcome for number, answer in bench.answers.items()} == {0: error, 1: error}
    assert bench.shell.admitted == 0
    bench.reply()
    await turn()
    assert bench.sizes() == [1]


@scenario()
async def test_timer_gives_a_request_up_at_its_timeout(bench):
    bench.offer(0, timeout=0.02)
    bench.offer(1, timeout=0.01)
    await turn()
    bench.clock.now += 0.03
    await asyncio.wait_for(bench.all_answered.wait(), 60)
    assert {type(answer.outcome) for answer in bench.answers.values()} == {Expired}


def test_timer_fires_once_however_coarse_the_clock_of_the_loop_is():
    async def run() -> int:
        engine, clock = CountsTicks(), time.monotonic
        cost = CostModel(8)
        metrics = Metrics({"default": Target(0.1, 0.99)}, a_capacity(cost))
        shell = Shell(clock, engine, cost, metrics)
        for _ in range(20):
            engine.until = clock() + 0.0024
            engine.reached.clear()
            shell.worker_ready(Worker())
            await asyncio.wait_for(engine.reached.wait(), 60)
        return engine.ticks

    # One to set it, one when it fires, and one more where the loop's own time was behind.
    assert uvloop.run(run()) <= 3 * 20


@pytest.mark.parametrize("told", [0.02, 0.0])
@scenario()
async def test_cpu_time_of_a_batch_is_learned_if_the_worker_tells_it(bench, told):
    bench.shell.worker_ready(bench.worker)
    bench.offer(0)
    await turn()
    bench.reply(cpu_seconds=told)
    assert bench.metrics.capacity.times.overall.predict_cpu(1) == told


@scenario()
async def test_request_that_is_withdrawn_before_its_worker_begins_is_cancelled_and_counts_for_nothing(bench):
    bench.shell.worker_ready(bench.worker)
    bench.offer(0, timeout=1000.0)
    await turn()
    bench.worker.sent.clear()
    gone = bench.offer(1, timeout=1000.0)
    await turn()
    assert bench.sizes() == [1]
    bench.clock.now += 0.009
    await asyncio.wait_for(bench.worker.sent.wait(), 60)  # the timer of the dispatch
    assert bench.sizes() == [1, 1]
    bench.shell.withdraw(gone)
    assert bench.worker.cancelled == [0]
    bench.shell.batch_done(bench.worker, [OK], Spent(0.001))
    bench.shell.batch_done(bench.worker, [DROPPED], Spent())
    assert set(bench.answers) == {0}
    assert b"watchdog_service_seconds_count 1.0" in Exposition(bench.metrics).scrape()[0]


@scenario()
async def test_worker_that_is_to_leave_gets_no_batch_after_the_one_that_it_has(bench):
    bench.shell.worker_ready(bench.worker)
    bench.offer(0, timeout=1000.0)
    await turn()
    bench.worker.sent.clear()
    bench.offer(1, timeout=1000.0)
    bench.clock.now += 0.009
    await asyncio.wait_for(bench.worker.sent.wait(), 60)
    bench.shell.batch_done(bench.worker, [OK], Spent(0.01), ready=False)
    bench.clock.now += 0.009
    bench.offer(2, timeout=0.001)  # before each timer, so that the engine looks now
    await turn()
    assert bench.sizes() == [1, 1]


@scenario()
async def test_idle_worker_gets_a_request_at_once_while_another_is_busy(bench):
    bench.shell.worker_ready(bench.worker)
    bench.offer(0)
    await turn()
    other = Worker()
    bench.shell.worker_ready(other)
    await turn()
    bench.offer(1)
    await turn()
    assert [batch.number for batch in other.batches] == [1]


@scenario()
async def test_cores_that_stay_the_same_start_no_new_search(bench):
    steps = []
    for workers in (1, 1, 2):
        bench.shell.resize(workers, 1.0)
        steps.append(sum(1 for _ in bench.metrics.capacity.estimate()))
    assert [number > 0 for number in steps] == [True, False, True]


@scenario()
async def test_idle_worker_that_dies_is_sent_nothing(bench):
    bench.shell.worker_ready(bench.worker)
    bench.shell.worker_lost(bench.worker)
    bench.offer(0)
    await turn()
    assert bench.worker.batches == []


@scenario()
async def test_batch_has_a_span_from_when_it_leaves_to_its_replies_linked_to_requests_that_are_recorded(
    bench,
):
    bench.shell.worker_ready(bench.worker)
    requests = [bench.offer(number, recorded=number != 1) for number in range(3)]
    await turn()
    left = bench.clock.now
    bench.reply(cpu_seconds=0.005)
    (span,) = bench.tracer.spans
    assert (span.name, span.start, span.end) == ("batch", left, bench.clock.now)
    assert span.links == (requests[0].trace.server, requests[2].trace.server)
    assert span.attributes["tailbound.batch.size"] == 3
    assert span.attributes["tailbound.batch.cpu_seconds"] == 0.005
    assert span.context == bench.worker.batches[0].trace.context
    assert span.context.trace_id not in {request.trace.server.trace_id for request in requests[::2]}


@scenario()
async def test_batch_under_which_a_worker_dies_has_a_span_that_failed_and_its_retry_another(bench):
    bench.shell.worker_ready(bench.worker)
    request = bench.offer(0, recorded=True)
    await turn()
    bench.shell.worker_lost(bench.worker)
    bench.shell.worker_ready(bench.worker)
    await turn()
    bench.reply()
    lost, retry = bench.tracer.spans
    assert (lost.failed, lost.attributes["error.type"]) == (True, "worker_died")
    assert "tailbound.batch.cpu_seconds" not in lost.attributes
    assert (retry.failed, retry.attributes["tailbound.batch.reason"]) == (False, "retry")
    assert lost.links == retry.links == (request.trace.server,)
    assert lost.context != retry.context


@scenario()
async def test_worker_that_dies_idle_ends_no_batch_of_another(bench):
    other = Worker()
    bench.shell.worker_ready(other)
    bench.shell.worker_ready(bench.worker)
    bench.offer(0, recorded=True)
    await turn()
    bench.shell.worker_lost(other)
    assert bench.tracer.spans == []
    bench.reply()
    assert [span.failed for span in bench.tracer.spans] == [False]
