"""The series are those of the contract, and those of a function that is gone disappear."""

from prometheus_client import CollectorRegistry, generate_latest

from slo_autoscaler.metrics import Metrics
from slo_autoscaler.model import Decision, Reason, Scale
from slo_autoscaler.shadow import Score


def test_a_decision_sets_its_series():
    metrics = Metrics(CollectorRegistry())
    metrics.decided("a.fn", Scale(2, 1), Decision(4, Reason.BACKLOG, {}), "up", 4)
    metrics.decided("b.fn", Scale(3, 3), Decision(None, Reason.NO_DATA, {}), "hold", 3)
    metrics.failed("act")
    metrics.reconciled(0.2)
    value = metrics.registry.get_sample_value
    assert value("slo_autoscaler_desired_replicas", {"function_name": "a.fn"}) == 4
    assert value("slo_autoscaler_desired_replicas", {"function_name": "b.fn"}) == 3
    assert value("slo_autoscaler_replicas", {"function_name": "a.fn", "state": "desired"}) == 2
    assert value("slo_autoscaler_replicas", {"function_name": "a.fn", "state": "available"}) == 1
    labels = {"function_name": "a.fn", "direction": "up", "reason": "Backlog"}
    assert value("slo_autoscaler_decisions_total", labels) == 1
    assert value("slo_autoscaler_errors_total", {"stage": "act"}) == 1
    assert value("slo_autoscaler_errors_total", {"stage": "read"}) == 0
    assert value("slo_autoscaler_reconcile_seconds_count") == 1


def test_a_function_that_is_gone_leaves_no_series():
    metrics = Metrics(CollectorRegistry())
    metrics.decided("a.fn", Scale(2, 1), Decision(4, Reason.BACKLOG, {}), "up", 4)
    metrics.forget("a.fn")
    metrics.forget("never-seen.fn")
    assert b"a.fn" not in generate_latest(metrics.registry)


def test_the_inputs_of_the_last_decision_are_gauges_and_what_is_unknown_is_absent():
    metrics = Metrics(CollectorRegistry())
    inputs = {"forecast": 12.5, "capacity": None, "correction": 0.9, "recommended": 3}
    metrics.decided("a.fn", Scale(2, 2), Decision(3, Reason.BACKLOG, inputs), "up", 3)
    value = metrics.registry.get_sample_value
    labels = {"function_name": "a.fn"}
    assert value("slo_autoscaler_forecast_requests_per_second", labels) == 12.5
    assert value("slo_autoscaler_capacity_requests_per_second", labels) is None
    assert value("slo_autoscaler_capacity_correction_ratio", labels) == 0.9
    assert value("slo_autoscaler_recommended_replicas", labels) == 3
    metrics.decided("a.fn", Scale(3, 2), Decision(None, Reason.NO_DATA, {}), "hold", 3)
    assert value("slo_autoscaler_forecast_requests_per_second", labels) is None


def test_decisions_are_counted_by_reason_and_the_count_is_a_counter():
    metrics = Metrics(CollectorRegistry())
    for _ in range(3):
        metrics.decided("a.fn", Scale(2, 2), Decision(None, Reason.SETTLING, {}), "hold", 2)
    text = generate_latest(metrics.registry).decode()
    assert "# TYPE slo_autoscaler_decisions_total counter" in text
    assert 'direction="hold",function_name="a.fn",reason="Settling"} 3.0' in text


def test_a_shadow_has_its_replicas_and_the_score_of_both():
    metrics = Metrics(CollectorRegistry())
    metrics.decided("a.fn", Scale(2, 2), Decision(None, Reason.SETTLING, {}), "hold", 2)
    metrics.shadowed("a.fn", 3, Score(10.0, 100.0, 90.0, 99.0, 20.0, 30.0))
    value = metrics.registry.get_sample_value
    assert value("slo_autoscaler_shadow_replicas", {"function_name": "a.fn"}) == 3
    assert value("slo_autoscaler_shadow_requests_total", {"function_name": "a.fn"}) == 100
    for series, incumbent, shadow in (
        ("slo_autoscaler_shadow_replica_seconds_total", 20, 30),
        ("slo_autoscaler_shadow_attained_requests_total", 90, 99),
    ):
        assert value(series, {"function_name": "a.fn", "scaler": "incumbent"}) == incumbent
        assert value(series, {"function_name": "a.fn", "scaler": "shadow"}) == shadow


def test_leading_is_1_and_standing_by_0():
    metrics = Metrics(CollectorRegistry())
    metrics.leads(True)
    assert metrics.registry.get_sample_value("slo_autoscaler_leader") == 1
    metrics.leads(False)
    assert metrics.registry.get_sample_value("slo_autoscaler_leader") == 0
