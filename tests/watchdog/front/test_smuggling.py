"""Requests of which two readers could think differently: refused with 400, and the connection closed."""

import pytest

from support.connection import CHUNKED, GET, POST, Connection

LENGTH, CODING = b"Content-Length: ", b"Transfer-Encoding: "
FRAMINGS = (
    *(LENGTH + b"2\r\n" + LENGTH + b"2", LENGTH + b"2\r\n" + LENGTH + b"3"),
    *(
        LENGTH + value
        for value in (
            b"2, 2",
            b"+2",
            b"-1",
            b"1_0",
            b"0x2",
            b"",
            b"9" * 23,
            b"18446744073709551619",
            b"\r\n 2",
        )
    ),
    *(LENGTH + b"2\r\n" + CODING + b"chunked", CODING + b"chunked\r\n" + LENGTH + b"2"),
    *(CODING + value for value in (b"gzip", b"gzip, chunked", b"chunked, gzip", b"identity", b"xchunked")),
    *(CODING + value for value in (b"chunked, chunked", b",chunked", b"chunked;q=1", b"\x0bchunked")),
    *(CODING + b"gzip\r\n" + CODING + b"chunked", CODING + b"chunked\r\n" + CODING + b"chunked"),
    CODING + b"\r\n chunked",
)
CHUNKS = (
    *(size + b"\r\nabc\r\n0\r\n\r\n" for size in (b"0x3", b"+3", b"-3", b"", b" 3", b"3 ", b"f" * 17)),
    *(size + b"\r\nabc\r\n0\r\n\r\n" for size in (b"2", b"4", b"3;a\nb", b"3;a\rb", b"3;a\0b", b'3;a="\nb"')),
    *(b"3\nabc\r\n0\r\n\r\n", b"3\r\nabc\n0\r\n\r\n", b"0\n\r\n"),
    *(b"0\r\nContent-Length: 5\r\n\r\nabcde", b"0\r\nTransfer-Encoding: chunked\r\n\r\n"),
    b"0\r\nA: b\r\n c\r\n\r\n",
)
HEADERS = (
    *(b"X: a\r\n b", b" X: a", b"X : a", b"X\t: a", b": a", b"foo", b"f(o: 1", b"X: a\nB: c", b"X: a\rB: c"),
    *(b"X: b\0c", b"X: b\x01c", b"X: b\x7fc", b"Host: x"),
)
LINES = (
    *(b"CONNECT x:80", b"CONNECT /", b"GET *", b"GET ftp://x/", b"GET http://me@x/", b"GET /a b", b"GET /\0"),
    *(b"POST / HTTP/1.0\r\n" + CODING + b"chunked", b"GET / HTTP/2.0", b"GET / HTTP/1.1\n"),
)
OTHERS = (
    *(b"GET / HTTP/1.1\r\nHost: x\r\n\n", b"GET / HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1\r\nHost: x/y\r\n\r\n"),
    *(b"GET /\r\n\r\n", b"hello\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
)


@pytest.mark.parametrize(
    "data",
    [
        *(POST + framing + b"\r\n\r\n0\r\n\r\n" for framing in FRAMINGS),
        *(CHUNKED + chunks for chunks in CHUNKS),
        *(GET[:-2] + header + b"\r\n\r\n" for header in HEADERS),
        *((line if b"HTTP" in line else line + b" HTTP/1.1") + b"\r\nHost: x\r\n\r\n" for line in LINES),
        *OTHERS,
    ],
)
def test_ambiguous_request_gets_400_and_ends_the_connection(data):
    client = Connection()
    (answer,) = client.send(data + GET)
    assert (answer.status, answer.headers["connection"]) == (400, "close")
    assert client.wire.closed
    assert not client.application.messages


def test_trailer_does_not_pass_for_a_header():
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
def test_absolute_target_gives_the_path_and_the_host(line, target, host):
    client = Connection()
    client.send(line + b"\r\nHost: x\r\n\r\n")
    (message,) = client.application.messages
    assert (message.target, message.headers) == (target, [(b"host", host)])
