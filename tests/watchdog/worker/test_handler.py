import json
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from batching_watchdog import wire
from batching_watchdog.errors import HandlerNotLoaded
from batching_watchdog.function import Event, stack_of
from batching_watchdog.messages import Failure, Reply
from batching_watchdog.worker import handler as handler_module
from batching_watchdog.worker.handler import Handler
from batching_watchdog.worker.wsgi import create_app

Load = Callable[[str], Handler]


@pytest.fixture
def load(tmp_path: Path) -> Iterator[Load]:
    """Write a handler.py and load it, without leaving traces in this interpreter."""
    path = list(sys.path)

    def write_and_load(source: str) -> Handler:
        (tmp_path / "handler.py").write_text(textwrap.dedent(source))
        return Handler(str(tmp_path))

    yield write_and_load
    sys.path[:] = path
    # Only the function's own: numpy, once imported, cannot be imported anew in the same process.
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if name == "function" or (file is not None and Path(file).is_relative_to(tmp_path)):
            del sys.modules[name]


def event(body: bytes = b"", target: bytes = b"/", *headers: tuple[bytes, bytes]) -> Event:
    return Event(wire.request_header_block(b"POST", target, headers), body)


def one(handler: Handler, request: Event | None = None) -> Reply:
    replies = handler.serve([request or event()])
    assert len(replies) == 1
    return replies[0]


def test_an_event_has_what_python3_http_gives():
    seen = event(
        b'{"a": 1}', b"/a%20b?x=1&y=&x=2", (b"Content-Type", b"text/x"), (b"X-A", b"1"), (b"x-a", b"2")
    )
    assert (seen.method, seen.path, dict(seen.query)) == ("POST", "/a b", {"x": "1", "y": ""})
    assert seen.headers["content-type"] == "text/x"
    assert seen.headers["X-A"] == "1, 2"
    assert list(seen.headers) == ["Content-Type", "X-A"]
    assert len(seen.headers) == 2
    assert "nothing" not in seen.headers
    assert seen.json() == {"a": 1}


def test_an_events_query_and_headers_answer_as_flasks_do():
    seen = event(b"", b"/?n=5&x=1&x=2&m=q", (b"X-N", b"5"))
    query, headers = seen.query, seen.headers
    assert (query.get("n", type=int), query.get("m", default=7, type=int), query.get("o")) == (5, 7, None)
    assert (query.getlist("x"), query.getlist("y")) == (["1", "2"], [])
    assert query.to_dict() == {"n": "5", "x": "1", "m": "q"}
    assert len(query) == 3
    assert repr(query) == "Query({'n': ['5'], 'x': ['1', '2'], 'm': ['q']})"
    assert (headers.get("x-n", type=int), headers.get("nope", "d"), headers.get("X-N")) == (5, "d", "5")
    assert (headers.getlist("x-N"), headers.getlist("nope")) == (["5"], [])


@pytest.mark.parametrize(
    "result",
    [
        '{"body": "x", "headers": [("Set-Cookie", "a=1"), ("Set-Cookie", "b=2")]}',
        '("x", 200, [("Set-Cookie", "a=1"), ("Set-Cookie", "b=2")])',
        'flask.Response("x", headers=[("Set-Cookie", "a=1"), ("Set-Cookie", "b=2")])',
    ],
)
def test_a_header_can_be_repeated(load: Load, result: str):
    reply = one(load(f"import flask\ndef handle(event, context):\n    return {result}"))
    assert (reply.status, reply.body) == (200, b"x")
    assert b"Set-Cookie: a=1\r\nSet-Cookie: b=2\r\n" in reply.header_block


def test_flasks_abort_is_an_answer(load: Load):
    reply = one(load("import flask\ndef handle(event, context):\n    flask.abort(404)"))
    assert reply.status == 404
    assert not reply.failed


@pytest.mark.parametrize("headers", ["5", '"text"', "[1]", '[("a", "b", "c")]'])
def test_headers_that_are_none_fail_that_request(load: Load, headers: str):
    reply = one(load(f'def handle(event, context):\n    return {{"body": "", "headers": {headers}}}'))
    assert (reply.status, reply.failed) == (500, True)


