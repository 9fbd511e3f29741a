import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batching_watchdog import wire
from batching_watchdog.errors import FrameError
from batching_watchdog.messages import Reply
from batching_watchdog.pool import jsonlines

WORDS = st.text("abcdefghijklmnopqrstuvwxyz-", min_size=1, max_size=10)
VALUES = st.text(st.characters(min_codepoint=0x20, max_codepoint=0xFF), max_size=20)
BODIES = st.binary(max_size=50) | st.text(max_size=50).map(str.encode)
HEADERS = st.dictionaries(WORDS, VALUES, max_size=4)
HOP_BY_HOP = {"te", "date", "trailer", "upgrade", "connection", "keep-alive"}


def request_head(method: str, target: str, headers: dict[str, str]) -> bytes:
    return wire.request_head(
        method.encode(),
        target.encode("latin-1"),
        [(name.encode(), value.encode("latin-1")) for name, value in headers.items()],
    )


def reply_head(headers: list[tuple[str, str]]) -> bytes:
    return b"".join(wire.reply_header(name, value) for name, value in headers)


REQUESTS = st.tuples(st.builds(request_head, WORDS, WORDS.map("/{}?a=é".format), HEADERS), BODIES)
REPLIES = st.builds(
    Reply,
    st.integers(200, 599),
    st.lists(st.tuples(WORDS.filter(lambda word: word not in HOP_BY_HOP), VALUES), max_size=5)
    .map(lambda fields: sorted(fields, key=lambda field: field[0]))
    .map(reply_head),
    BODIES,
    st.booleans(),
)


@given(st.lists(REQUESTS, max_size=8))
def test_requests_come_out_as_they_went_in(requests: list[tuple[bytes, bytes]]):
    assert jsonlines.decode_requests(jsonlines.encode_requests(requests)) == requests


@given(st.lists(REPLIES, max_size=8))
def test_replies_come_out_as_they_went_in(replies: list[Reply]):
    assert jsonlines.decode_replies(jsonlines.encode_replies(replies)) == replies


@given(st.lists(REQUESTS, max_size=8))
def test_every_way_of_splitting_lines_finds_one_object_per_request(requests: list[tuple[bytes, bytes]]):
    text = jsonlines.encode_requests(requests).decode("ascii")
    assert len(text.splitlines()) == len(requests)
    for line, (_, body) in zip(text.splitlines(), requests, strict=True):
        said = json.loads(line)
        assert set(said) <= {"method", "path", "query", "headers", "body", "body_base64"}
        assert ("body" in said) != ("body_base64" in said)
        if "body" in said:
            assert said["body"].encode() == body


def test_a_request_line_is_what_the_documentation_shows():
    head = wire.request_head(
        b"POST",
        b"/a%20b?c=d&e",
        [(b"X-A", b"1"), (b"x-a", b"2"), (b"Cookie", b"a=1"), (b"Cookie", b"b=2")],
    )
    assert json.loads(jsonlines.encode_requests([(head, b'{"x": 1}')])) == {
        "method": "POST",
        "path": "/a%20b",
        "query": "c=d&e",
        "headers": {"x-a": "1, 2", "cookie": "a=1; b=2"},
        "body": '{"x": 1}',
    }


def decode(**reply: Any) -> Reply:
    return jsonlines.decode_replies(json.dumps(reply).encode())[0]


def test_a_reply_needs_its_status_only():
    assert decode(status=204) == Reply(204, b"", b"")


def test_a_list_of_values_is_one_header_each_and_numbers_are_text():
    reply = decode(status=200, headers={"Set-Cookie": ["a", "b"], "X-N": 3, "Content-Length": 9}, body="é")
    assert reply == Reply(200, b"Set-Cookie: a\r\nSet-Cookie: b\r\nX-N: 3\r\n", "é".encode())


def test_blank_lines_and_carriage_returns_do_not_matter():
    assert jsonlines.decode_replies(b'\r\n{"status":200}\r\n\n{"status":201}') == [
        Reply(200, b"", b""),
        Reply(201, b"", b""),
    ]


@pytest.mark.parametrize(
    ("line", "rule"),
    [
        ({}, "status must be"),
        ({"status": "200"}, "status must be"),
        ({"status": True}, "status must be"),
        ({"status": 101}, "status must be"),
        ({"status": 200, "failed": 1}, "failed must be"),
        ({"status": 200, "body": {"a": 1}}, "a body must be a string"),
        ({"status": 200, "body": "a", "body_base64": "YQ=="}, "both"),
        ({"status": 200, "body_base64": "?"}, "cannot be decoded"),
        ({"status": 200, "body": "\ud800"}, "cannot be decoded"),
        ({"status": 200, "headers": []}, "headers must be an object"),
        ({"status": 200, "headers": {"a": None}}, "must be a string"),
        ({"status": 200, "headers": {"a": "b\r\nc: d"}}, "line break"),
        ({"status": 200, "headers": {"a b": "c"}}, "not a valid header"),
        ({"status": 200, "headers": {"a": "\u20ac"}}, "latin-1"),
        ([200], "not a JSON object"),
    ],
)
def test_a_wrong_reply_names_its_line_and_the_rule(line: object, rule: str):
    text = b'{"status":200}\n' + json.dumps(line).encode()
    with pytest.raises(FrameError, match=f"line 2.*{rule}"):
        jsonlines.decode_replies(text)


@pytest.mark.parametrize(
    ("line", "rule"),
    [
        ({"path": "/"}, "method, path and query must be strings"),
        ({"method": "GET", "path": "/", "query": {}}, "method, path and query must be strings"),
        ({"method": "GET", "path": "/\r\nx: y"}, "line break"),
        ({"method": "GET", "path": "/", "headers": {"a": "b\n"}}, "line break"),
        ({"method": "GET", "path": "/\u20ac"}, "latin-1"),
    ],
)
def test_a_wrong_request_names_its_line_and_the_rule(line: object, rule: str):
    with pytest.raises(FrameError, match=f"line 1.*{rule}"):
        jsonlines.decode_requests(json.dumps(line).encode())


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
KEYS = ("status", "headers", "body", "body_base64", "failed", "method", "path", "query")
LINES = st.fixed_dictionaries({}, optional=dict.fromkeys(KEYS, JSON)).map(json.dumps).map(str.encode)


@given(st.binary(max_size=60) | st.lists(LINES | st.binary(max_size=9), max_size=3).map(b"\n".join))
def test_any_bytes_decode_or_are_a_frame_error(data: bytes):
    for decode_lines in (jsonlines.decode_requests, jsonlines.decode_replies):
        with contextlib.suppress(FrameError):
            decode_lines(data)


def test_nesting_beyond_all_limits_is_a_frame_error():
    with pytest.raises(FrameError, match="line 1 is not JSON"):
        jsonlines.decode_replies(b"[" * 100_000)
