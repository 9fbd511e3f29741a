"""Keeps the last lines of every function, in memory for ``/system/logs`` and in files.

Owns both limits: the number of lines in memory, and the size of each replica's file, which is rotated when
full (the previous one is ``.1``). ``provider`` answers ``/system/logs`` from it.
"""

import logging
from collections import deque
from datetime import UTC, datetime
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Final, NamedTuple

_KEPT_LINES: Final = 5_000
_FILE_BYTES: Final = 8 * 2**20


class LogLine(NamedTuple):
    """One line of output; ``instance`` is the replica's name."""

    instance: str
    timestamp: datetime
    text: str


class LogFile:
    """A file that is rotated when it is full."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = RotatingFileHandler(path, maxBytes=_FILE_BYTES, backupCount=1, encoding="utf-8")

    def write(self, text: str) -> None:
        """Append a line."""
        self._file.emit(logging.makeLogRecord({"msg": text}))

    def close(self) -> None:
        """Close it; the next line opens it again."""
        self._file.close()


class FunctionLog:
    """The lines of one function's replicas, in order of arrival."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lines: deque[LogLine] = deque(maxlen=_KEPT_LINES)
        self._files: dict[str, LogFile] = {}

    def write(self, instance: str, text: str) -> None:
        """Keep a line and append it to its instance's file."""
        line = LogLine(instance, datetime.now(UTC), text)
        self._lines.append(line)
        if instance not in self._files:
            self._files[instance] = LogFile(self._folder / f"{instance}.log")
        self._files[instance].write(f"{line.timestamp.isoformat(timespec='milliseconds')} {text}")

    def lines(self, *, since: datetime | None = None, tail: int = 0) -> list[LogLine]:
        """The kept lines, oldest first; ``tail`` counts from the end, and 0 or less means all."""
        found = [line for line in self._lines if since is None or line.timestamp >= since]
        return found[-tail:] if tail > 0 else found

    def close(self) -> None:
        """Close the files; the kept lines stay readable."""
        for file in self._files.values():
            file.close()