def test_load_runs_once_and_its_result_is_the_model(load: Load):
    handler = load("""
        calls = []
        def load():
            calls.append(1)
            return calls
        def handle(event, context):
            return len(context.model)
    """)
    assert [one(handler).body for _ in range(3)] == [b"1"] * 3


def test_the_folder_is_a_package_and_on_the_path(load: Load, tmp_path: Path):
    (tmp_path / "sibling.py").write_text("NAME = 'sibling'")
    (tmp_path / "inner.py").write_text("NAME = 'inner'")
    handler = load("""
        import sibling
        from function.inner import NAME
        from .inner import NAME as again
        def handle(event, context):
            return sibling.NAME + NAME + again
    """)
    assert one(handler).body == b"siblinginnerinner"


@pytest.mark.parametrize(
    ("result", "status", "content_type", "body"),
    [
        ("b'raw'", 200, "application/octet-stream", b"raw"),
        ("memoryview(b'raw')", 200, "application/octet-stream", b"raw"),
        ("'text'", 200, "text/plain; charset=utf-8", b"text"),
        ("None", 200, "text/plain; charset=utf-8", b""),
        ("{'score': 0.5}", 200, "application/json", b'{"score":0.5}'),
        ("[1, True, None]", 200, "application/json", b"[1,true,null]"),
        ("7", 200, "application/json", b"7"),
        ("__import__('numpy').arange(3)", 200, "application/json", b"[0,1,2]"),
        ("{'statusCode': 201, 'body': {'a': 1}}", 201, "application/json", b'{"a":1}'),
        ("{'body': 'x', 'headers': {'Content-Type': 'text/css'}}", 200, "text/css", b"x"),
        ("('made', 201)", 201, "text/plain; charset=utf-8", b"made"),
        ("('made', 201, {'X-A': 'b'})", 201, "text/plain; charset=utf-8", b"made"),
        ("__import__('flask').Response('x', 202, mimetype='text/css')", 202, "text/css; charset=utf-8", b"x"),
        ("ValueError('too short')", 500, "text/plain; charset=utf-8", b"too short\n"),
        ("{'statusCode': 422, 'body': ValueError('no')}", 422, None, None),
    ],
)
def test_a_result_means_what_its_type_says(
    load: Load, result: str, status: int, content_type: str | None, body: bytes | None
):
    reply = one(load(f"def handle(event, context):\n    return {result}\n"))
    headers = dict(wire.parse_header_block(b"- -\r\n" + reply.header_block)[2])
    assert reply.status == status
    if content_type is not None:
        assert (headers["Content-Type"], reply.body) == (content_type, body)


@pytest.mark.parametrize(
    "result",
    [
        "object()",
        "{1, 2}",
        "[1.0, float('nan')]",
        "{'body': {'score': float('inf')}}",
        "__import__('numpy').array([float('nan')])",
        "{'statusCode': float('inf'), 'body': ''}",
        "{'statusCode': 99, 'body': ''}",
        "{'statusCode': 'soon', 'body': ''}",
        "{'body': '', 'headers': {'X-A': 'split\\r\\nX-B: c'}}",
        "{'body': '', 'headers': {'X A': 'b'}}",
        "{'body': '', 'headers': {'': 'b'}}",
        "{'body': '', 'headers': {'X(A)': 'b'}}",
        "{'body': '', 'headers': {'X\x7fA': 'b'}}",
        "{'body': '', 'headers': {'X-A': 'bell\x07'}}",
        "{'body': '', 'headers': {'X-A': 'red \x1b[31m'}}",
        "{'body': '', 'headers': {'X-A': 'del\x7f'}}",
    ],
)
def test_a_result_that_can_not_be_sent_is_a_failure_of_that_request(
    load: Load, result: str, capsys: pytest.CaptureFixture[str]
):
    reply = one(load(f"def handle(event, context):\n    return {result}\n"))
    assert (reply.status, reply.failed) == (500, True)
    assert "cannot be sent" in capsys.readouterr().err


