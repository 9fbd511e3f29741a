import base64
import gzip
import json
import os
import re
import sys
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from batching_watchdog.errors import HandlerNotLoaded, Poisoned
from batching_watchdog.function import wire
from batching_watchdog.function.event import Event
from batching_watchdog.function.messages import Crash, Failure, Reply
from batching_watchdog.worker.handler import Handler
from batching_watchdog.worker.wsgi import create_app

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


@dataclass
class Function:
    """A loaded handler, and what it has reported."""

    handler: Handler
    failures: list[Failure]

    def serve(self, *bodies: bytes) -> list[Reply]:
        outcome = self.handler.serve([event(body) for body in bodies])
        assert isinstance(outcome, list), outcome
        return outcome

    def crash(self, *bodies: bytes) -> Crash:
        outcome = self.handler.serve([event(body) for body in bodies])
        assert isinstance(outcome, Crash), outcome
        return outcome

    def one(self, request: Event | None = None) -> Reply:
        return self.handler.serve_one(request or event())


Load = Callable[[str], Function]


@pytest.fixture
def load(tmp_path: Path) -> Iterator[Load]:
    """Write a handler.py and load it, without leaving traces in this interpreter."""
    path = list(sys.path)

    def write_and_load(source: str) -> Function:
        (tmp_path / "handler.py").write_text(textwrap.dedent(source))
        function = Function(Handler(str(tmp_path)), [])
        function.handler.report = function.failures.append
        return function

    yield write_and_load
    sys.path[:] = path
    # Only the function's own: numpy, once imported, cannot be imported anew in the same process.
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if name == "function" or (file or "").startswith(str(tmp_path)):
            del sys.modules[name]


def event(body: bytes = b"", target: bytes = b"/", *headers: tuple[bytes, bytes]) -> Event:
    return Event(wire.request_header_block(b"POST", target, headers), body)


def test_event_has_what_python3_http_gives():
    seen = event(
        b'{"a": 1}', b"/a%20b?x=1&y=&x=2", (b"Content-Type", b"text/x"), (b"X-A", b"1"), (b"x-a", b"2")
    )
    assert (seen.method, seen.path, dict(seen.query)) == ("POST", "/a b", {"x": "1", "y": ""})
    assert seen.headers["content-type"] == "text/x"
    assert dict(seen.headers) == {"Content-Type": "text/x", "X-A": "1, 2"}
    assert len(seen.headers) == 2
    assert seen.json() == {"a": 1}


def test_query_and_headers_of_an_event_answer_as_flasks_do():
    seen = event(b"", b"/?n=5&x=1&x=2&m=q", (b"X-N", b"5"))
    query, headers = seen.query, seen.headers
    assert (query.get("n", type=int), query.get("m", default=7, type=int), query.get("o")) == (5, 7, None)
    assert (query.getlist("x"), query.getlist("y"), len(query)) == (["1", "2"], [], 3)
    assert query.to_dict() == {"n": "5", "x": "1", "m": "q"}
    assert (headers.get("x-n", type=int), headers.get("nope", "d"), headers.get("X-N")) == (5, "d", "5")
    assert (query.get("m", "d", None), headers.get("X-N", type=None)) == ("q", "5")
    assert (headers.getlist("x-N"), headers.getlist("nope")) == (["5"], [])


def test_load_runs_once_and_its_result_is_the_model(load):
    function = load("""
        calls = []
        def load():
            calls.append(1)
            return calls
        def handle(event, context):
            return len(context.model)
    """)
    assert [function.one().body for _ in range(3)] == [b"1"] * 3


@pytest.mark.parametrize("parameters", ["context", "context, weights='w.bin'"])
def test_load_that_takes_the_context_gets_it(load, parameters):
    function = load(f"""
        def load({parameters}):
            return [context.threads, context.device]
        def handle(event, context):
            return context.model
    """)
    assert function.one().body == b'[1,"cpu"]'


def test_load_whose_arguments_all_have_defaults_gets_none(load):
    source = (
        "def load(weights='w.bin'):\n    return weights\ndef handle(e, context):\n    return context.model\n"
    )
    assert load(source).one().body == b"w.bin"


def test_folder_is_a_package_and_on_the_path(load, tmp_path):
    (tmp_path / "sibling.py").write_text("NAME = 'sibling'")
    (tmp_path / "inner.py").write_text("NAME = 'inner'")
    function = load("""
        import sibling
        from function.inner import NAME
        from .inner import NAME as again
        def handle(event, context):
            return sibling.NAME + NAME + again
    """)
    assert function.one().body == b"siblinginnerinner"


