"""Policies, models and requests for the tests of policy and scheduler."""

from collections.abc import Callable

from batching_watchdog.engine.latency import LatencyModel
from batching_watchdog.engine.policy import POLICIES, BatchingPolicy, PolicySettings
from batching_watchdog.messages import Request

MAX_BATCH_SIZE = 8
DELAY = 0.02
SLO_LATENCY = 0.1
NEVER_WAITS = ("aimd", "slo", "unbatched")
"""Policies that are work-conserving: a new one is taken to be, unless it is named among those that wait."""
WAITS = ("fixed",)
DEADLINE_ORDER = ("slo",)


def policy(name: str) -> BatchingPolicy:
    return POLICIES[name](PolicySettings(MAX_BATCH_SIZE, DELAY, SLO_LATENCY))


def learned(law: Callable[[int], float], sizes: tuple[int, ...] = (1, 2, 4, 8), limit: int = MAX_BATCH_SIZE):
    model = LatencyModel(limit)
    for _ in range(5):
        for size in sizes:
            model.observe(size, law(size))
    return model


def accelerator(size: int) -> float:
    return 0.008 + 0.001 * size


def request(
    number: int,
    arrived: float = 0.0,
    budget: float = 0.1,
    timeout: float = 10.0,
    group: bytes = b"POST /",
) -> Request:
    return Request(number, b"GET /\r\n", b"", arrived, arrived + budget, arrived + timeout, group)
