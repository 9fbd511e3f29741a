"""Batches to a server in any language: one POST to ``upstream_url`` per batch.

Owns the HTTP of it: the connection that each slot keeps, the response parser (httptools), the limit of time,
and what counts as a wrong answer. The body is a frame (``wire``) or JSON lines (``jsonlines``), told by the
Content-Type; the answer must be 200 with one reply per request, in order, in the same format. A ``Slot``
is an idle worker to the batcher, as ``upstream.Connection`` is. It decides nothing about requests or
processes: ``http_workers`` hears what happened. The reference of the other end is ``worker.create_app``.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final, Protocol

import httptools

from batching_watchdog import wire
from batching_watchdog.config import HttpUrl
from batching_watchdog.errors import FrameError, StartFailed
from batching_watchdog.messages import Batch, Reply
from batching_watchdog.pool import jsonlines

KEEP_SECONDS: Final = 1.0
"""A connection idle for longer is not used again: servers close theirs (gunicorn after 2 s, Node after 5 s),
and a batch sent at that very moment would look as if it had killed the server."""
GRACE_SECONDS: Final = 0.25
"""On top of exec_timeout: the requests are given up first, so that none of them is tried again."""
PROBE_SECONDS: Final = 5.0
EXCERPT: Final = 200
"""Bytes of a wrong answer that are shown in the log."""
MAX_RESPONSE_BYTES: Final = 1 << 28
"""Header and body of the answer to one batch."""
JOIN_BELOW: Final = 1 << 18
"""Bytes up to which head and body are sent as one buffer."""


@dataclass(frozen=True, slots=True)
class Format:
    """How a batch becomes the body of a POST, and the answer's body becomes replies."""

    content_type: str
    encode: Callable[[Sequence[tuple[bytes, bytes]]], list[bytes]]
    decode: Callable[[bytes], list[Reply]]


FORMATS: Final = {
    "frame": Format(
        wire.CONTENT_TYPE,
        wire.encode_requests,
        lambda data: [wire.checked_reply(reply) for reply in wire.decode_frame_of_replies(data)],
    ),
    "jsonlines": Format(
        jsonlines.CONTENT_TYPE,
        lambda requests: [jsonlines.encode_requests(requests)],
        jsonlines.decode_replies,
    ),
}


class Failure(Enum):
    """How a batch was lost."""

    WRONG_ANSWER = auto()
    """It was answered, but not as agreed."""
    BROKEN = auto()
    """The connection broke under it: the server, or one of its processes, may have died."""
    TIMED_OUT = auto()
    """No answer within exec_timeout."""
    UNREACHABLE = auto()
    """It could not even be sent within exec_timeout."""


class Events(Protocol):
    """Who is told what becomes of a slot's batch: one of ``replied`` and ``lost`` per ``Slot.send``."""

    def replied(self, slot: "Slot", batch: Batch, replies: list[Reply]) -> None:
        """The replies of ``batch``, one per request and in order; the slot is free again."""

    def lost(self, slot: "Slot", batch: Batch, failure: Failure, why: str) -> None:
        """``batch`` was lost; the slot is free again."""

    async def unreachable(self, why: str) -> None:
        """Nobody listens at the URL. Returns when it is worth trying again."""


