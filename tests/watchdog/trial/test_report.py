from dataclasses import replace

import pytest

from batching_watchdog.engine.capacity import CpuCost
from batching_watchdog.engine.latency import LatencyModel
from batching_watchdog.engine.streams import Steady
from batching_watchdog.messages import Target
from batching_watchdog.trial import report
from batching_watchdog.trial.report import (
    Alone,
    Answer,
    BatchCost,
    Examples,
    Native,
    Promise,
    StreamTrial,
    Trial,
)

TRIAL = Trial(
    handler="vowels/handler.py",
    workers=1,
    slo_objective=0.99,
    slo_from="stack.yml",
    import_seconds=0.0123,
    load_seconds=2.5,
    resident_bytes=31_000_000,
    batched=True,
    native=None,
    cpus=2.0,
    examples=Examples(1, 22, 22, own=True, given=False),
    answer=Answer(200, "application/json", b'{"vowels":4}'),
    alone=Alone(total=0.042, wait=0.0005, worker=0.0405, worker_cpu=0.004),
    batches=(BatchCost(1, 0.04), BatchCost(2, 0.06), BatchCost(4, 0.1), BatchCost(8, 0.18)),
    uniform=Promise(0.2, 40.0, 4.0),
    promise=Promise(0.2, 40.0, 4.0),
    others=(Promise(0.2, 40.0, 4.0), Promise(1.0, 42.0, 8.0)),
    split=False,
    ceiling=0,
    busy=0.1,
)


STREAMS = StreamTrial(
    handler="generate/handler.py",
    workers=2,
    target=Target(0.5, 0.99, 0.05),
    slo_from="stack.yml",
    import_seconds=0.0123,
    load_seconds=2.5,
    resident_bytes=31_000_000,
    closed=False,
    examples=Examples(1, 22, 22, own=True, given=False),
    answer=Answer(200, "application/x-ndjson", b'"a"\n"b"\n'),
    alone=1.2,
    first_piece=0.03,
    starts=(BatchCost(1, 0.01), BatchCost(2, 0.02)),
    steps=(BatchCost(1, 0.01), BatchCost(2, 0.012), BatchCost(4, 0.014)),
    streams=31,
    pieces=80.0,
    steady=Steady(12.3, 64.0),
    ceiling=0,
    busy=0.1,
)


def test_best_batch_is_the_smallest_of_those_with_the_best_throughput():
    flat = replace(TRIAL, batches=(BatchCost(1, 0.1), BatchCost(2, 0.1), BatchCost(4, 0.199)))
    assert flat.best.size == 2


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({}, "deploy it: "),
        ({"promise": Promise(0.02, 0.0, 0.0)}, "make the model faster"),
        ({"slo_from": ""}, "set slo_latency"),
        ({"others": (Promise(0.5, 400.0, 8.0),)}, "slo_latency: 500ms"),
        ({"batches": (BatchCost(1, 0.1), BatchCost(2, 0.2))}, "batches hardly pay"),
        ({"batches": (BatchCost(1, 0.1), BatchCost(2, 0.2)), "batched": False}, "define handle_batch"),
        ({"split": True}, "mend handle_batch"),
        ({"answer": Answer(281, "application/json", b"tabby")}, "status 281"),
        ({"native": Native("onnxruntime", 4)}, "intra_op_num_threads = context.threads"),
        ({"native": Native("onnxruntime", 4), "cpus": 8.0}, "deploy it: "),
    ],
)
def test_next_step_follows_from_what_was_measured(changed, words):
    assert words in report.next_step(replace(TRIAL, **changed))


def test_report_of_an_answer_with_control_characters_is_printable():
    made = replace(TRIAL, answer=Answer(200, "text/plain", b"\x1b[2J\x00" * 200))
    assert all(line.isprintable() for line in report.lines(made))


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({}, "one example"),
        ({"examples": Examples(1, 0, 0, own=False, given=False)}, "an empty body"),
        (
            {"examples": Examples(9, 5, 900, own=True, given=False), "uniform": Promise(0.2, 777.0, 4.0)},
            "for this mix (5 to 900 bytes); 777 if all are like the first",
        ),
        ({"native": Native("onnxruntime", 4)}, "1 workers x 4 threads on 2 CPUs"),
        ({"misspelled": ("slo_latancy is no setting",)}, "slo_latancy"),
        ({"printed": 123}, "123 lines printed while measuring"),
    ],
)
def test_report_says_under_what_conditions_its_rate_holds(changed, words):
    assert words in "\n".join(report.lines(replace(TRIAL, **changed)))


def test_promise_is_what_the_watchdog_exports_and_no_more_than_its_cores_allow():
    model, cost = LatencyModel(8), CpuCost(LatencyModel(8))
    for size in (1, 2, 4, 8):
        for _ in range(5):
            model.observe(size, 0.010)
            cost.observe(size, 0.010)
    free = report.promise_within(0.1, [(1.0, model)], cost, workers=4, objective=0.99, cpus=64.0)
    bound = report.promise_within(0.1, [(1.0, model)], cost, workers=4, objective=0.99, cpus=1.0)
    assert 0.0 < bound.rate < free.rate


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({}, "deploy it: "),
        ({"steady": Steady(0.0, 0.0), "steps": (BatchCost(1, 0.06),)}, "slo_interval: 150ms"),
        (
            {"steady": Steady(0.0, 0.0), "steps": (BatchCost(1, 900.0),), "starts": ()},
            "make the model faster: ",
        ),
        ({"slo_from": ""}, "set slo_latency and slo_interval"),
        ({"closed": True}, "start and step in place of the generator"),
        ({"steps": (BatchCost(1, 0.01), BatchCost(2, 0.02))}, "joining hardly pays"),
    ],
)
def test_next_step_of_a_function_that_streams_follows_from_what_was_measured(changed, words):
    assert words in report.stream_next_step(replace(STREAMS, **changed))


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({}, "32 streams in each worker"),
        ({}, "12.3 streams/s on time"),
        ({"steady": Steady(0.0, 0.0)}, "rate      none"),
        ({"ceiling": 8}, "at most 8 in a worker"),
        ({}, "one example"),
        ({"examples": Examples(1, 0, 0, own=False, given=False)}, "an empty body"),
        ({"printed": 123}, "123 lines printed while measuring"),
        ({"busy": 3.0}, "3 processes per CPU"),
    ],
)
def test_report_of_a_function_that_streams_says_what_it_serves_and_when_that_holds(changed, words):
    assert words in "\n".join(report.stream_lines(replace(STREAMS, **changed)))
