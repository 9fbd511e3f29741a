"""``batching_watchdog.testing`` on functions of all kinds, with real worker processes."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from batching_watchdog.errors import HandlerNotLoaded, WorkerDied
from batching_watchdog.testing import Function
from support.processes import processes_of
from support.waits import until

pytestmark = pytest.mark.e2e

SQUARES = """
import os

from batching_watchdog import Response

def load():
    return lambda number: number * number

def handle_batch(events, context):
    numbers = [event.json() for event in events]
    if 7 in numbers and len(numbers) > 1:
        raise ValueError("seven is served alone only")
    if 13 in numbers:
        os._exit(1)
    return [
        Response({"y": context.model(number), "of": len(numbers), "path": event.path}, 201, {"X-Own": "1"})
        for event, number in zip(events, numbers)
    ]

def example():
    return [b"1", b"2"]
"""


@pytest.fixture
def written(tmp_path):
    """Return the function with this handler."""
    functions = []

    def write(handler: str, name: str = "fn", *, in_process: bool = False, **settings: str) -> Function:
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / "handler.py").write_text(handler)
        functions.append(Function(tmp_path / name, {**os.environ, **settings}, in_process=in_process))
        return functions[-1]

    path = list(sys.path)
    yield write
    sys.path[:] = path
    for function in functions:
        function.close()


def test_batch_of_bodies_gets_the_answers_that_clients_would_get(written):
    function = written(SQUARES)
    first, second = function.batch([b"2", b"3"], path="/any?x=1")
    assert (first.status, first.headers["x-own"], first.json()) == (
        201,
        "1",
        {"y": 4, "of": 2, "path": "/any"},
    )
    assert (second.headers["content-type"], second.body) == (
        "application/json",
        b'{"y":9,"of":2,"path":"/any"}',
    )
    assert function.call(b"3").json() == {"y": 9, "of": 1, "path": "/"}
    assert function.examples == (b"1", b"2")
    assert function.batch([]) == []


def test_body_that_no_client_could_send_is_refused(written):
    function = written(SQUARES)
    for body in ("2", {"x": 2}, bytearray(b"2")):
        with pytest.raises(TypeError, match="bytes"):
            function.call(body)


def test_batch_that_fails_whole_is_tried_in_parts_and_the_reason_is_on_stderr(written, capsys):
    answers = written(SQUARES).batch([b"1", b"7", b"x"])
    assert [answer.status for answer in answers] == [201, 201, 400]
    assert "seven is served alone only" in capsys.readouterr().err


def test_worker_that_ends_under_a_batch_is_an_error_and_the_next_batch_has_another(written):
    function = written(SQUARES)
    with pytest.raises(WorkerDied):
        function.call(b"13")
    assert function.call(b"1").status == 201


SLEEPY = """
import time

def handle(event, context):
    time.sleep(event.json())
    return "awake"
"""


def test_first_batch_may_take_longer_than_exec_timeout_and_a_later_one_is_ended(written):
    function = written(SLEEPY, exec_timeout="1s")
    assert function.call(b"1.5").body == b"awake"
    with pytest.raises(WorkerDied, match="exec_timeout"):
        function.call(b"600")
    assert function.call(b"0").body == b"awake"


def test_bodies_larger_than_a_buffer_come_back_whole(written):
    function = written("def handle(event, context):\n    return event.body\n")
    bodies = [b"a" * 1_000_000, b"b" * 10]
    assert [answer.body for answer in function.batch(bodies)] == bodies


STREAMS = """
def start(events, context):
    return [[event.body.decode(), 0] for event in events]

def step(states, context):
    if any(name == "wild" for name, _ in states):
        raise ValueError("a wild one")
    for state in states:
        state[1] += 1
    return [(f"{name}{count}", count == len(name)) for name, count in states]

def example():
    return [b"a", b"bcd"]
