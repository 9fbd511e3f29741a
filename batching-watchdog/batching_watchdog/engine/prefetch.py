"""Selects busy workers that get their next batch early. [P]

A worker that waits for a device would idle from its reply until the front end, which has other requests to
read, sends its next batch. So that batch is sent shortly before, as late as possible, so that more requests
can join it. Until the worker begins it, requests that leave are cancelled. ``Engine`` chooses the batch.
"""

from collections.abc import Iterator, Mapping
from math import inf
from typing import Final

from batching_watchdog.engine.effects import Cancel, Worker
from batching_watchdog.engine.tuning import TUNING
from batching_watchdog.function.messages import Batch, DispatchReason, Request

WEIGHT: Final = 1 / 16
"""Weight of the newest batch in the workers' computing share."""


class Prefetch:
    """The next batches of busy workers, and the workers that may get one now."""

    __slots__ = ("_computing", "_lead", "batches", "cpus", "workers")

    def __init__(self, workers: int, lead: float, cpus: float) -> None:
        """``lead``: seconds before the end of a batch from which its worker may get the next; 0: never early.

        ``cpus``: the cores that workers and front end share.
        """
        self.workers = workers
        self._lead = lead
        self.cpus = cpus
        self._computing = 0.0
        """Share of a batch's time in which the worker computes; in the rest it waits for a device."""
        self.batches: dict[Worker, Batch] = {}
        """The early batch of each worker."""

    def observe(self, share: float) -> None:
        """Record that a worker computed for ``share`` of its batch's time."""
        self._computing += WEIGHT * (share - self._computing)

    def due(self, running: Mapping[Worker, Batch], now: float) -> list[Worker]:
        """Return the busy workers that may get their next batch now.

        An overdue worker gets none, because it may take much longer.
        """
        return [worker for worker, opens, closes in self._spans(running) if opens <= now < closes]

    def next_due(self, running: Mapping[Worker, Batch], now: float) -> float:
        """Return the time from which the next busy worker may get its next batch; ``inf``: none may."""
        return min((opens for _, opens, _ in self._spans(running) if now < opens), default=inf)

    def _spans(self, running: Mapping[Worker, Batch]) -> Iterator[tuple[Worker, float, float]]:
        """Yield the workers without an early batch, and from when until when each may get one.

        Workers that compute on the cores gain nothing, since the front end's work takes their time. Behind a
        part of a failed batch its other part may go next, which is known when it ends.
        """
        if not self._lead or self.workers * self._computing > TUNING.device_bound * self.cpus:
            return
        for worker, batch in running.items():
            if worker not in self.batches and batch.reason is not DispatchReason.RETRY:
                done = batch.dispatched + batch.seconds
                yield worker, done - min(self._lead, TUNING.lead_share * batch.seconds), done + self._lead

    def cancels(self, request: Request) -> Iterator[Cancel]:
        """Yield the cancellation for a leaving request of an early batch: its worker skips it."""
        for worker, batch in self.batches.items():
            if request in batch.requests:
                yield Cancel(worker, [batch.requests.index(request)])
