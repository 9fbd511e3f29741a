"""Simulates one replica of a function that streams, with the watchdog's own engine, in virtual time. [P]

Owns the outcomes of its streams; ``virtual`` plays it. As in production, the engine learns the times of
starts and steps from ``example()`` and from iterations, and the number of pieces from streams that ended.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from math import inf, nan

from batching_watchdog.engine.effects import Answer, Effect, Join, Piece
from batching_watchdog.engine.streams import Streams
from batching_watchdog.errors import QueueFull
from batching_watchdog.function.messages import DEFAULT_CLASS, Iteration, Request, Target
from tailbound_lab.simulate.function import Answered, Exports, Function, Served, Streaming, show
from tailbound_lab.simulate.virtual import StreamWorker, StreamWorkers, Timeline


@dataclass(slots=True, eq=False)
class _Client:
    """What a stream has sent."""

    pieces: int
    """That it will have sent at its end."""
    joined: float = inf
    first: float = 0.0
    sent: int = 0
    judged: float = 0.0
    """Latest time of a piece, less the intervals of those before it."""


class StreamReplica:
    """Serves its requests; the outcomes are as of ``replica.Replica``, each stream for itself."""

    __slots__ = (
        "_engine", "_function", "_number", "_speed", "_streaming", "_timeline", "_workers", "row", "served",
    )  # fmt: skip

    def __init__(self, function: Function, streaming: Streaming, ready_at: float, row: int = 0) -> None:
        """``row`` is the caller's row of counters for this replica."""
        self._function, self._streaming = function, streaming
        latency = function.timeout if streaming.in_order else function.slo_latency
        self._engine = Streams(
            {DEFAULT_CLASS: Target(latency, function.slo_objective, streaming.interval)},
            max_inflight=function.max_inflight,
            max_streams=len(function.service.seconds),
            workers=function.workers,
        )
        self._speed = function.speed.at(ready_at)
        show(function, streaming, self._engine.start, self._engine.step, self._speed)
        self._timeline = Timeline(ready_at)
        self._workers = StreamWorkers(
            self._timeline, self._engine, self._step, lambda request: request.client.pieces, self._count
        )
        for _ in range(function.workers):
            self._timeline.schedule(ready_at, partial(self._workers.ready, StreamWorker()))
        self._number = 0
        self.row = row
        self.served = Served()

    @property
    def queued(self) -> int:
        """Number of requests that wait for a worker."""
        return self._engine.queued

    @property
    def pending(self) -> int:
        """Number of requests that are not among the outcomes yet."""
        return self._engine.admitted

    def exports(self, _now: float) -> Exports:
        """Return what its engine exports, which learns from iterations."""
        return Exports(self._engine.steady(), nan)

    def inside(self, now: float) -> int:
        """Return the number of waiting and running requests."""
        return self._engine.admitted

    def run_at(self, speed: float, _now: float) -> None:
        """Run iterations that begin from now on at this multiple of the nominal speed."""
        self._speed = speed

    def take(self) -> Served:
        """Return the outcomes so far, and begin with none."""
        taken, self.served = self.served, Served()
        return taken

    def serve(self, arrivals: list[float], until: float) -> None:
        """Admit ``arrivals`` (ascending, none after ``until``), and run to ``until``."""
        self._timeline.play(iter(arrivals), self._arrive, self._workers.tick, until)

    def _arrive(self, arrived: float) -> bool:
        self._number += 1
        function = self._function
        deadline, expires = arrived + function.slo_latency, arrived + function.timeout
        request = Request(
            self._number,
            b"",
            b"",
            arrived,
            expires if self._streaming.in_order else deadline,
            expires,
            client=_Client(self._streaming.length(arrived)),
        )
        try:
            self._workers.offer(request)
        except QueueFull:
            self.served.lost.append(self._timeline.now)
        return self._engine.eager

    def _step(self, joined: Sequence[int], running: Sequence[int]) -> Iteration:
        start = len(joined) * self._streaming.start / self._speed
        step = self._function.service.seconds[len(running) - 1] / self._speed
        self.served.busy += start + step
        return Iteration((), len(joined), start, len(running), step, 0.0)

    def _count(self, effect: Effect) -> None:
        now = self._timeline.now
        if isinstance(effect, Piece):
            self._sent(effect.request, effect.last, now)
        elif isinstance(effect, Join):
            for request in effect.batch.requests:
                request.client.joined = min(request.client.joined, now)
        elif isinstance(effect, Answer):
            self.served.lost.append(min(now, effect.request.expires))

    def _sent(self, request: Request, last: bool, now: float) -> None:
        client: _Client = request.client
        if not client.sent:
            client.first = now
            self.served.firsts.append((now, now - request.arrived))
        client.judged = max(client.judged, now - client.sent * self._streaming.interval)
        client.sent += 1
        if last:
            self.served.answered.append(Answered(client.joined, now, client.judged, [request.arrived]))
            if client.sent > 1:
                self.served.gaps.append((now, (now - client.first) / (client.sent - 1)))
