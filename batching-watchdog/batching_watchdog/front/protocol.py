"""Speaks HTTP/1.1 on one connection: bytes in, requests out; answers in, bytes out.

Owns the events of the loop and the timeouts. ``reader`` reads requests, ``answers`` sends what answers them,
``line`` keeps what both share: the transport and the state of ``state``. It knows nothing of batches.

This is the hot path of every request, so no request has a task, a future or a timer: ``Connections.sweep``
checks the timeouts once per second.
"""

import asyncio
from typing import Final

from batching_watchdog.errors import RequestTimedOut, ShuttingDown
from batching_watchdog.front.answers import Answers
from batching_watchdog.front.connections import Connections
from batching_watchdog.front.line import Line
from batching_watchdog.front.reader import Reader
from batching_watchdog.front.state import BODY, CLOSING, HEAD, IDLE, LINGERING, TAKES

KEEP_ALIVE_SECONDS: Final = 3900.0
"""Seconds after which an idle connection is closed: longer than usual clients keep theirs (nginx 60 s,
Knative's activator and queue-proxy 90 s, Envoy 1 h), so that they close first and no request is lost."""
LINGER_SECONDS: Final = 2.0
"""Seconds of reading after a close while the client still sends: otherwise the kernel resets the connection,
and the client never sees the answer."""
SURPLUS_SECONDS: Final = 2.0
"""Seconds that a surplus connection has to send the request that will be refused."""
IDLE_SECONDS: Final = 1.0
"""Seconds without a request after which a connection may be closed for a new one."""


class HttpProtocol(asyncio.Protocol):
    """One connection."""

    __slots__ = ("_answers", "_connections", "_line", "_reader")

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Asyncio: a client connected."""
        connections = self._connections
        self._line = line = Line(connections, transport)  # type: ignore[arg-type] # a stream connection
        self._answers = Answers(connections, line)
        self._reader = Reader(connections, line, self._answers)
        line.surplus = connections.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Asyncio: the client left; withdraw its requests."""
        self._line.lose()
        self._reader.lose()
        self._answers.lose()
        self._connections.closed(self, surplus=self._line.surplus)

    def eof_received(self) -> bool:
        """Asyncio: the client closed its side, which counts as leaving, as for Go's server and nginx."""
        return False

    def pause_writing(self) -> None:
        """Asyncio: the client reads too slowly: stop reading requests from it."""
        self._line.stall()
        self._answers.read_on()

    def resume_writing(self) -> None:
        """Asyncio: the client reads again."""
        self._line.flow()
        self._answers.read_on()

    def data_received(self, data: bytes) -> None:
        """Asyncio: bytes arrived."""
        if self._line.state not in TAKES:
            return  # no further request is taken
        self._reader.parse(data)
        if self._connections.loop_lag is not None:
            self._connections.loop_lag.read_done()

    def check_timeouts(self, now: float) -> None:
        """Cut the connection if the client is too slow in sending or in reading, or idle for too long."""
        line, limits = self._line, self._connections.limits
        state, waited = line.state, now - line.since
        if line.stalled_since is not None:
            line.count_unsent()
            if now - line.stalled_since > limits.write_timeout:
                line.abort()
        elif state is LINGERING:
            if waited > LINGER_SECONDS:
                line.abort()
        elif state is CLOSING:
            if waited > limits.write_timeout:
                line.abort()
        elif state is HEAD or state is BODY:
            limit = SURPLUS_SECONDS if line.surplus else limits.read_timeout
            if waited > limit:
                self._reader.fail(RequestTimedOut(f"the request did not come within {limit:g} s"))
        elif self._idle and waited > (SURPLUS_SECONDS if line.surplus else KEEP_ALIVE_SECONDS):
            line.close()

    def drain(self, *, at_once: bool) -> None:
        """Close an idle connection; refuse an incomplete request, as in ``Connections.drain``."""
        state = self._line.state
        if self._idle:
            self._line.close()
        elif state is HEAD or (at_once and state is BODY):
            self._reader.fail(ShuttingDown("the watchdog is shutting down"))

    def close_if_idle(self, now: float) -> bool:
        """Close the connection if it has been idle for long enough; return whether it did."""
        line = self._line
        if not self._idle or line.stalled_since is not None or now - line.since < IDLE_SECONDS:
            return False
        line.close()
        return True

    def abort(self) -> None:
        """Close at once."""
        self._line.abort()

    @property
    def _idle(self) -> bool:
        """Whether no request is being received or answered."""
        return self._line.state is IDLE and not self._answers.pending
