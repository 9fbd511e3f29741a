"""Offered rates over time."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailbound_lab.load.arrivals import Profile, ShapeError, peak, steps


@given(st.floats(1, 1000), st.floats(1, 1000), st.floats(5, 600))
def test_peak_has_base_ramps_and_top(base, top, duration):
    profile = peak(base, top, duration, 0.2)
    rates = [profile.rate(share * duration) for share in (0, 0.5, 1)]
    assert rates == [base, pytest.approx(top), base]


def test_steps_hold_each_rate_for_its_seconds():
    profile = steps("100:5,500:10")
    assert [profile.rate(at) for at in (0, 4.9, 5, 14)] == [100, 100, 500, 500]
    assert (profile.rate(-1), profile.rate(16), profile.duration) == (0, 0, 15)


@pytest.mark.parametrize("text", ["", "100", "x:1", "100:", "100:0", "100:-1", "-1:5", "nan:5", "5:inf"])
def test_steps_of_a_wrong_text_raise(text):
    with pytest.raises(ShapeError):
        steps(text)


@pytest.mark.parametrize(
    "points",
    [
        ((0.0, 1.0),),
        ((1.0, 1.0), (2.0, 1.0)),
        ((0.0, 1.0), (2.0, 1.0), (1.0, 1.0)),
        ((0.0, 1.0), (2.0, math.inf)),
    ],
    ids=["one point", "late start", "backwards", "endless"],
)
def test_profile_that_is_impossible_raises(points):
    with pytest.raises(ShapeError):
        Profile(points)