TEXT, JSON = "text/plain; charset=utf-8", "application/json"


@pytest.mark.parametrize(
    ("result", "status", "content_type", "body"),
    [
        ("b'raw'", 200, "application/octet-stream", b"raw"),
        ("memoryview(b'raw')", 200, "application/octet-stream", b"raw"),
        ("'text'", 200, TEXT, b"text"),
        ("None", 200, TEXT, b""),
        ("{'score': 0.5}", 200, JSON, b'{"score":0.5}'),
        ("[1, True, None]", 200, JSON, b"[1,true,null]"),
        ("__import__('numpy').arange(3)", 200, JSON, b"[0,1,2]"),
        ("{'statusCode': 201, 'body': {'a': 1}}", 201, JSON, b'{"a":1}'),
        ("{'statusCode': 404, 'error': 'no such row'}", 404, TEXT, b""),
        ("{'statusCode': 422, 'body': 'no', 'isBase64Encoded': False}", 422, TEXT, b"no"),
        ("{'body': 'x', 'label': 3}", 200, JSON, b'{"body":"x","label":3}'),
        ("{'body': 'x', 'headers': {'Content-Type': 'text/css'}}", 200, "text/css", b"x"),
        ("('made', 201)", 201, TEXT, b"made"),
        ("('made', 201, {'Content-Length': '9'})", 201, TEXT, b"made"),
        ("(0.93, 281)", 200, JSON, b"[0.93,281]"),
        ("('tabby', 281)", 200, JSON, b'["tabby",281]'),
        ("('tabby', 200, 0.93)", 200, JSON, b'["tabby",200,0.93]'),
        ("('tabby', True)", 200, JSON, b'["tabby",true]'),
        (
            "__import__('batching_watchdog').Response('x', 281, {'Content-Type': 'text/css'})",
            281,
            "text/css",
            b"x",
        ),
        ("__import__('batching_watchdog').Response({'a': 1}, headers=[('X-A', 'b')])", 200, JSON, b'{"a":1}'),
        ("(__import__('numpy').float32(0.5), 3)", 200, JSON, b"[0.5,3]"),
        ("__import__('flask').Response('x', 202, mimetype='text/css')", 202, "text/css; charset=utf-8", b"x"),
        ("__import__('flask').abort(404)", 404, "text/html; charset=utf-8", None),
        ("ValueError('too short')", 500, TEXT, b"too short\n"),
        ("{'statusCode': 422, 'body': ValueError('no')}", 422, TEXT, None),
    ],
)
def test_result_means_what_its_type_says(load, result, status, content_type, body):
    reply = load(f"def handle(event, context):\n    return {result}\n").one()
    headers = dict(wire.parse_header_block(b"- -\r\n" + reply.header_block)[2])
    assert (reply.status, headers["Content-Type"]) == (status, content_type)
    assert body in (reply.body, None)
    assert "Content-Length" not in headers, "framing is not the function's to set"
    assert reply.failed == ("ValueError" in result)


@pytest.mark.parametrize(
    "result", ['{"body": "x", "headers": PAIRS}', '("x", 200, PAIRS)', 'flask.Response("x", headers=PAIRS)']
)
def test_header_can_be_repeated(load, result):
    pairs = 'PAIRS = [("Set-Cookie", "a=1"), ("Set-Cookie", "b=2")]'
    reply = load(f"import flask\n{pairs}\ndef handle(event, context):\n    return {result}").one()
    assert (reply.status, reply.body) == (200, b"x")
    assert b"Set-Cookie: a=1\r\nSet-Cookie: b=2\r\n" in reply.header_block


HEADERS = ["5", '"text"', "[1]", '[("a", "b", "c")]', *(f"{{{name!r}: 'b'}}" for name in ("X A", "", "X(A)"))]
HEADERS += [f"{{'X-A': {value!r}}}" for value in ("split\r\nX-B: c", "bell\x07", "red \x1b[31m", "del\x7f")]


@pytest.mark.parametrize(
    "result",
    [
        *("object()", "[1.0, float('nan')]", "{'body': {'score': float('inf')}}"),
        *(
            "__import__('numpy').array([float('nan')])",
            "('', float('inf'))",
            "__import__('batching_watchdog').Response(status=99)",
        ),
        *(f"{{'statusCode': {status}, 'body': ''}}" for status in ("float('inf')", "99", "'soon'")),
        *(f"{{'body': '', 'headers': {headers}}}" for headers in HEADERS),
    ],
)
def test_result_that_cannot_be_sent_fails_alone(load, result):
    function = load(f"""
        batches = []
        def handle_batch(events, context):
            batches.append(len(events))
            return [{result} if event.body == b"bad" else str(batches) for event in events]
    """)
    good, bad = function.serve(b"good", b"bad")
    assert (good.status, good.body) == (200, b"[2]")
    assert (bad.status, bad.failed) == (500, True)
    assert function.failures[0].trace.startswith("the result cannot be sent")


