"""Results as a table, as plots, and into the page."""

import pytest
from matplotlib import image

from tailbound_lab.bench import report
from tailbound_lab.bench.__main__ import with_command
from tailbound_lab.load.records import BenchError

QUANTILES = {"p50": 1.0, "p99": None}


def run(rate, goodput):
    return {
        "rate": rate,
        "goodput": goodput,
        "latency_ms": QUANTILES,
        "cpu": [{"name": "x", "cores": 0.5, "us_per_request": 100.0}],
        "generator_us_per_request": 20.0,
        "pss_mb": 300.0,
        "cdf": [(1.0, 0.5), (90.0, 0.99)],
    }


@pytest.fixture
def results():
    measured = {
        "system": "mosec-grid",
        "workload": "text",
        "slo_ms": 50.0,
        "settings": {"size": 32, "wait_ms": 5, "malloc": False},
        "status": "measured",
        "grid": [],
        "low": run(5, 5),
        "max_rate": 1000.0,
        "failed_at": 1050.0,
        "at_max": run(1000, 999),
        "overload_1.5": run(1500, 950.0),
        "overload_2.5": {"rate": 2500.0, "reason": "lagged"},
        "curve": {},
        "trials": [{"rate": 900.0, "confirm": True, "goodput": 900.0}],
    }
    skipped = {"system": "ray", "workload": "text", "status": "skipped", "reason": "no wheel\nfor this"}
    return {
        "machine": "2 cores",
        "workers": 2,
        "effort": "quick",
        "date": "2026-01-01",
        "offline": {"text": {"all_workers": 2000.0, "workers": 2, "best_size": 32}},
        "measurements": [measured, skipped],
    }


def test_the_table_has_what_was_measured_and_why_the_rest_was_not(results):
    text = report.table(results)
    assert "| mosec-grid (size 32, wait 5 ms) | 1,000 (failed at 1,050) | 1.0 / missed |" in text
    assert "| 95.0% | generator lagged | 100 + 20 | 300 |" in text
    assert "- ray: skipped, no wheel" in text


def test_a_system_for_which_no_rate_held_is_shown_without_one(results):
    results["measurements"][0] |= {"max_rate": 0.0, "at_max": None, "failed_at": 40.0}
    del results["measurements"][0]["overload_1.5"], results["measurements"][0]["overload_2.5"]
    assert "| none found |" in report.table(results)


def test_a_bracket_that_the_generators_lag_closed_says_so(results):
    lagged = {"rate": 1050.0, "confirm": True, "passed": False, "reason": "lag"}
    results["measurements"][0]["trials"].append(lagged)
    assert "| 1,000 (generator lagged at 1,050) |" in report.table(results)


def test_the_curve_has_every_run_that_was_not_cut_short(results):
    points = report.curve(results["measurements"][0])
    assert points == [(900.0, 900.0), (1000, 999), (1500, 950.0)]


def test_publishing_replaces_what_is_between_the_marks_and_nothing_else(results, tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n")
    report.publish(results, page)
    text = page.read_text()
    assert text.startswith(f"before\n{report.BEGIN}")
    assert text.endswith(f"{report.END}\nafter\n")
    assert "old" not in text
    assert "![cdf-text](page/cdf-text.png)" in text
    assert image.imread(tmp_path / "page" / "goodput-text.png").std() > 0


def test_a_page_without_marks_is_refused(results, tmp_path):
    page = tmp_path / "page.md"
    page.write_text("no marks")
    with pytest.raises(BenchError, match="needs one line"):
        report.publish(results, page)


def test_words_without_a_command_are_single_and_quick_is_compare():
    assert with_command([]) == ["single"]
    assert with_command(["--rate", "12000"]) == ["single", "--rate", "12000"]
    assert with_command(["--quick"]) == ["compare", "--quick"]
    assert with_command(["drift", "--rate", "1"]) == ["drift", "--rate", "1"]


def test_the_predicted_capacity_stands_beside_the_maximum(results):
    results["measurements"][0]["capacity"] = 900.0
    line = (
        "Capacity that mosec-grid predicts from a run at a third of its maximum: 900 requests/s, 0.90 of it."
    )
    assert line in report.table(results)
