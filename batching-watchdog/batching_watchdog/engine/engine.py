"""The state machine of requests: events in, effects out. [P]

Owns every admitted request from ``offer`` to its ``Answer``, and the set of idle workers. ``policy`` decides
about batches. Server, simulator and tests drive the same code; ``shell`` executes the effects. Times are
seconds on any monotonic clock.

Invariants: every admitted request leaves exactly once, by an ``Answer`` or by ``abandon``; at most
``max_inflight`` are admitted; a worker runs one batch and has at most one more, sent shortly before the end
of the first; after ``tick`` no worker is idle while a request waits that it may serve.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import islice
from math import inf
from typing import Final

from batching_watchdog.engine.cost import Cost, Shared
from batching_watchdog.engine.effects import Answer, Cancel, Check, Dispatch, Effect, Lowered, WakeAt, Worker
from batching_watchdog.engine.lanes import GONE, RUNNING, Queues
from batching_watchdog.engine.policy import Late, Overload, Situation, Take, choose
from batching_watchdog.engine.prefetch import Prefetch
from batching_watchdog.engine.retries import Failure, Part, Suspects
from batching_watchdog.engine.tuning import TUNING
from batching_watchdog.errors import Expired, PredictedLate, QueueFull, WatchdogError, WorkerDied
from batching_watchdog.function.messages import DROPPED, PROBE, Batch, Crash, DispatchReason, Reply, Request

REFUSAL_SECONDS: Final = 0.25
"""Seconds for which one error object serves all requests refused at the header: creating one costs as much as
reading the request."""


class Engine:
    """The queue in front of the workers. Every method is synchronous and receives the time."""

    def __init__(
        self,
        cost: Cost,
        *,
        max_inflight: int,
        workers: int,
        tightest: float,
        max_batch_bytes: float = inf,
        shed_late: bool = False,
        lead: float = 0.0,
        cpus: float = inf,
        best_effort: Cost | None = None,
    ) -> None:
        """``max_batch_bytes``: of the bodies and expected answers of one batch, unless it has one request.

        ``tightest``: the smallest latency target in seconds: batches of best effort leave it to others, and
        under overload a part of it is kept for the way to the client.
        ``best_effort``: of what these cost, apart from ``cost``: often more, and no capacity is for them.

        ``lead`` and ``cpus``: see ``Prefetch``.
        """
        self._max_batch_bytes = max_batch_bytes
        self._cost, self._best_effort = cost, best_effort or cost
        self._workers = max(1, workers)
        self._shed_late = shed_late
        self._reserve = TUNING.reserve * tightest
        self._tightest = tightest - self._reserve
        self._idle: list[Worker] = []
        """The last one is next."""
        self._running: dict[Worker, Batch] = {}
        self._prefetch = Prefetch(self._workers, lead, cpus)
        self._nearly_idle = False
        """Whether a busy worker may get its next batch now, by the last ``tick``."""
        self._queues = Queues(max_inflight)
        self._suspects = Suspects(self._workers)
        self._overload = Overload()
        self._refusal: QueueFull | None = None
        self._refused_at = 0.0

    @property
    def admitted(self) -> int:
        """Number of queued and running requests."""
        return len(self._queues.admitted)

    @property
    def queued(self) -> int:
        """Number of requests that wait for a worker, without those of best effort."""
        return len(self._queues) + self.suspects

    @property
    def suspects(self) -> int:
        """Number of requests that wait for a retry, without those of best effort."""
        return self._suspects.due

    @property
    def at_limit(self) -> bool:
        """Whether ``max_inflight`` requests are admitted: one more must replace a late one."""
        return self._queues.at_limit

    @property
    def full(self) -> bool:
        """Whether ``offer`` would refuse even requests that can be on time."""
        return self.at_limit and self._replaceable() is None

    @property
    def eager(self) -> bool:
        """Whether an offered request may need a ``tick`` before the next event."""
        return bool(self._idle) or self._shed_late or self._nearly_idle

    def resize(self, workers: int, cpus: float) -> None:
        """Take the number of workers, and the cores that they share, as these from now on."""
        self._workers = self._suspects.workers = self._prefetch.workers = workers
        self._prefetch.cpus = cpus

    def refusal(self, deadline: float, now: float) -> WatchdogError | None:
        """Return the error that refuses a request at its header, before its body is read, or None.

        None while a worker is idle and there is room, regardless of the learned times: a model that was slow
        once must be measured again.
        """
        if deadline == inf and self._queues.at_best_effort_limit:
            return self._queue_full(best_effort=True)
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
        if deadline <= now:
            return True
        ahead = sum(lane.share_before(deadline, now, self._workers) for lane in self._queues.choice())
        return ahead > TUNING.admit

    def offer(self, request: Request, now: float) -> Sequence[Effect]:
        """Admit ``request``; ``tick`` cuts batches, once for all simultaneous requests.

        At ``max_inflight``, a request that can be on time replaces one of best effort, or the one that has
        been late longest: that one has missed its SLO, and its client is the least likely to be waiting.
        Without these it replaces a suspect. Raises ``QueueFull`` without any, or if ``request`` itself has no
        time left or is of best effort.
        """
        effects: Sequence[Effect] = ()
        if request.best_effort and self._queues.at_best_effort_limit:
            raise self._queue_full(best_effort=True)
        if self.at_limit:
            late = request.deadline <= request.arrived
            displaced = self._replaceable()
            if late or request.cost_class is PROBE or displaced is None:
                raise self._queue_full()
            error = self._queue_full(displaced=True, best_effort=displaced.best_effort)
            effects = self._end(displaced, error)
        self._queues.admit(request, self._pool(request))
        return effects

    def mix_paths(self) -> None:
        """Allow requests of different methods and paths in one batch, as the handler does."""
        for cost in (self._cost, self._best_effort):
            cost.mix_paths()

    def worker_ready(self, worker: Worker, *, checked: bool = False) -> list[Effect]:
        """Mark a worker as idle, after loading, after ``batch_done``, or ``checked``: after a ``Check``."""
        if worker in self._running:  # it continues with its prefetched batch
            return []
        if checked:
            self._suspects.forget(worker)
        failed = self._suspects.failures(worker)
        if failed >= TUNING.sick_after:
            return [Check(worker)]
        # One that fails at once is idle most often: the others first.
        self._idle.insert(0 if failed else len(self._idle), worker)
        return []

    def worker_gone(self, worker: Worker) -> None:
        """Remove an idle worker that has ended."""
        self._suspects.forget(worker)
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
        waited: float = 0.0,
        last: bool = False,
    ) -> tuple[Batch, list[Effect]]:
        """Learn from a finished batch, and answer its requests; return the batch with the effects.

        ``seconds``: its time in the worker, None if unknown; ``cpu_seconds``: its CPU time, 0 if unknown.
        ``waited``: of these, without a core. ``last``: the worker must get no further batch.
        """
        batch = self._end_running(worker, now, last=last)
        took = now - batch.dispatched if seconds is None else seconds
        if cpu_seconds and took > 0:
            self._prefetch.observe(cpu_seconds / took)
        if ran := _work_done(batch, replies):
            self._cost_of(ran[0]).learn(ran, took, cpu_seconds, waited)
            _learn_bytes(batch, replies)
        effects: list[Effect] = []
        if any(not reply.failed for reply in replies if reply != DROPPED):
            effects += self._passed(worker, batch)
        elif any(reply.failed for reply in replies):
            self._queue_again(self._suspects.failed(worker, batch))
        admitted = self._queues.admitted
        for request, reply in zip(batch.requests, replies, strict=True):
            if request.place == RUNNING:  # else it has expired, or its client has left
                request.place = GONE
                del admitted[request.id]
                effects.append(Answer(request, reply, batch))
        return batch, effects

    def batch_failed(
        self, worker: Worker, crash: Crash, now: float, *, last: bool = False
    ) -> tuple[Batch, list[Effect]]:
        """Handle a batch of several requests that failed as a whole; the worker lives."""
        batch = self._end_running(worker, now, last=last)
        return batch, self._retry(worker, batch, crash.reply, out_of_memory=crash.out_of_memory)

    def worker_lost(self, worker: Worker, *, out_of_memory: bool = False) -> list[Effect]:
        """Handle the death of a worker under its batch, if it had one.

        A request that was alone twice fails. A batch that the worker had not begun is no suspect: its
        requests wait as before.
        """
        prefetched = self._prefetch.batches.pop(worker, None)
        if prefetched is not None:
            self._queue_again(_still_running(prefetched))
        batch = self._running.pop(worker, None)
        effects = [] if batch is None else self._retry(worker, batch, _DIED, out_of_memory=out_of_memory)
        self.worker_gone(worker)
        return effects

    def take_back(self, worker: Worker) -> list[Effect]:
        """Queue the next batch of a worker again, since its present one takes too long."""
        batch = self._prefetch.batches.get(worker)
        if batch is None or not (waiting := _still_running(batch)):
            return []
        places = [batch.requests.index(each) for each in waiting]
        # Its worker answers as many: copies without content stand in for them.
        batch.requests = tuple(
            replace(each, place=GONE, header_block=b"", body=b"", client=None) for each in batch.requests
        )
        self._queue_again(waiting)
        return [Cancel(worker, places)]

    def abandon(self, request: Request) -> list[Effect]:
        """Remove a request whose client has left; a batch that has begun continues."""
        return self._leave(request) if request.place != GONE else []

    def hand_over(self) -> list[Request]:
        """Remove and return all admitted requests, none of which has run: another engine takes them."""
        requests = list(self._queues.admitted.values())
        self._queues = Queues(self._queues.most)
        return requests

    def give_up(self, error: WatchdogError, *, best_effort: bool = False) -> list[Effect]:
        """Answer every admitted request with ``error``; batches under way continue.

        ``best_effort``: only those of best effort that wait.
        """
        requests = self._queues.best_effort if best_effort else self._queues.admitted
        return [effect for request in list(requests.values()) for effect in self._end(request, error)]

    def tick(self, now: float) -> list[Effect]:
        """Answer expired requests, then dispatch batches to idle workers; return the effects."""
        effects: list[Effect] = []
        for request in self._queues.expired(now):
            effects += self._end(request, Expired(f"not answered within {now - request.arrived:.3f} s"))
        due = self._prefetch.due(self._running, now)
        self._idle = due[::-1] + self._idle  # after the idle ones: the last is next
        until = self._serve(now, effects)
        ready = len(self._idle)
        self._idle = [worker for worker in self._idle if worker not in self._running]
        self._nearly_idle = len(self._idle) < ready
        # With the batches that have just been sent.
        until = min(until, self._queues.next_expiry(), self._prefetch.next_due(self._running, now))
        return effects if until == inf else [*effects, WakeAt(until)]

    def _serve(self, now: float, effects: list[Effect]) -> float:
        """Dispatch all that can go now, turn by turn; return the time until which nothing more can.

        The order of a turn: a suspect, late requests, those of best effort, those on time.
        """
        while self._idle or self._shed_late:
            begins = self._begins(now)
            if (part := self._suspect(begins)) is not None:
                if self._next_is_busy:
                    return inf  # a part may kill its worker, which ends its batch first
                requests = self._suspects.send(part, self._idle[-1])
                self._dispatch(requests, DispatchReason.RETRY, begins, effects)
            elif self._queues.late and self._served_late(begins, effects):
                pass
            elif not self._queues.late and (size := self._best_effort_size(begins)):
                if self._next_is_busy and not self._queues.lanes:
                    return inf  # it gets them as its next batch only where others wait
                self._serve_best_effort(size, begins, effects)
            elif not self._queues.lanes:
                return inf
            elif (until := self._serve_on_time(begins, effects)) is not None:
                return until
        return inf

    @property
    def _next_is_busy(self) -> bool:
        """Whether the next worker still runs a batch, and would get another behind it."""
        return bool(self._idle) and self._idle[-1] in self._running

    def _begins(self, now: float) -> float:
        """Return the time at which the next worker can begin: a busy one after its batch."""
        busy = self._running.get(self._idle[-1]) if self._idle else None
        return now if busy is None else max(now, busy.dispatched + busy.seconds)

    def _suspect(self, now: float) -> Part | None:
        """Return the part of a failed batch whose turn it is, if a worker may try it."""
        if not self._idle or not self._suspects:
            return None
        part = self._suspects.next(now, {*self._idle, *self._running})
        return part if part is not None and self._in_turn(part, now) else None

    def _served_late(self, now: float, effects: list[Effect]) -> bool:
        """Serve late requests, or shed them; return whether a worker got some."""
        return self._shed(now, effects) if self._shed_late else self._serve_late(now, effects)

    def _serve_on_time(self, now: float, effects: list[Effect]) -> float | None:
        """Dispatch the next requests on time, or call some late; if no worker is idle, return until when."""
        ends = (batch.dispatched + batch.seconds for batch in self._running.values())
        following = max(now, min(ends, default=inf))
        situation = Situation(now, self._overload.now, following)
        answer = choose(
            self._queues.choice(),
            situation,
            reserve=self._reserve,
            max_batch_size=self._cost.max_batch_size,
        )
        if isinstance(answer, Late):
            head = answer.lane.on_time[0]
            self._overload.count(now, head.deadline - head.arrived, late=answer.number)
            self._queues.go_late(answer.lane, answer.number)
        elif not self._idle:
            # Checked again when its deadline passes with every worker busy: it may be shed then.
            return answer.lane.deadlines[0]
        else:
            self._dispatch_on_time(answer, now, effects)
        return None

    def _dispatch_on_time(self, take: Take, now: float, effects: list[Effect]) -> None:
        lane = take.lane
        head = lane.on_time[take.start]
        self._overload.count(now, head.deadline - head.arrived, on_time=take.size)
        taken = self._together(lane.on_time[take.start : take.start + take.size], lane.pool)
        in_a_row = taken[-1] is lane.on_time[take.start + len(taken) - 1]
        self._queues.serve(lane, taken, take.start if in_a_row else None)
        self._dispatch(taken, take.reason, now, effects)

    def _best_effort_size(self, now: float) -> int:
        """Return how many requests of best effort a worker may take now.

        After them those that wait can be answered within half of their budgets, and one that arrives at once
        within the smallest target. Without any that wait at least one goes. Others gather meanwhile: an
        accelerator would else be busy with small batches of them at any load.
        """
        waiting = self._queues.best_effort
        if not waiting or not self._idle:
            return 0
        lanes = self._queues.choice()
        times, others = self._pool_now(next(iter(waiting.values()))).times, self._cost.overall
        slacks = (lane.slack(now) - lane.budget(0) / 2 for lane in lanes)
        seconds = min([self._tightest - others.predict(1), *slacks])
        # At first its own times are guesses.
        size = min(times.best_size, times.largest_within(seconds), others.largest_within(seconds))
        return size if lanes else max(1, size)

    def _serve_best_effort(self, size: int, now: float, effects: list[Effect]) -> None:
        """Dispatch ``size`` requests of best effort of one pool, the oldest first."""
        waiting = self._queues.best_effort
        pool = self._pool_now(next(iter(waiting.values())))
        alike = (request for request in waiting.values() if self._pool_now(request) is pool)
        taken = self._together(islice(alike, size), pool)
        for request in taken:
            del waiting[request.id]
        self._dispatch(taken, DispatchReason.BEST_EFFORT, now, effects)

    def _serve_late(self, now: float, effects: list[Effect]) -> bool:
        """Dispatch late requests of one lane, the oldest first, if those on time leave time for them."""
        late = self._queues.late
        head = next(iter(late.values()))
        pool = self._pool_now(head)
        times = pool.times
        spare = self._spare(head, now)
        # New arrivals wait for at most half of their budget. If none can be on time, throughput counts.
        size = min(times.best_size, times.largest_within(min(spare, (head.deadline - head.arrived) / 2)))
        if not size and spare < inf:
            return False
        size = size or times.best_size
        alike = (request for request in late.values() if self._pool_now(request) is pool)
        taken = self._together(islice(alike, size), pool)
        for request in taken:
            del late[request.id]
        self._dispatch(taken, DispatchReason.LATE, now, effects)
        return True

    def _spare(self, head: Request, now: float) -> float:
        """Return the seconds that late work, whose oldest is ``head``, may take before requests on time.

        It waits until none needs the worker: more are on time so. After half of its timeout it may go before
        them, as long as they stay on time by that: a late answer is better than none.
        """
        if not self._queues.lanes:
            return inf
        if now < head.arrived + TUNING.patience * (head.expires - head.arrived):
            return 0.0
        return min(lane.slack(now) for lane in self._queues.choice())

    def _shed(self, now: float, effects: list[Effect]) -> bool:
        """Answer all late requests with ``PredictedLate``; return whether a worker got one instead.

        An idle worker that nothing on time needs takes the latest one, alone, if it is late only by
        prediction: the try costs nothing, and otherwise a model that was slow once would never be measured
        again.
        """
        late = self._queues.late
        last = late[next(reversed(late))]
        tried = bool(self._idle) and not self._queues.lanes and last.deadline > now
        if tried:
            del late[last.id]
            self._dispatch([last], DispatchReason.LATE, now, effects)
        for request in list(late.values()):
            effects += self._end(request, _NO_TIME)
        return tried

    def _in_turn(self, part: Part, now: float) -> bool:
        """Return whether ``part`` goes before the requests on time: in order of deadline, while on time.

        One of best effort goes after late ones, too.
        """
        if part.deadline == inf:
            return not self._queues
        if part.deadline <= now:
            head = part.requests[0]
            return bool(head.lane.times.predict(len(part.requests)) <= self._spare(head, now))
        lanes = self._queues.choice()
        return not lanes or part.deadline <= min(lane.deadlines[0] for lane in lanes)

    def _passed(self, worker: Worker, batch: Batch) -> list[Effect]:
        """Note that a batch succeeded, and lower the ceiling if a larger one was too large."""
        failure = self._suspects.passed(worker, batch)
        if failure is None:
            return []
        times = batch.requests[0].lane.times
        before, ceiling = times.ceiling, times.out_of_memory(failure.size)
        return [Lowered(failure.size, ceiling)] if ceiling < before else []

    def _retry(
        self, worker: Worker, batch: Batch, outcome: Reply | WatchdogError, *, out_of_memory: bool
    ) -> list[Effect]:
        """Try both halves of a failed batch; a request that was alone is answered with ``outcome``."""
        size, left, kills = len(batch.requests), _still_running(batch), outcome is _DIED
        self._queue_again(self._suspects.failed(worker, batch, kills=kills))
        # A request that was alone may not be the reason why its worker died.
        if size > 1 or (kills and batch.reason is not DispatchReason.RETRY):
            self._suspects.split(left, Failure(size, kills, out_of_memory and size > 1))
            return []
        return [effect for request in left for effect in self._end(request, outcome, batch)]

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
        """Send requests that are in no queue any more to the next idle worker."""
        for request in requests:
            request.attempts += 1
            request.place = RUNNING
        worker = self._idle.pop()  # it became idle last, so its caches are the warmest
        seconds = requests[0].lane.times.predict_mean(len(requests))
        batch = Batch(tuple(requests), reason, now, seconds or inf)
        to = self._prefetch.batches if worker in self._running else self._running
        to[worker] = batch
        effects.append(Dispatch(worker, batch))

    def _pool_now(self, request: Request) -> Shared:
        """Return the pool of one that waited for long: its class may have left that of its lane since."""
        return self._cost_of(request).pool(request.cost_class, counts=False)

    def _together(self, requests: Iterable[Request], pool: Shared) -> list[Request]:
        """Return the first requests of ``pool`` that may share a batch; at least one.

        By the pool's limit, and by ``max_batch_bytes`` of their bodies and answers. Only those of the first
        one's class if it is the turn of a batch that shows its cost.
        """
        total = 0.0
        taken: list[Request] = []
        one_class = False
        for request in requests:
            if not taken:
                one_class = self._cost_of(request).one_class(pool)
            elif one_class and request.cost_class != taken[0].cost_class:
                continue
            total += len(request.body) + pool.answer_bytes
            if taken and (total > self._max_batch_bytes or len(taken) >= pool.limit):
                break
            taken.append(request)
        return taken

    def _end(
        self, request: Request, outcome: Reply | WatchdogError, batch: Batch | None = None
    ) -> list[Effect]:
        """Answer an admitted request, and remove it."""
        return [Answer(request, outcome, batch), *self._leave(request)]

    def _leave(self, request: Request) -> list[Effect]:
        """Remove an admitted request."""
        runs = request.place == RUNNING
        self._queues.leave(request)
        request.header_block = request.body = b""  # its batch may run on for long, and needs them no more
        return [*self._prefetch.cancels(request)] if runs else []

    def _queue_again(self, requests: Iterable[Request]) -> None:
        """Queue requests again that are under no suspicion."""
        for request in requests:
            request.attempts = 0
            self._queues.add(request, self._pool(request))

    def _cost_of(self, request: Request) -> Cost:
        return self._best_effort if request.best_effort else self._cost

    def _pool(self, request: Request) -> Shared:
        return self._cost_of(request).pool(request.cost_class)

    def _replaceable(self) -> Request | None:
        """Return the request that is replaced at ``max_inflight``."""
        return self._queues.replaceable() or self._suspects.first()

    def _queue_full(self, *, displaced: bool = False, best_effort: bool = False) -> QueueFull:
        """Return the error for a request without room; Retry-After is the time to drain half of the queue.

        ``displaced``: the request was admitted, and is replaced by one that can be on time. ``best_effort``:
        it waits behind all others.
        """
        times = (self._best_effort if best_effort else self._cost).overall
        size = times.best_size
        per_second = self._workers * size / max(times.predict_mean(size), 1e-6)
        ahead = self.queued + best_effort * len(self._queues.best_effort)
        retry_after = max(1, min(60, round(ahead / per_second / 2)))
        most = self._queues.best_effort_most if best_effort and not displaced else self._queues.most
        return QueueFull(most, retry_after, displaced=displaced)


def _still_running(batch: Batch) -> list[Request]:
    return [request for request in batch.requests if request.place == RUNNING]


def _learn_bytes(batch: Batch, replies: Sequence[Reply]) -> None:
    """Learn how long the answers of a batch's pool are: longer ones at once, shorter ones slowly."""
    pool = batch.requests[0].lane.pool
    mean = sum(len(reply.body) for reply in replies) / len(replies)
    pool.answer_bytes = max(mean, pool.answer_bytes + (mean - pool.answer_bytes) / 8)


def _work_done(batch: Batch, replies: Sequence[Reply]) -> Sequence[Request]:
    """Return the requests of a batch whose time shows the cost of serving; none if it does not.

    It does if at least half of the run requests were served. Errors of clients did not reach the model.
    """
    if batch.requests[0].cost_class is PROBE:
        return ()
    ran: Sequence[Request] = batch.requests
    served = sum(0 < reply.status < 400 for reply in replies)
    if served < len(ran):
        pairs = zip(ran, replies, strict=True)
        ran = [request for request, reply in pairs if reply != DROPPED and not reply.client_error]
    return ran if 2 * served >= len(ran) else ()


_DIED: Final = WorkerDied("the worker died under this request, and again when it was tried alone")
_NO_TIME: Final = PredictedLate("it can no longer be answered within its latency budget")
_TOO_LONG: Final = PredictedLate("the queue is too long for it to be answered within its latency budget")