def test_headers_that_frame_the_message_are_not_the_functions_to_set(load: Load):
    handler = load(
        "def handle(e, c):\n    return {'body': '', 'headers': {'Content-Length': '9', 'X-A': 'b'}}\n"
    )
    assert b"Content-Length" not in one(handler).header_block


def test_a_batch_that_raises_is_run_again_in_halves_and_says_so(load: Load):
    handler = load("""
        batches = []
        def handle_batch(events, context):
            batches.append(len(events))
            return [batches[-1] / int(event.body) for event in events]
    """)
    bodies = [b"1"] * 16
    bodies[5] = b"0"
    replies = handler.serve([event(body) for body in bodies])
    assert [reply.status for reply in replies] == [500 if body == b"0" else 200 for body in bodies]
    assert [reply.failed for reply in replies] == [body == b"0" for body in bodies]
    assert handler.repeated
    assert one(handler, event(b"1")).body == b"1.0"
    assert not handler.repeated
    assert sys.modules["function.handler"].batches == [16, 8, 4, 4, 2, 1, 1, 2, 8, 1]


@pytest.mark.parametrize("result", ["float('nan')", "('', float('inf'))", "('', 10**30)"])
def test_a_result_that_can_not_be_sent_fails_alone_and_the_batch_is_not_run_again(load: Load, result: str):
    handler = load(f"""
        batches = []
        def handle_batch(events, context):
            batches.append(len(events))
            return [{result} if event.body == b"bad" else str(batches) for event in events]
    """)
    good, bad = handler.serve([event(), event(b"bad")])
    assert (good.status, good.body) == (200, b"[2]")
    assert (bad.status, bad.failed) == (500, True)


def test_a_wrong_count_is_run_again_in_halves_and_then_fails(load: Load):
    handler = load("def handle_batch(events, context):\n    return []\n")
    assert [reply.status for reply in handler.serve([event(), event()])] == [500, 500]


@pytest.mark.parametrize(
    "source",
    [
        "def handle_batch(events, context):\n    return deep()\n",
        "def handle(event, context):\n    return deep()\n",
        "def handle(event, context):\n"
        "    try:\n        deep()\n    except KeyError as error:\n        return error\n",
        "class Odd:\n    def tolist(self):\n        deep()\n"
        "def handle(event, context):\n    return [Odd()]\n",
    ],
    ids=["handle_batch", "handle", "an exception as the result", "a result's method"],
)
def test_trace_of_a_failure_begins_with_the_functions_frames_and_has_all_of_them(load: Load, source: str):
    handler = load(f"{source}def deep():\n    deeper()\ndef deeper():\n    {{}}['no such']\n")
    failures: list[Failure] = []
    handler.report = failures.append
    one(handler)
    (failure,) = failures
    lines = [line for line in failure.trace.splitlines() if not line.startswith("the result cannot be sent")]
    assert lines[0] == "Traceback (most recent call last):"
    files = [line for line in lines if line.startswith("  File ")]
    assert all("/handler.py" in line and "batching_watchdog" not in line for line in files)
    assert [line.rpartition(" ")[2] for line in files][-2:] == ["deep", "deeper"]
    assert lines[-1] == "KeyError: 'no such'"


def test_failure_of_a_request_has_its_call_id_and_path(load: Load):
    handler = load("def handle(event, context):\n    raise KeyError\n")
    failures: list[Failure] = []
    handler.report = failures.append
    one(handler, event(b"", b"/a\x07b", (b"X-Call-Id", b"2a7b9d50")))
    assert failures[0].text == r"handler error: POST /a\x07b [2a7b9d50]"
    assert failures[0].call_id == "2a7b9d50"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("raise ValueError('not the same length')", "ValueError: not the same length"),
        ("return results[:1]", "handle_batch returned 1 results for 2 events"),
    ],
)
def test_batch_that_fails_while_its_parts_do_not_is_reported_once(load: Load, body: str, words: str):
    handler = load(f"""
        def handle_batch(events, context):
            results = [event.body for event in events]
            if len(events) > 1:
                {body}
            return results
    """)
    failures: list[Failure] = []
    handler.report = failures.append
    for _ in range(3):
        assert [reply.status for reply in handler.serve([event()] * 4)] == [200] * 4
    (failure,) = failures
    assert words in failure.trace


