"""Searches that take turns, and how their rounds are shown."""

import argparse

import pytest

from tailbound_lab.bench.__main__ import main
from tailbound_lab.bench.replica import interleaved as module
from tailbound_lab.bench.replica.interleaved import add_arguments, table, together
from tailbound_lab.bench.replica.interleaved import main as turns
from tailbound_lab.bench.rig.search import Found
from tailbound_lab.load.records import BenchError


def row(rate: float, cpu: float = 50.0) -> dict:
    return {
        "max_rate": rate,
        "cpu": [cpu, 20.0] if rate else [],
        "generator": 9.6,
    }


def test_searches_make_one_trial_each_in_turn_and_one_that_is_done_is_left_alone():
    called = []

    def search(label: str, trials: int):
        def step() -> Found | None:
            called.append(label)
            return Found(100.0, None) if called.count(label) == trials else None

        return step

    found = together({"a": search("a", 3), "b": search("b", 1)})
    assert called == ["a", "b", "a", "a"]
    assert found == {"a": Found(100.0, None), "b": Found(100.0, None)}


def test_each_ratio_is_of_one_round_and_the_middle_one_comes_first():
    rounds = [
        {"slo": row(1200.0), "mosec": row(1000.0)},
        {"slo": row(2000.0), "mosec": row(1000.0)},
        {"slo": row(1400.0), "mosec": row(1000.0)},
    ]
    slo, mosec = table(rounds).splitlines()[2:]
    assert slo.startswith("| slo | 1,200, 2,000, 1,400 |  |")
    assert mosec.startswith("| mosec | 1,000, 1,000, 1,000 | 1.40 (1.20 to 2.00) |")


def test_cpu_is_of_the_round_with_the_middle_maximum():
    rounds = [{"a": row(rate, cpu=cpu)} for rate, cpu in ((3.0, 30.0), (1.0, 10.0), (2.0, 20.0))]
    assert table(rounds).endswith("| 20 + 20 + 10 |")


def test_a_system_that_held_no_rate_has_no_ratio():
    shown = table([{"slo": row(1000.0), "ray": row(0.0)}])
    assert shown.endswith("| ray | 0 | - | - |")


@pytest.mark.parametrize(
    ("given", "rule"),
    [
        (["--systems", "slo"], "--systems slo: it must name at least two, each once"),
        (["--systems", "slo,slo"], "it must name at least two, each once"),
        (["--systems", "slo,mosec-grid"], "--systems mosec-grid: there is no grid here; name a size and a"),
        (["--rounds", "0"], "--rounds 0: it must be at least 1"),
        (["--workers", "0"], "--workers 0: it must be at least 1"),
    ],
)
def test_what_can_not_be_compared_is_refused_before_anything_starts(tmp_path, given, rule):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    with pytest.raises(BenchError, match=rule):
        turns(parser.parse_args(given), tmp_path)
    assert not list(tmp_path.iterdir())


def test_rounds_of_other_workloads_stay_if_this_machine_measured_them(tmp_path, monkeypatch):
    file = tmp_path / "turns.json"
    module._keep(file, "text", 2, [{"slo": row(1.0)}])
    assert list(module._keep(file, "tabular", 2, [{"slo": row(2.0)}])["workloads"]) == ["text", "tabular"]
    monkeypatch.setattr(module, "describe", lambda: "64 cores")
    assert list(module._keep(file, "vision", 2, [{"slo": row(3.0)}])["workloads"]) == ["vision"]


def test_the_command_line_knows_turns(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["turns", "--help"])
    assert "--rounds" in capsys.readouterr().out
