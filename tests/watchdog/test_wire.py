import json
import math
import struct
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batching_watchdog import wire
from batching_watchdog.errors import FrameError
from batching_watchdog.messages import Failure, Reply
from batching_watchdog.wire import HEADER_SIZE, FrameHeader, Handshake, Kind
from support.fuzzing import fuzzed

DECODERS: dict[Kind, Callable[[FrameHeader, memoryview], object]] = {
    Kind.HANDSHAKE: wire.decode_handshake,
    Kind.REQUESTS: wire.decode_requests,
    Kind.REPLIES: wire.decode_replies,
    Kind.CANCEL: wire.decode_cancel,
    Kind.FAILURE: wire.decode_failure,
}
PARTS = st.binary(max_size=40)
REPLIES = st.builds(Reply, st.integers(100, 599), PARTS, PARTS, st.booleans())
SECONDS = st.floats(0, 1e6)
TOKENS = st.text("abcdefghijklmnopqrstuvwxyz-", min_size=1, max_size=12).map(str.encode)
VALUES = st.text(st.characters(min_codepoint=32, max_codepoint=255), max_size=20).map(
    lambda text: text.encode("latin-1")
)


def split(buffers: list[bytes]) -> tuple[FrameHeader, memoryview]:
    frame = b"".join(buffers)
    return wire.decode_header(frame[:HEADER_SIZE]), memoryview(frame)[HEADER_SIZE:]


def outcome(call: Callable[[], Any]) -> Any:
    """What it answers, or its error."""
    try:
        return call()
    except FrameError as error:
        return str(error)