def test_batch_that_fails_for_one_of_its_events_is_reported_by_that_one(load: Load):
    handler = load(
        "def handle_batch(events, context):\n    return [1 / int(event.body) for event in events]\n"
    )
    failures: list[Failure] = []
    handler.report = failures.append
    handler.serve([event(b"1"), event(b"0"), event(b"1"), event(b"1")])
    assert [failure.text for failure in failures] == ["handler error: POST /"]


def test_trace_that_quotes_a_whole_tensor_keeps_its_beginning_and_its_end(load: Load):
    handler = load("def handle(event, context):\n    raise ValueError('x' * 10**7 + 'the end')\n")
    failures: list[Failure] = []
    handler.report = failures.append
    one(handler)
    trace = failures[0].trace
    assert len(trace) < 10**5
    assert trace.startswith("Traceback")
    assert trace.endswith("the end")


@pytest.mark.parametrize(
    ("result", "kind"),
    [
        ("{'y': 1}", "dict"),
        ("'y'", "str"),
        ("b'y'", "bytes"),
        ("None", "NoneType"),
        ("iter([1])", "list_iterator"),
    ],
)
def test_batch_whose_result_is_no_list_fails_and_says_what_it_must_be(load: Load, result: str, kind: str):
    handler = load(f"def handle_batch(events, context):\n    return {result}\n")
    failures: list[Failure] = []
    handler.report = failures.append
    assert one(handler).failed
    assert f"returned {kind}, not a list" in failures[0].trace


def test_batch_whose_result_is_an_array_is_answered_row_by_row(load: Load):
    handler = load("import numpy\ndef handle_batch(events, context):\n    return numpy.eye(2)\n")
    assert [reply.body for reply in handler.serve([event(), event()])] == [b"[1.0,0.0]", b"[0.0,1.0]"]


def test_a_handler_that_raises_shows_nothing_of_it_to_the_client(
    load: Load, capsys: pytest.CaptureFixture[str]
):
    reply = one(load("def handle(event, context):\n    raise RuntimeError('secret')\n"))
    assert b"secret" not in reply.body
    assert "secret" in capsys.readouterr().err


