"""A SIMULATED model that answers piece by piece: it sleeps, as if a device worked.

    time of a step of n streams = 12 ms + 0.8 ms x n

That is the shape of a language model's decode on a GPU. The body is the number of pieces, as ``12``, or with
bytes that pad each piece, as ``400,65536``. It stands for the model's own end token: no server reads it.
"""

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

SECONDS_PER_STEP = 0.012
SECONDS_PER_STREAM = 0.0008
DEVICE = threading.Lock()
"""A device makes one step at a time, whoever asks for it."""


@dataclass(slots=True, eq=False)
class Stream:
    """One stream: its pieces that are left, and what pads each."""

    left: int
    padding: str


def start(events: Sequence[Any], context: Any) -> list[Stream]:
    """Return one state per event. A start takes no time."""
    del context
    bodies = (bytes(event.body).partition(b",") for event in events)
    return [Stream(int(pieces), "x" * int(padding or 0)) for pieces, _, padding in bodies]


def step(states: Sequence[Stream], context: Any) -> list[tuple[dict[str, Any], bool]]:
    """Return the next piece of each stream, after the time that the device would take."""
    del context
    with DEVICE:
        time.sleep(SECONDS_PER_STEP + SECONDS_PER_STREAM * len(states))
    for state in states:
        state.left -= 1
    return [
        ({"left": state.left} | ({"padding": state.padding} if state.padding else {}), not state.left)
        for state in states
    ]


def example() -> bytes:
    """Return a short answer."""
    return b"5"
