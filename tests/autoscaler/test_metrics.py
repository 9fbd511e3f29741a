"""The series are those of the contract, and those of a function that is gone disappear."""

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from slo_autoscaler.metrics import GAUGES, Metrics
from slo_autoscaler.model import Decision, Reason, Scale
from slo_autoscaler.shadow import Score


@pytest.fixture
def metrics():
    return Metrics(CollectorRegistry())


def value(metrics, series, **labels):
    return metrics.registry.get_sample_value(f"slo_autoscaler_{series}", labels)


def test_decided_sets_the_series_of_the_function_and_forget_leaves_none(metrics):
    for _ in range(3):
        metrics.decided("a.fn", Scale(2, 1), Decision(4, Reason.BACKLOG, {}), "up")
    for desired in ({"b.fn": 2}, {"a.fn": 4}):
        metrics.desires(desired)
    assert value(metrics, "desired_replicas", function_name="b.fn") is None
    assert value(metrics, "desired_replicas", function_name="a.fn") == 4
    assert value(metrics, "mode", function_name="a.fn", mode="active") == 1
    for state, count in (("desired", 2), ("available", 1)):
        assert value(metrics, "replicas", function_name="a.fn", state=state) == count
    labels = {"function_name": "a.fn", "direction": "up", "reason": "Backlog"}
    assert value(metrics, "decisions_total", **labels) == 3
    for name in ("a.fn", "never-seen.fn"):
        metrics.forget(name)
    assert b"a.fn" not in generate_latest(metrics.registry)


def test_inputs_of_the_last_decision_are_gauges_and_what_is_unknown_is_absent(metrics):
    inputs = {name: float(number) for number, name in enumerate(GAUGES)}
    metrics.decided("a.fn", Scale(2, 2), Decision(3, Reason.BACKLOG, inputs), "up")
    for name, signal in GAUGES.items():
        assert metrics.registry.get_sample_value(signal.gauge, {"function_name": "a.fn"}) == inputs[name]
    metrics.decided("a.fn", Scale(3, 2), Decision(None, Reason.NO_DATA, dict.fromkeys(GAUGES)), "hold")
    for signal in GAUGES.values():
        assert metrics.registry.get_sample_value(signal.gauge, {"function_name": "a.fn"}) is None


def test_a_shadow_has_replicas_and_the_score_of_both_and_goes_with_the_mode(metrics):
    decision, score = Decision(None, Reason.SETTLING, {}), Score(10.0, 100.0, 90.0, 99.0, 20.0, 30.0)
    metrics.decided("a.fn", Scale(2, 2, mode="shadow"), decision, "hold", (3, score))
    assert value(metrics, "shadow_replicas", function_name="a.fn") == 3
    assert value(metrics, "shadow_requests_total", function_name="a.fn") == 100
    for series, counts in (("replica_seconds", (20, 30)), ("attained_requests", (90, 99))):
        for scaler, count in zip(("incumbent", "shadow"), counts, strict=True):
            labels = {"function_name": "a.fn", "scaler": scaler}
            assert value(metrics, f"shadow_{series}_total", **labels) == count
    metrics.decided("a.fn", Scale(2, 2), decision, "hold")
    assert value(metrics, "shadow_replicas", function_name="a.fn") is None
    assert value(metrics, "mode", function_name="a.fn", mode="shadow") is None
