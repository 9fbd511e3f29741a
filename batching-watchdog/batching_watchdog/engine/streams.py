"""The state machine of streams: requests join running batches, and are answered piece by piece. [P]

The counterpart of ``engine`` for functions with ``start`` and ``step``. A worker runs a set of streams. Each
iteration starts the streams that joined, then makes one step of all, which gives each its next piece. Piece k
is due at the deadline of the request + k intervals of its SLO class; early pieces are slack. A request joins
only if, by the learned times of starts and steps (``latency``), the iteration with it meets the next due time
of each stream on the worker and its own deadline, and later steps stay within every interval. Among such
workers it joins the one with the most slack. Requests wait by deadline; a late one joins only while none on
time waits. Running streams are never preempted. This is iteration-level scheduling (Orca, OSDI'22) with
deadlines.

The worker tries in parts what failed, so it knows whose error it is. Fewer streams run, or start together,
only where parts passed for which memory had not sufficed together. A stream alone for which memory did not
suffice is started once more, on a worker with fewer.

Invariants: every admitted request leaves exactly once, by a last ``Piece``, by an ``Answer`` or by
``abandon``; no join breaks by prediction the due time of a stream that has kept all of its own; after
``tick`` no request waits that may join. Times are seconds on any monotonic clock.
"""

from bisect import bisect_right
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import exp, inf, nan, sqrt
from statistics import NormalDist, fmean
from typing import Final, NamedTuple

from batching_watchdog.engine.cost import Pool
from batching_watchdog.engine.effects import Answer, Effect, Join, Leave, Lowered, Piece, Streamer, WakeAt
from batching_watchdog.engine.lanes import GONE, RUNNING, Queues
from batching_watchdog.engine.latency import LatencyModel
from batching_watchdog.engine.tuning import TUNING
from batching_watchdog.errors import Expired, PredictedLate, QueueFull, WatchdogError, WorkerDied
from batching_watchdog.function.messages import (
    Batch,
    DispatchReason,
    Iteration,
    Output,
    Reply,
    Request,
    Target,
)

SEARCHED: Final = 64
"""Maximum waiting requests that one ``tick`` tries behind one that no worker may take."""
RECENT: Final = 128
"""Streams whose lengths are kept, the last ones that have ended."""
TOGETHER: Final = (1, 2, 4, 8, 16)
"""Steps between which starts may gather, for ``steady``."""
RATES: Final = 128
"""Rates up to saturation among which ``steady`` finds one."""


class Steady(NamedTuple):
    """What one replica sustains on time."""

    rate: float
    """Streams per second; NaN until learned."""
    concurrency: float
    """Streams that its workers hold; NaN until learned."""
    pieces: float = 1.0
    """Mean pieces of a stream."""
    cpu_seconds: float = 0.0
    """Mean CPU seconds of a worker per piece; 0 while unknown."""
    step: float = nan
    """Mean seconds of a step while all places are taken."""
    starts: float = nan
    """Streams that start beside each such step: as many as end."""
    start: float = nan
    """Mean seconds that they take."""


