"""Streams in virtual time: their engine as it is, made-up workers, Poisson arrivals."""

import random
from collections.abc import Callable, Collection, Sequence
from dataclasses import KW_ONLY, dataclass, field
from math import inf

from batching_watchdog.engine.effects import Answer, Effect, Join, Piece
from batching_watchdog.engine.streams import Streams
from batching_watchdog.errors import QueueFull
from batching_watchdog.function.messages import (
    BEST_EFFORT,
    DispatchReason,
    Iteration,
    Output,
    Reply,
    Request,
    Target,
)
from tailbound_lab.simulate.virtual import StreamWorker, StreamWorkers, Timeline
from watchdog.engine.queues import Law

FAILED = Reply(500, b"", b"", failed=True)
FAULTS = ("start", "start for memory", "step", "step for memory")
"""Ways in which a stream fails by itself."""


@dataclass(eq=False)
class Client:
    """What a request has got, by time."""

    pieces: int
    """That its stream has."""
    fault: str = ""
    """Of ``FAULTS``."""
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
    faults: Callable[[], str] = lambda: ""
    """That of the next request."""
    timeout: float = 60.0
    max_streams: int = 256
    memory: float = inf
    """Streams whose states fit into the memory of a worker."""
    workspace: float = inf
    """Streams that fit into the memory of one start, and of one step."""
    closed: bool = False
    shed_late: bool = False
    noise: float = 0.03
    seed: int = 1

    def __post_init__(self) -> None:
        self.engine = Streams(
            {
                name: Target(self.latency, 0.99, interval)
                for name, interval in {"default": self.interval, **self.intervals}.items()
            }
            | {"bulk": BEST_EFFORT},
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
        self.requests: list[Request] = []
        self.joins: list[Join] = []
        self.most = 0
        self.idle_while_waiting = 0
        self._random = random.Random(self.seed)
        self._timeline = Timeline(0.0)
        self._workers = StreamWorkers(
            self._timeline,
            self.engine,
            self._step,
            lambda request: request.client.pieces,
            self._on_effect,
        )
        self.crew = [StreamWorker() for _ in range(self.workers)]
        for worker in self.crew:
            self._workers.ready(worker)

    @property
    def now(self) -> float:
        return self._timeline.now

    @property
    def joined_late(self) -> set[int]:
        """The requests that joined when they were late."""
        late = (join.batch for join in self.joins if join.batch.reason is DispatchReason.LATE)
        return {request.id for batch in late for request in batch.requests}

    def run(self, rate: float, seconds: float) -> None:
        """Offer ``rate`` requests per second for ``seconds``, then run to the end."""
        moment = self._random.expovariate(rate)
        while moment < seconds:
            self.at(moment, self.arrive)
            moment += self._random.expovariate(rate)
        self.to_the_end()

    def to_the_end(self) -> None:
        """Run until nothing is left to happen."""
        self._timeline.play(iter(()), lambda _: True, self._tick)

    def at(self, moment: float, happens: Callable[[], object]) -> None:
        """Let something happen then."""
        self._timeline.schedule(moment, happens)

    def arrive(
        self, slo_class: str = "default", latency: float | None = None, fault: str | None = None
    ) -> Request:
        """Offer a request now."""
        client = Client(self.lengths(self._random), self.faults() if fault is None else fault)
        request = Request(
            len(self.requests), b"POST /", b"", self.now, self.now + (latency or self.latency),
            self.now + self.timeout, client=client, slo_class=slo_class,
        )  # fmt: skip
        self.requests.append(request)
        try:
            self._workers.offer(request)
        except QueueFull:
            request.client.ends.append("QueueFull")
        return request

    def leave(self, request: Request) -> None:
        """Let the client of a request go away."""
        if not request.client.ends:
            request.client.ends.append("left")
            self._workers.abandon(request)

    def kill(self, worker: StreamWorker) -> None:
        """Let a worker die, and another one be ready at once."""
        self.crew[self.crew.index(worker)] = other = StreamWorker()
        self._workers.lose(worker)
        self._workers.ready(other)

    def good(self, since: float = 0.0, until: float = inf) -> float:
        """Return the share of streams of that time that got every piece when it was due."""
        of = [
            request
            for request in self.requests
            if since <= request.arrived < until and not request.client.fault
        ]
        return sum(self.on_time(request) for request in of) / max(1, len(of))

    def on_time(self, request: Request) -> bool:
        """Return whether a stream ended well, without a late piece."""
        interval = {"default": self.interval, "bulk": BEST_EFFORT.interval, **self.intervals}[
            request.slo_class
        ]
        came = request.client.came
        return request.client.ends == ["end"] and all(
            moment <= request.deadline + place * interval + 1e-9 for place, moment in enumerate(came)
        )

    def _tick(self) -> None:
        self._workers.tick()
        idle = any(worker.iteration is None for worker in self.crew)
        self.idle_while_waiting += idle and self.engine.queued > 0

    def _step(self, joined: Sequence[int], running: Sequence[int]) -> Iteration:
        """Fail those with a fault, and the newest beyond the memory; all others get their piece."""
        self.most = max(self.most, len(running))
        faults = {stream: self.requests[stream].client.fault for stream in running}
        failed = {stream for stream in joined if faults[stream].startswith("start")}
        fitting = [stream for stream in running if stream not in failed]
        short = {stream for place, stream in enumerate(fitting) if stream in joined and place >= self.memory}
        begun = [stream for stream in fitting if stream not in short]
        start, crowded = self._in_parts(self.start, joined, failed | short, fits=self.workspace)
        stuck = {stream for stream in begun if faults[stream].startswith("step")}
        step, overflow = self._in_parts(self.step, begun, stuck, fits=self.workspace)
        outputs = [
            Output(stream, FAILED, True, stream in short or faults[stream].endswith("memory"))
            for stream in failed | short | stuck
        ]
        started = 0 if failed | short or crowded else len(joined)
        stepped = 0 if stuck or overflow else len(begun)
        return Iteration(outputs, started, start, stepped, step, 0.0, 0.0, crowded, overflow)

    def _in_parts(
        self, law: Law, streams: Sequence[int], bad: Collection[int], *, fits: float = inf
    ) -> tuple[float, int]:
        """Return the seconds of a call that is tried in halves where it fails, and its overflow."""
        if not streams:
            return 0.0, 0
        seconds = law(len(streams)) * self._random.gauss(1.0, self.noise)
        healthy, half = not any(stream in bad for stream in streams), (len(streams) + 1) // 2
        if len(streams) == 1 or (healthy and len(streams) <= fits):
            return seconds, 0
        parts = [self._in_parts(law, part, bad, fits=fits) for part in (streams[:half], streams[half:])]
        overflow = max(part[1] for part in parts) or (len(streams) if healthy else 0)
        return seconds + sum(part[0] for part in parts), overflow

    def _on_effect(self, effect: Effect) -> None:
        if isinstance(effect, Piece):
            client = effect.request.client
            if effect.reply is not None:
                client.came.append(self.now)
            if effect.last:
                client.ends.append("end")
        elif isinstance(effect, Answer):
            effect.request.client.ends.append(type(effect.outcome).__name__)
        elif isinstance(effect, Join):
            self.joins.append(effect)
