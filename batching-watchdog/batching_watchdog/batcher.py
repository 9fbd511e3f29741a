"""Where requests meet the clock and the workers.

Owns the loop "ask the scheduler, do what it says": ``submit`` admits a request, every event (a request, an
idle worker, a timer) wakes the pump, and the pump sends batches and hands out answers. It imports
nothing of ``pool``: a worker is anything with ``send(batch)``. Next step: ``pool.connection``.

Everything is synchronous on one event loop, so there is nothing to lock. ``clock`` is an argument,
since uvloop's own counts whole milliseconds. The pump runs once per turn of the
loop, after all that has arrived in that turn: requests that came together leave together, and a request
that came alone is not delayed.
"""

import asyncio
import logging
from collections.abc import Callable
from math import inf
from typing import Final, NamedTuple, Protocol

from batching_watchdog.engine.latency import LatencyModel
from batching_watchdog.engine.scheduler import Dispatch, Expire, Scheduler, Shed
from batching_watchdog.errors import Expired, PredictedLate, WatchdogError, WorkerDied
from batching_watchdog.messages import Batch, DispatchReason, Reply, Request
from batching_watchdog.metrics import Metrics

log = logging.getLogger(__name__)

REFUSAL_SECONDS: Final = 0.25
"""How long the same error serves all requests that are refused at the header: making one costs as much as
reading the request."""
_TOO_LONG: Final = PredictedLate("the queue is too long for it to be answered within its latency budget")


class Answer(NamedTuple):
    """What became of a request: a worker's reply or one of our errors."""

    outcome: Reply | WatchdogError
    batch_size: int = 0
    """0 if no worker has seen it."""
    queue_seconds: float = 0.0
    batch_reason: DispatchReason | None = None
    """Why its batch left when it did; None if it was in none."""
    batch: int = -1
    """The number of its batch."""


class Worker(Protocol):
    """An idle worker takes one batch; ``Batcher.replied`` or ``Batcher.died`` must follow."""

    def send(self, batch: Batch) -> None:
        """Start ``batch``."""


