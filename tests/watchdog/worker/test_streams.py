import random
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batching_watchdog.errors import HandlerNotLoaded
from batching_watchdog.function import Event
from batching_watchdog.messages import Failure
from batching_watchdog.worker.handler import Handler
from batching_watchdog.worker.streams import RunningStreams, measure

WHIMSICAL = """
finished = []
last = 0

class Vague:
    def __bool__(self):
        raise ValueError("neither true nor false")

def start(events, context):
    global last
    if any(event.body == b"unstartable" for event in events):
        raise ValueError("unstartable")
    if any(event.body == b"huge" for event in events):
        raise MemoryError
    if any(event.body == b"greedy" for event in events):
        events.clear()
        raise ValueError("greedy")
    last += len(events)
    return [[last - place, event.body.decode(), 0] for place, event in enumerate(events)]

def step(states, context):
    if any(name == "hungry" for _, name, _ in states):
        raise MemoryError
    if any(name == "wild" for _, name, _ in states):
        raise RuntimeError("wild")
    results = []
    for state in states:
        state[2] += 1
        if state[1] == "bad":
            results.append(ValueError("bad"))
        elif state[1] == "odd":
            results.append("no pair")
        elif state[1] == "refused":
            results.append(({"statusCode": 404, "body": "refused"}, False))
        elif state[1] == "vague":
            results.append((state[2], Vague()))
        elif state[1] == "mute":
            results.append((None, state[2] == 3))
        else:
            results.append((state[2], state[2] == 3))
    return results

def finish(state, context):
    finished.append(state[0])
    if state[1] == "unfinishable":
        raise RuntimeError
"""


class Worker:
    """The streams of a handler, and what went wrong."""

    def __init__(self, source: str, folder: Path) -> None:
        (folder / "handler.py").write_text(source)
        self.handler = Handler(str(folder))
        self.failures: list[Failure] = []
        self.handler.report = self.failures.append
        self.streams = RunningStreams(self.handler)

    def join(self, **bodies: int) -> None:
        for body, stream in bodies.items():
            self.streams.join(stream, Event(b"POST /\r\n", body.encode()))

    def iterate(self) -> dict[int, tuple[bytes | None, bool]]:
        """The next piece of each stream, or its error, and whether it has ended."""
        outputs = self.streams.iterate().outputs
        return {each.stream: (each.reply and each.reply.body, each.done) for each in outputs}


@pytest.fixture
def worker(tmp_path):
    return Worker(WHIMSICAL, tmp_path)


def finished(worker: Worker) -> list[int]:
    """The states that were finished, in that order."""
    import sys  # noqa: PLC0415 - the module is that of the newest handler

    return sys.modules["function.handler"].finished


def test_stream_that_joins_gets_its_first_piece_with_the_next_of_others(worker):
    worker.join(a=1)
    assert worker.iterate() == {1: (b"1", False)}
    worker.join(b=2)
    assert worker.iterate() == {1: (b"2", False), 2: (b"1", False)}
    assert worker.iterate() == {1: (b"3", True), 2: (b"2", False)}
    assert worker.iterate() == {2: (b"3", True)}
    assert len(worker.streams) == 0
    assert finished(worker) == [1, 2]


def test_stream_without_a_piece_yet_goes_on(worker):
    worker.join(mute=1)
    assert [worker.iterate() for _ in range(3)] == [{1: (None, False)}, {1: (None, False)}, {1: (None, True)}]


def test_event_that_cannot_start_fails_alone(worker):
    worker.join(a=1, unstartable=2, b=3)
    outputs = worker.iterate()
    assert outputs[2][1]
    assert (outputs[1], outputs[3]) == ((b"1", False), (b"1", False))
    assert ["unstartable" in failure.trace for failure in worker.failures] == [True]


def test_start_that_empties_its_list_and_raises_is_tried_with_each_event(worker):
    worker.join(a=1, greedy=2, b=3)
    outputs = worker.iterate()
    assert outputs[2][1]
    assert (outputs[1], outputs[3]) == ((b"1", False), (b"1", False))


def test_events_for_which_memory_does_not_suffice_fail_without_harm_to_running_streams(worker):
    worker.join(a=1)
    worker.iterate()
    worker.join(huge=2, b=3)
    outputs = {output.stream: output for output in worker.streams.iterate().outputs}
    assert [outputs[stream].out_of_memory for stream in (1, 2, 3)] == [False, True, True]
    assert outputs[1].reply.body == b"2"


