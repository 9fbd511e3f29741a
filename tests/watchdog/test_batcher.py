import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import pytest

from batching_watchdog.batcher import REFUSAL_SECONDS, Answer, Batcher
from batching_watchdog.engine.capacity import BUSIEST
from batching_watchdog.engine.latency import LatencyModel
from batching_watchdog.engine.policy import POLICIES, PolicySettings
from batching_watchdog.engine.scheduler import Scheduler
from batching_watchdog.errors import Expired, PredictedLate, QueueFull, WorkerDied
from batching_watchdog.messages import Batch, DispatchReason, Reply, Request
from batching_watchdog.metrics import Metrics
from watchdog.front.connection import Clock


@dataclass(eq=False)
class Worker:
    """Keeps what it is sent until the test answers."""

    batches: list[Batch] = field(default_factory=list)

    def send(self, batch: Batch) -> None:
        self.batches.append(batch)


@dataclass
class Bench:
    """A batcher, its clock, one worker, and what became of each request."""

    batcher: Batcher
    clock: Clock
    metrics: Metrics
    worker: Worker = field(default_factory=Worker)
    answers: dict[int, Answer] = field(default_factory=dict)

    def submit(
        self, number: int, *, budget: float = 0.1, timeout: float = 30.0, group: bytes = b"POST /"
    ) -> Request:
        now = self.clock.now
        request = Request(number, b"POST /\r\n", b"", now, now + budget, now + timeout, group)
        self.batcher.submit(request, lambda answer: self.answers.__setitem__(number, answer))
        return request

    def reply(self, seconds: float = 0.01, cpu_seconds: float = 0.0) -> None:
        """The worker answers its last batch ``seconds`` after it was sent, and is idle again."""
        self.clock.now += seconds
        batch = self.worker.batches[-1]
        self.batcher.worker_idle(self.worker)
        replies = [Reply(200, b"", b"%d" % request.id) for request in batch.requests]
        self.batcher.replied(batch, replies, cpu_seconds)

    def sizes(self) -> list[int]:
        return [len(batch.requests) for batch in self.worker.batches]


def scenario(
    body: Callable[[Bench], Awaitable[None]], *, max_inflight: int = 100, shed: bool = False
) -> None:
    async def run() -> None:
        clock = Clock()
        model = LatencyModel(8)
        model.observe(8, 0.01)  # batches grow only as far as sizes are known
        metrics = Metrics(slo_latency=0.1, slo_objective=0.99, workers=1, model=model)
        scheduler = Scheduler(
            POLICIES["slo"](PolicySettings(8, 0.0, 0.1)), model, max_inflight=max_inflight, shed_late=shed
        )
        batcher = Batcher(clock, scheduler, model, metrics, workers=1, shed_late=shed)
        await body(Bench(batcher, clock, metrics))

    asyncio.run(run())


async def turn() -> None:
    """Let the loop run what is due now."""
    for _ in range(3):
        await asyncio.sleep(0)


def test_requests_of_one_turn_of_the_loop_leave_together_and_each_gets_its_own_reply():
    async def body(bench: Bench) -> None:
        bench.batcher.worker_idle(bench.worker)
        for number in range(2):
            bench.submit(number)
        await turn()
        assert bench.sizes() == [2]
        bench.reply()
        assert [bench.answers[number].outcome for number in range(2)] == [
            Reply(200, b"", b"0"),
            Reply(200, b"", b"1"),
        ]
        assert bench.answers[0].batch_size == 2

    scenario(body)


def test_a_busy_worker_gets_nothing_and_the_queue_leaves_when_it_is_idle_again():
    async def body(bench: Bench) -> None:
        bench.batcher.worker_idle(bench.worker)
        bench.submit(0)
        await turn()
        for number in range(1, 3):
            bench.submit(number)
        await turn()
        assert (bench.sizes(), bench.batcher.queued, bench.batcher.idle) == ([1], 2, 0)
        bench.reply()
        await turn()
        assert bench.sizes() == [1, 2]

    scenario(body)


def test_a_queue_of_a_full_batch_leaves_at_once_when_a_worker_is_idle():
    async def body(bench: Bench) -> None:
        for number in range(8):
            bench.submit(number)
        await turn()
        bench.batcher.worker_idle(bench.worker)
        assert bench.sizes() == [8]

    scenario(body)


def test_a_full_queue_refuses_and_admits_again_after_an_answer():
    async def body(bench: Bench) -> None:
        bench.batcher.worker_idle(bench.worker)
        bench.submit(0)
        assert bench.batcher.full
        refusal = bench.batcher.refusal(bench.clock.now + 0.1)
        assert isinstance(refusal, QueueFull)
        with pytest.raises(QueueFull):
            bench.submit(1)
        # One error serves many, but not for ever: its Retry-After grows old.
        bench.clock.now += REFUSAL_SECONDS
        assert bench.batcher.refusal(bench.clock.now + 0.1) is refusal
        bench.clock.now += 0.001
        assert bench.batcher.refusal(bench.clock.now + 0.1) is not refusal
        await turn()
        bench.reply()
        assert bench.batcher.refusal(bench.clock.now + 0.1) is None
        bench.submit(2)

    scenario(body, max_inflight=1)


