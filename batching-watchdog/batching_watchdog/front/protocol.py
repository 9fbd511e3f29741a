"""Speaks HTTP/1.1 on one connection: bytes in, requests out; answers in, bytes out.

Owns everything that is HTTP: limits on header and body, timeouts, keep-alive, pipelining, Expect, HEAD,
refusing at the header. It knows nothing of batches. A whole request goes to the ``Application`` as an
``Exchange``, which is answered once by ``respond``; answers leave in the order of their requests. Next step:
``routes``.

httptools (llhttp, Node's parser) parses in its strict mode. This module refuses inputs that llhttp accepts
and RFC 9112 forbids; tests/watchdog/front/test_conformance.py compares the result with another implementation
and lists every difference.

This is the hot path of every request, so no request has a task, a future or a timer: ``Connections.sweep``
checks the timeouts once per second.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.utils import formatdate
from http import HTTPStatus
from types import MappingProxyType
from typing import Final, Protocol

import httptools

from batching_watchdog.errors import (
    BadRequest,
    BodyTooLarge,
    HeadersTooLarge,
    QueueFull,
    RequestTimedOut,
    ShuttingDown,
    TooManyConnections,
    WatchdogError,
)
from batching_watchdog.front.exchange import Exchange
from batching_watchdog.front.head import check_head, read_framing
from batching_watchdog.front.loop_lag import LoopLag
from batching_watchdog.function import wire

MAX_HEADER_BYTES: Final = 1 << 16
"""Maximum bytes of request line and headers. of-watchdog allows 1 MiB; nginx 32 KiB, Node 16 KiB."""
OVERHEAD_PER_BYTE: Final = 16
"""Bytes of chunk framing allowed per byte of a chunked body. Any further ones may not exceed
``MAX_HEADER_BYTES``, which cuts endless extensions, zeros and trailers (as Go's net/http does)."""
MAX_UNSENT_BYTES: Final = 1 << 26
"""Bytes of unread answers, but for the largest, beyond which a client is cut at its next answer."""
MAX_PIPELINED: Final = 64
"""Unanswered requests of one connection at which reading from it stops; those of one read are taken."""
KEEP_ALIVE_SECONDS: Final = 3900.0
"""Seconds after which an idle connection is closed: longer than usual clients keep theirs (nginx 60 s,
Knative's activator and queue-proxy 90 s, Envoy 1 h), so that they close first and no request is lost."""
DISCARD_BYTES: Final = 1 << 16
"""Bytes of a refused request's body up to which it is read and dropped to keep the connection open."""
LINGER_SECONDS: Final = 2.0
"""Seconds of reading after a close while the client still sends: otherwise the kernel resets the connection,
and the client never sees the answer."""
CONNECTION_BYTES: Final = 1 << 12
REQUEST_BYTES: Final = 1 << 10
HEADER_BYTES: Final = 1 << 7
"""Bytes that a connection, a request and a header of an incomplete head count in addition to their content:
about the size of the objects."""
SMALL_PART: Final = 1 << 12
"""Bytes up to which parts of a body are joined: a separate object has tens of bytes of overhead."""
SURPLUS_CONNECTIONS: Final = 32
"""Connections beyond ``max_connections`` that get a refusal as an answer; further ones are reset."""
SURPLUS_SECONDS: Final = 2.0
"""Seconds that a surplus connection has to send the request that will be refused."""
UNSENT_SHARE: Final = 2
"""Answers that clients have not read have at most ``max_queued_bytes`` divided by this, and one batch of a
worker: beyond it no worker's answers are read."""
STALL_SECONDS: Final = 1.0
LEAST_RATE: Final = 1 << 18
"""While too much is held, a client is cut whose answer has waited for so many seconds, if it has read fewer
bytes per second than this since."""
IDLE_SECONDS: Final = 1.0
"""Seconds without a request after which a connection may be closed for a new one."""
SEARCH: Final = 32
"""Connections that are checked to find one that is idle, or one that reads too slowly."""
MAX_UNREAD: Final = 1 << 18
"""Bytes that may wait for the client of a streamed answer, besides the largest piece or answer among them."""
SMALL_BYTES: Final = 1 << 16
"""Bytes of an answer's body up to which it is joined to its head: a copy is cheaper than a second write."""

log = logging.getLogger(__name__)

_NOTHING: Final[Mapping[bytes, bytes]] = MappingProxyType({})

_STATUS_LINES: Final = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus
}


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits on clients. Durations are seconds."""

    max_body_bytes: int
    read_timeout: float
    write_timeout: float
    max_queued_bytes: int
    """Maximum bytes held for all clients: requests until they are answered, answers until they are read, and
    connections."""
    max_connections: int


class Application(Protocol):
    """The served application. Its calls are synchronous; an answer may come at once or later."""

    @property
    def captured_headers(self) -> frozenset[bytes]:
        """The headers, in lower case, that ``Exchange.captured_headers`` must hold by name."""

    @property
    def always_served(self) -> frozenset[bytes]:
        """The paths of probes, which are served regardless of the limits."""

    def share(self, exchange: Exchange) -> float:
        """Return the share of ``Limits.max_queued_bytes`` that a request with this head may help to fill."""

    def refuse(self, exchange: Exchange) -> WatchdogError | None:
        """Check a request whose header is complete; an error answers it before its body is read."""

    def handle(self, exchange: Exchange) -> None:
        """Take a complete request; ``exchange.respond`` must be called once."""

    def answer_error(self, exchange: Exchange, error: WatchdogError) -> None:
        """Respond with ``error``."""


class Connections:
    """All open connections of one listener: their limits, timeouts, and orderly end."""

    def __init__(
        self,
        application: Application,
        limits: Limits,
        clock: Callable[[], float],
        loop_lag: LoopLag | None = None,
        pause_answers: Callable[[bool], None] = lambda paused: None,
    ) -> None:
        """``loop_lag`` measures the time of requests in the kernel; without it that time counts as 0.

        ``pause_answers``: told when the application should stop (True) or go on to answer, for slow clients.
        """
        self.application = application
        self.limits = limits
        self.clock = clock
        self.loop_lag = loop_lag
        self.captured = application.captured_headers
        self.closing = False
        self._all_closed = asyncio.Event()
        self._pause_answers = pause_answers
        self.queued_bytes = 0
        """Bytes held now, limited by ``Limits.max_queued_bytes``."""
        self._unsent_bytes = 0
        """Those of answers that clients have not read."""
        self.paused = False
        """Whether these are too many."""
        self.max_connections = min(limits.max_connections, limits.max_queued_bytes // (2 * CONNECTION_BYTES))
        """Maximum connections, which may hold half of ``Limits.max_queued_bytes``."""
        self.surplus = 0
        """Open connections beyond them."""
        self.stalled: OrderedDict[HttpProtocol, None] = OrderedDict()
        """Connections whose clients do not read, the longest first."""
        self._cut = 0
        """Number of them that were cut since the last sweep."""
        self.open: OrderedDict[HttpProtocol, None] = OrderedDict()
        self.date_line = b""
        """The Date header line, as of the last sweep."""

    def protocol(self) -> "HttpProtocol":
        """Return the protocol of a new connection: the listener's factory."""
        return HttpProtocol(self)

    def sweep(self, wall_clock: float) -> None:
        """Cut timed-out connections, and renew the Date header. Call it about once per second."""
        self.date_line = f"Date: {formatdate(wall_clock, usegmt=True)}\r\n".encode()
        now = self.clock()
        for protocol in tuple(self.open):
            protocol.check_timeouts(now)
        self.cut_stalled(len(self.stalled))
        if self._cut:
            log.warning("clients that read too slowly: %d were cut, max_queued_bytes was exceeded", self._cut)
            self._cut = 0

    def opened(self, protocol: "HttpProtocol") -> None:
        """Register a connection. Beyond the limit, close an idle one for it, or mark it as surplus."""
        self.open[protocol] = None
        self.queued_bytes += CONNECTION_BYTES
        if len(self.open) <= self.max_connections or self._close_an_idle_one():
            return
        protocol.surplus = True
        self.surplus += 1
        if self.surplus > SURPLUS_CONNECTIONS:
            protocol.abort()

    @property
    def unread(self) -> int:
        """Number of connections with unread bytes of an answer."""
        return len(self.stalled)

    def drain(self, *, at_once: bool = False) -> None:
        """Close each connection after its outstanding answers, an idle one at once.

        Refuse requests without a complete head; with ``at_once`` also those without a complete body.
        """
        self.closing = True
        for protocol in tuple(self.open):
            protocol.drain(at_once=at_once)
        if not self.open:
            self._all_closed.set()

    async def drained(self) -> None:
        """Wait until every connection is closed. Call it after ``drain``."""
        await self._all_closed.wait()

    def closed(self, protocol: "HttpProtocol") -> None:
        """Remove a closed connection."""
        self.open.pop(protocol, None)
        self.surplus -= protocol.surplus
        if self.closing and not self.open:
            self._all_closed.set()

    def abort(self) -> None:
        """Close all connections at once."""
        for protocol in tuple(self.open):
            protocol.abort()

    def charge(self, exchange: Exchange, held: int) -> None:
        """Count ``exchange`` as ``held`` bytes from now on."""
        self.queued_bytes += held - exchange.held
        exchange.held = held

    def _close_an_idle_one(self) -> bool:
        """Close the first idle connection among the next few; return False if none is idle."""
        now = self.clock()
        for _ in range(min(SEARCH, len(self.open))):
            protocol = next(iter(self.open))
            self.open.move_to_end(protocol)
            if protocol.close_if_idle(now):
                return True
        return False

    def count_unsent(self, change: int) -> None:
        """Count ``change`` bytes of answers that clients have not read; pause the answers at too many."""
        self.queued_bytes += change
        self._unsent_bytes += change
        paused = self._unsent_bytes * UNSENT_SHARE > self.limits.max_queued_bytes
        if paused != self.paused:
            self.paused = paused
            self._pause_answers(paused)

    def cut_stalled(self, most: int = SEARCH) -> None:
        """Cut clients among the next ``most`` stalled ones that read too slowly, while too much is held."""
        now = self.clock()
        for _ in range(min(most, len(self.stalled))):
            if not self.paused and self.queued_bytes <= self.limits.max_queued_bytes:
                return
            protocol = next(iter(self.stalled))
            self.stalled.move_to_end(protocol)
            if protocol.reads_slowly(now):
                protocol.abort()
                self._cut += 1


