"""Connects requests, clock and workers: executes the engine's effects.

Owns the loop of events and effects: every event (a request, an idle worker, a timer) goes to the engine, and
the shell sends batches, delivers answers to the front end and counts both. ``engine`` makes all decisions.
The shell knows neither ``front`` nor ``pool``: a worker is any object with ``send(batch)``. Next step:
``pool.connection``.

Everything is synchronous on one event loop, so no locks are needed. ``clock`` is an argument, since uvloop's
own counts whole milliseconds. The engine's ``tick`` runs once per iteration of the loop, after all its
arrivals: simultaneous requests leave together, and a single one is not delayed.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable
from math import ceil
from typing import Protocol

from batching_watchdog.engine.cost import CostModel
from batching_watchdog.engine.effects import (
    Answer,
    Cancel,
    Check,
    Dispatch,
    Effect,
    Join,
    Leave,
    Lowered,
    Piece,
    Streamer,
    WakeAt,
    Worker,
)
from batching_watchdog.engine.engine import Engine
from batching_watchdog.engine.streams import Streams
from batching_watchdog.errors import WatchdogError
from batching_watchdog.function.messages import DROPPED, Batch, Crash, Iteration, Reply, Request
from batching_watchdog.function.wire import Spent
from batching_watchdog.observe.metrics import Metrics
from batching_watchdog.observe.spans import BatchTrace, Tracer, batch_span

log = logging.getLogger(__name__)


Measured = tuple[int, float]
"""A size and the seconds that it took."""


class AnyWorker(Worker, Streamer, Protocol):
    """A worker of batches or of streams; its function decides which."""


class Client(Protocol):
    """Receiver of a request's answer: ``Request.client``."""

    def deliver(self, answer: Answer) -> None:
        """Take the answer; called once, unless the request is withdrawn or its last piece came."""

    def piece(self, piece: Piece) -> None:
        """Take the next piece of the answer; none follows the last one."""


