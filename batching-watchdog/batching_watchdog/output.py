"""Writes stdout and stderr without ever waiting for the process that reads them.

A pipe that is full, a paused terminal and a slow disk block a writer, and the event loop prints. So text goes
into a bounded buffer, and a thread for each stream writes it. A full buffer, and a stream that cannot be
written, cost lines: they are counted, and the log says how many are missing, at their place.
"""

import atexit
import os
import queue
import select
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final, TextIO

BUFFERED_CHARACTERS: Final = 1 << 20
"""What a stream that is not read may hold: some thousand lines."""
GATHER_SECONDS: Final = 0.01
"""Lines of so much time are written together: to wake a thread for each costs more than to write it."""
FLUSH_SECONDS: Final = 1.0
"""What is buffered at the end may take this long in all."""


class Output:
    """A text stream in place of ``sys.stdout`` or ``sys.stderr``. A write is kept whole or dropped whole."""

    def __init__(self, stream: TextIO, notice: Callable[[int], str]) -> None:
        """``notice``: the line, with its line feed, that says that this many lines are missing."""
        self._stream = stream  # closes its descriptor when nothing refers to it any more
        self._descriptor, self._encoding = stream.fileno(), stream.encoding
        self._notice = notice
        self._lock = threading.RLock()  # a finalizer may print while its thread holds it
        self._texts: list[str] = []
        self._held = 0
        self._gap = 0
        """Lines dropped since the thread last took what waited; nothing is kept behind them until it does."""
        self._wake: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._torn = False
        self.dropped = 0
        """Lines that were not written."""
        self._thread = threading.Thread(target=self._run, name=f"output-{self._descriptor}", daemon=True)
        self._thread.start()

    def write(self, text: str) -> int:
        """Buffer ``text``, or drop it where it does not fit. Never waits, never raises."""
        with self._lock:
            if not self._texts and not self._gap:
                self._wake.put(True)
            if self._gap or self._held + len(text) > BUFFERED_CHARACTERS:
                lines = text.count("\n")
                self._gap += lines
                self.dropped += lines
            else:
                self._texts.append(text)
                self._held += len(text)
        return len(text)

    def flush(self) -> None:
        """Do nothing: the thread writes as soon as it can."""

    def close(self, seconds: float) -> None:
        """Write what waits, for at most ``seconds``."""
        self._wake.put(False)
        self._thread.join(seconds)

    def _run(self) -> None:
        missing, running = 0, True
        while running:
            running = self._wake.get()
            if running:
                time.sleep(GATHER_SECONDS)
            with self._lock:
                text, gap = "".join(self._texts), self._gap
                self._texts, self._held, self._gap = [], 0, 0
            if missing and self._written(self._notice(missing)):
                missing = 0
            if not self._written(text):
                lost = text.count("\n")
                missing += lost
                with self._lock:
                    self.dropped += lost
            missing += gap
            if gap and self._written(self._notice(missing)):
                missing = 0

    def _written(self, text: str) -> bool:
        """Write all of ``text``, however long that takes; False if the stream cannot be written."""
        encoded = text.encode(self._encoding, errors="backslashreplace")
        left = memoryview(b"\n" + encoded if self._torn else encoded)
        try:
            while left:
                try:
                    count = os.write(self._descriptor, left)
                except BlockingIOError:  # some process that shares the pipe has made it non-blocking
                    select.select([], [self._descriptor], [])
                    continue
                self._torn = left[count - 1] != ord("\n")
                left = left[count:]
        except OSError:
            return False
        self._torn = False
        return True


def install(notice: Callable[[str, int], str]) -> Callable[[], int]:
    """Put an ``Output`` in place of stdout and stderr until the process ends.

    ``notice``: the line for a stream's name and the number of lines that are missing. Returns what counts the
    lines that were dropped.
    """
    outputs: list[Output] = []
    for name in ("stdout", "stderr"):
        # None: it was closed before the start. No socket may get its number, and what is printed is lost.
        stream: TextIO = getattr(sys, name) or Path(os.devnull).open("w")  # noqa: SIM115 - never closed
        outputs.append(Output(stream, partial(notice, name)))
        setattr(sys, name, outputs[-1])
    atexit.register(_close, outputs)
    return lambda: sum(output.dropped for output in outputs)


def _close(outputs: list[Output]) -> None:
    deadline = time.monotonic() + FLUSH_SECONDS
    for output in outputs:
        output.close(max(0.0, deadline - time.monotonic()))
