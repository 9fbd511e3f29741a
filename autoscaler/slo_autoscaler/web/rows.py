"""Decisions as rows of a table: what a function does now, what is wanted, whether its SLO is met.

Owns what a row holds, in which order rows stand and what is said when something is wrong altogether. A row
is one JSON object: the page, /api/functions and ``slo-autoscaler status`` show the same ones. ``shown`` in it
has every cell as text.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from slo_autoscaler import words as shown
from slo_autoscaler.cli.explain import SENTENCES, sentence
from slo_autoscaler.law.confidence import wilson

Row = dict[str, Any]
Notice = dict[str, str]
"""``level``: error, warning or info; ``text``."""

SIGMAS: Final = 2.0
"""Standard errors by which an objective must be contradicted to count as missed, as for ``decide``."""

PAGE_BURN: Final = 14.4
"""The burn rate that wakes somebody: deploy/prometheus/rules/slo.yml."""

STATES: Final[Mapping[str, str]] = {
    "missed": "missed",
    "unknown": "no data",
    "unsure": "too few to tell",
    "none": "no SLO",
    "idle": "no traffic",
    "met": "met",
}
"""What can be said of an SLO -> how; what needs somebody to look comes first."""

DEFAULT_SORT: Final = "state"

_SORTS: Final[Mapping[str, Callable[[Row], Any]]] = {
    "function": lambda row: row["function_name"],
    "state": lambda row: (_rank(row["state"]), 1.0 if row["budget"] is None else row["budget"]),
    "target": lambda row: row["slo_latency"],
    "attainment": lambda row: row["attainment"],
    "budget": lambda row: row["budget"],
    "burn": lambda row: row["burn"],
    # Against the target: a fleet has as many targets as functions.
    "p95": lambda row: _of_target(row, "p95"),
    "p99": lambda row: _of_target(row, "p99"),
    "replicas": lambda row: row["ready"],
    "mode": lambda row: row["mode"],
    "last": lambda row: row["decided_at"],
}

SORTS: Final = tuple(_SORTS)
"""What rows can be sorted by; with a - before it, downwards."""


def row(decision: Mapping[str, Any]) -> Row:
    """Return the row of a function from its newest decision, one object of the decision log."""
    inputs: Mapping[str, Any] = decision["inputs"]
    known = {key: inputs.get(key) for key in _INPUTS}
    state = _state(decision["reason"], known)
    in_shadow = decision["mode"] == "shadow"
    there = decision.get("incumbent", decision["from"])
    ready = there if in_shadow else known["ready"]
    name, _, namespace = decision["function_name"].rpartition(".")
    made: Row = {
        "function_name": decision["function_name"],
        "name": name,
        "namespace": namespace,
        "state": state,
        **{key: value for key, value in known.items() if key != "ready"},
        "ready": ready,
        "desired": there,
        "wanted": decision["to"],
        "mode": decision["mode"],
        "dry_run": decision["dry_run"],
        "reason": decision["reason"],
        "decided_at": decision["time"],
        "seen_at": decision.get("until", decision["time"]),
        "last": short(decision),
        "sentence": sentence(decision),
        "breaches": _breaches(state, known),
    }
    made["shown"] = _shown(made)
    return made


def short(decision: Mapping[str, Any]) -> str:
    """Return a decision in one clause, for a cell: ``2 → 5: load above capacity``."""
    before, after = decision["from"], decision["to"]
    why = SENTENCES.get(decision["reason"], (decision["reason"],))[0]
    if before == after:
        return f"held at {after}: {why}"
    only_said = decision["dry_run"] and decision["mode"] != "shadow"
    return f"{'would be ' if only_said else ''}{before} → {after}: {why}"


def ordered(rows: Iterable[Row], sort: str = DEFAULT_SORT) -> list[Row]:
    """Return the rows sorted by one of ``SORTS``, with a - before it downwards; what is not known comes last.

    Raises ``ValueError`` with the rule for anything else.
    """
    by_name = sorted(rows, key=lambda row: row["function_name"])
    key = sort.removeprefix("-")
    if key not in _SORTS:
        raise ValueError(f"{sort!r} must be one of {', '.join(SORTS)}, with a - before it for downwards")
    value = _SORTS[key]
    known = [row for row in by_name if value(row) is not None]
    unknown = [row for row in by_name if value(row) is None]
    return sorted(known, key=value, reverse=sort.startswith("-")) + unknown


def matching(rows: Iterable[Row], text: str = "", state: str = "") -> list[Row]:
    """Return the rows that have every word of ``text`` in name, mode, reason or decision, and the state."""
    words = text.lower().split()
    return [
        row
        for row in rows
        if (not state or row["state"] == state) and all(word in _searched(row) for word in words)
    ]


def summary(rows: Sequence[Row]) -> dict[str, Any]:
    """Return how many functions there are in each state, and the replicas of all."""
    return {
        "functions": len(rows),
        "states": {state: sum(row["state"] == state for row in rows) for state in STATES},
        "ready": sum(row["ready"] or 0 for row in rows),
        "wanted": sum(row["desired"] if row["mode"] == "shadow" else row["wanted"] for row in rows),
    }


def blind(rows: Sequence[Row]) -> bool:
    """Tell whether there are functions and no data of any: then it is not the functions' fault."""
    return bool(rows) and all(row["reason"] == "NoData" for row in rows)


