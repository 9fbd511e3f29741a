"""Rows of the table: what is said of an SLO, their order, what is found, what is wrong altogether."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from page.told import a_decision, a_fleet, a_hold
from slo_autoscaler.model import Reason
from slo_autoscaler.web import rows as fleet


@pytest.mark.parametrize(
    ("inputs", "state"),
    [
        ({"attainment": 0.995}, "met"),
        ({"attainment": 0.95, "samples": 5000.0}, "missed"),
        ({"attainment": 0.95, "samples": 20.0}, "unsure"),
        ({"attainment": None, "rate": 0.0}, "idle"),
        ({"slo_objective": None}, "none"),
    ],
)
def test_an_slo_is_missed_only_by_more_than_chance(inputs, state):
    assert fleet.row(a_hold(inputs=inputs))["state"] == state


def test_without_data_nothing_is_said_of_the_slo_whatever_was_seen_last():
    assert fleet.row(a_hold(reason="NoData"))["state"] == "unknown"


def test_a_row_has_every_cell_as_text_and_can_be_json():
    row = fleet.row(a_decision())
    assert set(row["shown"]) == set(fleet.SORTS)
    assert row["shown"]["replicas"] == "2 / 5 / 10"
    assert row["last"] == "2 → 5: load above capacity"
    assert "212 requests/s forecast" in row["sentence"]
    json.dumps(row, allow_nan=False)


@pytest.mark.parametrize("reason", [each.value for each in Reason])
def test_every_reason_has_words_of_its_own(reason):
    assert reason not in fleet.short(a_hold(reason=reason))


def test_what_is_over_its_limit_is_named():
    row = fleet.row(a_hold(inputs={"p99": 0.3, "budget": -0.1, "burn": 20.0, "attainment": 0.8}))
    assert set(row["breaches"]) == {"p99", "state", "attainment", "budget", "burn"}
    assert fleet.row(a_hold())["breaches"] == []


def test_a_shadow_shows_what_is_really_there_and_itself_beside_it():
    row = fleet.row(a_decision(mode="shadow", incumbent=7))
    assert (row["ready"], row["desired"], row["wanted"]) == (7, 7, 5)
    assert row["shown"]["replicas"] == "7 / 7 / 10 (shadow 5)"


def test_what_a_dry_run_would_do_is_said_so():
    assert fleet.short(a_decision(dry_run=True)) == "would be 2 → 5: load above capacity"


def rows(count=200):
    told = a_fleet(count)
    return [fleet.row(told.decisions(name, 1)["decisions"][0]) for name in told.functions()]


def test_trouble_comes_first():
    states = [row["state"] for row in fleet.ordered(rows())]
    assert states == sorted(states, key=list(fleet.STATES).index)
    assert states[0] == "missed"


@pytest.mark.parametrize("sort", fleet.SORTS)
@pytest.mark.parametrize("way", ["", "-"])
def test_every_order_keeps_all_rows_and_is_the_same_each_time(sort, way):
    some = rows()
    once = fleet.ordered(some, way + sort)
    assert once == fleet.ordered(reversed(some), way + sort)
    assert {row["function_name"] for row in once} == {row["function_name"] for row in some}


@pytest.mark.parametrize("sort", ["p99", "-p99"])
def test_what_is_not_known_comes_last_either_way(sort):
    known = [row["p99"] is not None for row in fleet.ordered(rows(), sort)]
    assert known == sorted(known, reverse=True)


def test_latencies_are_sorted_against_their_targets():
    slow = fleet.row(a_hold("slow.fn", {"slo_latency": 1.0, "p99": 0.5}))
    near = fleet.row(a_hold("near.fn", {"slo_latency": 0.1, "p99": 0.09}))
    assert fleet.ordered([slow, near], "-p99") == [near, slow]


def test_an_order_that_is_none_is_named_with_those_that_are():
    with pytest.raises(ValueError, match="'size' must be one of function, state, target"):
        fleet.ordered([], "size")


def test_every_word_must_be_found():
    found = fleet.matching(rows(), "VISION atmaximum")
    assert found
    assert all(row["name"].startswith("vision") and row["reason"] == "AtMaximum" for row in found)


SOME = rows(40)


@given(st.text("visontex-0 ", max_size=20), st.sampled_from(["", *fleet.STATES]))
def test_what_is_found_is_part_of_what_there_is(text, state):
    found = fleet.matching(SOME, text, state)
    assert [row for row in SOME if row in found] == found
    assert all(not state or row["state"] == state for row in found)


def test_the_summary_counts_every_function_once():
    some = rows()
    summary = fleet.summary(some)
    assert sum(summary["states"].values()) == summary["functions"] == len(some)


def levels(found):
    return [notice["level"] for notice in found]


def test_a_loop_that_does_not_turn_is_an_error():
    (notice,) = fleet.notices(rows(), alive=False)[:1]
    assert notice["level"] == "error"
    assert notice["text"].startswith("Nothing is being scaled")


def test_no_data_for_anybody_is_prometheus_fault_and_what_it_said_is_told():
    blind = [fleet.row(a_hold(name, reason="NoData")) for name in ("a.fn", "b.fn")]
    assert fleet.blind(blind)
    (notice,) = fleet.notices(blind, alive=True, problem="http://p: refused.")
    assert notice["level"] == "error"
    assert "every function stays at its count" in notice["text"]
    assert "http://p: refused." in notice["text"]


def test_no_data_for_some_is_a_warning_with_their_number():
    some = [fleet.row(a_hold("a.fn", reason="NoData")), fleet.row(a_hold("b.fn"))]
    assert fleet.notices(some, alive=True)[0]["text"].startswith("No usable data for 1 of 2 functions")


@pytest.mark.parametrize(
    ("changes", "word"), [({"mode": "standby", "dry_run": True}, "stands by"), ({"dry_run": True}, "Dry run")]
)
def test_an_autoscaler_that_does_not_act_says_so(changes, word):
    (notice,) = fleet.notices([fleet.row(a_hold(**changes))], alive=True)
    assert notice["level"] == "info"
    assert word in notice["text"]


def test_when_all_is_well_nothing_is_said():
    assert fleet.notices([fleet.row(a_hold())], alive=True) == []
    assert fleet.notices([], alive=True) == []
    assert not fleet.blind([])
