"""Gunicorn, which starts the workers and listens for the pool on a Unix socket.

Owns its folder, its command and what its end means: whether the preload failed, timed out, or is given up.
Keeps one
connection to each worker; ``supervisor`` gets their events, and knows whether a worker has ever served.
"""

import asyncio
import logging
import math
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Mapping
from enum import Enum, auto
from pathlib import Path
from typing import Final

from batching_watchdog.config import Config
from batching_watchdog.errors import LoadTimedOut, StartFailed
from batching_watchdog.function.messages import Failure
from batching_watchdog.pool.child import RECONNECT_SECONDS, STOP_SECONDS, Child, Tasks
from batching_watchdog.pool.connection import Events, connect
from batching_watchdog.process.launch import how_it_ended
from batching_watchdog.process.stacks import left_stack

log = logging.getLogger(__name__)

MAX_SOCKET_PATH: Final = 103
"""Bytes of a Unix socket's path: 107 on Linux, 103 on macOS (sun_path, without its end)."""
SHORT_FOLDERS: Final = ("/tmp", "/dev/shm")  # noqa: S108 - mkdtemp makes a safe folder in it
"""Folders for a socket where TMPDIR is too long."""
_PREFIX, _SOCKET, _COUNT = "watchdog-", "workers.sock", "count"
SOCKET_BYTES: Final = len(f"/{_PREFIX}12345678/{_SOCKET}")
"""Bytes of the socket's path below its parent: mkdtemp adds eight."""
_TIMED_OUT: Final = how_it_ended(-signal.SIGALRM)
"""Gunicorn's exit status if preloading exceeds load_timeout."""


class _Phase(Enum):
    """Phase of gunicorn's present life."""

    STARTING = auto()
    """It has accepted no connection, which it does after it has preloaded the handler."""
    LISTENING = auto()
    STOPPED = auto()
    """It is not started again."""


class Gunicorn:
    """Gunicorn, started again whenever it ends until it is stopped, and a connection to each worker."""

    def __init__(self, config: Config, environ: Mapping[str, str], events: Events, tasks: Tasks) -> None:
        """Make the folder of the workers' socket. Raises ``StartFailed``."""
        self._config = config
        self._events = events
        self._tasks = tasks
        self._workers = config.workers
        """Workers that there should be."""
        self._connecting = 0
        """Workers that there are, or that are connected to."""
        self._folder = new_folder()
        self._socket = self._folder / _SOCKET
        command = gunicorn_command(config, self._socket, self._folder)
        self._child = Child("gunicorn", command, config, environ, tasks)
        self._phase = _Phase.STARTING

    def owns(self, pid: int) -> bool:
        """Return whether ``pid`` may be gunicorn's, whose exit status is read here."""
        return self._child.owns(pid)

    def start(self, lost: Callable[[LoadTimedOut | StartFailed], None]) -> None:
        """Start gunicorn, again whenever it ends, and connect to its workers as they start.

        ``lost`` takes what each end means, and may raise it. It is not called for the end of a preload by
        default: each worker loads for itself then.
        """
        self._tasks.spawn(self._child.keep_running(lambda how: self._ended(how, lost)), "gunicorn")
        self._connect_missing()

    def set_workers(self, count: int) -> None:
        """Have ``count`` workers. Raises ``OSError`` if gunicorn cannot be told."""
        (self._folder / _COUNT).write_text(str(count))
        self._child.wake()
        self._workers = count
        self._connect_missing()

    async def stop(self, *, at_once: bool) -> None:
        """Stop gunicorn and its workers."""
        self._phase = _Phase.STOPPED
        await self._child.stop(at_once=at_once)

    def remove_folder(self) -> None:
        """Remove the folder of the socket: nothing connects any more."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _connect_missing(self) -> None:
        for _ in range(self._workers - self._connecting):
            self._connecting += 1
            self._tasks.spawn(self._keep_connected(), "worker")

    async def _keep_connected(self) -> None:
        """Keep one connection open to any worker that accepts it, until cancelled or surplus."""
        while self._phase is not _Phase.STOPPED and self._connecting <= self._workers:
            try:
                connection = await connect(str(self._socket), self._events)
            except OSError as error:  # gunicorn is starting, or starting again
                if isinstance(error, FileNotFoundError):
                    self._listen_again()
                await asyncio.sleep(RECONNECT_SECONDS)
                continue
            if self._phase is _Phase.STARTING:
                self._phase = _Phase.LISTENING
            try:
                await connection.gone.wait()
            finally:
                connection.close()
        self._connecting -= 1

    def _listen_again(self) -> None:
        """Start gunicorn again if the folder of its socket is gone: no worker can be reached any more."""
        if self._phase is not _Phase.STOPPED and not self._folder.exists():
            log.error("%s has been removed, so gunicorn is started again", self._folder)
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._child.kill()

    def _ended(self, how: str, lost: Callable[[LoadTimedOut | StartFailed], None]) -> None:
        environment = self._child.environment
        preloading = environment["preload"] != "false" and self._phase is _Phase.STARTING
        self._phase = _Phase.STARTING
        stack = left_stack(self._folder, self._child.pid)
        if how == _TIMED_OUT:
            lost(LoadTimedOut(self._config.load_timeout, stack))
            return
        if stack:
            log.error(Failure(f"gunicorn {how} with this stack", stack))
        if preloading and self._config.preload == "auto":
            log.warning("gunicorn %s while it preloaded the handler, which each worker does now", how)
            environment["preload"] = "false"
        else:
            doing = "while it preloaded the handler" if preloading else "before a worker came up"
            lost(StartFailed(f"gunicorn {how} {doing}"))


def new_folder() -> Path:
    """Make a folder for the workers' socket: in TMPDIR, or elsewhere if its path is too long for a socket.

    Raises ``StartFailed``.
    """
    wanted = ""
    try:
        wanted = tempfile.gettempdir()
        for parent in (wanted, *SHORT_FOLDERS):
            if len(os.fsencode(parent)) + SOCKET_BYTES <= MAX_SOCKET_PATH and os.access(parent, os.W_OK):
                return Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
    except OSError as error:
        raise StartFailed(f"the workers need a folder for temporary files (TMPDIR): {error}") from error
    raise StartFailed(
        f"TMPDIR={wanted!r}: must be at most {MAX_SOCKET_PATH - SOCKET_BYTES} bytes long: the path of the"
        f" workers' socket is limited, and {' and '.join(SHORT_FOLDERS)} cannot be written"
    )


def gunicorn_command(config: Config, socket: Path, directory: Path) -> list[str]:
    """Return the command that runs gunicorn with our worker class on a Unix socket."""
    # Gunicorn touches the heartbeat file every second: a disk may stall, memory does not.
    heartbeat = "/dev/shm" if os.access("/dev/shm", os.W_OK) else str(directory)  # noqa: S108 - gunicorn makes a safe file in it
    return [
        *(sys.executable, "-m", "batching_watchdog.worker.arbiter"),
        *(str(os.getpid()), str(directory / _COUNT)),
        *("--bind", f"unix:{socket}"),
        *("--workers", str(config.workers)),
        *("--worker-class", "batching_watchdog.worker.serve.BatchWorker"),
        *("--worker-tmp-dir", heartbeat),
        # The outer bound: ``overdue`` ends a worker before, unless it has not come up.
        *("--timeout", str(math.ceil(max(config.load_timeout, config.exec_timeout)) + 1)),
        *("--graceful-timeout", str(math.ceil(STOP_SECONDS))),
        *("--log-level", "error"),
        "--no-control-socket",
    ]
