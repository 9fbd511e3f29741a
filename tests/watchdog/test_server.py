"""The front with a real queue and real sockets; only the worker is the test's."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import pytest

from batching_watchdog.batcher import Batcher
from batching_watchdog.config import Config
from batching_watchdog.engine.latency import LatencyModel
from batching_watchdog.engine.policy import POLICIES, PolicySettings
from batching_watchdog.engine.scheduler import Scheduler
from batching_watchdog.front.protocol import Exchange
from batching_watchdog.front.routes import Front
from batching_watchdog.logs import RequestLine
from batching_watchdog.messages import Batch, Reply
from batching_watchdog.metrics import Metrics
from watchdog.http_service import Answer, Client, Clock, Service, alive, no_collector, serving


@dataclass(eq=False)
class Worker:
    """Keeps what it is sent until the test answers."""

    batches: list[Batch] = field(default_factory=list)

    def send(self, batch: Batch) -> None:
        self.batches.append(batch)


@dataclass
class Bench:
    service: Service
    front: Front
    batcher: Batcher
    clock: Clock
    metrics: Metrics
    model: LatencyModel
    worker: Worker = field(default_factory=Worker)

    def reply(self) -> None:
        """The worker answers its last batch, and is idle again."""
        batch = self.worker.batches[-1]
        self.batcher.worker_idle(self.worker)
        self.batcher.replied(batch, [Reply(200, b"", b"ok") for _ in batch.requests])

    async def ask(self, target: str = "/", headers: str = "", body: bytes = b"") -> Client:
        """Send a request on a connection of its own; returns when the front has it."""
        before = self.metrics.in_flight
        client = await self.service.connect()
        head = f"POST {target} HTTP/1.1\r\nHost: x\r\n{headers}Content-Length: {len(body)}\r\n\r\n"
        await client.send(head.encode() + body)
        await self.service.until(lambda: self.metrics.in_flight > before)
        return client

    async def send(self, data: bytes) -> Answer:
        """Send ``data`` on a connection of its own; the answer that it gets."""
        client = await self.service.connect()
        await client.send(data)
        async with asyncio.timeout(5):
            return await client.answer()


def scenario(body: Callable[[Bench], Awaitable[None]], **environ: str) -> None:
    async def run() -> None:
        config = Config.from_env({"slo_latency": "100ms", **environ}, cpus=1)
        clock = Clock()
        model = LatencyModel(config.max_batch_size)
        metrics = Metrics(slo_latency=0.1, slo_objective=0.99, workers=1, model=model)
        policy = POLICIES["slo"](PolicySettings(config.max_batch_size, 0.0, 0.1))
        scheduler = Scheduler(policy, model, max_inflight=config.max_inflight, shed_late=config.shed_late)
        batcher = Batcher(clock, scheduler, model, metrics, workers=1, shed_late=config.shed_late)
        front = Front(config, batcher, metrics, clock, worker_ready=lambda: True)
        async with serving(front) as service:
            service.connections.clock = clock
            await body(Bench(service, front, batcher, clock, metrics, model))

    asyncio.run(run())


def test_method_path_and_batch_key_keep_requests_apart_and_the_query_does_not():
    async def body(bench: Bench) -> None:
        bench.model.observe(8, 0.01)
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
        sizes = []
        bench.batcher.worker_idle(bench.worker)
        for number in range(4):
            await bench.service.until(lambda number=number: len(bench.worker.batches) > number)
            sizes.append(len(bench.worker.batches[-1].requests))
            bench.reply()
        assert sizes == [2, 1, 2, 1]

    scenario(body)


@pytest.mark.parametrize("answered", [True, False])
def test_a_request_that_is_answered_or_withdrawn_is_freed_without_the_collector(answered: bool):
    async def body(bench: Bench) -> None:
        client = await bench.ask()
        assert alive(Exchange) == 1
        if answered:
            bench.batcher.worker_idle(bench.worker)
            await bench.service.until(lambda: bool(bench.worker.batches))
            bench.reply()
            await client.answer()
        else:
            client.writer.close()
            await bench.service.until(lambda: bench.metrics.in_flight == 0)
        assert alive(Exchange) == 0

    with no_collector():
        scenario(body)


def refusals(bench: Bench) -> dict[str, int]:
    return {reason: number for reason, number in bench.metrics.refusals.items() if number}


def test_an_answer_says_why_its_batch_left():
    async def body(bench: Bench) -> None:
        client = await bench.ask()
        bench.batcher.worker_idle(bench.worker)
        await bench.service.until(lambda: bool(bench.worker.batches))
        bench.reply()
        answer = await client.answer()
        assert (answer.status, answer.headers["x-batch-reason"]) == (200, "idle")
        assert refusals(bench) == {}

    scenario(body)


def test_a_slow_and_a_shed_request_are_traced_by_their_call_ids_to_batch_and_reason(
    caplog: pytest.LogCaptureFixture,
):
    async def body(bench: Bench) -> None:
        good = await bench.ask("/good", "X-Call-Id: a\r\n")
        bench.batcher.worker_idle(bench.worker)
        await bench.service.until(lambda: bool(bench.worker.batches))
        bench.reply()
        await good.answer()
        await bench.service.until(lambda: bench.batcher.idle == 1)
        slow = await bench.ask("/slow", "X-Call-Id: b\r\n")
        await bench.service.until(lambda: len(bench.worker.batches) > 1)
        refused = await bench.send(b"POST /shed HTTP/1.1\r\nHost: x\r\nX-Call-Id: c\r\n\r\n")
        bench.clock.now += 0.2
        bench.reply()
        await slow.answer()
        assert refused.status == 429

    with caplog.at_level(logging.INFO):
        scenario(body, max_inflight="1", access_log="missed")
    told = [record.msg for record in caplog.records if isinstance(record.msg, RequestLine)]
    assert [(line.call_id, line.outcome, line.status, line.batch_size) for line in told] == [
        (b"c", "shed", 429, 0),
        (b"b", "slow", 200, 1),
    ]
    assert told[0].reason == "queue_full"
    assert (told[1].batch, told[1].batch_reason) == (1, "idle")


def test_every_refusal_is_counted_by_the_reason_that_its_header_gives():
    async def body(bench: Bench) -> None:
        waiting = await bench.ask(headers="X-Timeout: 1s\r\n")
        full = await bench.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        large = await bench.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2000\r\n\r\n")
        bench.clock.now += 1.0
        bench.batcher.worker_idle(bench.worker)
        expired = await waiting.answer()
        bench.front.accepting = False
        closing = await bench.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        broken = await bench.send(b"GET\r\n\r\n")
        answers = [full, large, expired, closing, broken]
        assert [(answer.status, answer.headers["x-watchdog-reason"]) for answer in answers] == [
            (429, "queue_full"),
            (413, "body_too_large"),
            (504, "expired"),
            (503, "shutting_down"),
            (400, "bad_request"),
        ]
        assert not any("x-batch-reason" in answer.headers for answer in answers)
        assert {answer.headers["x-openfaas-internal"] for answer in answers} == {"batching-watchdog"}
        assert refusals(bench) == {"queue_full": 1, "body_too_large": 1, "expired": 1, "shutting_down": 1}

    scenario(body, max_inflight="1")


def test_a_request_that_the_queue_makes_late_is_refused_before_its_body_is_read():
    async def body(bench: Bench) -> None:
        for _ in range(5):
            bench.model.observe(1, 0.04)
            bench.model.observe(2, 0.08)
        bench.batcher.worker_idle(bench.worker)
        for _ in range(3):
            await bench.ask()
            await bench.service.until(lambda: bool(bench.worker.batches))
        # One is with the worker, two wait, one at a time is best: a fourth would take 120 ms.
        refused = await bench.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 900\r\n\r\n")
        assert (refused.status, refused.headers["x-watchdog-reason"]) == (503, "predicted_late")
        assert refusals(bench)["predicted_late"] == 1
        assert bench.metrics.outcomes["shed"] == 1
        bench.reply()
        await bench.service.until(lambda: len(bench.worker.batches) > 1)
        await bench.ask()

    scenario(body, late_requests="shed")


def test_time_that_the_body_took_to_come_is_not_counted_twice():
    async def body(bench: Bench) -> None:
        bench.batcher.worker_idle(bench.worker)
        client = await bench.service.connect()
        start = time.time_ns() - 20_000_000
        await client.send(
            b"POST / HTTP/1.1\r\nHost: x\r\nX-Start-Time: %d\r\nContent-Length: 1\r\n\r\n" % start
        )
        await asyncio.sleep(0.05)
        bench.clock.now += 0.05
        await client.send(b"x")
        await bench.service.until(lambda: bool(bench.worker.batches))
        (request,) = bench.worker.batches[0].requests
        spent = 0.1 - (request.deadline - request.arrived)
        assert spent < 0.05

    scenario(body)
