"""One replica's events. Its decisions are the watchdog's engine's: tests/watchdog/engine."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailbound_lab.simulate.function import Function, Service
from tailbound_lab.simulate.replica import Replica

FUNCTION = Function(Service.affine(0.02, 0.01, 8), slo_latency=0.2)


def served(replica):
    """(end, arrivals) of each batch."""
    return [(batch.end, batch.arrived) for batch in replica.served.answered]


def order(replica):
    """Arrivals in the order of service."""
    return [arrived for batch in replica.served.answered for arrived in batch.arrived]


def poisson(rate, seconds, seed):
    draw = random.Random(seed)
    arrivals, now = [], draw.expovariate(rate)
    while now < seconds:
        arrivals.append(now)
        now += draw.expovariate(rate)
    return arrivals


@pytest.mark.parametrize(
    ("ready_at", "arrivals", "batches"),
    [(0.0, [1.0, 1.01, 1.02], [(1.03, [1.0]), (1.07, [1.01, 1.02])]), (5.0, [1.0], [(5.03, [1.0])])],
    ids=["together behind a batch", "not before it is ready"],
)
def test_batches_by_hand(ready_at, arrivals, batches):
    replica = Replica(FUNCTION, ready_at)
    replica.serve(arrivals, 6.0)
    assert [(pytest.approx(end), batch) for end, batch in batches] == served(replica)


def test_late_request_times_out():
    replica = Replica(Function(FUNCTION.service, timeout=0.5), 1.0)
    replica.serve([0.0, 0.9], 2.0)
    assert (order(replica), replica.served.lost) == ([0.9], [0.5])


def test_request_that_finds_the_replica_full_is_lost_at_once():
    replica = Replica(Function(FUNCTION.service, max_inflight=2), 0.0)
    replica.serve([1.0, 1.001, 1.002], 2.0)
    assert (order(replica), replica.served.lost) == ([1.0, 1.001], [1.002])


def test_request_that_is_predicted_late_at_the_limit_is_refused_like_at_a_header():
    replica = Replica(Function(FUNCTION.service, slo_latency=0.1, max_inflight=24), 5.0)
    replica.serve([0.0] * 4 + [5.0] * 20 + [5.001], 30.0)
    assert replica.served.lost == [5.001]
    assert sorted(order(replica)) == [0.0] * 4 + [5.0] * 20


@given(
    rate=st.floats(5.0, 400.0),
    seed=st.integers(0, 10_000),
    workers=st.integers(1, 3),
    timeout=st.floats(0.2, 2.0) | st.just(30.0),
    cuts=st.lists(st.floats(0.0, 5.0), max_size=8).map(sorted),
)
def test_every_request_is_served_once_or_lost_however_time_is_cut_up(rate, seed, workers, timeout, cuts):
    function = Function(FUNCTION.service, workers, timeout=timeout)
    arrivals = poisson(rate, 5.0, seed)
    whole, pieces = Replica(function, 0.0), Replica(function, 0.0)
    whole.serve(list(arrivals), math.inf)
    assert len(order(whole)) + len(whole.served.lost) == len(arrivals)
    assert set(order(whole)) <= set(arrivals)
    assert all(1 <= len(batch.arrived) <= 8 for batch in whole.served.answered)
    assert whole.inside(math.inf) == 0
    for cut in [*cuts, math.inf]:
        now = [arrival for arrival in arrivals if arrival < cut]
        arrivals = arrivals[len(now) :]
        pieces.serve(now, cut)
    assert served(pieces) == served(whole)


def test_inside_is_what_waits_and_what_runs():
    replica = Replica(FUNCTION, 0.0)
    replica.serve([1.0, 1.001, 1.002], 1.01)
    assert replica.inside(1.01) == 3
    replica.serve([], 1.05)
    assert (replica.inside(1.05), replica.inside(1.08)) == (2, 0)
