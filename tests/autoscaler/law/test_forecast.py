"""Forecasts follow lines, keep the recent maximum, and are not led by noise."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slo_autoscaler.law.forecast import GROWTH_PER_SECOND, STEEP, forecast

points = st.lists(st.tuples(st.floats(0, 60), st.floats(0, 1e4)), max_size=40).map(
    lambda entries: sorted(entries, key=lambda entry: entry[0])
)


def a_line(level: float, slope: float, count: int = 20) -> list[tuple[float, float]]:
    return [(float(t), level + slope * t) for t in range(count)]


def test_no_history_is_no_forecast():
    assert forecast([], [], 0.0, 10.0) is None


def test_a_rising_line_is_followed_to_the_horizon():
    history = a_line(100.0, 0.5)
    horizon = 120.0
    assert forecast(history, history[-5:], 19.0, horizon) == pytest.approx(100 + 0.5 * (19 + horizon))


def test_a_rise_that_the_head_room_takes_is_not_followed():
    history = a_line(100.0, 0.5)
    reaching = (1.0 + STEEP) * 109.5
    horizon = (reaching - 109.5) / 0.5
    assert forecast(history, history[-5:], 19.0, horizon - 0.1) == 109.5
    assert forecast(history, history[-5:], 19.0, horizon + 0.1) == pytest.approx(reaching, rel=1e-3)


def test_a_falling_line_keeps_the_recent_maximum():
    history = a_line(100.0, -2.0)
    assert forecast(history, history[-5:], 19.0, 10.0) == history[-5][1]


def test_a_constant_rate_stays_what_it_is():
    history = a_line(70.0, 0.0)
    assert forecast(history, history, 19.0, 100.0) == 70.0


def test_noise_without_a_trend_is_not_extrapolated():
    history = [(float(t), 100.0 + (7 * t * t % 13)) for t in range(20)]
    assert forecast(history, history, 19.0, 1000.0) == max(value for _, value in history)


def test_a_step_is_extrapolated_no_faster_than_a_load_doubles_in_three_minutes():
    history = [(float(t), max(0.0, 100.0 * (t - 4))) for t in range(3, 9)]
    assert forecast(history, history, 8.0, 20.0) == pytest.approx(400 * (1 + 20 * GROWTH_PER_SECOND))
    assert 150 < 1 / GROWTH_PER_SECOND < 180


def test_too_few_points_and_points_at_one_moment_say_nothing_about_a_trend():
    assert forecast([(0.0, 1.0), (1.0, 5.0)], [], 1.0, 10.0) == 5.0
    assert forecast([(3.0, float(v)) for v in range(6)], [(3.0, 5.0)], 3.0, 10.0) == 5.0


@given(points, st.integers(0, 40), st.floats(0, 600))
def test_every_forecast_lies_between_the_recent_maximum_and_its_growth(history, recent, horizon):
    last = history[-recent:] if recent else []
    ahead = forecast(history, last, 60.0, horizon)
    if not history:
        assert ahead is None
        return
    assert ahead is not None
    floor = max(value for _, value in last or history[-1:])
    assert floor <= ahead <= (1 + GROWTH_PER_SECOND * horizon) * floor


@given(st.floats(0, 1e4), st.integers(1, 30), st.floats(0, 600))
def test_every_forecast_of_a_constant_rate_is_that_rate(rate, count, horizon):
    history = a_line(rate, 0.0, count)
    assert forecast(history, history, float(count), horizon) == pytest.approx(rate)
