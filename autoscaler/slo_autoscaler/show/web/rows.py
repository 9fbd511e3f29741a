"""Turns decisions into rows of the table: replicas, recommendation, state of the SLO.

Owns the content and order of rows, fleet-wide notices, and the maximum age of a row. A row is one JSON
object: the page, /api/functions and ``slo-autoscaler status`` show its ``display``. A line in
``words.COLUMNS`` makes a signal a column; any other column has its text in ``_CELLS``.
"""

import math
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from slo_autoscaler.law.latency import wilson
from slo_autoscaler.show import words
from slo_autoscaler.show.web.listener import Decisions
from slo_autoscaler.show.web.reader import Health, Reader
from slo_autoscaler.show.words import DEFAULT_SORT, STATES, sentence
from slo_autoscaler.signals.queries import Firing
from slo_autoscaler.signals.record import INPUTS

Row = dict[str, Any]
Notice = dict[str, str]
"""``level``: error, warning or info; ``text``."""

Alerts = dict[str, Any]
"""Those of one function that fire: ``function_name`` ("" for others), ``severity`` (the worst),
``dashboard_url``, and ``firing``, a list of ``alertname``, ``severity``, ``slo_class``, ``since``, ``value``,
``summary``, ``runbook_url`` and ``dashboard_url``."""

RUNBOOK: Final = "https://github.com/tailbound/tailbound/blob/main/docs/howto/runbook.md"

GOOD: Final = Health()

KEPT: Final = 1.0
"""Seconds for which the rows are cached, for all users together."""

SIGMAS: Final = 2.0
"""Standard errors below the objective from which it counts as missed, as for ``decide``."""

PAGE_BURN: Final = 14.4
"""Burn rate that pages on call, as in the chart's files/rules/slo.yml."""

PAGE_MISSES: Final = 0.8
"""Share of misses that pages where the objective allows no such burn rate, as there."""


def _replicas(row: Row) -> str:
    shadow = row["mode"] == "shadow"
    counts = [row["ready"], row["desired"] if shadow else row["target_replicas"], row["max"]]
    beside = f" (shadow {row['target_replicas']})" if shadow else ""
    beside += " (rollout failed)" if row["rollout_failed"] else ""
    return " / ".join(words.count(each) for each in counts) + beside


def _of_target(row: Row, key: str) -> float | None:
    return row[key] / row["slo_latency"] if row[key] is not None and row["slo_latency"] else None


_CELLS: Final[Mapping[str, Callable[[Row], str]]] = {
    "function": lambda row: row["function_name"],
    "state": lambda row: STATES[row["state"]],
    "target": lambda row: words.target(row["slo_latency"], row["slo_objective"]),
    "attainment": lambda row: words.attained(row["attainment"]),
    "budget_remaining": lambda row: words.budget(row["budget_remaining"]),
    "predicted": lambda row: f"{words.share(row['predicted'])} / {words.share(row['allowed'])}",
    "replicas": _replicas,
    "mode": lambda row: row["mode"],
    "last": lambda row: row["last"],
}
"""Column -> its text, for columns that do not show the number of their key."""


def _trouble(row: Row) -> tuple[int, float]:
    left = row["budget_remaining"]
    return list(STATES).index(row["state"]), 1.0 if left is None else left


_ORDERS: Final[Mapping[str, Callable[[Row], Any]]] = {
    "function": lambda row: row["function_name"],
    "state": _trouble,
    "target": lambda row: row["slo_latency"],
    # Relative to the target, because every function has its own.
    "p95": lambda row: _of_target(row, "p95"),
    "p99": lambda row: _of_target(row, "p99"),
    # Relative to the allowed share, for the same reason.
    "predicted": lambda row: (
        row["predicted"] / row["allowed"] if row["allowed"] and row["predicted"] is not None else None
    ),
    "replicas": lambda row: row["ready"],
    "last": lambda row: row["decided_at"],
}
"""Column -> its sort value, for columns that do not sort by the value of their key."""


