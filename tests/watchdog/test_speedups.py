"""What the part in C leaves to the code in Python, and its memory; ``test_wire`` compares what it makes."""

import sys
import tracemalloc

import pytest

from batching_watchdog import wire
from batching_watchdog.messages import Reply
from batching_watchdog.speedups import compiled

pytestmark = pytest.mark.skipif(compiled is None, reason="built without a C compiler")

CAPTURED = (b"x-call-id", b"x-timeout")


def test_nothing_leaks():
    assert compiled is not None
    whole = b"POST /a HTTP/1.1\r\nHost: x\r\nX-Call-Id: a1\r\nX-Call-Id: a2\r\nContent-Length: 2\r\n\r\nab"
    broken = (whole[:-1], whole.replace(b"Host", b"Most"), whole.replace(b"a2", b"\x80"), whole[4:])
    replies = (Reply(200, b"A: b\r\n", b"body"), Reply(500, b"", b"", failed=True))
    odd = ((1 << 70, b"", b"", True), (200, b"", b"", None))

    def everything() -> None:
        for data in (whole, *broken):
            compiled.plain_request(data, CAPTURED, 1 << 16)
        frame = compiled.encode_replies(replies, 1.0, 1 << 18)
        assert frame is not None
        for item in odd:
            compiled.encode_replies((item,), 1.0, 1 << 18)
        view = memoryview(frame)[wire.HEADER_SIZE :]
        compiled.decode_replies(2, view, Reply)
        compiled.decode_replies(2, view[1:], Reply)
        compiled.decode_requests(2, view)

    shared = (None, True, False, CAPTURED[0], Reply, b"POST")
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
