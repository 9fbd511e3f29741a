"""Keeps the connections of one listener: the bytes held for all of them, their number, and their orderly end.

Owns the limits that clients share: beyond them an idle connection, a slow reader or a new request has to go.
Each connection registers itself here and counts its bytes; ``protocol`` and ``line`` are told what to do.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import formatdate
from typing import Final, Protocol

from batching_watchdog.front.exchange import Application, Exchange
from batching_watchdog.front.loop_lag import LoopLag

CONNECTION_BYTES: Final = 1 << 12
"""Bytes that a connection counts in addition to its content: about the size of its objects."""
SURPLUS_CONNECTIONS: Final = 32
"""Connections beyond ``max_connections`` that get a refusal as an answer; further ones are reset."""
UNSENT_SHARE: Final = 2
"""Answers that clients have not read have at most ``max_queued_bytes`` divided by this, and one batch of a
worker: beyond it no worker's answers are read."""
SEARCH: Final = 32
"""Connections that are checked to find one that is idle, or one that reads too slowly."""

log = logging.getLogger(__name__)


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


class Client(Protocol):
    """One connection, as its listener sees it."""

    def check_timeouts(self, now: float) -> None:
        """Cut the connection if the client is too slow, or idle for too long."""

    def drain(self, *, at_once: bool) -> None:
        """Close an idle connection; refuse an incomplete request."""

    def close_if_idle(self, now: float) -> bool:
        """Close the connection if it has been idle for long enough; return whether it did."""

    def abort(self) -> None:
        """Close at once."""


class Reading(Protocol):
    """The client of one connection, who reads answers, or does not."""

    def reads_slowly(self, now: float) -> bool:
        """Return whether the client has long had bytes to read, and has read few of them."""

    def abort(self) -> None:
        """Close at once."""


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
        self.stalled: OrderedDict[Reading, None] = OrderedDict()
        """Connections whose clients do not read, the longest first."""
        self._cut = 0
        """Number of them that were cut since the last sweep."""
        self.open: OrderedDict[Client, None] = OrderedDict()
        self.date_line = b""
        """The Date header line, as of the last sweep."""

    def sweep(self, wall_clock: float) -> None:
        """Cut timed-out connections, and renew the Date header. Call it about once per second."""
        self.date_line = f"Date: {formatdate(wall_clock, usegmt=True)}\r\n".encode()
        now = self.clock()
        for client in tuple(self.open):
            client.check_timeouts(now)
        self.cut_stalled(len(self.stalled))
        if self._cut:
            log.warning("clients that read too slowly: %d were cut, max_queued_bytes was exceeded", self._cut)
            self._cut = 0

    def opened(self, client: Client) -> bool:
        """Register a connection; return whether it exceeds the limit, and no idle one was closed for it."""
        self.open[client] = None
        self.queued_bytes += CONNECTION_BYTES
        if len(self.open) <= self.max_connections or self._close_an_idle_one():
            return False
        self.surplus += 1
        if self.surplus > SURPLUS_CONNECTIONS:
            client.abort()
        return True

    @property
    def unread(self) -> int:
        """Number of connections with unread bytes of an answer."""
        return len(self.stalled)

    def drain(self, *, at_once: bool = False) -> None:
        """Close each connection after its outstanding answers, an idle one at once.

        Refuse requests without a complete head; with ``at_once`` also those without a complete body.
        """
        self.closing = True
        for client in tuple(self.open):
            client.drain(at_once=at_once)
        if not self.open:
            self._all_closed.set()

    async def drained(self) -> None:
        """Wait until every connection is closed. Call it after ``drain``."""
        await self._all_closed.wait()

    def closed(self, client: Client, *, surplus: bool) -> None:
        """Remove a closed connection. ``surplus``: as ``opened`` returned it."""
        self.queued_bytes -= CONNECTION_BYTES
        self.open.pop(client, None)
        self.surplus -= surplus
        if self.closing and not self.open:
            self._all_closed.set()

    def abort(self) -> None:
        """Close all connections at once."""
        for client in tuple(self.open):
            client.abort()

    def charge(self, exchange: Exchange, held: int) -> None:
        """Count ``exchange`` as ``held`` bytes from now on."""
        self.queued_bytes += held - exchange.held
        exchange.held = held

    def _close_an_idle_one(self) -> bool:
        """Close the first idle connection among the next few; return False if none is idle."""
        now = self.clock()
        for _ in range(min(SEARCH, len(self.open))):
            client = next(iter(self.open))
            self.open.move_to_end(client)
            if client.close_if_idle(now):
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
            client = next(iter(self.stalled))
            self.stalled.move_to_end(client)
            if client.reads_slowly(now):
                client.abort()
                self._cut += 1
