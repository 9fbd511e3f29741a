"""A SIMULATED model whose batches are padded to their longest text: it sleeps, as if a device worked.

    service time of a batch of b = 8 ms + 10 us x b x characters of the longest text

That is the shape of a transformer on a GPU: one long text makes every short one beside it cost as much. The
body is the text; spaces at its end are no part of it, so a client can hide the length of a text behind them.
"""

import time
from collections.abc import Sequence
from typing import Any

SECONDS_PER_BATCH = 0.008
SECONDS_PER_CHARACTER = 0.00001


def handle_batch(events: Sequence[Any], context: Any) -> list[dict[str, int]]:
    """Return the length of each text, after the time that the device would take."""
    del context
    lengths = [len(event.body.rstrip()) for event in events]
    time.sleep(service_seconds(len(events), max(lengths)))
    return [{"characters": length} for length in lengths]


def service_seconds(size: int, longest: int) -> float:
    """Return how long the simulated device takes for ``size`` texts of up to ``longest`` characters."""
    return SECONDS_PER_BATCH + SECONDS_PER_CHARACTER * size * longest


def example() -> bytes:
    """Return a short text."""
    return b"x" * 32