class Slot:
    """One batch at a time to the upstream. The connection is opened when a batch needs it."""

    def __init__(self, url: HttpUrl, batch_format: Format, timeout: float, events: Events) -> None:
        self._url = url
        self._format = batch_format
        self._timeout = timeout
        self._events = events
        self._loop = asyncio.get_running_loop()
        self._connection: _Connection | None = None
        self._opening: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._batch: Batch | None = None

    @property
    def busy(self) -> bool:
        """Whether a batch is out, or waits for the upstream to be reachable."""
        return self._batch is not None

    def send(self, batch: Batch) -> None:
        """Send ``batch``; ``replied`` or ``lost`` follows, never from within this call."""
        assert self._batch is None, "one batch at a time"  # noqa: S101 - a caller's bug
        self._batch = batch
        self._timer = self._loop.call_later(self._timeout + GRACE_SECONDS, self._timed_out)
        connection = self._connection
        if connection is not None and self._loop.time() - connection.used <= KEEP_SECONDS:
            connection.post(self._message(batch))
            return
        self.close()
        self._opening = self._loop.create_task(self._open(batch), name="upstream-connect")
        self._opening.add_done_callback(self._opened)

    def close(self) -> None:
        """Close the connection; a batch that is out is not reported any more."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
        if self._opening is not None:
            self._opening.cancel()
            self._opening = None

    def answered(self, status: int, body: bytes, *, keep: bool) -> None:
        """The connection has a whole response."""
        batch = self._batch
        if batch is None or not keep:
            self.close()
        if batch is None:
            return
        try:
            if status != 200:
                raise FrameError(f"status {status}: {body[:EXCERPT].decode(errors='replace').strip()!r}")
            replies = self._format.decode(body)
            if len(replies) != len(batch.requests):
                raise FrameError(f"{len(replies)} replies for {len(batch.requests)} requests")
        except FrameError as error:
            self.close()
            self._fail(Failure.WRONG_ANSWER, f"wrong answer: {error}")
            return
        self._free()
        self._events.replied(self, batch, replies)

    def broken(self, connection: "_Connection", why: str, failure: Failure = Failure.BROKEN) -> None:
        """The connection is gone, or what came over it is not HTTP or has no end."""
        if connection is not self._connection:
            return
        self.close()
        if self._batch is not None:
            self._fail(failure, why)

    async def _open(self, batch: Batch) -> None:
        while True:
            try:
                _, connection = await self._loop.create_connection(
                    lambda: _Connection(self), self._url.host, self._url.port
                )
            except OSError as error:
                await self._events.unreachable(str(error))
                continue
            break
        self._connection = connection
        connection.post(self._message(batch))

    def _opened(self, task: asyncio.Task[None]) -> None:
        if self._opening is task:
            self._opening = None
        if not task.cancelled() and (error := task.exception()) is not None and self._batch is not None:
            self._fail(Failure.UNREACHABLE, f"{type(error).__name__}: {error}")

    def _message(self, batch: Batch) -> list[bytes]:
        buffers = self._format.encode([(request.head, request.body) for request in batch.requests])
        size = sum(map(len, buffers))
        head = (
            f"POST {self._url.target} HTTP/1.1\r\nHost: {self._url.authority}\r\n"
            f"Content-Type: {self._format.content_type}\r\nContent-Length: {size}\r\n\r\n"
        ).encode()
        return [b"".join((head, *buffers))] if size < JOIN_BELOW else [head, *buffers]

    def _timed_out(self) -> None:
        sent = self._connection is not None
        self.close()
        failure = Failure.TIMED_OUT if sent else Failure.UNREACHABLE
        what = "no answer" if sent else "no connection"
        self._fail(failure, f"{what} within exec_timeout ({self._timeout:g} s)")

    def _free(self) -> None:
        self._batch = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _fail(self, failure: Failure, why: str) -> None:
        batch = self._batch
        assert batch is not None, "called with a batch out"  # noqa: S101 - for the type checker
        self._free()
        self._events.lost(self, batch, failure, why)


class _Connection(asyncio.Protocol):
    """One connection to the upstream; httptools calls the ``on_`` methods."""

    def __init__(self, slot: Slot) -> None:
        self._slot = slot
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._body: list[bytes] = []
        self._size = 0
        """Bytes of the response so far, header included."""
        self._in_body = False
        self._delimited = False
        self.used = self._loop.time()

    def post(self, message: list[bytes]) -> None:
        """Send one request."""
        assert self._transport is not None, "connected"  # noqa: S101 - for the type checker
        if len(message) == 1:
            self._transport.write(message[0])
        else:
            self._transport.writelines(message)

    def close(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Asyncio: connected."""
        self._transport = transport  # type: ignore[assignment] # a stream's; uvloop's is no asyncio.Transport

    def data_received(self, data: bytes) -> None:
        """Asyncio: bytes of a response."""
        self._size += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._slot.broken(self, f"what it answered is not HTTP: {error}")
        else:
            if self._size > MAX_RESPONSE_BYTES:
                why = f"its answer is longer than {MAX_RESPONSE_BYTES} bytes"
                self._slot.broken(self, why, Failure.WRONG_ANSWER)

    def eof_received(self) -> None:
        """Asyncio: the server has closed its side; a body without a length ends here."""
        if self._in_body and not self._delimited:
            self._complete(keep=False)

    def connection_lost(self, exc: Exception | None) -> None:
        """Asyncio: the connection is gone."""
        self._slot.broken(
            self, f"the connection broke before its answer was complete{f': {exc}' if exc else ''}"
        )

    def on_header(self, name: bytes, _value: bytes) -> None:
        """httptools: one header."""
        self._delimited |= name.lower() in (b"content-length", b"transfer-encoding")

    def on_headers_complete(self) -> None:
        """httptools: the body follows."""
        self._in_body = True

    def on_body(self, data: bytes) -> None:
        """httptools: a piece of the body."""
        self._body.append(data)

    def on_message_complete(self) -> None:
        """httptools: the response is whole."""
        self._size = 0
        if self._parser.get_status_code() < 200:  # an interim response: the real one follows
            self._body, self._in_body, self._delimited = [], False, False
        else:
            self._complete(keep=bool(self._parser.should_keep_alive()))

    def _complete(self, *, keep: bool) -> None:
        body, self._body = b"".join(self._body), []
        self._in_body = self._delimited = False
        self.used = self._loop.time()
        self._slot.answered(self._parser.get_status_code(), body, keep=keep)


async def probe(url: HttpUrl, path: str, seconds: float) -> None:
    """See whether the upstream accepts a connection and, with ``path``, answers a GET of it below 400.

    Raises ``OSError`` (``TimeoutError`` is one) or ``StartFailed`` with what came instead.
    """
    async with asyncio.timeout(seconds):
        reader, writer = await asyncio.open_connection(url.host, url.port)
        try:
            if not path:
                return
            request = f"GET {path} HTTP/1.1\r\nHost: {url.authority}\r\nConnection: close\r\n\r\n"
            writer.write(request.encode())
            line = (await reader.read(1 << 12)).split(b"\r\n")[0]
            status = line.split(b" ")[1] if line.startswith(b"HTTP/1.") and b" " in line else b""
            if not (status.isdigit() and 200 <= int(status) < 400):
                raise StartFailed(f"GET {path} is answered with {line[:EXCERPT]!r}")
        finally:
            writer.transport.abort()
