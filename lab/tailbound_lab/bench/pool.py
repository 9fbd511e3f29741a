"""Simulates on several cores: processes that end with this one, however it ends.

Next step: the questions that simulate give it their plays.
"""

import multiprocessing
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager

from batching_watchdog.launch import die_with_parent


@contextmanager
def pool(processes: int) -> Iterator[ProcessPoolExecutor]:
    """Yield a pool of forked processes. They share what this one holds now.

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
