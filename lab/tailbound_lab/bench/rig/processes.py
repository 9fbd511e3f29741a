"""Measures the resources of a server's processes, and ends them all: reads /proc, Linux only.

Every server starts with a mark in its environment, which all its descendants inherit. So processes that leave
their parent (ray's, gunicorn's after a crash) are found as well.
"""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

MARK = "BENCH_SERVER"
_TICKS = os.sysconf("SC_CLK_TCK")
_SHOWN = 60


@dataclass(frozen=True, slots=True)
class Usage:
    """One process: its name, CPU seconds since its start, and proportional memory in bytes."""

    name: str
    cpu: float
    pss: int


def marked(mark: str) -> list[int]:
    """Return the ids of processes with ``mark`` in their environment."""
    needle = f"{MARK}={mark}".encode()
    pids = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):  # it has ended, or is not ours to read
                if needle in (entry / "environ").read_bytes().split(b"\0"):
                    pids.append(int(entry.name))
    return sorted(pids)


def usage(mark: str) -> dict[int, Usage]:
    """Return the resources of every process with ``mark``; one that ends meanwhile is left out."""
    used = {}
    for pid in marked(mark):
        with contextlib.suppress(OSError):
            folder = Path("/proc") / str(pid)
            used[pid] = Usage(
                name_of((folder / "cmdline").read_bytes()),
                cpu_of((folder / "stat").read_text()),
                pss_of((folder / "smaps_rollup").read_text()),
            )
    return used


def cpu_between(before: Mapping[int, Usage], after: Mapping[int, Usage]) -> float:
    """Return the CPU seconds of all processes between two readings."""
    return sum(now.cpu - (before[pid].cpu if pid in before else 0.0) for pid, now in after.items())


def children_named(name: str, used: Mapping[int, Usage]) -> list[int]:
    """Return the processes of ``used`` named ``name`` whose parent is too: forked, not started."""
    named = [pid for pid, usage in used.items() if usage.name.endswith(f" {name}")]
    children = []
    for pid in named:
        with contextlib.suppress(OSError):
            if parent_of((Path("/proc") / str(pid) / "stat").read_text()) in named:
                children.append(pid)
    return children


def parent_of(stat: str) -> int:
    """Return the parent's process id from the text of /proc/PID/stat."""
    return int(stat.rpartition(")")[2].split()[1])


def cpu_of(stat: str) -> float:
    """Return user and system CPU seconds from the text of /proc/PID/stat."""
    fields = stat.rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def pss_of(smaps_rollup: str) -> int:
    """Return bytes of memory, with shared pages in proportion, from /proc/PID/smaps_rollup."""
    for line in smaps_rollup.splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return 0


def name_of(cmdline: bytes) -> str:
    """Return a short name from /proc/PID/cmdline: the program and its first meaningful argument."""
    words = [word.decode(errors="replace") for word in cmdline.split(b"\0") if word]
    if not words:
        return "(ended)"
    program = Path(words[0]).name
    telling = next((word for word in words[1:] if not word.startswith("-")), "")
    return f"{program} {Path(telling).name}".strip()[:_SHOWN]


def end(process: subprocess.Popen[bytes], mark: str, grace: float = 15.0) -> None:
    """Stop the server, wait, and kill its remaining processes."""
    if process.poll() is None:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(grace)
    deadline = time.monotonic() + 5.0
    while (left := marked(mark)) and time.monotonic() < deadline:
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.poll()
        time.sleep(0.05)
    process.wait()
