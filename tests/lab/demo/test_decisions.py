"""The autoscaler's decisions, out of a log that holds other lines too."""

import json
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from tailbound_lab.live.decisions import Decision, parse

BEGUN = datetime(2026, 1, 1, tzinfo=UTC)


def line(seconds, before=1, after=2, **more):
    item = {
        "time": (BEGUN + timedelta(seconds=seconds)).isoformat(),
        "function_name": "tabular.openfaas-fn",
        "from": before,
        "to": after,
        "reason": "LoadAboveCapacity",
    }
    return json.dumps(item | more)


def test_changes_within_the_run_are_found_in_their_order():
    lines = ["started", line(-5), line(3.5), "{broken", line(4, 2, 2), line(9, 2, 1), line(61)]
    assert parse(lines, BEGUN, 60) == (
        Decision(3.5, "tabular.openfaas-fn", 1, 2, "LoadAboveCapacity"),
        Decision(9, "tabular.openfaas-fn", 2, 1, "LoadAboveCapacity"),
    )


def test_holds_are_found_where_they_are_wanted():
    lines = [line(3, 2, 2, reason="NoData"), line(4)]
    assert [item.reason for item in parse(lines, BEGUN, 60, holds=True)] == ["NoData", "LoadAboveCapacity"]
    assert [item.seconds for item in parse(lines, BEGUN, 60)] == [4]


@given(st.lists(st.text() | st.recursive(st.none() | st.integers(), st.lists).map(json.dumps)))
def test_no_line_whatever_is_in_it_stops_the_reading(lines):
    assert parse(["{}", '{"time": 1}', line(1, time="now"), *lines], BEGUN, 60) == ()
