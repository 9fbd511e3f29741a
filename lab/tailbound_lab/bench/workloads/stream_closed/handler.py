"""The model of ``stream`` in closed batches: a generator serves those that start together to their end."""

from collections.abc import Iterator, Sequence
from typing import Any

from tailbound_lab.bench.workloads.stream import handler

example = handler.example


def handle_batch(events: Sequence[Any], context: Any) -> Iterator[list[Any]]:
    """Yield one piece per event; the batch shrinks as its streams end, but takes no new one."""
    running = dict(enumerate(handler.start(events, context)))
    while running:
        results = handler.step(list(running.values()), context)
        pieces: list[Any] = [StopIteration] * len(events)
        for place, (piece, done) in zip(list(running), results, strict=True):
            pieces[place] = piece
            if done:
                del running[place]
        yield pieces
