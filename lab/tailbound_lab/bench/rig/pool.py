"""Simulates on several cores: processes that end with this one, however it ends."""

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from typing import Any, Final, TypeVar

from batching_watchdog.process.launch import die_with_parent
from tailbound_lab.bench.rig.record import say

TELL_SECONDS: Final = 20.0
"""Seconds between two lines of progress."""

_Result = TypeVar("_Result")
_shared: Sequence[Callable[[], Any]] = ()
"""The plays: closures cannot be sent to a process, but a forked one has them."""


def play_all(plays: Sequence[Callable[[], _Result]], processes: int) -> list[_Result]:
    """Return the outcome of each play, in order; print the progress and the remaining time at intervals."""
    global _shared  # noqa: PLW0603 - see there
    _shared = plays
    began = told = time.monotonic()
    with _pool(processes) as simulations:
        running = [simulations.submit(_play, index) for index in range(len(plays))]
        for number, done in enumerate(as_completed(running), 1):
            done.result()
            now = time.monotonic()
            if now - told >= TELL_SECONDS or number == len(plays):
                told = now
                left = (now - began) / number * (len(plays) - number) / 60
                say(f"{number:,} of {len(plays):,} plays, about {left:.0f} min left")
        return [play.result() for play in running]


def _play(index: int) -> Any:
    return _shared[index]()


@contextmanager
def _pool(processes: int) -> Iterator[ProcessPoolExecutor]:
    """Yield a pool of forked processes.

    SIGTERM ends this process at once, as an exception would wait for all that the pool has been given. The
    kernel ends the pool's processes, also one that is being forked.
    """
    forked = multiprocessing.get_context("fork")
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        with ProcessPoolExecutor(processes, forked, die_with_parent, (signal.SIGKILL, os.getpid())) as made:
            yield made
    finally:
        signal.signal(signal.SIGTERM, before)
