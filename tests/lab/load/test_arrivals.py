"""The traffic's mathematics: profiles, the peak, and Poisson arrivals."""

import math
import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailbound_lab.load.arrivals import (
    HIGHEST,
    LOWEST,
    QUIET,
    SPIKE,
    Profile,
    ShapeError,
    arrivals,
    bursty,
    peak,
    phase,
    steps,
)

rates = st.floats(0, 200)
lengths = st.floats(0.01, 20)
profiles = st.lists(st.tuples(lengths, rates), min_size=2, max_size=6).map(
    lambda parts: Profile(
        tuple((sum(length for length, _ in parts[1 : i + 1]), rate) for i, (_, rate) in enumerate(parts))
    )
)


@given(profiles, st.integers(0, 2**32))
def test_arrivals_are_poisson_within_the_profile_and_the_same_for_a_seed(profile, seed):
    times = arrivals(profile, random.Random(seed).random)
    assert times == sorted(times) == arrivals(profile, random.Random(seed).random)
    assert all(0 <= at <= profile.duration + 1e-9 for at in times)
    expected = sum((t1 - t0) * (r0 + r1) / 2 for (t0, r0), (t1, r1) in pairwise(profile.points))
    assert abs(len(times) - expected) <= 8 * math.sqrt(expected) + 12


def test_arrivals_follow_the_rate_second_by_second():
    profile = peak(100, 2000, 60)
    times = arrivals(profile, random.Random(7).random)
    for second in range(60):
        expected = (profile.rate(second) + profile.rate(second + 1)) / 2
        assert abs(sum(second <= at < second + 1 for at in times) - expected) < 6 * math.sqrt(expected) + 30


@given(st.floats(1, 1000), st.floats(1, 1000), st.floats(5, 600))
def test_a_peak_starts_and_ends_at_its_base_holds_its_top_and_its_parts_have_names(base, top, duration):
    profile = peak(base, top, duration)
    rates = [profile.rate(share * duration) for share in (0, 0.5, 1)]
    assert rates == [base, pytest.approx(top), base]
    names = [phase(share * duration, duration) for share in (0, 0.25, 0.5, 0.62, 0.8)]
    assert names == ["base", "ramp up", "peak", "ramp down", "base again"]


def test_steps_hold_each_rate_for_its_seconds():
    profile = steps("100:5,500:10")
    assert [profile.rate(at) for at in (0, 4.9, 5, 14)] == [100, 100, 500, 500]
    assert (profile.rate(-1), profile.rate(16), profile.duration) == (0, 0, 15)


@pytest.mark.parametrize("text", ["", "100", "x:1", "100:", "100:0", "100:-1", "-1:5", "nan:5", "5:inf"])
def test_a_wrong_rate_names_itself_and_the_rule(text):
    with pytest.raises(ShapeError, match=r"rate|seconds"):
        steps(text)


@pytest.mark.parametrize(
    ("points", "rule"),
    [
        (((0.0, 1.0),), "two points"),
        (((1.0, 1.0), (2.0, 1.0)), "starts at 0"),
        (((0.0, 1.0), (2.0, 1.0), (1.0, 1.0)), "must not fall"),
        (((0.0, 1.0), (2.0, math.inf)), "finite"),
    ],
)
def test_an_impossible_profile_names_the_rule(points, rule):
    with pytest.raises(ShapeError, match=rule):
        Profile(points)


@given(seed=st.integers(0, 10_000), duration=st.floats(2, 600))
def test_bursty_begins_and_ends_quietly_and_reaches_its_peak_in_between(seed, duration):
    profile = bursty(duration, random.Random(seed).random)
    rates = [rate for _, rate in profile.points]
    heights, bursts = set(rates), (rates.count(QUIET) - 2) // 2
    assert rates.count(SPIKE) == 2 * (bursts // 2), "two edges in every second burst"
    assert profile.duration == duration
    assert (profile.points[0][1], profile.points[-1][1]) == (QUIET, QUIET)
    assert HIGHEST in heights
    assert heights - {QUIET, SPIKE} <= {rate for rate in heights if LOWEST <= rate <= HIGHEST}


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_bursty_needs_one_replica_at_times_and_three_at_others(seed):
    profile = bursty(180, random.Random(seed).random)
    each = 2 / 0.009  # a batch of two takes the simulated accelerator 9 ms
    needed = [math.ceil(profile.rate(second / 2) / (0.8 * each)) for second in range(360)]
    assert (min(needed), max(needed)) == (1, 3)
