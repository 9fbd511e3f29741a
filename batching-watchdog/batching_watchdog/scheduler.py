"""The queue: which requests are admitted, which leave next, and why. [P]

Owns every admitted request from ``offer`` to ``finish``. It has three lanes: retries (alone, first), on time
(ordered as the policy wants), and late (in order of arrival, served only when nothing on time wants the
worker). ``batcher`` asks ``next_action`` and carries it out; nothing here does.

Rules of this file: every admitted request leaves exactly once, as a part of a Dispatch that is finished, as
Expire, as Shed, or withdrawn; the number admitted never passes ``max_inflight``.
"""

from collections import OrderedDict, deque
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum, auto
from heapq import heapify, heappop, heappush

from batching_watchdog.errors import QueueFull
from batching_watchdog.latency import LatencyModel
from batching_watchdog.messages import Batch, DispatchReason, Request
from batching_watchdog.policy import BatchingPolicy, Late, QueueHead, Take


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
    """Answer these with 503: they can not be on time, and late requests are not served."""

    requests: tuple[Request, ...]


@dataclass(frozen=True, slots=True)
class Sleep:
    """Nothing to do until something happens, or until ``until`` if that is not None."""

    until: float | None


class _Lane(Enum):
    ON_TIME = auto()
    LATE = auto()
    RETRY = auto()
    RUNNING = auto()


