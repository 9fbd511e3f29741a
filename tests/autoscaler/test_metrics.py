"""The series are those of the contract, and those of a function that is gone disappear."""

from prometheus_client import CollectorRegistry, generate_latest

from slo_autoscaler.metrics import Metrics
from slo_autoscaler.model import Decision, Reason, Scale


def test_a_decision_sets_its_series():
    metrics = Metrics(CollectorRegistry())
    metrics.decided("a.fn", Scale(2, 1), Decision(4, Reason.BACKLOG, {}), "up")
    metrics.decided("b.fn", Scale(3, 3), Decision(None, Reason.NO_DATA, {}), "hold")
    metrics.failed("act")
    metrics.reconciled(0.2)
    value = metrics.registry.get_sample_value
    assert value("slo_autoscaler_desired_replicas", {"function_name": "a.fn"}) == 4
    assert value("slo_autoscaler_desired_replicas", {"function_name": "b.fn"}) == 3
    assert value("slo_autoscaler_replicas", {"function_name": "a.fn", "state": "desired"}) == 2
    assert value("slo_autoscaler_replicas", {"function_name": "a.fn", "state": "available"}) == 1
    labels = {"function_name": "a.fn", "direction": "up", "reason": "Backlog"}
    assert value("slo_autoscaler_decisions_total", labels) == 1
    assert value("slo_autoscaler_errors_total", {"where": "act"}) == 1
    assert value("slo_autoscaler_errors_total", {"where": "read"}) == 0
    assert value("slo_autoscaler_reconcile_seconds_count") == 1


def test_a_function_that_is_gone_leaves_no_series():
    metrics = Metrics(CollectorRegistry())
    metrics.decided("a.fn", Scale(2, 1), Decision(4, Reason.BACKLOG, {}), "up")
    metrics.forget("a.fn")
    metrics.forget("never-seen.fn")
    assert b"a.fn" not in generate_latest(metrics.registry)
