"""What the questions conclude, and each of them on something small."""

import json
import os
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from support.waits import until
from tailbound_lab.bench import __main__ as bench
from tailbound_lab.bench import peers, scaling, soak, streams
from tailbound_lab.bench.rig.record import Record
from tailbound_lab.simulate.traces import generate


def recorded(question, *rows):
    return Record(question, "abc", "2026-01-02", "2 cores", f"bench {question}", list(rows))


def held(system, number, highest, goodput=None):
    latency = {"p50": 1.0, "p99": None}
    row = {"workload": "text", "round": number, "system": system, "highest": highest, "latency_ms": latency}
    row |= {"cpu_us": 100.0, "memory_mb": 300.0}
    return row | {"goodput": {"1.5": goodput or highest}}


def test_peers_ratio_is_within_a_round_and_goodput_a_share_of_the_own_highest_rate():
    rates = (1200.0, 1000.0), (2000.0, 1000.0), (1400.0, 1000.0)
    rows = [
        row
        for number, (slo, mosec) in enumerate(rates, 1)
        for row in (held("slo", number, slo), held("mosec", number, mosec, 100.0))
    ]
    text = peers.table(recorded("peers", *rows))
    slo, mosec = (line.split(" | ") for line in text.splitlines() if line.startswith("| text"))
    assert slo[2:4] == ["1,400 (1,200 to 2,000)", ""]
    assert mosec[3:8] == ["1.40 (1.20 to 2.00)", "-", "-", "10.0%", "-"]


def test_peers_table_has_the_reason_of_what_was_not_measured():
    skipped = {"workload": "text", "round": 1, "system": "bentoml", "reason": "no wheel"}
    text = peers.table(recorded("peers", held("slo", 1, 100.0), skipped))
    assert "| bentoml | - | - |" in text
    assert "bentoml, round 1: no wheel" in text


@pytest.mark.parametrize(
    ("words", "rest"),
    [([], ["--quick"]), (["--rounds", "1"], ["--rounds", "1"]), (["soak"], None)],
)
def test_words_without_a_question_ask_peers(words, rest):
    assert bench.with_command(words) == (words if rest is None else ["peers", *rest])


@pytest.mark.parametrize(
    ("sizes", "grown"),
    [([50, 90, *[100.0] * 8], 0.0), ([1, 1, *[100.0] * 4, 110, 120, 130, 130], 0.3), ([1, 2, 3, 4], None)],
    ids=["start", "end", "too short"],
)
def test_growth_compares_the_end_with_the_time_after_the_start(sizes, grown):
    assert soak.growth(sizes) == (grown and pytest.approx(grown))


def test_scaling_cases_are_none_that_set_a_constant_and_differ_by_draw():
    cases = list(scaling.cases(None, 60))
    assert len({case.name for case in cases}) == len(cases)
    set_on = {tuple(generate(kind, 150.0, 60).arrivals) for kind in ("spike", "step")}
    for case in cases:
        first, second = (tuple(trace.arrivals) for trace in case.draws)
        assert first != second
        assert not set_on & {first, second}


def test_scaling_compares_cost_where_both_meet_the_objective_and_lists_what_ours_misses():
    def row(case, system, attainment, cost):
        values = {"attainment": attainment, "replica_seconds": cost, "cpu_seconds": 2 * cost, "changes": 1.0}
        return {"case": case, "objective": 0.99, "system": system, **values}

    rows = [row("step", "slo", 0.995, 50.0), row("step", "HPA", 0.999, 200.0)]
    rows += [row("spike", "slo", 0.98, 10.0), row("spike", "HPA", 0.999, 200.0)]
    text = scaling.table(recorded("scaling", *rows))
    assert "| HPA | 2 of 2 | 400 | 800 | -75.0% in 1 |" in text
    assert text.endswith(": spike (98.00%).")


def test_scaling_of_one_short_case_has_a_row_for_each_system(tmp_path, monkeypatch):
    monkeypatch.setattr(scaling, "QUICK_SECONDS", 60)
    assert bench.main(["scaling", "--quick", "--only", "ramp", "--processes", "1"]) in (0, 1)
    rows = json.loads((tmp_path / "scaling.json").read_text())["rows"]
    assert [row["system"] for row in rows] == [*scaling.SCALERS]
    share = {row["system"]: row["attainment"] for row in rows}
    assert share[scaling.HALVED] > share[scaling.OURS]


