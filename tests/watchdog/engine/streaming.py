"""Streams in virtual time: their engine as it is, made-up workers, Poisson arrivals."""

import random
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass, field
from functools import partial
from heapq import heappop, heappush
from itertools import count
from math import inf

from batching_watchdog.engine.effects import Answer, Effect, Join, Leave, Piece, WakeAt
from batching_watchdog.engine.streams import Streams
from batching_watchdog.errors import QueueFull
from batching_watchdog.messages import Batch, DispatchReason, Iteration, Output, Reply, Request, Target
from watchdog.engine.queues import Law

PIECE = Reply(200, b"", b"piece")
FAILED = Reply(500, b"", b"", failed=True)


@dataclass(eq=False)
class Simulated:
    """A worker: its streams with the pieces that each has left, and the joins that it has not applied."""

    left: dict[int, int] = field(default_factory=dict)
    joins: list[Request] = field(default_factory=list)
    finished: list[int] = field(default_factory=list)
    busy: bool = False
    alive: bool = True

    def join(self, batch: Batch) -> None:
        """Nothing: the simulation has the effect."""

    def leave(self, streams: Sequence[int]) -> None:
        """Nothing: the simulation has the effect."""


@dataclass(eq=False)
class Client:
    """What a request has got, by time."""

    pieces: int
    """That its stream has."""
    came: list[float] = field(default_factory=list)
    ends: list[str] = field(default_factory=list)


