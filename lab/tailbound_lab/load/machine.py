"""Describes the machine and its load during a run, for the report.

Reads Linux' /proc.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_IDLE, _IOWAIT, _STEAL = 3, 4, 7
_CPU_TIMES = slice(11, 13)
"""In /proc/PID/stat, after the name: user and system time of a process."""


@dataclass(frozen=True, slots=True)
class Reading:
    """CPU time until a moment, in ticks."""

    machine: tuple[int, ...]
    """user, nice, system, idle and so on of all cores."""
    own: dict[int, int]
    """Of this process and each of its descendants, by process id."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Shares of all CPU time between two moments; the rest was idle."""

    own: float
    """Used by this process and its descendants."""
    others: float
    """Used by other programs."""
    stolen: float
    """Taken by the host of this machine."""


def describe() -> str:
    """Return the cores, their model, the system and the Python, in one line."""
    fields = (line.partition(":") for line in Path("/proc/cpuinfo").read_text().splitlines())
    models = [value.strip() for name, _, value in fields if name.strip() == "model name"]
    cores = f"{len(os.sched_getaffinity(0))} cores ({models[0] if models else 'unknown processor'})"
    return f"{cores}, {platform.system()} {platform.release()}, Python {platform.python_version()}"


def read() -> Reading:
    """Return the counters of this moment."""
    ticks = tuple(int(text) for text in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9])
    return Reading(ticks, {pid: _ticks(pid) for pid in _family(os.getpid())})


def usage(before: Reading, after: Reading) -> Usage:
    """Return the shares between two readings; a process that ended meanwhile counts as another program."""
    spent = [late - early for early, late in zip(before.machine, after.machine, strict=True)]
    total = max(1, sum(spent))
    own = sum(ticks - before.own.get(pid, 0) for pid, ticks in after.own.items()) / total
    stolen = spent[_STEAL] / total
    busy = 1.0 - (spent[_IDLE] + spent[_IOWAIT]) / total
    return Usage(own, others=max(0.0, busy - stolen - own), stolen=stolen)


def _family(pid: int) -> Iterator[int]:
    yield pid
    for task in Path(f"/proc/{pid}/task").glob("*"):
        with suppress(OSError):  # it has ended
            for child in (task / "children").read_text().split():
                yield from _family(int(child))


def _ticks(pid: int) -> int:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0  # it has ended
    return sum(map(int, stat.rpartition(")")[2].split()[_CPU_TIMES]))
