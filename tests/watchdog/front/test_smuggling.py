"""Requests of which two readers could think differently: refused with 400, and the connection closed."""

import pytest

from watchdog.front.connection import CHUNKED, GET, POST, Connection

pytestmark = pytest.mark.usefixtures("speedups")

END = b"0\r\n\r\n"

CASES = {
    "equal lengths": POST + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\nab",
    "conflicting lengths": POST + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\nabc",
    "a list of lengths": POST + b"Content-Length: 2, 2\r\n\r\nab",
    "a signed length": POST + b"Content-Length: +2\r\n\r\nab",
    "a length with an underscore": POST + b"Content-Length: 1_0\r\n\r\n0123456789",
    "a hexadecimal length": POST + b"Content-Length: 0x2\r\n\r\nab",
    "an empty length": POST + b"Content-Length:\r\n\r\n",
    "a length beyond 64 bits": POST + b"Content-Length: 99999999999999999999999\r\n\r\n",
    "length before chunked": POST + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n" + END,
    "length after chunked": POST + b"Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n" + END,
    "gzip": POST + b"Transfer-Encoding: gzip\r\n\r\n" + END,
    "gzip, chunked": POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n" + END,
    "gzip and chunked on two lines": POST
    + b"Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n"
    + END,
    "chunked is not last": POST + b"Transfer-Encoding: chunked, gzip\r\n\r\n" + END,
    "chunked twice": POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n" + END,
    "chunked twice on a line": POST + b"Transfer-Encoding: chunked, chunked\r\n\r\n" + END,
    "chunked in an empty list": POST + b"Transfer-Encoding: ,chunked\r\n\r\n" + END,
    "chunked with a parameter": POST + b"Transfer-Encoding: chunked;q=1\r\n\r\n" + END,
    "almost chunked": POST + b"Transfer-Encoding: xchunked\r\n\r\n" + END,
    "chunked behind a vertical tab": POST + b"Transfer-Encoding: \x0bchunked\r\n\r\n" + END,
    "identity": POST + b"Transfer-Encoding: identity\r\n\r\n",
    "chunked in HTTP/1.0": b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n" + END,
    "a chunk size with 0x": CHUNKED + b"0x3\r\nabc\r\n" + END,
    "a chunk size with a sign": CHUNKED + b"+3\r\nabc\r\n" + END,
    "a negative chunk size": CHUNKED + b"-3\r\nabc\r\n" + END,
    "no chunk size": CHUNKED + b"\r\nabc\r\n" + END,
    "a chunk size after a blank": CHUNKED + b" 3\r\nabc\r\n" + END,
    "a chunk size before a blank": CHUNKED + b"3 \r\nabc\r\n" + END,
    "a chunk size beyond 64 bits": CHUNKED + b"f" * 17 + b"\r\nabc",
    "a chunk longer than its size": CHUNKED + b"3\r\nabcd\r\n" + END,
    "a chunk shorter than its size": CHUNKED + b"3\r\nab\r\n" + END,
    "LF after a chunk size": CHUNKED + b"3\nabc\r\n" + END,
    "LF after a chunk": CHUNKED + b"3\r\nabc\n" + END,
    "LF after the last chunk": CHUNKED + b"0\n\r\n",
    "LF in a chunk extension": CHUNKED + b"3;a\nb\r\nabc\r\n" + END,
    "CR in a chunk extension": CHUNKED + b"3;a\rb\r\nabc\r\n" + END,
    "NUL in a chunk extension": CHUNKED + b"3;a\0b\r\nabc\r\n" + END,
    "LF in a quoted chunk extension": CHUNKED + b'3;a="\nb"\r\nabc\r\n' + END,
    "a length in the trailer": CHUNKED + b"0\r\nContent-Length: 5\r\n\r\nabcde",
    "a coding in the trailer": CHUNKED + b"0\r\nTransfer-Encoding: chunked\r\n\r\n",
    "obsolete folding": POST + b"X: a\r\n b\r\n\r\n",
    "a folded coding": POST + b"Transfer-Encoding:\r\n chunked\r\n\r\n" + END,
    "a folded length": POST + b"Content-Length:\r\n 2\r\n\r\nab",
    "folding in the trailer": CHUNKED + b"0\r\nA: b\r\n c\r\n\r\n",
    "a header after a blank": b"GET / HTTP/1.1\r\n Host: x\r\n\r\n",
    "LF after the request line": b"GET / HTTP/1.1\nHost: x\r\n\r\n",
    "LF after a header": b"GET / HTTP/1.1\r\nHost: x\nA: b\r\n\r\n",
    "LF after the headers": b"GET / HTTP/1.1\r\nHost: x\r\n\n",
    "CR in a header": b"GET / HTTP/1.1\r\nHost: x\rA: b\r\n\r\n",
    "a blank before the colon": b"GET / HTTP/1.1\r\nHost : x\r\n\r\n",
    "a tab before the colon": b"GET / HTTP/1.1\r\nHost\t: x\r\n\r\n",
    "a header without a name": b"GET / HTTP/1.1\r\nHost: x\r\n: y\r\n\r\n",
    "a header without a colon": b"GET / HTTP/1.1\r\nHost: x\r\nfoo\r\n\r\n",
    "a name that is no token": b"GET / HTTP/1.1\r\nHost: x\r\nf(o: 1\r\n\r\n",
    "NUL in a value": b"GET / HTTP/1.1\r\nHost: x\r\nA: b\0c\r\n\r\n",
    "a control character in a value": b"GET / HTTP/1.1\r\nHost: x\r\nA: b\x01c\r\n\r\n",
    "DEL in a value": b"GET / HTTP/1.1\r\nHost: x\r\nA: b\x7fc\r\n\r\n",
    "two hosts": b"GET / HTTP/1.1\r\nHost: x\r\nHost: x\r\n\r\n",
    "no host": b"GET / HTTP/1.1\r\n\r\n",
    "a host that is none": b"GET / HTTP/1.1\r\nHost: x/y\r\n\r\n",
    "a host with a user": b"GET http://me@x/ HTTP/1.1\r\nHost: x\r\n\r\n",
    "CONNECT": b"CONNECT x:80 HTTP/1.1\r\nHost: x\r\n\r\n",
    "CONNECT with a path": b"CONNECT / HTTP/1.1\r\nHost: x\r\nContent-Length: 40\r\n\r\n",
    "GET *": b"GET * HTTP/1.1\r\nHost: x\r\n\r\n",
    "another scheme": b"GET ftp://x/ HTTP/1.1\r\nHost: x\r\n\r\n",
    "a target with a blank": b"GET /a b HTTP/1.1\r\nHost: x\r\n\r\n",
    "a target with NUL": b"GET /\0 HTTP/1.1\r\nHost: x\r\n\r\n",
    "HTTP/0.9": b"GET /\r\n\r\n",
    "HTTP/2.0": b"GET / HTTP/2.0\r\nHost: x\r\n\r\n",
    "no HTTP": b"hello\r\n\r\n",
    "a negative length": POST + b"Content-Length: -1\r\n\r\n",
    "HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
}


