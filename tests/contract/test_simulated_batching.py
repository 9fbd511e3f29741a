"""The simulator's replica and the watchdog's scheduler are the same law, written twice since they share
no code."""

import math
import random
from bisect import bisect_right
from heapq import heappop, heappush

from hypothesis import given, settings
from hypothesis import strategies as st

from batching_watchdog.engine.policy import POLICIES, PolicySettings
from batching_watchdog.engine.scheduler import Dispatch, Scheduler, Sleep
from batching_watchdog.messages import Batch, Request
from tailbound_lab.simulate.function import Function, Service
from tailbound_lab.simulate.replica import Replica


class Known:
    """A latency model that has nothing to learn."""

    def __init__(self, service: Service) -> None:
        self.best_size = service.best_size
        self._seconds = service.seconds

    def predict(self, size: int) -> float:
        return self._seconds[size - 1]

    predict_mean = predict

    def largest_within(self, seconds: float) -> int:
        return bisect_right(self._seconds, seconds)


def by_scheduler(function: Function, arrivals: list[float]) -> list[tuple[float, list[float]]]:
    """(end, arrivals) of every batch, by the scheduler that the watchdog runs."""
    service = function.service
    largest = len(service.seconds)
    scheduler = Scheduler(
        POLICIES["slo"](PolicySettings(largest, 0.0, function.slo_latency)),
        Known(service),  # type: ignore[arg-type]
        max_inflight=100_000,
    )
    idle, running, done = function.workers, list[tuple[float, int, Batch]](), []
    coming = [*arrivals, math.inf]
    at = 0
    while True:
        now = min(coming[at], running[0][0] if running else math.inf)
        if now == math.inf:
            return sorted(done)
        if running and running[0][0] <= now:
            scheduler.finish(heappop(running)[2].requests)
            idle += 1
        else:
            request = Request(at, b"", b"", now, now + function.slo_latency, now + 1e6)
            scheduler.offer(request, function.workers)
            at += 1
        while not isinstance(action := scheduler.next_action(now, idle), Sleep):
            assert isinstance(action, Dispatch)
            requests = action.batch.requests
            end = now + service.seconds[len(requests) - 1]
            heappush(running, (end, len(done), action.batch))
            done.append((end, [request.arrived for request in requests]))
            idle -= 1


def by_replica(function: Function, arrivals: list[float]) -> list[tuple[float, list[float]]]:
    """(end, arrivals) of every batch, by the simulator."""
    replica = Replica(function, 0.0)
    replica.serve(list(arrivals), math.inf)
    done, at = [], 0
    for end, size in zip(replica.ends, replica.sizes, strict=True):
        done.append((end, replica.order[at : at + size]))
        at += size
    return sorted(done)


@settings(max_examples=60)
@given(
    load=st.floats(0.1, 4.0),
    workers=st.integers(1, 3),
    constant=st.integers(1, 60),
    per_request=st.integers(1, 20),
    largest=st.sampled_from([1, 4, 7, 16]),
    seed=st.integers(0, 10_000),
)
def test_every_batch_is_the_same(load, workers, constant, per_request, largest, seed):
    service = Service.affine(constant * 1.00137e-3, per_request * 1.00071e-3, largest)
    function = Function(service, workers, slo_latency=0.2, timeout=1e6, max_inflight=100_000)
    rate = load * workers * largest / service.seconds[-1]
    draw = random.Random(seed)
    arrivals, now = [], 0.0
    for _ in range(200):
        now += draw.expovariate(rate)
        arrivals.append(now)
    assert by_replica(function, arrivals) == by_scheduler(function, arrivals)
