"""Keeps a connection to each worker: batches and joins out, replies and iterations in.

Owns one Unix-socket connection per worker, whose state is the worker's: handshake = loaded and idle, closed =
dead. Every error on the socket means that the worker is gone, together with its batch. It makes no decisions;
``supervisor`` holds the connections and receives the events. Next step of a batch: ``worker.serve``, in the
worker process.
"""

import asyncio
import socket
from collections import deque
from collections.abc import Callable, Sequence
from enum import Enum, auto
from functools import partial
from math import inf
from typing import Final, Protocol

from batching_watchdog.errors import FrameError
from batching_watchdog.function import wire
from batching_watchdog.function.messages import Batch, Crash, Failure, Iteration, Reply
from batching_watchdog.pool.overdue import Work

MAX_OUT: Final = 2
"""Maximum batches of a worker: the running one, and the next."""


class Events(Protocol):
    """Receiver of a connection's events. At most two batches are out: the running one, and the next."""

    def loaded(self, connection: "Connection", handshake: wire.Handshake) -> None:
        """Handle the handshake: the worker has loaded its handler, or reports why it could not."""

    def replied(
        self, connection: "Connection", batch: Batch, replies: list[Reply], spent: wire.Spent
    ) -> None:
        """Take the replies of ``batch``, one per request in order, and what the worker spent on it."""

    def crashed(self, connection: "Connection", batch: Batch, crash: Crash) -> None:
        """Take the failure of ``batch`` as a whole, in place of its replies."""

    def stepped(self, connection: "Connection", iteration: Iteration) -> None:
        """Take an iteration of the worker's streams."""

    def suspected(self, connection: "Connection") -> None:
        """Find out whether the worker can still serve."""

    def raised(self, connection: "Connection", failure: Failure) -> None:
        """Take a ``failure`` that the function raised on a request of the running batch."""

    def closed(self, connection: "Connection", batch: Batch | None) -> None:
        """Handle the end of the connection, and of ``batch`` if one was out (of two, the first)."""


class _Reading(Enum):
    """Whether replies are read."""

    ON = auto()
    PAUSED = auto()
    """They stay in the socket for now."""
    ENDED = auto()
    """The connection closes."""