@pytest.mark.parametrize(
    ("result", "place"),
    [
        ("{'label': 'cat', 'scores': [0.5, float('nan')]}", "the result['scores'][1] is nan"),
        ("{'body': {'a': {'b': float('-inf')}}}", "the result['a']['b'] is -inf"),
        ("{'rows': __import__('numpy').array([[1.0], [float('inf')]])}", "the result['rows'][1][0] is inf"),
        ("float('nan')", "the result is nan"),
    ],
)
def test_number_that_json_has_not_is_named_by_its_place(load, result, place):
    function = load(f"def handle(event, context):\n    return {result}\n")
    assert function.one().failed
    assert place in function.failures[0].trace


KEYED = "{'rows': [{__import__('numpy').int64(7): 1}]}"


@pytest.mark.parametrize(
    ("result", "place"),
    [
        ("{'price': __import__('decimal').Decimal('1.5')}", "the result['price'] is Decimal"),
        ("[{'at': __import__('datetime').date(2026, 1, 1)}]", "the result[0]['at'] is date"),
        (KEYED, "the result['rows'][0] has a key of type int64"),
        ("{'body': {'model': object()}}", "the result['model'] is object"),
    ],
)
def test_value_that_json_has_not_is_named_by_its_place(load, result, place):
    function = load(f"def handle(event, context):\n    return {result}\n")
    assert function.one().failed
    assert place in function.failures[0].trace


def test_pair_among_the_results_of_a_batch_is_a_value_whatever_its_number(load):
    function = load("def handle_batch(events, context):\n    return [('tabby', 404) for _ in events]\n")
    assert [(reply.status, reply.body) for reply in function.serve(b"", b"")] == [(200, b'["tabby",404]')] * 2


@pytest.mark.parametrize("name", ["handle", "handle_batch", "load", "example"])
def test_handler_with_async_functions_is_told_what_to_write_instead(load, name):
    rest = "def handle(event, context): ...\n" if name in ("load", "example") else ""
    with pytest.raises(HandlerNotLoaded, match=f"write def {name}"):
        load(f"{rest}async def {name}(*_): ...")


@pytest.mark.parametrize(
    "error",
    ["SystemExit('usage: ...')", "KeyboardInterrupt", "asyncio.CancelledError", "ValueError('length')"],
)
def test_error_of_any_kind_fails_its_request_alone_or_its_batch_as_a_whole(load, error):
    source = f"""
        import asyncio
        def answer(event):
            if event.body == b"bad":
                raise {error}
            return event.body
    """
    alone = load(f"{source}\n        def handle(event, context):\n            return answer(event)\n")
    good, bad = alone.serve(b"good", b"bad")
    assert (good.body, bad.status, bad.failed) == (b"good", 500, True)
    assert error.partition("(")[0] in alone.failures[0].trace
    batches = "def handle_batch(events, context):\n            return list(map(answer, events))\n"
    whole = load(f"{source}\n        {batches}")
    crash = whole.crash(b"good", b"bad")
    assert error.partition("(")[0] in crash.error
    assert (crash.reply.status, crash.reply.failed, crash.out_of_memory) == (500, True, False)
    assert not whole.failures
    assert whole.serve(b"bad")[0].failed
    assert len(whole.failures) == 1


PARSING = """
import io, json
from PIL import Image
from batching_watchdog import BadRequest
import werkzeug.exceptions

def parse(event):
    if event.body.startswith(b"bad"):
        FAILS
    return event.body.decode().upper()

def handle_batch(texts, context):
    return [f"{text} of {len(texts)}" for text in texts]
"""


@pytest.mark.parametrize(
    "fails",
    [
        "event.json()",
        "json.loads(event.body)",
        "{}['x']",
        "[][0]",
        "float([])",
        r"b'\xff'.decode()",
        "Image.open(io.BytesIO(event.body))",
        "raise OSError('image file is truncated (2 bytes not processed)')",
        "raise BadRequest('why')",
        "raise werkzeug.exceptions.BadRequest('why')",
    ],
)
def test_parse_that_cannot_read_a_request_refuses_it_alone_and_the_model_never_sees_it(load, fails):
    function = load(PARSING.replace("FAILS", fails))
    good, bad, other = function.serve(b"a", b"bad", b"c")
    assert (good.body, other.body) == (b"A of 2", b"C of 2")
    assert (bad.status, bad.failed, bad.client_error) == (400, False, True)
    assert bad.body


