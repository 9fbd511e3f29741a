import random
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batching_watchdog.errors import HandlerNotLoaded
from batching_watchdog.function.event import Event
from batching_watchdog.function.messages import Failure
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


@pytest.mark.parametrize("name", ["unstartable", "greedy"])
def test_event_that_cannot_start_fails_alone_even_if_it_empties_the_list(worker, name):
    worker.join(a=1, b=3, **{name: 2})
    outputs = worker.iterate()
    assert outputs[2][1]
    assert (outputs[1], outputs[3]) == ((b"1", False), (b"1", False))
    assert [name in failure.trace for failure in worker.failures] == [True]


def test_event_for_which_memory_does_not_suffice_fails_without_harm_to_others(worker):
    worker.join(a=1)
    worker.iterate()
    worker.join(huge=2, b=3)
    outputs = {output.stream: output for output in worker.streams.iterate().outputs}
    assert [outputs[stream].out_of_memory for stream in (1, 2, 3)] == [False, True, False]
    assert [outputs[stream].reply.body for stream in (1, 3)] == [b"2", b"1"]


@pytest.mark.parametrize("body", ["wild", "hungry"])
def test_state_whose_step_raises_fails_alone_and_others_get_their_step(worker, body):
    worker.join(**{"a": 1, "b": 2, body: 3, "c": 4})
    iteration = worker.streams.iterate()
    outputs = {output.stream: output for output in iteration.outputs}
    assert [stream for stream, output in outputs.items() if output.done] == [3]
    assert outputs[3].out_of_memory == (body == "hungry")
    assert (iteration.stepped, iteration.step_overflow) == (0, 0)
    assert len(finished(worker)) == 1
    assert worker.iterate() == {1: (b"2", False), 2: (b"2", False), 4: (b"2", False)}


def test_worker_breaks_only_after_iterations_in_a_row_without_any_step(worker):
    for body in ("wild", "wild", "a", "wild", "wild", "wild"):
        assert not worker.streams.broken
        worker.join(**{body: 1})
        worker.iterate()
        worker.streams.leave(1)
    assert worker.streams.broken


CRAMPED = """
held = []

def start(events, context):
    if len(events) > 4:
        raise MemoryError
    states = [object() for _ in events]
    held.extend(states)
    return states

def step(states, context):
    if len(states) > STEP or len(held) > STATES:
        raise MemoryError
    return [(0, False)] * len(states)

def finish(state, context):
    held.remove(state)
"""


def cramped(folder: Path, *, step: int, states: int) -> Worker:
    """A worker whose memory suffices for a step of so many, and for so many states."""
    return Worker(f"STEP, STATES = {step}, {states}\n{CRAMPED}", folder)


def test_start_and_step_that_fit_in_halves_pass_and_tell_the_fewest_that_do_not(tmp_path):
    worker = cramped(tmp_path, step=3, states=100)
    worker.join(**{f"a{stream}": stream for stream in range(8)})
    iteration = worker.streams.iterate()
    assert [output.done for output in iteration.outputs] == [False] * 8
    assert (iteration.start_overflow, iteration.step_overflow) == (8, 4)
    assert (iteration.started, iteration.stepped) == (0, 0)


def test_newer_half_makes_room_where_not_even_one_step_fits_beside_all_states(tmp_path):
    worker = cramped(tmp_path, step=100, states=6)
    worker.join(**{f"a{stream}": stream for stream in range(12)})
    iteration = worker.streams.iterate()
    assert {output.stream for output in iteration.outputs if output.out_of_memory} == set(range(6, 12))
    assert len(worker.streams) == 6
    assert iteration.step_overflow == 12


FRAGILE = """
def start(events, context):
    if any(event.body in (b"start", b"start for memory") for event in events):
        raise MemoryError if any(event.body == b"start for memory" for event in events) else ValueError
    return [[event.body, 0] for event in events]

def step(states, context):
    for kind, place in states:
        if place == 2 and kind.startswith(b"step"):
            raise MemoryError if kind == b"step for memory" else ValueError
    for state in states:
        state[1] += 1
    return [(state[1], state[1] == 5) for state in states]
"""


@settings(max_examples=60, deadline=None)
@given(
    bodies=st.lists(
        st.sampled_from(["good", "good", "start", "start for memory", "step", "step for memory"]),
        min_size=1,
        max_size=24,
    ),
    seed=st.integers(0, 10_000),
)
def test_no_stream_gets_the_error_of_another_and_each_gets_every_piece_once(bodies, seed, tmp_path_factory):
    worker, draws = Worker(FRAGILE, tmp_path_factory.mktemp("handler")), random.Random(seed)
    pieces: dict[int, list[bytes]] = {stream: [] for stream in range(len(bodies))}
    failed: set[int] = set()
    waiting = list(enumerate(bodies))
    while waiting or len(worker.streams):
        for _ in range(min(len(waiting), draws.randrange(1, 8))):
            stream, body = waiting.pop()
            worker.streams.join(stream, Event(b"POST /\r\n", body.encode()))
        for output in worker.streams.iterate().outputs:
            if output.reply is not None and output.reply.failed:
                failed.add(output.stream)
            elif output.reply is not None:
                pieces[output.stream].append(output.reply.body)
    assert failed == {stream for stream, body in enumerate(bodies) if body != "good"}
    assert all(
        pieces[stream] == [b"1", b"2", b"3", b"4", b"5"]
        for stream, body in enumerate(bodies)
        if body == "good"
    )


