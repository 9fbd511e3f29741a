"""The last decisions of each function, for ``explain`` and the decision log.

Owns the difference between a new decision and a repeated one, the JSON form of a decision, and the number
kept. The controller's thread writes, those of ``web`` read. It ends with the process; the log remains.
"""

import difflib
import json
import math
import threading
from collections import deque
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from slo_autoscaler.model import Numbers

DEPTH: Final = 20
"""Decisions kept per function, as long as there are few functions."""

TOTAL: Final = 40_000
"""Decisions kept in all, half a kilobyte each; at least two per function."""

DEFAULT_LAST: Final = 10
"""Decisions in an answer to a query without a number."""

EXACT_FROM: Final = 1e9
"""Numbers this large are Unix times."""

LONGEST_NAME: Final = 317
"""Characters of a Deployment's name with its namespace; comparing longer ones with all names is slow."""

MOST_REMOVED: Final = 100
"""Removed functions whose decisions are kept."""

NEAR_NAMES: Final = 3
"""Similar names that are suggested for an unknown one."""


@dataclass(slots=True)
class Entry:
    """One decision, and the number of its repetitions."""

    at: datetime
    function_name: str
    before: int
    after: int
    reason: str
    mode: str
    """``active`` (it was applied), ``recommend``, ``shadow``, ``off``; ``standby``: another autoscaler is the
    leader."""
    inputs: Numbers
    incumbent: int | None = None
    """In shadow mode the real count; ``before`` and ``after`` are the shadow's."""
    detail: str = ""
    """What the reason's clauses cannot say in numbers: the end of a hold, the name of a metric."""
    shortage: str = ""
    """Why no node has room for replicas, and the resources that the cluster would need."""
    cause: str = ""
    """Why there is no data, if the source has failed or gave numbers without sense."""
    rollout_failed: bool = False
    repeats: int = 0
    until: datetime | None = None
    """Time of the last repetition; ``inputs`` are from then."""

    @property
    def action(self) -> str:
        """``up``, ``down`` or ``hold``."""
        return "up" if self.after > self.before else "down" if self.after < self.before else "hold"

    def document(self) -> dict[str, Any]:
        """The decision as one JSON object, as in the decision log."""
        shadow = {} if self.incumbent is None else {"incumbent": self.incumbent}
        texts = {"detail": self.detail, "shortage": self.shortage, "cause": self.cause}
        return {
            "time": self.at.isoformat(timespec="milliseconds"),
            "function_name": self.function_name,
            "mode": self.mode,
            "from": self.before,
            "to": self.after,
            **shadow,
            "action": self.action,
            "reason": self.reason,
            **{key: text for key, text in texts.items() if text},
            **({"rollout_failed": True} if self.rollout_failed else {}),
            "inputs": {key: _rounded(value) for key, value in self.inputs.items()},
        }

    def repeated(self) -> dict[str, Any]:
        """``document`` with the number of repetitions and the time of the last."""
        until = self.at if self.until is None else self.until
        return {
            **self.document(),
            "repeats": self.repeats,
            "until": until.isoformat(timespec="milliseconds"),
        }

    def says_again(self, other: "Entry") -> bool:
        """Return whether ``other`` only repeats this: a hold, or a decision that is not applied."""
        same = (self.before, self.after, self.reason, self.mode, self.detail) == (
            other.before,
            other.after,
            other.reason,
            other.mode,
            other.detail,
        )
        return same and (self.mode != "active" or self.before == self.after)


@dataclass(slots=True)
class _Kept:
    """The decisions of one function: the newest as an object, older ones as text."""

    newest: Entry
    older: deque[str] = field(default_factory=deque)


class Journal:
    """Remembers decisions by function; every method may be called from any thread."""

    def __init__(self, depth: int = DEPTH, total: int = TOTAL) -> None:
        """Keep ``depth`` decisions of each function, ``total`` of all (at least two of each)."""
        self._depth = depth
        self._total = total
        self._kept: dict[str, _Kept] = {}
        self._removed: dict[str, _Kept] = {}
        """Functions that are gone, the first one first."""
        self._lock = threading.Lock()

    def record(self, entry: Entry) -> bool:
        """Remember a decision; return False if it repeats the last one."""
        with self._lock:
            kept = self._kept.get(entry.function_name) or self._removed.pop(entry.function_name, None)
            if kept is None:
                self._kept[entry.function_name] = _Kept(entry)
                return True
            self._kept[entry.function_name] = kept
            newest = kept.newest
            if newest.says_again(entry):
                newest.repeats += 1
                newest.until = entry.at
                newest.inputs = entry.inputs
                newest.incumbent = entry.incumbent
                newest.shortage, newest.cause = entry.shortage, entry.cause
                newest.rollout_failed = entry.rollout_failed
                return False
            kept.older.append(json.dumps(newest.repeated()))
            most = max(1, min(self._depth, self._total // len(self._kept)) - 1)
            while len(kept.older) > most:
                kept.older.popleft()
            kept.newest = entry
            return True

    def forget(self, function_name: str) -> None:
        """List a function no longer; keep its decisions until ``MOST_REMOVED`` others are gone as well."""
        with self._lock:
            kept = self._kept.pop(function_name, None)
            if kept is not None:
                self._removed[function_name] = kept
                while len(self._removed) > MOST_REMOVED:
                    self._removed.pop(next(iter(self._removed)))

    def functions(self, *, removed: bool = False) -> list[str]:
        """Return the functions with recorded decisions; with ``removed``, those that are gone instead."""
        with self._lock:
            return sorted(self._removed if removed else self._kept)

    def decisions(self, function_name: str, last: int) -> list[dict[str, Any]] | None:
        """Return the last decisions, oldest first, with ``repeats`` and ``until``; None if there are none."""
        with self._lock:
            kept = self._kept.get(function_name) or self._removed.get(function_name)
            if kept is None or last < 1:
                return None if kept is None else []
            # Not all of them: a table of all functions needs one decision of each.
            older = list(kept.older)[-(last - 1) :] if last > 1 else []
            newest = kept.newest.repeated()
        return [*map(json.loads, older), newest]


def named(wanted: str, functions: list[str]) -> tuple[list[str], list[str]]:
    """Return the functions that ``wanted`` names and, if there are none, similar names.

    ``wanted`` is name.namespace, or a name alone, which may match one function in each namespace.
    """
    if wanted in functions:
        return [wanted], []
    found = [name for name in functions if name.rpartition(".")[0] == wanted]
    if found or len(wanted) > LONGEST_NAME:
        return found, []
    near = difflib.get_close_matches(wanted, functions, NEAR_NAMES, 0.5)
    alone = {name.rpartition(".")[0]: name for name in functions}
    return [], near or [alone[name] for name in difflib.get_close_matches(wanted, alone, NEAR_NAMES)]


def of_log(line: str) -> dict[str, Any] | None:
    """Return the decision on one line of a log, or None if the line is something else."""
    if not line.startswith("{"):
        return None
    try:
        found = json.loads(line)
        datetime.fromisoformat(found["time"])
        kinds = {"function_name": str, "from": int, "to": int, "reason": str, "inputs": dict}
        return found if all(isinstance(found[key], kind) for key, kind in kinds.items()) else None
    except (ValueError, KeyError, TypeError):
        return None


def _rounded(value: float | None) -> float | None:
    """Round to six significant digits, a Unix time to milliseconds; JSON has no infinity, so that is None."""
    if value is None or isinstance(value, int):
        return value
    if not math.isfinite(value):
        return None
    return round(value, 3) if abs(value) >= EXACT_FROM else float(f"{value:.6g}")
