"""The state machine of requests: events in, effects out. [P]

Owns every admitted request from ``offer`` to its ``Answer``, and the set of idle workers. ``policy`` decides
about batches. Server, simulator and tests drive the same code; ``shell`` executes the effects. Times are
seconds on any monotonic clock.

Invariants: every admitted request leaves exactly once, by an ``Answer`` or by ``abandon``; at most
``max_inflight`` are admitted; a worker runs one batch and has at most one more, sent shortly before the end
of the first; after ``tick`` no worker is idle while a request waits that it may serve, unless the policy
waits.
"""

from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator, Sequence
from heapq import heapify, heappop, heappush
from itertools import islice
from math import exp, inf, isqrt
from typing import Final

from batching_watchdog.engine.cost import Cost, Shared
from batching_watchdog.engine.effects import Answer, Dispatch, Effect, WakeAt, Worker
from batching_watchdog.engine.lanes import Lane
from batching_watchdog.engine.latency import LEAST
from batching_watchdog.engine.policy import AGE, BatchingPolicy, Late, Situation, Take, Wait
from batching_watchdog.engine.prefetch import Prefetch
from batching_watchdog.errors import Expired, PredictedLate, QueueFull, WatchdogError, WorkerDied
from batching_watchdog.messages import DROPPED, PROBE, Batch, DispatchReason, Reply, Request

PROBE_SINGLE_EVERY: Final = 8
"""One in this many batches of late requests has a single request while, by the learned times, none can be on
time: large batches do not show the time of a small one."""

REFUSAL_SECONDS: Final = 0.25
"""Seconds for which one error object serves all requests refused at the header: creating one costs as much as
reading the request."""
MAX_LANES: Final = 64
"""Maximum lanes in one choice. A served lane moves behind the others, so all have a turn."""

NEWEST_FIRST: Final = 0.5
"""Share of the clients' patience after which the newest late requests go first. A queue takes about as long
to drain as its head has waited, and by then the head's client has left."""
GIVEN_UP: Final = 0.1
"""Weight of each client that gives up in the mean of their waiting times."""

PATIENCE: Final = 1.0
"""Seconds after which a late or suspect request goes before those on time, if these stay on time."""

MISSING: Final = 0.25
"""Share of the workers that may be dead when a part of a lost batch is tried, unless none is, if a part has
killed its worker lately. With both of two workers dead for 0.3 s, 11% of the requests were late instead of
0.3%. Otherwise parts do not wait: a worker that is killed from outside costs them nothing then."""
LATELY: Final = 600.0
"""Seconds for which such a part is remembered."""

ADMIT: Final = 1.5
"""Multiple of what can be served before a request's slot from which it is predicted to be late. A wrongly
refused request is lost, and the policy finds a wrongly admitted one to be late; 1 lost 8% of the goodput at
four times the capacity."""

OVERLOAD: Final = 0.05
"""Share of the requests that go late from which only throughput counts."""
OVERLOAD_BUDGETS: Final = 4.0
"""Latency budgets over which that share is measured."""
OVERLOAD_LEAST: Final = 2.0
"""Requests above that share that must have gone late: one or two show no overload."""

# Where a request is: plain numbers, since an Enum's hash is Python code and places change with every request.
_ON_TIME: Final = 0
_LATE: Final = 1
_SUSPECT: Final = 2
_RUNNING: Final = 3
_GONE: Final = 4


