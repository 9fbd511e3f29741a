"""What observations and scales say of themselves."""

import pytest

from slo_autoscaler.model import Observation, Scale


@pytest.mark.parametrize(
    ("rate", "growth", "gateway", "arrivals"),
    [
        (100.0, None, None, 100.0),
        (100.0, 30.0, None, 130.0),
        (100.0, -30.0, None, 100.0),
        (100.0, 30.0, 150.0, 150.0),
        (100.0, 30.0, 90.0, 130.0),
        (0.0, 0.0, 5.0, 5.0),
        (None, 30.0, 150.0, None),
    ],
)
def test_arrivals_are_the_larger_of_what_the_watchdogs_and_the_gateway_see(rate, growth, gateway, arrivals):
    seen = Observation(rate=rate, in_flight_growth=growth, gateway_rate=gateway)
    assert seen.arrival_rate == arrivals


def test_pending_replicas_are_never_negative():
    assert Scale(desired=5, available=3).pending == 2
    assert Scale(desired=1, available=3).pending == 0
