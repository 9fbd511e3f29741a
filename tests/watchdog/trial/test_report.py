from dataclasses import replace

import pytest

from batching_watchdog.engine.capacity import CpuCost
from batching_watchdog.engine.latency import LatencyModel
from batching_watchdog.trial import report
from batching_watchdog.trial.report import BatchMeasurements, Cost, Promise, StreamMeasurements, Trial

BATCHES = BatchMeasurements(
    batched=True,
    split=False,
    batches=(Cost(1, 0.04), Cost(2, 0.06), Cost(4, 0.1), Cost(8, 0.18)),
    total_seconds=0.042,
    queue_seconds=0.0005,
    worker_seconds=0.0405,
    requests_per_second=40.0,
    batch_size=4.0,
    uniform_requests_per_second=40.0,
    enough=Promise(0.2, 40.0, 4.0),
)
STREAMS = StreamMeasurements(
    slo_interval=0.05,
    closed=False,
    starts=(Cost(1, 0.01), Cost(2, 0.02)),
    steps=(Cost(1, 0.01), Cost(2, 0.012), Cost(4, 0.014)),
    total_seconds=1.2,
    first_piece_seconds=0.03,
    streams=31,
    pieces=80.0,
    streams_per_second=12.3,
    concurrency=64.0,
    step_seconds=0.04,
    starts_per_step=0.8,
    start_seconds=0.008,
)
TRIAL = Trial(
    handler="vowels/handler.py",
    workers=2,
    slo_latency=0.2,
    slo_objective=0.99,
    slo_from="stack.yml",
    import_seconds=0.0123,
    load_seconds=2.5,
    loaded_twice=False,
    resident_bytes=31_000_000,
    typical=True,
    bodies=(22,),
    status=200,
    content_type="application/json",
    body='{"vowels":4}',
    ceiling=0,
    busy=0.1,
    ignored=(),
    measured=BATCHES,
)


def test_best_batch_is_the_smallest_of_those_with_the_best_throughput():
    flat = replace(BATCHES, batches=(Cost(1, 0.1), Cost(2, 0.1), Cost(4, 0.199)))
    assert flat.best.size == 2


@pytest.mark.parametrize(
    ("changed", "slo_from", "words"),
    [
        ({}, "stack.yml", "deploy it: "),
        ({"requests_per_second": 0.0}, "stack.yml", "make the model faster"),
        ({}, "", "set slo_latency"),
        ({"enough": Promise(0.5, 400.0, 8.0)}, "stack.yml", "slo_latency: 500ms"),
        ({"batches": (Cost(1, 0.1), Cost(2, 0.2))}, "stack.yml", "batches hardly pay"),
        ({"batches": (Cost(1, 0.1), Cost(2, 0.2)), "batched": False}, "stack.yml", "define handle_batch"),
        ({"split": True}, "stack.yml", "mend handle_batch"),
    ],
)
def test_next_step_follows_from_what_was_measured(changed, slo_from, words):
    made = replace(TRIAL, slo_from=slo_from, measured=replace(BATCHES, **changed))
    assert words in report.next_step(made)


@pytest.mark.parametrize(
    "measured", [replace(BATCHES, requests_per_second=0.0), replace(STREAMS, streams_per_second=0.0)]
)
def test_busy_machine_on_which_nothing_is_on_time_blames_no_model(measured):
    assert "measure again" in report.next_step(replace(TRIAL, busy=3.0, measured=measured))


def test_busy_machine_is_named_before_anything_else():
    first = next(report.lines(replace(TRIAL, busy=3.0)))
    assert "3 processes per CPU" in first
    assert "3 processes per CPU" in report.document(replace(TRIAL, busy=3.0))["notes"][0]


def test_answer_with_control_characters_is_shown_printable():
    assert report.shown(b"\x1b[2J\x00" * 200).isprintable()


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({}, "one example"),
        ({"typical": False}, "an empty body"),
        ({"bodies": (5, 900)}, "for this mix; 40 if all are like the first"),
        ({"ignored": ("slo_latancy is no setting",)}, "slo_latancy"),
        ({"busy": 3.0}, "3 processes per CPU"),
        ({"ceiling": 8}, "at most 8 at a time"),
        ({"measured": STREAMS}, "32 streams in each of 2 workers"),
        ({"measured": STREAMS}, "12.3 streams/s on time"),
        ({"measured": STREAMS}, "the 0.8 starts beside it 8 ms, of 50ms"),
        ({"measured": replace(STREAMS, streams_per_second=0.0)}, "rate      none"),
    ],
)
def test_report_says_what_is_served_and_under_what_conditions(changed, words):
    assert words in "\n".join(report.lines(replace(TRIAL, **changed)))


def test_promise_is_what_the_watchdog_exports_and_no_more_than_its_cores_allow():
    model, cost = LatencyModel(8), CpuCost()
    for size in (1, 2, 4, 8):
        for _ in range(5):
            model.observe(size, 0.010, 0.010)
    free = report.promise_within(0.1, [(1.0, model)], cost, workers=4, objective=0.99, cpus=64.0)
    bound = report.promise_within(0.1, [(1.0, model)], cost, workers=4, objective=0.99, cpus=1.0)
    assert 0.0 < bound.rate < free.rate


@pytest.mark.parametrize(
    ("changed", "slo_from", "words"),
    [
        ({}, "stack.yml", "deploy it: "),
        ({"streams_per_second": 0.0, "steps": (Cost(1, 0.06),)}, "stack.yml", "slo_interval: 150ms"),
        (
            {"streams_per_second": 0.0, "steps": (Cost(1, 900.0),), "starts": ()},
            "stack.yml",
            "make the model faster: ",
        ),
        ({}, "", "set slo_latency and slo_interval"),
        ({"closed": True}, "stack.yml", "start and step in place of the generator"),
        ({"steps": (Cost(1, 0.01), Cost(2, 0.02))}, "stack.yml", "joining hardly pays"),
        ({"start_seconds": 0.05}, "stack.yml", "prefills all its events together"),
        ({"start_seconds": 0.05, "starts": (Cost(1, 0.01), Cost(2, 0.011))}, "stack.yml", "deploy it: "),
    ],
)
def test_next_step_of_a_function_that_streams_follows_from_what_was_measured(changed, slo_from, words):
    made = replace(TRIAL, slo_from=slo_from, measured=replace(STREAMS, **changed))
    assert words in report.next_step(made)
