"""The rates of two hours: what followed them, whether they repeat, and what came one period before."""

from itertools import accumulate, islice
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slo_autoscaler.law.foresight.history import KEPT, SLOT, History
from slo_autoscaler.law.foresight.scenarios import bin_of
from slo_autoscaler.law.tuning import TUNING
from support.fuzzing import fuzzed

HORIZON = 15.0
RATES = st.floats(0.0, 1e9)


def play(rates, history=None, begin=0.0):
    """Look once a slot."""
    history = history or History()
    for number, rate in enumerate(rates):
        history = history.after([(begin + number * SLOT, rate)], HORIZON)
    return history


def odds_above(followed, rate, ratio):
    odds = followed.odds(rate, 1e-3, 20.0)
    return sum(odds[bin_of(ratio) :]) / sum(odds)


def test_what_came_one_horizon_later_is_what_follows():
    history = play(([100.0] * 10 + [200.0] * 3 + [400.0] * 10) * 20)
    assert odds_above(history.followed, 200.0, 1.8) > 0.5
    assert odds_above(history.followed, 400.0, 1.8) < 0.05


def test_what_followed_nothing_is_expected_after_nothing_however_the_mean_has_moved_since():
    history = play([100.0] * 60 + ([0.0] * 60 + [100.0] * 3) * 2 + [0.0] * 60)
    odds = history.followed.odds(0.0, history.nothing, 20.0)
    come = sum(odds[bin_of(50.0 / history.nothing) :])
    # Three moments before each return, of sixty.
    assert 0.02 < come / sum(odds) < 0.1


def peaks(period, length, count, noise=0.0, seed=1):
    random = Random(seed)
    return [
        (400.0 if period <= slot and slot % period < length else 100.0) * (1.0 + noise * random.gauss(0, 1))
        for slot in range(count)
    ]


@fuzzed(25)
@given(st.integers(40, 150), st.floats(0.05, 0.25), st.floats(0.0, 0.05), st.integers(0, 99))
def test_the_distance_of_peaks_is_found_after_the_second(period: int, part: float, noise: float, seed: int):
    length = max(3, int(part * period))
    history = play(peaks(period, length, 3 * period - 5, noise, seed))
    assert history.period == pytest.approx(period, abs=1)
    due = 3 * period * SLOT
    ((rates, weight),) = history.repeats(due, due, 0.0)
    assert TUNING.agreed**2 <= weight <= 1.0
    assert max(rates) > 200.0, "the third is foreseen"


@fuzzed(25)
@given(st.integers(0, 999))
def test_noise_has_no_period(seed: int):
    random = Random(seed)
    assert play([random.expovariate(0.01) for _ in range(300)]).period == 0


@pytest.mark.parametrize("before", [3, 9, 60])
def test_one_step_of_the_rate_has_no_period(before):
    assert play([100.0] * before + [400.0] * 120).period == 0


@pytest.mark.parametrize("after", [2, 7, 11])
def test_second_step_as_long_after_the_first_has_no_period(after):
    assert play([0.0] * 20 + [20.0] * 12 + [130.0] * after).period == 0


def test_no_peak_is_foreseen_three_periods_after_the_last():
    history = play(peaks(60, 10, 300))
    assert history.period == 60
    steady = play([100.0 + number % 2 for number in range(240)], history, begin=300 * SLOT)
    foreseen = [rate for rates, _ in steady.repeats(540 * SLOT, 600 * SLOT, 10.0) for rate in rates]
    assert max(foreseen, default=0.0) < 200.0


def test_a_gap_moves_the_slots_and_nothing_else():
    seen, history = Random(3), History()
    for slot, rate in enumerate(peaks(60, 10, 500)):
        if seen.random() < 0.8:
            history = history.after([(slot * SLOT, rate)], HORIZON)
    assert history.period == pytest.approx(60, abs=1)


@given(
    st.lists(
        st.tuples(st.sampled_from([0.0, 0.1, SLOT, 17.0, 600.0, 8000.0, -3.0, -4000.0]), RATES), max_size=60
    ),
    st.lists(st.lists(RATES, max_size=40), max_size=2),
    st.floats(-1e4, 1e5),
    st.floats(0.0, 600.0),
    st.floats(-1e4, 1e4),
)
def test_any_clock_and_any_past_leave_it_sound(observations, days, first, span, begin):
    history = History()
    times = islice(accumulate([gap for gap, _ in observations], initial=begin), len(observations))
    for now, (_, newest) in zip(times, observations, strict=True):
        history = history.after([(now, newest)], HORIZON)
        history = history.with_past([[(begin + 60.0 * i, r) for i, r in enumerate(day)] for day in days])
        assert len(history.rates) <= KEPT
        assert 0 <= history.period < max(1, len(history.rates))
        for rates, weight in history.repeats(first, first + span, 10.0):
            assert rates
            assert TUNING.agreed <= weight <= 1.0 + 1e-9


def test_a_peak_of_the_day_before_is_foreseen_where_the_days_are_alike():
    day = [(60.0 * minute, 100.0 + 50.0 * (minute % 7) + 900.0 * (minute == 130)) for minute in range(200)]
    rates = [rate for _, rate in day[1:121] for _ in range(12)]
    alike, other = (play(rates).with_past([past]) for past in (day, [(when, 300.0) for when, _ in day]))
    now = 120 * 60.0
    due = now + 9.5 * 60.0
    found = [list(rates) for rates, weight in alike.repeats(due, due, 0.0) if weight <= 0.5]
    assert found == [[pytest.approx(day[130][1])]]
    assert not list(other.repeats(due, due, 0.0))


def test_step_of_an_earlier_day_that_began_before_the_first_rate_is_not_compared():
    minutes = [100.0 * (minute % 7) for minute in range(40)]
    history = play([rate for rate in minutes for _ in range(12)])
    day = [(30.0, 9000.0), *((60.0 * minute, rate) for minute, rate in enumerate(minutes, start=1))]
    assert history.with_past([day]).past[0].agreement == pytest.approx(1.0)


def test_ramp_of_some_seconds_has_no_period_however_short_the_interval():
    history = History(slot=1.0)
    for second, rate in enumerate([20.0] * 12 + [40.0] * 10 + [65.0] * 14):
        history = history.after([(float(second), rate)], 4.0)
    assert len(history.jumps) == 2
    assert history.period == 0
