"""What one connection can cost: nothing that a client sends raises, hangs, or is kept without bound."""

from dataclasses import replace
from itertools import chain, repeat

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batching_watchdog.front.protocol import MAX_HEADER_BYTES
from watchdog.front.connection import CHUNKED, GET, LIMITS, POST, Connection, Echo, post

pytestmark = pytest.mark.usefixtures("speedups")

READ = 1 << 16
TOO_LONG = b"a: b\r\n" * (2 + MAX_HEADER_BYTES // 6)

REFUSED = {
    "a long body": (post(1001), 413),
    "long in chunks": (CHUNKED + b"3e8\r\n" + b"x" * 1000 + b"\r\n1\r\nx\r\n", 413),
    "many headers": (b"GET / HTTP/1.1\r\n" + TOO_LONG, 431),
    "one long header": (b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"y" * MAX_HEADER_BYTES + b"\r\n\r\n", 431),
    "a long length": (POST + b"Content-Length: %b1\r\n\r\n" % (b"0" * 4400), 400),
    "a long target": (b"GET /" + b"y" * MAX_HEADER_BYTES, 431),
}
"""What comes, and the status."""


@pytest.mark.parametrize(("data", "status"), REFUSED.values(), ids=REFUSED)
def test_what_is_too_long_is_refused(data: bytes, status: int):
    client = Connection()
    (answer,) = client.send(data)
    assert answer.status == status
    assert not client.application.messages


@pytest.mark.parametrize("target", [0, 1], ids=["in the headers", "in the target"])
@pytest.mark.parametrize(("over", "status"), [(0, 200), (1, 431)])
def test_the_header_may_have_just_so_many_bytes(target: int, over: int, status: int):
    # Target and headers count, a header with its colon and line end: 1 + 9 + 5 without the filling.
    fill = b"y" * (MAX_HEADER_BYTES - 15 + over)
    parts = (fill, b"") if target else (b"", fill)
    client = Connection()
    answers = client.send(b"GET /%b HTTP/1.1\r\nHost:x\r\nA:%b\r\n\r\n" % parts)
    assert [answer.status for answer in answers] == [status]


PIECES = st.binary(max_size=200) | st.sampled_from(
    [
        *(GET, CHUNKED, b"5\r\nabcde\r\n", b"0\r\n\r\n", b"0\r\nA: b", b"\r\n"),
        *(POST + b"Content-Length: 900\r\n", b"Expect: 100-continue\r\n", b"y" * 9000),
        *(b"X: " + b"y" * 20_000, b";" + b"e" * 20_000, b"0" * 9000, b"\r\n" * 4000, b"a: b\r\n" * 1500),
        *(b"Connection: upgrade\r\nUpgrade: x\r\n", b"Connection: close\r\n", b"\x00", b"\xff" * 50),
    ]
)


@settings(max_examples=200)
@given(st.lists(PIECES, max_size=30), st.booleans())
def test_whatever_comes_nothing_escapes_and_what_is_kept_is_bounded(pieces: list[bytes], hold: bool):
    client = Connection(Echo(hold=hold))
    made = client.protocol
    for piece in pieces:
        made.data_received(piece)
        current = made._current
        if current is not None:
            # One read beyond the limit, since the parser eats a read as a whole.
            assert made._excess <= MAX_HEADER_BYTES + len(piece)
            assert current.head_size <= MAX_HEADER_BYTES + len(piece)
            assert sum(map(len, current.chunks or [current.body])) <= LIMITS.max_body_bytes
        assert len(made._pending) <= len(client.application.messages) + 1
    assert all(len(message.body) <= LIMITS.max_body_bytes for message in client.application.messages)
    client.lose()
    assert client.connections.queued_bytes == 0


ENDLESS = {
    "a target": (b"GET /", b"y" * READ),
    "a header": (b"GET / HTTP/1.1\r\nHost: x\r\nA: ", b"y" * READ),
    "headers": (b"GET / HTTP/1.1\r\nHost: x\r\n", b"a: b\r\n" * 9000),
    "zeros": (CHUNKED, b"0" * READ),
    "an extension": (CHUNKED + b"1;a", b"e" * READ),
    "a quoted extension": (CHUNKED + b'1;a="', b"e" * READ),
    "extensions": (CHUNKED, b"1;" + b"e" * 20_000 + b"\r\nx\r\n"),
    "a trailer": (CHUNKED + b"0\r\nA: ", b"y" * READ),
    "trailers": (CHUNKED + b"0\r\n", b"a: b\r\n" * 9000),
}


@pytest.mark.parametrize(("start", "more"), ENDLESS.values(), ids=ENDLESS)
def test_what_never_ends_is_refused_after_the_headers_limit(start: bytes, more: bytes):
    client, sent = Connection(), 0
    for piece in chain([start], repeat(more)):
        sent += len(piece)
        if answers := client.send(piece):
            break
        assert sent < 4 * READ
    assert [answer.status for answer in answers] == [431]
    assert client.wire.closed
    assert not client.application.messages


def test_a_body_in_chunks_of_one_byte_is_not_taken_for_abuse():
    client = Connection(limits=replace(LIMITS, max_body_bytes=20_000))
    client.send(CHUNKED, *[b"1;a=bcdefg\r\nx\r\n" * 100] * 200, b"0\r\n\r\n")
    assert [message.body for message in client.application.messages] == [b"x" * 20_000]


def test_a_large_read_that_ends_within_the_next_request_is_not_taken_for_long_headers():
    assert len(Connection().send(GET * 9000 + GET[:8], GET[8:])) == 9001


SMALL = replace(LIMITS, max_queued_bytes=1500)


def test_bodies_beyond_the_budget_are_refused_at_the_header_until_others_are_answered():
    client = Connection(Echo(hold=True), SMALL)
    other = Connection(beside=client)
    client.send(post(1000) + b"x" * 1000)
    assert [answer.status for answer in other.send(post(501))] == [429]
    assert other.send(b"x" * 501 + post(500) + b"x" * 500) == []
    assert client.connections.queued_bytes == 1500
    client.release()
    assert client.connections.queued_bytes == 0
    other.send(post(1000) + b"x" * 1000)
    assert len(client.application.messages) == 3


def test_chunked_bodies_are_counted_as_they_come_and_cut_at_the_budget():
    client = Connection(limits=SMALL)
    others = [Connection(beside=client) for _ in range(2)]
    client.send(CHUNKED + b"384\r\n" + b"x" * 900 + b"\r\n")
    # What is announced but has not come takes nothing from the others.
    assert others[0].send(post(600)) == []
    assert others[1].send(CHUNKED + b"258\r\n" + b"x" * 600) == []
    (answer,) = others[1].send(b"\r\n1\r\nx")
    assert (answer.status, answer.headers["connection"]) == (429, "close")
    assert client.connections.queued_bytes == 900


def test_the_bodies_of_clients_that_go_away_are_given_back():
    client = Connection(Echo(hold=True), SMALL)
    other = Connection(beside=client)
    client.send(post(700) + b"x" * 700)
    other.send(post(700) + b"x" * 300)
    assert client.connections.queued_bytes == 1000
    client.lose()
    other.lose()
    assert client.connections.queued_bytes == 0
