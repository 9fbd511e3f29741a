"""Sends the answers of one connection in the order of their requests.

Owns the head of an answer, its framing, and how much may wait for a client. An exchange is answered once by
``respond``, or by ``begin``, ``send`` and ``end``; its answer leaves when those before it have left.
"""

import asyncio
from http import HTTPStatus
from typing import Final

from batching_watchdog.front.connections import Connections
from batching_watchdog.front.exchange import Exchange
from batching_watchdog.front.line import Line
from batching_watchdog.front.state import ANSWERS, IDLE, LOST

MAX_PIPELINED: Final = 64
"""Unanswered requests of one connection at which reading from it stops; those of one read are taken."""
REQUEST_BYTES: Final = 1 << 10
"""Bytes that a request counts in addition to its content: about the size of its objects."""
MAX_UNREAD: Final = 1 << 18
"""Bytes that may wait for the client of a streamed answer, besides the largest piece or answer among them."""
SMALL_BYTES: Final = 1 << 16
"""Bytes of an answer's body up to which it is joined to its head: a copy is cheaper than a second write."""

_STATUS_LINES: Final = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus
}


class Answers:
    """The requests of one connection that wait for their answers, and for their turn."""

    __slots__ = ("_connections", "_line", "pending")

    def __init__(self, connections: Connections, line: Line) -> None:
        self._connections = connections
        self._line = line
        # A list, since there is seldom more than one: a deque is twenty times as large, in each of thousands.
        self.pending: list[Exchange] = []

    @property
    def stalled_since(self) -> float | None:
        """Time since which unread bytes of an answer wait for the client."""
        return self._line.stalled_since

    def abort(self) -> None:
        """Close at once."""
        self._line.abort()

    def respond(self, exchange: Exchange, status: int, head: bytes, body: bytes) -> None:
        """Store an answer, and send all answers that are next in order."""
        line = self._line
        if line.state is LOST or exchange.answer is not None:
            return
        exchange.on_disconnect = None
        connections = self._connections
        connections.queued_bytes -= exchange.held
        exchange.held = 0
        if connections.closing and exchange is self.pending[-1]:
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
        first = _STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status
        exchange.answer = (
            b"".join((first, connections.date_line, head, length, connection, b"\r\n")),
            body,
        )
        if exchange is not self.pending[0]:
            exchange.header_block = exchange.body = b""
            connections.charge(exchange, REQUEST_BYTES + len(exchange.target) + len(head) + len(body))
        self._send(line)

    def begin(self, exchange: Exchange, status: int, head: bytes) -> None:
        """Begin an answer whose length is not known: chunked, or until the connection closes (HTTP/1.0)."""
        exchange.body = b""
        exchange.parts = []
        framing = b"Transfer-Encoding: chunked\r\n"
        if exchange.http_1_0:
            exchange.keep_alive, framing = False, b""
        if not exchange.keep_alive:
            framing += b"Connection: close\r\n"
        first = _STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status
        self._add(exchange, b"".join((first, self._connections.date_line, head, framing, b"\r\n")))

    def send(self, exchange: Exchange, data: bytes) -> bool:
        """Send bytes of a streamed answer; return False if too many wait (``MAX_UNREAD``)."""
        return self._add(exchange, _chunk(exchange, data))

    def end(self, exchange: Exchange, data: bytes, *, complete: bool) -> None:
        """End a streamed answer; without ``complete`` close the connection where more bytes would follow."""
        line = self._line
        if line.state is LOST or exchange.parts is None:
            return
        exchange.on_disconnect = None
        last = _chunk(exchange, data)
        if complete and not exchange.http_1_0 and exchange.method != b"HEAD":
            last += b"0\r\n\r\n"
        exchange.keep_alive &= complete
        exchange.answer = (b"".join(exchange.parts), last)
        self._send(line)

    def lose(self) -> None:
        """The client has left: withdraw its requests."""
        for exchange in self.pending:
            self._connections.charge(exchange, 0)
            if exchange.answer is None:
                gone, exchange.on_disconnect = exchange.on_disconnect, None
                if gone is not None:
                    gone()
        self.pending.clear()

    def read_on(self) -> None:
        """Read further requests, or pause while too many wait."""
        self._line.read(room=len(self.pending) < MAX_PIPELINED)

    def _add(self, exchange: Exchange, data: bytes) -> bool:
        line, parts = self._line, exchange.parts
        if line.state not in ANSWERS or parts is None:
            return True  # nobody receives it
        parts.append(data)
        line.largest = max(line.largest, len(data))
        unread = sum(map(len, parts))
        self._connections.charge(exchange, unread)
        if exchange is self.pending[0]:
            self._flush(exchange, line.transport)
            unread = line.transport.get_write_buffer_size()
        return unread <= MAX_UNREAD + line.largest

    def _flush(self, exchange: Exchange, transport: asyncio.Transport) -> None:
        """Write the parts of a streamed answer whose turn it is."""
        parts, exchange.parts = exchange.parts, []
        self._connections.charge(exchange, 0)
        transport.write(b"".join(parts or ()))
        if self._line.stalled_since is not None:
            self._line.count_unsent()

    def _send(self, line: Line) -> None:
        """Send all answers that are next in order."""
        if line.state not in ANSWERS:
            return  # an earlier answer closed the connection
        pending, transport = self.pending, line.transport
        while pending and pending[0].answer is not None:
            done = pending.pop(0)
            answer_head, answer_body = done.answer  # type: ignore[misc] # just tested
            if done.held:
                self._connections.charge(done, 0)
            if line.stalled_since is not None and line.overflows():
                line.abort()
                return
            if len(answer_body) <= SMALL_BYTES:
                transport.write(answer_head + answer_body)
            else:
                line.largest = max(line.largest, len(answer_body))
                transport.writelines((answer_head, answer_body))
            if line.stalled_since is not None:
                line.count_unsent()
            if not done.keep_alive:
                line.close()
                return
        if not pending and line.state is IDLE:
            line.since = self._connections.clock()
            if self._connections.closing:
                line.close()
                return
        elif pending and pending[0].parts:
            self._flush(pending[0], transport)
        if not line.reading:
            self.read_on()


def _chunk(exchange: Exchange, data: bytes) -> bytes:
    """Return ``data`` as the answer's framing has it; an answer to HEAD has no body."""
    if not data or exchange.method == b"HEAD":
        return b""
    return data if exchange.http_1_0 else b"%x\r\n%b\r\n" % (len(data), data)
