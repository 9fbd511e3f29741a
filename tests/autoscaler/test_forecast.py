"""Forecasts follow lines, keep the recent maximum, and are not led by noise."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slo_autoscaler.law.forecast import DAMPING, FORECASTERS, GROWTH_PER_SECOND, STEEP, forecast, holt, level

points = st.lists(st.tuples(st.floats(0, 60), st.floats(0, 1e4)), max_size=40).map(
    lambda entries: sorted(entries, key=lambda entry: entry[0])
)


def a_line(level: float, slope: float, count: int = 20) -> list[tuple[float, float]]:
    return [(float(t), level + slope * t) for t in range(count)]


def test_no_history_is_no_forecast():
    assert forecast("trend", [], [], 0.0, 10.0) is None


def test_a_rising_line_is_followed_to_the_horizon():
    history = a_line(100.0, 0.5)
    horizon = 120.0
    assert forecast("trend", history, history[-5:], 19.0, horizon) == pytest.approx(
        100 + 0.5 * (19 + horizon)
    )


def test_a_rise_that_the_head_room_takes_is_not_followed():
    history = a_line(100.0, 0.5)
    reaching = (1.0 + STEEP) * 109.5
    horizon = (reaching - 109.5) / 0.5
    assert forecast("trend", history, history[-5:], 19.0, horizon - 0.1) == 109.5
    assert forecast("trend", history, history[-5:], 19.0, horizon + 0.1) == pytest.approx(reaching, rel=1e-3)


def test_a_falling_line_keeps_the_recent_maximum():
    history = a_line(100.0, -2.0)
    assert forecast("trend", history, history[-5:], 19.0, 10.0) == history[-5][1]


def test_a_constant_rate_stays_what_it_is():
    history = a_line(70.0, 0.0)
    assert forecast("trend", history, history, 19.0, 100.0) == 70.0


def test_noise_without_a_trend_is_not_extrapolated():
    history = [(float(t), 100.0 + (7 * t * t % 13)) for t in range(20)]
    assert forecast("trend", history, history, 19.0, 1000.0) == max(value for _, value in history)


def test_a_step_is_extrapolated_no_faster_than_a_load_doubles_in_three_minutes():
    history = [(float(t), max(0.0, 100.0 * (t - 4))) for t in range(3, 9)]
    assert forecast("trend", history, history, 8.0, 20.0) == pytest.approx(400 * (1 + 20 * GROWTH_PER_SECOND))
    assert 150 < 1 / GROWTH_PER_SECOND < 180


def test_too_few_points_and_points_at_one_moment_say_nothing_about_a_trend():
    assert forecast("trend", [(0.0, 1.0), (1.0, 5.0)], [], 1.0, 10.0) == 5.0
    assert forecast("trend", [(3.0, float(v)) for v in range(6)], [(3.0, 5.0)], 3.0, 10.0) == 5.0


def test_level_alone_keeps_the_recent_maximum_and_extrapolates_nothing():
    history = a_line(100.0, 2.0)
    assert forecast("level", history, history[-5:], 19.0, 1000.0) == 138.0
    assert level(history, 19.0, 10.0) == 138.0


def test_holt_is_level_plus_a_fading_trend():
    # A line is followed with a trend that damping keeps below the line's own.
    history = a_line(100.0, 2.0, count=200)
    near, far, farther = (holt(history, 199.0, ahead) for ahead in (1.0, 100.0, 1000.0))
    assert history[-1][1] < near < 100 + 2 * 200
    assert near < far
    assert farther == pytest.approx(far, rel=1e-3), "however far ahead, the trend is worth nine values"


def test_holt_follows_a_turn_sooner_than_the_line_does():
    history = [*a_line(400.0, -10.0, count=10), *[(10.0 + t, 320.0 + 20.0 * t) for t in range(5)]]
    line = forecast("trend", history, history[-1:], 14.0, 10.0)
    damped = forecast("holt", history, history[-1:], 14.0, 10.0)
    assert damped > line == 400.0


def test_holt_smooths_by_hand():
    # level 10 -> 0.5 * 20 + 0.5 * 10 = 15, rise 0.3 * 5 = 1.5; then expected 15 + 0.9 * 1.5 = 16.35,
    # level 0.5 * 20 + 0.5 * 16.35 = 18.175, rise 0.3 * 3.175 + 0.7 * 0.9 * 1.5 = 1.8975; one step ahead.
    ahead = holt([(0.0, 10.0), (1.0, 20.0), (2.0, 20.0)], 2.0, 1.0)
    assert ahead == pytest.approx(18.175 + DAMPING * 1.8975)


def test_holt_says_nothing_of_one_moment():
    assert holt([(3.0, float(v)) for v in range(6)], 3.0, 10.0) is None


@given(st.sampled_from(sorted(FORECASTERS)), points, st.integers(0, 40), st.floats(0, 600))
def test_every_forecast_lies_between_the_recent_maximum_and_its_growth(name, history, recent, horizon):
    last = history[-recent:] if recent else []
    ahead = forecast(name, history, last, 60.0, horizon)
    if not history:
        assert ahead is None
        return
    assert ahead is not None
    floor = max(value for _, value in last or history[-1:])
    assert floor <= ahead <= (1 + GROWTH_PER_SECOND * horizon) * floor


@given(st.sampled_from(sorted(FORECASTERS)), st.floats(0, 1e4), st.integers(1, 30), st.floats(0, 600))
def test_every_forecast_of_a_constant_rate_is_that_rate(name, rate, count, horizon):
    history = a_line(rate, 0.0, count)
    assert forecast(name, history, history, float(count), horizon) == pytest.approx(rate)
