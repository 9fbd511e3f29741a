"""The engine in virtual time: it and its cost model as they are, made-up workers, Poisson arrivals."""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import KW_ONLY, dataclass, field
from functools import partial
from itertools import count
from math import inf
from typing import NamedTuple

from batching_watchdog.engine.cost import CostModel
from batching_watchdog.engine.effects import Answer, Check, Effect
from batching_watchdog.engine.engine import Engine
from batching_watchdog.errors import QueueFull
from batching_watchdog.function.messages import Crash, Reply, Request
from tailbound_lab.simulate.virtual import BatchRun, BatchWorker, BatchWorkers, Timeline
from watchdog.engine.queues import Law

TIMEOUT = 30.0
RESTART_SECONDS = 0.3
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


Fault = Callable[["Simulation", BatchWorker, Sequence[Request]], tuple[str, float] | None]
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
    by_lengths: Callable[[Sequence[int]], float] | None = None
    """Instead of ``law``: seconds by the lengths of the requests."""
    by_length: bool = True
    """Whether the engine sees how long bodies are."""
    noise: float = 0.03
    fault: Fault = lambda *_: None

    def __post_init__(self) -> None:
        self.cost, of_best_effort = CostModel(self.max_batch_size), CostModel(self.max_batch_size)
        self.model = self.cost.overall
        self.engine = Engine(
            self.cost,
            max_inflight=self.max_inflight,
            workers=self.workers,
            shed_late=self.shed_late,
            lead=self.lead,
            tightest=self.slo_latency,
            best_effort=of_best_effort,
        )
        if self.mix_paths:
            self.engine.mix_paths()
        self.sick: set[BatchWorker] = set()
        """Workers that fail every batch, until each is replaced after a ``Check``."""
        self.batches = 0
        self.checks = 0
        self._random = random.Random(1)
        self._order = count()
        self._outcome = Outcome()
        self._timeline = Timeline(0.0)
        self._workers = BatchWorkers(
            self._timeline,
            self.engine,
            self._run,
            self._on_effect,
            turnaround=self.turnaround,
            restart=RESTART_SECONDS,
        )
        self.crew = [BatchWorker() for _ in range(self.workers)]
        for worker in self.crew:
            self._workers.ready(worker)

    @property
    def now(self) -> float:
        return self._timeline.now

    def run(self, rate: float, seconds: float, *, to_the_end: bool = True) -> Outcome:
        """Offer ``rate`` requests per second for ``seconds``; ``to_the_end``: then serve what is queued."""
        self._outcome = outcome = Outcome()
        end = self.now + seconds
        until = inf if to_the_end else end
        self._timeline.play(self._arrivals(rate, end), self._arrive, self._workers.tick, until)
        return outcome

    def _arrivals(self, rate: float, end: float) -> Iterator[float]:
        arrived = self.now
        while (arrived := arrived + self._random.expovariate(rate)) < end:
            yield arrived

    def _arrive(self, now: float) -> bool:
        part = self.mix[0]
        if len(self.mix) > 1:
            (part,) = self._random.choices(self.mix, [kind.share for kind in self.mix])
        budget = self.slo_latency if part.budget is None else part.budget
        cost_class = (part.batch_key, part.path, part.length.bit_length() if self.by_length else 0)
        number = next(self._order)
        request = Request(number, b"", b"", now, now + budget, now + TIMEOUT, cost_class, part)
        request.slo_class = part.slo_class
        try:
            self._workers.offer(request)
        except QueueFull:
            self._outcome.ended.append(Ended("QueueFull", request, 0.0))
        return self.engine.eager

    def _run(self, worker: BatchWorker, requests: Sequence[Request]) -> BatchRun:
        self.batches += 1
        size = len(requests)
        seconds = self.law(size)
        if self.by_lengths is not None:
            seconds = self.by_lengths([request.client.length for request in requests])
        seconds *= self._random.lognormvariate(0.0, self.noise)
        fault = self.fault(self, worker, requests)
        if fault is None:
            return BatchRun(seconds)
        how, seconds = fault
        if how == "died":
            return BatchRun(seconds, None)
        if how == "raised" and size == 1:
            return BatchRun(seconds, FAILED)
        return BatchRun(seconds, Crash("ValueError", FAILED, how == "out of memory"))

    def _on_effect(self, effect: Effect) -> None:
        if isinstance(effect, Answer):
            request = effect.request
            kind = type(effect.outcome).__name__
            if isinstance(effect.outcome, Reply):
                kind = "good" if self.now + self.way_back <= request.deadline else "slow"
                kind = "failed" if effect.outcome.failed else kind
            self._outcome.ended.append(Ended(kind, request, self.now - request.arrived))
        elif isinstance(effect, Check):
            assert isinstance(effect.worker, BatchWorker)
            self._check(effect.worker)

    def _check(self, worker: BatchWorker) -> None:
        self.checks += 1
        ready = partial(self._workers.ready, worker, checked=worker not in self.sick)
        seconds = self.law(1)
        if worker in self.sick:
            self.engine.worker_gone(worker)
            self.sick.remove(worker)
            seconds = RESTART_SECONDS
        self._timeline.schedule(self.now + seconds, ready)
