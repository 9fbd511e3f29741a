"""Looks at the workers four times a second, and ends those that take too long.

``overdue`` decides which; gunicorn starts others.
"""

import asyncio
import logging
import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress

from batching_watchdog.config import Config
from batching_watchdog.pool.connection import Connection
from batching_watchdog.pool.crew import Crew
from batching_watchdog.pool.overdue import PERIOD, Kill, Overdue
from batching_watchdog.shell import Shell

log = logging.getLogger(__name__)


class Watch:
    """The watch over a crew."""

    def __init__(
        self, config: Config, crew: Crew[Connection], shell: Shell, paused: Callable[[], bool]
    ) -> None:
        """``paused``: whether the workers' answers are not read for now."""
        self._overdue: Overdue[Connection] = Overdue(config)
        self._crew = crew
        self._shell = shell
        self._paused = paused

    @property
    def all_overdue(self) -> bool:
        """Whether every worker that serves was overdue at the last look."""
        return self._overdue.all

    async def keep_looking(self) -> None:
        """Look until cancelled."""
        while True:
            # While answers are not read, a worker waits for slow clients: that is no time of its own.
            works = {worker: worker.work for worker in self._crew.members}
            now, queued = time.monotonic(), self._shell.queued > 0
            if not self._paused():
                for kill in self._overdue.look(works, self._crew.serving, now, queued=queued):
                    self._kill(kill)
                for worker in self._overdue.workers:
                    self._shell.worker_overdue(worker)
            await asyncio.sleep(PERIOD)

    def _kill(self, kill: Kill[Connection]) -> None:
        """End a worker by SIGABRT, at which it writes its stack; one that does not end, by SIGKILL."""
        handshake = kill.worker.handshake
        if handshake is None:  # it has just died
            return
        log.error(
            "worker %d is ended%s: it has been at its batch or step for %.1f s; its limit is %g s (%s)",
            handshake.pid,
            " by SIGKILL" if kill.at_once else "",
            kill.seconds,
            kill.limit,
            kill.setting,
        )
        with suppress(ProcessLookupError):
            os.kill(handshake.pid, signal.SIGKILL if kill.at_once else signal.SIGABRT)