class Connection:
    """The connection to one worker, which receives into one reused buffer.

    It reads and writes its socket itself: a transport would send a batch only at the end of this iteration of
    the loop, and meanwhile the worker would idle.
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
        """Batches that were sent and not answered."""
        self.streams: set[int] = set()
        """Streams that joined and have neither ended nor left."""
        self._starting: set[int] = set()
        """Those of them that have been in no iteration."""
        self._iterates = False
        """Whether an iteration follows. Streams that have left may still be in a step."""
        self._ended = 0
        """Batches or iterations that have ended."""
        self._sizes: set[int] = set()
        """Their sizes."""
        self._usual = 0.0
        """Seconds of the last iteration."""
        self._reading = _Reading.ON
        self.handshake: wire.Handshake | None = None
        self.gone = asyncio.Event()
        self._loop.add_reader(connected, self._readable)

    @property
    def idle(self) -> bool:
        """Whether the worker waits for a batch."""
        return self._serves and not self._out and not self.streams

    @property
    def work(self) -> Work:
        """Return the batch or the iteration that the worker runs; the next batch has not begun."""
        if not self._out:
            untried = bool(self._starting) or len(self.streams) not in self._sizes
            return Work(self._ended, self._iterates, self._usual, untried, len(self._starting))
        batch = self._out[0]
        seconds = 0.0 if batch.seconds == inf else batch.seconds
        return Work(self._ended, True, seconds, len(batch.requests) not in self._sizes)

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
        """Tell the worker to skip these requests of the last batch, unless it has begun that batch."""
        self._write([wire.encode_cancel(indexes)])

    def join(self, batch: Batch) -> None:
        """Start the streams of ``batch`` before the next step; ``stepped`` or ``closed`` follows."""
        self._iterates = True
        self.streams.update(request.id for request in batch.requests)
        self._starting.update(request.id for request in batch.requests)
        joined = [(request.id, request.header_block, request.body) for request in batch.requests]
        self._write(wire.encode_join(joined))

    def leave(self, streams: Sequence[int]) -> None:
        """Drop these streams before the next step."""
        self._iterates = True
        self.streams.difference_update(streams)
        self._starting.difference_update(streams)
        self._write(wire.encode_leave(streams))

    def set_threads(self, count: int) -> None:
        """Give the worker's math libraries ``count`` threads from its next batch on."""
        self._write([wire.encode_threads(count)])

    def check(self) -> None:
        """Find out whether the worker can still serve: its last batches failed whole."""
        self._events.suspected(self)

    def _write(self, frame: list[bytes]) -> None:
        """Send ``frame`` after the frames that wait to be sent."""
        waits = bool(self._unsent)
        self._unsent += map(memoryview, frame)
        if self._reading is not _Reading.ENDED and not waits and not self._send():
            self._loop.add_writer(self._socket, self._writable)

    def pause(self, *, paused: bool) -> None:
        """Stop or resume reading: a worker whose replies are not read waits before its next batch."""
        if paused and self._reading is _Reading.ON:
            self._reading = _Reading.PAUSED
            self._loop.remove_reader(self._socket)
        elif not paused and self._reading is _Reading.PAUSED:
            self._reading = _Reading.ON
            self._loop.add_reader(self._socket, self._readable)

    def poll(self) -> None:
        """Read available replies now, without waiting for the loop."""
        if (self._out or self.streams) and self._reading is _Reading.ON:
            self._readable()

    def close(self) -> None:
        """Close at once; ``closed`` follows after this call has returned."""
        if self._reading is not _Reading.ENDED:
            self._reading = _Reading.ENDED
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
        """Send as much as the kernel accepts; return False if bytes are left."""
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
        """Read available bytes; decode frames that are complete."""
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
            # A worker that violates the protocol counts as dead: gunicorn starts another.
            self.close()

    def _received(self) -> bool:
        """Process a complete frame; return whether there may be another (two batches may be answered)."""
        if self._header is None:
            if self._filled < wire.HEADER_SIZE:
                return False
            self._header = wire.decode_header(self._buffer.data)
            self._buffer.fit(wire.HEADER_SIZE + self._header.size, self._filled)
        end = wire.HEADER_SIZE + self._header.size
        if self._filled < end:
            return False
        header, self._header = self._header, None
        tell = self._decoded(
            header, memoryview(self._buffer.data)[wire.HEADER_SIZE : end], self._filled - end
        )
        self._buffer.data[: self._filled - end] = self._buffer.data[end : self._filled]
        self._filled -= end
        tell()
        return self._filled > 0 and self._reading is not _Reading.ENDED

    def _decoded(self, header: wire.FrameHeader, data: memoryview, more: int) -> Callable[[], None]:
        """Return the event of a frame, behind which ``more`` bytes have come. Raises ``FrameError``."""
        events, streams = self._events, self.handshake is not None and self.handshake.streams
        if header.kind is wire.Kind.FAILURE and (self._out or streams):
            return partial(events.raised, self, wire.decode_failure(header, data))
        if streams:
            iteration = wire.decode_iteration(header, data)
            self.streams.difference_update(output.stream for output in iteration.outputs if output.done)
            self._starting.difference_update(output.stream for output in iteration.outputs)
            self._iterates = bool(self.streams)
            self._usual = iteration.start_seconds + iteration.step_seconds
            self._ran(iteration.stepped)
            return partial(events.stepped, self, iteration)
        if more and len(self._out) < MAX_OUT:
            raise FrameError("worker sent bytes without a batch")
        if self.handshake is None:
            self.handshake = wire.decode_handshake(header, data)
            if self.handshake.starts:  # it has measured its example() before it said so
                self._ran(1)
            return partial(events.loaded, self, self.handshake)
        if not self._out:
            raise FrameError("worker replied without a batch")
        self._ran(len(self._out[0].requests))
        if header.kind is wire.Kind.CRASH:
            crash = wire.decode_crash(header, data)
            return partial(events.crashed, self, self._out.popleft(), crash)
        replies, spent = wire.decode_replies(header, data)
        if len(replies) != len(self._out[0].requests):
            raise FrameError("worker returned a different number of replies than requests")
        return partial(events.replied, self, self._out.popleft(), replies, spent)

    def _ran(self, size: int) -> None:
        """Note that a batch or an iteration of ``size`` has ended."""
        self._ended += 1
        self._sizes.add(size)


async def connect(path: str, events: Events) -> Connection:
    """Open a connection to gunicorn's socket at ``path``. Raises ``OSError`` without a listener."""
    connecting = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connecting.setblocking(False)
    try:
        await asyncio.get_running_loop().sock_connect(connecting, path)
    except BaseException:
        connecting.close()
        raise
    return Connection(connecting, events)
