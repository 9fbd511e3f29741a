"""The state machine of requests: events in, effects out. [P]

Owns every admitted request from ``offer`` to its ``Answer``, and the set of idle workers. ``policy`` decides
about batches. Server, simulator and tests drive the same code; ``shell`` executes the effects. Times are
seconds on any monotonic clock.

Invariants: every admitted request leaves exactly once, by an ``Answer`` or by ``abandon``; at most
``max_inflight`` are admitted; a worker runs one batch and has at most one more, sent shortly before the end
of the first; after ``tick`` no worker is idle while a request waits that it may serve, unless the policy
waits.
"""

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from heapq import heapify, heappop, heappush
from itertools import islice
from math import exp, inf
from typing import Final

from batching_watchdog.engine.cost import Cost, Shared
from batching_watchdog.engine.effects import Answer, Check, Dispatch, Effect, Lowered, WakeAt, Worker
from batching_watchdog.engine.lanes import Lane
from batching_watchdog.engine.latency import LEAST
from batching_watchdog.engine.policy import BatchingPolicy, Late, Situation, Take, Wait
from batching_watchdog.engine.prefetch import Prefetch
from batching_watchdog.engine.retries import SUSPECT, Part, Suspects
from batching_watchdog.engine.tuning import TUNING
from batching_watchdog.errors import Expired, PredictedLate, QueueFull, WatchdogError, WorkerDied
from batching_watchdog.messages import DROPPED, PROBE, Batch, Crash, DispatchReason, Reply, Request

REFUSAL_SECONDS: Final = 0.25
"""Seconds for which one error object serves all requests refused at the header: creating one costs as much as
reading the request."""
MAX_LANES: Final = 64
"""Maximum lanes in one choice. A served lane moves behind the others, so all have a turn."""

# Where a request is: plain numbers, since an Enum's hash is Python code and places change with every request.
_GONE: Final = 0
_ON_TIME: Final = 1
_LATE: Final = 3
_RUNNING: Final = 4


