"""Finds the request at fault in a batch that failed. [P]

One rule for whatever failed it: a handler that raised, a lack of memory, a worker that died. A batch of
several is never answered with its error. Both halves of it are tried, and halved again if they fail (binary
splitting: F. K. Hwang, "A method for detecting all defective members in a population by group testing", JASA
67, 1972). If a part fails, the fault is taken to be in it, and those that wait beside it go back to their
lane unsuspected. If all but one part passed, the fault is in that one, which is halved without a try. If all
parts passed after a lack of memory, the batch was too large.

Where faults are dense, smaller batches find them with fewer tries. So each batch that fails whole halves the
largest batch of its pool, and each that passes doubles it: about half of the batches pass then, which is the
best for group tests. While all fail, each request is tried once, and the first that passes ends that.

``Suspects`` owns the parts that wait, by deadline, and those that run, and counts failures. ``Engine``
chooses the time of a try.
"""

from bisect import insort
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from math import inf

from batching_watchdog.engine.effects import Worker
from batching_watchdog.engine.lanes import SUSPECT
from batching_watchdog.engine.tuning import TUNING
from batching_watchdog.function.messages import Batch, Request


@dataclass(slots=True, eq=False)
class Failure:
    """A batch that failed whole."""

    size: int
    kills: bool
    """Whether a worker died under it: another may."""
    out_of_memory: bool = False
    passed: int = 0
    """Of its requests, those in parts that passed."""


@dataclass(slots=True, eq=False)
class Part:
    """Requests of a failed batch that are tried together."""

    requests: list[Request]
    failure: Failure

    @property
    def deadline(self) -> float:
        """The tightest one."""
        return min(request.deadline for request in self.requests)


class Suspects:
    """The parts of failed batches, and what failures show of workers."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._waiting: list[Part] = []
        self._running: dict[Worker, Part] = {}
        self._failed: Counter[Worker] = Counter()
        """Batches in a row that failed whole on a worker, without parts of such."""
        self._killed_at = -inf
        """When the last part that killed its worker was sent."""

    def __bool__(self) -> bool:
        """Return whether a part waits."""
        return bool(self._waiting)

    @property
    def due(self) -> int:
        """Number of requests with a deadline that wait."""
        return sum(len(_still(part.requests)) for part in self._waiting if part.deadline < inf)

    def failures(self, worker: Worker) -> int:
        """Return the batches in a row that failed whole on ``worker``, without parts of such."""
        return self._failed[worker]

    def forget(self, worker: Worker) -> None:
        """Forget the failures of a worker that has ended, or can serve."""
        self._failed.pop(worker, None)

    def first(self) -> Request | None:
        """Return the waiting request with the earliest deadline; None without one."""
        waiting = (request for part in self._waiting for request in _still(part.requests))
        return next(waiting, None)

    def next(self, now: float, alive: Collection[Worker]) -> Part | None:
        """Return the waiting part with the earliest deadline that may be tried now.

        Of the parts that may kill a worker one runs at a time, and none if one has killed its worker lately
        and too few others are alive. Requests that have left are dropped.
        """
        few = self.workers - len(alive) >= TUNING.missing * self.workers
        safe = not (few and now < self._killed_at + TUNING.lately)
        safe = safe and not any(part.failure.kills for part in self._running.values())
        for part in list(self._waiting):
            part.requests = _still(part.requests)
            if not part.requests:
                self._waiting.remove(part)
            elif safe or not part.failure.kills:
                return part
        return None

    def send(self, part: Part, worker: Worker) -> list[Request]:
        """Return the requests of ``part`` that ``worker`` tries: as many as its pool allows."""
        pool = part.requests[0].lane.pool
        most = int(min(pool.limit, pool.times.ceiling, len(part.requests)))
        self._waiting.remove(part)
        self._wait(part.requests[most:], part.failure)
        self._running[worker] = Part(part.requests[:most], part.failure)
        return part.requests[:most]

    def split(self, requests: list[Request], failure: Failure) -> None:
        """Try both halves of a batch that failed."""
        half = (len(requests) + 1) // 2
        self._wait(requests[:half], failure)
        self._wait(requests[half:], failure)

    def passed(self, worker: Worker, batch: Batch) -> Failure | None:
        """Note that a batch succeeded; return the larger one that ran out of memory, if that shows it."""
        self.forget(worker)
        batch.requests[0].lane.pool.limit *= 2
        part = self._running.pop(worker, None)
        if part is None:
            return None
        failure = part.failure
        failure.passed += len(part.requests)
        if failure.out_of_memory:
            return failure if failure.passed == failure.size else None
        for other in self._waiting:
            size = len(other.requests)
            if other.failure is failure and failure.passed + size == failure.size and size > 1:
                self._waiting.remove(other)
                self.split(_still(other.requests), Failure(size, failure.kills))
                break
        return None

    def failed(self, worker: Worker, batch: Batch, *, kills: bool = False) -> list[Request]:
        """Note that a batch failed whole; if it was a part, return those that wait beside it, unsuspected."""
        size = len(batch.requests)
        if size > 1:
            pool = batch.requests[0].lane.pool
            pool.limit = max(1.0, min(pool.limit, size) / 2)
        part = self._running.pop(worker, None)
        if part is None:
            self._failed[worker] += 1
            return []
        if kills:
            self._killed_at = batch.dispatched
        beside = [other for other in self._waiting if other.failure is part.failure]
        self._waiting = [other for other in self._waiting if other.failure is not part.failure]
        return [request for other in beside for request in _still(other.requests)]

    def _wait(self, requests: list[Request], failure: Failure) -> None:
        if requests:
            for request in requests:
                request.place = SUSPECT
            insort(self._waiting, Part(requests, failure), key=lambda part: part.deadline)


def _still(requests: Iterable[Request]) -> list[Request]:
    return [request for request in requests if request.place == SUSPECT]
