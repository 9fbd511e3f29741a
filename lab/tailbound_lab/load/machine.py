"""Describes the machine and its load during a run, for the report.

Reads Linux' /proc.
"""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path

_IDLE, _IOWAIT, _STEAL = 3, 4, 7


@dataclass(frozen=True, slots=True)
class Usage:
    """Shares of all CPU time between two moments: busy, and taken by the host of this machine."""

    busy: float
    stolen: float


def describe() -> str:
    """Return the cores, their model, the system and the Python, in one line."""
    fields = (line.partition(":") for line in Path("/proc/cpuinfo").read_text().splitlines())
    models = [value.strip() for name, _, value in fields if name.strip() == "model name"]
    cores = f"{len(os.sched_getaffinity(0))} cores ({models[0] if models else 'unknown processor'})"
    return f"{cores}, {platform.system()} {platform.release()}, Python {platform.python_version()}"


def cpu_ticks() -> tuple[int, ...]:
    """Return the machine's CPU time counters: user, nice, system, idle and so on."""
    return tuple(int(text) for text in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9])


def usage(before: tuple[int, ...], after: tuple[int, ...]) -> Usage:
    """Return the shares between two readings of :func:`cpu_ticks`."""
    spent = [late - early for early, late in zip(before, after, strict=True)]
    total = max(1, sum(spent))
    return Usage(busy=1 - (spent[_IDLE] + spent[_IOWAIT]) / total, stolen=spent[_STEAL] / total)