class Shell:
    """Feeds idle workers from the engine and answers each request exactly once."""

    def __init__(
        self,
        clock: Callable[[], float],
        engine: Engine,
        cost: CostModel,
        metrics: Metrics,
        tracer: Tracer | None = None,
        streams: Callable[[bool], Streams] | None = None,
    ) -> None:
        """``streams`` makes the engine of a function that streams; True: in closed batches."""
        self._clock = clock
        self._began = clock()
        self._tracer = tracer
        self._traced: dict[Batch, Worker] = {}
        """Batches under way, whose spans have not ended."""
        self._loop = asyncio.get_running_loop()
        self._batches = engine
        self._new_streams = streams
        self._streams: Streams | None = None
        self._engine: Engine | Streams = engine
        """Of the two above the one that has the requests."""
        self._cost = cost
        self._metrics = metrics
        self._cores: tuple[int, float] | None = None
        """Workers, and the CPUs that they share."""
        self._woken = False
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0

    @property
    def full(self) -> bool:
        """Whether ``offer`` would refuse."""
        return self._engine.full

    @property
    def queued(self) -> int:
        """Number of requests that wait for a worker."""
        return self._engine.queued

    @property
    def admitted(self) -> int:
        """Number of waiting and running requests."""
        return self._engine.admitted

    @property
    def at_limit(self) -> bool:
        """Whether ``max_inflight`` requests are admitted, late ones included."""
        return self._engine.at_limit

    def refusal(self, deadline: float) -> WatchdogError | None:
        """Return the error that refuses a request at its header, before its body is read, or None."""
        return self._engine.refusal(deadline, self._clock())

    def offer(self, request: Request) -> None:
        """Admit ``request``; its client is answered once. Raises ``QueueFull``.

        It may replace a late request, which is answered here.
        """
        displaced = self._engine.offer(request, self._clock())
        # While every worker is busy, only expiries need a decision, and a timer triggers these.
        timed = self._timer is not None and request.arrived < self._timer_at <= request.expires
        if not timed or self._engine.eager:
            self._wake()
        self._carry_out(displaced)

    def withdraw(self, request: Request) -> None:
        """Remove a request whose client has left; a batch that has begun continues."""
        self._carry_out(self._engine.abandon(request))
        request.client = None

    def give_up(self, error: WatchdogError, *, best_effort: bool = False) -> None:
        """Answer every admitted request with ``error``; batches under way continue.

        ``best_effort``: only those of best effort that wait.
        """
        self._carry_out(self._engine.give_up(error, best_effort=best_effort))

    def came_up(self) -> None:
        """Note that a worker can serve for the first time: the start-up ends."""
        self._metrics.start_up_seconds = self._clock() - self._began

    def stream(self, *, closed: bool, starts: Iterable[Measured], steps: Iterable[Measured]) -> None:
        """Learn that the function streams, and what its example() took: pairs of size and seconds.

        The requests that came before its first worker had loaded are handed over.
        """
        streams = self._streams
        if streams is None:
            assert self._new_streams is not None, "given by app"  # noqa: S101 - a caller's bug
            self._engine = self._streams = streams = self._new_streams(closed)
            self._metrics.stream(streams)
            now = self._clock()
            for request in self._batches.hand_over():
                streams.offer(request, now)
        for size, seconds in starts:
            streams.start.observe(size, seconds)
        for size, seconds in steps:
            streams.step.observe(size, seconds)

    def stepped(self, worker: Streamer, iteration: Iteration) -> None:
        """Handle an iteration of a worker's streams."""
        assert self._streams is not None, "the worker streams"  # noqa: S101 - a caller's bug
        seconds = iteration.start_seconds + iteration.step_seconds
        self._metrics.best_effort_seconds += seconds * self._streams.best_effort(worker)
        self._carry_out(self._streams.stepped(worker, iteration, self._clock()))
        self._wake()

    def worker_ready(self, worker: AnyWorker, *, checked: bool = False) -> None:
        """Give a worker that has loaded, finished its batch or was ``checked`` the next batch, or streams."""
        self._carry_out(self._engine.worker_ready(worker, checked=checked))
        if self._engine.queued >= self._cost.overall.best_size:
            # Later arrivals of this iteration would not improve its batch, and answers take time.
            self._tick()
        else:
            self._wake()

    def mix_paths(self) -> None:
        """Allow requests of different paths in one batch, as the handler does."""
        self._batches.mix_paths()

    def learn(self, size: int, spent: Spent) -> None:
        """Learn what ``size`` examples took a worker."""
        self._cost.learn_any(size, *spent)

    def batch_done(
        self, worker: AnyWorker, replies: list[Reply], spent: Spent, *, ready: bool = True
    ) -> None:
        """Handle a worker's replies to its batch; ``ready``: it may get the next one."""
        now = self._clock()
        batch, answers = self._batches.batch_done(
            worker,
            replies,
            now,
            seconds=spent.seconds,
            cpu_seconds=spent.cpu_seconds,
            waited=spent.waited,
            last=not ready,
        )
        if batch.trace is not None:
            self._end_batch(batch, now, cpu_seconds=spent.cpu_seconds)
        if any(reply != DROPPED for reply in replies):
            best_effort = batch.requests[0].best_effort
            self._metrics.batch_served(now - batch.dispatched, best_effort=best_effort)
        if ready:
            self.worker_ready(worker)
        self._carry_out(answers)

    def batch_failed(self, worker: AnyWorker, crash: Crash, *, ready: bool = True) -> None:
        """Handle a batch that failed as a whole in a worker that lives."""
        now = self._clock()
        batch, effects = self._batches.batch_failed(worker, crash, now, last=not ready)
        if batch.trace is not None:
            self._end_batch(batch, now, error="handler_error")
        if ready:
            self.worker_ready(worker)
        self._carry_out(effects)

    def worker_lost(self, worker: AnyWorker, *, out_of_memory: bool = False) -> None:
        """Handle the death of a worker, idle or under a batch."""
        for batch in [batch for batch, has in self._traced.items() if has is worker]:
            self._end_batch(batch, self._clock(), error="worker_died")
        self._carry_out(self._engine.worker_lost(worker, out_of_memory=out_of_memory))
        self._wake()

    def worker_overdue(self, worker: AnyWorker) -> None:
        """Let others have the next batch of a worker that takes too long for its present one."""
        if taken := self._batches.take_back(worker):
            self._carry_out(taken)
            self._wake()

    def worker_gone(self, worker: AnyWorker) -> None:
        """Give an idle worker no further batch: it is about to end."""
        self._engine.worker_gone(worker)

    def resize(self, workers: int, cpus: float) -> None:
        """Learn what the workers run on; called every second."""
        if self._cores not in {None, (workers, cpus)}:
            self._engine.resize(workers, cpus)
            self._metrics.capacity.resize(workers, cpus)
        self._cores = workers, cpus

    def _wake(self) -> None:
        if not self._woken:
            self._woken = True
            self._loop.call_soon(self._tick)

    def _wake_at(self, moment: float, now: float) -> None:
        # An earlier timer may fire in vain: cheaper than a new timer per iteration.
        if self._timer is not None:
            if self._timer_at <= moment:
                return
            self._timer.cancel()
        self._timer_at = moment
        # Rounded up, since uvloop rounds to the nearest millisecond: an early timer would be set repeatedly.
        self._timer = self._loop.call_later(ceil((moment - now) * 1e3) * 1e-3, self._timer_fired)

    def _timer_fired(self) -> None:
        self._timer = None
        self._wake()

    def _tick(self) -> None:
        """Run the engine's ``tick`` and execute its effects; set a timer for the next one."""
        self._woken = False
        self._carry_out(self._engine.tick(self._clock()))

    def _carry_out(self, effects: Iterable[Effect]) -> None:
        metrics = self._metrics
        for effect in effects:
            if isinstance(effect, Answer):
                # They refer to each other: the cycle would keep the body until the next collection.
                client, effect.request.client = effect.request.client, None
                client.deliver(effect)
            elif isinstance(effect, WakeAt):
                self._wake_at(effect.at, self._clock())
            elif isinstance(effect, Cancel):
                effect.worker.cancel(effect.indexes)
            elif isinstance(effect, Check):
                effect.worker.check()
            elif isinstance(effect, Lowered):
                log.warning(
                    "a batch of %d requests ran out of memory: batches of its kind have at most %d now",
                    effect.size,
                    effect.ceiling,
                )
            elif isinstance(effect, Dispatch):
                batch = effect.batch
                metrics.batch_dispatched(len(batch.requests), batch.reason)
                if not batch.requests[0].best_effort:
                    observe, dispatched = metrics.queue_seconds.observe, batch.dispatched
                    for request in batch.requests:
                        observe(dispatched - request.arrived)
                if self._tracer is not None:
                    self._begin_batch(self._tracer, effect.worker, batch)
                effect.worker.send(batch)
            else:
                self._carry_out_for_stream(effect)

    def _carry_out_for_stream(self, effect: Piece | Join | Leave) -> None:
        if isinstance(effect, Piece):
            client = effect.request.client
            if effect.last:
                effect.request.client = None
            client.piece(effect)
        elif isinstance(effect, Join):
            batch = effect.batch
            self._metrics.joins[batch.reason] += len(batch.requests)
            for request in batch.requests:
                if not request.best_effort:
                    self._metrics.queue_seconds.observe(batch.dispatched - request.arrived)
            effect.worker.join(batch)
        else:
            effect.worker.leave(effect.streams)

    def _begin_batch(self, tracer: Tracer, worker: Worker, batch: Batch) -> None:
        """Begin the span of a batch, if one of its requests is recorded."""
        links = tuple(request.trace.server for request in batch.requests if request.trace is not None)
        if links:
            batch.trace = BatchTrace(tracer.new_trace(), self._clock(), links)
            self._traced[batch] = worker

    def _end_batch(
        self, batch: Batch, now: float, *, error: str | None = None, cpu_seconds: float = 0.0
    ) -> None:
        if self._traced.pop(batch, None) is not None and self._tracer is not None:
            self._tracer.record([batch_span(batch.trace, batch, now, error=error, cpu_seconds=cpu_seconds)])
