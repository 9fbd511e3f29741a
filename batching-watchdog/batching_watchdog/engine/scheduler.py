"""The queue: which requests are admitted, which leave next, and why. [P]

Owns every admitted request from ``offer`` to ``finish``. It has three lanes: retries (alone, first), on time
(ordered as the policy wants), and late (in the order in which they fell late, served when nothing on time
wants the worker, or the room beside it in a batch). ``batcher`` asks ``next_action`` and carries it out;
nothing here does.

A batch holds requests of one group only. The group whose head is first (in the policy's order) has its turn,
so that no group can keep another waiting. The heads of the groups are kept in a heap of their own, which is
touched once per batch and not per request: with one group it costs next to nothing.

Rules of this file: every admitted request leaves exactly once, as a part of a Dispatch that is finished, as
Expire, as Shed, or withdrawn; the number admitted never passes ``max_inflight``.
"""

from collections import OrderedDict, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from typing import Final

from batching_watchdog.engine.latency import LatencyModel
from batching_watchdog.engine.policy import BatchingPolicy, Late, QueueHead, Take, Wait
from batching_watchdog.errors import QueueFull
from batching_watchdog.messages import Batch, DispatchReason, Request

TRY_ALONE_EVERY: Final = 8
"""Of so many batches of late requests one is of a single request while, by what was learned, nobody can be on
time."""


@dataclass(frozen=True, slots=True)
class Dispatch:
    """Send this batch to an idle worker."""

    batch: Batch


@dataclass(frozen=True, slots=True)
class Expire:
    """Answer these with 504: their timeout has passed. Some may be with a worker still."""

    requests: tuple[Request, ...]


@dataclass(frozen=True, slots=True)
class Shed:
    """Answer these with 503: they cannot be on time, and late requests are not served."""

    requests: tuple[Request, ...]


@dataclass(frozen=True, slots=True)
class Sleep:
    """Nothing to do until something happens, or until ``until`` if that is not None."""

    until: float | None


# Where a request is: plain numbers, since an Enum's hash is Python code and counts change with every request.
_ON_TIME: Final = 0
_LATE: Final = 1
_RETRY: Final = 2
_RUNNING: Final = 3


class _Group:
    """Requests that may share a batch. It lives as long as one of them waits."""

    __slots__ = ("late", "name", "number_late", "number_on_time", "on_time")

    def __init__(self, name: bytes) -> None:
        self.name = name
        self.on_time: list[tuple[float, int]] = []
        self.late: deque[int] = deque()
        self.number_on_time = 0
        self.number_late = 0


class _Entry:
    """One admitted request and where it is."""

    __slots__ = ("attempts", "group", "is_head", "lane", "request")

    def __init__(self, request: Request, group: _Group) -> None:
        self.request = request
        self.group = group
        self.lane = _ON_TIME
        self.attempts = 0
        self.is_head = False
        """Whether it is in the heap of heads."""


