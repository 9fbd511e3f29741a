"""What the handler is measured with: a worker that takes its time on a clock of the test's own."""

import asyncio
from collections.abc import Callable

import pytest

from batching_watchdog.config import Config
from batching_watchdog.engine.latency import LatencyModel
from batching_watchdog.function import wire
from batching_watchdog.function.messages import Batch, Crash, DispatchReason, Reply
from batching_watchdog.pool.profile import PROFILE_SECONDS, Profiler


class Worker:
    """Answers each batch, the first ``warm_up`` seconds later.

    Dies under the first of ``deadly`` bodies; fails on a batch of ``fails`` or more.
    """

    def __init__(
        self,
        law: Callable[[int], float],
        deadly: int = 0,
        *,
        warm_up: float = 0.0,
        fails: int = 1 << 20,
        out_of_memory: bool = False,
        status: int = 200,
        **environment: str,
    ) -> None:
        config = Config.from_env({"slo_latency": "1h", "exec_timeout": "1h", **environment}, cpus=1.0)
        self.model = LatencyModel(config.max_batch_size)
        self.profiler = Profiler(config, self.learn, self.model, lambda: self.now)
        self.law, self.deadly, self.fails, self.status = law, deadly, fails, status
        self.crash = Crash("Traceback ...", Reply(500, b"", b"", failed=True), out_of_memory=out_of_memory)
        self.sizes: list[int] = []
        self.now, self.left = 0.0, warm_up

    def send(self, batch: Batch) -> None:
        assert batch.reason is DispatchReason.PROFILE
        self.sizes.append(len(batch.requests))
        if len(batch.requests) == self.deadly:
            self.profiler.closed(self, batch, out_of_memory=self.crash.out_of_memory)
        elif len(batch.requests) >= self.fails:
            self.profiler.crashed(self, batch, self.crash)
        else:
            seconds = self.law(len(batch.requests)) + self.left
            self.now += seconds
            self.left = 0.0
            replies = [Reply(self.status, b"", b"", failed=self.status == 500)] * len(batch.requests)
            self.profiler.replied(self, replies, wire.Spent(seconds, 0.001))

    def cancel(self, indexes: object) -> None:
        raise AssertionError

    def check(self) -> None:
        raise AssertionError

    def learn(self, size: int, spent: wire.Spent) -> None:
        self.model.observe(size, spent.seconds)

    def measured(self, example: bytes = b"x" * 800) -> list[int]:
        asyncio.run(self.profiler.measure(self, [example]))
        return sorted(set(self.sizes))


@pytest.mark.parametrize(
    ("law", "settings", "sizes"),
    [
        pytest.param(lambda n: 0.01, {"max_batch_size": "8"}, [1, 2, 4, 8], id="up to the largest batch"),
        pytest.param(lambda n: 0.01 * n**2, {}, [1, 2, 4], id="until two doublings have brought nothing"),
        pytest.param(lambda n: 0.01, {"slo_latency": "1ns"}, [1], id="no longer than the SLO"),
    ],
)
def test_sizes_double_while_a_larger_batch_could_be_of_use(law, settings, sizes):
    assert Worker(law, **settings).measured() == sizes


def test_sizes_are_no_larger_than_what_may_wait():
    worker = Worker(lambda n: 0.01, max_body_bytes="512Ki", max_queued_bytes="4Mi")
    assert worker.measured(b"x" * 500_000) == [1, 2]


@pytest.mark.parametrize(("fails", "split"), [(1 << 20, False), (2, True)])
def test_batch_that_fails_whole_is_noticed_and_ends_the_measurement(fails, split):
    worker = Worker(lambda n: 0.01, fails=fails, max_batch_size="4")
    assert worker.measured() == ([1, 2] if split else [1, 2, 4])
    assert worker.profiler.split == split


def test_batch_that_runs_out_of_memory_lowers_the_ceiling_and_no_larger_one_is_measured():
    worker = Worker(lambda n: 0.01, fails=5, out_of_memory=True)
    assert worker.measured() == [1, 2, 4, 8]
    assert worker.model.ceiling == 4
    assert not worker.profiler.split


@pytest.mark.parametrize(("size", "ceiling"), [(1, 256), (8, 4)])
def test_worker_that_the_kernel_ends_for_lack_of_memory_lowers_the_ceiling(size, ceiling):
    worker = Worker(lambda n: 0.01, deadly=size, out_of_memory=True, max_batch_size="256")
    with pytest.raises(ConnectionResetError):
        worker.measured()
    assert worker.model.ceiling == ceiling


@pytest.mark.parametrize(
    ("status", "deadly", "serves"), [(200, 0, True), (400, 0, True), (500, 0, False), (200, 1, False)]
)
def test_worker_serves_unless_it_dies_or_raises_on_the_example(status, deadly, serves):
    worker = Worker(lambda n: 0.01, deadly=deadly, status=status)
    assert asyncio.run(worker.profiler.serves(worker, b"x")) == serves


def test_worker_that_dies_of_being_measured_is_told_with_the_size():
    with pytest.raises(ConnectionResetError, match="at size 4"):
        Worker(lambda n: 0.01, deadly=4).measured()


@pytest.mark.parametrize(
    ("law", "warm_up", "most"),
    [
        pytest.param(lambda n: 0.01, 30.0, 30.01, id="first batch"),
        pytest.param(lambda n: 0.3 + 0.01 * n, 0.0, PROFILE_SECONDS, id="every batch"),
        pytest.param(lambda n: 0.02 + 0.002 * n, 0.0, PROFILE_SECONDS, id="large batches"),
        pytest.param(lambda n: 0.01, PROFILE_SECONDS - 0.1, PROFILE_SECONDS, id="little left"),
    ],
)
def test_measuring_ends_in_time_whatever_takes_long(law, warm_up, most):
    worker = Worker(law, warm_up=warm_up)
    worker.measured()
    assert worker.now <= most + 1e-9


def test_first_run_of_a_size_is_not_learned():
    worker = Worker(lambda n: 0.01, warm_up=0.5, max_batch_size="1")
    worker.measured()
    assert worker.model.deviations[-1] == pytest.approx(1.0)


@pytest.mark.parametrize("status", [400, 404, 500])
def test_nothing_is_learned_from_an_example_that_the_handler_rejects_and_the_log_says_so_once(status, caplog):
    worker = Worker(lambda n: 0.01, status=status)
    for _ in range(3):
        worker.measured()
    assert not worker.model.learned
    assert [str(status) in record.message for record in caplog.records] == [True]