def test_step_that_raises_for_several_and_for_none_alone_passes_in_parts_and_is_logged(tmp_path):
    source = """
def start(events, context):
    return list(events)

def step(states, context):
    if len(states) > 1:
        raise ValueError("one at a time")
    return [(0, True)]
"""
    worker = Worker(source, tmp_path)
    worker.join(a=1, b=2)
    assert worker.iterate() == {1: (b"0", True), 2: (b"0", True)}
    assert ["one at a time" in failure.trace for failure in worker.failures] == [True]


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


def test_generator_that_yields_too_many_pieces_fails_its_streams_and_names_both_counts(tmp_path):
    worker = Worker("def handle_batch(events, context):\n    yield [1] * 5\n", tmp_path)
    worker.join(a=1, b=2)
    assert all(done for _, done in worker.iterate().values())
    assert "yielded 5 pieces for 1 events" in worker.failures[0].trace


@pytest.mark.parametrize("pieces", ["'ab'", "None", "{0: 1, 1: 2}", "{1, 2}"])
def test_generator_that_yields_no_piece_per_event_fails_its_streams(tmp_path, pieces):
    worker = Worker(f"def handle_batch(events, context):\n    yield {pieces}\n    yield [1, 2]\n", tmp_path)
    worker.join(a=1, b=2)
    assert all(done for _, done in worker.iterate().values())
    assert "not a list with a piece per event" in worker.failures[0].trace


RELAY = """
closed = []
def handle_batch(events, context):
    bodies = [event.body for event in events]
    try:
        for at in range(4):
            if any(body == b"bad%d" % at for body in bodies):
                raise ValueError(at)
            yield [at for _ in bodies]
    finally:
        closed.extend(bodies)
"""


def test_event_whose_generator_raises_before_its_first_piece_fails_alone(tmp_path):
    worker = Worker(RELAY, tmp_path)
    worker.join(a=1, b=2, bad0=3, c=4)
    pieces = [worker.iterate() for _ in range(5)]
    assert pieces[0][3][1]
    for place in range(4):
        assert all(pieces[place][stream] == (b"%d" % place, False) for stream in (1, 2, 4))
    assert all(pieces[4][stream] == (None, True) for stream in (1, 2, 4))


def test_generator_that_raises_later_fails_all_of_its_streams(tmp_path):
    worker = Worker(RELAY, tmp_path)
    worker.join(a=1, bad2=2)
    assert [worker.iterate() for _ in range(2)] == [
        {1: (b"%d" % at, False), 2: (b"%d" % at, False)} for at in range(2)
    ]
    assert all(done for _, done in worker.iterate().values())
    assert len(worker.streams) == 0
    assert all("ValueError: 2" in failure.trace for failure in worker.failures)


FAILS_THRICE = """
left = 3

def fail():
    global left
    left -= 1
    if left >= 0:
        raise ERROR
"""
IN_STEP = """
def start(events, context):
    return list(events)

def step(states, context):
    fail()
    return [(b"piece", False) for _ in states]
"""
IN_GENERATOR = """
def handle_batch(events, context):
    fail()
    yield [b"piece" for _ in events]
"""


@pytest.mark.parametrize("function", [IN_STEP, IN_GENERATOR])
@pytest.mark.parametrize(("error", "again"), [("MemoryError", True), ("ValueError", False)])
def test_older_half_gets_its_step_once_the_newer_has_made_room_and_after_no_other_error(
    tmp_path, function, error, again
):
    worker = Worker(FAILS_THRICE.replace("ERROR", error) + function, tmp_path)
    worker.join(a=1, b=2)
    outputs = worker.iterate()
    assert (outputs[1] == (b"piece", False)) is again
    assert outputs[2][1]


def test_example_is_measured_at_powers_of_two_up_to_the_most_streams(worker):
    measured = measure(worker.handler, [b"a"], most=4, interval=10.0)
    assert {size for size, _ in measured.starts} == {size for size, _ in measured.steps} == {1, 2, 4}


def test_example_that_fails_cannot_be_measured(worker):
    with pytest.raises(HandlerNotLoaded):
        measure(worker.handler, [b"bad"], most=4, interval=10.0)
