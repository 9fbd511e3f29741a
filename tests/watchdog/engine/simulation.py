"""The engine in virtual time: it and its cost model as they are, made-up workers, Poisson arrivals."""

import random
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass, field
from functools import partial
from heapq import heappop, heappush
from itertools import count
from math import inf
from typing import NamedTuple

from batching_watchdog.engine.cost import CostModel
from batching_watchdog.engine.effects import Answer, Check, Dispatch, Effect, WakeAt
from batching_watchdog.engine.engine import Engine
from batching_watchdog.engine.policy import POLICIES, PolicySettings
from batching_watchdog.errors import QueueFull
from batching_watchdog.messages import Batch, Crash, Reply, Request
from watchdog.engine.queues import Law

TIMEOUT = 30.0
RESTART_SECONDS = 0.3
OK = Reply(200, b"", b"")
FAILED = Reply(500, b"", b"", failed=True)


class Part(NamedTuple):
    """A kind of request and how often it comes."""

    share: float
    path: bytes = b"POST /"
    batch_key: bytes = b""
    length: int = 0
    budget: float | None = None
    slo_class: str = ""
    bad: bool = False
    """Whether ``Simulation.fault`` may see one that fails its batch."""


class Ended(NamedTuple):
    """What became of a request."""

    kind: str
    """``good``, ``slow`` or ``failed``, or the name of our error."""
    request: Request
    waited: float


@dataclass
class Outcome:
    """What became of the requests of a run."""

    ended: list[Ended] = field(default_factory=list)

    def count(self, kind: str) -> int:
        """Return the number of requests that ended so."""
        return sum(ended.kind == kind for ended in self.ended)

    def attainment(self, start: float = 0.0, end: float = inf, slo_class: str | None = None) -> float:
        """Return the share within the SLO of the requests that arrived in this time, without bad ones."""
        kinds = [
            ended.kind
            for ended in self.ended
            if start <= ended.request.arrived < end
            and slo_class in (None, ended.request.slo_class)
            and not ended.request.client.bad
        ]
        return kinds.count("good") / max(1, len(kinds))


@dataclass(eq=False)
class Simulated:
    """A worker with the batch that it runs, and the one it has next."""

    running: Batch | None = None
    next: Batch | None = None
    sick: bool = False
    """Whether it fails whatever it gets, until it is replaced after a ``Check``."""

    def send(self, batch: Batch) -> None:
        """Nothing: the simulation has the effect."""

    def cancel(self, indexes: Sequence[int]) -> None:
        """Nothing: all is run."""

    def check(self) -> None:
        """Nothing: the simulation has the effect."""


Fault = Callable[["Simulation", Simulated, Sequence[Request]], tuple[str, float] | None]
"""How a batch ends (``raised``, ``died``, ``out of memory``), and after how many seconds; None: well."""


