"""Simulates one replica with the watchdog's own engine, in virtual time. [P]

Owns the outcomes of its requests; ``virtual`` plays it.
"""

from bisect import bisect_right
from collections import deque
from collections.abc import Sequence
from functools import partial
from math import inf, nan

from batching_watchdog.engine.cost import Shared
from batching_watchdog.engine.effects import Answer, Effect
from batching_watchdog.engine.engine import Engine
from batching_watchdog.engine.streams import Steady
from batching_watchdog.errors import QueueFull
from batching_watchdog.function.messages import CostClass, Request
from tailbound_lab.simulate.function import LEARNING_SECONDS, Answered, Exports, Function, Served
from tailbound_lab.simulate.virtual import BatchRun, BatchWorker, BatchWorkers, Timeline


class _Alike:
    """Requests of one kind with known service times."""

    def __init__(self, function: Function) -> None:
        self._function = function
        self._seconds = function.service.seconds
        self.speed = 1.0
        self.best_size = function.service.best_size
        self.max_batch_size = self.ceiling = len(self._seconds)
        self.limit = inf
        self.answer_bytes = 0.0

    @property
    def overall(self) -> "_Alike":
        return self

    times = overall

    def pool(self, cost_class: CostClass, *, counts: bool = True) -> "_Alike":
        return self

    def one_class(self, pool: Shared) -> bool:
        return False

    def mix_paths(self) -> None:
        """Nothing to do: all are alike."""

    def learn(self, requests: Sequence[Request], seconds: float, cpu_seconds: float, waited: float) -> None:
        """Nothing to learn."""

    def untried(self, size: int) -> bool:
        return False

    def out_of_memory(self, size: int) -> int:
        return size

    def predict(self, size: int) -> float:
        return self._seconds[min(size, len(self._seconds)) - 1] / self.speed

    predict_mean = predict

    def largest_within(self, seconds: float) -> int:
        return bisect_right(self._seconds, seconds * self.speed)

    def request(self, number: int, arrived: float) -> Request:
        function = self._function
        return Request(number, b"", b"", arrived, arrived + function.slo_latency, arrived + function.timeout)

    def seconds(self, requests: Sequence[Request]) -> float:
        return self._seconds[len(requests) - 1] / self.speed


class Replica:
    """Serves its requests; ``served`` has the outcomes since the last ``take``."""

    __slots__ = (
        "_crew", "_engine", "_function", "_learned", "_number", "_requests", "_speeds", "_timeline",
        "_workers", "row", "served",
    )  # fmt: skip

    def __init__(self, function: Function, ready_at: float, row: int = 0) -> None:
        """``row`` is the caller's row of counters for this replica."""
        self._function = function
        self._requests = requests = _Alike(function)
        self._engine = Engine(
            requests,
            max_inflight=function.max_inflight,
            workers=function.workers,
            tightest=function.slo_latency,
            lead=0.0,
        )
        self._timeline = Timeline(ready_at)
        self._workers = BatchWorkers(self._timeline, self._engine, self._run, self._count)
        self._crew = [BatchWorker() for _ in range(function.workers)]
        for worker in self._crew:
            self._timeline.schedule(ready_at, partial(self._workers.ready, worker))
        self._number = 0
        self._learned = function.speed.at(ready_at)
        """Speed that it exports: first that of ``example()``, with the CPU of a pod that is not Ready."""
        self._speeds: deque[tuple[float, float]] = deque()
        """(time from which it is exported, speed)"""
        self.row = row
        self.served = Served()

    @property
    def queued(self) -> int:
        """Number of requests that wait for a worker."""
        return self._engine.queued

    @property
    def pending(self) -> int:
        """Number of requests that are not among the outcomes yet."""
        return self._engine.queued

    def exports(self, now: float) -> Exports:
        """Return what its watchdog exports: it knows l(b), at the speed of ``LEARNING_SECONDS`` ago."""
        while self._speeds and self._speeds[0][0] <= now:
            _, self._learned = self._speeds.popleft()
        function, speed = self._function, self._learned
        return Exports(Steady(function.capacity_at(speed), nan), function.service.seconds[0] / speed)

    def inside(self, now: float) -> int:
        """Return the number of waiting and running requests at ``now``."""
        batches = (
            batch
            for worker in self._crew
            if worker.ends > now
            for batch in (worker.running, worker.next)
            if batch is not None
        )
        return self.queued + sum(len(batch.requests) for batch in batches)

    def run_at(self, speed: float, now: float) -> None:
        """Run batches that begin from now on at this multiple of the nominal speed.

        The engine knows it at once, and the exports follow.
        """
        self._requests.speed = speed
        if speed != (self._speeds[-1][1] if self._speeds else self._learned):
            self._speeds.append((now + LEARNING_SECONDS, speed))

    def take(self) -> Served:
        """Return the outcomes so far, and begin with none."""
        taken, self.served = self.served, Served()
        return taken

    def serve(self, arrivals: list[float], until: float) -> None:
        """Admit ``arrivals`` (ascending, none after ``until``), and begin all batches before ``until``."""
        self._timeline.play(iter(arrivals), self._arrive, self._workers.tick, until)

    def _arrive(self, arrived: float) -> bool:
        self._number += 1
        request = self._requests.request(self._number, arrived)
        engine, now = self._engine, self._timeline.now
        if engine.at_limit and engine.refusal(request.deadline, now):
            self.served.lost.append(now)  # at its header, as the front end does
            return engine.eager
        try:
            self._workers.offer(request)
        except QueueFull:
            self.served.lost.append(now)
        return engine.eager

    def _run(self, _worker: BatchWorker, requests: Sequence[Request]) -> BatchRun:
        now, seconds = self._timeline.now, self._requests.seconds(requests)
        end = now + seconds
        self.served.busy += seconds
        self.served.answered.append(Answered(now, end, end, [request.arrived for request in requests]))
        return BatchRun(seconds)

    def _count(self, effect: Effect) -> None:
        # A request that was in a batch has been counted as served, late as it is.
        if isinstance(effect, Answer) and not effect.request.attempts:
            self.served.lost.append(min(self._timeline.now, effect.request.expires))
