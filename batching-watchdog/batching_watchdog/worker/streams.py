"""Runs the streams of one worker: starts those that join, makes one step of all, finishes each once.

Owns the states of the handler's ``start``, and calls ``step`` and ``finish`` with them (``handler`` turns
pieces into replies). A start or a step that fails is tried in halves within the iteration, so only those that
fail alone get an error. It knows no sockets and no frames. Exceptions of the function never leave it, except
``Poisoned``. Used by ``serve``.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from batching_watchdog.errors import HandlerNotLoaded
from batching_watchdog.function import wire
from batching_watchdog.function.event import Event
from batching_watchdog.function.messages import Iteration, Output, Reply
from batching_watchdog.process.machine import RunDelay
from batching_watchdog.worker.handler import Handler, is_out_of_memory
from batching_watchdog.worker.results import as_it_is, encode_piece

MEASURE_SECONDS: Final = 2.0
"""Time limit of measuring starts and steps with example() before a worker is ready, in seconds."""
MEASURED_STARTS: Final = 4
"""Starts of each size; the first one of a size allocates memory that later ones reuse, so it is left out."""
MEASURED_STEPS: Final = 2
"""Steps after each start."""
SICK_AFTER: Final = 3
"""Iterations in a row whose every state failed alone after which this process is replaced."""


class Measured(NamedTuple):
    """What example() took: streams and seconds of each start and step."""

    starts: list[tuple[int, float]]
    steps: list[tuple[int, float]]


def measure(handler: Handler, bodies: Sequence[bytes], *, most: int, interval: float) -> Measured:
    """Measure starts and steps of 1, 2, 4 ... streams, up to ``most`` or until a step exceeds ``interval``.

    Raises ``HandlerNotLoaded`` if the function fails on its example.
    """
    measured, size = Measured([], []), 1
    head = wire.request_header_block(b"POST", b"/", [(b"X-Call-Id", b"example()")])
    ends = time.monotonic() + MEASURE_SECONDS
    while size <= most:
        for run in range(MEASURED_STARTS):
            streams = RunningStreams(handler)
            for stream in range(size):
                streams.join(stream, Event(head, bodies[stream % len(bodies)]))
            rounds = [streams.iterate() for _ in range(MEASURED_STEPS)]
            streams.close()
            outputs = [output for round_ in rounds for output in round_.outputs]
            if any(output.out_of_memory for output in outputs) and size > 1:
                return measured
            if any(output.reply is not None and output.reply.status >= 400 for output in outputs):
                raise HandlerNotLoaded("the handler fails on its own example(); the log has the reason")
            if not (rounds[0].started and rounds[0].stepped):  # so many only in parts
                return measured
            if run or time.monotonic() > ends:
                measured.starts.append((size, rounds[0].start_seconds))
                steps = [round_.step_seconds for round_ in rounds if round_.stepped == size]
                measured.steps.extend((size, seconds) for seconds in steps)
            if time.monotonic() > ends:
                return measured
        if not measured.steps or measured.steps[-1][1] > interval:
            return measured
        size *= 2
    return measured


def pieces(handler: Handler, event: Event) -> list[Reply]:
    """Return the pieces of one stream, which runs alone to its end."""
    streams, sent = RunningStreams(handler), list[Reply]()
    streams.join(0, event)
    while streams:
        sent += [output.reply for output in streams.iterate().outputs if output.reply is not None]
    return sent


class _Running(NamedTuple):
    """A stream that has started."""

    event: Event
    state: Any


class _Failed(NamedTuple):
    """In the place of a result: the item failed alone."""

    reply: Reply
    out_of_memory: bool


@dataclass(slots=True)
class _Tried:
    """A function of the handler for several items: what fails is tried in halves, down to single ones."""

    handler: Handler
    name: str
    items: str
    call: Callable[[Sequence[Any], Any], Sequence[Any]]
    parts: bool = False
    """Whether it was tried in parts."""
    overflow: int = 0
    """Fewest items for which memory did not suffice although it did for their halves; 0: none."""

    def results(self, given: Sequence[Any], events: Sequence[Event], *, fails: bool = False) -> list[Any]:
        """Return one result per item, ``_Failed`` for each that failed alone. Raises ``Poisoned``.

        ``fails``: all of them together would fail, as the fault is known to be among them.
        """
        problem, out_of_memory, half = "", False, (len(given) + 1) // 2
        if not fails or len(given) == 1:
            results, problem, error = self.handler.guarded(
                lambda: self.call(list(given), self.handler.context), self.name, len(given), self.items
            )
            if not problem:
                return results
            self.parts, out_of_memory = True, is_out_of_memory(error)
            if len(given) == 1:
                return [_Failed(self.handler.blamed(problem, error, events[0]), out_of_memory)]
            del error  # its frames hold what the halves need the memory of
        results = self.results(given[:half], events[:half])
        passed = not any(isinstance(result, _Failed) for result in results)
        results += self.results(given[half:], events[half:], fails=passed and not out_of_memory)
        if problem and not any(isinstance(result, _Failed) for result in results):
            if out_of_memory:
                self.overflow = self.overflow or len(given)
            else:
                self.handler.failure(problem, events[0])  # of all together
        return results


class RunningStreams:
    """The streams of this worker."""

    def __init__(self, handler: Handler) -> None:
        assert handler.stream is not None, "the function streams"  # noqa: S101 - a caller's bug
        self._handler = handler
        self._functions = handler.stream
        self._joining: dict[int, Event] = {}
        self._running: dict[int, _Running] = {}
        self._cpu = time.process_time()
        self._delay = RunDelay()
        self._sick = 0
        """Iterations in a row whose every state failed."""

    def __len__(self) -> int:
        """Return the number of streams that run or are about to start."""
        return len(self._joining) + len(self._running)

    @property
    def broken(self) -> bool:
        """Whether no state gets a step any more: this process must end."""
        return self._sick >= SICK_AFTER

    def join(self, stream: int, event: Event) -> None:
        """Start a stream before the next step."""
        self._joining[stream] = event

    def leave(self, stream: int) -> None:
        """Drop a stream; one that has ended is passed over."""
        if self._joining.pop(stream, None) is None:
            self._finish(stream)

    def close(self) -> None:
        """Drop all streams."""
        for stream in [*self._joining, *self._running]:
            self.leave(stream)

    def iterate(self) -> Iteration:
        """Start the streams that have joined, and make one step of all; return their pieces."""
        began = time.monotonic()
        outputs: list[Output] = []
        joining, self._joining = self._joining, {}
        start = _Tried(self._handler, "start", "events", self._functions.start)
        started = self._start(start, joining, outputs) if joining else 0
        middle, delayed = time.monotonic(), self._delay.seconds()
        step = _Tried(self._handler, "step", "states", self._functions.step)
        stepped = self._step(step, outputs) if self._running else 0
        took = time.monotonic() - middle
        waited = min(took, self._delay.seconds() - delayed)
        cpu, self._cpu = self._cpu, time.process_time()
        return Iteration(
            outputs,
            0 if start.parts else started,
            middle - began,
            0 if step.parts else stepped,
            took,
            self._cpu - cpu,
            waited,
            start.overflow,
            step.overflow,
        )

    def _start(self, start: _Tried, joining: Mapping[int, Event], outputs: list[Output]) -> int:
        """Start streams; return the number of those that parse() did not answer."""
        answered: dict[Event, Reply] = {}
        inputs = self._handler.inputs(list(joining.values()), answered)
        outputs += [
            Output(stream, as_it_is(answered[event]), True)
            for stream, event in joining.items()
            if event in answered
        ]
        left = {stream: event for stream, event in joining.items() if event not in answered}
        states = start.results(inputs, list(left.values())) if left else []
        for (stream, event), state in zip(left.items(), states, strict=True):
            if isinstance(state, _Failed):
                outputs.append(Output(stream, state.reply, True, state.out_of_memory))
            elif isinstance(state, BaseException):
                outputs.append(Output(stream, self._handler.reply(state, event), True))
            else:
                self._running[stream] = _Running(event, state)
        return len(left)

    def _step(self, step: _Tried, outputs: list[Output]) -> int:
        """Make one step of all streams; return their number."""
        left, size, passed = list(self._running.items()), len(self._running), False
        while left:
            results = step.results([one.state for _, one in left], [one.event for _, one in left])
            failed = [result for result in results if isinstance(result, _Failed)]
            whole = len(failed) == len(left)
            if not whole:
                passed = True
                step.overflow = step.overflow or (2 * len(left) if len(left) < size else 0)
            # Not even one fits beside the states of all: the newer half makes room for the others.
            kept = len(left) // 2 if whole and all(result.out_of_memory for result in failed) else 0
            for (stream, one), result in list(zip(left, results, strict=True))[kept:]:
                if isinstance(result, _Failed):
                    outputs.append(Output(stream, result.reply, True, result.out_of_memory))
                else:
                    outputs.append(self._output(stream, one.event, result))
                if outputs[-1].done:
                    self._finish(stream)
            left = left[:kept]
        self._sick = 0 if passed else self._sick + 1
        return size

    def _output(self, stream: int, event: Event, result: Any) -> Output:
        if isinstance(result, BaseException):
            return Output(stream, self._handler.reply(result, event), True)
        if not (isinstance(result, tuple) and len(result) == 2):
            problem = f"step returned {type(result).__name__} for a state, not a pair (piece, done)"
            return Output(stream, self._handler.failure(problem, event), True)
        piece, done = result
        try:
            ends = bool(done)
        except Exception as error:  # an array of several elements is neither true nor false
            return Output(stream, self._handler.error(error, event), True)
        if piece is None:
            return Output(stream, None, ends)
        reply = self._handler.reply(piece, event, encoded=encode_piece)
        return Output(stream, reply, ends or reply.failed or reply.status >= 400)

    def _finish(self, stream: int) -> None:
        """Drop the state of a stream, once."""
        one = self._running.pop(stream, None)
        finish = self._functions.finish
        if one is not None and finish is not None:
            self._handler.quietly(lambda: finish(one.state, self._handler.context), one.event)
