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
_CPU_TIMES, _WAITED_FOR = slice(11, 13), slice(13, 15)
"""In /proc/PID/stat, after the name: user and system time of a process, and of its ended children."""


@dataclass(frozen=True, slots=True)
class Reading:
    """CPU time until a moment, in ticks."""

    machine: tuple[int, ...]
    """user, nice, system, idle and so on of all cores."""
    own: dict[int, tuple[int, int]]
    """Of this process and each of its descendants, by process id: of itself, and of its ended children."""


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
    return Reading(ticks, dict(_times(os.getpid())))


def usage(before: Reading, after: Reading) -> Usage:
    """Return the shares between two readings.

    What a process used that ended meanwhile is in its parent's time of ended children, less what it had used
    before. An orphan's is not, and counts as another program's.
    """
    spent = [late - early for early, late in zip(before.machine, after.machine, strict=True)]
    total = max(1, sum(spent))
    grown = [
        (itself - before.own.get(pid, (0, 0))[0], ended - before.own.get(pid, (0, 0))[1])
        for pid, (itself, ended) in after.own.items()
    ]
    counted = sum(sum(before.own[pid]) for pid in before.own.keys() - after.own.keys())
    used, waited_for = map(sum, zip(*grown, strict=True))
    own = (used + max(0, waited_for - counted)) / total
    stolen = spent[_STEAL] / total
    busy = 1.0 - (spent[_IDLE] + spent[_IOWAIT]) / total
    return Usage(own, others=max(0.0, busy - stolen - own), stolen=stolen)


def _times(pid: int) -> Iterator[tuple[int, tuple[int, int]]]:
    with suppress(OSError):  # it has ended
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        yield pid, (sum(map(int, fields[_CPU_TIMES])), sum(map(int, fields[_WAITED_FOR])))
    for task in Path(f"/proc/{pid}/task").glob("*"):
        with suppress(OSError):
            for child in (task / "children").read_text().split():
                yield from _times(int(child))
