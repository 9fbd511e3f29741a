"""Capacities and late shares that tables and formulas give, compared with the engine."""

from random import Random

import pytest

from slo_autoscaler.law.base.curve import curve
from tailbound_lab.simulate.function import Function, Service
from tailbound_lab.simulate.replica import Replica

REQUESTS = 8_000


def arrivals(random, rate, begin, end):
    """Yield the arrivals of a Poisson process."""
    now = begin
    while (now := now + random.expovariate(rate)) < end:
        yield now


def late_share(function: Function, rate: float) -> float:
    """Return the share of requests at ``rate`` per second that an engine serves late."""
    random = Random(5)
    replica = Replica(function, 0.0)
    begin = max(2.0, 100 / rate)
    replica.serve(list(arrivals(random, rate / 3, 0.0, begin)), begin)
    replica.take()
    end = begin + REQUESTS / rate
    came = list(arrivals(random, rate, begin, end))
    replica.serve(came, end)
    # The replica was nearly empty at first, and the last requests have not ended.
    counted = [
        arrived for arrived in came if begin + 0.1 * (end - begin) < arrived <= end - function.slo_latency
    ]
    served = {arrived: batch.end for batch in replica.take().answered for arrived in batch.arrived}
    good = sum(served.get(arrived, end * 2) - arrived <= function.slo_latency + 1e-9 for arrived in counted)
    return 1.0 - good / len(counted)


def affine(workers: int, fitting: float, constant: float) -> Function:
    """A line from ``constant`` of the SLO on, on which a batch of ``fitting`` requests takes the SLO."""
    slo = 0.2
    service = Service.affine(constant * slo, (1 - constant) * slo / fitting, 256)
    return Function(service, workers, slo, max_inflight=10**6)


FUNCTIONS = [
    pytest.param(affine(1, 5, 0.0), id="one worker, 5 fit"),
    pytest.param(affine(1, 20, 0.2), id="one worker, 20 fit"),
    pytest.param(affine(2, 10, 0.1), id="two workers, 10 fit"),
    pytest.param(affine(2, 60, 0.3), id="two workers, 60 fit"),
    pytest.param(affine(4, 4, 0.1), id="four workers, 4 fit"),
    pytest.param(affine(8, 15, 0.0), id="eight workers, 15 fit"),
    pytest.param(
        Function(Service.affine(0.03, 0.015, 32), slo_latency=0.2), id="the encoder of the benchmarks"
    ),
]


@pytest.mark.parametrize("function", FUNCTIONS)
def test_engine_meets_the_objective_just_below_the_capacity_and_not_beyond(function):
    assert late_share(function, 0.93 * function.capacity) <= 0.01
    assert late_share(function, 1.25 * function.capacity) > 0.01


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("load", [0.7, 1.2, 2.0])
def test_predicted_late_share_is_near_that_of_the_engine(function, load):
    predicted = curve(
        function.capacity, function.slo_latency, function.slo_objective, function.service.seconds[0]
    ).late(load * function.capacity)
    measured = late_share(function, load * function.capacity)
    assert predicted / 2.5 - 0.005 < measured < 2.5 * predicted + 0.005
