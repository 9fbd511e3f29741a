"""Whether rates repeat themselves, and what came one period before."""

from itertools import accumulate
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuzzing import fuzzed
from slo_autoscaler.law.periodicity import AGREED, KEPT, SLOT, Periodicity, agreement

SHORTEST = 30.0
RATES = st.floats(0.0, 1e9)


def play(rates, periodicity=None, begin=0.0):
    """Look once a slot; what is seen now is compared with what was three slots ago."""
    periodicity, before = periodicity or Periodicity(), [rates[0]] * 3
    for number, rate in enumerate(rates):
        periodicity = periodicity.after(begin + number * SLOT, rate, before[-3], SHORTEST)
        before.append(rate)
    return periodicity


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
    periodicity = play(peaks(period, length, 3 * period - 5, noise, seed))
    assert periodicity.period == pytest.approx(period, abs=1)
    (rates, weight), *_ = periodicity.repeats((3 * period - 5) * SLOT, [5 * SLOT])
    assert weight >= AGREED
    assert max(rates) > 200.0, "the third is foreseen"


@fuzzed(25)
@given(st.integers(0, 999))
def test_noise_has_no_period(seed: int):
    random = Random(seed)
    assert play([random.expovariate(0.01) for _ in range(300)]).period == 0


def test_no_peak_is_foreseen_three_periods_after_the_last():
    periodicity = play(peaks(60, 10, 300))
    assert periodicity.period == 60
    steady = play([100.0 + number % 2 for number in range(240)], periodicity, begin=300 * SLOT)
    foreseen = [rate for rates, _ in steady.repeats(540 * SLOT, range(0, 300, 5)) for rate in rates]
    assert max(foreseen, default=0.0) < 200.0


def test_a_gap_moves_the_slots_and_nothing_else():
    rates, seen, periodicity = peaks(60, 10, 500), Random(3), Periodicity()
    for slot, rate in enumerate(rates):
        if seen.random() < 0.8:
            periodicity = periodicity.after(slot * SLOT, rate, rates[max(0, slot - 3)], SHORTEST)
    assert periodicity.period == pytest.approx(60, abs=1)


@given(
    st.lists(
        st.tuples(st.sampled_from([0.0, 0.1, SLOT, 17.0, 600.0, 8000.0, -3.0, -4000.0]), RATES), max_size=60
    ),
    st.lists(st.lists(RATES, max_size=40), max_size=2),
    st.lists(st.floats(-1e4, 1e5), max_size=4),
    st.floats(-1e4, 1e4),
)
def test_any_clock_and_any_past_leave_it_sound(observations, days, ahead, begin):
    periodicity, rate = Periodicity(), 1.0
    for now, (_, newest) in zip(
        accumulate([gap for gap, _ in observations], initial=begin), observations, strict=False
    ):
        periodicity, rate = periodicity.after(now, newest, rate, SHORTEST), newest
        periodicity = periodicity.with_past(
            [[(begin + 60.0 * i, r) for i, r in enumerate(day)] for day in days]
        )
        assert len(periodicity.rates) <= KEPT
        assert 0 <= periodicity.period < max(1, len(periodicity.rates))
        for rates, weight in periodicity.repeats(now, ahead):
            assert rates
            assert AGREED <= weight <= 1.0 + 1e-9


def test_a_peak_of_the_day_before_is_foreseen_where_the_days_are_alike():
    day = [(60.0 * minute, 100.0 + 50.0 * (minute % 7) + 900.0 * (minute == 130)) for minute in range(200)]
    rates = [rate for _, rate in day[1:121] for _ in range(12)]
    alike, other = (play(rates).with_past([past]) for past in (day, [(when, 300.0) for when, _ in day]))
    now = 120 * 60.0
    found = [rates for rates, _ in alike.repeats(now, [9.5 * 60.0])]
    assert found == [[pytest.approx(day[130][1])]]
    assert not list(other.repeats(now, [9.5 * 60.0]))


@given(st.integers(24, 200), st.floats(0.0, 1e9), st.floats(0.0, 1e9))
def test_what_does_not_change_agrees_with_nothing(count: int, one: float, other: float):
    assert agreement([one] * count, [other] * count) == 0.0


@fuzzed(40)
@given(st.lists(st.tuples(RATES, RATES), min_size=24, max_size=30))
def test_agreement_is_a_correlation(pairs):
    one, other = zip(*pairs, strict=True)
    assert abs(agreement(one, other)) <= 1.0 + 1e-6
    assert agreement(one, one) in (0.0, pytest.approx(1.0))
