"""Measures event-loop lag.

Under overload one iteration of the loop reads hundreds of connections and outlasts a batch. So a request's
time in the kernel counts as latency. Workers are polled within the iteration; otherwise one that answers
early would idle until its end. Knows neither requests nor workers. Used by ``reader``.
"""

import asyncio
from collections.abc import Callable
from math import inf
from typing import Final

IDLE_SECONDS: Final = 0.0005
"""Seconds between two iterations beyond which the loop must have waited for input."""
READS_PER_POLL: Final = 16
"""Reads between two polls of the workers: half a millisecond or less."""


class LoopLag:
    """Observes the iterations of one loop from its reads."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, clock: Callable[[], float], poll_workers: Callable[[], None]
    ) -> None:
        """``poll_workers`` is called every ``READS_PER_POLL`` reads."""
        self._loop = loop
        self._clock = clock
        self._poll_workers = poll_workers
        self._reads = 0
        self._measured = False
        """Whether this iteration has been."""
        self._began = self._ended = -inf
        self._earliest = -inf

    def came_at(self, now: float) -> float:
        """Return the earliest arrival time of bytes that are read ``now``, on the same clock.

        A loop that waited for them reads them at once. A busy loop may read bytes that arrived just after its
        last poll, at the beginning of its last iteration.
        """
        if not self._measured:
            self._measured = True
            self._loop.call_soon(self._over)
            busy = now - self._ended < IDLE_SECONDS
            self._earliest = self._began if busy else now
            self._began = now
        return self._earliest

    def read_done(self) -> None:
        """Count one read of a connection."""
        self._reads += 1
        if self._reads >= READS_PER_POLL:
            self._reads = 0
            self._poll_workers()

    def _over(self) -> None:
        self._measured = False
        self._ended = self._clock()
