"""Calls the function's own ``weight(event)``, which replaces the body's length in the cost class.

Requests with weights between the same powers of two form a cost class, as bodies of such lengths do without
it. The real cost of a class is measured: the number only distinguishes requests. It runs on the event loop
for each request, so it delays all of them: it counts in their latency (``loop_lag``) and is measured here.
"""

import logging
from collections.abc import Callable
from math import frexp, inf
from pathlib import Path
from typing import Any, Final

from batching_watchdog.errors import HandlerNotLoaded
from batching_watchdog.function.event import Event, import_weight, trace_of
from batching_watchdog.function.messages import Failure
from batching_watchdog.observe.metrics import Metrics

OWN_BUCKETS: Final = 1 << 12
"""Offset of a weight's power of two: beyond the bits of any length, and above zero for every float."""

log = logging.getLogger(__name__)


class WeightFunction:
    """The function's ``weight``; where it fails, the length of the body decides."""

    def __init__(self, weight: Callable[[Event], Any], metrics: Metrics) -> None:
        self._weight = weight
        self._metrics = metrics

    def bucket(self, header_block: bytes, body: bytes) -> int:
        """Return the power of two of a request's weight, or of its length where the weight is none."""
        metrics = self._metrics
        try:
            weight = float(self._weight(Event(header_block, body)))
            if not 0.0 < weight < inf:
                raise ValueError(f"weight(event) returned {weight!r}, which is no positive, finite number")
            bucket = frexp(weight)[1] + OWN_BUCKETS
        except BaseException as error:  # the function's code may raise anything
            bucket = len(body).bit_length()
            if not metrics.weight_failures:
                text = "weight.py: weight(event) failed; using the length of the body. Logged once."
                log.error(Failure(text, trace_of(error)))
            metrics.weight_failures += 1
        return bucket


def load_weight(folder: Path) -> Callable[[Event], Any] | None:
    """Return the function's ``weight``; None without a weight.py. Raises ``HandlerNotLoaded``."""
    module = import_weight(folder)
    if module is None:
        return None
    weight: Callable[[Event], Any] | None = getattr(module, "weight", None)
    if not callable(weight):
        raise HandlerNotLoaded(
            f"{module.__file__} must define weight(event): tokens, pixels or rows of a request"
        )
    return weight
