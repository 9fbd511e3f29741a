"""Sections of the page, earlier results, the comparison as table and plots, and the commands."""

import json
from argparse import Namespace

import pytest

from tailbound_lab.bench import page
from tailbound_lab.bench.__main__ import with_command
from tailbound_lab.bench.replica import compare
from tailbound_lab.load.records import BenchError


def test_a_result_replaces_what_is_between_its_marks_and_nothing_else(tmp_path, monkeypatch, capsys):
    file = tmp_path / "page.md"
    monkeypatch.setattr(page, "PAGE", file)
    file.write_text("before\n<!-- soak: begin -->\nold\n<!-- soak: end -->\nafter\n")
    page.show(Namespace(publish=False), "soak", "new\n")
    assert (capsys.readouterr().out, "old" in file.read_text()) == ("new\n", True)
    page.show(Namespace(publish=True), "soak", "new\n", lambda folder: [folder / "a.png"])
    between = "new\n\n![a](page/a.png)"
    assert file.read_text() == f"before\n<!-- soak: begin -->\n{between}\n<!-- soak: end -->\nafter\n"
    capsys.readouterr()
    page.show(Namespace(publish=True), "soak", "all rows\n", decisive="few rows\n")
    assert capsys.readouterr().out == "all rows\n"
    assert file.read_text() == "before\n<!-- soak: begin -->\nfew rows\n<!-- soak: end -->\nafter\n"
    with pytest.raises(BenchError):
        page.rewrite("none", lambda _: pytest.fail("asked for the content"))


def test_every_section_that_a_command_publishes_has_its_marks():
    simulated = ("fleet", "held-out", "faro")
    sections = ("results", "interleaved", "soak", *simulated)
    text = page.PAGE.read_text()
    assert [name for name in sections if text.count(f"<!-- {name}: begin -->") != 1] == []


def test_read_refuses_results_of_another_machine_and_none(tmp_path):
    file = tmp_path / "results.json"
    with pytest.raises(BenchError, match="no results"):
        page.read(file)
    file.write_text(json.dumps({"machine": "64 cores"}))
    assert page.read(file, machine="64 cores") == {"machine": "64 cores"}
    with pytest.raises(BenchError, match="64 cores"):
        page.read(file, machine="2 cores")
    assert page.earlier(file, machine="2 cores") == {}


def run(rate, goodput):
    return {
        "rate": rate,
        "goodput": goodput,
        "latency_ms": {"p50": 1.0, "p99": None},
        "cpu": [{"us_per_request": 100.0}],
        "generator_us_per_request": 20.0,
        "pss_mb": 300.0,
    }


def measured(**changes):
    row = {"system": "mosec", "workload": "text", "status": "measured", "settings": {}, "slo_ms": 50.0}
    row |= {"low": run(5, 5), "max_rate": 1000.0, "failed_at": 1050.0, "at_max": run(1000, 999)}
    row |= {"overload_1.5": run(1500, 950.0), "overload_2.5": {"rate": 2500.0, "reason": "lagged"}}
    return row | {"trials": [{"rate": 900.0, "confirm": True, "goodput": 900.0}]} | changes


NOTHING_HELD = {"max_rate": 0.0, "at_max": None, "overload_1.5": None, "overload_2.5": None}


def results(*rows):
    head = {"machine": "2 cores", "workers": 2, "effort": "quick", "date": "2026-01-01"}
    return head | {"measurements": rows}


def test_comparison_shows_what_was_measured_and_why_the_rest_was_not():
    skipped = {"system": "ray", "workload": "vision", "status": "skipped", "reason": "no wheel\nhere"}
    text = page.comparison(
        results(
            measured(capacity=900.0),
            measured(system="fixed", failed_at=None),
            measured(system="aimd", **NOTHING_HELD),
            skipped,
        )
    )
    rows = {line.split(" | ")[0]: line for line in text.splitlines()}
    for cell in ("1,000 (failed at 1,050)", "95.0%", "missed", "generator lagged"):
        assert cell in rows["| mosec"]
    assert "lower bound" in rows["| fixed"]
    assert "none found" in rows["| aimd"]
    assert "- ray: skipped, no wheel" in rows
    assert "900 requests/s, 0.90 times" in text


def test_page_takes_the_best_setting_of_each_server_and_one_other_policy_of_the_watchdog():
    rates = {"slo": 500.0, "mosec": 400.0, "mosec:64:1": 900.0, "fixed:4:0": 300.0, "aimd": 350.0}
    rows = [measured(system=name, max_rate=rate) for name, rate in rates.items()]
    skipped = {"system": "bentoml", "workload": "text", "status": "skipped", "reason": "no wheel"}
    everything = results(*rows, measured(system="mosec", workload="vision"), skipped)
    kept = [(row["workload"], row["system"]) for row in compare.decisive(everything)["measurements"]]
    assert kept == [
        *(("text", name) for name in ("slo", "mosec:64:1", "aimd")),
        ("vision", "mosec"),
        ("text", "bentoml"),
    ]


def test_plot_has_every_run_that_was_not_cut_short_and_none_of_what_held_nothing(tmp_path):
    assert page.curve(measured()) == [(900.0, 900.0), (1000, 999), (1500, 950.0)]
    nothing = measured(workload="vision", **NOTHING_HELD)
    assert [file.stem for file in page.plots(results(measured(), nothing), tmp_path)] == ["goodput-text"]


@pytest.mark.parametrize(
    ("words", "command"),
    [([], "compare"), (["--quick"], "compare"), (["soak"], "soak")],
)
def test_words_without_a_command_are_compare(words, command):
    assert with_command(words)[0] == command
