import marshal
import struct
from collections.abc import Callable
from math import inf, nan

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batching_watchdog.errors import FrameError
from batching_watchdog.function import wire
from batching_watchdog.function.messages import Crash, Failure, Iteration, Output, Reply
from batching_watchdog.function.wire import HEADER_SIZE, MAGIC, FrameHeader, Handshake, Kind, Spent
from support.fuzzing import fuzzed

DECODERS: dict[Kind, Callable[[FrameHeader, memoryview], object]] = {
    Kind.HANDSHAKE: wire.decode_handshake,
    Kind.REQUESTS: wire.decode_requests,
    Kind.REPLIES: wire.decode_replies,
    Kind.CANCEL: wire.decode_cancel,
    Kind.FAILURE: wire.decode_failure,
    Kind.CRASH: wire.decode_crash,
    Kind.THREADS: wire.decode_threads,
    Kind.JOIN: wire.decode_join,
    Kind.LEAVE: wire.decode_leave,
    Kind.ITERATION: wire.decode_iteration,
}
LARGE = b"x" * wire.JOIN_BELOW
PARTS = st.binary(max_size=40)
BODIES = PARTS | st.just(LARGE)
REPLIES = st.builds(Reply, st.integers(100, 599), PARTS, BODIES, st.booleans(), st.booleans())
SPENT = st.builds(Spent, *[st.floats(0, 1e6)] * 3)
HANDSHAKES = st.builds(
    Handshake,
    *(st.integers(0, 2**31), st.none() | st.text(), st.text(), st.none() | PARTS),
    *(st.integers(0, 4095), st.booleans(), st.floats(0, 1e6), st.floats(0, 1e6)),
    st.booleans(),
)
IDS = st.integers(0, 2**32 - 1)
OUTPUTS = st.builds(Output, IDS, st.none() | REPLIES, st.booleans(), st.booleans())
ITERATIONS = st.builds(
    Iteration,
    st.lists(OUTPUTS, max_size=9),
    *(st.integers(0, 99), st.floats(0, 1e6), st.integers(0, 99), *[st.floats(0, 1e6)] * 3),
    *(st.integers(0, 99), st.integers(0, 99)),
)
FAILURES = st.builds(Failure, st.text(), st.text(), st.text(), st.text())
CRASHES = st.builds(Crash, st.text(), REPLIES, st.booleans())
TOKENS = st.text("abcdefghijklmnopqrstuvwxyz-", min_size=1, max_size=12).map(str.encode)
VALUES = st.text(st.characters(min_codepoint=32, max_codepoint=255), max_size=20).map(
    lambda text: text.encode("latin-1")
)


def split(buffers: list[bytes]) -> tuple[FrameHeader, memoryview]:
    frame = b"".join(buffers)
    return wire.decode_header(frame[:HEADER_SIZE]), memoryview(frame)[HEADER_SIZE:]


def test_receive_buffer_keeps_its_content_and_shrinks_after_small_frames():
    buffer = wire.ReceiveBuffer()
    buffer.data[:3] = b"abc"
    buffer.fit(10 * wire.JOIN_BELOW, 3)
    assert (bytes(buffer.data[:3]), len(buffer.data)) == (b"abc", 10 * wire.JOIN_BELOW)
    for size in [*[1] * (wire.SMALL_FRAMES - 1), 2 * wire.JOIN_BELOW, *[1] * (wire.SMALL_FRAMES - 1)]:
        buffer.fit(size, 3)
        assert len(buffer.data) == 10 * wire.JOIN_BELOW
    buffer.fit(1, wire.JOIN_BELOW + 1)  # the bytes of the next frame would not fit
    assert len(buffer.data) == 10 * wire.JOIN_BELOW
    buffer.fit(1, 3)
    assert (bytes(buffer.data[:3]), len(buffer.data)) == (b"abc", wire.JOIN_BELOW)


@given(st.lists(st.tuples(PARTS, BODIES), max_size=20), st.lists(REPLIES, max_size=20), SPENT)
def test_requests_and_replies_come_out_as_they_went_in(requests, replies, spent):
    assert wire.decode_requests(*split(wire.encode_requests(requests))) == requests
    decoded, took = wire.decode_replies(*split(wire.encode_replies(replies, spent)))
    assert (decoded, took) == (replies, spent)
    assert all(type(reply) is Reply for reply in decoded)


