"""The bench of many functions, on a few."""

import json
import urllib.request

import pytest

from tailbound_lab.bench.fleet import reconcile as fleet
from tailbound_lab.load.records import BenchError

ROW = {
    "functions": 10_000,
    "series": 400_000,
    "first_cpu_s": 2.5,
    "reconcile_cpu_s": 1.25,
    "reconcile_wall_s": 3.5,
    "prometheus_cpu_s": 4.0,
    "scrape_cpu_s": 0.5,
    "memory_mb": 300.0,
}


def test_the_table_has_a_row_for_each_size():
    text = fleet.table({"machine": "a machine", "date": "2026-01-02", "sizes": [ROW]})
    assert text.splitlines()[0] == "a machine, 2026-01-02."
    assert text.splitlines()[-1] == "| 10,000 | 400,000 | 1.250 | 2.500 | 3.50 | 4.00 | 0.500 | 300 |"


def test_the_table_is_published_between_its_marks_and_nowhere_else(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{fleet.BEGIN}\nold\n{fleet.END}\nafter\n")
    fleet.publish("new\n", page)
    assert page.read_text() == f"before\n{fleet.BEGIN}\n\nnew\n\n{fleet.END}\nafter\n"
    page.write_text("no marks\n")
    with pytest.raises(BenchError, match="it needs one line"):
        fleet.publish("new\n", page)


def test_the_stand_in_lists_all_functions_and_scales_them():
    standin = fleet.StandIn(3)
    standin.scaled("function-00001", 4)
    listed = json.loads(standin.listed())
    assert [(status["name"], status["replicas"]) for status in listed] == [
        ("function-00000", 1),
        ("function-00001", 4),
        ("function-00002", 1),
    ]


@pytest.mark.e2e
def test_a_few_functions_are_measured_on_a_real_prometheus():
    row = fleet.measured(60, 1)
    assert row["functions"] == 60
    assert row["series"] >= 60 * 30
    assert row["scaled"] == 2, "one in fifty needs a replica more, and gets it once"


@pytest.mark.e2e
def test_the_stand_in_runs_as_a_program():
    with fleet._gateway(2) as url, urllib.request.urlopen(f"{url}/system/functions", timeout=5) as answer:
        assert len(json.load(answer)) == 2
