"""Keeps the last lines of every function, in memory for ``/system/logs`` and in files.

Owns both limits: the number of lines in memory, and the size of each replica's file, which is rotated when
full (the previous one is ``.1``). ``provider`` answers ``/system/logs`` from it.
"""

from collections import deque
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NamedTuple, TextIO

_KEPT_LINES: Final = 5_000
_FILE_BYTES: Final = 8 * 2**20


class LogLine(NamedTuple):
    """One line of output; ``instance`` is the replica's name."""

    instance: str
    timestamp: datetime
    text: str


class LogFile:
    """A file that is rotated when it is full."""

    def __init__(self, path: Path, full_bytes: int = _FILE_BYTES) -> None:
        self.path = path
        self._full_bytes = full_bytes
        self._file: TextIO | None = None

    def write(self, text: str) -> None:
        """Append a line."""
        if self._file is not None and self._file.tell() >= self._full_bytes:
            self.close()
            self.path.replace(f"{self.path}.1")
        if self._file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("a", encoding="utf-8")
        self._file.write(f"{text}\n")
        self._file.flush()

    def close(self) -> None:
        """Close it; the next line opens it again."""
        if self._file is not None:
            self._file.close()
            self._file = None


class FunctionLog:
    """The lines of one function's replicas, in order of arrival."""

    def __init__(self, folder: Path, kept_lines: int = _KEPT_LINES) -> None:
        self._folder = folder
        self._lines: deque[LogLine] = deque(maxlen=kept_lines)
        self._files: dict[str, LogFile] = {}

    def write(self, instance: str, text: str) -> None:
        """Keep a line and append it to its instance's file."""
        line = LogLine(instance, datetime.now(UTC), text)
        self._lines.append(line)
        file = self._files.setdefault(instance, LogFile(self._folder / f"{instance}.log"))
        file.write(f"{line.timestamp.isoformat(timespec='milliseconds')} {text}")

    def lines(self, *, since: datetime | None = None, tail: int = 0) -> list[LogLine]:
        """The kept lines, oldest first; ``tail`` counts from the end, and 0 or less means all."""
        found = [line for line in self._lines if since is None or line.timestamp >= since]
        return found[-tail:] if tail > 0 else found

    def close(self) -> None:
        """Close the files; the kept lines stay readable."""
        for file in self._files.values():
            file.close()
