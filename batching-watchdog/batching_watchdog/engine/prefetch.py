"""The batch that a worker has before it is done with the one before. [P]

A worker that waits for a device would idle from its reply until the front end, which has other requests to
read, sends it the next batch. Sent shortly before, that is there when the worker looks for it, and all that
came until then could join it. Until the worker begins, requests that leave are cancelled. ``Engine`` decides
what is sent.
"""

from collections.abc import Mapping
from math import inf
from typing import Final

from batching_watchdog.engine.effects import Cancel, Worker
from batching_watchdog.messages import Batch, Request

LEAD: Final = 0.003
"""Seconds from a worker's reply to its next batch, while the front end has other requests to read as well. At
3,000 requests/s, in batches of 80 on two cores (l(b) = 8 + 0.5 b ms), that took 1.9 ms in the median and
3.6 ms in nine of ten. A batch that is sent too early lacks the requests that come after it: of 1, 2, 3 and
5 ms, 2 and 3 held the highest rate in simulation, that of a worker with no such pause."""
LEAD_SHARE: Final = 0.25
"""Of a batch's time: its worker has the next one no earlier than that before it is done."""
DEVICE_BOUND: Final = 0.5
"""Of the cores: what the workers may compute themselves for a batch to be sent early. Beyond that the front
end has no core of its own, and the pause is no loss."""
WEIGHT: Final = 1 / 16
"""Of the newest batch in what a worker is known to compute."""


class Prefetch:
    """What workers run next that are still busy, and which of them may have it now."""

    __slots__ = ("_cancelled", "_computing", "_cpus", "_lead", "_workers", "batches")

    def __init__(self, workers: int, lead: float, cpus: float) -> None:
        """``lead``: seconds before a batch is done from which its worker may have the next; 0: not before.

        ``cpus``: the cores that the workers and the front end share.
        """
        self._workers = workers
        self._lead = lead
        self._cpus = cpus
        self._computing = 0.0
        """Of a worker's time with a batch, what it computes itself: the rest it waits for a device."""
        self.batches: dict[Worker, Batch] = {}
        """What has been sent, by worker: one at most."""
        self._cancelled: dict[Worker, list[int]] = {}

    def observe(self, share: float) -> None:
        """A worker computed for ``share`` of the time of its batch."""
        self._computing += WEIGHT * (share - self._computing)

    def due(self, running: Mapping[Worker, Batch], now: float) -> tuple[list[Worker], float]:
        """Busy workers that may have their next batch now, and when there may be another.

        A worker that takes longer than it should may take much longer: it is waited for. Workers that need
        the cores themselves gain nothing by it, since what is done meanwhile takes their time.
        """
        found: list[Worker] = []
        following = inf
        if not self._lead or self._workers * self._computing > DEVICE_BOUND * self._cpus:
            return found, following
        for worker, batch in running.items():
            if worker in self.batches:
                continue
            done = batch.dispatched + batch.seconds
            opens = done - min(self._lead, LEAD_SHARE * batch.seconds)
            if now < opens:
                following = min(following, opens)
            elif now < done + self._lead:
                found.append(worker)
        return found, following

    def leave(self, request: Request) -> None:
        """A request leaves that is with a worker: it is not to be run if that has not begun with it."""
        for worker, batch in self.batches.items():
            if request in batch.requests:
                self._cancelled.setdefault(worker, []).append(batch.requests.index(request))

    def cancels(self) -> list[Cancel]:
        """What to tell the workers of the requests that have just left."""
        cancelled, self._cancelled = self._cancelled, {}
        return [Cancel(worker, gone) for worker, gone in cancelled.items()]
