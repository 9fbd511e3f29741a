"""What observations and scales say of themselves."""

import pytest

from slo_autoscaler.model import Scale
from slo_autoscaler.signals.record import Observation


@pytest.mark.parametrize(
    ("rate", "growth", "gateway", "arrivals"),
    [
        (100.0, None, None, 100.0),
        (100.0, 30.0, None, 130.0),
        (100.0, -30.0, None, 70.0),
        (10.0, -30.0, None, 0.0),
        (100.0, 30.0, 150.0, 150.0),
        (100.0, 30.0, 90.0, 130.0),
        (0.0, 0.0, 5.0, 5.0),
        (None, 30.0, 150.0, None),
    ],
)
def test_arrivals_are_the_larger_of_what_the_watchdogs_and_the_gateway_see(rate, growth, gateway, arrivals):
    seen = Observation(rate=rate, in_flight_growth=growth, gateway_rate=gateway)
    assert seen.arrival_rate == arrivals


@pytest.mark.parametrize(
    ("rate_now", "direct", "arrivals"),
    [
        (100.0, 400.0, 400.0),
        (100.0, 30.0, 100.0),
        (None, 400.0, 400.0),
        (None, 30.0, 90.0),
        (None, None, None),
    ],
)
def test_direct_rate_may_raise_the_newest_arrivals_and_never_lowers_them(rate_now, direct, arrivals):
    assert Observation(rate=90.0, rate_now=rate_now, direct_rate=direct).arrival_rate_now == arrivals


def test_pending_replicas_are_never_negative():
    assert (Scale(5, 3).pending, Scale(1, 3).pending) == (2, 0)


@pytest.mark.parametrize(
    ("attainment", "objective", "burn"),
    [
        (1.0, 0.99, 0.0),
        (0.99, 0.99, 1.0),
        (0.9, 0.99, 10.0),
        (None, 0.99, None),
        (0.9, None, None),
        (0.9, 1.0, None),
    ],
)
def test_the_burn_rate_is_misses_over_what_the_objective_allows(attainment, objective, burn):
    seen = Observation(attainment=attainment, slo_objective=objective)
    assert seen.burn_rate == (None if burn is None else pytest.approx(burn))
