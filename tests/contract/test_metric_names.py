"""The watchdog, the gateway, the rules and the autoscaler share no code: these names are what they share."""

import re
from pathlib import Path

import yaml
from prometheus_client.parser import text_string_to_metric_families

from batching_watchdog.latency import LatencyModel
from batching_watchdog.metrics import Exposition, Metrics
from local_openfaas.metrics import GatewayMetrics
from slo_autoscaler.promql import SIGNALS

ROOT = Path(__file__).resolve().parents[2]
RULES = sorted((ROOT / "deploy" / "prometheus" / "rules").glob("*.yml"))

# Prometheus' own, and words of PromQL that look like a metric.
PROMETHEUS = {"up"}
_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_NOT_A_METRIC = re.compile(r'"[^"]*"|\{[^}]*\}|\[[^\]]*\]|\b(?:by|on|without|ignoring)\s*\([^)]*\)|\$\w+')
_FUNCTION = re.compile(r"\s*\(")


def watchdog_samples() -> set[str]:
    model = LatencyModel(4)
    model.observe(1, 0.01)
    metrics = Metrics(slo_latency=0.1, slo_objective=0.99, workers=1, model=model)
    metrics.request_finished(200, "post", 0.01, "good")
    text = Exposition(metrics).text().decode()
    return {sample.name for family in text_string_to_metric_families(text) for sample in family.samples}


def metrics_in(expression: str) -> set[str]:
    """The metric names of a PromQL expression: its words that are neither labels, operators nor functions."""
    bare = _NOT_A_METRIC.sub(" ", expression)
    words = {
        match.group()
        for match in _NAME.finditer(bare)
        if not _FUNCTION.match(bare, match.end())
        and match.group() not in {"and", "or", "unless", "by", "bool"}
    }
    return {word for word in words if "_" in word or ":" in word or word in PROMETHEUS}


def gateway_samples() -> set[str]:
    metrics = GatewayMetrics(lambda: [("f.openfaas-fn", 1)])
    metrics.started("f.openfaas-fn")
    metrics.finished("f.openfaas-fn", 200, 0.01)
    text = metrics.exposition().decode()
    return {sample.name for family in text_string_to_metric_families(text) for sample in family.samples}


def exported() -> set[str]:
    return watchdog_samples() | gateway_samples() | PROMETHEUS


def test_the_autoscaler_asks_only_for_what_is_exported():
    asked = {name for query in SIGNALS.values() for name in metrics_in(query)}
    assert asked
    assert asked <= exported()


def test_the_rules_use_only_what_is_exported_or_recorded_before():
    known = exported()
    for file in RULES:
        for group in yaml.safe_load(file.read_text())["groups"]:
            for rule in group["rules"]:
                assert metrics_in(str(rule["expr"])) <= known, rule
                if "record" in rule:
                    known = known | {rule["record"]}
