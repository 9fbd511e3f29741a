"""Query text has the forms that matter, and anything that is no number is no data."""

import json
import math
import re
from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slo_autoscaler.errors import SourceError
from slo_autoscaler.law.restart import Recorded
from slo_autoscaler.signals import SIGNALS, Observation
from slo_autoscaler.sources import promql
from slo_autoscaler.spec import GatewaySlos, Slo

names = st.sampled_from(["a.fn", "b.fn", "c.fn"])


def a_series(name, value):
    return {"metric": {"function_name": name}, "value": [1700000000.0, value]}


SLOS = GatewaySlos({"a.fn": Slo(0.2, 0.99)}, Slo(0.3, 0.9))
SPANS = re.compile(r"\[(?:7500|2000|1100|6000|3600000|30000:6000|3600000:2000)ms\]".replace(":", "ms:"))


def test_queries_every_signal_has_one_and_nothing_is_left_open():
    assert set(promql.WATCHDOG) == set(SIGNALS) - {"direct_rate"}, "which is no query"
    assert {*promql.history_queries(2.0, SLOS), *promql.RESTORED} == {
        field.name for field in fields(Recorded)
    }
    asked = [
        *(promql.queries(7.5, 2.0, seldom=seldom) for seldom in (False, True)),
        *(promql.gateway_queries(7.5, 2.0, SLOS, seldom=seldom) for seldom in (False, True)),
        promql.history_queries(2.0, SLOS),
        {"": promql.exported_at(2.0)},
        {"": promql.corrections(7.5, 2.0)},
        promql.new_queries(["a.fn"], 7.5, 2.0),
    ]
    for text in (text for texts in asked for text in texts.values()):
        assert "$" not in text
        assert "[" not in SPANS.sub("", re.sub(r'"[^"]*"', "", text))


@given(st.text(min_size=1), st.text())
def test_new_queries_any_name_is_matched_alone_and_stays_inside_its_label(name, other):
    (text,) = set(
        re.findall(r'function_name=~("(?:[^"\\\\]|\\\\.)*")', promql.new_queries([name], 7.5, 2.0)["rate"])
    )
    # RE2's escape of a character, which Python's re has not.
    pattern = re.sub(r"\\x\{([0-9a-f]+)\}", lambda found: re.escape(chr(int(found[1], 16))), json.loads(text))
    assert re.fullmatch(pattern, name)
    assert other == name or not re.fullmatch(pattern, other)


@given(st.dictionaries(names, st.floats()))
def test_nan_and_infinity_are_no_data(values):
    nameless = {"metric": {}, "value": [0, "1"]}
    parsed = promql.parse([nameless, *(a_series(name, str(value)) for name, value in values.items())])
    assert parsed == {name: value for name, value in values.items() if math.isfinite(value)}


@pytest.mark.parametrize("read", [promql.parse, lambda answer: promql.parse_range(answer, 100.0)])
@pytest.mark.parametrize(
    "result",
    [
        None,
        {"result": []},
        "text",
        [3],
        [{}],
        [{"metric": None, "value": [0, "1"], "values": [[0, "1"]]}],
        [{"metric": {"function_name": "a.fn"}, "value": [], "values": [1]}],
        [{"metric": {"function_name": "a.fn"}, "value": [0, "one"], "values": [[0, "one"]]}],
    ],
)
def test_parse_anything_but_the_right_kind_of_answer_is_an_error(read, result):
    with pytest.raises(SourceError, match="expected"):
        read(result)


@given(st.dictionaries(st.sampled_from(sorted(promql.WATCHDOG)), st.dictionaries(names, st.floats(0, 1e6))))
def test_every_function_that_any_signal_names_is_observed_and_the_rest_is_none(signals):
    seen = promql.observations(signals)
    assert set(seen) == {name for values in signals.values() for name in values}
    for name, observation in seen.items():
        for signal in promql.WATCHDOG:
            assert getattr(observation, signal) == signals.get(signal, {}).get(name)


def test_only_functions_that_have_no_watchdog_are_taken_from_the_gateway():
    assert promql.gateway_queries(30.0, 20.0, GatewaySlos({"ours.fn": None})) == {}
    slos = GatewaySlos({"plain.fn": Slo(0.25, 0.95), "ours.fn": None})
    signals = {"rate": {"plain.fn": 5.0, "ours.fn": 7.0, "stranger.fn": 9.0}, "burn_short": {"plain.fn": 0.9}}
    assert promql.gateway_observations(signals, slos) == {
        "plain.fn": Observation(rate=5.0, slo_latency=0.25, slo_objective=0.95, burn_short=pytest.approx(2.0))
    }


def a_range(name, *values):
    return {"metric": {"function_name": name}, "values": [[when, value] for when, value in values]}


def test_a_range_is_told_in_seconds_ago_and_leaves_out_what_is_no_number():
    answer = [a_range("a.fn", (90.0, "1.5"), (95.0, "NaN"), (100, "2")), a_range("", (100.0, "3"))]
    assert promql.parse_range(answer, 100.0) == {"a.fn": ((10.0, 1.5), (0.0, 2.0))}
    assert promql.parse_range([], 100.0) == {}


def test_earlier_counts_seconds_from_the_moment_and_knows_only_ages_with_rates():
    ranges = {
        3600.0: {"a.fn": ((3620.0, 4.0), (3600.0, 5.0), (3580.0, 6.0)), "b.fn": ()},
        86400.0: {"a.fn": ((86400.0, 7.0),)},
    }
    assert promql.earlier(ranges) == {
        "a.fn": {3600.0: ((-20.0, 4.0), (0.0, 5.0), (20.0, 6.0)), 86400.0: ((0.0, 7.0),)}
    }
