"""Tries workers on example(): new ones before they serve, and serving ones that are suspected.

Owns what was seen of bad workers: the wait before the next new one, and when a sick one was replaced last.
``profile`` runs the examples; ``supervisor`` says which worker is tried.
"""

import asyncio
import logging
import math
import time
from collections.abc import Callable, Sequence
from typing import Final

from batching_watchdog.pool.child import Backoff
from batching_watchdog.pool.connection import Connection
from batching_watchdog.pool.life import Ended, Life, Starting
from batching_watchdog.pool.profile import Profiler
from batching_watchdog.pool.readiness import Readiness, Trouble

log = logging.getLogger(__name__)

SICK_SECONDS: Final = 60.0
"""Minimum time between two workers that are replaced without the evidence of example()."""


class Vetting:
    """What is known of bad workers."""

    def __init__(self, profiler: Profiler, readiness: Readiness, life: Callable[[], Life]) -> None:
        self._profiler = profiler
        self._readiness = readiness
        self._life = life
        self._killed = False
        """Whether the measurement has killed a worker: no other is measured."""
        self._backoff = Backoff()
        """Of workers that fail on example() before they serve."""
        self.sick = 0
        """Number of workers replaced because they served nothing any more."""
        self._sick_at = -math.inf

    @property
    def tries_new(self) -> bool:
        """Whether a worker that has loaded is tried before it serves: later ones once one was sick."""
        return self._measures or self.sick > 0

    @property
    def _measures(self) -> bool:
        return isinstance(self._life(), Starting) and not self._killed

    async def passes(self, worker: Connection, examples: Sequence[bytes]) -> bool:
        """Return whether a new worker may serve; one that fails on the example is closed after a wait.

        All workers that load before the first one serves are measured at the same time, so that all have
        warmed up when requests arrive.
        """
        serves = await self._profiler.serves(worker, examples[0])
        self._readiness.trouble = Trouble.NONE if serves else Trouble.FAILS_EXAMPLE
        if isinstance(self._life(), Ended):
            return False
        if not serves:
            wait = self._backoff.after(0.0)
            log.error(
                "a worker fails on the body that it is measured with: it gets no requests, and another "
                "takes its place in %g s",
                wait,
            )
            await asyncio.sleep(wait)
            worker.close()
            return False
        self._backoff = Backoff()
        try:
            if self._measures:
                await self._profiler.measure(worker, examples)
        except ConnectionResetError as error:
            log.warning("measuring the handler with example() ended %s", error)
            self._killed = True
            return False
        return True

    def replaces_untried(self, serving: int) -> bool:
        """Return whether a suspect without example() is replaced: if others serve, at a bounded rate.

        The requests may be the reason.
        """
        return serving > 1 and time.monotonic() - self._sick_at > SICK_SECONDS

    def found_sick(self, reason: str) -> None:
        """Note that a worker is replaced, as it serves nothing any more."""
        log.error("a worker is replaced: %s", reason)
        self.sick += 1
        self._sick_at = time.monotonic()