@pytest.mark.parametrize(
    "source",
    [
        "class Odd(Exception):\n    def get_response(self):\n        raise self\n"
        "def handle(event, context):\n    raise Odd('odd')\n",
        "class Odd(Exception):\n    def __str__(self):\n        raise self\n"
        "class Result:\n    def tolist(self):\n        raise Odd\n"
        "def handle(event, context):\n    return [Result()]\n",
    ],
    ids=["no response", "no words"],
)
def test_an_error_that_raises_when_it_is_looked_at_fails_that_request(
    load: Load, source: str, capsys: pytest.CaptureFixture[str]
):
    reply = one(load(source))
    assert (reply.status, reply.failed) == (500, True)
    assert "Odd" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("headers", "traced"),
    [
        ([(b"TraceParent", b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00")], True),
        ([(b"traceparent", b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00")] * 2, False),
        ([(b"traceparent", b"\xff")], False),
        ([], False),
    ],
)
def test_failure_of_a_request_has_the_trace_that_it_belongs_to(
    load: Load, headers: list[tuple[bytes, bytes]], traced: bool
):
    handler = load("def handle(event, context):\n    raise RuntimeError\n")
    failures: list[Failure] = []
    handler.report = failures.append
    one(handler, event(b"", b"/", *headers))
    trace_id = "4bf92f3577b34da6a3ce929d0e0e4736" if traced else ""
    assert failures[0].trace_id == trace_id
    assert failures[0].text == "handler error: POST /" + (f" trace {trace_id}" if traced else "")


def test_what_a_client_sends_reaches_the_log_without_control_characters(
    load: Load, capsys: pytest.CaptureFixture[str]
):
    handler = load("def handle(event, context):\n    raise RuntimeError(event.body.decode())\n")
    one(handler, event(b"red \x1b[31m"))
    assert r"red \x1b[31m" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            "import nothing_like_it",
            "handler.py failed: ModuleNotFoundError: No module named 'nothing_like_it'",
        ),
        ("def handle(:", "SyntaxError: "),
        ("x = 1", "defines neither handle_batch(events, context) nor handle(event, context)"),
        ("handle = 'not a function'", "defines neither"),
        ("def load():\n    raise OSError('gone')\ndef handle(e, c): ...", "load() failed: OSError: gone"),
        ("def example():\n    return 'text'\ndef handle(e, c): ...", "example() must return bytes"),
        ("mix_paths = 'no'\ndef handle(e, c): ...", "mix_paths must be True or False"),
        ("import sys\nsys.exit('bye')", "it called sys.exit('bye') while being imported"),
        ("def load():\n    raise OSError('a\\nb')\ndef handle(e, c): ...", "load() failed: OSError: a ..."),
        ("def example():\n    1 / 0\ndef handle(e, c): ...", "example() failed: ZeroDivisionError"),
    ],
)
def test_a_handler_that_does_not_load_says_what_and_where(load: Load, source: str, message: str):
    with pytest.raises(HandlerNotLoaded) as error:
        load(source)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("source", "first", "last"),
    [
        ("import nothing_like_it", ", line 1, in <module>", "ModuleNotFoundError: "),
        ("\ndef handle(:", ", line 2", "SyntaxError: "),
        ("def load():\n    inner()\ndef inner(): 1 / 0\ndef handle(e, c): ...", ", line 2, in load", "Zero"),
        ("import sys\nsys.exit('bye')", ", line 2, in <module>", "SystemExit: bye"),
    ],
)
def test_trace_of_a_handler_that_does_not_load_begins_with_its_own_frame(
    load: Load, source: str, first: str, last: str
):
    with pytest.raises(HandlerNotLoaded) as error:
        load(source)
    lines = [line for line in error.value.trace.splitlines() if not line.startswith("Traceback")]
    assert lines[0].startswith('  File "')
    assert lines[0].endswith(f'handler.py"{first}')
    assert lines[-1].startswith(last)


def test_stack_of_a_load_that_hangs_begins_with_the_functions_frame_and_has_its_other_threads():
    package = Path(handler_module.__file__).parent
    dump = f"""Timeout (0:00:05)!
Thread 0x00007f01 (most recent call first):
  File "/function/fetch.py", line 9 in fetch
  File "/usr/lib/python3.11/threading.py", line 982 in run

Thread 0x00007f02 (most recent call first):
  File "/usr/lib/python3.11/threading.py", line 327 in wait
  File "<frozen importlib._bootstrap>", line 241 in _call_with_frames_removed
  File "/function/handler.py", line 3 in load
  File "{package}/handler.py", line 65 in __init__
  File "<frozen runpy>", line 88 in _run_code
"""
    words = ("load", "wait", "run", "fetch")
    shown = [line for line in stack_of(dump).splitlines() if not line.startswith("Stack")]
    assert [line.rpartition(" in ")[2] for line in shown if line.startswith("  File ")] == list(words)
    assert stack_of("") == ""


def test_a_folder_without_a_handler_is_named(tmp_path: Path):
    with pytest.raises(HandlerNotLoaded, match=r"there is no handler\.py in this folder"):
        Handler(str(tmp_path))


def test_the_same_handler_is_a_flask_application(load: Load, tmp_path: Path):
    load("""
        def handle(event, context):
            body = [event.method, event.path, event.body.decode(), event.query["a"]]
            return {"statusCode": 201, "body": body,
                    "headers": {"X-B": event.headers["x-b"]}}
    """)
    client = create_app(str(tmp_path)).test_client()
    answer = client.put("/p/q?a=1", data=b"body", headers={"X-B": "2"})
    assert (answer.status_code, answer.headers["X-B"]) == (201, "2")
    assert json.loads(answer.data) == ["PUT", "/p/q", "body", "1"]
