import contextlib
import json
from base64 import b64decode
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


@given(
    st.lists(st.tuples(WORDS, WORDS, WORDS, st.dictionaries(WORDS, VALUES, max_size=4), BODIES), max_size=8)
)
def test_every_request_is_one_line_with_all_that_it_holds(requests):
    pairs = []
    for method, path, query, headers, body in requests:
        fields = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
        target = f"/{path}?{query}".encode("latin-1")
        pairs.append((wire.request_header_block(method.encode(), target, fields), body))
    lines = jsonlines.encode_requests(pairs).decode("ascii").splitlines()
    for line, (method, path, query, headers, body) in zip(lines, requests, strict=True):
        said = json.loads(line)
        sent = said.pop("body").encode() if "body" in said else b64decode(said.pop("body_base64"))
        assert sent == body
        assert said == {"method": method, "path": f"/{path}", "query": query, "headers": headers}


def test_repeated_headers_are_joined_and_their_names_in_lower_case():
    fields = [(b"X-A", b"1"), (b"x-a", b"2"), (b"Cookie", b"a=1"), (b"Cookie", b"b=2")]
    block = wire.request_header_block(b"POST", b"/a%20b?c=d&e", fields)
    said = json.loads(jsonlines.encode_requests([(block, b'{"x": 1}')]))
    assert said["headers"] == {"x-a": "1, 2", "cookie": "a=1; b=2"}
    assert (said["path"], said["query"], said["body"]) == ("/a%20b", "c=d&e", '{"x": 1}')


def decode(**reply: Any) -> Reply:
    return jsonlines.decode_replies(json.dumps(reply).encode())[0]


@pytest.mark.parametrize(
    ("said", "reply"),
    [
        ({"status": 204}, Reply(204, b"", b"")),
        ({"status": 200, "body_base64": "/wA=", "failed": True}, Reply(200, b"", b"\xff\x00", failed=True)),
        (
            {
                "status": 200,
                "headers": {"Set-Cookie": ["a", "b"], "X-N": 3, "Content-Length": 9},
                "body": "é",
            },
            Reply(200, b"Set-Cookie: a\r\nSet-Cookie: b\r\nX-N: 3\r\n", "é".encode()),
        ),
    ],
)
def test_reply_needs_its_status_and_may_hold_the_rest(said, reply):
    assert decode(**said) == reply


def test_blank_lines_and_carriage_returns_do_not_matter():
    replies = jsonlines.decode_replies(b'\r\n{"status":200}\r\n\n{"status":201}')
    assert [reply.status for reply in replies] == [200, 201]


def test_nesting_beyond_all_limits_is_a_frame_error():
    with pytest.raises(FrameError, match="line 1 is not JSON"):
        jsonlines.decode_replies(b"[" * 100_000)


@pytest.mark.parametrize(
    ("line", "rule"),
    [
        ({}, "status must be"),
        ({"status": "200"}, "status must be"),
        ({"status": True}, "status must be"),
        ({"status": 101}, "status must be"),
        ({"status": 600}, "status must be"),
        ({"status": 200, "failed": 1}, "failed must be"),
        ({"status": 200, "body": {"a": 1}}, "a body must be a string"),
        ({"status": 200, "body": "a", "body_base64": "YQ=="}, "both"),
        ({"status": 200, "body_base64": "?"}, "cannot be decoded"),
        ({"status": 200, "body": "\ud800"}, "cannot be decoded"),
        ({"status": 200, "headers": []}, "headers must be an object"),
        ({"status": 200, "headers": {"a": None}}, "must be a string"),
        ({"status": 200, "headers": {"a": "b\r\nc: d"}}, "not a valid header"),
        ({"status": 200, "headers": {"a b": "c"}}, "not a valid header"),
        ({"status": 200, "headers": {"a": "\u20ac"}}, "latin-1"),
        ([200], "not a JSON object"),
    ],
)
def test_wrong_reply_names_its_line_and_the_rule(line, rule):
    text = b'{"status":200}\n' + json.dumps(line).encode()
    with pytest.raises(FrameError, match=f"line 2.*{rule}"):
        jsonlines.decode_replies(text)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
KEYS = ("status", "headers", "body", "body_base64", "failed")
LINES = st.fixed_dictionaries({}, optional=dict.fromkeys(KEYS, JSON)).map(json.dumps).map(str.encode)


@given(st.binary(max_size=60) | st.lists(LINES | st.binary(max_size=9), max_size=3).map(b"\n".join))
def test_any_bytes_decode_or_are_a_frame_error(data):
    with contextlib.suppress(FrameError):
        jsonlines.decode_replies(data)
