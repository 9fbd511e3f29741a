"""What the questions conclude from measurements: best settings, ratios, growth, claims, agreement."""

import json
from pathlib import Path

import numpy as np
import pytest

from tailbound_lab.bench import __main__ as bench
from tailbound_lab.bench import page
from tailbound_lab.bench.fleet import held_out
from tailbound_lab.bench.fleet.plays import Kept, missed_at_once, together
from tailbound_lab.bench.replica.soak import growth
from tailbound_lab.bench.rig.measure import alternate
from tailbound_lab.bench.rig.search import Found
from tailbound_lab.simulate.traces import generate
from tailbound_lab.simulate.world import Series

ROOT = Path(__file__).resolve().parents[3]


def test_alternate_runs_one_trial_each_and_leaves_a_finished_search_alone():
    called = []

    def search(label, trials):
        def step():
            called.append(label)
            return Found(100.0, None) if called.count(label) == trials else None

        return step

    found = alternate({"a": search("a", 3), "b": search("b", 1)})
    assert called == ["a", "b", "a", "a"]
    assert found == {"a": Found(100.0, None), "b": Found(100.0, None)}


def test_interleaved_ratio_is_within_a_round_and_cpu_of_the_median_round():
    def row(rate, cpu):
        return {"max_rate": rate, "cpu": [cpu], "generator": 9.0}

    rounds = [{"slo": row(1200.0, 1.0), "mosec": row(1000.0, 30.0), "ray": row(0.0, 0.0)}]
    rounds += [{"slo": row(2000.0, 2.0), "mosec": row(1002.0, 10.0), "ray": row(0.0, 0.0)}]
    rounds += [{"slo": row(1400.0, 3.0), "mosec": row(1001.0, 20.0), "ray": row(0.0, 0.0)}]
    slo, mosec, ray = (line.split(" | ") for line in page.maxima({"text": rounds}).splitlines()[2:])
    assert (slo[3], mosec[3], ray[3]) == ("", "1.40 (1.20 to 2.00)", "-")
    assert (slo[4], mosec[4]) == ("3 + 9 |", "20 + 9 |")


@pytest.mark.parametrize(
    ("sizes", "grown"),
    [([50, 90, *[100.0] * 8], 0.0), ([1, 1, *[100.0] * 4, 110, 120, 130, 130], 0.3), ([1, 2, 3, 4], None)],
    ids=["start", "end", "too short"],
)
def test_growth_compares_the_end_with_the_time_after_the_start(sizes, grown):
    assert growth([{"total": size} for size in sizes], "total") == (grown and pytest.approx(grown))


def record(system, attainment, cost, **more):
    rest = {"p99": 0.1, "max_replicas": 3, "changes": 2, "reversals": 0, "routings": 3}
    return {"system": system, "attainment": attainment, "replica_seconds": cost, **rest, **more}


def test_several_routings_count_by_their_mean_and_by_the_worst_of_what_is_rare():
    one, other = record("slo", 0.98, 100.0), record("slo", 1.0, 300.0, p99=0.3, reversals=2)
    seen = together([one, other])
    assert (seen["attainment"], seen["replica_seconds"]) == (pytest.approx(0.99), 200.0)
    assert (seen["p99"], seen["reversals"]) == (0.3, 2)
    assert together([one, record("slo", 0.5, 1.0, p99=None)])["p99"] is None


@pytest.mark.parametrize(("seconds", "share"), [(1, 0.1), (2, 0.2), (3, 0.2), (9, 0.25)])
def test_share_missed_at_once_is_that_of_the_worst_span(seconds, share):
    arrivals, missed = np.full(4, 5.0), np.array([1.0, 0.0, 2.0, 2.0])
    series = Series(arrivals=arrivals, good=arrivals - missed, desired=arrivals, ready=arrivals)
    assert missed_at_once(series, seconds) == pytest.approx(share)


@pytest.mark.e2e
@pytest.mark.timeout(180)
def test_reconcile_of_a_few_functions_is_measured_on_a_real_prometheus(tmp_path, section):
    assert bench.main(["fleet", "--functions", "60", "--reconciles", "1", "--publish"]) in (0, 1)
    (row,) = json.loads((tmp_path / "fleet.json").read_text())["sizes"]
    held = "two need a replica more; one gets it, the other's budget has none"
    assert (row["scaled"], row["fleet_full"]) == (1, 1), held
    assert f"| 60 | {row['series']:,} |" in section("fleet")