@given(HANDSHAKES, FAILURES, st.lists(st.integers(0, 2**32 - 1), max_size=20), CRASHES, st.integers(1, 4096))
def test_other_frames_come_out_as_they_went_in(handshake, failure, places, crash, threads):
    assert wire.decode_handshake(*split(wire.encode_handshake(handshake))) == handshake
    assert wire.decode_failure(*split(wire.encode_failure(failure))) == failure
    assert wire.decode_cancel(*split([wire.encode_cancel(places)])) == places
    assert wire.decode_crash(*split(wire.encode_crash(crash))) == crash
    assert wire.decode_threads(*split([wire.encode_threads(threads)])) == threads


@given(st.lists(st.tuples(IDS, PARTS, BODIES), max_size=9), st.lists(IDS, max_size=20), ITERATIONS)
def test_frames_of_streams_come_out_as_they_went_in(joins, streams, iteration):
    assert wire.decode_join(*split(wire.encode_join(joins))) == joins
    assert wire.decode_leave(*split(wire.encode_leave(streams))) == streams
    assert wire.decode_iteration(*split(wire.encode_iteration(iteration))) == iteration


@given(TOKENS, TOKENS, st.lists(st.tuples(TOKENS, VALUES)))
def test_request_head_comes_out_as_it_went_in(method, target, fields):
    expected = [(name.decode(), value.decode("latin-1")) for name, value in fields]
    head = wire.request_header_block(method, target, fields)
    assert wire.parse_header_block(head) == (method.decode(), target.decode(), expected)


def test_large_bodies_are_not_copied_on_the_way_out():
    assert any(buffer is LARGE for buffer in wire.encode_requests([(b"head", LARGE)]))


@fuzzed(300)
@given(
    st.sampled_from(Kind),
    st.integers(0, 200) | st.integers(0, 2**32 - 1),
    st.integers(0, 200) | st.integers(0, 2**64 - 1),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.binary(max_size=9) | st.text(max_size=9),
        lambda each: (
            st.lists(each, max_size=4)
            | st.tuples(each, each, each)
            | st.dictionaries(st.text(max_size=9), each, max_size=3)
        ),
        max_leaves=12,
    ).map(marshal.dumps)
    | st.binary(max_size=60),
)
def test_any_values_of_a_frame_decode_or_are_a_frame_error(kind, values, bodies, data):
    for header in (FrameHeader(kind, len(data), 0), FrameHeader(kind, values, bodies)):
        for decode in DECODERS.values():
            try:
                decode(header, memoryview(data))
            except FrameError:
                continue
            assert decode is DECODERS[kind]


@given(st.lists(REPLIES, min_size=1, max_size=5), st.data())
def test_frame_of_another_length_is_an_error(replies, data):
    header, body = split(wire.encode_replies(replies, Spent()))
    cut = bytes(body)[: data.draw(st.integers(0, len(body) - 1))]
    for other in (cut, bytes(body) + b"x"):
        with pytest.raises(FrameError):
            wire.decode_replies(header, memoryview(other))


@pytest.mark.parametrize("seconds", [nan, inf, -1.0])
def test_time_of_a_batch_that_no_clock_measures_is_an_error(seconds):
    for spent in (Spent(seconds, 0.0), Spent(0.0, seconds), Spent(0.0, 0.0, seconds)):
        with pytest.raises(FrameError):
            wire.decode_replies(*split(wire.encode_replies([], spent)))


def header(magic: bytes = MAGIC, kind: int = 3) -> bytes:
    return struct.pack("<4sB3xIQ", magic, kind, 1, 1)


@pytest.mark.parametrize("data", [b"", header()[:-1], header(magic=b"HTTP"), header(kind=0), header(kind=11)])
def test_bad_frame_header_is_an_error(data):
    assert wire.decode_header(header()).kind is Kind.REPLIES
    with pytest.raises(FrameError):
        wire.decode_header(data)


@pytest.mark.parametrize(
    ("name", "value", "line"),
    [
        ("X-A", "b c", b"X-A: b c\r\n"),
        ("Content-Length", "5", b""),
        ("Connection", "close", b""),
        ("X-A", "b\r\nX-B: c", None),
        ("X A", "b", None),
        ("X-A", "\u20ac", None),
    ],
)
def test_reply_header_is_a_line_or_an_error(name, value, line):
    if line is None:
        with pytest.raises(ValueError, match=r"X.A|latin-1"):
            wire.reply_header(name, value)
    else:
        assert wire.reply_header(name, value) == line
