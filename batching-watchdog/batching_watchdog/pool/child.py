"""A child process and the tasks around it: what the two worker pools have in common.

Owns how a child is started with its output relayed, how long to wait before it is started again, and that a
background task which fails is noticed. It does not know what the child is: ``workers`` runs gunicorn,
``http_workers`` a command of the user's.
"""

import asyncio
import os
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from typing import Final, TextIO

BACKOFF_SECONDS: Final = (0.5, 1.0, 2.0, 5.0, 10.0)
"""Waits before a child is started again; back to the first after ``STABLE_SECONDS`` of life."""
STABLE_SECONDS: Final = 30.0
MAX_LOG_LINE: Final = 1 << 16


class Backoff:
    """The wait before the next start, longer with every short life."""

    def __init__(self) -> None:
        self._failures = 0

    def after(self, lived: float) -> float:
        """Seconds to wait after a child that ran for ``lived`` seconds."""
        self._failures = 1 if lived > STABLE_SECONDS else self._failures + 1
        return BACKOFF_SECONDS[min(self._failures, len(BACKOFF_SECONDS)) - 1]


class Tasks:
    """Named background tasks; the first that fails ends ``failed`` with its error."""

    def __init__(self, failed: asyncio.Future[None]) -> None:
        self._failed = failed
        self._running: set[asyncio.Task[None]] = set()

    def spawn(self, coroutine: Coroutine[None, None, None], name: str) -> None:
        """Run ``coroutine`` beside the caller."""
        task = asyncio.get_running_loop().create_task(coroutine, name=name)
        self._running.add(task)
        task.add_done_callback(self._ended)

    async def cancel(self) -> None:
        """Cancel all of them and wait for their end."""
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None and not self._failed.done():
            self._failed.set_exception(error)


async def start_child(
    command: Sequence[str], environment: Mapping[str, str], *, pipes: bool, low_priority: bool
) -> asyncio.subprocess.Process:
    """Start ``command``, with ``pipes`` for ``relay`` or with our own output.

    In a session of its own: Ctrl-C in a terminal goes to the whole foreground group, and workers are to be
    stopped last; and what it leaves behind can be killed as a group.

    ``low_priority``: at the kernel's idle priority (``SCHED_IDLE``), with all that it starts. Else we wait
    for a model to have had its turn whenever we wake to read a request, even while another CPU is idle:
    measured, the highest rate within the SLO was a fifth lower. It matters between us and the child only:
    between containers the cgroups share out the CPUs.
    """
    output = asyncio.subprocess.PIPE if pipes else None
    process = await asyncio.create_subprocess_exec(
        *command,
        env=environment,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        limit=MAX_LOG_LINE,
        start_new_session=True,
    )
    if low_priority and hasattr(os, "SCHED_IDLE"):
        with suppress(OSError):  # it has ended already
            os.sched_setscheduler(process.pid, os.SCHED_IDLE, os.sched_param(0))
    return process


async def relay(source: asyncio.StreamReader, sink: TextIO, line_of: Callable[[str], str]) -> None:
    """Copy a child's output line by line, each as ``line_of`` makes it. Overlong lines are cut, not lost."""
    while True:
        try:
            line = await source.readuntil()
        except asyncio.IncompleteReadError as error:
            line = error.partial
            if not line:
                return
        except asyncio.LimitOverrunError:
            line = await source.read(MAX_LOG_LINE)
        text = line.decode(errors="replace").rstrip("\n")
        sink.write(f"{line_of(text)}\n")
        sink.flush()
