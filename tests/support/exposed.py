"""What the exporters expose, taken from themselves; and the metric names that a PromQL expression uses."""

import re
from pathlib import Path
from typing import Any

import yaml
from prometheus_client.parser import text_string_to_metric_families

from batching_watchdog.engine.capacity import Capacity
from batching_watchdog.engine.cost import CostModel
from batching_watchdog.function.messages import Target
from batching_watchdog.observe.metrics import Exposition, Metrics
from docs import generate_reference as reference
from support.gateway import gateway_exposition

ROOT = Path(__file__).resolve().parents[2]
PROMETHEUS = ROOT / "deploy" / "prometheus"
FUNCTION = "f.ns"
# Prometheus' own, and words of PromQL that look like a metric.
_OF_PROMETHEUS = {
    "up",
    "ALERTS",
    "prometheus_tsdb_retention_limit_bytes",
    "prometheus_tsdb_storage_blocks_bytes",
    "prometheus_tsdb_wal_storage_size_bytes",
}
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


def scraped() -> list[Sample]:
    """A scrape of the watchdog, the autoscaler and the gateway, and what Prometheus adds."""
    families = [*reference.families(), *text_string_to_metric_families(gateway_exposition(FUNCTION))]
    samples = [sample for family in families for sample in family.samples]
    return [
        ("up", {"job": "functions", "function_name": FUNCTION}, 1.0),
        *((each.name, _ours(each.name) | each.labels, float(each.value)) for each in samples),
    ]


def panels(dashboard: dict[str, Any]) -> list[dict[str, Any]]:
    """The panels of a dashboard, rows and those inside of rows that are collapsed among them."""
    return [each for panel in dashboard["panels"] for each in (panel, *panel.get("panels", ()))]


def exposed() -> set[str]:
    """The names of a scrape, of what a watchdog says of its process, and of Prometheus' own series."""
    whole = Metrics({"default": Target(0.1, 0.99)}, Capacity(CostModel(4), 1, 0.1, 0.99, 1.0))
    families = text_string_to_metric_families(Exposition(whole).scrape()[0].decode())
    of_process = {sample.name for family in families for sample in family.samples}
    return {name for name, _, _ in scraped()} | of_process | _OF_PROMETHEUS


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


def _ours(name: str) -> dict[str, str]:
    """What a scrape adds to a watchdog's samples; the others say themselves whom theirs are about."""
    return {} if name.startswith(("slo_autoscaler_", "gateway_")) else {"function_name": FUNCTION}
