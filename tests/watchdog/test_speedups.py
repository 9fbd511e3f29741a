"""The compiled part, compared with the code in Python that it stands in for."""

import os
import random
import sys
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from batching_watchdog import wire
from batching_watchdog.errors import FrameError, WatchdogError
from batching_watchdog.front import protocol
from batching_watchdog.front.protocol import MAX_HEADER_BYTES, Connections, Exchange, HttpProtocol, Limits
from batching_watchdog.messages import Reply
from batching_watchdog.speedups import compiled
from watchdog.http_service import Wire

pytestmark = pytest.mark.skipif(compiled is None, reason="built without a C compiler")

FUZZ_EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "0"))
NOTED = (b"x-call-id", b"x-timeout")
LIMITS = Limits(max_body_bytes=1 << 20, read_timeout=30.0, write_timeout=30.0, max_queued_bytes=1 << 30)

HEADERS = (
    b"Host: x",
    b"host: 127.0.0.1:8080",
    b"Host: [::1]:80",
    b"Host: a b",
    b"Host: x/y",
    b"Host:",
    b"Content-Length: 3",
    b"content-length: 0",
    b"Content-Length: 003",
    b"Content-Length: +3",
    b"Content-Length: 3, 3",
    b"Content-Length: 9999999999999999",
    b"Content-Length: 18446744073709551619",  # 3, if 64 bits overflow
    b"Transfer-Encoding: chunked",
    b"Connection: keep-alive",
    b"Connection: Keep-Alive",
    b"Connection: close",
    b"Connection: keep-alive, upgrade",
    b"Proxy-Connection: close",
    b"Keep-Alive: timeout=5",
    b"Upgrade: h2c",
    b"Expect: 100-continue",
    b"TE: trailers",
    b"Trailer: X",
    b"X-Call-Id: a1",
    b"x-call-ID: second",
    b"X-Timeout: 1s",
    b"X-Timeout:  1s",
    b"X-Timeout: 1s ",
    b"X-Timeout:1s",
    b"X-Timeout : 1s",
    b" X-Timeout: 1s",
    b"X_Y!#$: ~ \t\x80",
    b"Content-Type: application/json",
    b"A: \x00",
    b"A: b\rC: d",
    b"A: \x7f",
    b": empty",
    b"no colon",
)
LINES = (
    b"POST / HTTP/1.1",
    b"GET /a/b?c=%20d&e HTTP/1.1",
    b"PUT /f HTTP/1.1",
    b"PATCH /:@!$&'()*+,;= HTTP/1.1",
    b"DELETE /~._- HTTP/1.1",
    b"HEAD / HTTP/1.1",
    b"OPTIONS * HTTP/1.1",
    b"post / HTTP/1.1",
    b"POST / HTTP/1.0",
    b"POST / HTTP/1.2",
    b"POST / http/1.1",
    b"POST  / HTTP/1.1",
    b"POST / HTTP/1.1 ",
    b"POST http://x/ HTTP/1.1",
    b"POST /#a HTTP/1.1",
    b'POST /"{} HTTP/1.1',
    b"POST /\x80 HTTP/1.1",
    b"POST x HTTP/1.1",
    b"POST /",
    b"",
)


GET = b"GET / HTTP/1.1\r\nHost: x\r\n"


@dataclass(frozen=True)
class Taken:
    method: bytes
    target: bytes
    head: bytes
    noted: dict[bytes, bytes]
    length: int | None
    size: int
    body: bytes
    keep_alive: bool


class Recorder:
    """Answers at once and remembers what it was given."""

    noted_headers = frozenset(NOTED)

    def __init__(self) -> None:
        self.taken: list[Taken] = []
        self.refused: list[str] = []

    def refuse(self, exchange: Exchange) -> WatchdogError | None:
        return None

    def handle(self, exchange: Exchange) -> None:
        self.taken.append(
            Taken(
                exchange.method,
                exchange.target,
                exchange.head,
                dict(exchange.noted),
                exchange.length,
                exchange.size,
                exchange.body,
                exchange.keep_alive,
            )
        )
        exchange.respond(200, b"", b"")

    def answer_error(self, exchange: Exchange, error: WatchdogError) -> None:
        self.refused.append(str(error))
        exchange.respond(error.status, b"", b"")


