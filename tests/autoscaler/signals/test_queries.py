"""Query text has the forms that matter, and anything that is no number is no data."""

import json
import re
from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slo_autoscaler.errors import SourceError
from slo_autoscaler.settings.spec import GatewaySlos, Slo
from slo_autoscaler.signals import charts, queries
from slo_autoscaler.signals.record import SIGNALS, Recorded
from support.promtool import complaints, needs_promtool

names = st.sampled_from(["a.fn", "b.fn", "c.fn"])


def a_series(name, value):
    return {"metric": {"function_name": name}, "value": [1700000000.0, value]}


SLOS = GatewaySlos({"a.fn": Slo(0.2, 0.99)}, Slo(0.3, 0.9))
SPANS = re.compile(r"\[(?:7500|2000|1000|1100|6000|3600000|30000:6000|3600000:2000)ms\]".replace(":", "ms:"))


def test_fill_every_query_leaves_nothing_open():
    assert set(queries.WATCHDOG) == set(SIGNALS) - {"direct_rate", "direct_in_flight", "rate_window"}, (
        "which are no queries"
    )
    assert {"rate", *queries.RESTORED} == {field.name for field in fields(Recorded)}
    asked = [
        *(queries.fill(texts, 2.0, 7.5) for texts in (queries.WATCHDOG, queries.NEW, queries.LEARNED)),
        queries.fill({"corrections": queries.CORRECTIONS, "exported": queries.EXPORTED_AT}, 2.0),
        queries.gateway(SLOS, 2.0, 7.5),
        *(
            charts.filled(shown, "a.fn", Slo(0.25, 0.99), 2.0, 7.5)
            for shown in (charts.CHARTS, charts.STREAM_CHARTS, charts.GATEWAY_CHARTS)
        ),
        {"arrivals": queries.arrivals(2.0, SLOS)},
    ]
    for text in (text for texts in asked for text in texts.values()):
        assert "$" not in text
        assert "[" not in SPANS.sub("", re.sub(r'"[^"]*"', "", text))


@given(st.text(min_size=1), st.text())
def test_matching_any_name_is_matched_alone_and_stays_inside_its_label(name, other):
    (text,) = re.findall(r'^function_name=~("(?:[^"\\\\]|\\\\.)*")$', queries.matching([name]))
    # RE2's escape of a character, which Python's re has not.
    pattern = re.sub(r"\\x\{([0-9a-f]+)\}", lambda found: re.escape(chr(int(found[1], 16))), json.loads(text))
    assert re.fullmatch(pattern, name)
    assert other == name or not re.fullmatch(pattern, other)


@given(st.dictionaries(names, st.floats()))
def test_values_nan_infinity_and_absurd_numbers_are_no_data(values):
    series = queries.read([a_series(name, str(value)) for name, value in values.items()])
    assert queries.values(series) == {name: value for name, value in values.items() if abs(value) < 1e18}


@pytest.mark.parametrize(
    "result",
    [
        None,
        {"result": []},
        "text",
        [3],
        [{}],
        [{"value": [0, "1"]}],
        [{"metric": {"function_name": "a.fn"}, "value": [], "values": [1]}],
        [{"metric": {"function_name": "a.fn"}, "value": [0, "one"], "values": [[0, "one"]]}],
    ],
)
def test_read_anything_but_series_is_an_error(result):
    with pytest.raises(SourceError, match="expected"):
        list(queries.read(result))


def a_range(name, *values):
    return {"metric": {"function_name": name}, "values": [[when, value] for when, value in values]}


def test_ranges_leave_out_what_is_no_number():
    answer = [a_range("a.fn", (90.0, "1.5"), (95.0, "NaN"), (100, "2")), a_range("", (100.0, "3"))]
    assert queries.ranges(queries.read(answer)) == {"a.fn": [(90.0, 1.5), (100.0, 2.0)], "": [(100.0, 3.0)]}


def test_values_by_another_label_keep_the_series_without_it():
    answer = [{"metric": labels, "value": [0, "2"]} for labels in ({"size": "8"}, {})]
    assert queries.values(queries.read(answer), "size") == {"8": 2.0, "": 2.0}


@needs_promtool
def test_p99_is_of_the_first_piece_where_a_function_streams_else_of_the_answer(tmp_path):
    measured = (
        ("streams.fn", "http_request_duration_seconds", 'code="200"', 100),
        ("streams.fn", "watchdog_first_piece_seconds", 'slo_class="default"', 1),
        ("whole.fn", "http_request_duration_seconds", 'code="200"', 2),
    )
    series = [
        {"series": f'{name}_bucket{{function_name="{function}",{label},le="{le}"}}', "values": "0+100x20"}
        for function, name, label, seconds in measured
        for le in (seconds, "+Inf")
    ]
    asked = {
        "expr": queries.fill(queries.WATCHDOG, 60.0, 60.0)["p99"],
        "eval_time": "5m",
        "exp_samples": [
            {"labels": f'{{function_name="{name}"}}', "value": seconds}
            for name, seconds in (("streams.fn", 0.99), ("whole.fn", 1.98))
        ],
    }
    test = {"interval": "15s", "input_series": series, "promql_expr_test": [asked]}
    assert complaints(tmp_path, "5m", test) == ""


def test_gateway_slo_at_an_edge_counts_what_is_below_that_edge():
    texts = queries.gateway(GatewaySlos({"a.fn": Slo(0.25, 0.99)}), 20.0, 30.0)
    assert 'le=~"0[.]25"' in texts["attainment"]