@dataclass
class Simulation:
    """One watchdog with ``workers`` that follow ``law``, with a little noise. Goes on from run to run."""

    law: Law
    _: KW_ONLY
    workers: int = 2
    slo_latency: float = 0.1
    max_batch_size: int = 256
    max_inflight: int = 1024
    shed_late: bool = False
    way_back: float = 0.0
    """Seconds that an answer takes to its client."""
    lead: float = 0.0
    turnaround: float = 0.0
    """Seconds from a reply until a batch that is sent then begins."""
    mix: Sequence[Part] = (Part(1.0),)
    mix_paths: bool = True
    padded: Callable[[int, int], float] | None = None
    """Instead of ``law``: seconds by size and length of the longest."""
    by_length: bool = True
    """Whether the engine sees how long bodies are."""
    noise: float = 0.03
    fault: Fault = lambda *_: None

    def __post_init__(self) -> None:
        self.now = 0.0
        self.cost = cost = CostModel(self.max_batch_size)
        if self.mix_paths:
            cost.mix_paths()
        self.model = cost.overall
        self.engine = Engine(
            POLICIES["slo"](PolicySettings(self.max_batch_size, 0.0, self.slo_latency)),
            cost,
            max_inflight=self.max_inflight,
            workers=self.workers,
            shed_late=self.shed_late,
            lead=self.lead,
        )
        self.crew = [Simulated() for _ in range(self.workers)]
        self.batches = 0
        self.checks = 0
        self._random = random.Random(1)
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()
        self._arriving = 0
        self._wake = inf
        self._outcome = Outcome()
        for worker in self.crew:
            self._do(self.engine.worker_ready(worker))

    def run(self, rate: float, seconds: float, *, to_the_end: bool = True) -> Outcome:
        """Offer ``rate`` requests per second for ``seconds``; ``to_the_end``: then serve what is queued."""
        self._outcome = outcome = Outcome()
        end = self.now + seconds
        self._arriving += 1
        self._in(self._random.expovariate(rate), partial(self._arrive, rate, end))
        while self._arriving or (to_the_end and self.engine.admitted):
            self._wake = inf
            self._do(self.engine.tick(self.now))
            if self._wake < (self._events[0][0] if self._events else inf):
                self.now = max(self.now, self._wake)
            else:
                at, _, happen = heappop(self._events)
                self.now = max(self.now, at)
                happen()
        return outcome

    def _in(self, seconds: float, happen: Callable[[], None]) -> None:
        heappush(self._events, (self.now + seconds, next(self._order), happen))

    def _arrive(self, rate: float, end: float) -> None:
        now = self.now
        if now >= end:
            self._arriving -= 1
            return
        self._in(self._random.expovariate(rate), partial(self._arrive, rate, end))
        part = self.mix[0]
        if len(self.mix) > 1:
            (part,) = self._random.choices(self.mix, [each.share for each in self.mix])
        budget = self.slo_latency if part.budget is None else part.budget
        cost_class = (part.batch_key, part.path, part.length.bit_length() if self.by_length else 0)
        number = next(self._order)
        request = Request(number, b"", b"", now, now + budget, now + TIMEOUT, cost_class, part)
        request.slo_class = part.slo_class
        try:
            self._do(self.engine.offer(request, now))
        except QueueFull:
            self._outcome.ended.append(Ended("QueueFull", request, 0.0))

    def _begin(self, worker: Simulated, batch: Batch, pause: float = 0.0) -> None:
        worker.running = batch
        self.batches += 1
        requests = batch.requests
        took = self.law(len(requests))
        if self.padded is not None:
            took = self.padded(len(requests), max(request.client.length for request in requests))
        took *= self._random.lognormvariate(0.0, self.noise)
        how, took = self.fault(self, worker, requests) or ("done", took)
        self._in(pause + took, partial(self._end, worker, how))

    def _end(self, worker: Simulated, how: str) -> None:
        engine, batch = self.engine, worker.running
        assert batch is not None
        size = len(batch.requests)
        worker.running, following, worker.next = None, worker.next, None
        if how == "died":
            self._do(engine.worker_lost(worker))
            self._in(RESTART_SECONDS, partial(self._ready, worker))
            return
        if how == "done" or (how == "raised" and size == 1):
            _, effects = engine.batch_done(worker, [OK if how == "done" else FAILED] * size, self.now)
        else:
            crash = Crash("ValueError", FAILED, how == "out of memory")
            _, effects = engine.batch_failed(worker, crash, self.now)
        self._do(effects)
        if following is not None:
            self._begin(worker, following)
        self._ready(worker)

    def _ready(self, worker: Simulated, *, checked: bool = False) -> None:
        self._do(self.engine.worker_ready(worker, checked=checked))

    def _do(self, effects: Sequence[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Answer):
                request = effect.request
                kind = type(effect.outcome).__name__
                if isinstance(effect.outcome, Reply):
                    kind = "good" if self.now + self.way_back <= request.deadline else "slow"
                    kind = "failed" if effect.outcome.failed else kind
                self._outcome.ended.append(Ended(kind, request, self.now - request.arrived))
            elif isinstance(effect, WakeAt):
                self._wake = effect.at
            elif isinstance(effect, Dispatch | Check):
                worker = effect.worker
                assert isinstance(worker, Simulated)
                if isinstance(effect, Check):
                    self._check(worker)
                elif worker.running is None:
                    self._begin(worker, effect.batch, self.turnaround)
                else:
                    worker.next = effect.batch

    def _check(self, worker: Simulated) -> None:
        self.checks += 1
        if worker.sick:
            self.engine.worker_gone(worker)
            worker.sick = False
            self._in(RESTART_SECONDS, partial(self._ready, worker))
        else:
            self._in(self.law(1), partial(self._ready, worker, checked=True))
