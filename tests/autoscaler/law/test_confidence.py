"""Wilson's bounds: known values, and what holds for any share of any number."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slo_autoscaler.law.confidence import wilson


@pytest.mark.parametrize(
    ("share", "samples", "lower", "upper"),
    [
        # The score interval at 1.96 standard errors, as statsmodels and R's prop.test (uncorrected) give it.
        (0.5, 10, 0.2366, 0.7634),
        (0.0, 10, 0.0, 0.2775),
        (1.0, 10, 0.7225, 1.0),
        (0.95, 100, 0.8882, 0.9785),
        (1.0, 300, 0.9874, 1.0),
    ],
)
def test_the_bounds_are_those_of_the_tables(share, samples, lower, upper):
    assert wilson(share, samples, 1.96) == pytest.approx((lower, upper), abs=1e-4)


def test_without_a_request_every_share_is_possible():
    assert wilson(0.3, 0.0, 2.0) == (0.0, 1.0)


@given(st.floats(0, 1), st.floats(0, 1e9), st.floats(0.1, 4), st.floats(1, 10))
def test_the_bounds_lie_around_the_share_wider_for_more_certainty_and_closer_for_more_samples(
    share, samples, z, more
):
    lower, upper = wilson(share, samples, z)
    assert 0.0 <= lower <= share + 1e-9
    assert share - 1e-9 <= upper <= 1.0
    wide, close = wilson(share, samples, z * more), wilson(share, samples * more, z)
    assert wide[0] <= lower + 1e-9
    assert wide[1] >= upper - 1e-9
    assert close[1] - close[0] <= upper - lower + 1e-9
