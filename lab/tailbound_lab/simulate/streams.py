"""Simulates one replica of a function that streams, with the watchdog's own engine, in virtual time. [P]

Owns the events of its workers (joins, iterations) and the outcomes of its streams.
``batching_watchdog.engine.streams`` makes every decision. As in production, the engine learns the times of
starts and steps from ``example()`` and from iterations, and the number of pieces from streams that ended.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from math import inf
from typing import Final

from batching_watchdog.engine.effects import Answer, Effect, Join, Leave, Piece, WakeAt
from batching_watchdog.engine.streams import Steady, Streams
from batching_watchdog.errors import QueueFull
from batching_watchdog.messages import DEFAULT_CLASS, Batch, Iteration, Output, Reply, Request, Target
from tailbound_lab.simulate.function import Answered, Function, Served, Streaming, show

_PIECE: Final = Reply(200, b"", b"")


@dataclass(slots=True, eq=False)
class _Worker:
    """The pieces that each of its streams has left, and the requests that join at the next iteration."""

    left: dict[int, int] = field(default_factory=dict)
    joins: list[Request] = field(default_factory=list)
    iteration: Iteration | None = None
    """The present one, without outputs; None: it is idle."""

    def join(self, batch: Batch) -> None:
        """Do nothing: the replica handles the effect."""

    def leave(self, streams: Sequence[int]) -> None:
        """Do nothing: the replica handles the effect."""


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
        "_clock", "_engine", "_events", "_function", "_number", "_serial", "_speed", "_streaming", "_wake",
        "row", "served",
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
        show(function, streaming, self._engine.start, self._engine.step)
        self._events: list[tuple[float, int, _Worker]] = []
        """When each worker is ready, and then the ends of its iterations."""
        for number in range(function.workers):
            heappush(self._events, (ready_at, number, _Worker()))
        self._serial = function.workers
        self._number = 0
        self._clock = ready_at
        self._wake = inf
        self._speed = 1.0
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

    @property
    def steady(self) -> Steady:
        """What its engine exports."""
        return self._engine.steady()

    def inside(self, now: float) -> int:
        """Return the number of waiting and running requests."""
        return self._engine.admitted

    def run_at(self, speed: float) -> None:
        """Run iterations that begin from now on at this multiple of the nominal speed."""
        self._speed = speed

    def take(self) -> Served:
        """Return the outcomes so far, and begin with none."""
        taken, self.served = self.served, Served()
        return taken

    def serve(self, arrivals: list[float], until: float) -> None:
        """Admit ``arrivals`` (ascending, none after ``until``), and run to ``until``."""
        engine, events, coming = self._engine, self._events, iter(arrivals)
        arrival = next(coming, inf)
        while True:
            ends = events[0][0] if events else inf
            now = max(self._clock, min(arrival, ends, self._wake))
            if (now >= until and arrival > until) or now == inf:
                return
            self._clock = now
            if arrival <= min(ends, self._wake):
                # Some came before the replica did, and have waited since.
                self._offer(arrival, now)
                arrival = next(coming, inf)
            elif ends <= now:
                _, _, worker = heappop(events)
                if worker.iteration is None:
                    self._carry_out(engine.worker_ready(worker), now)
                else:
                    self._end(worker, worker.iteration, now)
            self._wake = inf
            self._carry_out(engine.tick(now), now)

    def _offer(self, arrived: float, now: float) -> None:
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
            self._carry_out(self._engine.offer(request, now), now)
        except QueueFull:
            self.served.lost.append(now)

    def _begin(self, worker: _Worker, now: float) -> None:
        """Begin the next iteration of a worker with all that has joined by now."""
        joined, worker.joins = worker.joins, []
        for request in joined:
            worker.left[request.id] = request.client.pieces
        size = len(worker.left)
        worker.iteration = None
        if not size:
            return
        start = len(joined) * self._streaming.start / self._speed
        step = self._function.service.seconds[size - 1] / self._speed
        worker.iteration = Iteration((), len(joined), start, size, step, 0.0)
        self.served.busy += start + step
        self._serial += 1
        heappush(self._events, (now + start + step, self._serial, worker))

    def _end(self, worker: _Worker, iteration: Iteration, now: float) -> None:
        """End an iteration. The next one begins before the front end reads this one's pieces."""
        left, outputs = worker.left, []
        for stream, pieces in list(left.items()):
            outputs.append(Output(stream, _PIECE, pieces == 1))
            if pieces == 1:
                del left[stream]
            else:
                left[stream] = pieces - 1
        self._begin(worker, now)
        self._carry_out(self._engine.stepped(worker, iteration._replace(outputs=outputs), now), now)

    def _carry_out(self, effects: Sequence[Effect], now: float) -> None:
        for effect in effects:
            if isinstance(effect, Piece):
                self._sent(effect.request, effect.last, now)
            elif isinstance(effect, Join):
                worker = effect.worker
                assert isinstance(worker, _Worker)  # noqa: S101 - for the type checker
                for request in effect.batch.requests:
                    request.client.joined = min(request.client.joined, now)
                worker.joins += effect.batch.requests
                if worker.iteration is None:
                    self._begin(worker, now)
            elif isinstance(effect, Leave):
                worker = effect.worker
                assert isinstance(worker, _Worker)  # noqa: S101 - for the type checker
                for stream in effect.streams:
                    worker.left.pop(stream, None)
                    worker.joins = [request for request in worker.joins if request.id != stream]
            elif isinstance(effect, WakeAt):
                self._wake = effect.at
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
