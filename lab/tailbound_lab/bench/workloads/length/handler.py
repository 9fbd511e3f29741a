"""Answers with the length of the body: what it costs to carry a body to the model and nothing else."""

from collections.abc import Sequence
from typing import Any


def handle_batch(events: Sequence[Any], context: Any) -> list[int]:
    """One length for each event."""
    del context
    return [len(event.body) for event in events]


def example() -> bytes:
    """Return a small body."""
    return b"-"
