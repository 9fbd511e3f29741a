"""Ends a child process together with the watchdog, and words the end of a child."""

import ctypes
import os
import signal
import sys
from typing import Final

_PR_SET_PDEATHSIG: Final = 1


def how_it_ended(status: int) -> str:
    """Return the end of a process as text. A signal is a negative ``status``, as in ``subprocess``."""
    if status >= 0:
        return f"ended with status {status}"
    try:
        return f"was killed by {signal.Signals(-status).name}"
    except ValueError:  # a real-time signal
        return f"was killed by signal {-status}"


def die_with_parent(signum: int, parent: int) -> None:
    """Let the kernel send ``signum`` to this process when ``parent`` ends; at once if it has ended.

    Linux only; elsewhere a worker notices at its next heartbeat.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signum)
    if os.getppid() != parent:
        os.kill(os.getpid(), signum)