class Engine:
    """The queue in front of the workers. Every method is synchronous and receives the time."""

    def __init__(
        self,
        policy: BatchingPolicy,
        cost: Cost,
        *,
        max_inflight: int,
        workers: int,
        shed_late: bool = False,
        lead: float = 0.0,
        cpus: float = inf,
    ) -> None:
        """``lead`` and ``cpus``: see ``Prefetch``."""
        self._policy = policy
        self._cost = cost
        self._max_inflight = max_inflight
        self._workers = max(1, workers)
        self._shed_late = shed_late
        self._idle: list[Worker] = []
        self._running: dict[Worker, Batch] = {}
        self._prefetch = Prefetch(self._workers, lead, cpus)
        self._nearly_idle = 0
        """Busy workers that may get their next batch now, by the last ``tick``."""
        self._admitted: dict[int, Request] = {}
        self._expiries: list[tuple[float, int]] = []
        """Heap of (expiry, id). Entries of requests that have left are dropped when first or many."""
        self._lanes: dict[Shared, Lane] = {}
        """Lanes with waiting requests. Clients choose the pools, so empty lanes are removed."""
        self._active: dict[Shared, Lane] = {}
        """Lanes with requests on time, the last served one at the end."""
        self._late: OrderedDict[int, Request] = OrderedDict()
        """All late requests in the order in which they became late."""
        self._suspects: deque[tuple[Request, ...]] = deque()
        """Parts of batches whose worker died, by deadline."""
        self._suspect_out: Worker | None = None
        """The one worker that may run suspects now."""
        self._killed_at = -inf
        """When the last part that killed its worker was sent."""
        self._counts = [0, 0, 0, 0]
        self._late_batches = 0
        self._clients_wait = inf
        """Mean seconds after which the clients of late requests gave up."""
        self._refusal: QueueFull | None = None
        self._refused_at = 0.0
        self._went_late = self._went_on_time = 0.0
        """Recent requests that went late, and that left in batches on time."""
        self._left_at = self._late_at = 0.0
        """Times when the last batch on time left, and the last request went late."""

    def __repr__(self) -> str:
        on_time, late, suspect, running = self._counts
        return (
            f"<Engine {on_time} on time, {late} late, {suspect} suspect in {len(self._lanes)} lanes;"
            f" {running} running on {len(self._running)} workers, {len(self._idle)} idle>"
        )

    @property
    def admitted(self) -> int:
        """Number of queued and running requests."""
        return len(self._admitted)

    @property
    def queued(self) -> int:
        """Number of requests that wait for a worker."""
        return len(self._admitted) - self._counts[_RUNNING]

    @property
    def idle(self) -> int:
        """Number of workers that wait for a batch."""
        return len(self._idle)

    @property
    def suspects(self) -> int:
        """Number of requests that wait for a retry."""
        return self._counts[_SUSPECT]

    @property
    def at_limit(self) -> bool:
        """Whether ``max_inflight`` requests are admitted: one more must replace a late one."""
        return len(self._admitted) >= self._max_inflight

    @property
    def full(self) -> bool:
        """Whether ``offer`` would refuse even requests that can be on time."""
        return self.at_limit and not self._counts[_LATE]

    @property
    def eager(self) -> bool:
        """Whether an offered request may need a ``tick`` before the next event."""
        return bool(self._idle) or self._shed_late or self._nearly_idle > 0

    def refusal(self, slot: float, now: float) -> WatchdogError | None:
        """Return the error that refuses a request at its header, before its body is read, or None.

        None while a worker is idle and there is room, regardless of the learned times: a model that was slow
        once must be measured again.
        """
        if self.at_limit:
            if not self.full and not self.predicts_late(slot, now):
                return None  # it replaces a late one
            if self._refusal is None or now - self._refused_at > REFUSAL_SECONDS:
                self._refused_at, self._refusal = now, self._queue_full()
            return self._refusal
        if self._shed_late and not self._idle and self.predicts_late(slot, now):
            return _TOO_LONG
        return None

    def predicts_late(self, slot: float, now: float) -> bool:
        """Return whether a request that arrives now would probably be answered after ``slot``.

        Counts requests with earlier slots, of every cost class.
        """
        if not self._policy.by_deadline:
            return False
        if slot <= now:
            return True
        return sum(lane.share_before(slot, now, self._workers) for lane in self._choice()) > ADMIT

    def offer(self, request: Request, now: float) -> Sequence[Effect]:
        """Admit ``request``; ``tick`` cuts batches, once for all simultaneous requests.

        At ``max_inflight``, a request that can be on time replaces the one that has been late longest: that
        one has missed its SLO, and its client is the least likely to be waiting. Raises ``QueueFull`` without
        a late one, or if ``request`` itself has no time left.
        """
        effects: Sequence[Effect] = ()
        if len(self._admitted) >= self._max_inflight:
            late_already = request.slot <= request.arrived or request.cost_class is PROBE
            if late_already or not self._counts[_LATE]:
                raise self._queue_full()
            displaced = next(iter(self._late.values()))
            self._leave(displaced)
            effects = (Answer(displaced, self._queue_full(displaced=True)),)
        self._admitted[request.id] = request
        heappush(self._expiries, (request.expires, request.id))
        if len(self._expiries) > 64 + 2 * len(self._admitted):
            self._expiries = [each for each in self._expiries if each[1] in self._admitted]
            heapify(self._expiries)
        self._queue(request, now)
        return effects

    def worker_ready(self, worker: Worker) -> None:
        """Mark a worker as idle, after loading or after ``batch_done``."""
        if worker not in self._running:  # else it continues with its prefetched batch
            self._idle.append(worker)

    def worker_gone(self, worker: Worker) -> None:
        """Remove an idle worker that has ended."""
        if worker in self._idle:
            self._idle.remove(worker)

    def batch_done(
        self,
        worker: Worker,
        replies: Sequence[Reply],
        now: float,
        *,
        cpu_seconds: float = 0.0,
        last: bool = False,
        learns: bool = True,
    ) -> tuple[Batch, list[Effect]]:
        """Learn from a finished batch, and answer its requests; return the batch with the effects.

        ``cpu_seconds``: its CPU time, 0 if unknown. ``last``: the worker must get no further batch.
        ``learns``: whether its time shows the cost of serving.
        """
        batch = self._running.pop(worker)
        if worker is self._suspect_out:
            self._suspect_out = None
        if cpu_seconds and now > batch.dispatched:
            self._prefetch.observe(cpu_seconds / (now - batch.dispatched))
        ran: Sequence[Request] = _work_done(batch, replies) if learns else ()
        if ran:
            self._cost.learn(ran, now - batch.dispatched)
            self._policy.observe(len(ran), now - batch.dispatched)
        prefetched = self._prefetch.batches.pop(worker, None)
        if prefetched is not None:
            prefetched.dispatched = now
            if last:
                prefetched.seconds = inf
            self._running[worker] = prefetched
        admitted, counts = self._admitted, self._counts
        effects: list[Effect] = []
        for request, reply in zip(batch.requests, replies, strict=True):
            if request.place == _RUNNING:  # else it has expired, or its client has left
                request.place = _GONE
                del admitted[request.id]
                counts[_RUNNING] -= 1
                effects.append(Answer(request, reply, batch))
        return batch, effects

    def learn_any(self, size: int, seconds: float) -> None:
        """Learn from a batch of ``size`` representative requests that took a worker ``seconds``."""
        self._cost.learn_any(size, seconds)
        self._policy.observe(size, seconds)

    def worker_lost(self, worker: Worker) -> list[Effect]:
        """Handle the death of a worker: retry its running batch in parts.

        A batch of n is retried in about sqrt(n) parts, and so is each part: a request that kills its worker
        kills three workers, four from a batch of 16 or more, five from one of 256. A request that was alone
        fails. A batch that the worker had not begun is no suspect: its requests wait
        as before.
        """
        self.worker_gone(worker)
        self._take_back(self._prefetch.batches.pop(worker, None))
        batch = self._running.pop(worker, None)
        if worker is self._suspect_out:
            self._suspect_out = None
        if batch is None:
            return []
        if batch.reason is DispatchReason.RETRY:
            self._killed_at = batch.dispatched
        left = [request for request in batch.requests if request.place == _RUNNING]
        if len(left) == 1 and left[0].attempts > 1:
            self._leave(left[0])
            died = "the worker died under this request, and again when it was tried alone"
            return [Answer(left[0], WorkerDied(died), batch)]
        part = max(1, isqrt(len(left)))
        for request in left:
            request.place = _SUSPECT
        self._counts[_RUNNING] -= len(left)
        self._counts[_SUSPECT] += len(left)
        parts = [tuple(left[start : start + part]) for start in range(0, len(left), part)]
        self._suspects = deque(sorted([*self._suspects, *parts], key=lambda part: part[0].slot))
        return []

    def abandon(self, request: Request, now: float) -> list[Effect]:
        """Remove a request whose client has left; a batch that has begun continues."""
        if request.place != _GONE:
            self._leave(request)
            if now > request.slot:
                waited = now - request.arrived
                known = waited if self._clients_wait == inf else self._clients_wait
                self._clients_wait = known + GIVEN_UP * (waited - known)
        return [*self._prefetch.cancels()]

    def give_up(self, error: WatchdogError) -> list[Effect]:
        """Answer every admitted request with ``error``; batches under way continue."""
        requests = list(self._admitted.values())
        for request in requests:
            self._leave(request)
        return [*self._prefetch.cancels(), *(Answer(request, error) for request in requests)]

    def tick(self, now: float) -> list[Effect]:
        """Answer expired requests, then dispatch batches to idle workers; return the effects."""
        effects: list[Effect] = [
            Answer(request, Expired(f"not answered within {now - request.arrived:.3f} s"))
            for request in self._expired(now)
        ]
        if effects:
            effects += self._prefetch.cancels()
        ends = self._next_expiry()
        due = self._prefetch.due(self._running, now)
        if due:
            self._idle = due[::-1] + self._idle  # after the idle ones: the last is next
        while self._idle or self._shed_late:
            step = self._next_step(self._starts(now), effects)
            if isinstance(step, Wait):
                ends = min(ends, step.until)
            if step is not True:
                break
        self._nearly_idle = 0
        if due:
            free = [worker for worker in self._idle if worker not in self._running]
            self._nearly_idle = len(self._idle) - len(free)
            self._idle = free
        ends = min(ends, self._prefetch.next_due(self._running, now))  # of what has just been sent too
        if ends != inf:
            effects.append(WakeAt(ends))
        return effects

    def _next_step(self, now: float, effects: list[Effect]) -> bool | Wait:
        """Do one more step; return True after a step, else False or the time to wait for.

        ``now`` is the time when the next worker begins.
        """
        if self._idle and self._suspects and (taken := self._take_suspects(now, effects)):
            return taken
        if self._idle and self._counts[_LATE] and self._serve_patient(now, effects):
            return True
        step = self._serve_on_time(now, effects) if self._counts[_ON_TIME] else False
        if step is not True and self._counts[_LATE] and self._serve_late(now, effects):
            return True
        return step

    def _serve_on_time(self, now: float, effects: list[Effect]) -> bool | Wait:
        ends = (batch.dispatched + batch.seconds for batch in self._running.values())
        following = max(now, min(ends, default=inf))
        situation = Situation(now, self._workers, self._overloaded, following)
        answer = self._policy.choose(self._choice(), situation)
        if isinstance(answer, Wait):
            return answer
        if isinstance(answer, Late):
            self._go_late(answer.lane, answer.number, now)
        elif not self._idle:
            # Checked again when its deadline passes with every worker busy: it may be shed then.
            return Wait(answer.lane.keys[0])
        else:
            self._dispatch_on_time(answer, now, effects)
        return True

    def _take_suspects(self, now: float, effects: list[Effect]) -> bool | Wait:
        """Give one idle worker at a time a part of a lost batch, in order of deadline.

        A part may kill its worker, so it is not sent early: its worker ends the running batch first. And
        enough others must be alive (``MISSING``).
        """
        if self._suspect_out is not None:
            return False
        if now < self._killed_at + LATELY:
            missing = self._workers - len({*self._idle, *self._running})
            if missing >= MISSING * self._workers:
                return False
        while self._suspects:
            part = [request for request in self._suspects[0] if request.place == _SUSPECT]
            if not part:
                self._suspects.popleft()
                continue
            on_time = [lane.keys[0] for lane in self._choice()]
            late = part[0].slot <= now
            seconds = self._cost.overall.predict(len(part))
            if on_time and (late or part[0].slot > min(on_time)) and seconds >= self._spare(part[0], now):
                return False
            if self._idle[-1] in self._running:
                return Wait(inf)
            self._suspects.popleft()
            self._suspect_out = self._idle[-1]
            self._dispatch(part, DispatchReason.RETRY, None, now, effects)
            return True
        return False

    def _dispatch_on_time(self, take: Take, now: float, effects: list[Effect]) -> None:
        lane = take.lane
        self._count_on_time(take.size, lane.on_time[take.start], now)
        waiting = islice(lane.on_time, take.start, None)
        alone = self._cost.alone(lane.pool, waiting, take.size)
        taken = lane.take(take.size, alone, take.start)
        lane.served = now
        if lane.overdue_at:
            for request in taken:
                lane.overdue_at.pop(request.slo_class, None)
        del self._active[lane.pool]
        if lane.on_time:
            self._active[lane.pool] = lane
        if alone is None and lane.late and not self._shed_late and self._counts[_ON_TIME] == len(taken):
            taken += self._backfill(lane, taken[0], len(taken), now)
        self._dispatch(taken, DispatchReason.ALONE if alone else take.reason, lane, now, effects)
        self._end(lane)

    def _count_on_time(self, size: int, head: Request, now: float) -> None:
        span = OVERLOAD_BUDGETS * max(head.slot - head.arrived, LEAST)
        keep = exp((self._left_at - now) / span)
        self._went_late *= keep if now - self._late_at <= span else 0.0
        self._went_on_time = self._went_on_time * keep + size
        self._left_at = now

    @property
    def _overloaded(self) -> bool:
        """Whether so many requests go late that only throughput counts."""
        recent = self._went_late + self._went_on_time
        return self._went_late > OVERLOAD * recent + OVERLOAD_LEAST

    def _backfill(self, lane: Lane, head: Request, size: int, now: float) -> list[Request]:
        """Return late requests for the free room of a batch that already holds all requests on time.

        Most of a batch's cost does not depend on its size. Without backfill, small batches of requests on
        time would take all of the workers' time under a moderate load, and late requests would wait until it
        ends.
        """
        if self._overloaded:
            return []
        # The limit of a batch of only late requests applies, and requests on time must stay on time.
        span = min(head.slot - now, (head.slot - head.arrived) / 2)
        room = min(lane.model.best_size, lane.model.largest_within(span)) - size
        return list(islice(self._late_of(lane, now), max(0, room)))

    def _serve_late(self, now: float, effects: list[Effect]) -> bool:
        """Dispatch a batch of late requests if no request on time needs the worker, or shed them all."""
        free = bool(self._idle) and not self._counts[_ON_TIME]
        if self._shed_late:
            self._shed(now, effects, one_stays=free)
        if not free or not self._late:
            return self._shed_late
        head = next(self._in_turn(now))
        size = self._late_size(head.lane, (head.slot - head.arrived) / 2)
        return self._dispatch_late(head.lane, size, now, effects)

    def _shed(self, now: float, effects: list[Effect], *, one_stays: bool) -> None:
        """Answer all late requests with ``PredictedLate``.

        With ``one_stays`` an idle worker takes the latest one, alone, if it is late only by prediction: the
        try costs nothing, and otherwise a model that was slow once would never be measured again.
        """
        shed = list(self._late.values())
        if one_stays and shed[-1].slot > now:
            shed.pop()
        for request in shed:
            self._leave(request)
            effects.append(Answer(request, _NO_TIME))

    def _serve_patient(self, now: float, effects: list[Effect]) -> bool:
        """Give an idle worker late requests that have waited for ``PATIENCE``, if there is spare time."""
        if self._shed_late or not self._counts[_ON_TIME]:
            return False
        spare = self._spare(next(iter(self._late.values())), now)
        lane = next(self._in_turn(now)).lane
        size = min(lane.model.best_size, lane.model.largest_within(spare))
        return self._dispatch_late(lane, size, now, effects)

    def _dispatch_late(self, lane: Lane, size: int, now: float, effects: list[Effect]) -> bool:
        """Dispatch up to ``size`` late requests of ``lane``; return whether there was room for any."""
        if not size:
            return False
        taken = list(islice(self._late_of(lane, now), size))
        alone = self._cost.alone(lane.pool, taken, len(taken))
        if alone:
            same = (each for each in self._late_of(lane, now) if each.cost_class == alone)
            taken = list(islice(same, len(taken)))
        self._dispatch(taken, DispatchReason.ALONE if alone else DispatchReason.LATE, lane, now, effects)
        self._end(lane)
        return True

    def _late_of(self, lane: Lane, now: float) -> Iterable[Request]:
        """Return the late requests of ``lane`` in the order in which they go."""
        return (each for each in self._in_turn(now) if each.lane is lane)

    def _in_turn(self, now: float) -> Iterator[Request]:
        """Return all late requests in the order in which they go."""
        late = self._late.values()
        return reversed(late) if self._newest_first(now) else iter(late)

    def _newest_first(self, now: float) -> bool:
        """Return whether late requests go newest first, because the oldest clients are about to give up.

        In order of arrival each would be served just before its client leaves, and most answers would come
        too late (adaptive LIFO: Maurer, Fail at Scale, ACM Queue 13:8, 2015).
        """
        head = next(iter(self._late.values()), None)
        if head is None:
            return False
        return now - head.arrived > NEWEST_FIRST * min(head.expires - head.arrived, self._clients_wait)

    def _spare(self, waiting: Request, now: float) -> float:
        """Return the seconds that a request which has waited for long may take before those on time.

        Otherwise small batches of other lanes would take all of the workers' time under a moderate load, and
        late or suspect requests would wait until it ends. Under overload they do.
        """
        if now - waiting.arrived < PATIENCE or self._overloaded:
            return 0.0
        if not self._policy.by_deadline:
            return inf
        slack = inf
        for lane in self._choice():
            seconds = lane.model.predict(min(len(lane.keys), lane.model.best_size))
            slack = min(slack, lane.keys[0] - now - seconds)
        return slack

    def _late_size(self, lane: Lane, span: float) -> int:
        """Return the size of a batch of late requests that leaves ``span`` seconds to new arrivals.

        If by the learned times no request can be on time, use the size with the best throughput. After a
        stall of the machine these times may be wrong, and large batches do not show the time of a small one.
        So one in ``PROBE_SINGLE_EVERY`` batches holds a single request.
        """
        best = lane.model.best_size
        fits = lane.model.largest_within(span)
        if fits:
            return min(fits, best)
        self._late_batches += 1
        return best if self._late_batches % PROBE_SINGLE_EVERY else 1

    def _dispatch(
        self,
        requests: list[Request],
        reason: DispatchReason,
        lane: Lane | None,
        now: float,
        effects: list[Effect],
    ) -> None:
        counts = self._counts
        for request in requests:
            counts[request.place] -= 1
            if request.place == _LATE:
                del self._late[request.id]
                request.lane.late -= 1
            request.place = _RUNNING
            request.attempts += 1
        counts[_RUNNING] += len(requests)
        # The worker that became idle last has the warmest caches.
        worker = self._idle.pop()
        seconds = 0.0 if lane is None else lane.model.predict_mean(len(requests))
        batch = Batch(tuple(requests), reason, now, seconds or inf)
        to = self._prefetch.batches if worker in self._running else self._running
        to[worker] = batch
        effects.append(Dispatch(worker, batch))

    def _go_late(self, lane: Lane, count: int, now: float) -> None:
        gone = lane.take(count)
        for request in gone:
            lane.overdue_at.setdefault(request.slo_class, now + AGE * (request.slot - request.arrived))
            request.place = _LATE
            self._late[request.id] = request
        lane.late += count
        self._went_late += count
        self._late_at = now
        if not lane.on_time:
            del self._active[lane.pool]
        self._counts[_ON_TIME] -= count
        self._counts[_LATE] += count

    def _end(self, lane: Lane) -> None:
        if not lane.on_time and not lane.late:
            self._lanes.pop(lane.pool, None)

    def _leave(self, request: Request) -> None:
        """Remove an admitted request."""
        place, request.place = request.place, _GONE
        request.header_block = request.body = b""  # its batch may run on for long, and needs them no more
        del self._admitted[request.id]
        self._counts[place] -= 1
        if place == _ON_TIME:
            lane = request.lane
            lane.remove(request, self._key(request))
            if not lane.on_time:
                del self._active[lane.pool]
            self._end(lane)
        elif place == _LATE:
            del self._late[request.id]
            request.lane.late -= 1
            self._end(request.lane)
        elif place == _RUNNING:
            self._prefetch.leave(request)

    def _starts(self, now: float) -> float:
        """Return the time at which the next worker will begin its batch."""
        busy = self._running.get(self._idle[-1]) if self._idle else None
        return now if busy is None else max(now, busy.dispatched + busy.seconds)

    def _queue(self, request: Request, now: float) -> None:
        """Queue an admitted request as on time; the policy detects whether it is late."""
        request.place = _ON_TIME
        self._counts[_ON_TIME] += 1
        pool = self._cost.pool(request.cost_class)
        lane = self._lanes.get(pool)
        if lane is None:
            lane = self._lanes[pool] = Lane(pool, now)
        if not lane.on_time:
            lane.served = now
            self._active[pool] = lane
        request.lane = lane
        lane.add(request, self._key(request))

    def _take_back(self, batch: Batch | None) -> None:
        """Queue the requests of a prefetched batch again: they have not run."""
        for request in () if batch is None else batch.requests:
            if request.place == _RUNNING:
                self._counts[_RUNNING] -= 1
                request.attempts -= 1
                self._queue(request, request.arrived)

    def _key(self, request: Request) -> float:
        return request.slot if self._policy.by_deadline else request.arrived

    def _choice(self) -> list[Lane]:
        return list(islice(self._active.values(), MAX_LANES))

    def _queue_full(self, *, displaced: bool = False) -> QueueFull:
        """Return the error for a request without room; Retry-After is the time to drain half of the queue.

        ``displaced``: the request was admitted, and is replaced by one that can be on time.
        """
        model = self._cost.overall
        size = model.best_size
        per_second = self._workers * size / max(model.predict_mean(size), 1e-6)
        retry_after = max(1, min(60, round(self.queued / per_second / 2)))
        return QueueFull(self._max_inflight, retry_after, displaced=displaced)

    def _next_expiry(self) -> float:
        while self._expiries and self._expiries[0][1] not in self._admitted:
            heappop(self._expiries)
        return self._expiries[0][0] if self._expiries else inf

    def _expired(self, now: float) -> Iterable[Request]:
        while self._next_expiry() <= now:
            request = self._admitted[self._expiries[0][1]]
            self._leave(request)
            yield request


def _work_done(batch: Batch, replies: Sequence[Reply]) -> Sequence[Request]:
    """Return the requests of a batch whose time shows the cost of serving; none if it does not.

    It does if at least half of the run requests were served, and no worker died of it.
    """
    if batch.reason is DispatchReason.RETRY or batch.requests[0].cost_class is PROBE:
        return ()
    ran: Sequence[Request] = batch.requests
    if DROPPED in replies:
        ran = [each for each, reply in zip(ran, replies, strict=True) if reply is not DROPPED]
    served = sum(reply.status < 400 for reply in replies) - (len(replies) - len(ran))
    return ran if 2 * served >= len(ran) else ()


_NO_TIME: Final = PredictedLate("it can no longer be answered within its latency budget")
_TOO_LONG: Final = PredictedLate("the queue is too long for it to be answered within its latency budget")
