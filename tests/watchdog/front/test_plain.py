"""The compiled part reads a request that came whole and plain just as the code in Python does.

``test_conformance`` compares the two on generated streams.
"""

import pytest

from batching_watchdog.front.protocol import MAX_HEADER_BYTES
from batching_watchdog.speedups import compiled
from watchdog.front.connection import Echo, Message, read_twice

pytestmark = pytest.mark.skipif(compiled is None, reason="built without a C compiler")

NOTED = tuple(Echo().captured_headers)
HOST, LENGTH = b"Host: x", b"Content-Length: 3"
HEADERS = (
    *(HOST, b"host: 127.0.0.1:8080", b"Host: [::1]:80", b"Host: a b", b"Host: x/y", b"Host:"),
    *(LENGTH, b"content-length: 0", b"Content-Length: 003", b"Content-Length: +3", b"Content-Length: 3, 3"),
    b"Content-Length: 9999999999999999",
    b"Content-Length: 18446744073709551619",  # 3, if 64 bits overflow
    *(b"Transfer-Encoding: chunked", b"Connection: keep-alive", b"Connection: Keep-Alive"),
    *(b"Connection: close", b"Connection: keep-alive, upgrade", b"Proxy-Connection: close"),
    *(b"Keep-Alive: timeout=5", b"Upgrade: h2c", b"Expect: 100-continue", b"TE: trailers", b"Trailer: X"),
    *(b"X-Call-Id: a1", b"x-call-ID: second", b"X-Timeout: 1s", b"X-Timeout:  1s", b"X-Timeout: 1s "),
    *(b"X-Timeout:1s", b"X-Timeout : 1s", b" X-Timeout: 1s", b"X_Y!#$: ~ \t\x80", b"Accept: a/b"),
    *(b"A: \x00", b"A: b\rC: d", b"A: \x7f", b": empty", b"no colon"),
)
LINE = b"POST / HTTP/1.1"
LINES = (
    *(LINE, b"GET /a/b?c=%20d&e HTTP/1.1", b"PUT /f HTTP/1.1", b"PATCH /:@!$&'()*+,;= HTTP/1.1"),
    *(b"DELETE /~._- HTTP/1.1", b"HEAD / HTTP/1.1", b"OPTIONS * HTTP/1.1", b"post / HTTP/1.1"),
    *(b"POST / HTTP/1.0", b"POST / HTTP/1.2", b"POST / http/1.1", b"POST  / HTTP/1.1", b"POST / HTTP/1.1 "),
    *(b"POST http://x/ HTTP/1.1", b"POST /#a HTTP/1.1", b'POST /"{} HTTP/1.1', b"POST /\x80 HTTP/1.1"),
    *(b"POST x HTTP/1.1", b"POST /", b""),
)


def request(*lines: bytes, body: bytes = b"abc") -> bytes:
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def agree(*pieces: bytes) -> None:
    """Pieces take the same course either way, and what is plain alone is one whole request that is kept."""
    assert compiled is not None
    read_twice(list(pieces))
    for data in pieces:
        found = compiled.plain_request(data, NOTED, MAX_HEADER_BYTES)
        if found is not None:
            method, target, head, captured, length, body = found
            size = None if length < 0 else length
            reading = read_twice([data])
            assert reading.messages == [
                Message(method, target, head, captured or {}, size, len(body), body, keep_alive=True)
            ]
            assert reading.end == "open"


@pytest.mark.parametrize("line", LINES)
def test_a_request_line_is_read_alike(line: bytes):
    agree(request(line, HOST, LENGTH), request(LINE, HOST, LENGTH))


@pytest.mark.parametrize("header", HEADERS)
def test_a_header_is_read_alike_wherever_it_stands(header: bytes):
    for lines in ((HOST, header, LENGTH), (header, HOST, LENGTH), (header, LENGTH), (HOST, header)):
        agree(request(LINE, *lines))


def test_most_requests_that_platforms_send_are_plain():
    assert compiled is not None
    gateway = request(
        *(b"POST /function/a?b=c HTTP/1.1", b"Host: 10.42.0.7:8080", b"User-Agent: curl/8.5.0"),
        *(LENGTH, b"Accept: */*", b"Content-Type: application/json", b"X-Call-Id: 9e5f"),
        *(b"X-Forwarded-For: 10.0.0.1:4242", b"X-Forwarded-Host: gateway.openfaas:8080"),
        *(b"X-Start-Time: 1732622222222222222", b"Accept-Encoding: gzip"),
    )
    python = request(LINE, HOST, b"Connection: keep-alive", b"Accept-Encoding: gzip, deflate", body=b"")
    assert compiled.plain_request(python, NOTED, MAX_HEADER_BYTES) is not None
    assert compiled.plain_request(gateway, NOTED, len(gateway) - 3) is not None
    assert compiled.plain_request(gateway, NOTED, len(gateway) - 4) is None
