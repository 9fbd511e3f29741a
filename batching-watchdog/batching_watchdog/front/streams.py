"""Sends an answer piece by piece: server-sent events, JSON lines, or the function's own content type.

Owns the format of streams, and what one has sent by when. ``routes`` begins and ends streams; ``answers``
frames their bytes.
"""

import json
import re
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from batching_watchdog.front.exchange import Exchange
from batching_watchdog.function import wire
from batching_watchdog.function.messages import Reply, Request, Target

KEEP_ALIVE_SECONDS: Final = 15.0
"""Silence after which a stream of events gets a comment, so that proxies keep the connection."""
END_ID: Final = b"end-of-stream"
"""Id of the last event of a GET. After every end a browser connects again, with this as Last-Event-ID, which
would start the stream anew. It stops at an answer of 204 (WHATWG HTML, section 9.2.3)."""
_EVENTS_HEAD: Final = b"Content-Type: text/event-stream\r\nCache-Control: no-cache\r\n"
_LINES_HEAD: Final = b"Content-Type: application/x-ndjson\r\n"
_TEXT: Final = b"Content-Type: text/plain; charset=utf-8\r\n"
_JSON: Final = b"Content-Type: application/json\r\n"
_BYTES: Final = b"Content-Type: application/octet-stream\r\n"
_TYPES: Final = frozenset((_TEXT, _JSON, _BYTES))
"""Of pieces that name none."""
_EVENT_STREAM: Final = "text/event-stream"
_LINE_ENDS: Final = re.compile(rb"\r\n|\r|\n")
_WANTS_STREAM: Final = re.compile(rb'"stream"\s*:\s*true\b')
"""In a JSON body, as OpenAI's clients send it, whose Accept is application/json."""


class Format(NamedTuple):
    """How pieces are written."""

    head: bytes
    """Header lines."""
    piece: Callable[[Reply], bytes]
    error: Callable[[bytes], bytes]
    """Tells the client why the stream breaks off, by a JSON object."""
    comment: bytes = b""
    """Sent after ``KEEP_ALIVE_SECONDS`` of silence."""
    end: bytes = b""
    """Sent after the last piece."""


def format_for(header_block: bytes, body: bytes, first: Reply | None) -> Format:
    """Return the format of the answer to a request whose first piece is ``first``.

    A first piece with a Content-Type of its own decides it: bodies are sent as they are.
    """
    marks, head = wire.split_marks(_TEXT if first is None else first.header_block)
    lines = head.splitlines(keepends=True)
    if b"own" in marks or _TYPES.isdisjoint(lines):
        return Format(head, lambda reply: reply.body, lambda _: b"")
    method, _, headers = wire.parse_header_block(header_block)
    own = b"".join(line for line in lines if line not in _TYPES)
    accepts = any(name.lower() == "accept" and _EVENT_STREAM in value.lower() for name, value in headers)
    if accepts or b"event" in marks or _WANTS_STREAM.search(body):
        last = b"id: %b\n" % END_ID if method == "GET" else b""
        return Format(
            _EVENTS_HEAD + own,
            _event,
            lambda error: b"event: error\n" + last + _data(error),
            b":\n\n",
            b"event: end\n" + last + b"data:\n\n" if last else b"",
        )
    return Format(_LINES_HEAD + own, _line, lambda error: error + b"\n")


def _event(reply: Reply) -> bytes:
    marks, _ = wire.split_marks(reply.header_block)
    fields = b"".join(b"%b: %b\n" % field for field in marks.items() if field[1])
    return fields + _data(reply.body)


def _data(body: bytes) -> bytes:
    return b"".join(b"data: %b\n" % line for line in _LINE_ENDS.split(body)) + b"\n"


def _line(reply: Reply) -> bytes:
    _, head = wire.split_marks(reply.header_block)
    if head == _BYTES:
        return reply.body
    if head == _TEXT:
        return json.dumps(reply.body.decode(errors="replace")).encode() + b"\n"
    return reply.body + b"\n"


def whole_answer(only: Reply) -> Reply | None:
    """Return the answer of an only piece that has a type of its own; None for others, which stream."""
    marks, head = wire.split_marks(only.header_block)
    return only._replace(header_block=head) if b"own" in marks else None


def status_of(first: Reply | None) -> int:
    """Return the status of a stream that begins with ``first``."""
    # 204 and 304 have no body (RFC 9110): a client would take pieces for the next answer.
    return 200 if first is None or first.status in (204, 304) else first.status


def whole(header_block: bytes, body: bytes, pieces: Sequence[Reply]) -> Reply:
    """Return the answer to a request from its pieces; one that breaks off has become its error."""
    failed = [piece for piece in pieces if piece.status >= 400]
    if failed:
        return failed[0]
    first = pieces[0] if pieces else None
    form = format_for(header_block, body, first)
    return Reply(status_of(first), form.head, b"".join(map(form.piece, pieces)) + form.end)


class StreamedAnswer:
    """The answer to one request, in pieces."""

    __slots__ = (
        "_exchange", "_format", "_last_at", "_pieces", "_request", "_target", "first_at", "late", "piece_at",
        "sent", "status",
    )  # fmt: skip

    def __init__(
        self, exchange: Exchange, request: Request, target: Target, first: Reply | None, now: float
    ) -> None:
        """Begin the answer. ``target``: of the request's SLO class."""
        self._exchange = exchange
        self._request = request
        self._target = target
        self._format = format_for(request.header_block, request.body, first)
        self.status = status_of(first)
        self.first_at = self.piece_at = self._last_at = now
        """When its first piece, its last piece, and its last bytes were sent."""
        self._pieces = 0
        self.sent = 0
        """Bytes of its body."""
        self.late = False
        """Whether a piece left after its due time."""
        exchange.begin(self.status, self._format.head)
        request.body = b""  # it is not started again from here on

    def add(self, reply: Reply, now: float) -> bool:
        """Send a piece; return False if too many bytes wait for the client."""
        self.late |= now > self._request.deadline + self._pieces * self._target.interval
        self._pieces += 1
        self.piece_at = now
        return self._send(self._format.piece(reply), now)

    def keep_alive(self, now: float) -> None:
        """Send a comment if the stream has been silent for long."""
        if self._format.comment and now - self._last_at >= KEEP_ALIVE_SECONDS:
            self._send(self._format.comment, now)

    def end(self) -> None:
        """End the answer well."""
        self._exchange.end(self._format.end)

    def break_off(self, text: str) -> None:
        """Tell the client that the stream failed, and close the connection where more would follow."""
        # As OpenAI's clients read errors.
        error = json.dumps({"error": {"message": text}}).encode()
        self._exchange.end(self._format.error(error), complete=False)

    def _send(self, data: bytes, now: float) -> bool:
        self.sent += len(data)
        self._last_at = now
        return self._exchange.send(data)
