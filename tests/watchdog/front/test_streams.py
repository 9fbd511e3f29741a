import json

import pytest

from batching_watchdog.front.streams import END_ID, format_for
from batching_watchdog.function.messages import Reply, Response, ServerSentEvent
from batching_watchdog.function.wire import request_header_block
from batching_watchdog.worker.results import encode_piece

TEXT, JSON, BYTES = map(encode_piece, ('é\n"', {"a": 1}, b"raw"))
OWN = encode_piece({"body": b"1,2", "headers": {"Content-Type": "text/csv"}})
OWN_JSON = encode_piece(Response({"a": 1}, headers={"content-type": "application/json"}))
EVENT = encode_piece(ServerSentEvent({"a": 1}, event="delta", id="7"))
WHY = b'{"error": {"message": "why"}}'
EVENTS = "text/event-stream"


def formatted(accept: str, first: Reply, *, method: bytes = b"POST", body: bytes = b""):
    return format_for(request_header_block(method, b"/", [(b"aCCept", accept.encode())]), body, first)


@pytest.mark.parametrize(
    ("accept", "first", "written", "error"),
    [
        (EVENTS, JSON, b'data: {"a":1}\n\n', b"event: error\ndata: %b\n\n" % WHY),
        (f"text/html, {EVENTS}", TEXT, 'data: é\ndata: "\n\n'.encode(), b"event: error\ndata: %b\n\n" % WHY),
        (EVENTS, EVENT, b'event: delta\nid: 7\ndata: {"a":1}\n\n', b"event: error\ndata: %b\n\n" % WHY),
        ("*/*", JSON, b'{"a":1}\n', WHY + b"\n"),
        ("", TEXT, b'"\\u00e9\\n\\""\n', WHY + b"\n"),
        ("", TEXT._replace(body=b"\xff"), b'"\\ufffd"\n', WHY + b"\n"),
        ("", BYTES, b"raw", WHY + b"\n"),
        (EVENTS, OWN, b"1,2", b""),
        ("", OWN_JSON, b'{"a":1}', b""),
    ],
)
def test_piece_and_error_are_written_as_client_and_function_ask(accept, first, written, error):
    chosen = formatted(accept, first)
    assert chosen.piece(first) == written
    assert chosen.error(WHY) == error


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_event_keeps_every_end_of_line_of_its_piece(end):
    piece = TEXT._replace(body=b"a" + end + b"b" + end)
    assert formatted(EVENTS, piece).piece(piece) == b"data: a\ndata: b\ndata: \n\n"


@pytest.mark.parametrize(
    ("body", "first", "events"),
    [
        ({"stream": True}, JSON, True),
        ({"messages": [], "stream": True}, JSON, True),
        ({"stream": False}, JSON, False),
        ({"prompt": 'say "stream": true'}, JSON, False),
        ({}, EVENT, True),
    ],
)
def test_events_are_what_a_body_that_asks_for_a_stream_or_a_piece_that_is_one_gets(body, first, events):
    chosen = formatted("application/json", first, body=json.dumps(body, indent=1).encode())
    assert chosen.piece(JSON) == (b'data: {"a":1}\n\n' if events else b'{"a":1}\n')


def test_event_among_json_lines_is_a_line_of_its_data():
    assert formatted("", JSON).piece(EVENT) == b'{"a":1}\n'


def test_headers_without_a_type_leave_the_format_as_it_is():
    first = encode_piece(Response({"a": 1}, headers={"X-Model": "m"}))
    chosen = formatted("", first)
    assert chosen.head == b"Content-Type: application/x-ndjson\r\nX-Model: m\r\n"
    assert chosen.piece(first) == b'{"a":1}\n'


@pytest.mark.parametrize("field", ["event", "id"])
def test_event_field_of_two_lines_is_refused(field):
    with pytest.raises(ValueError, match=field):
        encode_piece(ServerSentEvent("x", **{field: "a\nb"}))


def test_only_a_get_whose_client_may_connect_again_by_itself_gets_an_id_at_the_end():
    browser, other = formatted(EVENTS, JSON, method=b"GET"), formatted(EVENTS, JSON)
    assert b"id: " + END_ID in browser.end
    assert b"id: " + END_ID in browser.error(WHY)
    assert (other.end, formatted("", JSON, method=b"GET").end) == (b"", b"")
