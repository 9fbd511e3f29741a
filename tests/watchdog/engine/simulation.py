"""The law in virtual time: scheduler and latency model as they are, made-up workers, Poisson arrivals."""

import random
from dataclasses import dataclass, field
from heapq import heappop, heappush
from math import inf

from batching_watchdog.engine.latency import LatencyModel
from batching_watchdog.engine.policy import POLICIES, PolicySettings
from batching_watchdog.engine.scheduler import Dispatch, Expire, Scheduler, Shed, Sleep
from batching_watchdog.errors import QueueFull
from batching_watchdog.messages import Batch, Request
from watchdog.engine.queues import Law


@dataclass
class Outcome:
    """What became of the requests, each with the time of its arrival."""

    good: list[float] = field(default_factory=list)
    slow: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)
    shed: list[float] = field(default_factory=list)
    expired: list[float] = field(default_factory=list)

    def attainment(self, start: float = 0.0, end: float = inf) -> float:
        """Share of the requests that arrived in this time and were answered within the SLO."""
        missed = (*self.slow, *self.refused, *self.shed, *self.expired)
        good = sum(start <= arrived < end for arrived in self.good)
        return good / max(1, good + sum(start <= arrived < end for arrived in missed))


class Simulation:
    """One watchdog with ``workers`` that follow ``law``, with a little noise. Goes on from run to run."""

    def __init__(
        self,
        law: Law,
        *,
        workers: int = 2,
        slo_latency: float = 0.1,
        max_batch_size: int = 64,
        max_inflight: int = 4096,
        policy: str = "slo",
        shed_late: bool = False,
        early: bool = False,
        timeout: float = 30.0,
        way_back: float = 0.0,
    ) -> None:
        self.law = law
        self.workers = workers
        self.slo_latency = slo_latency
        self.early = early
        self.timeout = timeout
        self.way_back = way_back
        self.now = 0.0
        self.model = LatencyModel(max_batch_size)
        self.scheduler = Scheduler(
            POLICIES[policy](PolicySettings(max_batch_size, 0.0, slo_latency)),
            self.model,
            max_inflight=max_inflight,
            shed_late=shed_late,
        )
        self.sizes: list[int] = []
        self._random = random.Random(1)
        self._idle = workers
        self._running: list[tuple[float, int, Batch]] = []
        self._number = 0

    def run(self, rate: float, seconds: float) -> Outcome:
        """Offer ``rate`` requests per second for ``seconds``, then let what is queued run out."""
        outcome = Outcome()
        end = self.now + seconds
        arrival = self.now + self._random.expovariate(rate)
        while True:
            wake = self._act(outcome)
            arrival = arrival if arrival < end else inf
            ends = self._running[0][0] if self._running else inf
            self.now = max(self.now, min(arrival, ends, wake))
            if self.now == inf:
                self.now = end
                return outcome
            if ends <= self.now:
                self._finish(outcome)
            elif arrival <= self.now:
                self._offer(outcome)
                arrival += self._random.expovariate(rate)

    def _offer(self, outcome: Outcome) -> None:
        now = self.now
        self._number += 1
        request = Request(self._number, b"", b"", now, now + self.slo_latency, now + self.timeout)
        if (
            self.early
            and not self._idle
            and self.scheduler.predicts_late(request.deadline, now, self.workers)
        ):
            outcome.refused.append(now)
            return
        try:
            displaced = self.scheduler.offer(request, self.workers)
        except QueueFull:
            outcome.refused.append(now)
        else:
            if displaced is not None:
                outcome.shed.append(displaced.arrived)

    def _act(self, outcome: Outcome) -> float:
        while not isinstance(action := self.scheduler.next_action(self.now, self._idle), Sleep):
            if isinstance(action, Dispatch):
                size = len(action.batch.requests)
                self.sizes.append(size)
                self._idle -= 1
                took = self.law(size) * self._random.lognormvariate(0.0, 0.03)
                heappush(self._running, (self.now + took, self._number + len(self.sizes), action.batch))
            elif isinstance(action, Expire):
                outcome.expired += [request.arrived for request in action.requests]
            elif isinstance(action, Shed):
                outcome.shed += [request.arrived for request in action.requests]
        return inf if action.until is None else action.until

    def _finish(self, outcome: Outcome) -> None:
        _, _, batch = heappop(self._running)
        self._idle += 1
        seconds = self.now - batch.dispatched
        self.model.observe(len(batch.requests), seconds)
        self.scheduler.observe(len(batch.requests), seconds)
        for request in self.scheduler.finish(batch.requests):
            on_time = self.now + self.way_back <= request.deadline
            (outcome.good if on_time else outcome.slow).append(request.arrived)