def test_a_late_request_that_loses_its_place_is_answered_and_the_fresh_one_served():
    async def body(bench: Bench) -> None:
        bench.batcher.worker_idle(bench.worker)
        bench.submit(0)
        await turn()
        bench.submit(1, budget=0.005, group=b"another")
        bench.submit(2)
        bench.clock.now += 0.02
        bench.batcher.replied(bench.worker.batches[0], [Reply(200, b"", b"")])
        bench.submit(3)
        bench.batcher.worker_idle(bench.worker)
        await turn()
        assert bench.batcher.at_limit
        assert bench.batcher.refusal(bench.clock.now + 0.1) is None
        bench.submit(4)
        displaced = bench.answers[1]
        assert isinstance(displaced.outcome, QueueFull)
        assert displaced.queue_seconds == pytest.approx(0.02)
        for _ in range(2):
            bench.reply()
            await turn()
        assert set(bench.answers) == {0, 1, 2, 3, 4}
        await asyncio.wait_for(bench.batcher.drained(), 60)

    scenario(body, max_inflight=3)


def test_a_withdrawn_request_is_neither_sent_nor_answered_and_its_neighbors_are():
    async def body(bench: Bench) -> None:
        waiting, running, _ = bench.submit(0), bench.submit(1), bench.submit(2)
        bench.batcher.withdraw(waiting)
        bench.batcher.worker_idle(bench.worker)
        await turn()
        bench.batcher.withdraw(running)
        assert [request.id for request in bench.worker.batches[0].requests] == [1, 2]
        bench.reply()
        assert set(bench.answers) == {2}
        await asyncio.wait_for(bench.batcher.drained(), 60)

    scenario(body)


def test_a_request_is_given_up_at_its_timeout_while_it_waits_and_while_it_runs():
    async def body(bench: Bench) -> None:
        bench.batcher.worker_idle(bench.worker)
        bench.submit(0, timeout=0.05)
        await turn()
        bench.submit(1, timeout=0.05)
        bench.clock.now += 0.06
        bench.submit(2)
        await turn()
        assert {number: type(answer.outcome) for number, answer in bench.answers.items()} == {
            0: Expired,
            1: Expired,
        }
        bench.reply()
        await turn()
        assert [request.id for request in bench.worker.batches[-1].requests] == [2]

    scenario(body)


def test_the_timer_fires_by_itself_for_whatever_ends_first():
    async def body(bench: Bench) -> None:
        long = bench.submit(0, timeout=1000.0)
        await turn()
        bench.submit(1, timeout=0.01)
        await turn()
        bench.clock.now += 0.02
        bench.batcher.withdraw(long)
        await asyncio.wait_for(bench.batcher.drained(), 60)
        assert isinstance(bench.answers[1].outcome, Expired)

    scenario(body)


def test_nothing_is_refused_as_late_while_a_worker_is_idle():
    async def body(bench: Bench) -> None:
        assert isinstance(bench.batcher.refusal(bench.clock.now), PredictedLate)
        bench.batcher.worker_idle(bench.worker)
        assert bench.batcher.refusal(bench.clock.now) is None

    scenario(body, shed=True)


def test_late_requests_are_shed_when_asked():
    async def body(bench: Bench) -> None:
        bench.batcher.worker_idle(bench.worker)
        bench.submit(0)
        await turn()
        bench.reply(0.05)
        for number in (1, 2):
            bench.submit(number, budget=0.01)
        await turn()
        # The worker is idle, so one of them is tried in case the prediction is wrong.
        assert isinstance(bench.answers[1].outcome, PredictedLate)
        assert [request.id for request in bench.worker.batches[-1].requests] == [2]

    scenario(body, shed=True)


def test_a_dead_workers_requests_are_tried_alone_and_then_fail():
    async def body(bench: Bench) -> None:
        bench.submit(0)
        bench.submit(1)
        for _ in range(2):
            bench.batcher.worker_idle(bench.worker)
            await turn()
            bench.batcher.died(bench.worker.batches[-1])
        bench.batcher.worker_idle(bench.worker)
        await turn()
        bench.reply()
        assert bench.sizes() == [2, 1, 1]
        assert isinstance(bench.answers[0].outcome, WorkerDied)
        assert bench.answers[1].outcome == Reply(200, b"", b"1")

    scenario(body)


@pytest.mark.parametrize(
    ("failed", "reason"), [((True, True), DispatchReason.IDLE), ((True, False), DispatchReason.LATE)]
)
def test_a_batch_teaches_what_it_took_unless_everything_in_it_failed(
    failed: tuple[bool, ...], reason: DispatchReason
):
    async def body(bench: Bench) -> None:
        bench.batcher.worker_idle(bench.worker)
        for number in range(2):
            bench.submit(number)
        await turn()
        bench.clock.now += 5.0
        bench.batcher.replied(bench.worker.batches[0], [Reply(500, b"", b"", failed=each) for each in failed])
        bench.batcher.worker_idle(bench.worker)
        bench.submit(2)
        await turn()
        assert bench.worker.batches[-1].reason is reason

    scenario(body)


@pytest.mark.parametrize(("told", "bound"), [(0.02, BUSIEST / 0.02), (0.0, 1000.0)])
def test_the_cpu_time_of_a_batch_is_learned_if_the_worker_tells_it(told: float, bound: float):
    async def body(bench: Bench) -> None:
        bench.batcher.worker_idle(bench.worker)
        bench.submit(0)
        await turn()
        bench.reply(cpu_seconds=told)
        assert bench.metrics.cost.bound(1000.0, 1, 1.0) == pytest.approx(bound)

    scenario(body)


def test_an_idle_worker_that_goes_is_not_sent_anything():
    async def body(bench: Bench) -> None:
        bench.batcher.worker_idle(bench.worker)
        bench.batcher.worker_gone(bench.worker)
        bench.batcher.worker_gone(bench.worker)
        bench.submit(0)
        await turn()
        assert bench.worker.batches == []

    scenario(body)
