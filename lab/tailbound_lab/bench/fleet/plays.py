"""Plays simulations, several in parallel, each at most once.

Owns the identity of a play and the file of outcomes: a play with the same code, trace, function, world and
scaler is simulated once. A stopped comparison resumes, and a new scaling policy costs only its own plays.
``held_out`` defines the plays.
"""

import functools
import hashlib
import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np

import batching_watchdog
import slo_autoscaler
import tailbound_lab.simulate
from tailbound_lab.bench import page
from tailbound_lab.bench.pool import pool
from tailbound_lab.simulate import report
from tailbound_lab.simulate.function import Function, Scaler
from tailbound_lab.simulate.traces import Trace
from tailbound_lab.simulate.world import Outcome, Series, Settings, run

TELL_SECONDS: Final = 20.0
"""Seconds between two lines of progress."""
REACTION: Final = 10.0
"""Seconds in which a jump is seen and decided on: two reconciles by default."""


@dataclass(frozen=True, slots=True)
class Workload:
    """A trace and its function."""

    trace: Trace
    function: Function

    @property
    def name(self) -> str:
        """Name of the trace."""
        return self.trace.name


Make = Callable[[Workload], Scaler]
"""Makes a scaler for a workload."""


@dataclass(frozen=True, slots=True)
class Play:
    """One simulation. ``system`` and ``settings`` identify the scaler that ``make`` creates."""

    workload: Workload
    world: Settings
    system: str
    settings: str
    make: Make

    def key(self, *, ours: bool) -> str:
        """Return the identity of the play: a digest of all that determines its outcome."""
        trace = self.workload.trace
        parts = (
            code(ours=ours),
            hashlib.sha256(trace.arrivals.tobytes()).hexdigest(),
            trace.duration,
            self.workload.function,
            self.world,
            self.system,
            self.settings,
        )
        return hashlib.sha256(repr(parts).encode()).hexdigest()


@functools.cache
def code(*, ours: bool) -> str:
    """Return a digest of simulator and engine, and with ``ours`` of our policy and its configuration.

    Only our outcomes depend on ``scalers.py``, which creates our scaler. None depends on the command line, or
    on how a trace was made: its arrivals are in the key.
    """
    folder = Path(tailbound_lab.simulate.__file__).parent
    simulator = sorted({*folder.glob("*.py")} - {folder / "__main__.py", folder / "traces.py"})
    engine = sorted((Path(batching_watchdog.__file__).parent / "engine").glob("*.py"))
    files = [file for file in simulator if ours or file.name != "scalers.py"] + engine
    if ours:
        autoscaler = Path(slo_autoscaler.__file__).parent
        files += sorted([*autoscaler.glob("*.py"), *autoscaler.glob("law/*.py")])
        files.append(Path(__file__).with_name("held_out.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


class Kept:
    """The outcomes of plays by their keys, in a file of JSON lines that only grows."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._found: dict[str, dict[str, Any]] = {}
        text = file.read_text() if file.exists() else ""
        if text and not text.endswith("\n"):
            file.write_text(text := text[: text.rfind("\n") + 1])  # a run was stopped while it wrote
        for line in text.splitlines():
            entry = json.loads(line)
            self._found[entry["key"]] = entry["outcome"]

    def find(self, key: str) -> dict[str, Any] | None:
        """Return the outcome, or None without such a play."""
        return self._found.get(key)

    def add(self, key: str, outcome: dict[str, Any]) -> None:
        """Keep an outcome."""
        self._found[key] = outcome
        with self._file.open("a") as file:
            file.write(json.dumps({"key": key, "outcome": outcome}) + "\n")


_shared: Sequence[Play] = ()
"""The plays of a round: makers cannot be sent to a process, but a forked one has them."""


def play_all(
    plays: Sequence[Play], kept: Kept, processes: int, ours: Iterable[str] = ()
) -> list[dict[str, Any]]:
    """Return the outcomes of the plays in order; simulate those that are not kept.

    ``ours`` are the systems whose outcomes depend on our policy.
    """
    global _shared  # noqa: PLW0603 - see there
    own = frozenset(ours)
    keys = [play.key(ours=play.system in own) for play in plays]
    missing = {key: index for index, key in enumerate(keys) if kept.find(key) is None}
    if missing:
        _shared = plays
        with pool(processes) as simulations:
            running = {simulations.submit(_simulate, index): key for key, index in missing.items()}
            for done in progress(as_completed(running), len(running)):
                kept.add(running[done], done.result())
    return [kept.find(key) or {} for key in keys]


def _simulate(index: int) -> dict[str, Any]:
    play = _shared[index]
    workload = play.workload
    return told(run(workload.trace, workload.function, play.make(workload), play.world), workload.function)


def told(outcome: Outcome, function: Function) -> dict[str, Any]:
    """Return the numbers that are kept of a play."""
    numbers, seconds = report.as_json(outcome), math.ceil(function.start_up + REACTION)
    at_once = missed_at_once(outcome.series, seconds)
    return {name: numbers[name] for name in _TOLD} | {"missed_at_once": at_once}


def missed_at_once(series: Series, seconds: int) -> float:
    """Return the largest share of a trace's requests that arrived within ``seconds`` and missed."""
    missed = np.concatenate(([0.0], np.cumsum(series.arrivals - series.good)))
    at_once = missed[seconds:] - missed[:-seconds] if seconds < len(missed) else missed[-1:]
    return float(at_once.max() / series.arrivals.sum())


_TOLD: Final = ("attainment", "replica_seconds", "p99", "max_replicas", "changes", "reversals")


def together(outcomes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return one record of a point under several draws: means, and the worst value of rare events."""

    def mean(name: str) -> float:
        return math.fsum(outcome[name] for outcome in outcomes) / len(outcomes)

    p99s = [outcome["p99"] for outcome in outcomes]
    return {
        "attainment": mean("attainment"),
        "replica_seconds": mean("replica_seconds"),
        "p99": None if None in p99s else max(p99s),
        "max_replicas": max(outcome["max_replicas"] for outcome in outcomes),
        "changes": round(mean("changes")),
        "reversals": max(outcome["reversals"] for outcome in outcomes),
    }


_Item = TypeVar("_Item")


def progress(items: Iterable[_Item], total: int, what: str = "plays") -> Iterator[_Item]:
    """Yield the items; print the progress towards ``total`` and the remaining time at intervals."""
    began = told = time.monotonic()
    for number, item in enumerate(items, 1):
        yield item
        now = time.monotonic()
        if now - told >= TELL_SECONDS or number == total:
            told = now
            left = (now - began) / number * (total - number) / 60
            page.say(f"{number:,} of {total:,} {what}, about {left:.0f} min left")