def steady(
    start: LatencyModel,
    step: LatencyModel,
    *,
    lengths: Sequence[float],
    target: Target,
    workers: int,
    closed: bool = False,
) -> Steady:
    """Return what ``workers`` sustain with streams of these ``lengths`` in pieces, at least one.

    A worker holds the most streams whose iterations stay within the interval: one step, and a start for each
    stream that ends. Starts that are cheaper together wait for each other, for up to half of the latency that
    is left. Each start during a stream delays it; the spread of their number counts beyond that latency. It
    bounds the streams, which take their mean time. Fewer streams have faster steps. So their number is a
    birth-death chain, for any distribution of lengths, as all get pieces alike (processor sharing; Kelly,
    1979, section 3.3). The rate is the highest whose requests wait longer than the latency target no more
    often than the objective allows. Arrivals are Poisson's.

    ``closed``: all streams of a batch take as long as its longest, and at most half of the latency target,
    since requests wait for the batch before.
    """
    ascending, pieces = sorted(lengths), fmean(lengths)
    alone, quantile = start.predict_mean(1), NormalDist().inv_cdf(target.objective)
    left = target.latency - alone - step.predict_mean(1)
    waits = [steps for steps in TOGETHER if steps == 1 or steps * target.interval <= left / 2]

    def starting(size: float) -> float:
        """Return the seconds of starts for each step of ``size`` streams of a worker."""
        least = inf
        for steps in waits:
            starts = steps * size / pieces
            some = 1.0 - exp(-starts)
            least = min(least, some * start.predict_mean(starts / some) / steps)
        return least

    def seconds(size: float) -> float:
        """Return the mean ones of a stream among ``size`` streams of a worker."""
        if closed:
            longest = ascending[int(len(ascending) * size / (size + 1))]
            return start.predict_mean(size) + max(pieces, longest) * step.predict_mean(size)
        return pieces * (step.predict_mean(size) + starting(size))

    def most_seconds(size: float) -> float:
        """Return those of all but the share of streams that may be late."""
        spread = 0.0 if closed else quantile * sqrt(size) * alone
        return seconds(size) + max(0.0, spread - max(0.0, left))

    if not step.learned:
        return Steady(nan, nan)
    most = step.largest_within(target.interval)
    size = bisect_right(
        range(1, most + 1), target.latency / 2 if closed else pieces * target.interval, key=most_seconds
    )
    if closed:
        size = max(size, min(1, most))
    if not size:
        return Steady(0.0, 0.0)
    ending = [n / seconds(max(1, n / workers)) for n in range(1, workers * size + 1)]

    def late(rate: float) -> float:
        """Return the share of requests that find all places taken, and as many waiting as end in time."""
        load, unlikely = rate / ending[-1], 1.0
        for per_second in ending:
            unlikely = 1.0 + unlikely * per_second / rate
        too_long: float = load ** (ending[-1] * target.latency)
        return too_long / ((1.0 - load) * unlikely + load)

    rates = [ending[-1] * part / RATES for part in range(RATES)]
    highest = bisect_right(rates, 1.0 - target.objective, lo=1, key=late) - 1
    cpu_seconds = step.predict_cpu(size) / size
    beside = () if closed else (step.predict_mean(size), size / pieces, starting(size))
    return Steady(rates[highest], float(workers * size), pieces, cpu_seconds, *beside)


@dataclass(slots=True, eq=False)
class _Stream:
    """A request on a worker."""

    request: Request
    interval: float
    worker: Streamer
    batch: Batch | None = None
    steps: int = 0
    """Steps that it was in."""
    sent: int = 0
    """Pieces that left."""
    begun: bool = False
    """Whether the present iteration of its worker includes it."""
    late: bool = False
    """Whether one of its due times was missed: none is protected then."""

    @property
    def due(self) -> float:
        """The due time of its piece in the next iteration."""
        return self.request.deadline + (self.sent + self.begun) * self.interval


@dataclass(slots=True, eq=False)
class _Running:
    """A worker with its streams. Times are predictions; the last five fields are of the present ``tick``."""

    worker: Streamer
    streams: dict[int, _Stream] = field(default_factory=dict)
    ends: float = 0.0
    """When the present iteration ends."""
    closing: bool = False
    """Whether it takes no further stream."""
    idle: bool = True
    """Whether it waits for streams. One whose streams have left may still be in a step that they began."""
    limit: float = inf
    """The earliest due time in it that a join could break."""
    interval: float = inf
    """The smallest of the streams."""
    starts: int = 0
    """Streams that start in the next iteration."""
    next_ends: float = 0.0
    """When it ends with one more stream, with the reserve."""

    @property
    def begun(self) -> int:
        """Number of its streams in the present iteration."""
        return sum(stream.begun for stream in self.streams.values())


