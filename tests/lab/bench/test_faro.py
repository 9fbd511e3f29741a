"""``bench faro`` on a small trace."""

import json
from itertools import product

import pytest

from tailbound_lab.bench import __main__ as bench
from tailbound_lab.bench import faro
from tailbound_lab.bench.rig.record import Record
from tailbound_lab.load.records import BenchError
from tailbound_lab.simulate import split


@pytest.fixture(autouse=True)
def small_table(monkeypatch):
    """A table of late shares that is made in no time."""
    monkeypatch.setattr(split.LateTable, "COUNTS", (1, 4))
    monkeypatch.setattr(faro, "LateTable", lambda setting: split.LateTable(setting, requests=200))


@pytest.fixture
def folder(tmp_path):
    file = tmp_path / "traces" / faro.TRACE
    file.parent.mkdir(parents=True)
    file.write_text(minutes([300, 60]) * 3)
    return file.parents[1]


def minutes(counts):
    jobs = {f"job-{number}": {"classifier": count} for number, count in enumerate(counts)}
    return json.dumps({"counts": jobs}) + "\n"


def test_json_is_one_line_with_what_became_of_ours(folder, capsys):
    assert bench.main(["faro", "--traces", str(folder), "--cap", "8", "--json"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    outcome = json.loads(line)
    assert outcome.keys() == {"cap", "violations", "utility", "replicas", "decision_seconds"}
    assert outcome["cap"] == 8
    assert 0.0 <= outcome["violations"] <= 1.0
    assert 0.0 < outcome["utility"] <= 2.0
    assert 2.0 <= outcome["replicas"] <= 8.0


def test_every_law_has_a_row_for_each_cap_and_both_arrivals(folder, tmp_path, capsys):
    assert bench.main(["faro", "--traces", str(folder), "--cap", "4", "5", "--processes", "1"]) == 0
    rows = json.loads((tmp_path / "faro.json").read_text())["rows"]
    assert {(row["cap"], row["law"], row["arrivals"]) for row in rows} == set(
        product((4, 5), faro.LAWS, faro.ARRIVALS)
    )
    shown = capsys.readouterr().out
    assert shown.count("2 jobs, 4 CPUs") == shown.count("2 jobs, 5 CPUs") == 1


ROW = {
    "jobs": 10,
    "cap": 32,
    "arrivals": faro.OVERLAPPING,
    "law": "AIAD",
    "violations": 0.1,
    "replicas": 30.0,
}


def test_published_figures_stand_beside_those_of_the_same_cluster():
    ours = ROW | {"law": faro.OURS, "decision_seconds": 0.002}
    text = faro.table(Record("faro", "", "", "", "", [ROW, ours]))
    assert "| AIAD | 9.50% | 10.00% | - | 29.9 | 30.0 |" in text
    assert "| Faro-FairSum | 3.14% | - | - | 31.7 | - |" in text
    assert "| Tailbound | - | 10.00% | - | - | 30.0 |" in text


@pytest.mark.parametrize(
    ("changes", "near"),
    [({}, True), ({"violations": 0.12}, False), ({"violations": 0.12, "arrivals": faro.POISSON}, True)],
    ids=["near", "far", "nothing published"],
)
def test_replayed_policy_must_be_near_its_published_violations(changes, near):
    assert faro.near(ROW | changes) is near


def test_trace_is_read_from_the_folder_of_traces_or_its_own(folder):
    assert faro.read(folder) == faro.read(folder / "faro10") == [[300] * 3, [60] * 3]


@pytest.mark.parametrize(
    "text",
    ["", "{\n", "[]\n", '{"counts": []}\n', '{"counts": {"a": {"b": -1}}}\n', minutes([1]) + minutes([1, 2])],
    ids=["empty", "no JSON", "a list", "no jobs", "negative", "other jobs"],
)
def test_trace_that_is_none_is_refused(folder, text):
    (folder / faro.TRACE).write_text(text)
    with pytest.raises(BenchError, match=r"counts\.jsonl"):
        faro.read(folder)


@pytest.mark.parametrize("words", ["--cap 1", "--traces none"])
def test_cluster_and_folder_that_cannot_be_are_refused_by_their_option(folder, words, capsys):
    assert bench.main(["faro", "--traces", str(folder), *words.split()]) == 2
    assert words.removeprefix("--traces ") in capsys.readouterr().err
