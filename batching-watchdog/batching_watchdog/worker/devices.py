"""What one worker takes of the machine: its CUDA devices, and the threads of its maths libraries.

Sets the process's environment, and tells torch if that is loaded; imports no model library. Called by
``serve`` before the handler is loaded, or after the fork from a process that has loaded it.
"""

import os
import sys
from collections.abc import Sequence

from batching_watchdog.machine import THREAD_VARIABLES


def take_devices(slot: int, workers: int) -> None:
    """Narrow ``CUDA_VISIBLE_DEVICES`` to this worker's share, if it names several.

    CUDA reads the variable when it is initialized, which is later than this.
    """
    devices = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    if len(devices) > 1:
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(share(devices, slot, workers))


def share(devices: Sequence[str], slot: int, workers: int) -> Sequence[str]:
    """The devices of the worker in ``slot``: disjoint shares, or one each in turn if they are too few."""
    return devices[slot::workers] or (devices[slot % len(devices)],)


def take_threads() -> None:
    """After preloading, which had to do with one thread: give the maths libraries what is meant for them.

    torch is told. A library that is only imported now reads its variable; any other keeps its one thread.
    """
    threads = os.environ.get("worker_threads", "").partition(",")[0]
    if not threads.isdecimal():
        return
    for variable in THREAD_VARIABLES:
        os.environ[variable] = threads
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(int(threads))
