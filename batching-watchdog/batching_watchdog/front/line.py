"""Keeps one connection's transport, its state, and what its client has not read.

Owns the state of ``state.State`` and its changes, how a connection closes, when reading from it pauses, and
whether its client reads too slowly. It knows no request. ``answers`` writes to it.
"""

import asyncio
from typing import Final

from batching_watchdog.front.connections import Connections
from batching_watchdog.front.state import CLOSE, CLOSING, IDLE, LOSE, LOST, NEXT, Event, State

MAX_UNSENT_BYTES: Final = 1 << 26
"""Bytes of unread answers, but for the largest, beyond which a client is cut at its next answer."""
STALL_SECONDS: Final = 1.0
LEAST_RATE: Final = 1 << 18
"""While too much is held, a client is cut whose answer has waited for so many seconds, if it has read fewer
bytes per second than this since."""


class Line:
    """One connection to a client."""

    __slots__ = (
        "_connections", "_read", "_unsent", "largest", "reading", "since", "stalled_since", "state",
        "surplus", "transport",
    )  # fmt: skip

    def __init__(self, connections: Connections, transport: asyncio.Transport) -> None:
        self._connections = connections
        self.transport = transport
        """Absent once the state is ``LOST``."""
        self.state: State = IDLE
        self.since = connections.clock()
        """Time when the request being received began, the connection became idle, or began to close."""
        self.surplus = False
        """Whether the connection exceeds the limit: its first request is refused."""
        self.reading = True
        self.stalled_since: float | None = None
        """Time since which unread bytes of an answer wait for the client."""
        self.largest = 0
        """Bytes of the largest piece or answer since all were read: it comes at once, whatever the client
        reads."""
        self._unsent = 0
        """Unread bytes of answers, by the last count."""
        self._read = 0
        """Bytes that the client has read since ``stalled_since``."""
        transport.set_write_buffer_limits(0)  # pause when the kernel takes no more

    def go(self, event: Event) -> None:
        """Change the state. An event that cannot come in it is a ``KeyError``."""
        self.state = NEXT[self.state][event]

    def close(self) -> None:
        """Close after all written bytes were sent; linger if the client is still sending a request."""
        self.go(CLOSE)
        self.since = self._connections.clock()
        if self.state is CLOSING:
            # Unread bytes would keep the connection open forever.
            self.transport.close()
        else:
            self.transport.write_eof()

    def abort(self) -> None:
        """Close at once."""
        if self.state is not LOST:
            self._forget()
            self.transport.abort()

    def lose(self) -> None:
        """The transport has ended."""
        self.go(LOSE)
        self._forget()
        # It refers to the protocol. Breaking the cycle frees both now: collections are rare (see ``app``).
        del self.transport

    def read(self, *, room: bool) -> None:
        """Pause reading without ``room`` for more requests, or while the client itself does not read."""
        wanted = room and self.stalled_since is None
        if wanted == self.reading or self.state is LOST or self.transport.is_closing():
            return
        self.reading = wanted
        if wanted:
            self.transport.resume_reading()
        else:
            self.transport.pause_reading()

    def stall(self) -> None:
        """The client has bytes to read that the kernel does not take."""
        connections = self._connections
        self.stalled_since, self._read = connections.clock(), 0
        connections.stalled[self] = None
        self.count_unsent()
        if connections.queued_bytes > connections.limits.max_queued_bytes:
            connections.cut_stalled()

    def flow(self) -> None:
        """The client has read all."""
        self.stalled_since = None
        self.largest = 0
        self._connections.stalled.pop(self, None)
        self.count_unsent()

    def overflows(self) -> bool:
        """Return whether too many bytes are unread for a further answer."""
        most = min(MAX_UNSENT_BYTES, self._connections.limits.max_queued_bytes)
        return self.transport.get_write_buffer_size() > most + self.largest

    def reads_slowly(self, now: float) -> bool:
        """Return whether the client has long had bytes to read, and has read few of them."""
        self.count_unsent()
        waited = 0.0 if self.stalled_since is None else now - self.stalled_since
        return waited >= STALL_SECONDS and self._read < LEAST_RATE * waited

    def count_unsent(self) -> None:
        """Count the bytes of answers that the kernel has not accepted."""
        if self.state is not LOST:
            unsent = self.transport.get_write_buffer_size()
            self._read += max(0, self._unsent - unsent)
            self._connections.count_unsent(unsent - self._unsent)
            self._unsent = unsent

    def _forget(self) -> None:
        self._connections.count_unsent(-self._unsent)
        self._unsent = 0
        self._connections.stalled.pop(self, None)