class HttpProtocol(asyncio.Protocol):
    """One connection."""

    __slots__ = (
        "_application", "_clock", "_closing", "_connections", "_current", "_excess", "_largest", "_limits",
        "_lingers_until", "_parser", "_pending", "_read", "_reading", "_resumed", "_since", "_transport",
        "_unsent", "stalled_since", "surplus",
    )  # fmt: skip

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._application = connections.application
        self._limits = connections.limits
        self._clock = connections.clock
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        # A list, since there is seldom more than one: a deque is twenty times as large, in each of thousands.
        self._pending: list[Exchange] = []
        self._current: Exchange | None = None
        self._resumed: Exchange | None = None
        """A request for an upgrade, while a new parser is created to read its body."""
        self._excess = 0
        """Bytes since the last complete header or sufficient part of a body."""
        self._reading = True
        self._closing = False
        """Whether further bytes are dropped."""
        self._since = self._clock()
        """Time when the request being received began, or when the connection became idle."""
        self.stalled_since: float | None = None
        """Time since which unread bytes of an answer wait for the client."""
        self._unsent = 0
        """Unread bytes of answers, by the last count."""
        self._largest = 0
        """Bytes of the largest piece or answer since all were read: it comes at once, whatever the client
        reads."""
        self._read = 0
        """Bytes that the client has read since ``stalled_since``."""
        self.surplus = False
        """Whether the connection exceeds the limit: its first request is refused."""
        self._lingers_until: float | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Asyncio: a client connected."""
        self._transport = transport  # type: ignore[assignment] # a stream connection
        transport.set_write_buffer_limits(0)  # type: ignore[attr-defined] # pause when the kernel takes no more
        self._connections.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Asyncio: the client left; withdraw its requests."""
        self._transport = None
        connections, current = self._connections, self._current
        connections.queued_bytes -= CONNECTION_BYTES
        connections.count_unsent(-self._unsent)
        self._unsent = 0
        connections.stalled.pop(self, None)
        if current is not None:
            connections.charge(current, 0)
        for exchange in self._pending:
            connections.charge(exchange, 0)
            if exchange.answer is None:
                gone, exchange.on_disconnect = exchange.on_disconnect, None
                if gone is not None:
                    gone()
        connections.closed(self)
        self._pending.clear()
        self._current = self._resumed = None
        self._closing = True
        # The parser refers to methods of this object. Breaking the cycle frees both now: collections are rare
        # (see ``app``), and reach long-lived objects last.
        del self._parser

    def eof_received(self) -> bool:
        """Asyncio: the client closed its side, which counts as leaving, as for Go's server and nginx."""
        return False

    def pause_writing(self) -> None:
        """Asyncio: the client reads too slowly: stop reading requests from it."""
        self.stalled_since, self._read = self._clock(), 0
        connections = self._connections
        connections.stalled[self] = None
        self._count_unsent()
        if connections.queued_bytes > self._limits.max_queued_bytes:
            connections.cut_stalled()
        self._update_reading()

    def resume_writing(self) -> None:
        """Asyncio: the client reads again."""
        self.stalled_since = None
        self._largest = 0
        self._connections.stalled.pop(self, None)
        self._count_unsent()
        self._update_reading()

    def data_received(self, data: bytes) -> None:
        """Asyncio: bytes arrived."""
        if self._closing:
            return
        self._parse(data)
        if self._connections.loop_lag is not None:
            self._connections.loop_lag.read_done()

    def _parse(self, data: bytes | memoryview) -> None:
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
            self._fail(cause)
        except httptools.HttpParserError as error:
            self._fail(BadRequest(f"not an HTTP/1.1 request: {error}"))
        else:
            if current is not None and current is self._current:
                # The parser buffers unfinished lines, so its callbacks cannot limit them.
                excess = self._excess + len(data) - OVERHEAD_PER_BYTE * (current.size - size)
                self._excess = max(excess, 0)
                if excess > MAX_HEADER_BYTES:
                    self._fail(_headers_too_large())
            current = self._current
            if current is not None and not current.head_complete and not self._closing:
                headers = current.head_size + HEADER_BYTES * len(current.headers)
                unfinished = self._excess + len(data)
                self._connections.charge(current, REQUEST_BYTES + headers + unfinished)
                self._check_room()
        if rest is not None:
            self._read_body_after_upgrade(rest)

    def _came_at(self, now: float) -> float:
        """Return the earliest arrival time of bytes that are read ``now``."""
        loop_lag = self._connections.loop_lag
        return now if loop_lag is None else loop_lag.came_at(now)

    def on_message_begin(self) -> None:
        """Parser: a request begins."""
        if self._closing:
            raise BadRequest("a request after the last one of the connection")
        self._excess = 0
        self._since = now = self._clock()
        came = self._came_at(now)
        self._current = Exchange(self, came, came, _NOTHING)

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
        if name in self._connections.captured:
            exchange.captured_headers = {**exchange.captured_headers, name: value}
        else:
            read_framing(exchange, name, value)

    def on_headers_complete(self) -> None:
        """Parser: the header is complete; refuse requests that need no body for that."""
        exchange = self._current
        assert exchange is not None  # noqa: S101 - the parser calls on_message_begin first
        if self._resumed is not None:
            self._current, self._resumed = self._resumed, None
            return
        parser = self._parser
        exchange.method = parser.get_method()
        exchange.keep_alive = parser.should_keep_alive()
        check_head(exchange, parser.get_http_version())
        exchange.head_complete = True
        exchange.arrived = self._came_at(self._clock())
        error = self._refusal(exchange)
        if error is None:
            exchange.header_block = wire.request_header_block(
                exchange.method, exchange.target, exchange.headers
            )
            self._connections.charge(exchange, REQUEST_BYTES + len(exchange.header_block))
        exchange.headers = []  # they are in the head, and the queue may be long
        if parser.should_upgrade():
            # The parser leaves the body to the new protocol and ends the request; see data_received.
            exchange.keep_alive = False
            self._resumed = exchange
            self._current = unused = Exchange(self, 0.0, 0.0, _NOTHING)
            unused.head_complete = unused.refused = True
        self._pending.append(exchange)
        if error is not None:
            self._refuse(exchange, error)
        elif exchange.expects_continue and self._transport is not None and exchange is self._pending[0]:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if len(self._pending) >= MAX_PIPELINED:
            self._update_reading()

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
        if exchange.size > self._limits.max_body_bytes:
            raise BodyTooLarge(
                f"the body is longer than {self._limits.max_body_bytes} bytes (max_body_bytes)"
            )
        if connections.queued_bytes > exchange.most_held:
            raise QueueFull.of_bytes(exchange.most_held)
        if size == exchange.size:
            exchange.body = body
        elif exchange.chunks is None:
            exchange.chunks = [exchange.body, body]
        elif len(exchange.chunks[-1]) + size <= SMALL_PART:
            exchange.chunks[-1] += body
        else:
            exchange.chunks.append(body)

    def on_message_complete(self) -> None:
        """Parser: the request is complete."""
        exchange = self._current
        assert exchange is not None  # noqa: S101 - the parser calls on_message_begin first
        self._current = None
        if exchange.refused:
            return
        if not exchange.keep_alive:
            self._closing = True
        if exchange.chunks is not None:
            exchange.body = b"".join(exchange.chunks)
            exchange.chunks = None
        if exchange.length or exchange.chunked:
            exchange.arrived = self._came_at(self._clock())
        self._application.handle(exchange)

    def respond(self, exchange: Exchange, status: int, head: bytes, body: bytes) -> None:
        """Store an answer, and send all answers that are next in order."""
        transport = self._transport
        if transport is None or exchange.answer is not None:
            return
        exchange.on_disconnect = None
        connections = self._connections
        connections.queued_bytes -= exchange.held
        exchange.held = 0
        if connections.closing and exchange is self._pending[-1]:
            # Not earlier: answers to earlier requests must still be sent.
            exchange.keep_alive = False
        connection = b""
        if not exchange.keep_alive:
            connection = b"Connection: close\r\n"
        elif exchange.http_1_0:
            connection = b"Connection: keep-alive\r\n"
        no_body = status in (204, 304)
        length = b"" if no_body else b"Content-Length: %d\r\n" % len(body)
        if no_body or exchange.method == b"HEAD":
            body = b""
        line = _STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status
        exchange.answer = (
            b"".join((line, connections.date_line, head, length, connection, b"\r\n")),
            body,
        )
        if exchange is not self._pending[0]:
            exchange.header_block = exchange.body = b""
            connections.charge(exchange, REQUEST_BYTES + len(exchange.target) + len(head) + len(body))
        self._send_answers(transport)

    def begin(self, exchange: Exchange, status: int, head: bytes) -> None:
        """Begin an answer whose length is not known: chunked, or until the connection closes (HTTP/1.0)."""
        exchange.body = b""
        exchange.parts = []
        framing = b"Transfer-Encoding: chunked\r\n"
        if exchange.http_1_0:
            exchange.keep_alive, framing = False, b""
        if not exchange.keep_alive:
            framing += b"Connection: close\r\n"
        line = _STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status
        self._add(exchange, b"".join((line, self._connections.date_line, head, framing, b"\r\n")))

    def send(self, exchange: Exchange, data: bytes) -> bool:
        """Send bytes of a streamed answer; return False if too many wait (``MAX_UNREAD``)."""
        return self._add(exchange, _chunk(exchange, data))

    def end(self, exchange: Exchange, data: bytes, *, complete: bool) -> None:
        """End a streamed answer; without ``complete`` close the connection where more bytes would follow."""
        transport = self._transport
        if transport is None or exchange.parts is None:
            return
        exchange.on_disconnect = None
        last = _chunk(exchange, data)
        if complete and not exchange.http_1_0 and exchange.method != b"HEAD":
            last += b"0\r\n\r\n"
        exchange.keep_alive &= complete
        exchange.answer = (b"".join(exchange.parts), last)
        self._send_answers(transport)

    def _add(self, exchange: Exchange, data: bytes) -> bool:
        transport, parts = self._transport, exchange.parts
        if transport is None or parts is None:
            return True  # the client has left, and the application has been told
        parts.append(data)
        self._largest = max(self._largest, len(data))
        unread = sum(map(len, parts))
        self._connections.charge(exchange, unread)
        if exchange is self._pending[0]:
            self._flush(exchange, transport)
            unread = transport.get_write_buffer_size()
        return unread <= MAX_UNREAD + self._largest

    def _flush(self, exchange: Exchange, transport: asyncio.Transport) -> None:
        """Write the parts of a streamed answer whose turn it is."""
        parts, exchange.parts = exchange.parts, []
        self._connections.charge(exchange, 0)
        transport.write(b"".join(parts or ()))
        if self.stalled_since is not None:
            self._count_unsent()

    def _send_answers(self, transport: asyncio.Transport) -> None:
        """Send all answers that are next in order."""
        pending = self._pending
        while pending and pending[0].answer is not None:
            done = pending.pop(0)
            answer_head, answer_body = done.answer  # type: ignore[misc] # just tested
            if done.held:
                self._connections.charge(done, 0)
            if self.stalled_since is not None:
                most = min(MAX_UNSENT_BYTES, self._limits.max_queued_bytes)
                if transport.get_write_buffer_size() > most + self._largest:
                    self.abort()
                    return
            if len(answer_body) <= SMALL_BYTES:
                transport.write(answer_head + answer_body)
            else:
                self._largest = max(self._largest, len(answer_body))
                transport.writelines((answer_head, answer_body))
            if self.stalled_since is not None:
                self._count_unsent()
            if not done.keep_alive:
                self._close()
                return
        if not pending and self._current is None:
            self._since = self._clock()
            if self._connections.closing:
                self._close()
                return
        elif pending and pending[0].parts:
            self._flush(pending[0], transport)
        if not self._reading:
            self._update_reading()

    def check_timeouts(self, now: float) -> None:
        """Cut the connection if the client is too slow in sending or in reading, or idle for too long."""
        stalled = self.stalled_since
        if stalled is not None:
            self._count_unsent()
            if now - stalled > self._limits.write_timeout:
                self.abort()
        elif self._lingers_until is not None:
            if now > self._lingers_until:
                self.abort()
        elif self._current is not None:
            limit = SURPLUS_SECONDS if self.surplus else self._limits.read_timeout
            if now - self._since > limit:
                self._fail(RequestTimedOut(f"the request did not come within {limit:g} s"))
        elif not self._pending and now - self._since > (
            SURPLUS_SECONDS if self.surplus else KEEP_ALIVE_SECONDS
        ):
            self._close()

    def drain(self, *, at_once: bool) -> None:
        """Close an idle connection; refuse an incomplete request, as in ``Connections.drain``."""
        current = self._current
        if current is None:
            if not self._pending:
                self._close()
        elif at_once or not current.head_complete:
            self._fail(ShuttingDown("the watchdog is shutting down"))

    def close_if_idle(self, now: float) -> bool:
        """Close the connection if it has been idle for long enough; return whether it did."""
        busy = self._pending or self._current is not None or self.stalled_since is not None
        if busy or self._closing or now - self._since < IDLE_SECONDS:
            return False
        self._close()
        return True

    def abort(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._connections.count_unsent(-self._unsent)
            self._unsent = 0
            self._connections.stalled.pop(self, None)
            self._transport.abort()

    def reads_slowly(self, now: float) -> bool:
        """Return whether the client has long had bytes to read, and has read few of them."""
        self._count_unsent()
        waited = 0.0 if self.stalled_since is None else now - self.stalled_since
        return waited >= STALL_SECONDS and self._read < LEAST_RATE * waited

    def _count_unsent(self) -> None:
        """Count the bytes of answers that the kernel has not accepted."""
        if self._transport is not None:
            unsent = self._transport.get_write_buffer_size()
            self._read += max(0, self._unsent - unsent)
            self._connections.count_unsent(unsent - self._unsent)
            self._unsent = unsent

    def _check_room(self) -> None:
        """Refuse the request being received if more bytes are held than allowed."""
        if self._connections.queued_bytes > self._limits.max_queued_bytes:
            self._fail(QueueFull.of_bytes(self._limits.max_queued_bytes))

    def _fail(self, error: WatchdogError) -> None:
        """Answer a request that cannot be read completely, after earlier ones, and stop reading."""
        if self._closing:
            return
        exchange = self._current
        if exchange is None:
            now = self._clock()
            exchange = Exchange(self, now, now, _NOTHING)
        if exchange.answer is not None and exchange not in self._pending:
            self._close()  # refused at its header, and the refusal is sent
            return
        self._current = exchange
        self._closing = True
        exchange.keep_alive = False
        if exchange not in self._pending:
            self._pending.append(exchange)
        if exchange.answer is None:
            self._application.answer_error(exchange, error)
        # The connection may stay open for a while; the received part of the request no longer counts.
        self._parser = httptools.HttpRequestParser(self)
        exchange.headers, exchange.chunks, exchange.body, exchange.target = [], None, b"", b""

    def _refusal(self, exchange: Exchange) -> WatchdogError | None:
        """Return the error that refuses a request at its complete head, before its body; None if none does.

        An announced length reserves no bytes: otherwise a few clients that send nothing would block others.
        """
        length, limits = exchange.length or 0, self._limits
        if length > limits.max_body_bytes:
            return BodyTooLarge(
                f"the body has {length} bytes, the limit (max_body_bytes) is {limits.max_body_bytes}"
            )
        connections = self._connections
        if self.surplus:
            exchange.keep_alive = False
        exchange.most_held = most = int(limits.max_queued_bytes * self._application.share(exchange))
        full = connections.queued_bytes + length > most
        if (full or self.surplus) and exchange.path not in self._application.always_served:
            if self.surplus:
                return TooManyConnections(connections.max_connections)
            return QueueFull.of_bytes(most)
        return self._application.refuse(exchange)

    def _refuse(self, exchange: Exchange, error: WatchdogError) -> None:
        """Answer at the header; drop a short body, stop reading for a long one."""
        exchange.refused = True
        self._connections.charge(exchange, 0)
        length = exchange.length or 0
        if exchange.chunked or length > DISCARD_BYTES or (length and exchange.expects_continue):
            exchange.keep_alive = False
        if not exchange.keep_alive:
            self._closing = True
        self._application.answer_error(exchange, error)

    def _read_body_after_upgrade(self, data: bytes | memoryview) -> None:
        """Continue with a request for an upgrade, which RFC 9110, 7.8 allows a server to ignore.

        The parser cannot ignore it, so a new one gets the request's framing and the rest.
        """
        exchange = self._resumed
        if exchange is None or self._closing:
            return
        self._parser = httptools.HttpRequestParser(self)
        framing = b"Content-Length: %d\r\n" % (exchange.length or 0)
        if exchange.chunked:
            framing = b"Transfer-Encoding: chunked\r\n"
        self._parse(b"POST / HTTP/1.1\r\nHost: x\r\n" + framing + b"\r\n" + data)

    def _close(self) -> None:
        """Close after all written bytes were sent; linger if the client is still sending a request."""
        self._closing = True
        if self._transport is None or self._lingers_until is not None:
            return
        if self._current is None:
            # Unread bytes would keep the connection open forever.
            self._lingers_until = self._clock() + self._limits.write_timeout
            self._transport.close()
        else:
            self._lingers_until = self._clock() + LINGER_SECONDS
            self._transport.write_eof()

    def _update_reading(self) -> None:
        wanted = self.stalled_since is None and len(self._pending) < MAX_PIPELINED
        if wanted == self._reading or self._transport is None or self._transport.is_closing():
            return
        self._reading = wanted
        if wanted:
            self._transport.resume_reading()
        else:
            self._transport.pause_reading()


def _chunk(exchange: Exchange, data: bytes) -> bytes:
    """Return ``data`` as the answer's framing has it; an answer to HEAD has no body."""
    if not data or exchange.method == b"HEAD":
        return b""
    return data if exchange.http_1_0 else b"%x\r\n%b\r\n" % (len(data), data)


def _headers_too_large() -> HeadersTooLarge:
    return HeadersTooLarge(f"the headers are longer than {MAX_HEADER_BYTES} bytes")
