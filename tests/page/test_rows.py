"""Rows of the table: the state of an SLO, cells, order, filter, notices."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slo_autoscaler.show import words
from slo_autoscaler.show.web import rows
from slo_autoscaler.show.web.reader import Health
from slo_autoscaler.show.web.rows import Rows, row_of
from slo_autoscaler.signals.queries import Firing
from support.serving import NAME, Told, a_decision, a_fleet, a_hold


def a_table(count):
    told = a_fleet(count)
    return [row_of(told.decisions(name, 1)["decisions"][0]) for name in told.functions()]


TABLE = a_table(200)


@pytest.mark.parametrize(
    ("reason", "inputs", "state"),
    [
        ("DesiredWithinRange", {"attainment": 0.99}, "met"),
        ("DesiredWithinRange", {"attainment": 0.985, "samples": 5000.0}, "missed"),
        ("DesiredWithinRange", {"attainment": 0.95, "samples": 20.0}, "insufficient_data"),
        ("DesiredWithinRange", {"attainment": 0.95, "samples": None}, "insufficient_data"),
        ("DesiredWithinRange", {"attainment": None}, "no_traffic"),
        ("DesiredWithinRange", {"slo_objective": None}, "no_slo"),
        ("NotManaged", {}, "no_slo"),
        ("ScaledToZero", {"slo_objective": None}, "no_traffic"),
        ("NoData", {"attainment": 0.5}, "no_data"),
    ],
)
def test_state_follows_attainment_unless_chance_or_missing_data_explains_it(reason, inputs, state):
    row = row_of(a_hold(inputs=inputs, reason=reason))
    assert row["state"] == state
    assert (state == "missed") == ({"state", "attainment"} <= set(row["breaches"]))


@pytest.mark.parametrize("changes", [{}, {"inputs": dict.fromkeys(a_hold()["inputs"])}])
def test_row_has_text_for_every_column_and_is_json(changes):
    row = row_of({**a_decision(), **changes})
    assert tuple(row["display"]) == words.SORTS
    assert all(isinstance(text, str) and text for text in row["display"].values())
    json.dumps(row, allow_nan=False)


@pytest.mark.parametrize(
    ("changes", "counts"),
    [({}, ["2", "5", "10"]), ({"mode": "shadow", "incumbent": 7}, ["7", "7", "10", "5"])],
)
def test_replicas_are_serving_target_maximum_and_beside_them_a_shadows(changes, counts):
    row = row_of(a_decision(**changes))
    cell = row["display"]["replicas"]
    assert "".join(each if each.isdigit() else " " for each in cell).split() == counts
    assert row["target_replicas"] == 5


def test_rollout_that_failed_shows_beside_the_replicas_and_in_the_sentence():
    row, before = row_of(a_decision(rollout_failed=True)), row_of(a_decision())
    assert row["display"]["replicas"].startswith(before["display"]["replicas"])
    assert row["display"]["replicas"] != before["display"]["replicas"]
    assert ("replicas" in row["breaches"], "replicas" in before["breaches"]) == (True, False)
    assert row["sentence"] != before["sentence"]


@pytest.mark.parametrize(
    ("key", "limit", "beyond", "included"),
    [
        ("p95", 0.2, 0.201, False),
        ("p99", 0.2, 0.201, False),
        ("attainment", 0.99, 0.9, False),
        ("budget_remaining", 0.0, -0.01, True),
        ("burn_rate", rows.PAGE_BURN, 20.0, True),
    ],
)
def test_a_value_at_its_limit_breaches_it_only_where_the_limit_is_excluded(key, limit, beyond, included):
    assert (key in row_of(a_hold(inputs={key: limit}))["breaches"]) is included
    assert key in row_of(a_hold(inputs={key: beyond}))["breaches"]
    assert row_of(a_hold())["breaches"] == []


@pytest.mark.parametrize(("burn", "pages"), [(3.0, False), (1e5, True)])
def test_row_with_an_objective_that_is_rounded_to_one_is_shown(burn, pages):
    row = row_of(a_hold(inputs={"slo_objective": 1.0, "burn_rate": burn}))
    assert ("burn_rate" in row["breaches"]) is pages


@pytest.mark.parametrize(("burn", "pages"), [(7.9, False), (8.1, True)])
def test_burn_rate_pages_by_its_misses_where_the_objective_allows_none_so_high(burn, pages):
    row = row_of(a_hold(inputs={"slo_objective": 0.9, "burn_rate": burn}))
    assert ("burn_rate" in row["breaches"]) is pages


def test_old_numbers_breach_nothing_while_prometheus_is_away():
    assert row_of(a_hold(inputs={"p95": 9.0}), blind=True)["breaches"] == []


def test_summary_has_the_replicas_that_are_there_beside_a_shadow():
    assert rows.summary([row_of(a_decision(mode="shadow", incumbent=7))])["target_replicas"] == 7


@pytest.mark.parametrize("sort", words.SORTS)
@pytest.mark.parametrize("way", ["", "-"])
def test_an_order_keeps_all_rows_ties_by_name_and_puts_unknown_values_last(sort, way):
    table = rows.ordered(TABLE, way + sort)
    assert table == rows.ordered(reversed(TABLE), way + sort)
    assert sorted(map(id, table)) == sorted(map(id, TABLE))
    if sort in ("p95", "p99"):
        known = [row[sort] is not None for row in table]
        assert known == sorted(known, reverse=True)
        shares = [row[sort] / row["slo_latency"] for row in table if row[sort] is not None]
        assert shares == sorted(shares, reverse=way == "-")


@given(st.text("visontexAM-0 ", max_size=20), st.sampled_from(["", *words.STATES]))
def test_a_filter_keeps_the_order_and_exactly_the_rows_with_every_word(text, state):
    found = rows.matching(TABLE, text, state)
    assert [row for row in TABLE if row in found] == found
    for row in TABLE:
        cells = (row["function_name"], row["mode"], row["reason"], row["display"]["state"], row["last"])
        has = all(word.lower() in " ".join(cells).lower() for word in text.split())
        assert (row in found) == (has and state in ("", row["state"]))


FINE = row_of(a_hold())
BLIND = [row_of(a_hold(name, reason="NoData")) for name in ("a.fn", "b.fn")]
STANDBY, IDLE = row_of(a_hold(mode="standby")), row_of(a_hold(mode="recommend"))


@pytest.mark.parametrize(
    ("table", "alive", "levels"),
    [
        ([], True, []),
        ([FINE], True, []),
        ([FINE], False, ["error"]),
        (BLIND, True, ["error"]),
        ([*BLIND, FINE], True, ["warning"]),
        ([STANDBY], True, ["info"]),
        ([STANDBY, FINE], True, []),
        ([IDLE], True, ["info"]),
        ([IDLE, FINE], True, []),
    ],
)
def test_notices_are_errors_of_all_warnings_of_some_and_hints_when_nothing_is_carried_out(
    table, alive, levels
):
    notices = rows.notices(table, alive=alive)
    assert [notice["level"] for notice in notices] == levels


@pytest.mark.parametrize("table", [[], [FINE], BLIND, [*BLIND, FINE]])
def test_notices_without_an_answer_of_prometheus_say_so_whatever_the_last_decisions_were(table):
    (notice,) = rows.notices(table, alive=True, health=Health(problem="connection refused"))
    assert notice["level"] == "error"
    assert "connection refused" in notice["text"]


def test_notices_of_unknown_alerts_are_a_warning():
    (notice,) = rows.notices([FINE], alive=True, health=Health(no_alerts="status 404"))
    assert (notice["level"], "status 404" in notice["text"]) == ("warning", True)


def test_notices_name_a_namespace_without_a_role_binding():
    denied = {f"bare-{number}": "status 403" for number in range(40)}
    (notice,) = rows.notices([FINE], alive=True, denied=denied)
    assert notice["level"] == "warning"
    assert "bare-0" in notice["text"]
    assert "39" in notice["text"]


class Healthy:
    def health(self):
        return Health()


def test_a_row_of_a_function_that_cannot_be_read_has_the_reason_as_its_last_word():
    told = Told(a_hold())
    told.problems = {NAME: "a label is no mode", "new.fn": "another is none"}
    (row,) = Rows(told, lambda: True, Healthy()).all()
    assert row["display"]["last"] == "a label is no mode"


def test_rows_are_worked_out_once_a_second_however_many_look():
    told, now = a_fleet(3), [100.0]
    table = Rows(told, lambda: True, Healthy(), lambda: now[0])
    assert len(table.all()) == 3
    told.add(a_hold())
    assert len(table.all()) == 3
    now[0] += rows.KEPT
    assert len(table.all()) == 4
    assert table.notices() == []


def a_firing(**labels):
    url = f"https://grafana.example.org/d/tailbound-function?var-slo_class={labels.get('slo_class', '')}"
    labels = {"alertname": "ErrorBudgetBurn", "severity": "ticket", **labels}
    return Firing(labels, "2026-01-01T11:58:05Z", 3.5, "s", url)


def test_alerts_are_by_function_those_with_a_page_first_with_links_to_runbook_and_dashboard():
    firing = [
        a_firing(alertname="NoLeader"),
        a_firing(function_name="a.fn"),
        a_firing(function_name="b.fn", slo_class="slow"),
        a_firing(function_name="b.fn", slo_class="fast", severity="page"),
    ]
    b, none, a = rows.alerts(firing)
    assert [each["function_name"] for each in (b, none, a)] == ["b.fn", "", "a.fn"]
    assert [(each["severity"], each["slo_class"]) for each in b["firing"]] == [
        ("page", "fast"),
        ("ticket", "slow"),
    ]
    assert (b["firing"][0]["since"], b["firing"][0]["value"]) == ("2026-01-01T11:58:05Z", 3.5)
    assert b["firing"][0]["runbook_url"].endswith("/runbook.md#errorbudgetburn")
    assert b["dashboard_url"] == "https://grafana.example.org/d/tailbound-function?var-slo_class=fast"
