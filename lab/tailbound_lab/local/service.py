"""A program that the platform runs beside the functions: supervised, logged to a file, and waited for.

``prometheus`` and ``autoscaler`` say what the program is.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Final

import aiohttp

from tailbound_lab.local.errors import StartError
from tailbound_lab.local.logs import LogFile
from tailbound_lab.local.supervisor import Launch, Supervisor

_LAST_LINES: Final = 8
_POLL: Final = 0.1


class Service:
    """One such program; ``ready_url`` answers 200 once it can be used."""

    def __init__(self, name: str, launch: Callable[[], Launch], log_file: Path, ready_url: str) -> None:
        self.name = name
        self.log_file = log_file
        self._ready_url = ready_url
        self._last: deque[str] = deque(maxlen=_LAST_LINES)
        self._log = LogFile(log_file)
        self._supervisor = Supervisor(name, launch, self._write, on_exit=self._exited)
        self._exits = 0

    @property
    def pid(self) -> int | None:
        """The program's process id, or None while it is not running."""
        return self._supervisor.pid

    @property
    def starts(self) -> int:
        """How often it was started."""
        return self._supervisor.starts

    async def start(self, timeout: float) -> None:  # noqa: ASYNC109 - the poll below has its own deadline
        """Start it, for the first time or after a ``stop``, and return once it is ready.

        Raises ``StartError`` with its last words if it exits, or is not ready within ``timeout`` seconds.
        """
        self._exits = 0
        self._supervisor.start()
        deadline = time.monotonic() + timeout
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2.0)) as session:
            while not await _is_ready(session, self._ready_url):
                if self._exits:
                    raise StartError(f"{self.name} does not start; it said:\n  {self._words()}")
                if time.monotonic() > deadline:
                    raise StartError(
                        f"{self.name} is not ready after {timeout:g} s (no 200 from {self._ready_url}); "
                        f"its log is {self.log_file}; it said:\n  {self._words()}"
                    )
                await asyncio.sleep(_POLL)

    async def stop(self, grace: float) -> None:
        """Stop it; returns when it is gone."""
        await self._supervisor.stop(grace)
        self._log.close()

    def _exited(self) -> None:
        self._exits += 1

    def _words(self) -> str:
        return "\n  ".join(self._last) or "(nothing)"

    def _write(self, line: str) -> None:
        self._last.append(line)
        self._log.write(line)


async def _is_ready(session: aiohttp.ClientSession, url: str) -> bool:
    try:
        async with session.get(url) as answer:
            return answer.status == 200
    except (aiohttp.ClientError, TimeoutError, OSError):
        return False
