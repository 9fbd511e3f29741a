"""What the exporters expose, taken from themselves; and the metric names that a PromQL expression uses."""

import re
from pathlib import Path
from typing import Any

import yaml
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from batching_watchdog.engine.latency import LatencyModel
from batching_watchdog.metrics import Exposition
from batching_watchdog.metrics import Metrics as WatchdogMetrics
from slo_autoscaler.metrics import GAUGES
from slo_autoscaler.metrics import Metrics as AutoscalerMetrics
from slo_autoscaler.model import Decision, Reason, Scale
from tailbound_lab.local.metrics import GatewayMetrics

ROOT = Path(__file__).resolve().parents[2]
PROMETHEUS = ROOT / "deploy" / "prometheus"
FUNCTION = "f.ns"

# Prometheus' own, and words of PromQL that look like a metric.
_OF_PROMETHEUS = {"up", "ALERTS"}
_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_NOT_A_METRIC = re.compile(r'"[^"]*"|\{[^}]*\}|\[[^\]]*\]|\b(?:by|on|without|ignoring)\s*\([^)]*\)|\$\w+')
_OPERATORS = {"and", "or", "unless", "by", "bool"}
_CALL = re.compile(r"\s*\(")

Sample = tuple[str, dict[str, str], float]


def metrics_in(expression: str) -> set[str]:
    """The metric names of a PromQL expression: its words that are neither labels, operators nor functions."""
    bare = _NOT_A_METRIC.sub(" ", expression)
    words = {
        match.group()
        for match in _NAME.finditer(bare)
        if not _CALL.match(bare, match.end()) and match.group() not in _OPERATORS
    }
    return {word for word in words if "_" in word or ":" in word or word in _OF_PROMETHEUS}


def watchdog_samples() -> list[Sample]:
    model = LatencyModel(4)
    model.observe(1, 0.01)
    metrics = WatchdogMetrics(slo_latency=0.1, slo_objective=0.99, workers=1, model=model)
    metrics.request_finished(200, b"post", 0.01, "good")
    return _samples(Exposition(metrics).text(), function_name=FUNCTION)


def gateway_samples() -> list[Sample]:
    metrics = GatewayMetrics(lambda: [(FUNCTION, 1)])
    for code in (200, 502):
        metrics.started(FUNCTION)
        metrics.finished(FUNCTION, code, 0.01)
    return _samples(metrics.exposition())


def autoscaler_samples() -> list[Sample]:
    registry = CollectorRegistry()
    metrics = AutoscalerMetrics(registry)
    metrics.reconciled(0.1)
    inputs = dict.fromkeys(GAUGES, 1.0)
    for reason, direction in ((Reason.NO_DATA, "hold"), (Reason.BACKLOG, "up")):
        metrics.decided(FUNCTION, Scale(1, 1), Decision(None, reason, inputs), direction, 1)
    return _samples(generate_latest(registry))


def scraped() -> list[Sample]:
    """A scrape of all three, and what Prometheus adds."""
    up = {"job": "functions", "function_name": FUNCTION}
    return [*watchdog_samples(), *gateway_samples(), *autoscaler_samples(), ("up", up, 1.0)]


def exposed() -> set[str]:
    """The names of a scrape, and of Prometheus' own series."""
    return {name for name, _, _ in scraped()} | _OF_PROMETHEUS


def rules() -> list[dict[str, Any]]:
    """Every rule of the files that the configurations load, in their order."""
    config = yaml.safe_load((PROMETHEUS / "prometheus-kubernetes.yml").read_text())
    return [
        rule
        for file in config["rule_files"]
        for group in yaml.safe_load((PROMETHEUS / file).read_text())["groups"]
        for rule in group["rules"]
    ]


def recorded() -> set[str]:
    """The names that rules record."""
    return {rule["record"] for rule in rules() if "record" in rule}


def _samples(text: bytes, **labels: str) -> list[Sample]:
    return [
        (sample.name, {**sample.labels, **labels}, float(sample.value))
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    ]
