"""A function's rates are taken over as long as it needs: chance must not size it."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slo_autoscaler.signals.record import Observation
from slo_autoscaler.signals.window import LONGEST_WINDOW, rate_window, widened

SHORTEST, STEP = 20.0, 5.0


@pytest.mark.parametrize(
    ("slo_latency", "rate", "window"),
    [
        (0.2, 1000.0, SHORTEST),
        (25.0, 1000.0, 25.0),
        (0.2, 2.0, 50.0),
        (0.2, 0.1, LONGEST_WINDOW),
        (0.2, 0.0, LONGEST_WINDOW),
        (900.0, 0.1, 900.0),
    ],
)
def test_rate_window_is_the_longest_of_scrapes_slo_and_enough_requests(slo_latency, rate, window):
    assert rate_window(SHORTEST, slo_latency, rate) == window


def played(*rates, **known):
    """Return the last observation of a function with these rates, one a step, and the past."""
    past, seen = (), None
    for number, rate in enumerate(rates):
        now = Observation(rate=rate, rate_now=7.0, slo_latency=0.2, **known)
        seen, past = widened(past, now, SHORTEST, number * STEP)
    return seen, past


def test_widened_slow_function_has_the_mean_of_its_window_and_no_chance_of_two_scrapes():
    seen, _ = played(*[0.0, 0.2] * 100)
    assert (seen.rate, seen.rate_now) == (pytest.approx(0.1, rel=0.02), 0.2)


def test_widened_rate_that_chance_explains_leaves_the_window():
    """Of 0.3/s, as many as 15 requests in 20 s are three standard deviations."""
    seen, _ = played(*[0.3] * 100, 0.75)
    assert seen.rate_window == LONGEST_WINDOW


@given(st.lists(st.floats(0.0, 4.0), min_size=1, max_size=40), st.floats(6.0, 1000.0))
def test_widened_load_that_rises_is_seen_at_once_whatever_came_before(before, rate):
    seen, past = played(*before, rate)
    assert (seen.rate, seen.rate_now, past) == (rate, 7.0, ())


@given(st.lists(st.floats(0.0, 5.0), min_size=1, max_size=200))
def test_widened_rates_stay_between_the_lowest_and_the_highest(rates):
    seen, past = played(*rates)
    assert min(rates) * 0.999 <= seen.rate <= max(rates) * 1.001
    assert len(past) <= LONGEST_WINDOW / STEP


def test_widened_function_without_requests_keeps_no_past():
    seen, past = played(*[1.0] * 5, *[0.0] * 100)
    assert (seen.rate, past) == (0.0, ())


def test_widened_rate_that_is_unknown_now_stays_unknown():
    _, past = played(*[0.2] * 9, gateway_rate=0.3)
    nothing = Observation(slo_latency=0.2)
    assert widened(past, nothing, SHORTEST, 50.0)[0] == nothing
    seen, _ = widened(past, replace(nothing, rate=0.2), SHORTEST, 50.0)
    assert seen.gateway_rate is None


def test_widened_burn_rate_counts_requests():
    past, slow = (), Observation(slo_latency=0.2)
    for number, (rate, burn) in enumerate(((0.1, 4.0), (0.3, 0.0), (0.0, None))):
        seen, past = widened(past, replace(slow, rate=rate, burn_short=burn), SHORTEST, number * STEP)
    assert seen.burn_short == pytest.approx(1.0)


def test_widened_moment_that_is_observed_twice_counts_once():
    slow = Observation(rate=0.2, slo_latency=0.2)
    _, past = widened((), slow, SHORTEST, 5.0)
    _, past = widened(past, slow, SHORTEST, 5.0)
    assert len(past) == 1


def test_widened_arrivals_of_two_scrapes_at_the_gateway_do_not_count():
    seen, _ = played(*[0.2] * 9, gateway_rate=0.2, gateway_rate_now=9.0)
    assert seen.arrival_rate_now < 1.0