class _Entry:
    """One admitted request and where it is. It stays in a lane's container after it has left the lane."""

    __slots__ = ("attempts", "lane", "request")

    def __init__(self, request: Request) -> None:
        self.request = request
        self.lane: _Lane | None = _Lane.ON_TIME
        self.attempts = 0


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
        self._on_time: list[tuple[float, int, _Entry]] = []
        self._late: deque[_Entry] = deque()
        self._retry: deque[_Entry] = deque()
        self._early: list[tuple[float, int]] = []
        self._latest = 0.0
        self._left_behind = 0
        self._counts = dict.fromkeys(_Lane, 0)

    @property
    def admitted(self) -> int:
        """Requests queued and running."""
        return len(self._admitted)

    @property
    def queued(self) -> int:
        """Requests that wait for a worker, in whatever lane."""
        return len(self._admitted) - self._counts[_Lane.RUNNING]

    @property
    def full(self) -> bool:
        """Whether the next ``offer`` would be refused."""
        return len(self._admitted) >= self._max_inflight

    def refusal(self, workers: int) -> QueueFull:
        """The error for a request that finds the queue full; Retry-After is the time to work half of it off."""
        per_second = (
            workers * self._model.best_size / max(self._model.predict_mean(self._model.best_size), 1e-6)
        )
        return QueueFull(self._max_inflight, max(1, min(60, round(self.queued / per_second / 2))))

    def offer(self, request: Request, workers: int = 1) -> None:
        """Admit ``request``. Raises ``QueueFull`` when ``max_inflight`` requests are admitted."""
        if self.full:
            raise self.refusal(workers)
        # Equal timeouts expire in order of admission; only a shorter one needs a place of its own.
        if request.expires < self._latest:
            heappush(self._early, (request.expires, request.id))
        else:
            self._latest = request.expires
        entry = _Entry(request)
        self._admitted[request.id] = entry
        self._counts[_Lane.ON_TIME] += 1
        key = request.deadline if self._policy.deadline_order else request.arrived
        heappush(self._on_time, (key, request.id, entry))

    def withdraw(self, request_id: int) -> bool:
        """Forget a request whose client has gone. False if it was not admitted (any more)."""
        return self._remove(request_id) is not None

    def finish(self, requests: Iterable[Request]) -> list[Request]:
        """Take out requests of a dispatched batch that are answered; those returned were still awaited."""
        return [request for request in requests if self._remove(request.id) is not None]

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
                self._move(entry, _Lane.RETRY)
                self._retry.append(entry)
        return lost

    def next_action(self, now: float, idle: int) -> Dispatch | Expire | Shed | Sleep:
        """What to do at ``now`` with ``idle`` free workers. To be called again until it answers Sleep."""
        expired = self._expired(now)
        if expired:
            return Expire(expired)
        if idle < 1 and not (self._shed_late and self._counts[_Lane.ON_TIME]):
            return Sleep(self._next_expiry())
        if idle and self._counts[_Lane.RETRY]:
            entry = self._pop(self._retry, _Lane.RETRY)
            return self._dispatch([entry], DispatchReason.RETRY, now)
        wait: float | None = None
        while self._counts[_Lane.ON_TIME]:
            head = self._head()
            answer = self._policy.decide(
                QueueHead(self._counts[_Lane.ON_TIME], head.arrived, head.deadline), now, self._model
            )
            if isinstance(answer, Late):
                self._head_is_late()
                continue
            if isinstance(answer, Take) and idle:
                entries = [self._pop_on_time() for _ in range(answer.size)]
                return self._dispatch(entries, answer.reason, now)
            wait = None if isinstance(answer, Take) else answer.until
            break
        if self._shed_late and self._counts[_Lane.LATE]:
            entries = [self._pop(self._late, _Lane.LATE) for _ in range(self._counts[_Lane.LATE])]
            for entry in entries:
                self._remove(entry.request.id)
            return Shed(tuple(entry.request for entry in entries))
        if idle and self._counts[_Lane.LATE] and not self._counts[_Lane.ON_TIME]:
            size = min(self._counts[_Lane.LATE], self._model.best_size)
            entries = [self._pop(self._late, _Lane.LATE) for _ in range(size)]
            return self._dispatch(entries, DispatchReason.LATE, now)
        ends = [time for time in (wait, self._next_expiry()) if time is not None]
        return Sleep(min(ends, default=None))

    def _dispatch(self, entries: list[_Entry], reason: DispatchReason, now: float) -> Dispatch:
        for entry in entries:
            entry.attempts += 1
            self._move(entry, _Lane.RUNNING)
        return Dispatch(Batch(tuple(entry.request for entry in entries), reason, now))

    def _move(self, entry: _Entry, lane: _Lane) -> None:
        if entry.lane is not None:
            self._counts[entry.lane] -= 1
        entry.lane = lane
        self._counts[lane] += 1

    def _remove(self, request_id: int) -> _Entry | None:
        entry = self._admitted.pop(request_id, None)
        if entry is not None and entry.lane is not None:
            self._counts[entry.lane] -= 1
            self._left_behind += entry.lane is not _Lane.RUNNING
            entry.lane = None
            if self._left_behind > max(64, self.queued):
                self._sweep()
        return entry

    def _sweep(self) -> None:
        """Drop what has left its lane, so that requests which expire unserved do not pile up behind it."""
        self._left_behind = 0
        self._on_time = [item for item in self._on_time if item[2].lane is _Lane.ON_TIME]
        heapify(self._on_time)
        self._late = deque(entry for entry in self._late if entry.lane is _Lane.LATE)
        self._retry = deque(entry for entry in self._retry if entry.lane is _Lane.RETRY)
        self._early = [item for item in self._early if item[1] in self._admitted]
        heapify(self._early)

    def _head(self) -> Request:
        while self._on_time[0][2].lane is not _Lane.ON_TIME:
            heappop(self._on_time)
        return self._on_time[0][2].request

    def _pop_on_time(self) -> _Entry:
        self._head()
        return heappop(self._on_time)[2]

    def _head_is_late(self) -> None:
        entry = self._pop_on_time()
        self._move(entry, _Lane.LATE)
        self._late.append(entry)

    @staticmethod
    def _pop(lane: deque[_Entry], name: _Lane) -> _Entry:
        while True:
            entry = lane.popleft()
            if entry.lane is name:
                return entry

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
            request_id = self._early[0][1] if early else next(iter(self._admitted))
            entry = self._remove(request_id)
            if entry is not None:
                expired.append(entry.request)
        return tuple(expired)
