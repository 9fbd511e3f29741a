"""The scaling comparison: what counts as best, as won, and how it is published."""

import json

import pytest

from tailbound_lab.bench import __main__ as bench
from tailbound_lab.bench.fleet import scaling
from tailbound_lab.load.records import BenchError


def a_record(system: str, attainment: float, cost: float, **more: object) -> dict[str, object]:
    return {
        "system": system,
        "settings": "",
        "policy": system,
        "trace": "step",
        "attainment": attainment,
        "replica_seconds": cost,
        "p99": 0.1,
        "max_replicas": 3,
        "changes": 2,
        "flips": 0,
        **more,
    }


def best(**systems: tuple[float, float]) -> dict[str, dict[str, object]]:
    named = {name.replace("_", "-"): value for name, value in systems.items()}
    return {name: a_record(name, *value) for name, value in named.items()}


def test_of_the_settings_that_meet_the_objective_the_cheapest_counts():
    points = [a_record("kpa", 0.999, 900), a_record("kpa", 0.991, 700), a_record("kpa", 0.98, 500)]
    assert scaling.chosen(points, 0.99)["kpa"]["replica_seconds"] == 700


def test_if_none_meets_it_the_fewest_misses_count():
    points = [a_record("kpa", 0.97, 500), a_record("kpa", 0.98, 900)]
    assert scaling.chosen(points, 0.99)["kpa"]["replica_seconds"] == 900


@pytest.mark.parametrize(
    ("systems", "word"),
    [
        ({"slo": (0.995, 600), "kpa": (0.992, 700), "oracle": (1, 500)}, "won"),
        ({"slo": (0.995, 800), "kpa": (0.992, 700), "oracle": (1, 500)}, "lost"),
        ({"slo": (0.985, 600), "kpa": (0.992, 700), "oracle": (1, 500)}, "lost"),
        ({"slo": (0.995, 600), "kpa": (0.98, 700), "oracle": (1, 500)}, "won"),
        ({"slo": (0.991, 600), "kpa": (0.98, 500), "oracle": (1, 500)}, "lost"),
        ({"slo": (0.991, 600), "kpa": (0.985, 700), "oracle": (1, 500)}, "lost"),
        ({"slo": (0.95, 600), "kpa": (0.94, 700), "oracle": (0.97, 500)}, "not to be met"),
    ],
)
def test_what_counts_as_won(systems, word):
    assert scaling.verdict(best(**systems), 0.99)[0] == word


def test_a_small_comparison_runs_and_is_published(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(scaling, "PAGE", tmp_path / "docs" / "benchmarks.md")
    monkeypatch.setattr(bench, "OUTPUT", tmp_path / "out")
    monkeypatch.setattr(scaling, "SYNTHETIC_RATE", 20.0)
    monkeypatch.setattr(scaling, "QUICK_SECONDS", 60)
    page = tmp_path / "docs" / "benchmarks.md"
    page.parent.mkdir()
    page.write_text(f"before\n{scaling.BEGIN}\nof last time\n{scaling.END}\nafter\n")
    status = bench.main(["scaling", "--quick", "--only", "step", "--publish", "--processes", "1"])
    assert status in (0, 1)
    results = json.loads((tmp_path / "out" / "scaling.json").read_text())
    systems = {record["system"] for record in results["records"]}
    assert systems == {*scaling.OURS, "oracle", "openfaas-ce", "kpa", "hpa-cpu", "keda-value", "ray-serve"}
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "of last time" not in text
    assert "| step |" in text
    assert (page.parent / "benchmarks" / "scaling.png").stat().st_size > 1000
    assert "| step |" in capsys.readouterr().out


def test_ours_alone_can_be_played_again_beside_the_baselines_of_the_last_run(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bench, "OUTPUT", tmp_path)
    monkeypatch.setattr(scaling, "SYNTHETIC_RATE", 20.0)
    monkeypatch.setattr(scaling, "QUICK_SECONDS", 60)
    quick = ["scaling", "--quick", "--only", "step", "--processes", "1"]
    assert bench.main([*quick, "--ours"]) == 2
    assert "run scaling without it first" in capsys.readouterr().err
    bench.main(quick)
    last = json.loads((tmp_path / "scaling.json").read_text())["records"]
    bench.main([*quick, "--ours"])
    again = json.loads((tmp_path / "scaling.json").read_text())["records"]
    assert sorted(map(json.dumps, again)) == sorted(map(json.dumps, last))
    assert bench.main(["scaling", "--quick", "--only", "spike", "--processes", "1", "--ours"]) == 2
    assert "was without spike" in capsys.readouterr().err


def test_several_routings_count_by_their_mean_and_by_the_worst_of_what_is_rare():
    def played(attainment, p99, flips):
        return a_record("slo", attainment, 100.0, p99=p99, flips=flips)

    seen = scaling.together([played(0.98, 0.1, 0), played(1.0, 0.3, 2)])
    assert seen["attainment"] == pytest.approx(0.99)
    assert (seen["p99"], seen["flips"], seen["replica_seconds"]) == (0.3, 2, 100.0)
    assert scaling.together([played(0.98, 0.1, 0), played(0.5, None, 0)])["p99"] is None


def test_a_trace_that_is_not_there_is_refused_by_name(capsys):
    assert bench.main(["scaling", "--traces", "/none", "--only", "steps"]) == 2
    assert "no trace steps; there are spike, step, on-off" in capsys.readouterr().err


def test_a_page_without_marks_is_refused(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("nothing")
    with pytest.raises(BenchError, match="it needs one line"):
        scaling.publish({}, page)