class Engine:
    """The queue in front of the workers. Every method is synchronous and receives the time."""

    def __init__(
        self,
        policy: BatchingPolicy,
        cost: Cost,
        *,
        max_inflight: int,
        workers: int,
        max_batch_bytes: float = inf,
        shed_late: bool = False,
        lead: float = 0.0,
        cpus: float = inf,
    ) -> None:
        """``max_batch_bytes``: of the bodies of one batch, unless it has one request.

        ``lead`` and ``cpus``: see ``Prefetch``.
        """
        self._max_batch_bytes = max_batch_bytes
        self._policy = policy
        self._cost = cost
        self._max_inflight = max_inflight
        self._workers = max(1, workers)
        self._shed_late = shed_late
        self._idle: list[Worker] = []
        """The last one is next."""
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
        self._suspects = Suspects()
        self._killed_at = -inf
        """When the last part that killed its worker was sent."""
        self._failed_alone = 0
        """Requests in a row that failed alone, while no batch succeeded."""
        self._failed_in_a_row = 0
        """Batches that failed whole since one succeeded."""
        self._failed: dict[Worker, int] = {}
        """Batches in a row that failed whole on a worker."""
        self._counts = [0, 0, 0, 0, 0]
        self._refusal: QueueFull | None = None
        self._refused_at = 0.0
        self._went_late = self._went_on_time = 0.0
        """Recent requests that went late, and that left in batches on time."""
        self._late_from = -inf
        """Time from which late requests may take time from those on time again."""
        self._left_at = self._late_at = 0.0
        """Times when the last batch on time left, and the last request went late."""

    def __repr__(self) -> str:
        _, on_time, suspect, late, running = self._counts
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
        return self._counts[SUSPECT]

    @property
    def at_limit(self) -> bool:
        """Whether ``max_inflight`` requests are admitted: one more must replace a late one."""
        return len(self._admitted) >= self._max_inflight

    @property
    def full(self) -> bool:
        """Whether ``offer`` would refuse even requests that can be on time."""
        return self.at_limit and not self._counts[_LATE] and self._suspects.first() is None

    @property
    def eager(self) -> bool:
        """Whether an offered request may need a ``tick`` before the next event."""
        return bool(self._idle) or self._shed_late or self._nearly_idle > 0

    def refusal(self, deadline: float, now: float) -> WatchdogError | None:
        """Return the error that refuses a request at its header, before its body is read, or None.

        None while a worker is idle and there is room, regardless of the learned times: a model that was slow
        once must be measured again.
        """
        if self.at_limit:
            if not self.full and not self.predicts_late(deadline, now):
                return None  # it replaces a late one
            if self._refusal is None or now - self._refused_at > REFUSAL_SECONDS:
                self._refused_at, self._refusal = now, self._queue_full()
            return self._refusal
        if self._shed_late and not self._idle and self.predicts_late(deadline, now):
            return _TOO_LONG
        return None

    def predicts_late(self, deadline: float, now: float) -> bool:
        """Return whether a request that arrives now would probably be answered after ``deadline``.

        Counts requests with earlier deadlines, of every cost class.
        """
        if not self._policy.by_deadline:
            return False
        if deadline <= now:
            return True
        ahead = sum(lane.share_before(deadline, now, self._workers) for lane in self._choice())
        return ahead > TUNING.admit

    def offer(self, request: Request, now: float) -> Sequence[Effect]:
        """Admit ``request``; ``tick`` cuts batches, once for all simultaneous requests.

        At ``max_inflight``, a request that can be on time replaces the one that has been late longest: that
        one has missed its SLO, and its client is the least likely to be waiting. Without a late one it
        replaces a suspect. Raises ``QueueFull`` without either, or if ``request`` itself has no time left.
        """
        effects: Sequence[Effect] = ()
        if len(self._admitted) >= self._max_inflight:
            late_already = request.deadline <= request.arrived or request.cost_class is PROBE
            displaced = next(iter(self._late.values()), None) or self._suspects.first()
            if late_already or displaced is None:
                raise self._queue_full()
            self._leave(displaced)
            effects = (Answer(displaced, self._queue_full(displaced=True)),)
        self._admitted[request.id] = request
        heappush(self._expiries, (request.expires, request.id))
        if len(self._expiries) > 64 + 2 * len(self._admitted):
            self._expiries = [entry for entry in self._expiries if entry[1] in self._admitted]
            heapify(self._expiries)
        self._queue(request, now)
        return effects

    def worker_ready(self, worker: Worker, *, checked: bool = False) -> list[Effect]:
        """Mark a worker as idle, after loading, after ``batch_done``, or ``checked``: after a ``Check``."""
        if worker in self._running:  # it continues with its prefetched batch
            return []
        failed = 0 if checked else self._failed.get(worker, 0)
        if failed >= TUNING.sick_after:
            return [Check(worker)]
        if failed:
            self._idle.insert(0, worker)  # the others first: one that fails at once is idle most often
        else:
            self._failed.pop(worker, None)
            self._idle.append(worker)
        return []

    def worker_gone(self, worker: Worker) -> None:
        """Remove an idle worker that has ended."""
        self._failed.pop(worker, None)
        if worker in self._idle:
            self._idle.remove(worker)

    def batch_done(
        self,
        worker: Worker,
        replies: Sequence[Reply],
        now: float,
        *,
        seconds: float | None = None,
        cpu_seconds: float = 0.0,
        last: bool = False,
    ) -> tuple[Batch, list[Effect]]:
        """Learn from a finished batch, and answer its requests; return the batch with the effects.

        ``seconds``: its time in the worker, None if unknown; ``cpu_seconds``: its CPU time, 0 if unknown.
        ``last``: the worker must get no further batch.
        """
        batch = self._end_running(worker, now, last=last)
        took = now - batch.dispatched if seconds is None else seconds
        if cpu_seconds and took > 0:
            self._prefetch.observe(cpu_seconds / took)
        if ran := _work_done(batch, replies):
            self._cost.learn(ran, took)
            self._policy.observe(len(ran), took)
        if all(reply is DROPPED for reply in replies):
            self._requeue(self._suspects.failed(worker))
        elif any(not reply.failed for reply in replies if reply is not DROPPED):
            self._failed_alone = self._failed_in_a_row = 0
            self._failed.pop(worker, None)
            self._suspects.passed(worker)
        else:
            self._failed_alone += 1
            self._count_failure(worker, batch)
            self._requeue(self._suspects.failed(worker))
        admitted, counts = self._admitted, self._counts
        effects: list[Effect] = []
        for request, reply in zip(batch.requests, replies, strict=True):
            if request.place == _RUNNING:  # else it has expired, or its client has left
                request.place = _GONE
                del admitted[request.id]
                counts[_RUNNING] -= 1
                effects.append(Answer(request, reply, batch))
        return batch, effects

    def batch_failed(
        self, worker: Worker, crash: Crash, now: float, *, last: bool = False
    ) -> tuple[Batch, list[Effect]]:
        """Handle a batch of several requests that failed as a whole; the worker lives.

        Out of memory: its requests wait again, and batches of their class are smaller from now on.
        """
        batch = self._end_running(worker, now, last=last)
        if crash.out_of_memory:
            return batch, self._out_of_memory(worker, batch)
        self._count_failure(worker, batch)
        return batch, self._retry(worker, batch, crash.reply, kills=False)

    def worker_lost(self, worker: Worker, *, out_of_memory: bool = False) -> list[Effect]:
        """Handle the death of a worker under its batch, if it had one.

        A request that was alone twice fails. A batch that the worker had not begun is no suspect: its
        requests wait as before.
        """
        self.worker_gone(worker)
        self._take_back(self._prefetch.batches.pop(worker, None))
        batch = self._running.pop(worker, None)
        if batch is None:
            return []
        if batch.reason is DispatchReason.RETRY:
            self._killed_at = batch.dispatched
        if out_of_memory and len(batch.requests) > 1:
            return self._out_of_memory(worker, batch)
        died = WorkerDied("the worker died under this request, and again when it was tried alone")
        return self._retry(worker, batch, died, kills=True)

    def learn_any(self, size: int, seconds: float) -> None:
        """Learn from a batch of ``size`` representative requests that took a worker ``seconds``."""
        self._cost.learn_any(size, seconds)
        self._policy.observe(size, seconds)

    def abandon(self, request: Request) -> list[Effect]:
        """Remove a request whose client has left; a batch that has begun continues."""
        if request.place != _GONE:
            self._leave(request)
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
        if self._idle and self._suspects and (taken := self._try_suspects(now, effects)):
            return taken
        if self._idle and self._counts[_LATE] and self._serve_late(now, effects):
            return True
        if self._shed_late and self._counts[_LATE] and self._shed(now, effects):
            return True
        return self._serve_on_time(now, effects) if self._counts[_ON_TIME] else False

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

    def _dispatch_on_time(self, take: Take, now: float, effects: list[Effect]) -> None:
        lane = take.lane
        self._count_on_time(take.size, lane.on_time[take.start], now)
        waiting = islice(lane.on_time, take.start, None)
        alone = self._cost.alone(lane.pool, waiting, take.size)
        taken = lane.take(take.size, alone, take.start)
        for request in self._beyond_bytes(taken):
            lane.add(request, self._key(request))
        lane.served = now
        if lane.overdue_at:
            for request in taken:
                lane.overdue_at.pop(request.slo_class, None)
        del self._active[lane.pool]
        if lane.on_time:
            self._active[lane.pool] = lane
        self._dispatch(taken, DispatchReason.ALONE if alone else take.reason, now, effects)
        self._end(lane)

    def _count_on_time(self, size: int, head: Request, now: float) -> None:
        span = TUNING.overload_budgets * max(head.deadline - head.arrived, LEAST)
        keep = exp((self._left_at - now) / span)
        self._went_late *= keep if now - self._late_at <= span else 0.0
        self._went_on_time = self._went_on_time * keep + size
        self._left_at = now

    def _beyond_bytes(self, taken: list[Request]) -> list[Request]:
        """Remove from a batch, and return, the requests whose bodies exceed ``max_batch_bytes``."""
        total = 0
        for place, request in enumerate(taken):
            total += len(request.body)
            if total > self._max_batch_bytes and place:
                beyond = taken[place:]
                del taken[place:]
                return beyond
        return []

    @property
    def _overloaded(self) -> bool:
        """Whether so many requests go late that only throughput counts."""
        recent = self._went_late + self._went_on_time
        return self._went_late > TUNING.overload * recent + TUNING.overload_least

    def _serve_late(self, now: float, effects: list[Effect]) -> bool:
        """Dispatch late requests of one lane, the oldest first, if those on time leave time for them."""
        head = next(iter(self._late.values()))
        lane: Lane = head.lane
        if self._shed_late:
            return False
        times = lane.times
        if self._down:
            size = times.ceiling  # a batch that fails answers all of its requests
        elif self._counts[_ON_TIME]:
            size = min(times.best_size, times.largest_within(self._spare(head, now)))
        else:
            # New arrivals wait for at most half of their budget. If none can be on time, throughput counts.
            half = times.largest_within((head.deadline - head.arrived) / 2)
            size = min(times.best_size, half or times.best_size)
        if not size:
            return False
        taken = list(islice((request for request in self._late.values() if request.lane is lane), size))
        self._beyond_bytes(taken)
        self._dispatch(taken, DispatchReason.LATE, now, effects)
        self._end(lane)
        return True

    def _spare(self, head: Request, now: float) -> float:
        """Return the seconds that late work, whose oldest is ``head``, may take before requests on time.

        It waits until none needs the worker: more are on time so. Only when half of a timeout has passed it
        gets ``late_share`` of the workers' time, as long as the others stay on time by that.
        """
        patience = TUNING.patience * (head.expires - head.arrived)
        if now < max(self._late_from, head.arrived + patience):
            return 0.0
        return min(self._slack(lane, now) for lane in self._choice()) if self._policy.by_deadline else inf

    def _shed(self, now: float, effects: list[Effect]) -> bool:
        """Answer all late requests with ``PredictedLate``; return whether a worker got one instead.

        An idle worker that nothing on time needs takes the latest one, alone, if it is late only by
        prediction: the try costs nothing, and otherwise a model that was slow once would never be measured
        again.
        """
        shed = list(self._late.values())
        tried = shed.pop() if self._idle and not self._counts[_ON_TIME] and shed[-1].deadline > now else None
        for request in shed:
            self._leave(request)
            effects.append(Answer(request, _NO_TIME))
        if tried is None:
            return False
        self._dispatch([tried], DispatchReason.LATE, now, effects)
        self._end(tried.lane)
        return True

    def _try_suspects(self, now: float, effects: list[Effect]) -> bool | Wait:
        """Give an idle worker a part of a failed batch, in its turn by deadline.

        A part may kill its worker, so it is not sent early: its worker ends the running batch first. And
        enough others must be alive if one has killed its worker lately.
        """
        for part in self._suspects.due():
            if part.kills and self._too_few_workers(now):
                continue
            if not self._in_turn(part, now):
                return False
            if self._idle[-1] in self._running:
                return Wait(inf)
            self._suspects.send(part, self._idle[-1])
            self._dispatch(part.requests, DispatchReason.RETRY, now, effects)
            return True
        return False

    def _in_turn(self, part: Part, now: float) -> bool:
        """Return whether ``part`` goes before the requests on time.

        It does in order of deadline, while it is on time. So it does when nothing but parts of failed batches
        shows whether the function works at all.
        """
        if not self._counts[_ON_TIME] or self._failed_in_a_row >= TUNING.failed_in_a_row:
            return True
        lane: Lane = part.requests[0].lane
        seconds = lane.times.predict(len(part.requests))
        if now < part.deadline <= min(other.keys[0] for other in self._choice()):
            return True
        return seconds < self._spare(part.requests[0], now)

    def _slack(self, lane: Lane, now: float) -> float:
        """Return the seconds that ``lane`` can wait, with all that fits into a batch on time."""
        return lane.keys[0] - now - lane.times.predict(min(len(lane.keys), lane.times.best_size))

    def _too_few_workers(self, now: float) -> bool:
        if now >= self._killed_at + TUNING.lately:
            return False
        missing = self._workers - len({*self._idle, *self._running})
        return missing >= TUNING.missing * self._workers

    def _retry(
        self, worker: Worker, batch: Batch, outcome: Reply | WatchdogError, *, kills: bool
    ) -> list[Effect]:
        """Try a failed batch again in parts, or answer it with ``outcome`` where that shows nothing more."""
        held = self._suspects.failed(worker)
        left = [request for request in batch.requests if request.place == _RUNNING]
        if len(batch.requests) == 1:
            self._failed_alone += 1
            again = kills and left and left[0].attempts == 1  # the request may not be the reason
        else:
            again = not self._down
        if again:
            self._move(left, SUSPECT)
            # Where one has failed alone and nothing succeeds, single ones show soonest whether all fail.
            self._suspects.split(left, kills=kills, alone=self._failed_alone > 0)
            left = []
        elif len(batch.requests) > 1:
            left, held = left + held, []
        self._requeue(held)
        for request in left:
            self._leave(request)
        return [Answer(request, outcome, batch) for request in left]

    @property
    def _down(self) -> bool:
        """Whether all requests seem to fail, as if what the function needs were down."""
        return self._failed_alone >= TUNING.failed_alone

    def _count_failure(self, worker: Worker, batch: Batch) -> None:
        """Count a batch that failed whole; against its worker only once with its parts."""
        self._failed_in_a_row += 1
        if batch.reason is not DispatchReason.RETRY:
            self._failed[worker] = self._failed.get(worker, 0) + 1

    def _out_of_memory(self, worker: Worker, batch: Batch) -> list[Effect]:
        size = len(batch.requests)
        times = batch.requests[0].lane.times
        before, ceiling = times.ceiling, times.out_of_memory(size)
        self._requeue(self._suspects.failed(worker))
        self._requeue([request for request in batch.requests if request.place == _RUNNING])
        return [Lowered(size, ceiling)] if ceiling < before else []

    def _end_running(self, worker: Worker, now: float, *, last: bool) -> Batch:
        """Return the batch that has ended; the prefetched one, if any, begins."""
        batch = self._running.pop(worker)
        prefetched = self._prefetch.batches.pop(worker, None)
        if prefetched is not None:
            prefetched.dispatched = now
            if last:
                prefetched.seconds = inf
            self._running[worker] = prefetched
        return batch

    def _dispatch(
        self, requests: Sequence[Request], reason: DispatchReason, now: float, effects: list[Effect]
    ) -> None:
        for request in requests:
            if request.place == _LATE:
                del self._late[request.id]
                request.lane.late -= 1
            request.attempts += 1
        self._move(requests, _RUNNING)
        worker = self._idle.pop()  # it became idle last, so its caches are the warmest
        seconds = requests[0].lane.times.predict_mean(len(requests))
        if requests[0].deadline < now and self._counts[_ON_TIME]:
            self._late_from = now + seconds / (TUNING.late_share * self._workers)
        batch = Batch(tuple(requests), reason, now, seconds or inf)
        to = self._prefetch.batches if worker in self._running else self._running
        to[worker] = batch
        effects.append(Dispatch(worker, batch))

    def _move(self, requests: Sequence[Request], place: int) -> None:
        counts = self._counts
        for request in requests:
            counts[request.place] -= 1
            request.place = place
        counts[place] += len(requests)

    def _go_late(self, lane: Lane, count: int, now: float) -> None:
        gone = lane.take(count)
        for request in gone:
            budget = request.deadline - request.arrived
            lane.overdue_at.setdefault(request.slo_class, now + TUNING.age * budget)
            self._late[request.id] = request
        self._move(gone, _LATE)
        lane.late += count
        self._went_late += count
        self._late_at = now
        if not lane.on_time:
            del self._active[lane.pool]

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

    def _requeue(self, requests: Iterable[Request]) -> None:
        """Queue requests again that are under no suspicion."""
        for request in requests:
            self._counts[request.place] -= 1
            request.attempts = 0
            self._queue(request, request.arrived)

    def _take_back(self, batch: Batch | None) -> None:
        """Queue the requests of a prefetched batch again: they have not run."""
        if batch is not None:
            self._requeue([request for request in batch.requests if request.place == _RUNNING])

    def _key(self, request: Request) -> float:
        return request.deadline if self._policy.by_deadline else request.arrived

    def _choice(self) -> list[Lane]:
        return list(islice(self._active.values(), MAX_LANES))

    def _queue_full(self, *, displaced: bool = False) -> QueueFull:
        """Return the error for a request without room; Retry-After is the time to drain half of the queue.

        ``displaced``: the request was admitted, and is replaced by one that can be on time.
        """
        times = self._cost.overall
        size = times.best_size
        per_second = self._workers * size / max(times.predict_mean(size), 1e-6)
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

    It does if at least half of the run requests were served.
    """
    if batch.requests[0].cost_class is PROBE:
        return ()
    ran: Sequence[Request] = batch.requests
    if DROPPED in replies:
        ran = [request for request, reply in zip(ran, replies, strict=True) if reply is not DROPPED]
    served = sum(reply.status < 400 for reply in replies) - (len(replies) - len(ran))
    return ran if 2 * served >= len(ran) else ()


_NO_TIME: Final = PredictedLate("it can no longer be answered within its latency budget")
_TOO_LONG: Final = PredictedLate("the queue is too long for it to be answered within its latency budget")
