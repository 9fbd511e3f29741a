"""Decisions for pages to show, and who tells them."""

from typing import Any

NAME = "vision.openfaas-fn"

INPUTS: dict[str, float | None] = {
    "desired": 2,
    "ready": 2,
    "pending": 0,
    "rate": 190.0,
    "forecast": 212.0,
    "horizon": 15.0,
    "capacity": 53.0,
    "correction": 1.0,
    "in_flight": 12.0,
    "queue_length": 3.0,
    "samples": 5000.0,
    "p50": 0.061,
    "p95": 0.12,
    "p99": 0.142,
    "attainment": 0.9931,
    "burn": 0.69,
    "burn_short": 0.7,
    "budget": 0.41,
    "slo_latency": 0.2,
    "slo_objective": 0.99,
    "min": 1,
    "max": 10,
    "recommended": 5,
    "age": 1.2,
}


def a_decision(name: str = NAME, inputs: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    """Return a scale-up as the decision log has it, with changes."""
    return {
        "time": "2026-01-02T12:03:05.123+00:00",
        "function_name": name,
        "mode": "active",
        "from": 2,
        "to": 5,
        "action": "up",
        "reason": "LoadAboveCapacity",
        "dry_run": False,
        "inputs": {**INPUTS, **(inputs or {})},
        "repeats": 0,
        "until": "2026-01-02T12:03:05.123+00:00",
        **changes,
    }


def a_hold(name: str = NAME, inputs: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    """Return a hold at five replicas."""
    held = {"from": 5, "to": 5, "action": "hold", "reason": "DesiredWithinRange", **changes}
    return a_decision(name, {"desired": 5, "ready": 5, **(inputs or {})}, **held)


class Told:
    """Stands for the controller: says what it was given."""

    def __init__(self, *decisions: dict[str, Any], scores: dict[str, dict[str, float]] | None = None) -> None:
        self.kept: dict[str, list[dict[str, Any]]] = {}
        self.scores = scores or {}
        self.alive = True
        for decision in decisions:
            self.add(decision)

    def add(self, decision: dict[str, Any]) -> None:
        self.kept.setdefault(decision["function_name"], []).append(decision)

    def functions(self) -> list[str]:
        return sorted(self.kept)

    def decisions(self, function_name: str, last: int) -> dict[str, Any] | None:
        found = self.kept.get(function_name)
        if found is None:
            return None
        score = {"score": self.scores[function_name]} if function_name in self.scores else {}
        return {"function_name": function_name, "decisions": found[-last:], **score}


def a_fleet(count: int) -> Told:
    """Return that many functions of every kind, the same ones each time."""
    told = Told()
    for number in range(count):
        name = (
            f"{('vision', 'text', 'tabular', 'speech', 'embed')[number % 5]}-{number:04d}.team-{number % 7}"
        )
        share = (number * 37 % 101) / 100
        latency = (0.05, 0.1, 0.2, 0.5)[number % 4]
        inputs: dict[str, Any] = {
            "slo_latency": latency,
            "p95": latency * (0.3 + 0.4 * share),
            "p99": latency * (0.4 + 0.55 * share),
            "attainment": 1.0 - 0.009 * share,
            "burn": 0.9 * share,
            "budget": 1.0 - 0.9 * share,
            "ready": 1 + number % 9,
            "desired": 1 + number % 9,
        }
        count_now = 1 + number % 9
        changes: dict[str, Any] = {"from": count_now, "to": count_now}
        if number % 23 == 3:
            inputs |= {"p99": latency * 1.7, "attainment": 0.953, "burn": 4.7, "budget": -0.3}
            changes |= {"reason": "AtMaximum"}
        elif number % 41 == 5:
            inputs = dict.fromkeys([*INPUTS, *inputs]) | {"desired": 2, "ready": 2}
            changes |= {"reason": "NoData", "from": 2, "to": 2}
        elif number % 17 == 4:
            inputs |= {"p95": None, "p99": None, "attainment": None, "burn": None, "rate": 0.0, "budget": 1.0}
            changes |= {"reason": "NoTraffic", "from": 1, "to": 1}
        elif number % 29 == 6:
            changes |= {"mode": "shadow", "incumbent": 3}
        told.add(a_hold(name, inputs, **changes))
    return told
