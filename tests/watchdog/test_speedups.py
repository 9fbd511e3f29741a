"""The memory of the part in C; ``front/test_conformance`` compares what it reads with the code in Python."""

import sys
import tracemalloc

import pytest

from batching_watchdog.speedups import compiled

pytestmark = pytest.mark.skipif(compiled is None, reason="built without a C compiler")

CAPTURED = (b"x-call-id", b"x-timeout")


def test_plain_request_leaks_nothing():
    assert compiled is not None
    whole = b"POST /a HTTP/1.1\r\nHost: x\r\nX-Call-Id: a1\r\nX-Call-Id: a2\r\nContent-Length: 2\r\n\r\nab"
    requests = (whole, whole[:-1], whole.replace(b"Host", b"Most"), whole.replace(b"a2", b"\x80"), whole[4:])
    shared = (None, CAPTURED[0], b"POST")

    def read() -> list[object]:
        return [compiled.plain_request(data, CAPTURED, 1 << 16) for data in requests]

    assert {type(result) for result in read()} == {tuple, type(None)}
    before = [sys.getrefcount(each) for each in shared]
    tracemalloc.start()
    try:
        read()
        size = tracemalloc.get_traced_memory()[0]
        for _ in range(2000):
            read()
        grown = tracemalloc.get_traced_memory()[0] - size
    finally:
        tracemalloc.stop()
    assert grown < 2000
    after = [sys.getrefcount(each) for each in shared]
    assert all(abs(new - old) < 100 for old, new in zip(before, after, strict=True))