@pytest.mark.parametrize(
    "fails",
    [
        *("no_such_name", "open('/no/such/file')", "import no_such_module", "raise SystemExit"),
        *("raise MemoryError", "raise TimeoutError('timed out')", "raise ConnectionError"),
        'raise RuntimeError("DefaultCPUAllocator: can\'t allocate memory")',
    ],
)
def test_parse_that_fails_by_the_machine_is_the_functions_error(load, fails):
    function = load(PARSING.replace("FAILS", fails))
    good, bad = function.serve(b"a", b"bad")
    assert (good.status, bad.status, bad.failed, bad.client_error) == (200, 500, True, False)
    assert [failure.client_error for failure in function.failures] == [False]


READING = """
import ast, base64, csv, gzip, io, json, lzma, struct, tarfile, tomllib, wave, zipfile, zlib
import xml.etree.ElementTree
import jsonschema, numpy as np, pydantic, torch
from PIL import Image

class Row(pydantic.BaseModel):
    x: list[float]
    y: int

class Own(Exception):
    pass

SCHEMA = {"properties": {"x": {"items": {"type": "number"}}}}

def failing(text):
    raise Own(text)

def checked(fits):
    assert fits

def parse(event):
    body, file = event.body, io.BytesIO(event.body)
    return READ

def handle_batch(inputs, context):
    return [None for _ in inputs]
"""
"""A handler whose ``READ`` a test chooses."""
IMAGE = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="
)
BAD_BODIES = [
    ("np.load(file)", b""),
    ("np.load(file)", b"junk"),
    ("np.frombuffer(body, np.float32)", b"abc"),
    ("np.array(event.json(), np.float32)", b"[[1], [1, 2]]"),
    ("wave.open(file)", b""),
    ("wave.open(file)", b"RIFF\x04\x00\x00\x00JUNK"),
    ("struct.unpack('<4f', body)", b"abc"),
    ("zlib.decompress(body)", b"junk"),
    ("gzip.decompress(body)", b"junk"),
    ("gzip.decompress(body)", gzip.compress(b"a", mtime=0)[:12]),
    ("lzma.decompress(body)", b"junk"),
    ("zipfile.ZipFile(file)", b"junk"),
    ("tarfile.open(fileobj=file)", b"junk"),
    ("xml.etree.ElementTree.fromstring(body)", b"<a>"),
    ("tomllib.load(file)", b"a ="),
    ("ast.literal_eval(body.decode())", b"[1,"),
    ("jsonschema.validate(event.json(), SCHEMA)", b'{"x": [1, "a"]}'),
    ("torch.load(file)", b"junk"),
    ("torch.tensor(event.json()).view(-1, 4)", b"[1, 2, 3]"),
    ("torch.tensor(event.json())", b'{"a": 1}'),
    ("event.json()['text'].strip()", b'{"text": null}'),
    ("checked(len(body) == 9)", b"short"),
    ("Image.open(file)", b"junk"),
    ("Image.open(file).convert('RGB')", IMAGE[:45]),
    ("Row.model_validate_json(body)", b'{"x": [1, "a"]}'),
    ("event.json()", b"junk"),
    ("event.json()", b"[1, NaN]"),
    ("event.json()['x']", b"{}"),
    ("json.loads(body)", b"[" * 100_000),
    ("list(csv.reader(io.StringIO(body.decode()), strict=True))", b'"a"b'),
    ("base64.b64decode(body, validate=True)", b"a*"),
    ("body.decode()", b"\xff"),
]


@pytest.mark.parametrize(("read", "body"), BAD_BODIES)
def test_error_of_a_reader_is_the_clients_and_names_its_place(load, read, body):
    function = load(READING.replace("READ", read))
    reply = function.one(event(body))
    text = reply.body.decode()
    assert (reply.status, reply.failed, reply.client_error) == (400, False, True)
    places = r"\(handler\.py, line \d+\)|the body is not JSON: .*(\(char 0\)|NaN)"
    assert re.search(places, text) or json.loads(text)["errors"][0]["path"] == "$.x[1]"
    assert " at 0x" not in text
    assert "<unknown>" not in text
    assert [(failure.client_error, failure.trace) for failure in function.failures] == [(True, "")]
    assert text.splitlines()[0] in str(function.failures[0])


