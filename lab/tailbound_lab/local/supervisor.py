"""Keeps one child process alive and stops it in order.

Owns start, output, restart with backoff, SIGTERM and then SIGKILL. The caller (``replica``, ``services``)
provides the command, and the task to run beside it.
"""

import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

_log = logging.getLogger(__name__)

_CHILD: Final = str(Path(__file__).with_name("child.py"))
_FIRST_DELAY: Final = 0.1
_LONGEST_DELAY: Final = 10.0
_STABLE_AFTER: Final = 10.0
"""Seconds of life after which a child is restarted at once: its start was not the cause."""
_LONGEST_LINE: Final = 65_536
_LAST_WORDS: Final = 0.5
"""Seconds that the output may stay open after the exit; a grandchild may hold it forever."""
_KILL_WAIT: Final = 5.0


@dataclass(frozen=True, slots=True)
class Launch:
    """One start: the command, its whole environment and its working folder."""

    command: Sequence[str]
    env: Mapping[str, str]
    cwd: Path | None = None
    cgroup: Path | None = None
    """``cgroup.procs`` of the group that it enters."""


def restart_delay(failures: int) -> float:
    """Return the seconds before start number ``failures`` + 1: doubled from 0.1 s, at most 10 s."""
    return min(_LONGEST_DELAY, _FIRST_DELAY * 2.0 ** min(max(0, failures - 1), 16))


class Supervisor:
    """One child, from the first start to the stop; ``launch`` is called for every start.

    ``watch`` runs beside the child, and is cancelled when the child exits. Then ``on_exit`` is called, before
    the next start.
    """

    def __init__(
        self,
        name: str,
        launch: Callable[[], Launch],
        on_line: Callable[[str], None],
        *,
        watch: Callable[[], Coroutine[Any, Any, None]] | None = None,
        on_exit: Callable[[], None] | None = None,
    ) -> None:
        self.name = name
        self._launch = launch
        self._on_line = on_line
        self._watch = watch
        self._on_exit = on_exit
        self._stopping = asyncio.Event()
        self._process: asyncio.subprocess.Process | None = None
        self._task: asyncio.Task[None] | None = None
        self.starts = 0

    @property
    def pid(self) -> int | None:
        """The child's process id, or None without a child."""
        process = self._process
        return process.pid if process is not None and process.returncode is None else None

    def start(self) -> None:
        """Start the child, and keep it alive until ``stop``; it may be started again afterwards."""
        self._stopping.clear()
        self._task = asyncio.create_task(self._keep_alive(), name=f"supervise {self.name}")

    async def stop(self, grace: float) -> None:
        """Send SIGTERM, then SIGKILL to the group after ``grace`` seconds; return when it has ended."""
        self._stopping.set()
        if self._task is None:
            return
        self._signal(signal.SIGTERM)
        done, _ = await asyncio.wait({self._task}, timeout=grace)
        if not done:
            self._on_line(f"did not stop within {grace:g} s of SIGTERM: killed")
            self._kill_group()
            done, _ = await asyncio.wait({self._task}, timeout=_KILL_WAIT)
        if not done:
            self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    async def _keep_alive(self) -> None:
        loop = asyncio.get_running_loop()
        failures = 0
        while not self._stopping.is_set():
            started = loop.time()
            try:
                code = await self._run_once()
                words = f"exited with status {code}" if code >= 0 else f"was killed by signal {-code}"
            except OSError as error:
                words = f"could not be started: {error}"
            if self._stopping.is_set():
                return
            failures = 1 if loop.time() - started >= _STABLE_AFTER else failures + 1
            delay = restart_delay(failures)
            _log.warning("%s %s; starting it again in %.1f s", self.name, words, delay)
            self._on_line(f"{words}; starting again in {delay:.1f} s")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), delay)

    async def _run_once(self) -> int:
        launch = self._launch()
        loop = asyncio.get_running_loop()
        read_end, write_end = os.pipe()
        lines = _Lines(self._on_line)
        # The pipe is ours, not the process object's, which would wait until every holder closes it.
        pipe, _ = await loop.connect_read_pipe(lambda: lines, os.fdopen(read_end, "rb", 0))
        try:
            try:
                self._process = process = await asyncio.create_subprocess_exec(
                    *(
                        sys.executable,
                        "-I",
                        "-S",
                        _CHILD,
                        str(os.getpid()),
                        str(launch.cgroup or ""),
                        *launch.command,
                    ),
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=write_end,
                    stderr=write_end,
                    env=dict(launch.env),
                    cwd=launch.cwd,
                    # Ctrl-C in a terminal must reach only us; we stop the children in order.
                    start_new_session=True,
                )
            finally:
                os.close(write_end)
            self.starts += 1
            if self._stopping.is_set():
                self._signal(signal.SIGTERM)
            watching = asyncio.create_task(self._watch()) if self._watch is not None else None
            try:
                returncode = await process.wait()
            finally:
                if watching is not None:
                    watching.cancel()
                    await asyncio.wait({watching})
                    if not watching.cancelled() and (error := watching.exception()) is not None:
                        _log.error("watching %s failed", self.name, exc_info=error)
                if process.returncode is None:
                    self._kill_group()
            if self._on_exit is not None:
                self._on_exit()
            await asyncio.wait({lines.closed}, timeout=_LAST_WORDS)
            return returncode
        finally:
            pipe.close()

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)

    def _kill_group(self) -> None:
        if (pid := self.pid) is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                # The child leads its own session, so this reaches its descendants too.
                os.killpg(pid, signal.SIGKILL)


class _Lines(asyncio.Protocol):
    """Cuts a stream of bytes into lines; longer lines are cut at 64 KiB."""

    def __init__(self, on_line: Callable[[str], None]) -> None:
        self._on_line = on_line
        self._rest = b""
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def data_received(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._emit(line)
        if len(self._rest) >= _LONGEST_LINE:
            self._emit(self._rest)
            self._rest = b""

    def connection_lost(self, exc: Exception | None) -> None:
        if self._rest:
            self._emit(self._rest)
            self._rest = b""
        if not self.closed.done():
            self.closed.set_result(None)

    def _emit(self, line: bytes) -> None:
        self._on_line(line.decode(errors="replace").rstrip("\r"))
