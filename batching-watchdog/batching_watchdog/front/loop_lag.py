"""How far the event loop lags behind what comes in, and what must not wait for it.

Under overload hundreds of connections are readable in one turn of the loop, and the turn takes longer than
a batch does. Two things follow, and this module owns both: a request has lain in the kernel before it is
read, and that time counts; and a worker that answers early in the turn would have nothing to do for the rest
of it. It knows neither requests nor workers. Used by ``protocol``.
"""

import asyncio
from collections.abc import Callable
from math import inf
from typing import Final

WAITED_SECONDS: Final = 0.0005
"""A loop that has been away for longer than this between two turns has waited for something to come."""
LOOK_EVERY: Final = 16
"""Reads between two looks at what cannot wait: half a millisecond or less."""


class Turns:
    """The turns of one loop, as seen by who reads in them."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, clock: Callable[[], float], look: Callable[[], None]
    ) -> None:
        """``look`` is called every ``LOOK_EVERY`` reads."""
        self._loop = loop
        self._clock = clock
        self._look = look
        self._reads = 0
        self._noted = False
        self._began = self._ended = -inf
        self._earliest = -inf

    def came_at(self, now: float) -> float:
        """The earliest time at which what is read ``now`` may have come in, on the same clock.

        A loop that has waited for it reads it at once. One that has been busy may find what came in just
        after it looked last, at the beginning of its last turn.
        """
        if not self._noted:
            self._noted = True
            self._loop.call_soon(self._over)
            busy = now - self._ended < WAITED_SECONDS
            self._earliest = self._began if busy else now
            self._began = now
        return self._earliest

    def read_done(self) -> None:
        """One connection's bytes were taken in."""
        self._reads += 1
        if self._reads >= LOOK_EVERY:
            self._reads = 0
            self._look()

    def _over(self) -> None:
        self._noted = False
        self._ended = self._clock()