class Rows:
    """The rows of all functions, computed once a second; every method may be called from any thread."""

    def __init__(
        self,
        decided: Decisions,
        alive: Callable[[], bool],
        reader: Reader,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._decided = decided
        self._alive = alive
        self._reader = reader
        self._clock = clock
        self._lock = threading.Lock()
        self._until = -1.0
        self._rows: list[Row] = []
        self._problems: dict[str, str] = {}
        """Functions that cannot be read or scaled; those that never could have no row."""

    def all(self) -> list[Row]:
        """Return the row of every function, in the default order."""
        blind = self._blind()
        with self._lock:
            if self._clock() >= self._until:
                told = {name: self._decided.decisions(name, 1) or {} for name in self._decided.functions()}
                self._rows = ordered(
                    _row(each, blind=blind) for each in told.values() if each.get("decisions")
                )
                self._problems = {name: each["problem"] for name, each in told.items() if "problem" in each}
                self._until = self._clock() + KEPT
            return self._rows

    def of(self, function_name: str) -> Row | None:
        """Return the row of one function, or None without a decision for it."""
        found = self._decided.decisions(function_name, 1)
        return _row(found, blind=self._blind()) if found and found["decisions"] else None

    def problem(self, function_name: str) -> str | None:
        """Return why a function cannot be read or scaled, or None."""
        found = self._decided.decisions(function_name, 1)
        return found.get("problem") if found else None

    def _blind(self) -> bool:
        return self._reader.health().problem is not None

    def notices(self) -> list[Notice]:
        """Return the fleet-wide notices."""
        return notices(
            self.all(),
            alive=self._alive(),
            health=self._reader.health(),
            troubled=self._problems,
            denied=self._decided.denied(),
        )


def _row(found: Mapping[str, Any], *, blind: bool) -> Row:
    """Return a function's row from its last decision and its problem."""
    row = row_of(found["decisions"][-1], blind=blind)
    if problem := found.get("problem"):
        # The last decision is not the present reason.
        row["last"] = row["display"]["last"] = problem
    return row


def row_of(decision: Mapping[str, Any], *, blind: bool = False) -> Row:
    """Return a function's row from its newest decision, one object of the decision log.

    ``blind``: Prometheus does not answer, so the numbers of the decision are old.
    """
    inputs: Mapping[str, Any] = decision["inputs"]
    known = {key: inputs.get(key) for key in INPUTS}
    state = "no_data" if blind else _state(decision["reason"], known)
    before = decision.get("incumbent", decision["from"])
    name, _, namespace = decision["function_name"].rpartition(".")
    row: Row = {
        "function_name": decision["function_name"],
        "name": name,
        "namespace": namespace,
        "state": state,
        **known,
        "ready": before if decision["mode"] == "shadow" else inputs.get("ready"),
        "desired": before,
        "target_replicas": decision["to"],
        "mode": decision["mode"],
        "reason": decision["reason"],
        "decided_at": decision["time"],
        "seen_at": decision.get("until", decision["time"]),
        "rollout_failed": decision.get("rollout_failed", False),
        "last": short(decision),
        "sentence": sentence(decision),
        "breaches": [
            *([] if blind else _breaches(state, known)),
            *["replicas"] * decision.get("rollout_failed", False),
        ],
    }
    row["display"] = {column.key: _display(row, column.key) for column in words.COLUMNS}
    return row


def short(decision: Mapping[str, Any]) -> str:
    """Return a decision in one clause, for a cell: ``2 → 5: load above capacity``."""
    before, after = decision["from"], decision["to"]
    told = [words.clauses(decision["reason"])[0], decision.get("detail"), decision.get("cause")]
    why = "; ".join(filter(None, told))
    if before == after:
        return f"held at {after}: {why}"
    return f"{_ONLY_SAID.get(decision['mode'], '')}{before} → {after}: {why}"


_ONLY_SAID: Final = {"standby": "would be ", "recommend": "recommends "}


def inputs(decision: Mapping[str, Any]) -> dict[str, str]:
    """Return the inputs of a decision as text."""
    return {name: words.number(name, value) for name, value in decision["inputs"].items()}


def ordered(rows: Iterable[Row], sort: str = DEFAULT_SORT) -> list[Row]:
    """Return the rows sorted by one of ``SORTS``; a leading - reverses; unknown values come last."""
    by_name = sorted(rows, key=lambda row: row["function_name"])
    key = sort.removeprefix("-")
    order: Callable[[Row], Any] = _ORDERS.get(key, lambda row: row[key])
    known = [row for row in by_name if order(row) is not None]
    unknown = [row for row in by_name if order(row) is None]
    return sorted(known, key=order, reverse=sort.startswith("-")) + unknown


def matching(rows: Iterable[Row], text: str = "", state: str = "") -> list[Row]:
    """Return the rows that have every word of ``text`` in name, mode, reason or decision, and the state."""
    wanted = text.lower().split()
    return [
        row
        for row in rows
        if (not state or row["state"] == state) and all(word in _searched(row) for word in wanted)
    ]


def summary(rows: Sequence[Row]) -> dict[str, Any]:
    """Return the number of functions in each state, and the replicas of all."""
    return {
        "functions": len(rows),
        "states": {state: sum(row["state"] == state for row in rows) for state in STATES},
        "ready": sum(row["ready"] or 0 for row in rows),
        "target_replicas": sum(
            row["desired"] if row["mode"] == "shadow" else row["target_replicas"] for row in rows
        ),
    }


def blind(rows: Sequence[Row]) -> bool:
    """Return whether functions exist and none has data: then the functions are not the cause."""
    return bool(rows) and all(row["reason"] == "NoData" for row in rows)


def alerts(firing: Iterable[Firing]) -> list[Alerts]:
    """Return the alerts by function, pages first, with links."""
    by_function: dict[str, list[dict[str, Any]]] = {}
    for alert in firing:
        name = alert.labels.get("alertname", "")
        of_one = by_function.setdefault(alert.labels.get("function_name", ""), [])
        of_one.append(
            {
                "alertname": name,
                "severity": alert.labels["severity"],
                "slo_class": alert.labels.get("slo_class", ""),
                "since": alert.since,
                "value": alert.value if math.isfinite(alert.value) else None,
                "summary": alert.summary,
                "runbook_url": f"{RUNBOOK}#{name.lower()}",
                "dashboard_url": alert.dashboard_url,
            }
        )
    for of_one in by_function.values():
        of_one.sort(key=lambda each: (each["severity"], each["alertname"], each["slo_class"], each["since"]))
    found: list[Alerts] = [
        {
            "function_name": function_name,
            "severity": of_one[0]["severity"],
            "dashboard_url": of_one[0]["dashboard_url"],
            "firing": of_one,
        }
        for function_name, of_one in by_function.items()
    ]
    return sorted(found, key=lambda each: (each["severity"], each["function_name"]))


def notices(
    rows: Sequence[Row],
    *,
    alive: bool,
    health: Health = GOOD,
    troubled: Mapping[str, str] | None = None,
    denied: Mapping[str, str] | None = None,
) -> list[Notice]:
    """Return the fleet-wide notices, the most severe first.

    Warnings concern some functions, errors all. ``alive``: the loop is running. ``troubled``: {function: why
    it cannot be read or scaled}. ``denied``: {namespace or kind: why it may not be read}.
    """
    found: list[Notice] = []

    def tell(level: str, text: str) -> None:
        found.append({"level": level, "text": text})

    if not alive:
        tell(
            "error",
            "The autoscaler scales no function: no function was decided for several intervals."
            " The autoscaler's log has the cause.",
        )
    without = sum(row["reason"] == "NoData" for row in rows)
    if health.problem is not None:
        tell(
            "error",
            f"Prometheus does not answer: {health.problem}. Functions stay at their counts. The numbers are"
            " the last ones; whether SLOs are met and alerts fire is unknown.",
        )
    elif blind(rows):
        tell("error", "Prometheus gives no usable data, so every function stays at its count until it does.")
    elif without:
        tell(
            "warning",
            f"No usable data for {without:,} of {len(rows):,} functions, which stay at their count:"
            " not scraped, scraped too long ago, or without a request so far.",
        )
    if troubled:
        name, why = min(troubled.items())
        tell(
            "warning",
            f"{len(troubled):,} of the functions cannot be read or scaled and stay at their counts,"
            f" such as {name}: {why}.",
        )
    if denied:
        where, why = min(denied.items())
        others = f" and {len(denied) - 1:,} other places" if len(denied) > 1 else ""
        tell("warning", f"Nothing of {where}{others} is scaled: {why}. Check the autoscaler's rights there.")
    if health.no_alerts is not None:
        tell("warning", f"Whether an alert fires is unknown: {health.no_alerts}.")
    if rows and all(row["mode"] == "standby" for row in rows):
        tell("info", "This autoscaler is a standby: another one acts. The counts are not applied.")
    elif rows and all(row["mode"] != "active" for row in rows):
        tell("info", "No function's mode is active: this autoscaler scales nothing.")
    return found


def _display(row: Row, key: str) -> str:
    return _CELLS[key](row) if key in _CELLS else words.number(key, row[key])


def _state(reason: str, known: Mapping[str, Any]) -> str:
    if reason == "NoData":
        return "no_data"
    objective, attainment = known["slo_objective"], known["attainment"]
    if objective is None or reason == "NotManaged":
        return "no_traffic" if reason == "ScaledToZero" else "no_slo"
    if attainment is None:
        return "no_traffic"
    if attainment >= objective:
        return "met"
    _, upper = wilson(attainment, known["samples"] or 0.0, SIGMAS)
    return "missed" if upper < objective else "insufficient_data"


def _breaches(state: str, known: Mapping[str, Any]) -> list[str]:
    """Return the cells that are over their limit."""
    latency, budget, burn = known["slo_latency"], known["budget_remaining"], known["burn_rate"]
    over = [key for key in ("p95", "p99") if latency and known[key] is not None and known[key] > latency]
    if state == "missed":
        over += ["state", "attainment"]
    if budget is not None and budget <= 0.0:
        over.append("budget_remaining")
    # The journal rounds an objective of seven nines to 1: nothing is divided by its rest.
    misses = None if burn is None else burn * (1.0 - (known["slo_objective"] or 0.0))
    if burn is not None and misses is not None and (burn >= PAGE_BURN or misses >= PAGE_MISSES):
        over.append("burn_rate")
    return over


def _searched(row: Row) -> str:
    cells = row["display"]
    return f"{row['function_name']} {cells['mode']} {row['reason']} {cells['state']} {row['last']}".lower()
