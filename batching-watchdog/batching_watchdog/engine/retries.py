"""Finds the request at fault in a batch that failed. [P]

One bisection for a handler that raised and for a worker that died. Of the two halves of a failed batch the
first is tried, and the second is held. If the first fails too, the fault is taken to be in it: it is halved
in turn, and the second half goes back to its lane unsuspected. If it succeeds, the second is halved without
a try. So a bad request costs about log2(n) tries, half of which serve requests (binary splitting: F. K.
Hwang, "A method for detecting all defective members in a population by group testing", JASA 67, 1972).

``Suspects`` owns the parts that wait, by deadline, and those that run. ``Engine`` chooses the time of a try.
"""

from bisect import insort
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from batching_watchdog.engine.effects import Worker
from batching_watchdog.messages import Request

SUSPECT: Final = 2
"""``Request.place`` of a request in a part that waits or is held."""


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
    """The parts of failed batches."""

    def __init__(self) -> None:
        self._waiting: list[Part] = []
        self._running: dict[Worker, Part] = {}

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def split(self, requests: Sequence[Request], *, kills: bool, alone: bool = False) -> None:
        """Try the first half of a failed batch, or one request ``alone``, and hold the others."""
        if requests:
            first = 1 if alone else (len(requests) + 1) // 2
            self._add(Part(list(requests[:first]), list(requests[first:]), kills))

    def first(self) -> Request | None:
        """Return the waiting request with the earliest deadline; None without one."""
        waiting = (request for part in self._waiting for request in _still(part.requests))
        return next(waiting, None)

    def due(self) -> Iterable[Part]:
        """Return the waiting parts that may be tried now, by deadline.

        Requests that have left are dropped. Of the parts that may kill a worker one runs at a time.
        """
        killing = any(part.kills for part in self._running.values())
        for part in list(self._waiting):
            part.requests = _still(part.requests)
            if not part.requests:
                self._waiting.remove(part)
                self._go_on(part)
            elif not (killing and part.kills):
                yield part

    def send(self, part: Part, worker: Worker) -> None:
        """Note that ``worker`` tries ``part``."""
        self._waiting.remove(part)
        self._running[worker] = part

    def passed(self, worker: Worker) -> None:
        """Note that the part of ``worker``, if it had one, succeeded: the fault is in what was held."""
        part = self._running.pop(worker, None)
        if part is not None:
            self._go_on(part)

    def failed(self, worker: Worker) -> list[Request]:
        """Note that the part of ``worker`` failed; return what was held for it, unsuspected."""
        part = self._running.pop(worker, None)
        return [] if part is None else _still(part.held)

    def _go_on(self, part: Part) -> None:
        self.split(_still(part.held), kills=part.kills)

    def _add(self, part: Part) -> None:
        insort(self._waiting, part, key=lambda each: each.deadline)


def _still(requests: Sequence[Request]) -> list[Request]:
    return [request for request in requests if request.place == SUSPECT]
