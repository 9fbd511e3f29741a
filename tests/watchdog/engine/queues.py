"""Requests, and models that have learned a made-up or measured l(b)."""

from collections.abc import Callable, Iterable
from itertools import pairwise

from batching_watchdog.engine.latency import LatencyModel
from batching_watchdog.function.messages import Request

MAX_BATCH_SIZE = 8
SLO_LATENCY = 0.1

Law = Callable[[int], float]
"""Seconds by batch size."""


def learned(law: Law, sizes: Iterable[int] = (1, 2, 4, 8), limit: int = MAX_BATCH_SIZE, times: int = 5):
    return learn(LatencyModel(limit), law, sizes, times)


def learn(model: LatencyModel, law: Law, sizes: Iterable[int], times: int = 1) -> LatencyModel:
    for _ in range(times):
        for size in sizes:
            model.observe(size, law(size))
    return model


def request(
    number: int,
    arrived: float = 0.0,
    budget: float = 0.1,
    timeout: float = 10.0,
    key: bytes = b"",
    path: bytes = b"POST /",
    length: int = 0,
) -> Request:
    cost_class = (key, path, length)
    return Request(number, b"GET /\r\n", b"", arrived, arrived + budget, arrived + timeout, cost_class)


def accelerator(size: int) -> float:
    return 0.008 + 0.0005 * size


def through(rates: dict[int, float]) -> Law:
    """Return the law with these items per second at these sizes, as a line between them."""
    sizes = sorted(rates)

    def law(size: int) -> float:
        for low, high in pairwise(sizes):
            if size <= high:
                at_low, at_high = low / rates[low], high / rates[high]
                return at_low + (at_high - at_low) * (size - low) / (high - low)
        return size / rates[sizes[-1]]

    return law


# Measured: items per second by size.
VISION = through({1: 168, 4: 286, 8: 181, 16: 196, 32: 175})
VISION_TUNED = through({1: 164, 4: 276, 8: 308, 16: 264, 32: 232, 64: 232})
TEXT = through({1: 4258, 4: 10341, 8: 13558, 16: 16131, 32: 17614, 64: 12152, 128: 11824})
TABULAR = through({1: 1602, 4: 2332, 8: 3779, 16: 5196, 32: 6606, 64: 7759, 128: 8100})
