"""The engine in virtual time: it and its cost model as they are, made-up workers, Poisson arrivals."""

import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass, field
from heapq import heappop, heappush
from math import inf
from typing import NamedTuple

from batching_watchdog.engine.cost import CostModel
from batching_watchdog.engine.effects import Cancel, Dispatch, Effect, WakeAt
from batching_watchdog.engine.engine import Engine
from batching_watchdog.engine.policy import POLICIES, PolicySettings
from batching_watchdog.errors import Expired, QueueFull
from batching_watchdog.messages import Batch, Reply, Request
from watchdog.engine.queues import Law


class Part(NamedTuple):
    """A kind of request and how often it comes."""

    share: float
    path: bytes = b"POST /"
    batch_key: bytes = b""
    length: int = 0
    """Of the body, and what ``law`` is given of a batch if that is padded: the longest."""
    budget: float | None = None
    slo_class: str = ""


def paths(count: int) -> list[Part]:
    return [Part(1.0, b"POST /%d" % number) for number in range(count)]


class Simulated:
    """A worker, the size of the batch that it runs, and of the one it has next."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.size = 0
        self.next: Sequence[Request] = ()

    def send(self, batch: Batch) -> None:
        """Nothing: the simulation has the effect."""

    def cancel(self, indexes: Sequence[int]) -> None:
        """Nothing: all is run."""


@dataclass
class Outcome:
    """What became of the requests, each with the time of its arrival."""

    good: list[float] = field(default_factory=list)
    slow: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)
    shed: list[float] = field(default_factory=list)
    expired: list[float] = field(default_factory=list)
    classes: dict[str, "Outcome"] = field(default_factory=dict)
    """Likewise of each SLO class."""

    def add(self, kind: str, request: Request) -> None:
        """Note that ``request`` ended as the field ``kind`` says."""
        of_class = self.classes.setdefault(request.slo_class, Outcome())
        for outcome in (self, of_class):
            getattr(outcome, kind).append(request.arrived)

    def attainment(self, start: float = 0.0, end: float = inf) -> float:
        """Share of the requests that arrived in this time and were answered within the SLO."""
        missed = (*self.slow, *self.refused, *self.shed, *self.expired)
        good = sum(start <= arrived < end for arrived in self.good)
        return good / max(1, good + sum(start <= arrived < end for arrived in missed))


@dataclass
class Simulation:
    """One watchdog with ``workers`` that follow ``law``, with a little noise. Goes on from run to run."""

    law: Law
    _: KW_ONLY
    workers: int = 2
    slo_latency: float = 0.1
    max_batch_size: int = 64
    max_inflight: int = 4096
    shed_late: bool = False
    early: bool = False
    way_back: float = 0.0
    lead: float = 0.0
    turnaround: float = 0.0
    """Seconds from a reply until a batch that is sent then begins."""
    mix: Sequence[Part] = (Part(1.0),)
    mix_paths: bool = True
    clients_wait: float = inf
    """Seconds after which a client disconnects."""
    padded: Callable[[int, int], float] | None = None
    """Instead of ``law``: seconds by size and length of the longest."""
    by_length: bool = True
    """Whether the engine sees how long bodies are."""
    noise: float = 0.03

    def __post_init__(self) -> None:
        self.now = 0.0
        self.cost = CostModel(self.max_batch_size)
        if self.mix_paths:
            self.cost.mix_paths()
        self.model = self.cost.overall
        self.engine = Engine(
            POLICIES["slo"](PolicySettings(self.max_batch_size, 0.0, self.slo_latency)),
            self.cost,
            max_inflight=self.max_inflight,
            workers=self.workers,
            shed_late=self.shed_late,
            lead=self.lead,
        )
        self.sizes: list[int] = []
        self._waiting: deque[Request] = deque()
        self._random = random.Random(1)
        self._running: list[tuple[float, int, Simulated]] = []
        self._number = 0
        self._wake = inf
        for number in range(self.workers):
            self.engine.worker_ready(Simulated(number))

    def run(self, rate: float, seconds: float, *, to_the_end: bool = True) -> Outcome:
        """Offer ``rate`` requests per second for ``seconds``; ``to_the_end``: then serve what is queued."""
        outcome = Outcome()
        end = self.now + seconds
        arrival = self.now + self._random.expovariate(rate)
        while True:
            self._wake = inf
            self._carry_out(self.engine.tick(self.now), outcome)
            arrival = arrival if arrival < end else inf
            ends = self._running[0][0] if self._running else inf
            leaves = self._waiting[0].arrived + self.clients_wait if self._waiting else inf
            event = min(arrival, ends, self._wake, leaves)
            if event == inf or (event > end and not to_the_end):
                self.now = end
                return outcome
            self.now = max(self.now, event)
            if leaves <= self.now:
                self._give_up(self._waiting.popleft(), outcome)
            elif ends <= self.now:
                _, _, worker = heappop(self._running)
                replies = [Reply(200, b"", b"")] * worker.size
                self._carry_out(self.engine.batch_done(worker, replies, self.now)[1], outcome)
                worker.size = 0
                if worker.next:
                    self._begin(worker, worker.next, self.now)
                    worker.next = ()
                self.engine.worker_ready(worker)
            elif arrival <= self.now:
                self._offer(outcome)
                arrival += self._random.expovariate(rate)

    def lose_worker(self) -> None:
        """Let the worker die whose batch would end first."""
        _, _, worker = heappop(self._running)
        self._carry_out(self.engine.worker_lost(worker), Outcome())

    def _offer(self, outcome: Outcome) -> None:
        now = self.now
        self._number += 1
        part = self.mix[0]
        if len(self.mix) > 1:
            (part,) = self._random.choices(self.mix, [each.share for each in self.mix])
        budget = self.slo_latency if part.budget is None else part.budget
        cost_class = (part.batch_key, part.path, part.length.bit_length() if self.by_length else 0)
        request = Request(self._number, b"", b"", now, now + budget, now + 30.0, cost_class)
        request.slo_class, request.client = part.slo_class, part
        if self.early and not self.engine.idle and self.engine.predicts_late(request.deadline, now):
            outcome.add("refused", request)
            return
        try:
            self._carry_out(self.engine.offer(request, now), outcome)
        except QueueFull:
            outcome.add("refused", request)
        else:
            if self.clients_wait < inf:
                self._waiting.append(request)

    def _give_up(self, request: Request, outcome: Outcome) -> None:
        before = self.engine.admitted
        self._carry_out(self.engine.abandon(request, self.now), outcome)
        if self.engine.admitted < before:  # else it has been answered
            outcome.add("expired", request)

    def _begin(self, worker: Simulated, requests: Sequence[Request], at: float) -> None:
        worker.size = len(requests)
        took = self.law(worker.size)
        if self.padded is not None:
            took = self.padded(worker.size, max(request.client.length for request in requests))
        took *= self._random.lognormvariate(0.0, self.noise)
        heappush(self._running, (at + took, self._number + len(self.sizes), worker))

    def _carry_out(self, effects: Sequence[Effect], outcome: Outcome) -> None:
        for effect in effects:
            if isinstance(effect, Dispatch):
                worker = effect.worker
                assert isinstance(worker, Simulated)
                requests = effect.batch.requests
                self.sizes.append(len(requests))
                if worker.size:
                    worker.next = requests
                else:
                    self._begin(worker, requests, self.now + self.turnaround)
            elif isinstance(effect, WakeAt):
                self._wake = effect.at
            elif isinstance(effect, Cancel):
                pass
            elif isinstance(effect.outcome, Reply):
                on_time = self.now + self.way_back <= effect.request.deadline
                outcome.add("good" if on_time else "slow", effect.request)
            elif isinstance(effect.outcome, Expired):
                outcome.add("expired", effect.request)
            else:
                outcome.add("shed", effect.request)
