"""Writes the output of replicas and services into files.

Owns the limit of a file's size: a full one is rotated, and the previous one is ``.1``.
"""

import logging
from datetime import UTC, datetime
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Final

_FILE_BYTES: Final = 8 * 2**20


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
    """The files of one function's replicas."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[str, LogFile] = {}

    def write(self, instance: str, text: str) -> None:
        """Append a line, with the time, to the file of a replica."""
        if instance not in self._files:
            self._files[instance] = LogFile(self._folder / f"{instance}.log")
        self._files[instance].write(f"{datetime.now(UTC).isoformat(timespec='milliseconds')} {text}")

    def close(self) -> None:
        """Close the files."""
        for file in self._files.values():
            file.close()
