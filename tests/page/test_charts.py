"""Charts: the queries are PromQL of one function, answers stand on one grid."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slo_autoscaler.settings.spec import Slo
from slo_autoscaler.show.web import charts
from slo_autoscaler.signals import charts as lines
from slo_autoscaler.signals import queries
from support.promtool import complaints_about

SLO = Slo(0.25, 0.95)
GRID = charts.Grid(100, 10, 3)
MONTH = charts.Grid(0, 50, 3)


def test_every_query_is_promql_of_this_function_alone(tmp_path):
    name = "vision.openfaas-fn"
    chosen = queries.matching([name])
    gateway = lines.filled(lines.GATEWAY_CHARTS, name, SLO, 20.0, 30.0)
    assert gateway.pop("latency.target") == "vector(0.25)"
    own, streams = (
        lines.filled(shown, name, None, 20.0, 30.0) for shown in (lines.CHARTS, lines.STREAM_CHARTS)
    )
    learned = queries.fill(queries.LEARNED | queries.REPLICAS, 20.0, functions=chosen)
    texts = [text for asked in (own, streams, gateway, learned) for text in asked.values()]
    for text in texts:
        assert text.count(chosen) == text.count("{") > 0, text
    assert complaints_about(texts, tmp_path) == ""


@given(st.sampled_from([*charts.SPANS.values(), 30 * 86_400]), st.floats(0.1, 60), st.floats(1e9, 2e9))
def test_a_grid_ends_now_on_a_whole_step_or_five_minutes_and_is_no_finer_than_scrapes(span, scrape, now):
    at = charts.grid(span, scrape, now)
    assert at.end % min(at.step, 300) == 0
    assert now - min(at.step, 300) < at.end <= now
    assert at.step >= scrape
    assert at.times == list(range(at.start, at.end + 1, at.step))
    assert 2 <= at.length <= charts.POINTS + 1


@pytest.mark.parametrize(
    ("points", "column"),
    [
        ([], [None, None, None]),
        ([(90, 1.0), (111, 2.0), (130, 3.0)], [None, 2.0, None]),
        ([(120, 1.23456789)], [None, None, 1.2346]),
    ],
)
def test_a_column_has_a_value_for_each_moment_that_has_one(points, column):
    assert charts.column(points, GRID) == column


@pytest.mark.parametrize(("slo", "streams"), [(None, False), (None, True), (SLO, False)])
def test_a_document_has_every_line_of_every_chart(slo, streams):
    chosen = lines.charts(slo, streams=streams)
    found = charts.document(chosen, {"load.good": [(110, 5.0)]}, {None: GRID, 30 * 86_400: MONTH})
    own = {chart["key"]: chart["times"] for chart in found["charts"] if "times" in chart}
    assert own == ({} if slo else {"budget": [0, 50, 100]})
    values = {
        f"{chart['key']}.{line['key']}": line["values"]
        for chart in found["charts"]
        for line in chart["lines"]
    }
    assert values.keys() == lines.filled(chosen, "a.fn", slo, 20.0, 30.0).keys()
    assert values.pop("load.good") == [None, 5.0, None]
    assert all(column == [None] * 3 for column in values.values())
    assert (found["times"], found["start"], found["end"], found["step"]) == ([100, 110, 120], 100, 120, 10)


def test_replicas_that_are_down_come_first_then_the_busiest(monkeypatch):
    monkeypatch.setattr(charts, "MAX_REPLICAS", 3)
    answers = {
        "up": {"calm": 1.0, "gone": 0.0, "busy": 1.0, "new": 1.0},
        "load": {"calm": 5.0, "busy": 9.0},
        "capacity": {"calm": 10.0, "busy": 10.0},
        **{key: {} for key in ("in_flight", "cores", "start_up", "workers", "best_effort", "sick", "died")},
    }
    found = charts.replicas(answers)
    assert [row["replica"] for row in found["rows"]] == ["gone", "busy", "calm"]
    assert found["left_out"] == 1
    assert found["rows"][1]["display"]["load"] == "9/s"
    assert answers.keys() == queries.REPLICAS.keys()


@pytest.mark.parametrize(
    ("seconds", "workers", "share"),
    [({"a": 0.5, "b": 0.1}, {"a": 1.0, "b": 1.0}, 0.3), ({"a": 0.0}, {"a": 1.0}, None), ({}, {}, None)],
)
def test_best_effort_fills_a_share_of_all_workers_or_is_not_told(seconds, workers, share):
    answers = {key: {} for key in queries.REPLICAS} | {"best_effort": seconds, "workers": workers}
    assert charts.replicas(answers)["best_effort"] == share


def test_the_profile_is_by_size_with_the_throughput_of_all_workers():
    found = {"predicted": {"8": 0.1, "1": 0.02, "2": 0.0, "x": 1.0}, "workers": {"": 2.0}, "capacity": {}}
    profile = charts.profile(found)
    sizes = [(each["size"], each["seconds"], each["throughput"]) for each in profile["sizes"]]
    assert sizes == [(1, 0.02, 100.0), (2, 0.0, None), (8, 0.1, 160.0)]
    assert (profile["workers"], profile["capacity"]) == (2, None)
    alone = charts.profile({**found, "workers": {}, "capacity": {"": 50.0}})
    assert (alone["workers"], alone["capacity"], alone["sizes"][0]["throughput"]) == (None, 50.0, 50.0)
