"""The search for a trace on which ours is worse: genomes, their score, and how the search goes on."""

import json
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tailbound_lab.bench import __main__ as bench
from tailbound_lab.bench.fleet import adversary
from tailbound_lab.bench.fleet.adversary import Genome, Tried, genome, offspring, score, search
from tailbound_lab.load.records import BenchError

some_genes = st.lists(st.floats(0.0, 1.0), min_size=adversary.LENGTH, max_size=adversary.LENGTH).map(tuple)


@given(some_genes, st.integers(0, (1 << 31) - 1))
@settings(max_examples=30)
def test_trace_of_any_genome_is_bounded_and_the_same_again(genes, seed):
    one = genome(genes, seed)
    levels, trace = one.levels, one.workload.trace
    assert len(levels) == trace.duration == adversary.SECONDS
    assert levels.min() >= 0.0
    assert levels.max() <= adversary.HIGHEST_RATE
    assert levels.mean() <= adversary.HIGHEST_MEAN * (1.0 + 1e-9)
    assert one.function.capacity > 0.0
    again = Genome.parse(json.loads(json.dumps(asdict(one))))
    assert again == one
    assert np.array_equal(again.workload.trace.arrivals, trace.arrivals)


def outcome(attainment, cost):
    return {"attainment": attainment, "replica_seconds": cost}


@pytest.mark.parametrize(
    ("ours", "theirs", "worth"),
    [
        (outcome(0.995, 100), outcome(1.0, 100), -0.5),
        (outcome(0.97, 100), outcome(0.995, 200), 2.0),
        (outcome(0.97, 100), outcome(0.995, 300), -0.5),
        (outcome(0.97, 100), outcome(0.985, 100), -0.5),
        (outcome(0.50, 100), outcome(0.985, 300), -1.0),
    ],
    ids=["ours meets", "the other meets", "too dear", "the other misses too", "both"],
)
def test_score_is_above_zero_only_where_another_meets_what_ours_misses_at_twice_the_cost(ours, theirs, worth):
    hopeless = {"none": outcome(0.1, 100)}
    assert score(ours, hopeless | {"hpa": theirs}, 0.99) == pytest.approx(worth)


def test_search_ranks_traces_by_what_is_missed_beyond_the_worst_jump():
    jump, ramps, met = (
        Tried((), 1, *rest) for rest in ((7.0, "kpa", 7.5), (0.5, "kpa", 0.2), (-0.1, "", 0.3))
    )
    assert sorted((jump, met, ramps), key=lambda tried: tried.fitness) == [jump, met, ramps]


def play(few):
    """Traces with a higher third gene are worse."""
    return [Tried(genes, seed, genes[2] - 1.0, "") for genes, seed in few]


def test_search_resumes_where_it_stopped_and_finds_worse_traces():
    past, resumed = [], []
    worst = [tried.score for tried in search(past, 1, 10 * adversary.GENERATION, play)]
    for number in (adversary.GENERATION, 3 * adversary.GENERATION, 10 * adversary.GENERATION):
        *_, _last = search(resumed, 1, number, play)
    assert resumed == past
    assert worst == sorted(worst)
    assert worst[-1] > max(worst[0], -0.01)
    assert offspring(past, 1) == offspring(resumed, 1) != offspring(past, 2)
    assert not list(search(past, 1, len(past), play))


def test_adversary_is_searched_replayed_and_published(tmp_path, monkeypatch, section):
    monkeypatch.setattr(adversary, "SECONDS", 20)
    monkeypatch.setattr(adversary, "GENERATION", 4)
    monkeypatch.setattr(adversary, "CANDIDATES", 1)
    words = ["adversary", "--processes", "1", "--number", "8"]
    assert bench.main([*words, "--publish"]) in (0, 1)
    kept = (tmp_path / "adversary.json").read_text()
    assert len(json.loads(kept)["tried"]) == 8
    assert bench.main(words) in (0, 1)
    assert (tmp_path / "adversary.json").read_text() == kept
    text = section("adversary")
    assert "(benchmarks/adversary.png)" in text
    written = json.loads(text.split("```json")[1].split("```")[0])
    assert Genome.parse(written) == Genome.parse(json.loads((tmp_path / "adversary-worst.json").read_text()))
    assert bench.main(["adversary", "--replay", str(tmp_path / "adversary-worst.json")]) in (0, 1)


def test_genome_of_another_document_is_refused():
    with pytest.raises(BenchError, match="genome"):
        Genome.parse({"waves": [], "base": 1.0})
