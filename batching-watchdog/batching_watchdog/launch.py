"""Ends a child process together with the watchdog, and words the end of a child.

Owns ``die_with_parent`` and, run as a module, executes any other program with it:
``python -m batching_watchdog.launch PARENT COMMAND...``. Next step: the program itself.
"""

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


def main() -> None:
    """Execute the command in the arguments; the first argument is the parent's process id."""
    command = sys.argv[2:]
    die_with_parent(signal.SIGTERM, int(sys.argv[1]))
    try:
        # The kernel keeps the parent-death signal across exec.
        os.execvp(command[0], command)  # noqa: S606 - fprocess is the operator's own command
    except OSError as error:
        sys.exit(f"{command[0]}: {os.strerror(error.errno or 0)}")


if __name__ == "__main__":
    main()
