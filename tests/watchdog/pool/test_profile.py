"""What the handler is measured with: a worker that answers at once, and a model that learns another time."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from batching_watchdog.config import Config
from batching_watchdog.engine.latency import LatencyModel
from batching_watchdog.messages import Batch, DispatchReason
from batching_watchdog.pool.profile import Profiler


class Worker:
    """Answers each batch, or dies under the first one of ``deadly`` requests."""

    def __init__(self, law: Callable[[int], float], deadly: int = 0, **environment: str) -> None:
        config = Config.from_env({"slo_latency": "1h", "exec_timeout": "1h", **environment}, cpus=1.0)
        self.model = LatencyModel(config.max_batch_size)
        self.profiler = Profiler(config, self, self.model)  # type: ignore[arg-type] # it learns
        self.law, self.deadly = law, deadly
        self.sizes: list[int] = []

    def send(self, batch: Batch) -> None:
        assert batch.reason is DispatchReason.PROFILE
        self.sizes.append(len(batch.requests))
        connection: Any = self
        if len(batch.requests) == self.deadly:
            self.profiler.closed(connection)
        else:
            self.profiler.replied(connection, 0.0)

    def learn(self, size: int, seconds: float, cpu_seconds: float) -> None:
        self.model.observe(size, self.law(size))

    def measured(self, example: bytes = b"x" * 800) -> list[int]:
        connection: Any = self
        asyncio.run(self.profiler.measure(connection, example))
        return sorted(set(self.sizes))


@pytest.mark.parametrize(
    ("law", "settings", "sizes"),
    [
        pytest.param(lambda n: 0.01, {"max_batch_size": "8"}, [1, 2, 4, 8], id="up to the largest batch"),
        pytest.param(lambda n: 0.01 * n**2, {}, [1, 2, 4], id="until two doublings have brought nothing"),
        pytest.param(lambda n: 0.01, {"slo_latency": "1ns"}, [1], id="no longer than the SLO"),
    ],
)
def test_sizes_double_while_a_larger_batch_could_be_of_use(
    law: Callable[[int], float], settings: dict[str, str], sizes: list[int]
):
    assert Worker(law, **settings).measured() == sizes


def test_sizes_are_no_larger_than_what_may_wait():
    worker = Worker(lambda n: 0.01, max_body_bytes="512Ki", max_queued_bytes="1Mi")
    assert worker.measured(b"x" * 500_000) == [1, 2]


def test_a_worker_that_dies_of_being_measured_is_told_with_the_size():
    with pytest.raises(ConnectionResetError, match="at size 4"):
        Worker(lambda n: 0.01, deadly=4).measured()
