"""Answers become observations of each function, and history in ages."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slo_autoscaler.settings.spec import GatewaySlos, Slo
from slo_autoscaler.signals import answers, queries
from slo_autoscaler.signals.gate import fault
from slo_autoscaler.signals.record import SIGNALS, Observation, Recorded, Summed

names = st.sampled_from(["a.fn", "b.fn", "c.fn"])


@pytest.mark.parametrize(
    ("summed", "with_watchdog", "without"),
    [
        (Summed.NO, 1.0, 1.0),
        (Summed.WATCHDOGS, 2.0, 1.0),
        (Summed.GATEWAYS, 3.0, 3.0),
        (Summed.ALL, 2.0, 3.0),
    ],
)
def test_signal_is_divided_by_the_jobs_that_scrape_the_pages_it_adds_up(summed, with_watchdog, without):
    corrections = answers.Corrections.of({"a.fn": -2.0, queries.GATEWAY_PAGES: -3.0})
    signal = next(name for name, signal in SIGNALS.items() if signal.summed is summed)
    assert corrections.factor("a.fn", signal, watchdog=True) == with_watchdog
    assert corrections.factor("a.fn", signal, watchdog=False) == without


@given(st.dictionaries(st.sampled_from(sorted(queries.WATCHDOG)), st.dictionaries(names, st.floats(0, 1e6))))
def test_every_function_that_any_signal_names_is_observed_and_the_rest_is_none(signals):
    seen = answers.observations(signals)
    assert set(seen) == {name for values in signals.values() for name in values}
    for name, observation in seen.items():
        for signal in queries.WATCHDOG:
            value = signals.get(signal, {}).get(name)
            admitted = None if value is None or fault(signal, value) else value
            assert getattr(observation, signal) == admitted


def test_only_functions_that_have_no_watchdog_are_taken_from_the_gateway():
    assert queries.gateway(GatewaySlos({"ours.fn": None}), 20.0, 30.0) == {}
    slos = GatewaySlos({"plain.fn": Slo(0.25, 0.95), "ours.fn": None})
    signals = {"rate": {"plain.fn": 5.0, "ours.fn": 7.0, "stranger.fn": 9.0}, "burn_short": {"plain.fn": 0.9}}
    assert answers.gateway_observations(signals, slos) == {
        "plain.fn": Observation(rate=5.0, slo_latency=0.25, slo_objective=0.95, burn_short=pytest.approx(2.0))
    }


def test_earlier_counts_seconds_from_the_moment_and_knows_only_ages_with_rates():
    ranges = {
        3600.0: (6400.0, {"a.fn": ((6380.0, 4.0), (6400.0, 5.0), (6420.0, 6.0)), "b.fn": ()}),
        86400.0: (-76400.0, {"a.fn": ((-76400.0, 7.0),)}),
    }
    assert answers.earlier(ranges) == {
        "a.fn": {3600.0: ((-20.0, 4.0), (0.0, 5.0), (20.0, 6.0)), 86400.0: ((0.0, 7.0),)}
    }


def test_recorded_has_ages():
    ranges = {"rate": {"a.fn": ((90.0, 1.0), (100.0, 2.0))}, "start_up": {"b.fn": ((70.0, 30.0),)}}
    assert answers.recorded(ranges, 100.0) == {
        "a.fn": Recorded(rate=((10.0, 1.0), (0.0, 2.0))),
        "b.fn": Recorded(start_up=((30.0, 30.0),)),
    }


def test_earlier_counts_seconds_from_the_moment_then():
    points = {"a.fn": [(930.0, 2.0), (945.0, 3.0)], "none.fn": []}
    assert answers.earlier({60.0: (940.0, points)}) == {"a.fn": {60.0: ((-10.0, 2.0), (5.0, 3.0))}}


@pytest.mark.parametrize(("max_age", "named"), [(20.0, True), (60.0, False)])
def test_scrape_advice_names_the_age_only_where_samples_would_be_too_old(max_age, named):
    assert ("prometheus.max_age" in answers.scrape_advice({"a.fn": 3.0}, 5.0, max_age)) is named


def test_cluster_advice_on_labels_that_a_page_made_up_is_a_short_line():
    advice = answers.cluster_advice({"a.fn": {"cluster": {f"{number}" * 1000 for number in range(1000)}}})
    assert advice is not None
    assert len(advice) < 1000