def test_held_out_cases_are_none_of_the_comparison_and_differ_by_draw():
    found = list(held_out.cases(None, 60))
    assert len({case.name for case in found}) == len(found)
    compared = {tuple(generate(kind, 150.0, 60).arrivals) for kind in ("spike", "step", "on-off")}
    for case in found:
        first, second = (tuple(trace.arrivals) for trace in case.draws)
        assert first != second
        assert not compared & {first, second}
    faults = [(case.world.crash_looping, case.world.missed_scrape_every) for case in found]
    assert {(0, 0), (1, 0), (0, held_out.MISSED_SCRAPE_EVERY)} == set(faults)


def case_record(name, ours, oracle, cost=100.0):
    systems = {"slo": record("slo", ours, cost, missed_at_once=0.004)}
    systems["oracle"] = record("oracle", oracle, 90.0)
    systems |= {"oracle-blind": record("oracle-blind", oracle, 90.0), "hpa-cpu": record("hpa", 1.0, 200.0)}
    return {"name": name, "objective": 0.99, "systems": systems}


def test_held_out_table_marks_what_the_oracle_misses_and_shows_changes_to_an_older_record():
    results = {"date": "today", "cases": [case_record("a", 0.995, 0.999), case_record("b", 0.98, 0.97)]}
    older = {"cases": [case_record("a", 0.99, 0.999, cost=200.0)]}
    first, second = (line.split(" | ") for line in held_out.table(results, older).strip().splitlines()[-2:])
    assert (first[0], second[0]) == ("| a", "| b (*)")
    assert (first[1], second[1]) == ("99.50%", "**98.00%**")
    assert first[-1] == "99.00% (+0.50 points), 200 (-50.0%) |"


def test_held_out_summary_compares_cost_where_both_meet_the_objective():
    cases = [case_record("met", 0.995, 0.999, cost=50.0), case_record("missed", 0.98, 0.999, cost=10.0)]
    text = held_out.published({"date": "today", "cases": cases})
    assert "uses 75.0% fewer replica-seconds" in text, (
        "50 against the 200 of the HPA, the missed case left out"
    )
    assert "| met |" not in text


def test_held_out_losses_are_published_by_trace_with_their_range():
    lost = {"on-off": 0.98, "on-off; start-up 60 s": 0.97, "spike": 0.95}
    cases = [case_record(name, share, 0.999) for name, share in lost.items()]
    text = held_out.published({"date": "today", "cases": [*cases, case_record("step", 0.999, 0.999)]})
    two, one = (line.split(" | ")[:4] for line in text.splitlines()[-2:])
    assert two == ["| on-off", "as it is, start-up 60 s", "97.00% to 98.00%", "200"]
    assert one == ["| spike", "as it is", "95.00%", "100"]


def test_held_out_runs_are_played_once_and_published(section, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(held_out, "QUICK_SECONDS", 60)
    words = ["held-out", "--quick", "--only", "jittered spike; start-up 60", "--processes", "1", "--publish"]
    assert bench.main(words) in (0, 1)
    (row,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| jittered")]
    kept = (tmp_path / "plays.jsonl").read_text()
    assert bench.main([*words, "--base", str(tmp_path / "held-out.json")]) in (0, 1)
    assert (tmp_path / "plays.jsonl").read_text() == kept
    assert row.removesuffix(" |") in capsys.readouterr().out
    assert held_out.summary(json.loads((tmp_path / "held-out.json").read_text())) in section("held-out")


def test_kept_outcomes_survive_a_line_that_was_cut_short(tmp_path):
    file = tmp_path / "plays.jsonl"
    Kept(file).add("a", {"attainment": 1.0})
    with file.open("a") as stream:
        stream.write('{"key": "b", "outc')
    kept = Kept(file)
    assert (kept.find("a"), kept.find("b")) == ({"attainment": 1.0}, None)
    kept.add("c", {"attainment": 0.5})
    assert Kept(file).find("c") == {"attainment": 0.5}