def both_ways(call: Callable[[], Any]) -> Any:
    """What it answers or its error, which must be the same without the compiled part."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wire, "compiled", None)
        expected = outcome(call)
    assert outcome(call) == expected
    return expected


def header(
    *, magic: bytes = b"TBW1", kind: int = 3, count: int = 1, size: int = 12, seconds: float = 0.0
) -> bytes:
    return struct.pack("<4sB3xIQd", magic, kind, count, size, seconds)


def test_receive_buffer_keeps_what_is_in_it_and_shrinks_when_frames_have_been_small_for_a_while():
    buffer = wire.ReceiveBuffer()
    buffer.data[:3] = b"abc"
    buffer.fit(10 * wire.JOIN_BELOW, 3)
    assert (bytes(buffer.data[:3]), len(buffer.data)) == (b"abc", 10 * wire.JOIN_BELOW)
    for size in [*[1] * (wire.SMALL_FRAMES - 1), 2 * wire.JOIN_BELOW, *[1] * (wire.SMALL_FRAMES - 1)]:
        buffer.fit(size, 3)
        assert len(buffer.data) == 10 * wire.JOIN_BELOW
    buffer.fit(1, wire.JOIN_BELOW + 1)  # what has come of the next frame would not fit
    assert len(buffer.data) == 10 * wire.JOIN_BELOW
    buffer.fit(1, 3)
    assert (bytes(buffer.data[:3]), len(buffer.data)) == (b"abc", wire.JOIN_BELOW)


@given(st.lists(st.tuples(PARTS, PARTS), max_size=20))
def test_requests_come_out_as_they_went_in(requests):
    frame, data = split([both_ways(lambda: b"".join(wire.encode_requests(requests)))])
    assert both_ways(lambda: wire.decode_requests(frame, data)) == requests
    assert (frame.kind, frame.count, frame.size) == (Kind.REQUESTS, len(requests), len(data))


@given(st.lists(REPLIES, max_size=20), SECONDS)
def test_replies_come_out_as_they_went_in(replies, seconds):
    frame, data = split([both_ways(lambda: b"".join(wire.encode_replies(replies, seconds)))])
    decoded = both_ways(lambda: wire.decode_replies(frame, data))
    assert decoded == replies
    assert all(type(reply) is Reply and type(reply.failed) is bool for reply in decoded)
    assert frame.seconds == seconds


HANDSHAKES = st.builds(
    Handshake,
    *(st.integers(0, 2**31), st.none() | st.text(), st.text(), st.none() | PARTS),
    *(st.integers(0, 4095), st.booleans(), SECONDS, SECONDS),
)
FAILURES = st.builds(Failure, st.text(), st.text(), st.text(), st.text())
CANCELS = st.lists(st.integers(0, 2**32 - 1), max_size=20)


@given(HANDSHAKES, FAILURES, CANCELS)
def test_other_frames_come_out_as_they_went_in(handshake, failure, places):
    assert wire.decode_handshake(*split(wire.encode_handshake(handshake))) == handshake
    assert wire.decode_failure(*split(wire.encode_failure(failure))) == failure
    assert wire.decode_cancel(*split([wire.encode_cancel(places)])) == places


@given(TOKENS, TOKENS, st.lists(st.tuples(TOKENS, VALUES)))
def test_request_head_comes_out_as_it_went_in(method, target, fields):
    expected = [(name.decode(), value.decode("latin-1")) for name, value in fields]
    head = wire.request_header_block(method, target, fields)
    assert wire.parse_header_block(head) == (method.decode(), target.decode(), expected)


def test_large_bodies_are_not_copied_on_the_way_out():
    body = b"x" * wire.JOIN_BELOW
    assert any(buffer is body for buffer in wire.encode_requests([(b"head", body)]))


@fuzzed(300)
@given(
    st.sampled_from(Kind),
    st.sampled_from(Kind),
    st.integers(0, 5) | st.integers(0, 2**32 - 1),
    st.integers(0, 200) | st.integers(0, 2**64 - 1) | st.none(),
    st.binary(max_size=120),
)
def test_any_bytes_as_a_frame_body_decode_or_are_a_frame_error(
    kind: Kind, read_as: Kind, count: int, size: int | None, data: bytes
):
    said = FrameHeader(kind, count, len(data) if size is None else size, 0.0)
    if not isinstance(both_ways(lambda: DECODERS[read_as](said, memoryview(data))), str):
        assert kind is read_as


@given(st.lists(REPLIES, min_size=1, max_size=5), st.data())
def test_frame_of_another_length_is_an_error_and_never_a_shift(replies, data):
    frame, body = split(wire.encode_replies(replies, 0.0))
    cut = bytes(body)[: data.draw(st.integers(0, len(body) - 1))]
    with pytest.raises(FrameError):
        wire.decode_replies(frame, memoryview(cut))
    with pytest.raises(FrameError):
        wire.decode_replies(frame, memoryview(bytes(body) + b"x"))
    resized = FrameHeader(frame.kind, frame.count, len(cut), 0.0)
    with pytest.raises(FrameError):
        wire.decode_replies(resized, memoryview(cut))


@pytest.mark.parametrize(
    "data",
    [
        *(b"", header()[:-1], header(magic=b"HTTP"), header(kind=0), header(kind=9)),
        *(header(count=2), header(count=0), header(size=2**63)),
        *(header(seconds=seconds) for seconds in (math.nan, math.inf, -1.0)),
    ],
)
def test_bad_frame_header_is_a_frame_error(data):
    with pytest.raises(FrameError):
        wire.decode_header(data)


SAID = {"pid": 1, "error": None, "trace": "", "index": 0, "mix_paths": True}
SAID |= {"import_seconds": 0.5, "load_seconds": 0.5}
WRONG = {"pid": "1", "error": 5, "trace": 1, "index": "0", "mix_paths": 0, "load_seconds": "1"}


@pytest.mark.parametrize(
    "said",
    [
        *(b"", b"\xff", b"[1]", b"1", b"{}", b"[" * 100_000),
        *(json.dumps({name: SAID[name] for name in SAID if name != missing}).encode() for missing in SAID),
        *(json.dumps({**SAID, name: value}).encode() for name, value in WRONG.items()),
    ],
)
def test_handshake_of_other_content_is_a_frame_error(said):
    data = struct.pack("<HHII", 0, 0, len(said), 0) + said
    with pytest.raises(FrameError, match="handshake"):
        wire.decode_handshake(FrameHeader(Kind.HANDSHAKE, 1, len(data), 0.0), memoryview(data))


@pytest.mark.parametrize("status", [-1, 65536])
def test_status_that_no_item_can_hold_is_a_frame_error(status):
    assert f"status {status}" in both_ways(lambda: wire.encode_replies([Reply(status, b"", b"")], 0.0))
