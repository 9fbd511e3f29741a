"""Reads the requests of one connection: bytes in, exchanges out.

Owns the parser, the limits of a head, Expect, upgrades, and refusing at the head. A whole request goes to the
``Application`` as an ``Exchange``. Next step: ``routes``.

httptools (llhttp, Node's parser) parses in its strict mode. This module refuses inputs that llhttp accepts
and RFC 9112 forbids; tests/watchdog/front/test_conformance.py compares the result with another implementation
and lists every difference.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import httptools

from batching_watchdog.errors import BadRequest, BodyTooLarge, HeadersTooLarge, QueueFull, WatchdogError
from batching_watchdog.front.admission import refusal, refuse
from batching_watchdog.front.answers import MAX_PIPELINED, REQUEST_BYTES, Answers
from batching_watchdog.front.connections import Connections
from batching_watchdog.front.exchange import Exchange
from batching_watchdog.front.head import check_head, read_framing
from batching_watchdog.front.line import Line
from batching_watchdog.front.state import BEGIN, COMPLETE, HEAD, HEAD_COMPLETE, IDLE, STOP, TAKES
from batching_watchdog.function import wire

MAX_HEADER_BYTES: Final = 1 << 16
"""Maximum bytes of request line and headers. of-watchdog allows 1 MiB; nginx 32 KiB, Node 16 KiB."""
OVERHEAD_PER_BYTE: Final = 16
"""Bytes of chunk framing allowed per byte of a chunked body. Any further ones may not exceed
``MAX_HEADER_BYTES``, which cuts endless extensions, zeros and trailers (as Go's net/http does)."""
HEADER_BYTES: Final = 1 << 7
"""Bytes that a header of an incomplete head counts in addition to its content: about its objects' size."""

_NOTHING: Final[Mapping[bytes, bytes]] = MappingProxyType({})


class Reader:
    """Reads one connection; its ``on_`` methods are called by the parser."""

    __slots__ = (
        "_answers", "_application", "_captured", "_clock", "_connections", "_current", "_excess", "_line",
        "_parser", "_resumed",
    )  # fmt: skip

    def __init__(self, connections: Connections, line: Line, answers: Answers) -> None:
        self._connections = connections
        self._application = connections.application
        self._captured = connections.captured
        self._clock = connections.clock
        self._line = line
        self._answers = answers
        self._parser = httptools.HttpRequestParser(self)
        self._current: Exchange | None = None
        self._resumed: Exchange | None = None
        """A request for an upgrade, while a new parser is created to read its body."""
        self._excess = 0
        """Bytes since the last complete header or sufficient part of a body."""

    def fail(self, error: WatchdogError) -> None:
        """Answer a request that cannot be read completely, after earlier ones, and stop reading."""
        line, pending = self._line, self._answers.pending
        if line.state not in TAKES:
            return
        exchange = self._current
        if exchange is None:
            now = self._clock()
            exchange = Exchange(self._answers, now, now, _NOTHING)
            line.go(BEGIN)
        if exchange.answer is not None and exchange not in pending:
            line.close()  # refused at its header, and the refusal is sent
            return
        self._current = exchange
        line.go(STOP)
        exchange.keep_alive = False
        if exchange not in pending:
            pending.append(exchange)
        if exchange.answer is None:
            self._application.answer_error(exchange, error)
        # The connection may stay open for a while; the received part of the request no longer counts.
        self._parser = httptools.HttpRequestParser(self)
        exchange.headers, exchange.chunks, exchange.body, exchange.target = [], None, b"", b""

    def lose(self) -> None:
        """The client has left: forget its incomplete request."""
        if self._current is not None:
            self._connections.charge(self._current, 0)
        self._current = self._resumed = None
        # The parser refers to methods of this object. Breaking the cycle frees both now: collections are rare
        # (see ``app``), and reach long-lived objects last.
        del self._parser

    def parse(self, data: bytes | memoryview) -> None:
        """Pass ``data`` to the parser, whose callbacks are below."""
        current = self._current
        size = 0 if current is None else current.size
        rest: bytes | memoryview | None = None
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            rest = data[upgrade.args[0] :]
        except httptools.HttpParserCallbackError as error:
            cause = error.__context__
            if not isinstance(cause, WatchdogError):
                raise
            self.fail(cause)
        except httptools.HttpParserError as error:
            self.fail(BadRequest(f"not an HTTP/1.1 request: {error}"))
        else:
            if current is not None and current is self._current:
                # The parser buffers unfinished lines, so its callbacks cannot limit them.
                excess = self._excess + len(data) - OVERHEAD_PER_BYTE * (current.size - size)
                self._excess = max(excess, 0)
                if excess > MAX_HEADER_BYTES:
                    self.fail(_headers_too_large())
            current = self._current
            if current is not None and self._line.state is HEAD:
                headers = current.head_size + HEADER_BYTES * len(current.headers)
                unfinished = self._excess + len(data)
                self._connections.charge(current, REQUEST_BYTES + headers + unfinished)
                most = self._connections.limits.max_queued_bytes
                if self._connections.queued_bytes > most:
                    self.fail(QueueFull.of_bytes(most))
        if rest is not None:
            self._read_body_after_upgrade(rest)

    def _came_at(self, now: float) -> float:
        """Return the earliest arrival time of bytes that are read ``now``."""
        loop_lag = self._connections.loop_lag
        return now if loop_lag is None else loop_lag.came_at(now)

    def on_message_begin(self) -> None:
        """Parser: a request begins."""
        line = self._line
        if line.state is not IDLE:
            raise BadRequest("a request after the last one of the connection")
        self._excess = 0
        line.go(BEGIN)
        line.since = now = self._clock()
        came = self._came_at(now)
        self._current = Exchange(self._answers, came, came, _NOTHING)

    def on_url(self, url: bytes) -> None:
        """Parser: a part of the target."""
        exchange = self._current
        assert exchange is not None  # noqa: S101 - the parser calls on_message_begin first
        exchange.target += url
        exchange.head_size += len(url)
        if exchange.head_size > MAX_HEADER_BYTES:
            raise HeadersTooLarge(f"the request line is longer than {MAX_HEADER_BYTES} bytes")

    def on_header(self, name: bytes, value: bytes) -> None:
        """Parser: a header. The limit applies to the sum of all headers."""
        exchange = self._current
        assert exchange is not None  # noqa: S101 - the parser calls on_message_begin first
        size = exchange.head_size + len(name) + len(value) + 4
        if size > MAX_HEADER_BYTES:
            raise _headers_too_large()
        exchange.head_size = size
        if exchange.head_complete:
            # A trailer must not count as a header (RFC 9110, 6.5.1), and trailers are not used here.
            return
        # The parser removes only leading whitespace, and accepts no other than blanks and tabs.
        value = value.rstrip()
        exchange.headers.append((name, value))
        name = name.lower()
        if name in self._captured:
            exchange.captured_headers = {**exchange.captured_headers, name: value}
        else:
            read_framing(exchange, name, value)

    def on_headers_complete(self) -> None:
        """Parser: the header is complete; refuse requests that need no body for that."""
        exchange = self._current
        assert exchange is not None  # noqa: S101 - the parser calls on_message_begin first
        connections, line, pending = self._connections, self._line, self._answers.pending
        line.go(HEAD_COMPLETE)
        if self._resumed is not None:
            self._current, self._resumed = self._resumed, None
            return
        parser = self._parser
        exchange.method = parser.get_method()
        exchange.keep_alive = parser.should_keep_alive()
        check_head(exchange, parser.get_http_version())
        exchange.head_complete = True
        exchange.arrived = self._came_at(self._clock())
        error = refusal(connections, line, exchange)
        if error is None:
            exchange.header_block = wire.request_header_block(
                exchange.method, exchange.target, exchange.headers
            )
            connections.charge(exchange, REQUEST_BYTES + len(exchange.header_block))
        exchange.headers = []  # they are in the head, and the queue may be long
        if parser.should_upgrade():
            # The parser leaves the body to the new protocol and ends the request; see ``parse``.
            exchange.keep_alive = False
            self._resumed = exchange
            self._current = unused = Exchange(self._answers, 0.0, 0.0, _NOTHING)
            unused.head_complete = unused.refused = True
        pending.append(exchange)
        if error is not None:
            refuse(connections, line, exchange, error)
        elif exchange.expects_continue and exchange is pending[0]:
            line.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if len(pending) >= MAX_PIPELINED:
            self._answers.read_on()

    def on_body(self, body: bytes) -> None:
        """Parser: a part of the body."""
        exchange = self._current
        assert exchange is not None  # noqa: S101 - the parser calls on_message_begin first
        size = len(body)
        exchange.size += size
        if exchange.refused:
            return
        connections = self._connections
        connections.queued_bytes += size
        exchange.held += size
        most = connections.limits.max_body_bytes
        if exchange.size > most:
            raise BodyTooLarge(f"the body is longer than {most} bytes (max_body_bytes)")
        if connections.queued_bytes > exchange.most_held:
            raise QueueFull.of_bytes(exchange.most_held)
        if size == exchange.size:
            exchange.body = body
        else:
            exchange.add(body)

    def on_message_complete(self) -> None:
        """Parser: the request is complete."""
        exchange = self._current
        assert exchange is not None  # noqa: S101 - the parser calls on_message_begin first
        self._current = None
        self._line.go(COMPLETE)
        if exchange.refused:
            return
        if not exchange.keep_alive:
            self._line.go(STOP)
        if exchange.chunks is not None:
            exchange.join()
        if exchange.length or exchange.chunked:
            exchange.arrived = self._came_at(self._clock())
        self._application.handle(exchange)

    def _read_body_after_upgrade(self, data: bytes | memoryview) -> None:
        """Continue with a request for an upgrade, which RFC 9110, 7.8 allows a server to ignore.

        The parser cannot ignore it, so a new one gets the request's framing and the rest.
        """
        exchange = self._resumed
        if exchange is None or self._line.state not in TAKES:
            return
        self._parser = httptools.HttpRequestParser(self)
        framing = b"Content-Length: %d\r\n" % (exchange.length or 0)
        if exchange.chunked:
            framing = b"Transfer-Encoding: chunked\r\n"
        self.parse(b"POST / HTTP/1.1\r\nHost: x\r\n" + framing + b"\r\n" + data)


def _headers_too_large() -> HeadersTooLarge:
    return HeadersTooLarge(f"the headers are longer than {MAX_HEADER_BYTES} bytes")