@dataclass
class Streaming:
    """One watchdog whose workers follow ``start`` and ``step``, with a little noise."""

    start: Law
    step: Law
    _: KW_ONLY
    workers: int = 1
    latency: float = 0.5
    interval: float = 0.05
    intervals: dict[str, float] = field(default_factory=dict)
    lengths: Callable[[random.Random], int] = lambda _: 20
    timeout: float = 60.0
    max_streams: int = 256
    memory: float = inf
    """Streams that fit into the memory of a worker."""
    closed: bool = False
    shed_late: bool = False
    noise: float = 0.03
    seed: int = 1

    def __post_init__(self) -> None:
        self.now = 0.0
        self.engine = Streams(
            {
                name: Target(self.latency, 0.99, interval)
                for name, interval in {"default": self.interval, **self.intervals}.items()
            },
            max_inflight=4096,
            max_streams=self.max_streams,
            workers=self.workers,
            closed=self.closed,
            shed_late=self.shed_late,
        )
        for size in (1, 2, 4, 8, 16, 32, 64):
            if size <= min(self.max_streams, self.memory):
                for _ in range(4):
                    self.engine.start.observe(size, self.start(size))
                    self.engine.step.observe(size, self.step(size))
        self.crew = [Simulated() for _ in range(self.workers)]
        self.requests: list[Request] = []
        self.most = 0
        self.joined_late: set[int] = set()
        self.idle_while_waiting = 0
        self._random = random.Random(self.seed)
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()
        self._wake = inf
        for worker in self.crew:
            self.do(self.engine.worker_ready(worker))

    def run(self, rate: float, seconds: float) -> None:
        """Offer ``rate`` requests per second for ``seconds``, then run to the end."""
        at = self._random.expovariate(rate)
        while at < seconds:
            self.at(at, self.arrive)
            at += self._random.expovariate(rate)
        self.to_the_end()

    def to_the_end(self) -> None:
        """Run until nothing is left to happen."""
        while self._events:
            self.now, _, happens = heappop(self._events)
            happens()
            if not self._events or self._events[0][0] > self.now:
                self._wake = inf
                self.do(self.engine.tick(self.now))
                idle = any(not worker.busy for worker in self.crew)
                self.idle_while_waiting += idle and self.engine.queued > 0

    def at(self, moment: float, happens: Callable[[], None]) -> None:
        """Let something happen then."""
        heappush(self._events, (moment, next(self._order), happens))

    def arrive(self, slo_class: str = "default", latency: float | None = None) -> Request:
        """Offer a request now."""
        request = Request(
            len(self.requests), b"POST /", b"", self.now, self.now + (latency or self.latency),
            self.now + self.timeout, client=Client(self.lengths(self._random)), slo_class=slo_class,
        )  # fmt: skip
        self.requests.append(request)
        try:
            self.do(self.engine.offer(request, self.now))
        except QueueFull:
            request.client.ends.append("QueueFull")
        self.at(self.now, lambda: None)
        return request

    def leave(self, request: Request) -> None:
        """Let the client of a request go away."""
        if not request.client.ends:
            request.client.ends.append("left")
            self.do(self.engine.abandon(request))

    def kill(self, worker: Simulated) -> None:
        """Let a worker die, and another one be ready at once."""
        worker.alive = False
        self.crew[self.crew.index(worker)] = other = Simulated()
        self.do([*self.engine.worker_lost(worker), *self.engine.worker_ready(other)])

    def good(self, since: float = 0.0, until: float = inf) -> float:
        """Return the share of streams of that time that got every piece when it was due."""
        of = [request for request in self.requests if since <= request.arrived < until]
        return sum(self.on_time(request) for request in of) / max(1, len(of))

    def on_time(self, request: Request) -> bool:
        """Return whether a stream ended well, without a late piece."""
        interval = {"default": self.interval, **self.intervals}[request.slo_class]
        came = request.client.came
        return request.client.ends == ["end"] and all(
            at <= request.deadline + place * interval + 1e-9 for place, at in enumerate(came)
        )

    def do(self, effects: Sequence[Effect]) -> None:
        """Carry out effects."""
        for effect in effects:
            if isinstance(effect, Piece):
                client = effect.request.client
                if effect.reply is not None:
                    client.came.append(self.now)
                if effect.last:
                    client.ends.append("end")
            elif isinstance(effect, Answer):
                effect.request.client.ends.append(type(effect.outcome).__name__)
            elif isinstance(effect, Join):
                worker = effect.worker
                assert isinstance(worker, Simulated)
                worker.joins += effect.batch.requests
                if effect.batch.reason is DispatchReason.LATE:
                    self.joined_late |= {request.id for request in effect.batch.requests}
                if not worker.busy:
                    worker.busy = True
                    self.at(self.now, partial(self._iterate, worker))
            elif isinstance(effect, Leave):
                worker = effect.worker
                assert isinstance(worker, Simulated)
                for stream in effect.streams:
                    worker.joins = [request for request in worker.joins if request.id != stream]
                    if worker.left.pop(stream, None) is not None:
                        worker.finished.append(stream)
            elif isinstance(effect, WakeAt) and effect.at < self._wake:
                self._wake = effect.at
                self.at(effect.at, lambda: None)

    def _iterate(self, worker: Simulated) -> None:
        """Begin the next iteration of a worker with what has joined by now."""
        joined, worker.joins = worker.joins, []
        for request in joined:
            worker.left[request.id] = request.client.pieces
        size = len(worker.left)
        worker.busy = bool(size)
        if not worker.alive:
            return
        if not size:  # what joined has left: it tells that it is idle again
            self.at(self.now, partial(self._tell_idle, worker))
            return
        self.most = max(self.most, size)
        start = self.start(len(joined)) * self._random.gauss(1.0, self.noise) if joined else 0.0
        step = self.step(size) * self._random.gauss(1.0, self.noise)
        iteration = Iteration((), len(joined), start, size, step, 0.0)
        self.at(self.now + start + step, partial(self._iterated, worker, iteration, list(worker.left)))

    def _tell_idle(self, worker: Simulated) -> None:
        if worker.alive:
            self.do(self.engine.stepped(worker, Iteration((), 0, 0.0, 0, 0.0, 0.0), self.now))

    def _iterated(self, worker: Simulated, iteration: Iteration, streams: Sequence[int]) -> None:
        if not worker.alive:
            return
        outputs = []
        if iteration.stepped > self.memory:
            outputs = [Output(stream, FAILED, True, True) for stream in streams]
            iteration = iteration._replace(started=0, stepped=0)
            worker.left.clear()
        else:
            for stream in streams:
                if stream in worker.left:
                    worker.left[stream] -= 1
                    outputs.append(Output(stream, PIECE, worker.left[stream] == 0))
                    if not worker.left[stream]:
                        worker.finished.append(stream)
                        del worker.left[stream]
        # It goes on before the front end has read this: joins that come now wait for the next boundary.
        self._iterate(worker)
        self.do(self.engine.stepped(worker, iteration._replace(outputs=outputs), self.now))
