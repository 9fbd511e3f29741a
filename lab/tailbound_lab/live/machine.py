"""What ran where: the machine, and how busy it was meanwhile, for the report's small print.

Reads /proc; whatever it cannot read is said to be unknown.
"""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path

_IDLE, _IOWAIT, _STEAL = 3, 4, 7


@dataclass(frozen=True, slots=True)
class Usage:
    """Shares of all CPU time between two moments: at work, and taken away by the host of this machine."""

    busy: float
    stolen: float


def describe() -> str:
    """Return the cores, their model, the system and the Python, in one line."""
    model = "unknown processor"
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    except OSError:
        pass
    cores = len(os.sched_getaffinity(0))
    system = f"{platform.system()} {platform.release()}"
    return f"{cores} cores ({model}), {system}, Python {platform.python_version()}"


def cpu_ticks() -> tuple[int, ...]:
    """Return the machine's CPU time counters (user, nice, system, idle, ...); empty if unreadable."""
    try:
        return tuple(int(text) for text in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9])
    except (OSError, ValueError):
        return ()


def usage(before: tuple[int, ...], after: tuple[int, ...]) -> Usage | None:
    """Return the shares between two readings of :func:`cpu_ticks`; None where there is nothing to compare."""
    spent = [late - early for early, late in zip(before, after, strict=False)]
    total = sum(spent)
    if len(spent) <= _STEAL or total <= 0:
        return None
    return Usage(
        busy=1 - (spent[_IDLE] + spent[_IOWAIT]) / total,
        stolen=spent[_STEAL] / total,
    )