class Streams:
    """The queue in front of workers that stream. Every method is synchronous and receives the time."""

    def __init__(
        self,
        targets: Mapping[str, Target],
        *,
        max_inflight: int,
        max_streams: int,
        workers: int,
        shed_late: bool = False,
        closed: bool = False,
    ) -> None:
        """``targets``: by SLO class. ``max_streams``: of one worker.

        ``closed``: a request joins only a worker without streams, as a generator serves one batch to its end.
        """
        self.start = LatencyModel(max_streams)
        """Seconds to start k streams."""
        self.step = LatencyModel(max_streams)
        """Seconds of one step of n streams."""
        self._targets = targets
        every = targets.values()
        self._tightest = Target(
            min(target.latency for target in every),
            max(target.objective for target in every),
            min(target.interval for target in every),
        )
        self._reserve = min(self._tightest.interval, TUNING.stream_reserve * self._tightest.latency)
        self._count = max(1, workers)
        self._shed_late = shed_late
        self._closed = closed
        self._lengths: deque[int] = deque(maxlen=RECENT)
        """Pieces of the streams that have ended lately."""
        self._workers: dict[Streamer, _Running] = {}
        self._on: dict[int, _Stream] = {}
        self._retried: dict[int, int] = {}
        """By request for which memory did not suffice: the other streams on its worker, which had enough."""
        self._queues = Queues(max_inflight)
        self._pool = Pool(self.step, self.step)
        """All requests share one lane."""

    @property
    def admitted(self) -> int:
        """Number of queued requests and running streams."""
        return len(self._queues.admitted)

    @property
    def running(self) -> int:
        """Number of running streams."""
        return len(self._on)

    def best_effort(self, worker: Streamer) -> float:
        """Return the share of best effort among the streams of a worker."""
        streams = self._workers[worker].streams.values()
        return sum(stream.request.best_effort for stream in streams) / max(1, len(streams))

    @property
    def due(self) -> int:
        """Number of running streams with a deadline."""
        return sum(not stream.request.best_effort for stream in self._on.values())

    @property
    def queued(self) -> int:
        """Number of requests that wait for a worker."""
        return len(self._queues)

    @property
    def at_limit(self) -> bool:
        """Whether ``max_inflight`` requests are admitted: one more must replace a late one."""
        return self._queues.at_limit

    @property
    def full(self) -> bool:
        """Whether ``offer`` would refuse even requests that can be on time."""
        return self.at_limit and self._queues.replaceable() is None

    @property
    def eager(self) -> bool:
        """Whether an offered request may need a ``tick`` before the next event: always."""
        return True

    def steady(self) -> Steady:
        """Return what the workers sustain with streams as long as the recent ones."""
        if not any(self._lengths):
            return Steady(nan, nan)
        return steady(
            self.start.own,
            self.step.own,
            lengths=self._lengths,
            target=self._tightest,
            workers=self._count,
            closed=self._closed,
        )

    def resize(self, workers: int, cpus: float) -> None:
        """Take the number of workers as this from now on."""
        self._count = max(1, workers)

    def refusal(self, deadline: float, now: float) -> WatchdogError | None:
        """Return the error that refuses a request at its header, before its body is read, or None."""
        late = deadline - self._soonest <= now
        if deadline == inf and self._queues.at_best_effort_limit:
            return self._queue_full(best_effort=True)
        if self.at_limit and (late or self.full):
            return self._queue_full()
        return _NO_TIME if self._shed_late and self._on and late else None

    def offer(self, request: Request, now: float) -> Sequence[Effect]:
        """Admit ``request``; at ``max_inflight`` it replaces one of best effort, or the one late longest.

        Raises ``QueueFull`` without either, or if ``request`` itself is late or of best effort.
        """
        effects: Sequence[Effect] = ()
        if request.best_effort and self._queues.at_best_effort_limit:
            raise self._queue_full(best_effort=True)
        if self.at_limit:
            displaced = self._queues.replaceable()
            if displaced is None or request.deadline <= now:
                raise self._queue_full()
            error = self._queue_full(displaced=True, best_effort=displaced.best_effort)
            effects = self._end(displaced, error)
        self._queues.admit(request, self._pool)
        return effects

    def worker_ready(self, worker: Streamer, *, checked: bool = False) -> list[Effect]:
        """Take a worker that has loaded the handler. ``checked`` is for batches."""
        self._workers[worker] = _Running(worker)
        return []

    def worker_gone(self, worker: Streamer) -> None:
        """Give a worker no further streams: it ends after those that it has."""
        if worker in self._workers:
            self._workers[worker].closing = True

    def worker_lost(self, worker: Streamer, *, out_of_memory: bool = False) -> list[Effect]:
        """Handle the death of a worker: its streams that have sent nothing are started again."""
        if worker not in self._workers:
            return []
        streams = list(self._workers[worker].streams.values())
        effects = self._lower(self.step, len(streams)) if out_of_memory and len(streams) > 1 else []
        for stream in streams:
            effects += self._again_or_end(stream, _DIED)
        del self._workers[worker]
        return effects

    def stepped(self, worker: Streamer, iteration: Iteration, now: float) -> list[Effect]:
        """Learn from an iteration, and send its pieces. Streams that have left meanwhile are passed over."""
        running = self._workers[worker]
        if iteration.started:
            self.start.observe(iteration.started, iteration.start_seconds)
        if iteration.stepped:
            # Memory fills over the length of a stream: a step shows only that those that end in it fit.
            ended = sum(output.done for output in iteration.outputs)
            self.step.observe(
                iteration.stepped,
                iteration.step_seconds,
                iteration.cpu_seconds,
                iteration.waited,
                share=ended / iteration.stepped,
            )
        effects = self._lower(self.start, iteration.start_overflow)
        effects += self._lower(self.step, iteration.step_overflow)
        if short := [output.stream for output in iteration.outputs if output.out_of_memory]:
            beside = running.begun - len(short)
            self._retried |= {
                stream: beside for stream in short if stream in running.streams and running.begun > 1
            }
        for output in iteration.outputs:
            if stream := running.streams.get(output.stream):
                effects += self._put_out(stream, output, now)
        running.idle = not running.streams
        self._begin(running, now)
        return effects

    def abandon(self, request: Request) -> list[Effect]:
        """Remove a request whose client has left; its stream leaves its worker before the next step."""
        return self._leave(request) if request.place != GONE else []

    def give_up(self, error: WatchdogError, *, best_effort: bool = False) -> list[Effect]:
        """Answer every admitted request with ``error``.

        ``best_effort``: only those of best effort that wait.
        """
        requests = self._queues.best_effort if best_effort else self._queues.admitted
        return [effect for request in list(requests.values()) for effect in self._end(request, error)]

    def tick(self, now: float) -> list[Effect]:
        """Answer expired requests, then let waiting ones join; return the effects."""
        effects: list[Effect] = []
        for request in self._queues.expired(now):
            effects += self._end(request, Expired(f"not ended within {now - request.arrived:.3f} s"))
        open_for_more = [running for running in self._workers.values() if not running.closing]
        for running in open_for_more:
            self._look(running, now)
        until = self._join_on_time(open_for_more, now)
        # While nothing runs a late one is tried even so: a model that was slow once must be measured again.
        if not self._queues.lanes and not (self._shed_late and self._on):
            self._join_late(open_for_more, now)
        if self._shed_late:
            for request in list(self._queues.late.values()):
                effects += self._end(request, _NO_TIME)
        if not self._queues:
            self._join_best_effort(open_for_more, now)
        for running in open_for_more:
            effects += self._joins(running, now)
        until = min(until, self._queues.next_expiry())
        return effects if until == inf else [*effects, WakeAt(until)]

    @property
    def _soonest(self) -> float:
        """Seconds from a join of an idle worker to its first piece, with the reserve."""
        return self.start.predict(1) + self.step.predict(1) + self._reserve

    def _begin(self, running: _Running, now: float) -> None:
        """Note that an iteration of a worker begins with all of its streams."""
        streams = running.streams.values()
        starts = sum(not stream.begun for stream in streams)
        seconds = self.start.predict(starts) if starts else 0.0
        running.ends = now + seconds + self.step.predict(len(streams))
        for stream in streams:
            stream.begun = True

    def _look(self, running: _Running, now: float) -> None:
        """Find out what a worker could take in this ``tick``, after those that it has taken."""
        streams = running.streams.values()
        starts = sum(not stream.begun for stream in streams)
        running.starts = starts
        running.limit = min((stream.due for stream in streams if not stream.late), default=inf)
        running.interval = min((stream.interval for stream in streams), default=inf)
        begins = now if running.idle else max(now, running.ends)
        seconds = self.start.predict(starts + 1) + self.step.predict(len(streams) + 1)
        running.next_ends = begins + seconds + self._reserve

    def _may_take(self, running: _Running, interval: float) -> bool:
        """Return whether one more stream of ``interval`` breaks no due time of the worker's streams."""
        if not running.streams:
            return running.idle
        if (self._closed and not running.idle) or running.next_ends > running.limit:
            return False
        if running.starts >= self.start.ceiling:
            return False
        return len(running.streams) < self.step.largest_within(min(running.interval, interval))

    def _join_on_time(self, workers: Sequence[_Running], now: float) -> float:
        """Let requests on time join, by deadline; return when the next one is late by prediction."""
        for lane in list(self._queues.lanes.values()):
            while lane.deadlines and lane.deadlines[0] - self._soonest <= now:
                self._queues.go_late(lane, 1)
            passed_over = 0
            for request in list(lane.on_time):
                if passed_over == SEARCHED or not any(self._may_take(running, inf) for running in workers):
                    break
                if self._join(workers, request, now):
                    self._queues.serve(lane, [request], None)
                else:
                    passed_over += 1
        return min((lane.deadlines[0] - self._soonest for lane in self._queues.lanes.values()), default=inf)

    def _join_late(self, workers: Sequence[_Running], now: float) -> None:
        """Let late requests join, the one first that has been late longest."""
        for request in list(self._queues.late.values()):
            if self._join(workers, request, now, late=True):
                self._queues.late.pop(request.id)
            elif request.id not in self._retried:
                return

    def _join_best_effort(self, workers: Sequence[_Running], now: float) -> None:
        """Let requests of best effort join while at most half of the places of a worker are taken.

        They are never preempted, and a burst of others would wait for their ends.
        """
        most = self.step.largest_within(self._tightest.interval) // 2
        waiting = self._queues.best_effort
        while waiting:
            request = next(iter(waiting.values()))
            if not self._join([running for running in workers if len(running.streams) < most], request, now):
                return
            del waiting[request.id]

    def _join(self, workers: Sequence[_Running], request: Request, now: float, *, late: bool = False) -> bool:
        """Let ``request`` join the worker with the most slack left; return whether one may take it."""
        interval = self._targets[request.slo_class].interval
        due = inf if late else request.deadline
        most = max(1, self._retried.get(request.id, inf))
        fits = [
            running
            for running in workers
            if running.next_ends <= due and len(running.streams) < most and self._may_take(running, interval)
        ]
        best = max(fits, key=lambda running: min(running.limit, due) - running.next_ends, default=None)
        if best is None:
            return False
        stream = _Stream(request, interval, best.worker, late=late)
        self._on[request.id] = best.streams[request.id] = stream
        self._look(best, now)
        request.attempts += 1
        return True

    def _joins(self, running: _Running, now: float) -> list[Effect]:
        """Return the joins of a worker. An idle one begins at once."""
        effects: list[Effect] = []
        joined = [stream for stream in running.streams.values() if stream.batch is None]
        usual = DispatchReason.IDLE if running.idle else DispatchReason.JOIN
        for late, reason in ((False, usual), (True, DispatchReason.LATE)):
            if streams := [stream for stream in joined if stream.late is late]:
                batch = Batch(tuple(stream.request for stream in streams), reason, now)
                for stream in streams:
                    stream.batch, stream.request.place = batch, RUNNING
                effects.append(Join(running.worker, batch))
        if running.idle and joined:
            running.idle = False
            self._begin(running, now)
        return effects

    def _put_out(self, stream: _Stream, output: Output, now: float) -> list[Effect]:
        """Send the piece of a stream, or end it."""
        request, reply, batch = stream.request, output.reply, stream.batch
        stream.steps += 1
        if reply is not None and reply.failed:
            return self._again_or_end(
                stream, reply, again=output.out_of_memory and request.id in self._retried
            )
        effects: list[Effect] = []
        if (beside := self._retried.pop(request.id, None)) is not None:
            effects += self._lower(self.step, beside + 1, passed=self._workers[stream.worker].begun)
        if reply is not None:
            stream.late |= now > request.deadline + stream.sent * stream.interval
            stream.sent += 1
        if output.done:
            if not request.best_effort:
                self._lengths.append(stream.steps if stream.sent else 0)
            self._remove(request)
        elif reply is None:
            return effects
        assert batch is not None, "set by the join"  # noqa: S101 - for the type checker
        return [*effects, Piece(request, reply, output.done, batch)]

    def _again_or_end(
        self, stream: _Stream, outcome: Reply | WatchdogError, *, again: bool = True
    ) -> list[Effect]:
        """Start a stream whose state is lost once more, if its client has got nothing; else end it."""
        if stream.sent or not again or stream.request.attempts >= TUNING.stream_tries:
            self._remove(stream.request)
            return [Answer(stream.request, outcome, stream.batch)]
        self._take_off(stream.request)
        self._queues.add(stream.request, self._pool)
        return []

    def _lower(self, model: LatencyModel, size: int, passed: int = 0) -> list[Effect]:
        """Lower a ceiling, since ``size`` ran out of memory and ``passed`` or half of them did not."""
        # Above it are streams that ran before it fell.
        if not max(1, passed) < size <= model.ceiling:
            return []
        return [Lowered(size, model.out_of_memory(2 * max(passed, size // 2)))]

    def _end(self, request: Request, outcome: WatchdogError) -> list[Effect]:
        """Answer an admitted request, and remove it."""
        batch = self._on[request.id].batch if request.id in self._on else None
        return [Answer(request, outcome, batch), *self._leave(request)]

    def _leave(self, request: Request) -> list[Effect]:
        """Remove an admitted request, and tell its worker if it has one."""
        stream = self._remove(request)
        return [] if stream is None else [Leave(stream.worker, [request.id])]

    def _remove(self, request: Request) -> _Stream | None:
        """Remove an admitted request; return its stream if it was on a worker."""
        stream = self._take_off(request)
        self._retried.pop(request.id, None)
        self._queues.leave(request)
        return stream

    def _take_off(self, request: Request) -> _Stream | None:
        """Take the stream of a request off its worker, and return it, if it has one."""
        stream = self._on.pop(request.id, None)
        if stream is not None:
            del self._workers[stream.worker].streams[request.id]
        return stream

    def _queue_full(self, *, displaced: bool = False, best_effort: bool = False) -> QueueFull:
        """Return the error for a request without room; Retry-After is the time to serve half of the queue.

        ``best_effort``: it waits behind all others.
        """
        pieces = fmean(self._lengths or (0,))
        seconds = pieces * self.step.predict_mean(self.running / self._count) / max(1, self.running)
        ahead = self.queued + best_effort * len(self._queues.best_effort)
        retry_after = round(ahead * seconds / 2)
        return QueueFull(self._queues.most, max(1, min(60, retry_after)), displaced=displaced)


_DIED: Final = WorkerDied("the worker died under this stream")
_NO_TIME: Final = PredictedLate("its first piece can no longer be sent within its latency budget")
