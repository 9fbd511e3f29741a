"""The page over a real socket, showing given decisions."""

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, urlsplit

from slo_autoscaler.config import Config
from slo_autoscaler.show.web.page import Page
from slo_autoscaler.signals import queries
from support.builders import EVERY_INPUT, NAME, a_told_decision
from support.doubles import Gateway, a_gateway, status

NOBODY = "http://127.0.0.1:1"
"""Where nothing listens."""

CONFIG = """
platform: {{gateway_url: "http://127.0.0.1:1"}}
prometheus: {{url: "{prometheus}", timeout: 10s}}
web: {{page_port: 0, page_allowed_hosts: [status.example.org]}}
functions: {{resize.openfaas-fn: {{policy: proportional, signals: gateway, slo_latency: 500ms}}}}
"""

INPUTS: dict[str, float | None] = {
    **EVERY_INPUT,
    "desired": 2,
    "ready": 2,
    "pending": 0,
    "max": 10,
    "expected": 212.0,
    "samples": 5000.0,
    "p95": 0.12,
    "p99": 0.142,
    "attainment": 0.9931,
    "burn_rate": 0.69,
    "budget_remaining": 0.41,
    "interval_p99": None,
    "slo_interval": None,
}

_SCORED = ("seconds", "requests", "attained_incumbent", "attained_shadow", "replica_seconds_incumbent")
SCORE = dict.fromkeys((*_SCORED, "replica_seconds_shadow"), 900.0)


def a_decision(name: str = NAME, inputs: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    """Return a scale-up as the journal has it, with changes."""
    told = {"function_name": name, "to": 5, "inputs": {**INPUTS, **(inputs or {})}, "repeats": 0, **changes}
    return {"until": a_told_decision()["time"], **a_told_decision(**told)}


def a_hold(name: str = NAME, inputs: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    """Return a hold at five replicas."""
    held = {"from": 5, "to": 5, "action": "hold", "reason": "DesiredWithinRange", **changes}
    return a_decision(name, {"desired": 5, "ready": 5, **(inputs or {})}, **held)


class Told:
    """Stands for the controller: has the decisions that it was given."""

    def __init__(self, *decisions: dict[str, Any], scores: dict[str, dict[str, float]] | None = None) -> None:
        self.kept: dict[str, list[dict[str, Any]]] = {}
        self.scores = scores or {}
        self.problems: dict[str, str] = {}
        self.boosts: dict[str, str] = {}
        self.gone: list[str] = []
        self.refused: dict[str, str] = {}
        self.alive = True
        for decision in decisions:
            self.add(decision)

    def add(self, decision: dict[str, Any]) -> None:
        self.kept.setdefault(decision["function_name"], []).append(decision)

    def functions(self) -> list[str]:
        return sorted({*self.kept, *self.problems} - {*self.gone})

    def removed(self) -> list[str]:
        return self.gone

    def denied(self) -> dict[str, str]:
        return self.refused

    def decisions(self, function_name: str, last: int) -> dict[str, Any] | None:
        problem = {"problem": self.problems[function_name]} if function_name in self.problems else {}
        found = self.kept.get(function_name, [])
        if not found and not problem:
            return None
        removed = {"removed": True} if function_name in self.gone else {}
        score = {"score": self.scores[function_name]} if function_name in self.scores else {}
        boost = {"boost": self.boosts.get(function_name, "")}
        told = {**problem, **removed, **score, **boost}
        return {"function_name": function_name, "decisions": found[-last:], **told}


def a_fleet(count: int) -> Told:
    """Return that many functions in every state, the same ones each time."""
    told = Told()
    for number in range(count):
        kind = ("vision", "text", "tabular", "speech", "embed")[number % 5]
        share, latency, replicas = (number * 37 % 101) / 100, (0.05, 0.1, 0.2)[number % 3], 1 + number % 9
        inputs: dict[str, Any] = {
            "slo_latency": latency,
            "ready": replicas,
            "desired": replicas,
            "p95": latency * (0.3 + 0.4 * share),
            "p99": latency * (0.4 + 0.55 * share),
            "attainment": 1.0 - 0.009 * share,
            "burn_rate": 0.9 * share,
            "budget_remaining": 1.0 - 0.9 * share,
        }
        changes: dict[str, Any] = {"from": replicas, "to": replicas}
        if number % 23 == 3:
            inputs |= {"p99": latency * 1.7, "attainment": 0.953, "burn_rate": 4.7, "budget_remaining": -0.3}
            changes |= {"reason": "AtMaximum"}
        elif number % 41 == 5:
            inputs, changes = dict.fromkeys(INPUTS), {"reason": "NoData"}
        elif number % 17 == 4:
            inputs |= dict.fromkeys(("p95", "p99", "attainment", "burn_rate")) | {"budget_remaining": 1.0}
            changes |= {"reason": "NoTraffic"}
        elif number % 29 == 6:
            changes |= {"mode": "shadow", "incumbent": 3}
        told.add(a_hold(f"{kind}-{number:04d}.team-{number % 7}", inputs, **changes))
    return told


def an_alert(name: str = "ErrorBudgetBurn", function_name: str = NAME, **labels: str) -> dict[str, Any]:
    """Return an alert that fires, as Prometheus lists it."""
    own = {"alertname": name, "severity": "page", "product": "tailbound", "function_name": function_name}
    return {
        "labels": {**own, **labels},
        "annotations": {"summary": f"{function_name} spends its error budget 14.5 times too fast"},
        "state": "firing",
        "activeAt": "2026-01-01T11:58:05.123456789Z",
        "value": "1.45e+01",
    }


@contextmanager
def a_quiet_prometheus(*alerts: dict[str, Any]) -> Iterator[Gateway]:
    """Serve what a Prometheus answers that has scraped nothing, and lists these alerts."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        split = urlsplit(handler.path)
        asked = parse_qs(split.query).get("query") == [queries.TIME]
        series = [{"metric": {}, "value": [1767355385, "1767355385"]}] if asked else []
        data = {"alerts": alerts} if split.path == queries.ALERTS else {"result": series}
        status(200, json.dumps({"status": "success", "data": data}).encode())(handler)

    with a_gateway() as double:
        double.faults["GET"] = answer
        yield double


@contextmanager
def a_page(told: Told, prometheus: str = NOBODY) -> Iterator[str]:
    """Serve a page; give its URL."""
    page = Page(Config.parse(CONFIG.format(prometheus=prometheus), "test"), told, lambda: told.alive)
    page.start()
    try:
        yield page.url
    finally:
        page.stop()


def get(url: str, method: str = "GET", **headers: str) -> tuple[int, Any, bytes]:
    """Return status, headers and body of an answer, whatever its status."""
    try:
        with urllib.request.urlopen(
            urllib.request.Request(url, method=method, headers=headers), timeout=20
        ) as answer:
            return answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers, error.read()


def get_json(url: str) -> tuple[int, Any]:
    status, headers, body = get(url)
    assert headers["Content-Type"] == "application/json", body
    return status, json.loads(body)