def test_place_of_an_error_is_the_functions_own_under_a_decorator_of_a_library(load):
    source = READING.replace("READ", "struct.unpack('<f', body)").replace(
        "def parse", "@torch.inference_mode()\ndef parse"
    )
    assert re.search(rb"\(handler\.py, line \d+\)", load(source).one(event(b"")).body)


@pytest.mark.parametrize(
    ("fails", "paths"),
    [
        ("Row.model_validate_json(body)", ["$.x[1]", "$.y"]),
        ("jsonschema.validate(event.json(), SCHEMA)", ["$.x[1]"]),
        ("failing('Expected `float`, got `str` - at `$.x[1]`')", ["$.x[1]"]),
    ],
    ids=["pydantic", "jsonschema", "as msgspec"],
)
def test_error_that_names_fields_leaves_as_json_with_them(load, fails, paths):
    reply = load(READING.replace("READ", fails)).one(event(b'{"x": [1, "a"]}'))
    errors = json.loads(reply.body)["errors"]
    assert b"Content-Type: application/json\r\n" in reply.header_block
    assert [field["path"] for field in errors] == paths
    assert all(field["message"] for field in errors)


def test_error_that_names_a_thousand_fields_has_a_short_answer(load):
    function = load(READING.replace("READ", "Row.model_validate_json(body)"))
    body = function.one(event(json.dumps({"x": ["a" * 9_000] * 1_000}).encode())).body
    assert len(body) < 20_000
    assert json.loads(body)["errors"][0]["path"] == "$.x[0]"


@pytest.mark.parametrize(
    "source",
    [
        "def parse(event):\n    raise ValueError(LABEL)\ndef handle(event, context): ...\n",
        "def parse(event):\n    raise BadRequest(LABEL)\ndef handle(event, context): ...\n",
        "def handle_batch(events, context):\n    return [BadRequest(LABEL) for _ in events]\n",
    ],
)
def test_half_of_a_surrogate_pair_in_the_text_of_a_clients_error_is_escaped(load, source):
    label = 'LABEL = "no label \\ud83d"'
    reply = load(f"from batching_watchdog import BadRequest\n{label}\n{source}").one()
    assert (reply.status, reply.failed) == (400, False)
    assert b"no label \\ud83d" in reply.body


@pytest.mark.parametrize("errors", ["['no', 'function']", "lambda: ['no mapping']", "lambda: 1 / 0"])
def test_error_whose_errors_are_no_fields_leaves_as_text(load, errors):
    raising = f"failing(0) if setattr(Own, 'errors', staticmethod({errors})) else failing('why')"
    reply = load(READING.replace("READ", raising)).one()
    assert (reply.status, reply.client_error) == (400, True)
    assert b"why" in reply.body


def test_exception_as_a_result_shows_no_address_of_an_object(load):
    function = load("def handle(event, context):\n    return ValueError(f'cannot read {object()}')\n")
    assert function.one().body == b"cannot read <object object>\n"


def test_response_of_parse_is_the_answer_and_the_model_never_sees_its_request(load):
    function = load("""
        from batching_watchdog import Response
        def parse(event):
            if event.method == "OPTIONS":
                return Response(status=204, headers={"Access-Control-Allow-Origin": "*"})
            return Response({"cached": True}) if event.body == b"known" else event.body
        def handle_batch(bodies, context):
            return [f"{body.decode()} of {len(bodies)}" for body in bodies]
    """)
    preflight = Event(wire.request_header_block(b"OPTIONS", b"/", []), b"")
    outcome = function.handler.serve([event(b"a"), preflight, event(b"known"), event(b"b")])
    assert [reply.status for reply in outcome] == [200, 204, 200, 200]
    assert [reply.body for reply in outcome] == [b"a of 2", b"", b'{"cached":true}', b"b of 2"]
    assert b"Access-Control-Allow-Origin: *\r\n" in outcome[1].header_block
    assert not any(reply.client_error for reply in outcome)


def test_response_of_parse_that_cannot_be_sent_fails_alone(load):
    function = load(PARSING.replace("FAILS", "import batching_watchdog as b; return b.Response(status=99)"))
    assert [reply.status for reply in function.serve(b"a", b"bad")] == [200, 500]


def test_status_that_parse_aborts_with_is_the_clients(load):
    function = load(PARSING.replace("FAILS", "werkzeug.exceptions.abort(401)"))
    good, bad = function.serve(b"a", b"bad")
    assert (good.status, bad.status, bad.failed, bad.client_error) == (200, 401, False, True)


def test_batch_of_bad_requests_alone_does_not_run_the_model(load):
    function = load(PARSING.replace("FAILS", "raise ValueError").replace("return [", "1 / 0; return ["))
    assert [reply.status for reply in function.serve(b"bad", b"bad")] == [400, 400]


