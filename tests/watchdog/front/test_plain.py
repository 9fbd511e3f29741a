"""The compiled part takes the usual requests; test_conformance compares what it makes of all others."""

import pytest

from batching_watchdog.front.protocol import MAX_HEADER_BYTES
from batching_watchdog.speedups import compiled
from support.connection import Echo

pytestmark = pytest.mark.skipif(compiled is None, reason="built without a C compiler")

CAPTURED = tuple(Echo().captured_headers)
GATEWAY = (
    *(b"POST /function/a?b=c HTTP/1.1", b"Host: 10.42.0.7:8080", b"User-Agent: curl/8.5.0"),
    *(b"Content-Length: 3", b"Accept: */*", b"Content-Type: application/json", b"X-Call-Id: 9e5f"),
    *(b"X-Forwarded-For: 10.0.0.1:4242", b"X-Forwarded-Host: gateway.openfaas:8080"),
    *(b"X-Start-Time: 1732622222222222222", b"Accept-Encoding: gzip", b"", b"abc"),
)
PYTHON = (
    b"POST / HTTP/1.1",
    b"Host: x",
    b"Connection: keep-alive",
    b"Accept-Encoding: gzip, deflate",
    b"",
    b"",
)


@pytest.mark.parametrize("lines", [GATEWAY, PYTHON], ids=["gateway", "Python"])
def test_usual_requests_are_plain_up_to_the_header_limit(lines):
    request = b"\r\n".join(lines)
    size = len(request) - len(lines[-1])
    assert compiled.plain_request(request, CAPTURED, MAX_HEADER_BYTES) is not None
    assert compiled.plain_request(request, CAPTURED, size) is not None
    assert compiled.plain_request(request, CAPTURED, 16) is None
