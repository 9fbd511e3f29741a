"""Query text has the forms that matter, and anything that is no number is no data."""

import math
from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slo_autoscaler.errors import SourceError
from slo_autoscaler.model import Observation
from slo_autoscaler.promql import SIGNALS, observations, parse, queries

names = st.sampled_from(["a.fn", "b.fn", "c.fn"])


def a_series(name, value):
    return {"metric": {"function_name": name}, "value": [1700000000.0, value]}


def test_there_is_one_query_for_each_signal_of_an_observation():
    assert set(SIGNALS) == {field.name for field in fields(Observation)}


def test_the_window_is_written_into_every_query_and_nothing_is_left_open():
    for text in queries(7.5, 2.0).values():
        assert "$" not in text
        assert ("[7500ms]" in text or "[2000ms]" in text) == ("[" in text)


def test_quantiles_are_taken_of_bucket_rates_that_are_summed_first_and_keep_le():
    for signal in ("p50", "p95", "p99"):
        text = queries(8.0, 4.0)[signal]
        assert text.startswith("histogram_quantile(")
        assert "sum by (function_name, le) (rate(http_request_duration_seconds_bucket" in text


def test_attainment_is_good_over_every_outcome():
    good, _, all_outcomes = queries(8.0, 4.0)["attainment"].partition(" / ")
    assert 'outcome="good"' in good
    assert "outcome" not in all_outcomes


@given(st.dictionaries(names, st.floats()))
def test_nan_and_infinity_are_no_data(values):
    parsed = parse([a_series(name, str(value)) for name, value in values.items()])
    assert parsed == {name: value for name, value in values.items() if math.isfinite(value)}


def test_the_spellings_of_the_api_are_understood():
    assert parse([a_series("a.fn", "NaN"), a_series("b.fn", "+Inf"), a_series("c.fn", "1e3")]) == {
        "c.fn": 1e3
    }


def test_an_empty_result_and_a_series_without_a_function_are_no_data():
    assert parse([]) == {}
    assert parse([{"metric": {}, "value": [0, "1"]}]) == {}


@pytest.mark.parametrize(
    "result",
    [
        None,
        {"result": []},
        "text",
        [3],
        [{}],
        [{"metric": None, "value": [0, "1"]}],
        [{"metric": {"function_name": "a.fn"}, "value": []}],
        [{"metric": {"function_name": "a.fn"}, "value": [0, "one"]}],
        [{"metric": {"function_name": "a.fn"}, "values": [[0, "1"]]}],
    ],
)
def test_anything_but_an_instant_vector_is_an_error(result):
    with pytest.raises(SourceError, match="expected a"):
        parse(result)


@given(st.dictionaries(st.sampled_from(sorted(SIGNALS)), st.dictionaries(names, st.floats(0, 1e6))))
def test_every_function_that_any_signal_names_is_observed_and_the_rest_is_none(signals):
    seen = observations(signals)
    assert set(seen) == {name for values in signals.values() for name in values}
    for name, observation in seen.items():
        for signal in SIGNALS:
            assert getattr(observation, signal) == signals.get(signal, {}).get(name)
