"""The forecast follows lines, keeps the recent maximum, and is not led by noise."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slo_autoscaler.forecast import MAX_GROWTH, forecast

points = st.lists(st.tuples(st.floats(0, 60), st.floats(0, 1e4)), max_size=40).map(
    lambda entries: sorted(entries, key=lambda entry: entry[0])
)


def a_line(level: float, slope: float, count: int = 20) -> list[tuple[float, float]]:
    return [(float(t), level + slope * t) for t in range(count)]


def test_no_history_is_no_forecast():
    assert forecast([], [], 0.0, 10.0) is None


def test_a_rising_line_is_followed_to_the_horizon():
    history = a_line(100.0, 2.0)
    assert forecast(history, history[-5:], 19.0, 10.0) == pytest.approx(100 + 2 * 29)


def test_a_falling_line_keeps_the_recent_maximum():
    history = a_line(100.0, -2.0)
    assert forecast(history, history[-5:], 19.0, 10.0) == history[-5][1]


def test_a_constant_rate_stays_what_it_is():
    history = a_line(70.0, 0.0)
    assert forecast(history, history, 19.0, 100.0) == 70.0


def test_noise_without_a_trend_is_not_extrapolated():
    history = [(float(t), 100.0 + (7 * t * t % 13)) for t in range(20)]
    assert forecast(history, history, 19.0, 1000.0) == max(value for _, value in history)


def test_a_step_is_not_extrapolated_beyond_twice_what_was_seen():
    history = [(float(t), 0.0) for t in range(4)] + [(4.0 + t, 100.0 * t) for t in range(1, 5)]
    assert forecast(history, history, 8.0, 1000.0) == MAX_GROWTH * 400.0


def test_too_few_points_and_points_at_one_moment_say_nothing_about_a_trend():
    assert forecast([(0.0, 1.0), (1.0, 5.0)], [], 1.0, 10.0) == 5.0
    assert forecast([(3.0, float(v)) for v in range(6)], [(3.0, 5.0)], 3.0, 10.0) == 5.0


@given(points, st.integers(0, 40), st.floats(0, 600))
def test_the_forecast_lies_between_the_recent_maximum_and_twice_that(history, recent, horizon):
    last = history[-recent:] if recent else []
    ahead = forecast(history, last, 60.0, horizon)
    if not history:
        assert ahead is None
        return
    assert ahead is not None
    floor = max(value for _, value in last or history[-1:])
    assert floor <= ahead <= MAX_GROWTH * floor