class Batcher:
    """Feeds idle workers from the scheduler and answers each request exactly once."""

    def __init__(
        self,
        clock: Callable[[], float],
        scheduler: Scheduler,
        model: LatencyModel,
        metrics: Metrics,
        *,
        workers: int,
        shed_late: bool = False,
    ) -> None:
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._scheduler = scheduler
        self._model = model
        self._metrics = metrics
        self._workers = workers
        self._shed_late = shed_late
        self._refusal: WatchdogError | None = None
        self._refused_at = -inf
        self._idle: list[Worker] = []
        self._answers: dict[int, Callable[[Answer], None]] = {}
        self._woken = False
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._drained: asyncio.Event = asyncio.Event()
        self._drained.set()

    @property
    def full(self) -> bool:
        """Whether ``submit`` would refuse."""
        return self._scheduler.full

    @property
    def queued(self) -> int:
        """Requests that wait for a worker."""
        return self._scheduler.queued

    @property
    def idle(self) -> int:
        """Workers that wait for a batch."""
        return len(self._idle)

    @property
    def at_limit(self) -> bool:
        """Whether ``max_inflight`` requests are admitted, late ones included."""
        return self._scheduler.at_limit

    def refusal(self, deadline: float) -> WatchdogError | None:
        """The error with which a request is to be refused at its header, before its body is read.

        None while a worker is idle and there is room, whatever was learned: a model that was slow once must
        be measured again.
        """
        scheduler, now = self._scheduler, self._clock()
        if scheduler.at_limit:
            if not scheduler.full and not scheduler.predicts_late(deadline, now, self._workers):
                return None  # it takes the place of a late one
            if now - self._refused_at > REFUSAL_SECONDS:
                self._refused_at, self._refusal = now, scheduler.refusal(self._workers)
            return self._refusal
        if self._shed_late and not self._idle and scheduler.predicts_late(deadline, now, self._workers):
            return _TOO_LONG
        return None

    def submit(self, request: Request, answer: Callable[[Answer], None]) -> None:
        """Admit ``request``; ``answer`` is called once, unless it is withdrawn. Raises ``QueueFull``.

        Another, late one may lose its place to it, and is answered here.
        """
        displaced = self._scheduler.offer(request, self._workers)
        if not self._answers:
            self._drained.clear()
        self._answers[request.id] = answer
        # While every worker is busy there is nothing to decide but what expires, and a timer sees to that.
        timed = self._timer is not None and request.arrived < self._timer_at <= request.expires
        if self._idle or self._shed_late or not timed:
            self._wake()
        if displaced is not None:
            error = self._scheduler.refusal(self._workers, displaced=True)
            self._answer(displaced, Answer(error, 0, self._clock() - displaced.arrived))

    def withdraw(self, request: Request) -> None:
        """Forget a request whose client has gone; a batch that has left is not called back."""
        if self._scheduler.withdraw(request.id):
            self._forget(request)

    async def drained(self) -> None:
        """Wait until every admitted request is answered or withdrawn."""
        await self._drained.wait()

    def worker_idle(self, worker: Worker) -> None:
        """A worker has loaded, or has answered its batch: to be called before ``replied`` for that."""
        self._idle.append(worker)
        if self._scheduler.queued >= self._model.best_size:
            # What may yet arrive in this turn would not make its batch better, and answers take their time.
            self._pump()
        else:
            self._wake()

    def worker_gone(self, worker: Worker) -> None:
        """An idle worker has gone."""
        if worker in self._idle:
            self._idle.remove(worker)

    def learn(self, size: int, seconds: float, cpu_seconds: float) -> None:
        """A worker took ``seconds`` for ``size`` requests, ``cpu_seconds`` of CPU time (0: not known)."""
        self._model.observe(size, seconds)
        if cpu_seconds:
            self._metrics.cost.observe(size, cpu_seconds)

    def replied(self, batch: Batch, replies: list[Reply], cpu_seconds: float = 0.0) -> None:
        """A worker answered ``batch``: learn from it, answer its requests."""
        seconds = self._clock() - batch.dispatched
        size = len(batch.requests)
        # A batch in which everything failed says nothing of what serving it takes.
        if not all(reply.failed for reply in replies):
            self.learn(size, seconds, cpu_seconds)
            self._scheduler.observe(size, seconds)
        self._metrics.service_seconds.observe(seconds)
        self._scheduler.finish(batch.requests)
        answers, dispatched, reason, number = self._answers, batch.dispatched, batch.reason, batch.number
        for request, reply in zip(batch.requests, replies, strict=True):
            # Gone if it has expired or its client has.
            deliver = answers.pop(request.id, None)
            if deliver is not None:
                deliver(Answer(reply, size, dispatched - request.arrived, reason, number))
        if not answers:
            self._drained.set()

    def died(self, batch: Batch, error: WatchdogError | None = None) -> None:
        """A worker died under ``batch``: its requests are tried once more, alone; then they fail.

        ``error`` is what they then fail with, if it was not a worker of ours.
        """
        lost = self._scheduler.worker_died(batch)
        log.error(
            "%s batch %d, of %d requests; %d are tried again alone, %d failed (tried before)",
            "a worker died under" if error is None else "the upstream failed on",
            batch.number,
            len(batch.requests),
            len(batch.requests) - len(lost),
            len(lost),
        )
        error = error or WorkerDied("the worker died under this request and under its retry alone")
        for request in lost:
            waited = batch.dispatched - request.arrived
            self._answer(request, Answer(error, len(batch.requests), waited, batch.reason, batch.number))
        self._wake()

    def _wake(self) -> None:
        if not self._woken:
            self._woken = True
            self._loop.call_soon(self._pump)

    def _wake_at(self, until: float, now: float) -> None:
        # An earlier timer is left to fire for nothing: cheaper than a new one in every turn.
        if self._timer is not None:
            if self._timer_at <= until:
                return
            self._timer.cancel()
        self._timer_at = until
        self._timer = self._loop.call_later(until - now, self._timer_fired)

    def _timer_fired(self) -> None:
        self._timer = None
        self._wake()

    def _pump(self) -> None:
        """Do all there is to do now, then see to it that a timer wakes us for what comes next."""
        self._woken = False
        while True:
            now = self._clock()
            action = self._scheduler.next_action(now, len(self._idle))
            if isinstance(action, Dispatch):
                self._send(action.batch)
            elif isinstance(action, Expire):
                for request in action.requests:
                    waited = now - request.arrived
                    self._answer(request, Answer(Expired(f"not answered within {waited:.3f} s"), 0, waited))
            elif isinstance(action, Shed):
                for request in action.requests:
                    late = PredictedLate("it can no longer be answered within its latency budget")
                    self._answer(request, Answer(late, 0, now - request.arrived))
            else:
                if action.until is not None:
                    self._wake_at(action.until, now)
                return

    def _send(self, batch: Batch) -> None:
        # The worker that became idle last has the warmest caches.
        worker = self._idle.pop()
        self._metrics.batch_dispatched(len(batch.requests), batch.reason)
        for request in batch.requests:
            self._metrics.queue_seconds.observe(batch.dispatched - request.arrived)
        worker.send(batch)

    def _answer(self, request: Request, answer: Answer) -> None:
        deliver = self._forget(request)
        if deliver is not None:
            deliver(answer)

    def _forget(self, request: Request) -> Callable[[Answer], None] | None:
        deliver = self._answers.pop(request.id, None)
        if not self._answers:
            self._drained.set()
        return deliver