def notices(rows: Sequence[Row], *, alive: bool, problem: str | None = None) -> list[Notice]:
    """Return what is wrong altogether, in words, the worst first.

    Warnings are of single functions, errors of all. ``alive``: the loop turns. ``problem``: what Prometheus
    said, if it was asked for being suspect.
    """
    found: list[Notice] = []
    if not alive:
        found.append(
            _notice(
                "error",
                "Nothing is being scaled: no reconcile has finished for several intervals."
                " The autoscaler's log says why.",
            )
        )
    without = sum(row["reason"] == "NoData" for row in rows)
    if blind(rows):
        why = f" What it said: {problem}" if problem else ""
        found.append(
            _notice(
                "error",
                "Prometheus gives no usable data, so every function stays at its count until it does."
                f" What is shown may be old.{why}",
            )
        )
    elif without:
        found.append(
            _notice(
                "warning",
                f"No usable data for {without:,} of {len(rows):,} functions, which stay at their count:"
                " not scraped, scraped too long ago, or never asked for anything.",
            )
        )
    if rows and all(row["mode"] == "standby" for row in rows):
        found.append(
            _notice("info", "This autoscaler stands by: another one acts. Counts are what it would want.")
        )
    elif rows and all(row["dry_run"] and row["mode"] == "active" for row in rows):
        found.append(_notice("info", "Dry run: decisions are made and logged, and none is carried out."))
    return found


_INPUTS: Final = (
    *("slo_latency", "slo_objective", "attainment", "samples", "budget", "burn", "p50", "p95", "p99"),
    *("rate", "forecast", "capacity", "in_flight", "queue_length", "age", "ready", "min", "max"),
)


def _notice(level: str, text: str) -> Notice:
    return {"level": level, "text": text}


def _state(reason: str, known: Mapping[str, Any]) -> str:
    if reason == "NoData":
        return "unknown"
    objective, attainment = known["slo_objective"], known["attainment"]
    if objective is None or reason == "NotManaged":
        return "idle" if reason == "ScaledToZero" else "none"
    if attainment is None:
        return "idle"
    if attainment >= objective:
        return "met"
    _, upper = wilson(attainment, known["samples"] or 0.0, SIGMAS)
    return "missed" if upper < objective else "unsure"


def _breaches(state: str, known: Mapping[str, Any]) -> list[str]:
    """Return the cells that are over their limit."""
    latency, budget, burn = known["slo_latency"], known["budget"], known["burn"]
    over = [key for key in ("p95", "p99") if latency and known[key] is not None and known[key] > latency]
    if state == "missed":
        over += ["state", "attainment"]
    if budget is not None and budget <= 0.0:
        over.append("budget")
    if burn is not None and burn >= PAGE_BURN:
        over.append("burn")
    return over


def _shown(made: Row) -> dict[str, str]:
    counts = [made["ready"], made["desired"] if made["mode"] == "shadow" else made["wanted"], made["max"]]
    beside = f" (shadow {made['wanted']})" if made["mode"] == "shadow" else ""
    return {
        "function": made["function_name"],
        "state": STATES[made["state"]],
        "target": shown.target(made["slo_latency"], made["slo_objective"]),
        "attainment": shown.attained(made["attainment"]),
        "budget": shown.budget(made["budget"]),
        "burn": shown.factor(made["burn"]),
        "p95": shown.seconds(made["p95"]),
        "p99": shown.seconds(made["p99"]),
        "replicas": " / ".join(shown.count(each) for each in counts) + beside,
        "mode": f"{made['mode']}, dry run" if made["dry_run"] and made["mode"] == "active" else made["mode"],
        "last": made["last"],
    }


def _rank(state: str) -> int:
    return list(STATES).index(state)


def _of_target(row: Row, key: str) -> float | None:
    if row[key] is None or not row["slo_latency"]:
        return None
    return float(row[key] / row["slo_latency"])


def _searched(row: Row) -> str:
    cells = row["shown"]
    return f"{row['function_name']} {cells['mode']} {row['reason']} {cells['state']} {row['last']}".lower()
