"""Plays one replica in virtual time: the watchdog's engine, its workers and a clock. [P]

Owns the order of events, and when a batch or an iteration ends. ``batching_watchdog.engine`` makes every
decision. The caller states how long work takes, and sees each effect: ``replica`` and ``streams`` for the
simulator, tests/watchdog/engine for the engine's own tests.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from heapq import heappop, heappush
from math import inf
from typing import Final, NamedTuple

from batching_watchdog.engine.effects import Dispatch, Effect, Join, Leave, WakeAt
from batching_watchdog.engine.engine import Engine
from batching_watchdog.engine.streams import Streams
from batching_watchdog.function.messages import Batch, Crash, Iteration, Output, Reply, Request

OK: Final = Reply(200, b"", b"")

OnEffect = Callable[[Effect], None]
"""Receives each effect except ``WakeAt``, before it is carried out."""


class Timeline:
    """A clock in seconds, the events to come, and the moment at which the engine wants a ``tick``."""

    __slots__ = ("_events", "_serial", "now", "wake")

    def __init__(self, now: float) -> None:
        self.now = now
        self.wake = inf
        self._events: list[tuple[float, int, Callable[[], object]]] = []
        self._serial = 0

    def schedule(self, moment: float, event: Callable[[], object]) -> None:
        """Schedule ``event``; simultaneous ones happen in the order of their scheduling."""
        self._serial += 1
        heappush(self._events, (moment, self._serial, event))

    def play(
        self,
        arrivals: Iterator[float],
        arrive: Callable[[float], bool],
        tick: Callable[[], None],
        until: float = inf,
    ) -> None:
        """Play ``arrivals`` (ascending, none after ``until``) and all events before ``until``.

        ``arrive`` offers a request that came at a time, and returns whether a ``tick`` must follow. Arrivals
        before ``now`` are played first: they have waited for the replica.
        """
        events, arrival = self._events, next(arrivals, inf)
        while True:
            due = events[0][0] if events else inf
            following = min(due, self.wake)
            now = max(self.now, min(arrival, following))
            if (now >= until and arrival > until) or now == inf:
                return
            self.now = now
            if arrival <= following:
                arrived, arrival = arrival, next(arrivals, inf)
                if not arrive(arrived):
                    continue
            elif due <= now:
                heappop(events)[2]()
            self.wake = inf
            tick()


@dataclass(slots=True, eq=False)
class BatchWorker:
    """A worker's batch, and the next one if it has been sent early."""

    running: Batch | None = None
    next: Batch | None = None
    ends: float = inf
    """Time at which ``running`` ends."""

    def send(self, batch: Batch) -> None:
        """Do nothing: ``BatchWorkers`` carries out the effect."""

    def cancel(self, indexes: Sequence[int]) -> None:
        """Do nothing: the worker runs all requests that it has."""

    def check(self) -> None:
        """Do nothing: the caller carries out the effect."""


class BatchRun(NamedTuple):
    """A batch in a worker."""

    seconds: float
    outcome: Reply | Crash | None = OK
    """The answer of every request, or the failure of the batch; None: its worker dies."""


