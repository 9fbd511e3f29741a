"""The kept connections to the workers: batches out, their replies in.

Owns one Unix-socket connection per worker and what it says about that worker: handshake = loaded and idle,
closed = dead. Foreign errors end here: whatever goes wrong on the socket is "this worker is gone", and the
batch that it ran is known. It decides nothing; ``supervisor`` holds the connections and hears
the events. Next step of a batch: ``worker.serve``, in the worker process.
"""

import asyncio
import socket
from collections import deque
from collections.abc import Sequence
from typing import Final, Protocol

from batching_watchdog import wire
from batching_watchdog.errors import FrameError
from batching_watchdog.messages import Batch, Failure, Reply

MAX_OUT: Final = 2
"""Batches that a worker may have: one that it runs, and the next."""


class Events(Protocol):
    """Who is told what happens on a connection. At most two batches are out: one runs, one is next."""

    def loaded(self, connection: "Connection", handshake: wire.Handshake) -> None:
        """The worker has accepted the connection: it has loaded its handler, or says why not."""

    def replied(
        self, connection: "Connection", batch: Batch, replies: list[Reply], cpu_seconds: float
    ) -> None:
        """The replies of ``batch``, one per request and in order; ``idle`` tells whether another is out."""

    def raised(self, connection: "Connection", failure: Failure) -> None:
        """The function raised ``failure`` on a request of the batch that the worker runs."""

    def closed(self, connection: "Connection", batch: Batch | None) -> None:
        """The connection is gone, and with it ``batch`` if one was out: the one sent first, of two."""


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
        self._buffer = wire.ReceiveBuffer()
        self._filled = 0
        self._unsent: list[memoryview] = []
        self._header: wire.FrameHeader | None = None
        self._out: deque[Batch] = deque()
        """What was sent and is not answered."""
        self._closing = False
        self.handshake: wire.Handshake | None = None
        self.gone = asyncio.Event()
        self._loop.add_reader(connected, self._readable)

    @property
    def idle(self) -> bool:
        """Whether the worker waits for a batch."""
        return self._serves and not self._out

    @property
    def _serves(self) -> bool:
        return self.handshake is not None and self.handshake.error is None

    def send(self, batch: Batch) -> None:
        """Send ``batch``; ``replied`` or ``closed`` follows. At most one other may be out."""
        assert self._serves, "the handler is not loaded"  # noqa: S101 - a caller's bug
        assert len(self._out) < MAX_OUT, "one runs, one is next"  # noqa: S101 - a caller's bug
        self._out.append(batch)
        frame = wire.encode_requests([(request.header_block, request.body) for request in batch.requests])
        if sum(map(len, frame)) < wire.JOIN_BELOW:
            frame = [b"".join(frame)]
        self._write(frame)

    def cancel(self, indexes: Sequence[int]) -> None:
        """Have the worker not run these requests of the batch sent last, unless it has begun with it."""
        self._write([wire.encode_cancel(indexes)])

    def _write(self, frame: list[bytes]) -> None:
        """Send ``frame`` behind what is still to be sent."""
        waits = bool(self._unsent)
        self._unsent += map(memoryview, frame)
        if not self._closing and not waits and not self._send():
            self._loop.add_writer(self._socket, self._writable)

    def poll(self) -> None:
        """Take the replies now if they have come, without waiting for the loop to come round to them."""
        if self._out and not self._closing:
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
        self.handshake = None
        self.gone.set()
        self._events.closed(self, self._out[0] if self._out else None)

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
            count = self._socket.recv_into(memoryview(self._buffer.data)[self._filled :])
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            count = 0
        if not count:
            self.close()
            return
        self._filled += count
        try:
            while self._received():
                pass
        except (FrameError, MemoryError):
            # A worker that does not speak the protocol is as good as dead: gunicorn starts another.
            self.close()

    def _received(self) -> bool:
        """Take a frame if it is whole. Whether there may be another: two batches may be answered by now."""
        if self._header is None:
            if self._filled < wire.HEADER_SIZE:
                return False
            self._header = wire.decode_header(self._buffer.data)
            self._buffer.fit(wire.HEADER_SIZE + self._header.size, self._filled)
        end = wire.HEADER_SIZE + self._header.size
        if self._filled < end:
            return False
        header, self._header = self._header, None
        data, more = memoryview(self._buffer.data)[wire.HEADER_SIZE : end], self._filled - end
        if header.kind is wire.Kind.FAILURE and self._out:
            failure = wire.decode_failure(header, data)
            self._keep(more, end)
            self._events.raised(self, failure)
            return more > 0 and not self._closing
        if more and len(self._out) < MAX_OUT:
            raise FrameError("worker sent bytes without a batch")
        if self.handshake is None:
            self._filled, self.handshake = 0, wire.decode_handshake(header, data)
            self._events.loaded(self, self.handshake)
            return False
        replies = wire.decode_replies(header, data)
        if not self._out or len(replies) != len(self._out[0].requests):
            raise FrameError("worker returned a different number of replies than requests")
        self._keep(more, end)
        self._events.replied(self, self._out.popleft(), replies, header.seconds)
        return more > 0 and not self._closing

    def _keep(self, more: int, end: int) -> None:
        """Keep what has come of the next frame: ``more`` bytes behind ``end``."""
        if more:
            self._buffer.data[:more] = self._buffer.data[end : self._filled]
        self._filled = more


async def connect(path: str, events: Events) -> Connection:
    """Open a connection to gunicorn's socket at ``path``. Raises ``OSError`` while nothing listens there."""
    connecting = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connecting.setblocking(False)
    try:
        await asyncio.get_running_loop().sock_connect(connecting, path)
    except BaseException:
        connecting.close()
        raise
    return Connection(connecting, events)
