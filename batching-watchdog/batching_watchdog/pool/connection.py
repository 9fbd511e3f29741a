"""The kept connections to the workers: one batch out, its replies in.

Owns one Unix-socket connection per worker and what it says about that worker: handshake = loaded and idle,
closed = dead. Foreign errors end here: whatever goes wrong on the socket is "this worker is gone", and the
batch that it had is known. It decides nothing; ``supervisor`` holds the connections and hears
the events. Next step of a batch: ``worker.serve``, in the worker process.
"""

import asyncio
import socket
from typing import Final, Protocol

from batching_watchdog import wire
from batching_watchdog.errors import FrameError
from batching_watchdog.messages import Batch, Reply

BUFFER_BYTES: Final = 1 << 18


class Events(Protocol):
    """Who is told what happens on a connection. At most one batch is out per connection."""

    def loaded(self, connection: "Connection", handshake: wire.Handshake) -> None:
        """The worker has accepted the connection: it has loaded its handler, or says why not."""

    def replied(
        self, connection: "Connection", batch: Batch, replies: list[Reply], cpu_seconds: float
    ) -> None:
        """The replies of ``batch``, one per request and in order; the worker is idle again."""

    def closed(self, connection: "Connection", batch: Batch | None) -> None:
        """The connection is gone, and with it ``batch`` if one was out."""


class Connection:
    """One worker, from the watchdog's side. Receives into one reused buffer.

    It reads and writes its socket itself: a transport would send a batch only when everything else of this
    turn of the loop has been done, and meanwhile the worker would have nothing to do.
    """

    def __init__(self, connected: socket.socket, events: Events) -> None:
        """``connected`` is a non-blocking stream socket; the connection owns it from now on."""
        self._socket = connected
        self._events = events
        self._loop = asyncio.get_running_loop()
        self._buffer = bytearray(BUFFER_BYTES)
        self._filled = 0
        self._unsent: list[memoryview] = []
        self._header: wire.FrameHeader | None = None
        self._batch: Batch | None = None
        self._closing = False
        self.handshake: wire.Handshake | None = None
        self.gone = asyncio.Event()
        self._loop.add_reader(connected, self._readable)

    @property
    def idle(self) -> bool:
        """Whether a batch may be sent."""
        return self.handshake is not None and self.handshake.error is None and self._batch is None

    def send(self, batch: Batch) -> None:
        """Send ``batch``; ``replied`` or ``closed`` follows. The connection must be idle."""
        assert self.idle, "one batch at a time"  # noqa: S101 - a caller's bug
        self._batch = batch
        frame = wire.encode_requests([(request.header_block, request.body) for request in batch.requests])
        if sum(map(len, frame)) < wire.JOIN_BELOW:
            frame = [b"".join(frame)]
        self._unsent = [memoryview(buffer) for buffer in frame]
        if not self._closing and not self._send():
            self._loop.add_writer(self._socket, self._writable)

    def poll(self) -> None:
        """Take the replies now if they have come, without waiting for the loop to come round to them."""
        if self._batch is not None and not self._closing:
            self._readable()

    def close(self) -> None:
        """Close at once; ``closed`` follows, not from within this call."""
        if not self._closing:
            self._closing = True
            self._loop.remove_reader(self._socket)
            self._loop.remove_writer(self._socket)
            self._loop.call_soon(self._closed)

    def _closed(self) -> None:
        self._socket.close()
        batch, self._batch, self.handshake = self._batch, None, None
        self.gone.set()
        self._events.closed(self, batch)

    def _writable(self) -> None:
        if self._send():
            self._loop.remove_writer(self._socket)

    def _send(self) -> bool:
        """Send what the kernel takes. False if some is left."""
        unsent = self._unsent
        first = 0
        try:
            while first < len(unsent):
                sent = self._socket.sendmsg(unsent[first : first + wire.SEND_AT_ONCE])
                while first < len(unsent) and sent >= len(unsent[first]):
                    sent -= len(unsent[first])
                    first += 1
                if sent:
                    unsent[first] = unsent[first][sent:]
        except (BlockingIOError, InterruptedError):
            self._unsent = unsent[first:]
            return False
        except OSError:
            self.close()
        self._unsent = []
        return True

    def _readable(self) -> None:
        """Take what has come. A frame is decoded once it is whole."""
        try:
            count = self._socket.recv_into(memoryview(self._buffer)[self._filled :])
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            count = 0
        if not count:
            self.close()
            return
        self._filled += count
        try:
            self._received()
        except (FrameError, MemoryError):
            # A worker that does not speak the protocol is as good as dead: gunicorn starts another.
            self.close()

    def _received(self) -> None:
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
            raise FrameError("worker sent bytes without a batch")
        self._frame(header, memoryview(self._buffer)[wire.HEADER_SIZE : end])

    def _frame(self, header: wire.FrameHeader, data: memoryview) -> None:
        if self.handshake is None:
            self.handshake = wire.decode_handshake(header, data)
            self._events.loaded(self, self.handshake)
            return
        replies = wire.decode_replies(header, data)
        batch = self._batch
        if batch is None or len(replies) != len(batch.requests):
            raise FrameError("worker returned a different number of replies than requests")
        self._batch = None
        self._events.replied(self, batch, replies, header.seconds)


async def connect(path: str, events: Events) -> Connection:
    """Open a connection to gunicorn's socket at ``path``. Raises ``OSError`` while nobody listens there."""
    connecting = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connecting.setblocking(False)
    try:
        await asyncio.get_running_loop().sock_connect(connecting, path)
    except BaseException:
        connecting.close()
        raise
    return Connection(connecting, events)