def test_handle_gets_what_parse_returns(load):
    source = (
        "def parse(event):\n    return event.json()\ndef handle(number, context):\n    return number + 1\n"
    )
    first, second = load(source).serve(b"1", b"{")
    assert (first.body, second.status) == (b"2", 400)


def test_get_with_a_query_or_whose_function_fails_is_not_told_to_send_a_body(load):
    function = load(
        """
        def parse(event):
            return int(event.query["n"])
        def handle(number, context):
            return 1 / number
        """
    )
    for path in (b"/?n=one", b"/?n=0"):
        assert b"curl" not in function.one(Event(wire.request_header_block(b"GET", path, []), b"")).body


def test_function_named_parse_that_takes_no_event_is_the_handlers_own(load):
    source = "def parse(body):\n    1 / 0\ndef handle(event, context):\n    return event.body\n"
    assert load(source).one(event(b"x")).body == b"x"


@pytest.mark.parametrize(
    ("result", "status", "body"),
    [
        ("raise BadRequest('too short')", 400, b"too short"),
        ("return BadRequest('too short')", 400, b"too short"),
        ("return BadRequest({'error': 'short'})", 400, b'{"error":"short"}'),
        ("return {'statusCode': 422, 'body': BadRequest('short')}", 422, b"short"),
        ("return werkzeug.exceptions.BadRequest('too short')", 400, None),
        ("raise werkzeug.exceptions.NotFound", 404, None),
    ],
)
@pytest.mark.parametrize("handler", ["handle(event, context)", "handle_batch(events, context)"])
def test_handler_blames_the_client_for_its_request(load, handler, result, status, body):
    if "batch" in handler and result.startswith("return "):
        result = f"return [{result.removeprefix('return ')}]"
    source = (
        f"import werkzeug.exceptions\nfrom batching_watchdog import BadRequest\ndef {handler}:\n    {result}"
    )
    reply = load(source).one()
    assert (reply.status, reply.failed, reply.client_error) == (status, False, True)
    assert body in (reply.body, None)


@pytest.mark.parametrize(
    "source",
    [
        "def handle(event, context):\n    return event.json()\n",
        "def parse(event):\n    return int(event.body)\ndef handle(number, context):\n    return number\n",
    ],
)
def test_browser_at_the_functions_url_is_told_how_to_send_a_body(load, source):
    function = load(source)
    browser = Event(wire.request_header_block(b"GET", b"/", []), b"")
    assert b"curl" in function.one(browser).body
    assert b"curl" not in function.one(event(b"")).body


@pytest.mark.parametrize(
    "read", ["e.json()", "e.body if e.body != b'{' else (_ for _ in ()).throw(BadRequest('no', e))"]
)
def test_batch_runs_again_without_the_event_that_a_bad_request_names(load, read):
    function = load(f"""
        from batching_watchdog import BadRequest
        def handle_batch(events, context):
            read = [{read} for e in events]
            return [len(read) for _ in read]
    """)
    replies = function.serve(b"1", b"{", b"2", b"{")
    assert [reply.status for reply in replies] == [200, 400, 200, 400]
    assert [reply.body for reply in replies if reply.status == 200] == [b"2", b"2"]


def test_good_requests_of_a_batch_run_once_more_however_many_are_not_json(load):
    function = load("""
        runs = []
        def handle_batch(events, context):
            runs.append(len(events))
            if events[0].body == b"runs":
                return [runs]
            return [event.json() for event in events]
    """)
    replies = function.serve(*[b"1", b"{"] * 20)
    assert [reply.status for reply in replies] == [200, 400] * 20
    sizes = json.loads(function.serve(b"runs")[0].body)
    assert sizes[:2] == [40, 20]
    assert all(size < 20 for size in sizes[2:])


def test_request_whose_json_the_handler_does_not_read_is_served_beside_bad_json(load):
    function = load("""
        def handle_batch(events, context):
            return [event.json() if event.path == "/json" else event.body for event in events]
    """)
    paths = [b"/json", b"/raw", b"/json", b"/json"]
    events = [event(body, path) for body, path in zip((b"{", b"{raw", b"[", b"2"), paths, strict=True)]
    assert [reply.status for reply in function.handler.serve(events)] == [400, 200, 400, 200]


def test_handler_that_empties_its_list_of_events_still_names_a_bad_request(load):
    function = load("""
        from batching_watchdog import BadRequest
        def handle_batch(events, context):
            results = []
            while events:
                event = events.pop(0)
                if event.body == b"bad":
                    raise BadRequest("no", event)
                results.append(event.body)
            return results
    """)
    replies = function.serve(b"1", b"bad", b"2")
    assert [(reply.status, reply.body) for reply in replies] == [(200, b"1"), (400, b"no"), (200, b"2")]


