"""What the handler is measured with: a worker that takes its time on a clock of the test's own."""

import asyncio
from collections.abc import Callable

import pytest

from batching_watchdog.config import Config
from batching_watchdog.engine.latency import LatencyModel
from batching_watchdog.messages import Batch, DispatchReason, Reply
from batching_watchdog.pool.profile import PROFILE_SECONDS, Profiler


class Worker:
    """Answers each batch, the first ``warm_up`` seconds later.

    Dies under the first of ``deadly`` bodies; says that it ran ``splits`` or more in parts.
    """

    def __init__(
        self,
        law: Callable[[int], float],
        deadly: int = 0,
        *,
        warm_up: float = 0.0,
        splits: int = 1 << 20,
        status: int = 200,
        **environment: str,
    ) -> None:
        config = Config.from_env({"slo_latency": "1h", "exec_timeout": "1h", **environment}, cpus=1.0)
        self.model = LatencyModel(config.max_batch_size)
        self.profiler = Profiler(config, self.learn, self.model, lambda: self.now)
        self.law, self.deadly, self.splits, self.status = law, deadly, splits, status
        self.sizes: list[int] = []
        self.now, self.left = 0.0, warm_up

    def send(self, batch: Batch) -> None:
        assert batch.reason is DispatchReason.PROFILE
        self.sizes.append(len(batch.requests))
        if len(batch.requests) == self.deadly:
            self.profiler.closed(self)
        else:
            self.now += self.law(len(batch.requests)) + self.left
            self.left = 0.0
            cpu_seconds = 0.001 if len(batch.requests) < self.splits else 0.0
            replies = [Reply(self.status, b"", b"")] * len(batch.requests)
            self.profiler.replied(self, replies, cpu_seconds)

    def cancel(self, indexes: object) -> None:
        raise AssertionError

    def learn(self, size: int, seconds: float, cpu_seconds: float) -> None:
        self.model.observe(size, seconds)

    def measured(self, example: bytes = b"x" * 800) -> list[int]:
        asyncio.run(self.profiler.measure(self, example))
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
    worker = Worker(lambda n: 0.01, max_body_bytes="512Ki", max_queued_bytes="1Mi")
    assert worker.measured(b"x" * 500_000) == [1, 2]


@pytest.mark.parametrize(("splits", "split"), [(1 << 20, False), (2, True)])
def test_batches_that_were_run_again_in_parts_are_noticed(splits, split):
    worker = Worker(lambda n: 0.01, splits=splits, max_batch_size="4")
    worker.measured()
    assert worker.profiler.split == split


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


@pytest.mark.parametrize("status", [400, 404, 500])
def test_nothing_is_learned_from_an_example_that_the_handler_rejects_and_the_log_says_so_once(status, caplog):
    worker = Worker(lambda n: 0.01, status=status)
    for _ in range(3):
        worker.measured()
    assert not worker.model.learned
    assert [str(status) in record.message for record in caplog.records] == [True]
