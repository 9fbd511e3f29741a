"""The odds of what follows a rate."""

from math import isfinite

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slo_autoscaler.law.foresight.scenarios import RATIOS, Followed, bin_of, with_rates

RATES = st.sampled_from([0.0, 1e-9, 1e-3, 1.0, 100.0, 1e9]) | st.floats(0.0, 1e6)
NOTHING = 1e-3
WINDOW = 20.0


@given(st.lists(st.tuples(RATES, RATES), max_size=40), RATES, st.floats(1e-3, 1e6), st.floats(0.0, 600.0))
def test_odds_of_any_moments_are_finite_and_not_negative(pairs, rate, nothing, window):
    odds = Followed().plus(pairs, nothing).odds(rate, nothing, window)
    odds = with_rates(odds, max(rate, nothing), [0.0, rate], 1.0)
    assert len(odds) == len(RATIOS)
    assert all(isfinite(each) and each >= 0.0 for each in odds)
    assert sum(odds) > 0.0


def odds_above(followed, rate, ratio):
    odds = followed.odds(rate, NOTHING, WINDOW)
    return sum(each for each, times in zip(odds, RATIOS, strict=True) if times >= ratio) / sum(odds)


def test_what_followed_a_rate_is_expected_after_one_like_it_and_less_after_another():
    followed = Followed().plus([(100.0, 100.0), (200.0, 400.0), (400.0, 400.0)] * 100, NOTHING)
    assert odds_above(followed, 200.0, 1.8) > 0.5
    assert odds_above(followed, 400.0, 1.8) < 0.05


def test_the_newest_moments_weigh_most():
    rising, steady = [(100.0, 400.0)] * 300, [(100.0, 100.0)] * 2000
    assert odds_above(Followed().plus([*rising, *steady], NOTHING), 100.0, 3.0) < 0.1
    assert odds_above(Followed().plus([*steady, *rising], NOTHING), 100.0, 3.0) > 0.3


def test_what_follows_no_traffic_is_a_rate_however_much_counts_as_none():
    followed = Followed().plus([(0.0, 90.0)] * 50, nothing=0.5)
    odds = followed.odds(0.0, 30.0, WINDOW)
    assert odds.index(max(odds)) == pytest.approx(bin_of(90.0 / 30.0), abs=1)


def test_what_follows_nothing_says_nothing_of_other_rates():
    followed = Followed().plus([*[(0.0, 0.0)] * 50, *[(0.0, 1000.0)] * 50, (1000.0, 1000.0)], NOTHING)
    assert odds_above(followed, 10.0, 1.5) == odds_above(
        Followed().plus([(1000.0, 1000.0)], NOTHING), 10.0, 1.5
    )


@given(st.floats(0.0, 1.0))
def test_rates_of_a_period_before_take_their_share_of_the_odds(share):
    odds = Followed().odds(100.0, NOTHING, WINDOW)
    mixed = with_rates(odds, 100.0, [400.0, 800.0], share)
    assert sum(mixed) == pytest.approx(sum(odds))
    assert min(mixed[bin_of(4.0)], mixed[bin_of(8.0)]) >= 0.5 * share * sum(odds) * (1.0 - 1e-9)


def test_plus_moments_of_weeks_stay_finite():
    followed = Followed()
    for _ in range(100):
        followed = followed.plus([(100.0, 100.0)] * 4000, NOTHING)
    assert all(map(isfinite, followed.odds(100.0, NOTHING, WINDOW)))
