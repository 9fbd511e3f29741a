"""Finds the request at fault in a batch that failed. [P]

One bisection for a handler that raised and for a worker that died. Of the two halves of a failed batch the
first is tried, and the second is held. If the first fails too, the fault is taken to be in it: it is halved
in turn, and the second half goes back to its lane unsuspected. If it succeeds, the second is halved without
a try. So a bad request costs about log2(n) tries, half of which serve requests (binary splitting: F. K.
Hwang, "A method for detecting all defective members in a population by group testing", JASA 67, 1972).

``Suspects`` owns the parts that wait, by deadline, and those that run, and counts failures. ``Engine``
chooses the time of a try.
"""

from bisect import insort
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from math import inf

from batching_watchdog.engine.effects import Worker
from batching_watchdog.engine.lanes import SUSPECT
from batching_watchdog.engine.tuning import TUNING
from batching_watchdog.messages import Batch, DispatchReason, Request


@dataclass(slots=True, eq=False)
class Part:
    """Requests that are tried together, and those that wait for the result."""

    requests: list[Request]
    held: list[Request] = field(default_factory=list)
    kills: bool = False
    """Whether a worker died under them: another may."""

    @property
    def deadline(self) -> float:
        """The tightest one."""
        return min(request.deadline for request in self.requests)


class Suspects:
    """The parts of failed batches, and what failures show of workers and of the function."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._waiting: list[Part] = []
        self._running: dict[Worker, Part] = {}
        self._in_a_row = 0
        """Batches that failed whole since one succeeded."""
        self._failed: Counter[Worker] = Counter()
        """Batches in a row that failed whole on a worker, without parts of such."""
        self._killed_at = -inf
        """When the last part that killed its worker was sent."""

    def __len__(self) -> int:
        """Return the number of requests that wait or are held."""
        parts = [*self._waiting, *self._running.values()]
        return sum(len(_still(part.requests)) + len(_still(part.held)) for part in parts)

    @property
    def only_failures(self) -> bool:
        """Whether only parts of failed batches show whether the function works: they go first."""
        return self._in_a_row >= TUNING.parts_first

    @property
    def down(self) -> bool:
        """Whether all requests seem to fail, as if what the function needs were down."""
        return self._in_a_row >= TUNING.down_after

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
        safe = safe and not any(part.kills for part in self._running.values())
        for part in list(self._waiting):
            part.requests = _still(part.requests)
            if not part.requests:
                self._waiting.remove(part)
                self.split(_still(part.held), kills=part.kills)
            elif safe or not part.kills:
                return part
        return None

    def send(self, part: Part, worker: Worker) -> None:
        """Note that ``worker`` tries ``part``."""
        self._waiting.remove(part)
        self._running[worker] = part

    def split(self, requests: Sequence[Request], *, kills: bool) -> None:
        """Try the first half of a failed batch, and hold the others."""
        if requests:
            for request in requests:
                request.place = SUSPECT
            half = (len(requests) + 1) // 2
            part = Part(list(requests[:half]), list(requests[half:]), kills)
            insort(self._waiting, part, key=lambda waiting: waiting.deadline)

    def passed(self, worker: Worker) -> None:
        """Note that a batch of ``worker`` succeeded; if it was a part, the fault is in what was held."""
        self._in_a_row = 0
        self.forget(worker)
        part = self._running.pop(worker, None)
        if part is not None:
            self.split(_still(part.held), kills=part.kills)

    def failed(self, worker: Worker, batch: Batch, *, kills: bool = False) -> list[Request]:
        """Note that a batch failed whole; if it was a part, return what was held for it, unsuspected."""
        self._in_a_row += 1
        if batch.reason is not DispatchReason.RETRY:
            self._failed[worker] += 1
        elif kills:
            self._killed_at = batch.dispatched
        return self.ended(worker)

    def ended(self, worker: Worker) -> list[Request]:
        """Note that a part shows nothing, if ``worker`` had one; return what was held for it."""
        part = self._running.pop(worker, None)
        return [] if part is None else _still(part.held)


def _still(requests: Sequence[Request]) -> list[Request]:
    return [request for request in requests if request.place == SUSPECT]
