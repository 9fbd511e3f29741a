"""Forecasts follow lines, keep the recent maximum, and are not led by noise."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slo_autoscaler.law.forecast import GROWTH_PER_SECOND, MIN_POINTS, forecast

points = st.lists(st.tuples(st.floats(0, 60), st.floats(0, 1e4)), max_size=40).map(
    lambda entries: sorted(entries, key=lambda entry: entry[0])
)


def a_line(level: float, slope: float, count: int = 20) -> list[tuple[float, float]]:
    return [(float(t), level + slope * t) for t in range(count)]


LINE, STEP = a_line(100.0, 0.5), [(float(t), max(0.0, 100.0 * (t - 4))) for t in range(3, 9)]
NOISE = [(float(t), 100.0 + (7 * t * t % 13)) for t in range(20)]


@pytest.mark.parametrize(
    ("history", "recent", "horizon", "expected"),
    [
        pytest.param([], 0, 10.0, None, id="no history"),
        pytest.param(LINE, 5, 120.0, 100 + 0.5 * (19 + 120), id="a rising line"),
        pytest.param(LINE, 5, 10.0, 109.5, id="a rise that headroom takes"),
        pytest.param(a_line(100.0, -2.0), 5, 10.0, 70.0, id="a falling line: the recent maximum"),
        pytest.param(NOISE, 20, 1000.0, max(value for _, value in NOISE), id="noise without a trend"),
        pytest.param(STEP, 6, 20.0, 400 * (1 + 20 * GROWTH_PER_SECOND), id="a step: no faster than bounded"),
        pytest.param(a_line(1.0, 9.0, MIN_POINTS - 1), 0, 2.0, 19.0, id="too few points"),
        pytest.param([(3.0, float(v)) for v in range(6)], 1, 10.0, 5.0, id="points at one moment"),
    ],
)
def test_a_line_is_followed_if_it_is_one_and_leads_far(history, recent, horizon, expected):
    now = history[-1][0] if history else 0.0
    ahead = forecast(history, history[len(history) - recent :], now, horizon)
    assert ahead == (None if expected is None else pytest.approx(expected))


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
