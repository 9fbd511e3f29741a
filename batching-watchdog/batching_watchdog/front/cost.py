"""Calls the function's own ``cost(event)``, which replaces the body's length in the cost class.

Requests with costs between the same powers of two form a cost class, as bodies of such lengths do without it.
The real cost of a class is measured: the number only distinguishes requests. It runs on the event loop for
each request, so it delays all of them: it counts in their latency (``loop_lag``) and is measured here.
"""

import logging
from collections.abc import Callable
from math import frexp, inf
from pathlib import Path
from typing import Any, Final

from batching_watchdog.errors import HandlerNotLoaded
from batching_watchdog.function import Event, import_cost, trace_of
from batching_watchdog.messages import Failure
from batching_watchdog.metrics import Metrics

OWN_BUCKETS: Final = 1 << 12
"""Offset of a cost's power of two: beyond the bits of any length, and above zero for every float."""

log = logging.getLogger(__name__)


class CostFunction:
    """The function's ``cost``; where it fails, the length of the body decides."""

    def __init__(self, cost: Callable[[Event], Any], metrics: Metrics, clock: Callable[[], float]) -> None:
        self._cost = cost
        self._metrics = metrics
        self._clock = clock

    def bucket(self, header_block: bytes, body: bytes) -> int:
        """Return the power of two of a request's cost, or of its length without a positive, finite cost."""
        began, metrics = self._clock(), self._metrics
        try:
            cost = float(self._cost(Event(header_block, body)))
            if not 0.0 < cost < inf:
                raise ValueError(f"cost(event) returned {cost!r}, which is no positive, finite number")
            bucket = frexp(cost)[1] + OWN_BUCKETS
        except BaseException as error:  # the function's code may raise anything
            bucket = len(body).bit_length()
            if not metrics.cost_failures:
                text = "cost.py: cost(event) failed; using the length of the body. Logged once."
                log.error(Failure(text, trace_of(error)))
            metrics.cost_failures += 1
        metrics.cost_seconds.observe(self._clock() - began)
        return bucket


def load_cost(folder: Path) -> Callable[[Event], Any] | None:
    """Return the function's ``cost``; None without a cost.py. Raises ``HandlerNotLoaded``."""
    module = import_cost(folder)
    if module is None:
        return None
    cost: Callable[[Event], Any] | None = getattr(module, "cost", None)
    if not callable(cost):
        raise HandlerNotLoaded(f"{module.__file__} must define cost(event), the likely cost of a request")
    return cost
