"""The last lines of every function, in memory for ``/system/logs`` and in files for people.

Owns both bounds: a function keeps its last lines here, and each replica's file is started anew when it is
full (the one before is kept as ``.1``). ``provider`` answers ``/system/logs`` from it.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final, TextIO

_KEPT_LINES: Final = 5_000
_FILE_BYTES: Final = 8 * 2**20
_FOLLOWER_LINES: Final = 10_000
"""A follower that reads too slowly misses lines rather than filling our memory."""


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line of output; ``instance`` is the replica's name."""

    name: str
    namespace: str
    instance: str
    timestamp: datetime
    text: str

    def document(self) -> dict[str, Any]:
        """The line as faas-provider's log message; the timestamp is RFC 3339."""
        return {
            "name": self.name,
            "namespace": self.namespace,
            "instance": self.instance,
            "timestamp": self.timestamp.isoformat(),
            "text": self.text,
        }


@dataclass(frozen=True, slots=True)
class LogQuery:
    """What to answer; ``tail`` counts lines from the end, 0 or less means all."""

    since: datetime | None = None
    tail: int = 0
    instance: str = ""

    def accepts(self, line: LogLine) -> bool:
        """Whether ``line`` is of the wanted time and instance."""
        return (self.since is None or line.timestamp >= self.since) and (
            not self.instance or line.instance == self.instance
        )


class FunctionLog:
    """The lines of one function's replicas, in the order in which they came."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lines: deque[LogLine] = deque(maxlen=_KEPT_LINES)
        self._files: dict[str, TextIO] = {}
        self._followers: set[asyncio.Queue[LogLine | None]] = set()
        folder.mkdir(parents=True, exist_ok=True)

    def write(self, line: LogLine) -> None:
        """Keep ``line``, hand it to the followers and append it to its instance's file."""
        self._lines.append(line)
        for follower in self._followers:
            with contextlib.suppress(asyncio.QueueFull):
                follower.put_nowait(line)
        file = self._file(line.instance)
        file.write(f"{line.timestamp.isoformat(timespec='milliseconds')} {line.text}\n")
        file.flush()

    def lines(self, query: LogQuery) -> list[LogLine]:
        """The kept lines that ``query`` asks for, oldest first."""
        wanted = [line for line in self._lines if query.accepts(line)]
        return wanted[-query.tail :] if query.tail > 0 else wanted

    @contextlib.contextmanager
    def following(self) -> Iterator[asyncio.Queue[LogLine | None]]:
        """A queue of the lines that come from now on; None: there will be no more."""
        follower: asyncio.Queue[LogLine | None] = asyncio.Queue(_FOLLOWER_LINES)
        self._followers.add(follower)
        try:
            yield follower
        finally:
            self._followers.discard(follower)

    def close(self) -> None:
        """Tell the followers that this was all, and close the files; the kept lines stay readable."""
        for follower in self._followers:
            if follower.full():
                follower.get_nowait()
            follower.put_nowait(None)
        for file in self._files.values():
            file.close()
        self._files.clear()

    def _file(self, instance: str) -> TextIO:
        file = self._files.get(instance)
        if file is not None and file.tell() >= _FILE_BYTES:
            file.close()
            path = self._folder / f"{instance}.log"
            path.replace(path.with_suffix(".log.1"))
            file = None
        if file is None:
            file = (self._folder / f"{instance}.log").open("a", encoding="utf-8")
            self._files[instance] = file
        return file