class Scheduler:
    """The bounded queue in front of the workers. Every method is synchronous and takes the time it needs."""

    def __init__(
        self, policy: BatchingPolicy, model: LatencyModel, *, max_inflight: int, shed_late: bool = False
    ) -> None:
        self._policy = policy
        self._model = model
        self._max_inflight = max_inflight
        self._shed_late = shed_late
        self._admitted: OrderedDict[int, _Entry] = OrderedDict()
        # Lanes hold ids, so that a request which leaves from the middle of one is freed at once, body and
        # all; its id stays until it comes to the front or is swept.
        self._groups: dict[bytes, _Group] = {}
        # Of each group its first id, or one that was first and has left.
        self._heads: list[tuple[float, int, _Group]] = []
        self._late: deque[int] = deque()
        self._retry: deque[int] = deque()
        self._early: list[tuple[float, int]] = []
        self._latest = 0.0
        self._last_deadline = 0.0
        self._left_behind = 0
        self._hopeless = 0
        self._counts = [0, 0, 0, 0]

    @property
    def admitted(self) -> int:
        """Requests queued and running."""
        return len(self._admitted)

    @property
    def queued(self) -> int:
        """Requests that wait for a worker, in whatever lane."""
        return len(self._admitted) - self._counts[_RUNNING]

    @property
    def at_limit(self) -> bool:
        """Whether ``max_inflight`` requests are admitted: one more must take the place of a late one."""
        return len(self._admitted) >= self._max_inflight

    @property
    def full(self) -> bool:
        """Whether ``offer`` would refuse even a request that can be on time."""
        return self.at_limit and not self._counts[_LATE]

    def refusal(self, workers: int, *, displaced: bool = False) -> QueueFull:
        """The error for a request that finds no room; Retry-After is the time to work off half the queue.

        ``displaced``: for one that had found room, and lost it to a request that is not late.
        """
        size = self._model.best_size
        per_second = max(1, workers) * size / max(self._model.predict_mean(size), 1e-6)
        retry_after = max(1, min(60, round(self.queued / per_second / 2)))
        return QueueFull(self._max_inflight, retry_after, displaced=displaced)

    def predicts_late(self, deadline: float, now: float, workers: int) -> bool:
        """Whether a request that came now would probably be answered after ``deadline``.

        For refusing at the header while every worker is busy, so it costs next to nothing. Those on time with
        earlier deadlines leave in full batches at the learned throughput, then comes the request's own batch.
        It is the best case, in which the first worker comes free at once: who is refused in error is lost,
        who is admitted in error will be found late by the policy.
        """
        if not self._policy.deadline_order:
            return False
        left = deadline - now
        if left <= 0:
            return True
        ahead = self._ahead_of(deadline)
        if not ahead:
            return False
        model = self._model
        full = max(1, min(model.best_size, model.largest_within(left / 2)))
        batches, rest = divmod(ahead, full)
        return batches * model.predict_mean(full) / max(1, workers) + model.predict_mean(rest + 1) > left

    def _ahead_of(self, deadline: float) -> int:
        """About how many wait on time for earlier deadlines, as if these were spread evenly."""
        waiting = self._counts[_ON_TIME]
        if not waiting or deadline >= self._last_deadline:
            return waiting
        self._first_group()  # drops heads that have left
        first = self._heads[0][0]
        if deadline < first:
            return 0
        return int(waiting * (deadline - first) / (self._last_deadline - first))

    def offer(self, request: Request, workers: int = 1) -> Request | None:
        """Admit ``request``; the one returned, if any, has lost its place to it and must be answered.

        When ``max_inflight`` requests are admitted, one that can be on time takes the place of the one that
        has been in the late lane for longest: that has missed its SLO, and its client is the least likely
        to wait still. Raises ``QueueFull`` if there is none, or if ``request`` itself has no time left.
        """
        displaced = None
        if len(self._admitted) >= self._max_inflight:
            if not self._counts[_LATE] or request.deadline <= request.arrived:
                raise self.refusal(workers)
            displaced = self._leave(self._first_late()).request
        # Equal timeouts expire in order of admission; only a shorter one needs a place of its own.
        if request.expires < self._latest:
            heappush(self._early, (request.expires, request.id))
            if len(self._early) > 64 + 2 * len(self._admitted):
                self._sweep_early()
        else:
            self._latest = request.expires
        self._last_deadline = max(self._last_deadline, request.deadline)
        group = self._groups.get(request.group)
        if group is None:
            group = self._groups[request.group] = _Group(request.group)
        entry = _Entry(request, group)
        self._admitted[request.id] = entry
        self._counts[_ON_TIME] += 1
        group.number_on_time += 1
        key = request.deadline if self._policy.deadline_order else request.arrived
        heappush(group.on_time, (key, request.id))
        if group.on_time[0][1] == request.id:
            self._announce(group)
            if len(self._heads) > 64 + 2 * len(self._admitted):
                self._sweep()
        return displaced

    def withdraw(self, request_id: int) -> bool:
        """Forget a request whose client has gone. False if it was not admitted (any more)."""
        return self._remove(request_id)

    def finish(self, requests: Iterable[Request]) -> list[Request]:
        """Take out requests of a dispatched batch that are answered; those returned were still awaited."""
        admitted, awaited = self._admitted, []
        for request in requests:
            entry = admitted.get(request.id)
            if entry is None:
                continue
            if entry.lane == _RUNNING:
                del admitted[request.id]
                self._counts[_RUNNING] -= 1
            else:
                self._leave(request.id)
            awaited.append(request)
        return awaited

    def observe(self, size: int, seconds: float) -> None:
        """Tell the policy that a worker took ``seconds`` for a batch of ``size`` requests."""
        self._policy.observe(size, seconds)

    def worker_died(self, batch: Batch) -> list[Request]:
        """Queue the requests of a lost batch again, alone; those returned had been tried alone already."""
        lost: list[Request] = []
        for request in batch.requests:
            entry = self._admitted.get(request.id)
            if entry is None:
                continue
            if entry.attempts > 1:
                self._remove(request.id)
                lost.append(request)
            else:
                self._move([entry], _RETRY)
                self._retry.append(request.id)
        return lost

    def next_action(self, now: float, idle: int) -> Dispatch | Expire | Shed | Sleep:
        """What to do at ``now`` with ``idle`` free workers. To be called again until it answers Sleep."""
        expired = self._expired(now)
        if expired:
            return Expire(expired)
        if idle < 1 and not self._shed_late:
            return Sleep(self._next_expiry())
        if idle and self._counts[_RETRY]:
            return self._dispatch([self._pop(self._retry, _RETRY)], DispatchReason.RETRY, now)
        action = self._serve_on_time(now, idle)
        if isinstance(action, Dispatch):
            return action
        ends = [time for time in (action.until, self._next_expiry()) if time is not None and time > now]
        return self._serve_late(now, idle) or Sleep(min(ends, default=None))

    def _serve_on_time(self, now: float, idle: int) -> Dispatch | Sleep:
        while self._counts[_ON_TIME]:
            group = self._first_group()
            head = self._head(group)
            answer = self._decide(group, head, now)
            if isinstance(answer, Late):
                self._head_is_late(group)
            elif isinstance(answer, Wait):
                # The first group waits for company: meanwhile another may have a batch.
                return (self._serve_another(group, now) if idle else None) or Sleep(answer.until)
            elif idle:
                return self._dispatch_on_time(group, answer, now)
            else:
                # Looked at again when its deadline passes with every worker still busy: it may be shed then.
                return Sleep(head.deadline)
        return Sleep(None)

    def _decide(self, group: _Group, head: Request, now: float) -> Take | Wait | Late:
        seen = QueueHead(group.number_on_time, head.arrived, head.deadline, self._counts[_LATE] > 0)
        return self._policy.decide(seen, now, self._model)

    def _serve_another(self, first: _Group, now: float) -> Dispatch | None:
        for group in self._groups.values():
            if group is not first and group.number_on_time:
                answer = self._decide(group, self._head(group), now)
                if isinstance(answer, Take):
                    return self._dispatch_on_time(group, answer, now)
        return None

    def _dispatch_on_time(self, group: _Group, take: Take, now: float) -> Dispatch:
        queue, admitted = group.on_time, self._admitted
        entries: list[_Entry] = []
        while len(entries) < take.size:
            entry = admitted.get(heappop(queue)[1])
            if entry is not None and entry.lane == _ON_TIME:
                entries.append(entry)
        rides = group.number_late and not self._shed_late
        late = self._that_ride_along(group, entries, now) if rides else ()
        return self._dispatch(entries, take.reason, now, late)

    def _that_ride_along(self, group: _Group, entries: list[_Entry], now: float) -> Sequence[_Entry]:
        """Late requests for the room beside ``entries``, if no other on time could have it.

        Most of what a batch costs it costs at any size. Without this, small batches of those that are on time
        would take all of the workers' time under a load that they can well carry, and the late ones would
        wait for as long as it lasts.
        """
        if self._counts[_ON_TIME] > len(entries):
            return []
        head = entries[0].request
        # As for a batch of late ones alone, and what is on time stays so.
        span = min(head.deadline - now, (head.deadline - head.arrived) / 2)
        room = min(self._model.best_size, self._model.largest_within(span)) - len(entries)
        return [self._pop(group.late, _LATE) for _ in range(min(room, group.number_late))]

    def _serve_late(self, now: float, idle: int) -> Dispatch | Shed | None:
        """A batch of late requests if nothing on time wants the worker; or shed them all.

        If late requests are shed, an idle worker still takes the latest one, alone, provided that it is late
        by prediction only: nothing is lost by trying, and a model that was slow once would else never be
        measured again.
        """
        late = self._counts[_LATE]
        if idle and late and not self._counts[_ON_TIME] and not self._shed_late:
            first = self._admitted[self._first_late()]
            group, budget = first.group, first.request.deadline - first.request.arrived
            size = min(group.number_late, self._late_size(budget / 2))
            return self._dispatch(
                [self._pop(group.late, _LATE) for _ in range(size)], DispatchReason.LATE, now
            )
        if not late or not self._shed_late:
            return None
        ids = self._waiting(self._late, _LATE)
        last = self._admitted[ids[-1]]
        if idle and not self._counts[_ON_TIME] and last.request.deadline > now:
            self._late = deque(ids[:-1])
            return self._dispatch([last], DispatchReason.LATE, now)
        self._late.clear()
        return Shed(tuple(self._leave(id_).request for id_ in ids))

    def _late_size(self, span: float) -> int:
        """The size for a batch of late requests, which leaves ``span`` seconds to who comes meanwhile.

        By what was learned nobody may be on time any more: then the size with the best throughput. But it may
        be wrong, after a stall of the machine, and large batches do not show what a small one takes: so at
        times one request goes alone.
        """
        best = self._model.best_size
        fits = self._model.largest_within(span)
        if fits:
            return min(fits, best)
        self._hopeless += 1
        return best if self._hopeless % TRY_ALONE_EVERY else 1

    def _dispatch(
        self, entries: list[_Entry], reason: DispatchReason, now: float, late: Sequence[_Entry] = ()
    ) -> Dispatch:
        self._move(entries, _RUNNING)
        if late:
            self._move(late, _RUNNING)
            entries = [*entries, *late]
        for entry in entries:
            entry.attempts += 1
        return Dispatch(Batch(tuple([entry.request for entry in entries]), reason, now))

    def _move(self, entries: Sequence[_Entry], lane: int) -> None:
        """Move entries of one group that share a lane."""
        self._count(entries[0], -len(entries))
        for entry in entries:
            entry.lane = lane
        self._count(entries[0], len(entries))
        self._end_group(entries[0].group)

    def _count(self, entry: _Entry, change: int) -> None:
        lane, group = entry.lane, entry.group
        self._counts[lane] += change
        if lane == _ON_TIME:
            group.number_on_time += change
        elif lane == _LATE:
            group.number_late += change

    def _end_group(self, group: _Group) -> None:
        # Clients choose the groups, so an empty one must not stay.
        if not group.number_on_time and not group.number_late and self._groups.get(group.name) is group:
            del self._groups[group.name]

    def _leave(self, request_id: int) -> _Entry:
        """Take an admitted request out for good."""
        entry = self._admitted.pop(request_id)
        if entry.lane == _RUNNING:
            self._counts[_RUNNING] -= 1
            return entry
        self._count(entry, -1)
        self._end_group(entry.group)
        self._left_behind += 1
        if self._left_behind > 64 + self.queued:
            self._sweep()
        return entry

    def _remove(self, request_id: int) -> bool:
        if request_id not in self._admitted:
            return False
        self._leave(request_id)
        return True

    def _sweep(self) -> None:
        """Drop the ids that have left their lane, so that requests which expire unserved do not pile up."""
        self._left_behind = 0
        self._late = deque(self._waiting(self._late, _LATE))
        self._retry = deque(self._waiting(self._retry, _RETRY))
        for _, id_, _ in self._heads:
            if id_ in self._admitted:
                self._admitted[id_].is_head = False
        self._heads.clear()
        for group in self._groups.values():
            group.on_time = [item for item in group.on_time if self._is_in(item[1], _ON_TIME)]
            heapify(group.on_time)
            group.late = deque(self._waiting(group.late, _LATE))
            self._announce(group)

    def _sweep_early(self) -> None:
        self._early = [item for item in self._early if item[1] in self._admitted]
        heapify(self._early)

    def _is_in(self, request_id: int, lane: int) -> bool:
        entry = self._admitted.get(request_id)
        return entry is not None and entry.lane == lane

    def _waiting(self, ids: deque[int], lane: int) -> list[int]:
        return [id_ for id_ in ids if self._is_in(id_, lane)]

    def _announce(self, group: _Group) -> None:
        """Put the first of ``group`` among the heads, if it has one that is not there."""
        if group.on_time:
            key, id_ = group.on_time[0]
            entry = self._admitted[id_]
            if not entry.is_head:
                entry.is_head = True
                heappush(self._heads, (key, id_, group))

    def _first_group(self) -> _Group:
        """The group whose head is first of all; there must be one."""
        while True:
            _, id_, group = self._heads[0]
            if self._is_in(id_, _ON_TIME):
                return group
            # It has left, and what stands first in its group now may not have been announced.
            heappop(self._heads)
            self._drop_left(group)
            self._announce(group)

    def _head(self, group: _Group) -> Request:
        self._drop_left(group)
        return self._admitted[group.on_time[0][1]].request

    def _drop_left(self, group: _Group) -> None:
        while group.on_time and not self._is_in(group.on_time[0][1], _ON_TIME):
            heappop(group.on_time)

    def _first_late(self) -> int:
        while not self._is_in(self._late[0], _LATE):
            self._late.popleft()
        return self._late[0]

    def _head_is_late(self, group: _Group) -> None:
        id_ = heappop(group.on_time)[1]
        self._move([self._admitted[id_]], _LATE)
        self._late.append(id_)
        group.late.append(id_)

    def _pop(self, ids: deque[int], lane: int) -> _Entry:
        while not self._is_in(ids[0], lane):
            ids.popleft()
        return self._admitted[ids.popleft()]

    def _next_expiry(self) -> float | None:
        while self._early and self._early[0][1] not in self._admitted:
            heappop(self._early)
        ends = [self._early[0][0]] if self._early else []
        if self._admitted:
            ends.append(next(iter(self._admitted.values())).request.expires)
        return min(ends, default=None)

    def _expired(self, now: float) -> tuple[Request, ...]:
        expired: list[Request] = []
        while (end := self._next_expiry()) is not None and end <= now:
            early = self._early and self._early[0][0] == end
            expired.append(self._leave(self._early[0][1] if early else next(iter(self._admitted))).request)
        return tuple(expired)
