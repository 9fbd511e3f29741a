import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batching_watchdog.engine.capacity import CpuCost
from batching_watchdog.engine.latency import LatencyModel
from batching_watchdog.trial import report
from batching_watchdog.trial.report import Alone, Answer, BatchCost, Promise, Trial

WIDTH = 110


def trial(
    first: float = 0.040, each: float = 0.020, slo_latency: float = 0.2, workers: int = 1, largest: int = 8
) -> Trial:
    """Of a model that takes ``first`` seconds for one request and ``each`` for one more."""
    model, cost = LatencyModel(256), CpuCost(256)
    size = 1
    while size <= largest:
        for _ in range(5):
            model.observe(size, first + each * (size - 1))
        size *= 2
    promises = [
        report.promise_within(target, model, cost, workers=workers, objective=0.99, cpus=2.0)
        for target in (slo_latency, *report.TARGETS)
    ]
    return Trial(
        handler="vowels/handler.py",
        workers=workers,
        slo_objective=0.99,
        slo_from="stack.yml",
        import_seconds=0.0123,
        load_seconds=2.5,
        resident_bytes=31_000_000,
        example_bytes=22,
        answer=Answer(200, "application/json", b'{"vowels":4}'),
        alone=Alone(first + 0.002, 0.0005, first + 0.0005, first / 10),
        batches=report.batch_costs(model),
        promise=promises[0],
        others=tuple(promises[1:]),
        split=False,
        busy=0.1,
    )


def test_document_has_what_the_report_has_in_seconds():
    made = trial()
    document = json.loads(json.dumps(report.document(made)))
    assert [batch["size"] for batch in document["batches"]] == [1, 2, 4, 8]
    assert document["batches"][3]["seconds"] == pytest.approx(0.180)
    assert document["requests_per_second"] == made.promise.rate
    assert document["load"] == {"import_seconds": 0.0123, "load_seconds": 2.5, "resident_bytes": 31_000_000}
    assert document["request"]["http"] == pytest.approx(0.001)
    assert document["next"] == report.next_step(made)


def test_best_batch_is_the_smallest_of_those_with_the_best_throughput():
    flat = replace(trial(), batches=(BatchCost(1, 0.1), BatchCost(2, 0.1), BatchCost(4, 0.199)))
    assert flat.best.size == 2


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (trial(), "deploy it: "),
        (trial(first=0.5, each=0.01), "make the model faster, or set slo_latency: "),
        (replace(trial(), slo_from=""), "set slo_latency: "),
        (trial(first=0.045, each=0.001, slo_latency=0.1), "deploy it; with slo_latency: "),
        (trial(first=0.001, each=0.001, slo_latency=0.5), "batches hardly pay"),
        (replace(trial(), split=True), "mend handle_batch"),
    ],
)
def test_next_step_follows_from_what_was_measured(changed, words):
    assert words in report.next_step(changed)


def test_target_that_is_advised_can_be_met_and_gives_at_least_half_of_the_highest_rate():
    slow = trial(first=0.5, each=0.01)
    assert slow.promise.rate == 0.0
    assert slow.enough is not None
    assert slow.enough.slo_latency > 0.5
    assert slow.enough.rate >= report.ENOUGH * max(other.rate for other in slow.others)


@settings(max_examples=25)  # each searches 25 rates
@given(
    st.floats(1e-6, 100.0),
    st.floats(1e-7, 100.0),
    st.floats(1e-3, 30.0),
    st.integers(1, 64),
    st.integers(1, 1024),
    st.binary(max_size=400),
    st.sampled_from([200, 422, 500, 502]),
    st.booleans(),
)
def test_report_of_any_handler_is_a_few_printable_lines_without_exponents(
    first, each, slo, workers, largest, body, status, split
):
    made = replace(
        trial(first, each, slo, workers, largest),
        answer=Answer(status, "text/plain", body),
        split=split,
        busy=9.0,
    )
    lines = list(report.lines(made))
    assert len(lines) <= 12
    assert all(line.isprintable() and len(line) <= WIDTH for line in lines if "answered" not in line)
    assert all(line.isprintable() for line in lines)
    shown = [line for line in lines if "answered" not in line]
    assert not [word for line in shown for word in line.split() if "e+" in word or "e-0" in word]
    assert "\n" not in report.next_step(made)
    assert report.rejection("handler.py", made.answer).splitlines()[0].isprintable()
    json.dumps(report.document(made), allow_nan=False)


def test_promise_is_what_the_watchdog_exports_and_no_more_than_its_cores_allow():
    model, cost = LatencyModel(8), CpuCost(8)
    for size in (1, 2, 4, 8):
        for _ in range(5):
            model.observe(size, 0.010)
            cost.observe(size, 0.010)
    free = report.promise_within(0.1, model, cost, workers=4, objective=0.99, cpus=64.0)
    bound = report.promise_within(0.1, model, cost, workers=4, objective=0.99, cpus=1.0)
    assert isinstance(bound, Promise)
    assert 0.0 < bound.rate < free.rate