def test_body_that_nests_too_deeply_is_the_clients_error(load):
    function = load("def handle_batch(events, context):\n    return [event.json() for event in events]\n")
    deep, good = function.serve(b"[" * 10**6, b"[1]")
    assert (deep.status, deep.client_error, good.body) == (400, True, b"[1]")


def test_clients_errors_have_one_line_a_second_and_no_trace(load):
    function = load("def handle(event, context):\n    return event.json()\n")
    function.serve(*[b"no\n\x1b[31mjson"] * 100)
    failures = function.failures
    assert 1 <= len(failures) < 100
    assert all(failure.client_error and not failure.trace for failure in failures)
    assert len(str(failures[0]).splitlines()) == 1
    assert "POST /" in str(failures[0])


def test_batch_with_too_few_results_fails_as_a_whole(load):
    crash = load("def handle_batch(events, context):\n    return [1]\n").crash(b"a", b"b")
    assert "1 results for 2 events" in crash.error


OWN_TYPE = "type({name!r}, ({base},), {{}})({text!r})"


@pytest.mark.parametrize(
    ("error", "out_of_memory"),
    [
        ("MemoryError()", True),
        (OWN_TYPE.format(name="OutOfMemoryError", base="RuntimeError", text="CUDA: none left"), True),
        (
            OWN_TYPE.format(name="AcceleratorError", base="RuntimeError", text="CUDA error: out of memory"),
            True,
        ),
        ('RuntimeError("DefaultCPUAllocator: can\'t allocate memory")', True),
        ("ValueError('out of memory, says the client')", False),
    ],
)
def test_lack_of_memory_is_told_apart_from_other_errors_of_a_batch(load, error, out_of_memory):
    function = load(f"def handle_batch(events, context):\n    raise {error}\n")
    assert function.crash(b"a", b"b").out_of_memory == out_of_memory


POISON = {
    "type": OWN_TYPE.format(name="AcceleratorError", base="RuntimeError", text="device-side assert"),
    "text": "RuntimeError('CUDA error: device-side assert triggered')",
}
PLACES = {
    "handle": "def handle(event, context):\n    fail()\n",
    "handle_batch": "def handle_batch(events, context):\n    fail()\n",
    "result": (
        "class Tensor:\n    def tolist(self):\n        fail()\n"
        "def handle_batch(events, context):\n    return [Tensor() for _ in events]\n"
    ),
}


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
@pytest.mark.parametrize("error", POISON.values(), ids=POISON)
def test_sticky_error_of_an_accelerator_ends_the_worker(load, place, error):
    function = load(f"{place}def fail():\n    raise {error}\n")
    with pytest.raises(Poisoned) as raised:
        function.handler.serve([event(b"a"), event(b"b")])
    assert raised.value.trace.rstrip().endswith(("device-side assert", "device-side assert triggered"))


OF_PARSE = {"parse": "def parse(event):\n    fail()\ndef handle(event, context):\n    return event\n"}


@pytest.mark.parametrize("place", [*PLACES.values(), *OF_PARSE.values()], ids=[*PLACES, *OF_PARSE])
def test_process_that_the_handler_forked_answers_nothing_and_leaves_by_its_error(load, place, monkeypatch):
    forked = "def fail():\n    os.getpid = lambda: 0  # as in a child\n    raise SystemExit(3)\n"
    function = load(f"import os\n{place}{forked}")
    with monkeypatch.context() as patch:
        patch.setattr(os, "getpid", os.getpid)
        with pytest.raises(SystemExit):
            function.serve(b"a")


USER_DICT = "__import__('collections').UserDict(y=1)"


@pytest.mark.parametrize(
    "result", ["{'y': 1}", USER_DICT, "{1}", "'y'", "b'y'", "bytearray(b'y')", "None", "iter([1])", "[]"]
)
def test_batch_whose_result_is_no_list_of_its_length_fails(load, result):
    function = load(f"def handle_batch(events, context):\n    return {result}\n")
    assert function.one().failed
    assert "handle_batch returned" in function.failures[0].trace


# A DataFrame iterates its columns, and its length is that of its rows.
FRAME = "type('Frame', (), {'__len__': lambda _: 1, '__iter__': lambda _: iter('ab')})()"
SQUARE = "type('Frame', (), {'columns': 'a', '__len__': lambda _: 1, '__iter__': lambda _: iter('a')})()"
BROKEN = "type('Broken', (), {'__len__': lambda _: 1, '__iter__': lambda _: 1 / 0})()"