def read(pieces: list[bytes]) -> tuple[list[Taken], list[str], bool, int, int]:
    """What becomes of a connection on which these pieces come."""
    recorder, transport = Recorder(), Wire()
    connections = Connections(recorder, LIMITS, lambda: 0.0)
    each = HttpProtocol(connections)
    each.connection_made(transport)  # type: ignore[arg-type] # all of a transport that is needed
    for piece in pieces:
        each.data_received(piece)
    outcome = (
        recorder.taken,
        recorder.refused,
        transport.closed,
        connections.queued_bytes,
        transport.answers,
    )
    each.connection_lost(None)
    return outcome


def agree(monkeypatch: pytest.MonkeyPatch, pieces: list[bytes]) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(protocol, "compiled", None)
        reference = read(pieces)
    assert read(pieces) == reference


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    usual = (LINES[0], HEADERS[0], b"Content-Length: %d")
    body = draw(st.binary(max_size=5))
    lines = [draw(st.sampled_from(LINES)) if draw(st.integers(0, 4)) == 0 else usual[0]]
    if draw(st.integers(0, 9)):
        lines.append(usual[1])
    lines += draw(st.lists(st.sampled_from(HEADERS), max_size=4))
    if draw(st.integers(0, 4)):
        lines.insert(draw(st.integers(1, len(lines))), usual[2] % len(body))
    data = bytearray(b"\r\n".join(lines) + b"\r\n\r\n" + body)
    for _ in range(draw(st.sampled_from((0, 0, 0, 1, 2)))):
        data[draw(st.integers(0, len(data) - 1))] = draw(st.sampled_from(b"\r\n\0 :\t/aZ0\x7f\x80"))
    return bytes(data[: draw(st.integers(1, len(data)))] if draw(st.integers(0, 9)) == 0 else data)