class BatchWorkers:
    """The workers of an ``Engine``. ``run`` states what becomes of a batch that begins now."""

    __slots__ = ("_engine", "_on_effect", "_restart", "_run", "_timeline", "_turnaround")

    def __init__(
        self,
        timeline: Timeline,
        engine: Engine,
        run: Callable[[BatchWorker, Sequence[Request]], BatchRun],
        on_effect: OnEffect,
        *,
        turnaround: float = 0.0,
        restart: float = inf,
    ) -> None:
        """``turnaround``: seconds from a dispatch to an idle worker until the batch begins.

        ``restart``: seconds from the death of a worker until the next one is ready.
        """
        self._timeline, self._engine, self._run, self._on_effect = timeline, engine, run, on_effect
        self._turnaround, self._restart = turnaround, restart

    def ready(self, worker: BatchWorker, *, checked: bool = False) -> None:
        """Let the engine use a worker. ``checked``: after a ``Check``."""
        self._carry_out(self._engine.worker_ready(worker, checked=checked))

    def offer(self, request: Request) -> None:
        """Offer a request now; raises ``QueueFull``."""
        timeline = self._timeline
        self._carry_out(self._engine.offer(request, timeline.now))
        timeline.wake = min(timeline.wake, request.expires)

    def tick(self) -> None:
        """Let the engine dispatch batches."""
        self._carry_out(self._engine.tick(self._timeline.now))

    def _begin(self, worker: BatchWorker, batch: Batch, pause: float = 0.0) -> None:
        timeline, run = self._timeline, self._run(worker, batch.requests)
        worker.running, worker.ends = batch, timeline.now + pause + run.seconds
        timeline.schedule(worker.ends, partial(self._end, worker, batch, run.outcome))

    def _end(self, worker: BatchWorker, batch: Batch, outcome: Reply | Crash | None) -> None:
        engine, timeline = self._engine, self._timeline
        following, worker.running, worker.next = worker.next, None, None
        if outcome is None:
            self._carry_out(engine.worker_lost(worker))
            timeline.schedule(timeline.now + self._restart, partial(self.ready, worker))
            return
        if isinstance(outcome, Crash):
            _, effects = engine.batch_failed(worker, outcome, timeline.now)
        else:
            _, effects = engine.batch_done(worker, [outcome] * len(batch.requests), timeline.now)
        self._carry_out(effects)
        if following is not None:
            self._begin(worker, following)
        self.ready(worker)

    def _carry_out(self, effects: Sequence[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, WakeAt):
                self._timeline.wake = effect.at
                continue
            self._on_effect(effect)
            if isinstance(effect, Dispatch):
                worker = effect.worker
                assert isinstance(worker, BatchWorker)  # noqa: S101 - for the type checker
                if worker.running is None:
                    self._begin(worker, effect.batch, self._turnaround)
                else:
                    worker.next = effect.batch


@dataclass(slots=True, eq=False)
class StreamWorker:
    """A worker's streams."""

    left: dict[int, int] = field(default_factory=dict)
    """The pieces that each stream has left."""
    joins: list[Request] = field(default_factory=list)
    """Requests that join at the next iteration."""
    iteration: Iteration | None = None
    """The present one, without outputs; None: it is idle."""

    def join(self, batch: Batch) -> None:
        """Do nothing: ``StreamWorkers`` carries out the effect."""

    def leave(self, streams: Sequence[int]) -> None:
        """Do nothing: ``StreamWorkers`` carries out the effect."""


class StreamWorkers:
    """The workers of a ``Streams`` engine.

    ``step`` states what becomes of an iteration, by the requests that join and all on the worker: its times,
    and an output for each stream that fails in it. ``pieces`` is the length of a request's stream.
    """

    __slots__ = ("_engine", "_on_effect", "_pieces", "_step", "_timeline")

    def __init__(
        self,
        timeline: Timeline,
        engine: Streams,
        step: Callable[[Sequence[int], Sequence[int]], Iteration],
        pieces: Callable[[Request], int],
        on_effect: OnEffect,
    ) -> None:
        self._timeline, self._engine, self._on_effect = timeline, engine, on_effect
        self._step, self._pieces = step, pieces

    def ready(self, worker: StreamWorker) -> None:
        """Let the engine use a worker."""
        self._carry_out(self._engine.worker_ready(worker))

    def lose(self, worker: StreamWorker) -> None:
        """Let a worker die under its streams."""
        worker.iteration = None
        self._carry_out(self._engine.worker_lost(worker))

    def offer(self, request: Request) -> None:
        """Offer a request now; raises ``QueueFull``."""
        self._carry_out(self._engine.offer(request, self._timeline.now))

    def abandon(self, request: Request) -> None:
        """Let the client of a request leave."""
        self._carry_out(self._engine.abandon(request))

    def tick(self) -> None:
        """Let the engine start streams."""
        self._carry_out(self._engine.tick(self._timeline.now))

    def _begin(self, worker: StreamWorker) -> None:
        """Begin the next iteration of a worker with all that has joined by now."""
        joined, worker.joins = worker.joins, []
        for request in joined:
            worker.left[request.id] = self._pieces(request)
        worker.iteration = None
        if worker.left:
            iteration = self._step([request.id for request in joined], list(worker.left))
            worker.iteration = iteration
            ends = self._timeline.now + iteration.start_seconds + iteration.step_seconds
            self._timeline.schedule(ends, partial(self._end, worker, iteration))

    def _end(self, worker: StreamWorker, iteration: Iteration) -> None:
        """End an iteration. The next one begins before the front end reads this one's pieces."""
        if worker.iteration is not iteration:
            return  # the worker has died
        left, outputs = worker.left, list(iteration.outputs)
        for output in outputs:
            left.pop(output.stream, None)
        for stream, pieces in list(left.items()):
            outputs.append(Output(stream, OK, pieces == 1))
            if pieces == 1:
                del left[stream]
            else:
                left[stream] = pieces - 1
        self._begin(worker)
        ended = iteration._replace(outputs=outputs)
        self._carry_out(self._engine.stepped(worker, ended, self._timeline.now))

    def _carry_out(self, effects: Sequence[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, WakeAt):
                self._timeline.wake = effect.at
                continue
            self._on_effect(effect)
            if isinstance(effect, Join):
                worker = effect.worker
                assert isinstance(worker, StreamWorker)  # noqa: S101 - for the type checker
                worker.joins += effect.batch.requests
                if worker.iteration is None:
                    self._begin(worker)
            elif isinstance(effect, Leave):
                worker = effect.worker
                assert isinstance(worker, StreamWorker)  # noqa: S101 - for the type checker
                for stream in effect.streams:
                    worker.left.pop(stream, None)
                    worker.joins = [request for request in worker.joins if request.id != stream]
