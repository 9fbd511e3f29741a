"""Ties a child's life to its parent's, then becomes the command: ``child.py PARENT_PID CGROUP COMMAND...``.

``CGROUP``: the file of a cgroup into which the process writes its id to enter, or empty.

Run by path with ``-I -S``, so that it takes milliseconds; imports no module of this package. The kernel kills
the process when the parent ends for any reason. A ``preexec_fn`` would have the same effect, but it runs
Python between fork and exec, which may deadlock.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # prctl(2); the setting survives execve


def main(arguments: list[str]) -> int:
    """Set the signal, check that the parent is alive, enter, execute; return only on failure."""
    parent, cgroup, *command = int(arguments[0]), *arguments[1:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # It may have died between its fork and our prctl: then no signal will come any more.
    if os.getppid() != parent:
        return 1
    try:
        if cgroup:
            with open(cgroup, "w") as processes:
                processes.write(str(os.getpid()))
        os.execvp(command[0], command)  # noqa: S606 - replacing this process is the purpose
    except OSError as error:
        sys.stderr.write(f"cannot run {command[0]}: {error}\n")
    return 127


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
