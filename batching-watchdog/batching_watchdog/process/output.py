"""Writes stdout and stderr without ever waiting for the process that reads them.

A full pipe, a paused terminal and a slow disk block a writer, and the event loop prints. So text goes into a
bounded buffer, and one thread per stream writes it. A full buffer or an unwritable stream drops lines, which
are counted.
"""

import atexit
import os
import queue
import select
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TextIO

BUFFERED_CHARACTERS: Final = 1 << 20
"""Maximum characters buffered for an unread stream: some thousand lines."""
GATHER_SECONDS: Final = 0.01
"""Seconds of lines that are written together: waking a thread for each costs more than writing it."""
FLUSH_SECONDS: Final = 1.0
"""Seconds to write all buffered lines at the end."""


class Output:
    """A text stream in place of ``sys.stdout`` or ``sys.stderr``. A write is kept whole or dropped whole."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream  # closes its descriptor when nothing refers to it any more
        self._descriptor, self._encoding = stream.fileno(), stream.encoding
        self._lock = threading.RLock()  # a finalizer may print while its thread holds it
        self._texts: list[str] = []
        self._held = 0
        self._wake: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self.dropped = 0
        """Number of lines that were not written."""
        self._thread = threading.Thread(target=self._run, name=f"output-{self._descriptor}", daemon=True)
        self._thread.start()

    def write(self, text: str) -> int:
        """Buffer ``text``, or drop it if it does not fit. Never waits, never raises."""
        with self._lock:
            if self._held + len(text) > BUFFERED_CHARACTERS:
                self.dropped += text.count("\n")
                return len(text)
            if not self._texts:
                self._wake.put(True)
            self._texts.append(text)
            self._held += len(text)
        return len(text)

    def flush(self) -> None:
        """Do nothing: the thread writes as soon as it can."""

    def __getattr__(self, name: str) -> Any:
        """Return what else a library asks a stream for, as ``isatty`` and ``fileno``: the stream's own."""
        return getattr(self._stream, name)

    def close(self, seconds: float) -> None:
        """Write the buffer, for at most ``seconds``."""
        self._wake.put(False)
        self._thread.join(seconds)

    def _run(self) -> None:
        running = True
        while running:
            running = self._wake.get()
            if running:
                time.sleep(GATHER_SECONDS)
            with self._lock:
                text = "".join(self._texts)
                self._texts, self._held = [], 0
            try:
                self._write(text)
            except OSError:
                with self._lock:
                    self.dropped += text.count("\n")

    def _write(self, text: str) -> None:
        """Write all of ``text`` without a time limit. Raises ``OSError``."""
        left = memoryview(text.encode(self._encoding, errors="backslashreplace"))
        while left:
            try:
                left = left[os.write(self._descriptor, left) :]
            except BlockingIOError:  # some process that shares the pipe has made it non-blocking
                select.select([], [self._descriptor], [])


def install() -> Callable[[], int]:
    """Replace stdout and stderr by an ``Output`` until the process ends; return what counts dropped lines."""
    outputs: list[Output] = []
    if sys.stdin is None:
        os.open(os.devnull, os.O_RDONLY)  # libuv aborts where a pipe to a child has a number below three
    for name in ("stdout", "stderr"):
        # None: it was closed before the start. No socket may get its number, and what is printed is lost.
        stream: TextIO = getattr(sys, name) or Path(os.devnull).open("w")  # noqa: SIM115 - never closed
        outputs.append(Output(stream))
        setattr(sys, name, outputs[-1])
    atexit.register(_close, outputs)
    return lambda: sum(output.dropped for output in outputs)


def _close(outputs: list[Output]) -> None:
    deadline = time.monotonic() + FLUSH_SECONDS
    for output in outputs:
        output.close(max(0.0, deadline - time.monotonic()))