"""


def test_batch_of_a_function_that_streams_gets_whole_answers(written):
    function = written(STREAMS)
    lines, events = (
        function.batch(function.examples),
        function.call(b"x", headers={"Accept": "text/event-stream"}),
    )
    assert [(answer.status, answer.body) for answer in lines] == [
        (200, b'"a1"\n'),
        (200, b'"bcd1"\n"bcd2"\n"bcd3"\n'),
    ]
    assert events.headers["content-type"] == "text/event-stream"
    assert events.body == b"data: x1\n\n"


def test_stream_that_fails_is_answered_by_its_error_and_the_next_batch_has_another_worker(written, capsys):
    function = written(STREAMS)
    assert function.call(b"wild").status == 500
    assert "a wild one" in capsys.readouterr().err
    assert function.call(b"a").status == 200


def test_batch_of_a_generator_gets_whole_answers(written):
    function = written(
        "def handle_batch(events, context):\n    for n in range(2):\n        yield [n] * len(events)\n"
    )
    assert [answer.body for answer in function.batch([b"", b""])] == [b"0\n1\n"] * 2


@pytest.mark.parametrize(
    ("handler", "bodies"), [(SQUARES, (b"2", b"7", b"x")), (STREAMS, (b"a", b"wild", b"bcd"))]
)
def test_function_in_process_answers_as_a_worker_does(written, handler, bodies):
    expected, answers = (written(handler, in_process=here).batch(bodies) for here in (False, True))
    assert answers == expected


def test_response_of_parse_is_the_whole_answer_of_a_function_that_streams(written):
    parse = """
from batching_watchdog import Response

def parse(event):
    return event if event.method == "POST" else Response({"a": 1}, headers={"X-Own": "1"})
"""
    answer = written(STREAMS + parse, in_process=True).call(b"", method="GET")
    assert (answer.status, answer.body) == (200, b'{"a":1}')
    assert (answer.headers["Content-Type"], answer.headers["X-Own"]) == ("application/json", "1")


def test_function_in_process_runs_here_with_the_settings_of_its_worker(written):
    handler = """
import os

OWN = os.environ["own"]

def handle(event, context):
    return [os.getpid(), OWN, os.environ["own"]]
"""
    function = written(handler, in_process=True, own="value")
    assert function.call(b"").json() == [os.getpid(), "value", "value"]
    assert "own" not in os.environ


def test_coverage_counts_the_lines_of_a_function_in_process(tmp_path):
    (tmp_path / "fn").mkdir()
    (tmp_path / "fn/handler.py").write_text("def handle(event, context):\n    return event.body or 1 / 0\n")
    (tmp_path / "fn/handler_test.py").write_text(
        "from pathlib import Path\n"
        "from batching_watchdog.testing import Function\n"
        "def test_echo():\n"
        "    assert Function(Path(__file__).parent, in_process=True).call(b'x').body == b'x'\n"
    )
    command = [
        sys.executable,
        "-m",
        "pytest",
        "--cov=fn",
        "--cov-report=term",
        "-p",
        "no:cacheprovider",
        "fn",
    ]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert re.search(r"fn/handler\.py +2 +0 +100%", result.stdout), result.stdout + result.stderr


def test_two_functions_in_one_run_are_each_their_own(written):
    one = written("def handle(event, context):\n    return 'one'\n", "one")
    other = written("def handle(event, context):\n    return 'other'\n", "other")
    assert (one.call(b"").body, other.call(b"").body, one.call(b"").body) == (b"one", b"other", b"one")


def test_handler_that_cannot_be_loaded_is_an_error_that_names_the_place(written):
    function = written("def load():\n    1 / 0\ndef handle(event, context): ...\n")
    with pytest.raises(HandlerNotLoaded, match=r"ZeroDivisionError.*handler.py, line 2"):
        function.call(b"")


def test_settings_of_the_stack_file_reach_the_handler(tmp_path):
    (tmp_path / "fn").mkdir()
    handler = "import os\ndef handle(event, context):\n    return os.environ['own']\n"
    (tmp_path / "fn" / "handler.py").write_text(handler)
    (tmp_path / "stack.yaml").write_text(
        "functions:\n  fn:\n    handler: ./fn\n    environment:\n      own: value\n"
    )
    function = Function(tmp_path / "fn")
    assert function.call(b"").body == b"value"
    function.close()


STARTS = """
import subprocess

def handle(event, context):
    return subprocess.Popen(["sleep", "600"]).pid
"""


def test_function_that_is_no_longer_used_leaves_no_process(written, tmp_path):
    function = written(STARTS)
    assert function.call(b"").status == 200
    folder = Path(tmp_path / "fn")
    assert processes_of(folder)
    function.close()
    until(lambda: not processes_of(folder), "no process is left")