@settings(max_examples=FUZZ_EXAMPLES or 3000, derandomize=not FUZZ_EXAMPLES)
@given(st.lists(requests(), min_size=1, max_size=3))
@example([GET + b"Content-Length: 18446744073709551619\r\n\r\nabc"])
@example([GET + b"X-Call-Id: a\r\nx-call-id: b\r\n\r\n"])
@example([GET + b"A: b\rC: d\r\n\r\n"])
@example([GET + b"A: b\rXC: d\r\n\r\n"])
@example([GET + b"\rX"])
@example([b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nab", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"])
@example([b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nabPOST / HTTP/1.1\r\nHost: x\r\n\r\n"])
@example([b"\r\n", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"])
@example([b"G", b"ET / HTTP/1.1\r\nHost: x\r\n\r\n"])
def test_a_connection_takes_the_same_course_with_it_and_without_it(pieces: list[bytes]):
    with pytest.MonkeyPatch.context() as patch:
        agree(patch, pieces)


@settings(max_examples=FUZZ_EXAMPLES or 1000, derandomize=not FUZZ_EXAMPLES)
@given(requests())
def test_what_it_reads_is_what_the_parser_would_have_read_and_it_is_one_whole_request(data: bytes):
    assert compiled is not None
    found = compiled.plain_request(data, NOTED, MAX_HEADER_BYTES)
    if found is None:
        return
    method, target, head, noted, length, body = found
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(protocol, "compiled", None)
        taken, refused, closed, _, _ = read([data])
    size = None if length < 0 else length
    assert taken == [Taken(method, target, head, noted or {}, size, len(body), body, keep_alive=True)]
    assert not refused
    assert not closed


def test_most_requests_that_platforms_send_are_plain():
    assert compiled is not None
    gateway = (
        b"POST /function/a?b=c HTTP/1.1\r\nHost: 10.42.0.7:8080\r\nUser-Agent: curl/8.5.0\r\n"
        b"Content-Length: 2\r\nAccept: */*\r\nContent-Type: application/json\r\nX-Call-Id: 9e5f\r\n"
        b"X-Forwarded-For: 10.0.0.1:4242\r\nX-Forwarded-Host: gateway.openfaas:8080\r\n"
        b"X-Start-Time: 1732622222222222222\r\nAccept-Encoding: gzip\r\n\r\n{}"
    )
    requests_ = (
        b"GET / HTTP/1.1\r\nHost: x\r\nConnection: keep-alive\r\nAccept-Encoding: gzip, deflate\r\n\r\n"
    )
    for data in (gateway, requests_):
        assert compiled.plain_request(data, NOTED, MAX_HEADER_BYTES) is not None
    assert compiled.plain_request(gateway, NOTED, len(gateway) - 2) is not None
    assert compiled.plain_request(gateway, NOTED, len(gateway) - 3) is None


@pytest.mark.parametrize("data", ["text", bytearray(b"GET / HTTP/1.1\r\n"), None])
def test_it_reads_bytes_only(data: object):
    assert compiled is not None
    with pytest.raises(TypeError):
        compiled.plain_request(data, NOTED, MAX_HEADER_BYTES)  # type: ignore[arg-type] # the test
    with pytest.raises(TypeError):
        compiled.plain_request(b"", (data,), 1)  # type: ignore[arg-type] # the test


PARTS = st.binary(max_size=40)
FRAMES = st.lists(st.tuples(PARTS, PARTS), max_size=20)
REPLIES = st.lists(st.builds(Reply, st.integers(0, 70000), PARTS, PARTS, st.booleans()), max_size=20)


def without(monkeypatch: pytest.MonkeyPatch, call: Callable[[], object]) -> object:
    """What the code in Python answers, or its error."""
    with monkeypatch.context() as patch:
        patch.setattr(wire, "compiled", None)
        try:
            return call()
        except FrameError as error:
            return str(error)


def with_it(call: Callable[[], object]) -> object:
    try:
        return call()
    except FrameError as error:
        return str(error)


@given(FRAMES)
def test_a_frame_of_requests_is_the_same_to_the_byte_and_comes_apart_the_same(
    pairs: list[tuple[bytes, bytes]],
):
    with pytest.MonkeyPatch.context() as patch:
        expected = without(patch, lambda: b"".join(wire.encode_requests(pairs)))
        frame = b"".join(wire.encode_requests(pairs))
        assert frame == expected
        assert without(patch, lambda: wire.decode_frame_of_requests(frame)) == pairs
    assert wire.decode_frame_of_requests(frame) == pairs


@given(REPLIES, st.floats(0, 1e9))
def test_a_frame_of_replies_is_the_same_to_the_byte_and_comes_apart_the_same(
    replies: list[Reply], seconds: float
):
    def encode() -> bytes:
        return b"".join(wire.encode_replies(replies, seconds))

    with pytest.MonkeyPatch.context() as patch:
        expected = without(patch, encode)
    frame = with_it(encode)
    assert frame == expected
    if isinstance(frame, bytes):
        decoded = wire.decode_frame_of_replies(frame)
        assert decoded == replies
        assert all(type(reply) is Reply and type(reply.failed) is bool for reply in decoded)


@settings(max_examples=FUZZ_EXAMPLES or 1000, derandomize=not FUZZ_EXAMPLES)
@given(REPLIES, st.integers(0, 1 << 32))
def test_a_frame_that_is_damaged_has_the_same_fate(replies: list[Reply], seed: int):
    draw = random.Random(seed)
    try:
        frame = bytearray(b"".join(wire.encode_replies(replies, 0.0)))
    except FrameError:
        return
    for _ in range(draw.randrange(1, 4)):
        frame[draw.randrange(len(frame))] = draw.choice((0, 1, 2, 12, 127, 255))
    data = bytes(frame[: draw.randrange(wire.HEADER_SIZE, len(frame) + 1)])
    for decode in (wire.decode_frame_of_replies, wire.decode_frame_of_requests):
        with pytest.MonkeyPatch.context() as patch:
            expected = without(patch, lambda decode=decode: decode(data))
        assert with_it(lambda decode=decode: decode(data)) == expected


@pytest.mark.parametrize(("count", "size"), [(-1, 0), (1, 11), (1 << 40, 12), (2, 12)])
def test_counts_that_can_not_be_are_left_to_the_code_in_python(count: int, size: int):
    assert compiled is not None
    assert compiled.decode_requests(count, memoryview(bytes(size))) is None
    assert compiled.decode_replies(count, memoryview(bytes(size)), Reply) is None


def test_lengths_whose_sum_would_overflow_or_is_too_small_do_not_add_up():
    assert compiled is not None
    item = b"\0\0\0\0" + b"\xff" * 8
    assert compiled.decode_requests(4, memoryview(item * 4)) is None
    assert compiled.decode_requests(1, memoryview(bytes(12) + b"x")) is None


def test_only_tuples_of_bytes_are_encoded_and_only_tuples_are_made():
    assert compiled is not None
    for item in ((b"a",), (b"a", "b"), [b"a", b"b"], None):
        assert compiled.encode_requests((item,), 1 << 18) is None  # type: ignore[arg-type] # the test
    for status, failed in ((True, False), (-1, False), (1 << 70, False), (200, 1)):
        assert compiled.encode_replies(((status, b"", b"", failed),), 0.0, 1 << 18) is None  # type: ignore[arg-type] # the test
    assert compiled.encode_requests(((b"a", b"b"),), wire.HEADER_SIZE + 14) is None
    assert compiled.encode_requests(((b"a", b"b"),), wire.HEADER_SIZE + 15) is not None
    with pytest.raises(TypeError):
        compiled.decode_replies(0, memoryview(b""), list)  # type: ignore[arg-type] # the test


def test_nothing_leaks():
    assert compiled is not None
    whole = b"POST /a HTTP/1.1\r\nHost: x\r\nX-Call-Id: a1\r\nX-Call-Id: a2\r\nContent-Length: 2\r\n\r\nab"
    broken = (whole[:-1], whole.replace(b"Host", b"Most"), whole.replace(b"a2", b"\x80"), whole[4:])
    replies = (Reply(200, b"A: b\r\n", b"body"), Reply(500, b"", b"", failed=True))
    odd = ((1 << 70, b"", b"", True), (200, b"", b"", None))

    def everything() -> None:
        for data in (whole, *broken):
            compiled.plain_request(data, NOTED, MAX_HEADER_BYTES)
        frame = compiled.encode_replies(replies, 1.0, 1 << 18)
        assert frame is not None
        for item in odd:
            compiled.encode_replies((item,), 1.0, 1 << 18)  # type: ignore[arg-type] # the test
        view = memoryview(frame)[wire.HEADER_SIZE :]
        compiled.decode_replies(2, view, Reply)
        compiled.decode_replies(2, view[1:], Reply)
        compiled.decode_requests(2, view)

    shared = (None, True, False, NOTED[0], Reply, b"POST")
    everything()
    before = [sys.getrefcount(each) for each in shared]
    tracemalloc.start()
    try:
        everything()
        size = tracemalloc.get_traced_memory()[0]
        for _ in range(2000):
            everything()
        grown = tracemalloc.get_traced_memory()[0] - size
    finally:
        tracemalloc.stop()
    assert grown < 2000
    after = [sys.getrefcount(each) for each in shared]
    assert all(abs(new - old) < 100 for old, new in zip(before, after, strict=True))