@pytest.mark.parametrize("result", ["numpy.array(1)", FRAME, SQUARE, BROKEN])
def test_batch_whose_result_cannot_be_told_apart_by_event_fails_and_the_worker_goes_on(load, result):
    function = load(f"import numpy\ndef handle_batch(events, context):\n    return {result}\n")
    assert function.one().failed
    assert function.failures
    assert function.crash(b"a", b"b").error


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
def test_trace_of_a_failure_begins_with_the_functions_frames_and_has_all_of_them(load, source):
    function = load(f"{source}def deep():\n    deeper()\ndef deeper():\n    {{}}['no such']\n")
    function.one()
    (failure,) = function.failures
    lines = [line for line in failure.trace.splitlines() if not line.startswith("the result cannot be sent")]
    assert lines[0] == "Traceback (most recent call last):"
    files = [line for line in lines if line.startswith("  File ")]
    assert all("/handler.py" in line and "batching_watchdog" not in line for line in files)
    assert [line.rpartition(" ")[2] for line in files][-2:] == ["deep", "deeper"]
    assert lines[-1] == "KeyError: 'no such'"


TRACED = (b"TraceParent", b"00-%b-00f067aa0ba902b7-00" % TRACE.encode())


@pytest.mark.parametrize(
    ("headers", "call_id", "trace_id"),
    [
        ([(b"X-Call-Id", b"2a\x07")], "2a\x07", ""),
        ([TRACED], "", TRACE),
        ([TRACED, TRACED], "", ""),
        ([(b"traceparent", b"\xff")], "", ""),
    ],
)
def test_failure_of_a_request_names_its_path_call_id_and_trace_printably(load, headers, call_id, trace_id):
    function = load("def handle(event, context):\n    raise RuntimeError('secret')\n")
    reply = function.one(event(b"", b"/a\x07b", *headers))
    assert b"secret" not in reply.body
    (failure,) = function.failures
    assert (failure.call_id, failure.trace_id) == (call_id, trace_id)
    assert failure.text == r"handler error: POST /a\x07b" + (r" [2a\x07]" if call_id else "") + (
        f" trace {trace_id}" if trace_id else ""
    )


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            "import nothing_like_it",
            "handler.py failed: ModuleNotFoundError: No module named 'nothing_like_it'",
        ),
        ("def handle(:", "SyntaxError: "),
        (
            "handle = 'not a function'",
            "defines neither handle_batch(events, context) nor handle(event, context)",
        ),
        ("def handle(e, c): ...\ndef load():\n    raise OSError('a\\nb')", "load() failed: OSError: a ... ("),
        ("def handle(e, c): ...\ndef example():\n    return 'text'", "example() must return bytes"),
        ("def handle(e, c): ...\ndef example():\n    1 / 0", "example() failed: ZeroDivisionError"),
        ("def handle(e, c): ...\nmix_paths = 'no'", "mix_paths must be True or False"),
        ("import sys\nsys.exit('bye')", "it called sys.exit('bye') while being imported"),
    ],
)
def test_handler_that_does_not_load_is_told_in_one_line_with_a_trace_of_its_own_frames(load, source, message):
    with pytest.raises(HandlerNotLoaded) as error:
        load(source)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    frames = [line for line in error.value.trace.splitlines() if line.startswith("  File ")]
    assert all('handler.py", line ' in frame for frame in frames)


def test_same_handler_is_a_flask_application(load, tmp_path):
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


def test_batch_whose_result_is_an_array_is_answered_row_by_row(load):
    function = load("import numpy\ndef handle_batch(events, context):\n    return numpy.eye(2)\n")
    assert [reply.body for reply in function.serve(b"", b"")] == [b"[1.0,0.0]", b"[0.0,1.0]"]


def test_failure_is_printed_without_control_characters_where_nothing_takes_it(load, capsys, tmp_path):
    load("def handle(event, context):\n    raise RuntimeError(event.body.decode())\n")
    Handler(str(tmp_path)).serve([event(b"red \x1b[31m")])
    assert r"red \x1b[31m" in capsys.readouterr().err


def test_trace_that_quotes_a_whole_tensor_keeps_its_beginning_and_its_end(load):
    function = load("def handle(event, context):\n    raise ValueError('x' * 10**7 + 'the end')\n")
    function.one()
    trace = function.failures[0].trace
    assert len(trace) < 10**5
    assert trace.startswith("Traceback")
    assert trace.endswith("the end")