def test_step_for_which_memory_does_not_suffice_finishes_all_states_and_the_worker_goes_on(worker):
    worker.join(a=1, hungry=2)
    outputs = worker.streams.iterate().outputs
    assert all(output.out_of_memory and output.done for output in outputs)
    assert sorted(finished(worker)) == [1, 2]
    worker.join(a=3)
    assert worker.iterate() == {3: (b"1", False)}
    assert not worker.streams.broken


def test_step_that_raises_breaks_the_worker_after_all_states_are_finished(worker):
    worker.join(a=1, wild=2)
    assert all(done for _, done in worker.iterate().values())
    assert worker.streams.broken
    assert sorted(finished(worker)) == [1, 2]


SCALAR = """
import numpy

def start(events, context):
    return numpy.array(0) if events[0].body == b"unstartable" else [0] * len(events)

def step(states, context):
    return numpy.array(0)
"""


def test_start_and_step_that_return_no_sequence_fail_their_streams(tmp_path):
    worker = Worker(SCALAR, tmp_path)
    worker.join(unstartable=1)
    assert worker.iterate()[1][1]
    assert not worker.streams.broken
    worker.join(a=2)
    assert worker.iterate()[2][1]
    assert worker.streams.broken


@pytest.mark.parametrize("body", ["bad", "odd", "vague"])
def test_result_that_is_an_exception_or_no_pair_of_piece_and_truth_ends_its_stream_alone(worker, body):
    worker.join(**{"a": 1, body: 2})
    outputs = {output.stream: output for output in worker.streams.iterate().outputs}
    assert (outputs[2].done, outputs[2].reply.failed) == (True, True)
    assert not outputs[1].done


def test_piece_with_a_status_of_an_error_ends_its_stream(worker):
    worker.join(refused=1, a=2)
    assert worker.iterate() == {1: (b"refused", True), 2: (b"1", False)}


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_each_state_is_finished_exactly_once_whatever_happens(seed, tmp_path_factory):
    worker, draws = Worker(WHIMSICAL, tmp_path_factory.mktemp("handler")), random.Random(seed)
    kinds = ["a", "mute", "bad", "odd", "unfinishable", "unstartable", "hungry", "wild", "vague"]
    for stream in range(30):
        worker.streams.join(stream, Event(b"POST /\r\n", draws.choice(kinds).encode()))
        for _ in range(draws.randrange(3)):
            worker.streams.leave(draws.randrange(30))
        if draws.random() < 0.6:
            worker.streams.iterate()
    worker.streams.close()
    states = Counter(finished(worker))
    assert len(worker.streams) == 0
    assert set(states.values()) <= {1}
    assert sorted(states) == list(range(1, len(states) + 1))


def test_generator_serves_those_that_start_together_to_its_end(tmp_path):
    source = """
closed = []
def handle_batch(events, context):
    try:
        for at in range(3):
            yield [StopIteration if at == 1 and event.body == b"short" else at for event in events]
    finally:
        closed.append(len(events))
"""
    worker = Worker(source, tmp_path)
    worker.join(a=1, short=2)
    assert worker.handler.stream.closed
    assert worker.iterate() == {1: (b"0", False), 2: (b"0", False)}
    assert worker.iterate() == {1: (b"1", False), 2: (None, True)}
    assert worker.iterate() == {1: (b"2", False)}
    worker.streams.leave(1)
    import sys  # noqa: PLC0415 - the module is that of the newest handler

    assert sys.modules["function.handler"].closed == [2]


def test_generator_that_yields_too_few_pieces_breaks_the_worker(tmp_path):
    worker = Worker("def handle_batch(events, context):\n    yield [1]\n", tmp_path)
    worker.join(a=1, b=2)
    worker.iterate()
    assert worker.streams.broken
    assert "yielded 1 pieces for 2 events" in worker.failures[0].trace


def test_example_is_measured_at_powers_of_two_up_to_the_most_streams(worker):
    measured = measure(worker.handler, [b"a"], most=4, interval=10.0)
    assert {size for size, _ in measured.starts} == {size for size, _ in measured.steps} == {1, 2, 4}


def test_example_that_fails_cannot_be_measured(worker):
    with pytest.raises(HandlerNotLoaded):
        measure(worker.handler, [b"bad"], most=4, interval=10.0)
