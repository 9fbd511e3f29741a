"""Numbers as text."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slo_autoscaler import words as shown

ALL = (shown.seconds, shown.share, shown.attained, shown.budget, shown.factor, shown.per_second, shown.count)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.142, "142 ms"),
        (0.0873, "87 ms"),
        (0.0034, "3.4 ms"),
        (1.254, "1.25 s"),
        (0.9999, "1 s"),
        (0.0, "0 ms"),
    ],
)
def test_a_duration_is_milliseconds_below_a_second(value, text):
    assert shown.seconds(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(1.0, "100 %"), (0.999999, "99.99 %"), (0.9931, "99.31 %"), (0.5, "50 %"), (0.0, "0 %")],
)
def test_a_share_is_never_100_per_cent_if_something_is_missing(value, text):
    assert shown.share(value) == text


@pytest.mark.parametrize(("value", "text"), [(1.0, "100 %"), (0.999999, "99.99 %"), (0.994, "99.40 %")])
def test_in_a_column_a_share_has_two_places(value, text):
    assert shown.attained(value) == text


@pytest.mark.parametrize(("value", "text"), [(0.415, "42 %"), (-0.3, "\N{MINUS SIGN}30 %"), (1.0, "100 %")])
def test_an_overspent_budget_is_below_zero(value, text):
    assert shown.budget(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.31, "0.31"),
        (0.027, "0.03"),
        (0.0, "0"),
        (4.72, "4.7"),
        (14.42, "14.4"),
        (1204.6, "1,205"),
        (9.96, "10"),
    ],
)
def test_a_factor_has_the_digits_that_it_is_worth(value, text):
    assert shown.factor(value) == text


def test_a_target_is_the_share_and_the_latency():
    assert shown.target(0.2, 0.99) == "99 % ≤ 200 ms"
    assert shown.target(0.2, 0.9995) == "99.95 % ≤ 200 ms"
    assert shown.target(None, 0.99) == shown.NOTHING


@pytest.mark.parametrize("show", ALL)
@pytest.mark.parametrize("value", [None, math.nan, math.inf])
def test_what_is_not_known_is_a_dash(show, value):
    assert show(value) == shown.NOTHING


@pytest.mark.parametrize("show", ALL)
@given(value=st.floats(-1e6, 1e6, allow_subnormal=False))
def test_any_number_is_short_and_has_no_exponent(show, value):
    text = show(value)
    assert "e" not in text.replace("ms", "")
    assert len(text) < 330
