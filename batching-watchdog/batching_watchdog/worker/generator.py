"""Adapts a ``handle_batch`` that is a generator to start, step and finish.

Each of its yields has one piece per event, in their order; ``StopIteration`` in the place of a piece ends
that stream. A batch that fails before its first pieces can be started again in parts: a step of some of its
states begins a generator of their own. Used by ``handler``.
"""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any

from batching_watchdog.worker.results import listed

Generate = Callable[[Sequence[Any], Any], Generator[Sequence[Any], None, None]]


@dataclass(slots=True, eq=False)
class _Batch:
    """A generator with the events that it serves."""

    generator: Generator[Sequence[Any], None, None]
    size: int
    left: int
    """Streams that have not ended."""
    steps: int = 0
    """Pieces that it has yielded for each stream."""
    pieces: Sequence[Any] = ()
    """Of the last step."""
    ended: bool = False
    error: BaseException | None = None
    """What it raised: it yields no more."""

    def advance(self) -> None:
        """Make the next step."""
        if self.error is not None:
            raise self.error
        try:
            pieces = next(self.generator, StopIteration)
            self.ended = pieces is StopIteration
            one_by_one = [None] * self.size if self.ended else listed(pieces)
            if one_by_one is None:
                raise TypeError(
                    f"handle_batch yielded {type(pieces).__name__}, not a list with a piece per event"
                )
            if len(one_by_one) != self.size:
                raise ValueError(f"handle_batch yielded {len(one_by_one)} pieces for {self.size} events")
            self.pieces = one_by_one
        except BaseException as error:
            self.error = error
            raise
        self.steps += 1


@dataclass(slots=True, eq=False)
class _State:
    """A stream of a batch."""

    event: Any
    batch: _Batch
    place: int
    """In the batch."""
    steps: int = 0
    """Pieces that it has got."""

    def leave(self) -> None:
        """Leave the batch; the last one closes its generator."""
        self.batch.left -= 1
        if not self.batch.left:
            self.batch.generator.close()


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
        return [_State(event, batch, place) for place, event in enumerate(events)]

    def again(states: Sequence[_State], context: Any) -> None:
        """Begin a generator for states whose batch failed before its first pieces."""
        batch = _Batch(generate([state.event for state in states], context), len(states), len(states))
        for place, state in enumerate(states):
            state.leave()
            state.batch, state.place = batch, place

    def step(states: Sequence[_State], context: Any) -> Sequence[Any]:
        for batch in {id(state.batch): state.batch for state in states}.values():
            members = [state for state in states if state.batch is batch]
            if batch.error is not None and not batch.steps:
                batch.error.__traceback__ = None  # its frames hold what the parts need the memory of
                again(members, context)
            # Not where a step failed after it: the others of the step before still wait for its pieces.
            if members[0].steps == members[0].batch.steps:
                members[0].batch.advance()
        for state in states:
            state.steps += 1
        return [_result(state.batch.pieces[state.place], ended=state.batch.ended) for state in states]

    return start, step, lambda state, _: state.leave()


def _result(piece: Any, *, ended: bool) -> Any:
    if piece is StopIteration or isinstance(piece, StopIteration):
        return None, True
    return piece if isinstance(piece, BaseException) else (piece, ended)
