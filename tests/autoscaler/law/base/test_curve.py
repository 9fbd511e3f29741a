"""The late share of one replica at a load."""

from itertools import pairwise

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from slo_autoscaler.law.base.curve import Curve, curve

CAPACITIES = st.floats(1e-3, 1e5)
LATENCIES = st.floats(1e-3, 60.0)
OBJECTIVES = st.floats(0.5, 0.99999)
SERVICE_SHARES = st.none() | st.floats(0.0, 2.0)


@st.composite
def curves(draw: st.DrawFn) -> tuple[float, float, Curve]:
    """A capacity, its objective, and the curve of that."""
    capacity, latency, objective = draw(CAPACITIES), draw(LATENCIES), draw(OBJECTIVES)
    share = draw(SERVICE_SHARES)
    return capacity, objective, curve(capacity, latency, objective, share and share * latency)


@given(curves())
def test_late_share_at_the_capacity_is_what_the_objective_allows(drawn):
    capacity, objective, found = drawn
    assert found.late(capacity) == pytest.approx(1.0 - objective, rel=1e-6)


@given(curves(), st.lists(st.floats(0.0, 100.0), min_size=2))
def test_late_share_never_falls_as_the_rate_grows(drawn, loads):
    capacity, _, found = drawn
    shares = [found.late(load * capacity) for load in sorted(loads)]
    assert all(after >= before * (1 - 1e-9) for before, after in pairwise(shares))
    assert all(0.0 <= share <= 1.0 for share in shares)


@given(curves())
def test_late_share_far_beyond_the_capacity_is_all_but_the_goodput(drawn):
    _, _, found = drawn
    for rate in (5.0 * found.goodput, 100.0 * found.goodput):
        assert found.late(rate) == pytest.approx(1.0 - found.goodput / rate, abs=1e-6)


@given(curves(), st.floats(0.01, 0.24) | st.floats(0.5, 1.2))
def test_what_a_replica_is_worth_is_what_one_of_many_saves(drawn, load):
    _, _, found = drawn
    rate, many = load * found.goodput, 10**6
    assume(found.late(rate) > 1e-12 and found.spread < 0.5)  # the plateau above a quarter ends later
    saved = many * rate * (found.late(rate) - found.late(rate * many / (many + 1)))
    worth = found.saved(found.late(rate))
    assert worth == pytest.approx(min(saved, 0.9 * found.goodput), rel=0.01, abs=1e-6 * found.goodput)


@given(CAPACITIES, LATENCIES, OBJECTIVES, st.floats(1.0, 1e4), st.floats(0.3, 0.95))
def test_late_share_of_few_streams_is_more_than_that_of_many(capacity, latency, objective, concurrency, load):
    few = curve(capacity, latency, objective, concurrency=concurrency)
    many = curve(capacity, latency, objective, concurrency=2.0 * concurrency)
    assert few.late(load * few.goodput) >= many.late(load * many.goodput)


def test_late_share_without_load_or_without_capacity():
    assert curve(10.0, 0.2, 0.99).late(0.0) == 0.0
    assert curve(0.0, 0.2, 0.99).late(1.0) == 1.0
    assert curve(0.0, 0.2, 0.99).late(0.0) == 0.0


@given(st.floats(0.0, 1e5), st.floats(1e-4, 0.5))
def test_replicas_are_the_fewest_with_the_allowed_share_late(rate, allowed):
    replica, rounding = curve(44.0, 0.2, 0.99, 0.045), 1e-6
    count = replica.replicas(rate, allowed)
    assert replica.late(rate / count) <= allowed * (1.0 + rounding)
    assert count == 1 or replica.late(rate / (count - 1)) >= allowed * (1.0 - rounding)
