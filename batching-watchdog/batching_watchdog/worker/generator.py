"""Adapts a ``handle_batch`` that is a generator to start, step and finish.

Each of its yields has one piece per event, in their order; ``StopIteration`` in the place of a piece ends
that stream. Used by ``handler``.
"""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any

Generate = Callable[[Sequence[Any], Any], Generator[Sequence[Any], None, None]]


@dataclass(slots=True, eq=False)
class _Batch:
    """A generator with the events that it serves."""

    generator: Generator[Sequence[Any], None, None]
    size: int
    left: int
    """Streams that have not ended."""
    pieces: Sequence[Any] = ()
    """Of the present step."""
    ended: bool = False


_State = tuple[_Batch, int]
"""A batch, and the place of the stream in it."""


def closed_batches(
    generate: Generate,
) -> tuple[
    Callable[[Sequence[Any], Any], Sequence[_State]],
    Callable[[Sequence[_State], Any], Sequence[Any]],
    Callable[[_State, Any], None],
]:
    """Return start, step and finish, which run one generator for all that start together."""

    def start(events: Sequence[Any], context: Any) -> Sequence[_State]:
        batch = _Batch(generate(events, context), len(events), len(events))
        return [(batch, place) for place in range(len(events))]

    return start, _step, _finish


def _step(states: Sequence[_State], _context: Any) -> Sequence[Any]:
    for batch in {id(batch): batch for batch, _ in states}.values():
        pieces = next(batch.generator, None)
        batch.ended, batch.pieces = pieces is None, [None] * batch.size if pieces is None else pieces
        if len(batch.pieces) != batch.size:
            raise ValueError(f"handle_batch yielded {len(batch.pieces)} pieces for {batch.size} events")
    return [_result(batch.pieces[place], ended=batch.ended) for batch, place in states]


def _result(piece: Any, *, ended: bool) -> Any:
    if piece is StopIteration or isinstance(piece, StopIteration):
        return None, True
    return piece if isinstance(piece, BaseException) else (piece, ended)


def _finish(state: _State, _context: Any) -> None:
    batch, _ = state
    batch.left -= 1
    if not batch.left:
        batch.generator.close()
