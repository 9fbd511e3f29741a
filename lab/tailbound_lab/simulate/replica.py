"""Simulates one replica with the watchdog's own engine, in virtual time. [P]

Owns the events of one replica (arrivals, ready workers, finished batches) and the outcomes of its requests.
``batching_watchdog.engine`` makes every decision.
"""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from heapq import heappop, heappush
from math import inf, nan
from typing import Protocol

from batching_watchdog.engine.cost import Cost, Shared
from batching_watchdog.engine.effects import Answer, Dispatch, Effect, WakeAt
from batching_watchdog.engine.engine import Engine
from batching_watchdog.engine.policy import ByDeadline
from batching_watchdog.engine.streams import Steady
from batching_watchdog.engine.tuning import TUNING
from batching_watchdog.errors import QueueFull
from batching_watchdog.messages import Batch, CostClass, Reply, Request
from tailbound_lab.simulate.function import Answered, Function, Served

_OK = Reply(200, b"", b"")


class Traffic(Protocol):
    """Requests and their cost, as a replica uses them."""

    @property
    def cost(self) -> Cost:
        """The engine's cost model of batches."""

    @property
    def max_batch_size(self) -> int:
        """The largest batch."""

    @property
    def lead(self) -> float:
        """Seconds before the end of a batch from which its worker may get the next."""

    def request(self, number: int, arrived: float) -> Request:
        """Return the next request."""

    def seconds(self, requests: Sequence[Request]) -> float:
        """Return the seconds that a worker takes for a batch."""


class _Alike:
    """Requests of one kind with known service times."""

    def __init__(self, function: Function) -> None:
        self._function = function
        self._seconds = function.service.seconds
        self.speed = 1.0
        self.best_size = function.service.best_size
        self.max_batch_size = self.ceiling = len(self._seconds)
        self.lead = 0.0
        self.overdue_at: dict[str, float] = {}

    @property
    def cost(self) -> "_Alike":
        return self

    overall = times = cost

    def pool(self, cost_class: CostClass) -> "_Alike":
        return self

    def alone(self, pool: Shared, waiting: Iterable[Request], size: int) -> None:
        """Return None: with a single class no class is tried alone."""

    def learn(self, requests: Sequence[Request], seconds: float, cpu_seconds: float) -> None:
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


class _Worker:
    """One worker, the size of its batch, and its early next batch, if any."""

    __slots__ = ("next", "size")

    def __init__(self) -> None:
        self.size = 0
        self.next: Sequence[Request] = ()

    def send(self, batch: Batch) -> None:
        """Do nothing: the replica handles the effect."""

    def cancel(self, indexes: Sequence[int]) -> None:
        """Do nothing: the worker runs all requests that it has."""

    def check(self) -> None:
        """Do nothing: no batch fails."""


class Replica:
    """Serves its requests; ``served`` has the outcomes since the last ``take``."""

    __slots__ = (
        "_clock", "_engine", "_events", "_function", "_number", "_serial", "_traffic", "_wake",
        "row", "served",
    )  # fmt: skip

    def __init__(
        self, function: Function, ready_at: float, row: int = 0, traffic: Traffic | None = None
    ) -> None:
        """``row`` is the caller's row of counters for this replica.

        Without ``traffic`` all requests are of one kind with known service times.
        """
        self._function = function
        self._traffic = traffic = traffic or _Alike(function)
        self._engine = Engine(
            ByDeadline(traffic.max_batch_size, TUNING.reserve * function.slo_latency),
            traffic.cost,
            max_inflight=function.max_inflight,
            workers=function.workers,
            lead=traffic.lead,
        )
        self._events: list[tuple[float, int, _Worker]] = []
        """Times at which workers are ready for their next batch."""
        for number in range(function.workers):
            heappush(self._events, (ready_at, number, _Worker()))
        self._serial = function.workers
        self._number = 0
        self._clock = ready_at
        self._wake = inf
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

    @property
    def steady(self) -> Steady:
        """What its watchdog exports: the capacity for a known l(b), and no streams."""
        return Steady(self._function.capacity, nan)

    def inside(self, now: float) -> int:
        """Return the number of waiting and running requests at ``now``."""
        return self.queued + sum(
            worker.size + len(worker.next) for end, _, worker in self._events if end > now
        )

    def run_at(self, speed: float) -> None:
        """Run batches that begin from now on at this multiple of the nominal speed; the engine knows it.

        Only for requests of one kind.
        """
        assert isinstance(self._traffic, _Alike)  # noqa: S101 - for the type checker
        self._traffic.speed = speed

    def take(self) -> Served:
        """Return the outcomes so far, and begin with none."""
        taken, self.served = self.served, Served()
        return taken

    def serve(self, arrivals: list[float], until: float) -> None:
        """Admit ``arrivals`` (ascending, none after ``until``), and begin all batches before ``until``."""
        engine, events, coming = self._engine, self._events, iter(arrivals)
        arrival = next(coming, inf)
        while True:
            ends = events[0][0] if events else inf
            now = max(self._clock, min(arrival, ends, self._wake))
            if (now >= until and arrival > until) or now == inf:
                return
            if arrival <= min(ends, self._wake):
                # Some came before the replica did, and have waited since.
                self._offer(arrival, now)
                arrival = next(coming, inf)
                if not engine.eager:
                    self._wake = min(self._wake, now + self._function.timeout)
                    continue
            elif ends <= now:
                self._clock = now
                _, _, worker = heappop(events)
                if worker.size:
                    engine.batch_done(worker, [_OK] * worker.size, now)
                worker.size = 0
                if worker.next:
                    self._begin(worker, worker.next, now)
                    worker.next = ()
                engine.worker_ready(worker)
            self._clock = now
            self._wake = inf
            self._carry_out(engine.tick(now), now)

    def _offer(self, arrived: float, now: float) -> None:
        self._number += 1
        request = self._traffic.request(self._number, arrived)
        if self._engine.at_limit and self._engine.refusal(request.deadline, now):
            self.served.lost.append(now)  # at its header, as the front end does
            return
        try:
            self._carry_out(self._engine.offer(request, now), now)
        except QueueFull:
            self.served.lost.append(now)

    def _begin(self, worker: _Worker, requests: Sequence[Request], now: float) -> None:
        worker.size = len(requests)
        seconds = self._traffic.seconds(requests)
        end = now + seconds
        self._serial += 1
        heappush(self._events, (end, self._serial, worker))
        self.served.busy += seconds
        self.served.answered.append(Answered(now, end, end, [request.arrived for request in requests]))

    def _carry_out(self, effects: Sequence[Effect], now: float) -> None:
        for effect in effects:
            if isinstance(effect, Dispatch):
                worker, requests = effect.worker, effect.batch.requests
                assert isinstance(worker, _Worker)  # noqa: S101 - for the type checker
                if worker.size:
                    worker.next = requests
                else:
                    self._begin(worker, requests, now)
            elif isinstance(effect, WakeAt):
                self._wake = effect.at
            elif (
                isinstance(effect, Answer) and not effect.request.attempts
            ):  # else it has been counted as served, late as it is
                self.served.lost.append(min(now, effect.request.expires))
