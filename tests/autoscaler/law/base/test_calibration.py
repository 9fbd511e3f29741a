"""The calibration: the capacity at which the curve agrees with the measured lateness."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slo_autoscaler.law.base.calibration import Calibration
from slo_autoscaler.law.base.curve import Curve, curve

PERIOD = 3600.0
CLAIMED = 100.0

SLOS = st.floats(0.05, 2.0)
"""Seconds: 5 to 200 requests fit into the SLO."""


def seen(
    true: Curve, claimed: Curve, load: float, calibration: Calibration, seconds: float = 1800.0
) -> Calibration:
    """Return the calibration after some time at a steady ``load``, as a multiple of the true goodput."""
    rate = load * true.goodput
    for _ in range(int(seconds / 5.0)):
        load = rate / claimed.goodput
        calibration = calibration.after(5.0, PERIOD, rate, true.late(rate), [load], claimed)
    return calibration


@settings(max_examples=20)
@given(SLOS, st.floats(0.05, 1.0), st.floats(1.0, 1.2))
def test_a_capacity_that_is_too_high_is_found(slo, factor, load):
    claimed = curve(CLAIMED, slo, 0.99)
    found = seen(claimed.corrected(factor), claimed, load, Calibration())
    assert found.factor == pytest.approx(factor, rel=0.1)


@settings(max_examples=20)
@given(SLOS, st.floats(1.0, 3.0))
def test_a_capacity_that_is_too_low_is_raised_to_the_goodput_at_most(slo, factor):
    claimed = curve(CLAIMED, slo, 0.99)
    found = seen(claimed.corrected(factor), claimed, 0.8 / factor, Calibration())
    assert 0.95 <= found.factor <= 1.0 / claimed.promised


@given(SLOS, st.lists(st.tuples(st.floats(0.0, 1e4), st.floats(0.0, 1.0), st.floats(0.0, 50.0)), max_size=20))
def test_whatever_is_measured_the_factor_is_positive_and_the_goodput_the_most(slo, story):
    claimed, calibration = curve(CLAIMED, slo, 0.99), Calibration()
    for served, late, load in story:
        calibration = calibration.after(5.0, PERIOD, served, late, [load], claimed)
    assert 0.0 < calibration.factor <= max(1.0, 1.0 / claimed.promised)


def test_a_few_late_requests_say_little():
    claimed = curve(CLAIMED, 0.2, 0.99)
    assert Calibration().after(5.0, PERIOD, 1.0, 0.2, [0.5], claimed).factor > 0.95


def test_what_was_believed_at_the_start_gives_way_to_what_is_measured():
    claimed = curve(CLAIMED, 0.2, 0.99)
    before = Calibration(0.5, believed=0.5)
    assert seen(claimed, claimed, 0.1, before, 5.0).factor == pytest.approx(0.5, rel=0.1)
    assert seen(claimed, claimed, 0.9, before).factor == pytest.approx(1.0, rel=0.1)


def test_older_comparisons_count_less():
    claimed = curve(CLAIMED, 0.2, 0.99)
    slow = seen(claimed.corrected(0.5), claimed, 0.9, Calibration(), PERIOD)
    soon, late = (seen(claimed, claimed, 0.9, slow, hours * PERIOD).factor for hours in (1.0, 4.0))
    assert slow.factor < soon < late <= 1.1


def test_no_traffic_changes_nothing():
    calibration = replace(Calibration(), measured=3.0)
    assert calibration.after(5.0, PERIOD, 0.0, 0.0, [0.0], curve(CLAIMED, 0.2, 0.99)) == calibration