@pytest.mark.parametrize(
    "words",
    [
        *("peers --workloads none", "peers --workers 0", "peers --systems slo,slo", "peers --systems mosek"),
        *("scaling --traces none", "scaling --only none", "scaling --scalers none", "peers --rounds 0"),
        *("streams --systems mosek", "streams --workers 0"),
    ],
)
def test_impossible_measurement_is_refused_before_any_start(tmp_path, capsys, words):
    assert bench.main(words.split()) == 2
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr().err.startswith("bench: ")


@pytest.mark.e2e
def test_peers_in_small_are_measured_side_by_side_and_published(tmp_path, monkeypatch, capsys):
    small = replace(peers.QUICK, ramp_seconds=0.5, confirm_seconds=1.0, tolerance=0.5, max_confirms=1)
    monkeypatch.setattr(peers, "QUICK", small)
    words = ["peers", "--quick", "--workloads", "accelerator", "--systems", "slo,gunicorn"]
    assert bench.main([*words, "--publish"]) == 0
    text = (tmp_path / "peers.json").read_text()
    rows = json.loads(text)["rows"]
    assert [row["system"] for row in rows] == ["slo", "gunicorn"]
    assert all(set(row["goodput"]) <= set(peers.FACTORS) for row in rows)
    assert (tmp_path / "docs" / "peers.json").read_text() == text
    assert "| accelerator |" in capsys.readouterr().out


@pytest.mark.e2e
def test_soak_in_small_leaves_no_request_unanswered(tmp_path):
    assert bench.main(["soak", "--minutes", "0.2", "--rate", "20", "--kill-every", "6"]) in (0, 1)
    (row,) = json.loads((tmp_path / "soak.json").read_text())["rows"]
    assert (row["unanswered"], row["killed"] >= 1, row["bad_clients"] >= 3) == (0, True, True)


@pytest.mark.e2e
def test_streams_in_small_are_measured_beside_closed_batches(tmp_path, monkeypatch):
    small = replace(streams.PLAN, ramp_seconds=0.5, confirm_seconds=1.0, max_confirms=1)
    monkeypatch.setattr(streams, "PLAN", small)
    assert bench.main(["streams", "--systems", "slo,slo-closed"]) == 0
    rows = json.loads((tmp_path / "streams.json").read_text())["rows"]
    assert [row["system"] for row in rows] == ["slo", "slo-closed"]


@pytest.mark.e2e
def test_stream_soak_in_small_ends_no_stream_twice(tmp_path):
    assert bench.main(["stream-soak", "--minutes", "0.2", "--rate", "5", "--kill-every", "6"]) in (0, 1)
    (row,) = json.loads((tmp_path / "stream-soak.json").read_text())["rows"]
    assert (row["ended_more"], row["finished_twice"], row["killed"] >= 1) == (0, 0, True)


@pytest.mark.e2e
@pytest.mark.skipif(shutil.which("prometheus") is None, reason="Prometheus is not installed")
def test_reconcile_of_a_few_functions_scales_what_its_budget_allows(tmp_path):
    assert bench.main(["reconcile", "--functions", "60", "--reconciles", "1"]) in (0, 1)
    (row,) = json.loads((tmp_path / "reconcile.json").read_text())["rows"]
    held_back = "two need a replica more; one gets it, the other's budget has none"
    assert (row["scaled"], row["fleet_full"]) == (1, 1), held_back


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("words", "count", "status"),
    [
        (["peers", "--workloads", "accelerator", "--systems", "slo"], 3, 128 + signal.SIGTERM),
        (["scaling", "--processes", "2"], 2, -signal.SIGTERM),
    ],
    ids=["servers", "pool"],
)
def test_bench_ended_by_sigterm_leaves_no_process(tmp_path, words, count, status):
    mark = f"STARTED_FOR={tmp_path}"

    def started():
        found = []
        for entry in Path("/proc").glob("[0-9]*/environ"):
            with suppress(OSError):  # it has ended
                if mark.encode() in entry.read_bytes().split(b"\0"):
                    found.append(int(entry.parent.name))
        return found

    command = [sys.executable, "-m", "tailbound_lab.bench", *words]
    environment = os.environ | {"STARTED_FOR": str(tmp_path)}
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as run:
        try:
            until(lambda: len(started()) > count, "its processes have started", 50.0)
            run.send_signal(signal.SIGTERM)
            assert run.wait(60) == status
            until(lambda: not started(), "all its processes have ended", 10.0)
        finally:
            for pid in started():
                os.kill(pid, signal.SIGKILL)
