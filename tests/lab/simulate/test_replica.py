"""The two-lane law of one replica."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailbound_lab.simulate.function import Function, Service
from tailbound_lab.simulate.replica import Replica

FUNCTION = Function(Service.affine(0.02, 0.01, 8), slo_latency=0.2)


def served(replica: Replica) -> list[tuple[float, list[float]]]:
    """(end, arrivals) of each batch."""
    batches, at = [], 0
    for end, size in zip(replica.ends, replica.sizes, strict=True):
        batches.append((end, replica.order[at : at + size]))
        at += size
    return batches


def poisson(rate: float, seconds: float, seed: int) -> list[float]:
    draw = random.Random(seed)
    arrivals, now = [], draw.expovariate(rate)
    while now < seconds:
        arrivals.append(now)
        now += draw.expovariate(rate)
    return arrivals


def test_a_lone_request_is_served_at_once():
    replica = Replica(FUNCTION, 0.0)
    replica.serve([1.0], 2.0)
    assert served(replica) == [(pytest.approx(1.03), [1.0])]


def test_what_comes_while_the_worker_is_busy_goes_together():
    replica = Replica(FUNCTION, 0.0)
    replica.serve([1.0, 1.01, 1.02], 2.0)
    assert served(replica) == [(pytest.approx(1.03), [1.0]), (pytest.approx(1.07), [1.01, 1.02])]


def test_a_second_worker_takes_what_the_first_cannot():
    replica = Replica(Function(FUNCTION.service, workers=2), 0.0)
    replica.serve([1.0, 1.01, 1.02], 2.0)
    assert served(replica) == [
        (pytest.approx(1.03), [1.0]),
        (pytest.approx(1.04), [1.01]),
        (pytest.approx(1.06), [1.02]),
    ]


def test_nothing_begins_before_the_replica_is_ready():
    replica = Replica(FUNCTION, 5.0)
    replica.serve([1.0], 6.0)
    assert replica.ends == [pytest.approx(5.03)]


def test_a_batch_is_no_larger_than_its_head_can_afford():
    replica = Replica(FUNCTION, 0.15)
    # The head has 50 ms left when the worker comes: l(3) = 50 ms, so three of five go.
    replica.serve([0.0001, 0.1, 0.11, 0.12, 0.13], 1.0)
    assert replica.sizes == [3, 2]


def test_a_request_that_cannot_be_on_time_lets_the_others_go_first_and_rides_along():
    replica = Replica(FUNCTION, 0.19)
    replica.serve([0.0, 0.18], 1.0)
    assert [batch for _, batch in served(replica)] == [[0.18, 0.0]]


def test_a_late_request_is_given_up_after_its_timeout():
    function = Function(FUNCTION.service, slo_latency=0.2, timeout=0.5)
    replica = Replica(function, 1.0)
    replica.serve([0.0, 0.9], 2.0)
    assert replica.order == [0.9]
    assert replica.lost == [0.5]


def test_beyond_max_inflight_the_longest_late_are_given_up_first():
    replica = Replica(Function(FUNCTION.service, max_inflight=2), 10.0)
    replica.serve([1.0, 2.0, 3.0], 4.0)
    assert (replica.queued, replica.lost) == (2, [4.0])


def test_under_overload_what_is_served_on_time_stays_at_the_capacity():
    replica = Replica(FUNCTION, 0.0)
    replica.serve(poisson(3 * FUNCTION.capacity, 60.0, 1), 60.0)
    good = sum(len(batch) for end, batch in served(replica) if end - batch[0] <= FUNCTION.slo_latency)
    assert good / 60.0 > 0.9 * FUNCTION.capacity


@given(
    rate=st.floats(5.0, 250.0),
    seed=st.integers(0, 10_000),
    workers=st.integers(1, 3),
    cuts=st.lists(st.floats(0.0, 5.0), max_size=8).map(sorted),
)
def test_it_makes_no_difference_how_time_is_cut_up(rate, seed, workers, cuts):
    function = Function(FUNCTION.service, workers)
    arrivals = poisson(rate, 5.0, seed)
    whole, pieces = Replica(function, 0.0), Replica(function, 0.0)
    whole.serve(list(arrivals), math.inf)
    for cut in [*cuts, math.inf]:
        now = [arrival for arrival in arrivals if arrival < cut]
        arrivals = arrivals[len(now) :]
        pieces.serve(now, cut)
    assert served(pieces) == served(whole)


@given(rate=st.floats(5.0, 400.0), seed=st.integers(0, 10_000), timeout=st.floats(0.2, 2.0))
def test_every_request_is_served_once_or_lost(rate, seed, timeout):
    arrivals = poisson(rate, 4.0, seed)
    replica = Replica(Function(FUNCTION.service, timeout=timeout), 0.0)
    replica.serve(list(arrivals), math.inf)
    assert len(replica.order) + len(replica.lost) == len(arrivals)
    assert set(replica.order) <= set(arrivals)
    assert all(1 <= size <= 8 for size in replica.sizes)
    assert replica.inside(math.inf) == 0


def test_what_is_inside_is_what_waits_and_what_runs():
    replica = Replica(FUNCTION, 0.0)
    replica.serve([1.0, 1.001, 1.002], 1.01)
    assert replica.inside(1.01) == 3
    replica.serve([], 1.05)
    assert replica.inside(1.05) == 2
    assert replica.inside(1.08) == 0
