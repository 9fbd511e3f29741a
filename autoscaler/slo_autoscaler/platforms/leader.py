"""Lets at most one of several autoscalers act: two scalers cannot share a function.

Owns the lock on a file. A leader is a class with the two methods of ``Leader``. A standby observes and
decides as well, so that it has the history when it takes over.
"""

import fcntl
import logging
import os
import threading
from contextlib import suppress
from typing import Protocol

from slo_autoscaler.errors import ConfigError
from slo_autoscaler.logs import Changes

logger = logging.getLogger(__name__)


class Leader(Protocol):
    """The election, as the controller needs it."""

    def leads(self) -> bool:
        """Return whether this process may act now; try to become the leader if it is not; never wait.

        Called before each reconcile and before each change, from several threads.
        """
        ...

    def close(self) -> None:
        """Let others lead."""
        ...


class Alone:
    """Always the leader, since this autoscaler is the only one; or never, if no platform may write."""

    def __init__(self, *, leads: bool = True) -> None:
        self._leads = leads

    def leads(self) -> bool:
        """Return the same each time."""
        return self._leads

    def close(self) -> None:
        """Do nothing."""


class FileLock:
    """Leads while it holds a lock on a file, which the kernel releases when the process ends.

    For processes on one machine: network file systems may grant a lock twice. If the file is removed or
    replaced, the holder stops leading.
    """

    def __init__(self, path: str) -> None:
        """Open or create the file. Raises ``ConfigError``."""
        self._path = path
        self._file: int | None = None
        self._leads = False
        self._said = Changes(logger)
        self._lock = threading.Lock()
        try:
            self._file = self._open()
        except OSError as error:
            raise ConfigError(
                [f"--lock: {path!r} must be a file that can be written: {error.strerror}"]
            ) from None

    def leads(self) -> bool:
        """Return whether the lock is held, after taking it if it is free."""
        with self._lock:
            if self._leads and not self._is_current():
                logger.error("%s was removed or replaced: no longer the leader", self._path)
                self._give_up()
            if not self._leads:
                self._leads = self._take()
                if self._leads:
                    self._said.over("standby")
                    logger.info("is leader, by the lock on %s", self._path)
                else:
                    text = f"another autoscaler holds the lock on {self._path}"
                    self._said.say(
                        "standby", f"{text}: standing by; not applying decisions", level=logging.INFO
                    )
            return self._leads

    def close(self) -> None:
        """Release the lock."""
        with self._lock:
            self._give_up()

    def _give_up(self) -> None:
        self._leads = False
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _open(self) -> int:
        return os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)

    def _take(self) -> bool:
        try:
            if self._file is None or not self._is_current():
                self._give_up()
                self._file = self._open()
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        if not self._is_current():
            # Replaced between opening and locking; the next try opens what is there then.
            self._give_up()
            return False
        with suppress(OSError):  # the process id is for operators only
            os.ftruncate(self._file, 0)
            os.pwrite(self._file, f"{os.getpid()}\n".encode(), 0)
        return True

    def _is_current(self) -> bool:
        """Return whether the path still names the open file."""
        if self._file is None:
            return False
        try:
            return os.path.samestat(os.fstat(self._file), os.stat(self._path))
        except OSError:
            return False