@pytest.mark.parametrize("data", CASES.values(), ids=CASES)
def test_ambiguous_request_gets_400_and_ends_the_connection(data: bytes):
    client = Connection()
    (answer,) = client.send(data + GET)
    assert (answer.status, answer.headers["connection"]) == (400, "close")
    assert client.wire.closed
    assert not client.application.messages


def test_a_trailer_does_not_pass_for_a_header():
    client = Connection()
    client.send(CHUNKED + b"2\r\nab\r\n0\r\nHost: y\r\nX-Timeout: 1s\r\n\r\n")
    (message,) = client.application.messages
    assert message.body == b"ab"
    assert message.captured_headers == {}
    assert message.headers == [(b"host", b"x"), (b"transfer-encoding", b"chunked")]


@pytest.mark.parametrize(
    ("line", "target", "host"),
    [
        (b"GET http://y:81/a?b HTTP/1.1", b"/a?b", b"y:81"),
        (b"GET HTTP://y HTTP/1.1", b"/", b"y"),
        (b"GET http://y?b HTTP/1.1", b"/?b", b"y"),
        (b"OPTIONS http://y HTTP/1.1", b"*", b"y"),
        (b"OPTIONS * HTTP/1.1", b"*", b"x"),
    ],
)
def test_an_absolute_target_gives_the_path_and_the_host(line: bytes, target: bytes, host: bytes):
    client = Connection()
    client.send(line + b"\r\nHost: x\r\n\r\n")
    (message,) = client.application.messages
    assert (message.target, message.headers) == (target, [(b"host", host)])
