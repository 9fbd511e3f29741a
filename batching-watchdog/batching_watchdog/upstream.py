"""The kept connections to the workers: one batch out, its replies in.

Owns one Unix-socket connection per worker and what it says about that worker: greeted = loaded and idle,
closed = dead. Foreign errors end here: whatever goes wrong on the socket is "this worker is gone", and the
batch that it had is known. It decides nothing; ``workers`` holds the connections, ``batcher`` gets the
events. Next step of a batch: ``worker``, in the worker process.
"""

import asyncio
from typing import Final, Protocol

from batching_watchdog import wire
from batching_watchdog.errors import FrameError
from batching_watchdog.messages import Batch, Reply

BUFFER_BYTES: Final = 1 << 18


class Events(Protocol):
    """Who is told what happens on a connection. At most one batch is out per connection."""

    def greeted(self, connection: "Connection", greeting: wire.Greeting) -> None:
        """The worker has accepted the connection: it has loaded its handler, or says why not."""

    def replied(self, connection: "Connection", batch: Batch, replies: list[Reply]) -> None:
        """The replies of ``batch``, one per request and in order; the worker is idle again."""

    def closed(self, connection: "Connection", batch: Batch | None) -> None:
        """The connection is gone, and with it ``batch`` if one was out."""


class Connection(asyncio.BufferedProtocol):
    """One worker, from the watchdog's side. Receives into one reused buffer."""

    def __init__(self, events: Events) -> None:
        self._events = events
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray(BUFFER_BYTES)
        self._filled = 0
        self._header: wire.FrameHeader | None = None
        self._batch: Batch | None = None
        self.greeting: wire.Greeting | None = None
        self.gone = asyncio.Event()

    @property
    def idle(self) -> bool:
        """Whether a batch may be sent."""
        return self.greeting is not None and self.greeting.error is None and self._batch is None

    def send(self, batch: Batch) -> None:
        """Send ``batch``; ``replied`` or ``closed`` follows. The connection must be idle."""
        assert self.idle and self._transport is not None, "one batch at a time"  # noqa: S101, PT018 - a caller's bug
        self._batch = batch
        frame = wire.encode_requests([(request.head, request.body) for request in batch.requests])
        if len(frame) == 1:
            self._transport.write(frame[0])
        else:
            self._transport.writelines(frame)

    def close(self) -> None:
        """Close at once; ``closed`` follows."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Asyncio: the socket is connected, but a worker accepts it only once it has loaded."""
        self._transport = transport  # type: ignore[assignment] # a stream's; uvloop's is no asyncio.Transport

    def get_buffer(self, sizehint: int) -> memoryview:
        """Asyncio: where the next bytes go."""
        return memoryview(self._buffer)[self._filled :]

    def buffer_updated(self, nbytes: int) -> None:
        """Asyncio: ``nbytes`` have come. A frame is decoded once it is whole."""
        self._filled += nbytes
        try:
            if self._header is None:
                if self._filled < wire.HEADER_SIZE:
                    return
                self._header = wire.decode_header(self._buffer)
                if wire.HEADER_SIZE + self._header.size > len(self._buffer):
                    grown = bytearray(wire.HEADER_SIZE + self._header.size)
                    grown[: self._filled] = memoryview(self._buffer)[: self._filled]
                    self._buffer = grown
            end = wire.HEADER_SIZE + self._header.size
            if self._filled < end:
                return
            header, self._header, self._filled = self._header, None, self._filled - end
            if self._filled:
                raise FrameError("a worker sent bytes that nobody asked for")
            self._frame(header, memoryview(self._buffer)[wire.HEADER_SIZE : end])
        except (FrameError, MemoryError):
            # A worker that does not speak the protocol is as good as dead: gunicorn starts another.
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Asyncio: the worker is gone."""
        batch, self._batch, self.greeting = self._batch, None, None
        self.gone.set()
        self._events.closed(self, batch)

    def _frame(self, header: wire.FrameHeader, data: memoryview) -> None:
        if self.greeting is None:
            self.greeting = wire.decode_greeting(header, data)
            self._events.greeted(self, self.greeting)
            return
        replies = wire.decode_replies(header, data)
        batch = self._batch
        if batch is None or len(replies) != len(batch.requests):
            raise FrameError("a worker answered another number of requests than it was sent")
        self._batch = None
        self._events.replied(self, batch, replies)


async def connect(path: str, events: Events) -> Connection:
    """Open a connection to gunicorn's socket at ``path``. Raises ``OSError`` while nobody listens there."""
    loop = asyncio.get_running_loop()
    _, connection = await loop.create_unix_connection(lambda: Connection(events), path)
    return connection
