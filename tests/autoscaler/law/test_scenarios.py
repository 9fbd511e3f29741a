"""The odds of what follows a rate."""

from math import isfinite

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slo_autoscaler.law.scenarios import RATIOS, STEP, Followed, Moments, bin_of

RATES = st.sampled_from([0.0, 1e-9, 1e-3, 1.0, 100.0, 1e9]) | st.floats(0.0, 1e6)
NOTHING = 1e-3
gaps = st.sampled_from([0.0, 1.0, 5.0, 60.0, 4000.0, -5.0, -4000.0])


@given(st.lists(st.tuples(gaps, RATES, RATES), max_size=40), RATES, st.sampled_from([5.0, 15.0, 185.0]))
def test_odds_are_finite_and_not_negative_whatever_was_seen(observations, believed, horizon):
    moments, now = Moments(), 0.0
    for gap, rate, newest in observations:
        now += gap
        moments = moments.after(now, max(0.0, gap), rate, newest, horizon)
    base = max(believed, moments.nothing)
    for followed in (moments.then, moments.meanwhile):
        odds = followed.odds(believed, moments.nothing).repeated(base, [0.0, believed], 1.0).row()
        assert len(odds) == len(RATIOS)
        assert all(isfinite(each) and each >= 0.0 for each in odds)
        assert sum(odds) > 0.0


def test_observations_while_the_clock_stands_still_are_not_kept():
    moments = Moments()
    for _ in range(1000):
        moments = moments.after(7.0, 0.0, 100.0, 100.0, 15.0)
    assert len(moments.recent) < 10


@given(st.floats(0.0, 1e12))
def test_the_bin_of_a_ratio_is_the_nearest(ratio):
    found = RATIOS[bin_of(ratio)]
    if RATIOS[0] <= ratio <= RATIOS[-1]:
        assert STEP**-0.51 <= found / ratio <= STEP**0.51
    else:
        assert found in (RATIOS[0], RATIOS[-1])


def after(rates, horizon=15.0):
    moments = Moments()
    for number, rate in enumerate(rates):
        moments = moments.after(5.0 * number, 5.0, rate, rate, horizon)
    return moments


def odds_above(followed, rate, ratio):
    odds = followed.odds(rate, NOTHING).row()
    return sum(each for each, times in zip(odds, RATIOS, strict=True) if times >= ratio) / sum(odds)


def test_what_followed_a_rate_is_expected_after_one_like_it_and_less_after_another():
    rates = ([100.0] * 10 + [200.0] * 3 + [400.0] * 10) * 20
    followed = after(rates).then
    assert odds_above(followed, 200.0, 1.8) > 0.5
    assert odds_above(followed, 400.0, 1.8) < 0.05


def test_the_newest_moments_weigh_most():
    rising, steady = [100.0, 100.0, 100.0, 400.0, 400.0, 400.0] * 100, [100.0] * 2000
    assert odds_above(after([*rising, *steady]).then, 100.0, 3.0) < 0.1
    assert odds_above(after([*steady, *rising]).then, 100.0, 3.0) > 0.3


def test_a_rate_never_seen_may_be_followed_by_anything_like_others_were():
    doubling = Followed()
    for rate in (10.0, 20.0, 40.0, 80.0):
        for _ in range(5):
            doubling = doubling.plus(rate, 2.0 * rate, NOTHING)
    assert odds_above(doubling, 1e4, 1.9) > 0.3
    assert odds_above(Followed(), 1e4, 1.9) < 0.1


def test_what_follows_nothing_says_nothing_of_other_rates():
    assert after([0.0] * 50 + [1000.0] * 3).then.any.moments < 60
    assert odds_above(after(([0.0] * 4 + [1000.0] * 4) * 20 + [1000.0] * 60).then, 1000.0, 3.0) < 0.05


def test_what_followed_nothing_is_expected_after_nothing_however_the_mean_has_moved_since():
    moments = after([100.0] * 60 + ([0.0] * 60 + [100.0] * 3) * 2 + [0.0] * 60)
    odds = moments.then.odds(0.0, moments.nothing).row()
    come = sum(odds[bin_of(50.0 / moments.nothing) :])
    # Three moments before each return, of sixty.
    assert 0.02 < come / sum(odds) < 0.1


def test_the_mean_rate_is_that_of_half_an_hour():
    moments = after([100.0] * 180 + [0.0] * 180)
    assert moments.mean == pytest.approx(50.0, rel=0.02)
    assert after([100.0] * 180 + [0.0] * 720).mean < 15.0


def test_a_jump_is_remembered_at_its_height_though_the_mean_of_some_seconds_hides_it():
    moments = Moments()
    for cycle in range(10):
        for number in range(12):
            now = 5.0 * (12 * cycle + number)
            high = number >= 9
            moments = moments.after(now, 5.0, 75.0 if high else 10.0, 100.0 if high else 10.0, 15.0)
    odds = moments.then.odds(10.0, NOTHING).row()
    assert sum(odds[bin_of(9.0) :]) / sum(odds) > 0.1


def test_what_came_a_period_before_weighs_as_much_as_all_else():
    odds = Followed().odds(100.0, NOTHING)
    assert odds.repeated(100.0, [400.0], 1.0).row()[bin_of(4.0)] >= odds.moments
