"""Runs the streams of one worker: starts those that join, makes one step of all, finishes each once.

Owns the states of the handler's ``start``, and calls ``step`` and ``finish`` with them (``handler`` turns
pieces into replies). It knows no sockets and no frames. Exceptions of the function never leave it, except
``Poisoned``. Used by ``serve``.
"""

import time
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from batching_watchdog import wire
from batching_watchdog.errors import HandlerNotLoaded
from batching_watchdog.function import Event
from batching_watchdog.machine import RunDelay
from batching_watchdog.messages import Iteration, Output, Reply
from batching_watchdog.worker.handler import Handler, is_out_of_memory
from batching_watchdog.worker.results import FAILED

MEASURE_SECONDS: Final = 2.0
"""Time limit of measuring starts and steps with example() before a worker is ready, in seconds."""
MEASURED_STARTS: Final = 4
"""Starts of each size; the first one of a size allocates memory that later ones reuse, so it is left out."""
MEASURED_STEPS: Final = 2
"""Steps after each start."""


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


class _Running(NamedTuple):
    """A stream that has started."""

    event: Event
    state: Any


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
        self.broken = False
        """Whether a step failed as a whole: the states are lost, and this process must end."""

    def __len__(self) -> int:
        """Return the number of streams that run or are about to start."""
        return len(self._joining) + len(self._running)

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
        started = self._start(joining, outputs) if joining else 0
        middle, delayed = time.monotonic(), self._delay.seconds()
        stepped = self._step(outputs) if self._running else 0
        took = time.monotonic() - middle
        waited = min(took, self._delay.seconds() - delayed)
        cpu, self._cpu = self._cpu, time.process_time()
        return Iteration(outputs, started, middle - began, stepped, took, self._cpu - cpu, waited)

    def _start(self, joining: Mapping[int, Event], outputs: list[Output]) -> int:
        """Start streams; return their number, or 0 if one failed. Several that fail are tried one by one."""
        refused: dict[Event, Reply] = {}
        inputs = self._handler.inputs(list(joining.values()), refused)
        outputs += [
            Output(stream, refused[event], True) for stream, event in joining.items() if event in refused
        ]
        left = {stream: event for stream, event in joining.items() if event not in refused}
        return self._start_parsed(left, inputs, outputs) if left else 0

    def _start_parsed(self, left: Mapping[int, Event], inputs: Sequence[Any], outputs: list[Output]) -> int:
        states, problem, error = self._handler.guarded(
            lambda: self._functions.start(list(inputs), self._handler.context), "start", len(left), "events"
        )
        if not problem:
            for (stream, event), state in zip(left.items(), states, strict=True):
                if isinstance(state, BaseException):
                    outputs.append(Output(stream, self._handler.reply(state, event), True))
                else:
                    self._running[stream] = _Running(event, state)
            return len(states)
        out_of_memory = is_out_of_memory(error)
        if len(left) > 1 and not out_of_memory:
            for one, given in zip(left.items(), inputs, strict=True):
                self._start_parsed(dict([one]), [given], outputs)
            return 0
        for stream, event in left.items():
            blamed = self._handler.blamed(problem, error, event)
            outputs.append(Output(stream, blamed, True, out_of_memory))
        return 0

    def _step(self, outputs: list[Output]) -> int:
        """Make one step of all streams; return their number, or 0 if it failed."""
        running = list(self._running.items())
        states = [stream.state for _, stream in running]
        results, problem, error = self._handler.guarded(
            lambda: self._functions.step(states, self._handler.context), "step", len(states), "states"
        )
        if problem:
            out_of_memory = is_out_of_memory(error)
            self.broken = not out_of_memory
            self._handler.failure(problem, running[0][1].event)
            outputs += [Output(stream, FAILED, True, out_of_memory) for stream, _ in running]
        else:
            for (stream, one), result in zip(running, results, strict=True):
                outputs.append(self._output(stream, one.event, result))
        for output in outputs:
            if output.done:
                self._finish(output.stream)
        return 0 if problem else len(running)

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
        reply = self._handler.reply(piece, event)
        return Output(stream, reply, ends or reply.failed or reply.status >= 400)

    def _finish(self, stream: int) -> None:
        """Drop the state of a stream, once."""
        one = self._running.pop(stream, None)
        finish = self._functions.finish
        if one is not None and finish is not None:
            self._handler.quietly(lambda: finish(one.state, self._handler.context), one.event)
