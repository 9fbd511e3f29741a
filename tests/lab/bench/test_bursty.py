"""The trace of the live comparison."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailbound_lab.load.arrivals import HIGHEST, QUIET, SPIKE, bursty

seeds, durations = st.integers(0, 10_000), st.floats(2, 600)


@given(seed=seeds, duration=durations)
def test_a_trace_begins_and_ends_quietly_and_reaches_its_peak_in_between(seed, duration):
    trace = bursty(duration, seed)
    assert trace.duration == duration
    assert trace.profile.rate(0) == trace.profile.points[-1][1] == QUIET
    assert max(burst.rate for burst in trace.bursts) == HIGHEST
    assert trace.profile.highest in (HIGHEST, SPIKE)


@given(seed=seeds, duration=durations)
def test_bursts_do_not_overlap_and_stay_inside(seed, duration):
    bursts = bursty(duration, seed).bursts
    edges = [0.0, *(at for burst in bursts for at in (burst.begin, burst.end)), duration]
    assert edges == sorted(edges)
    for burst in bursts:
        middle = (burst.begin + burst.end) / 2
        expected = burst.rate if burst.spike is None else SPIKE
        assert math.isclose(bursty(duration, seed).profile.rate(middle), expected)


@given(seed=seeds)
def test_the_same_seed_is_the_same_trace_and_another_is_not(seed):
    assert bursty(20, seed) == bursty(20, seed)
    assert bursty(20, seed).arrivals() == bursty(20, seed).arrivals()
    assert bursty(20, seed) != bursty(20, seed + 1)


@given(seed=seeds, room=st.floats(1, 200))
def test_the_middle_of_the_peak_leaves_the_room_that_was_asked_for(seed, room):
    trace = bursty(180, seed)
    middle = trace.middle_of_peak(room)
    if middle is None:
        assert all((burst.begin + burst.end) / 2 + room > 180 for burst in trace.bursts)
    else:
        assert middle + room <= 180


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_three_minutes_need_one_replica_at_times_and_three_at_others(seed):
    trace = bursty(180, seed)
    each = 2 / 0.009  # a batch of two takes the simulated accelerator 9 ms
    needed = [math.ceil(trace.profile.rate(second / 2) / (0.8 * each)) for second in range(360)]
    assert (min(needed), max(needed)) == (1, 3)
    assert len(trace.bursts) >= 4
