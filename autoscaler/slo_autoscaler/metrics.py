"""Every metric of the autoscaler: names, labels, buckets."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from slo_autoscaler.model import Decision, Scale


class Metrics:
    """The series of one autoscaler, in the registry it is given."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self._desired = Gauge(
            "slo_autoscaler_desired_replicas",
            "Replicas that the last decision wants; a hold wants what is there.",
            ["function_name"],
            registry=registry,
        )
        self._replicas = Gauge(
            "slo_autoscaler_replicas",
            "Replicas as the platform says.",
            ["function_name", "state"],
            registry=registry,
        )
        self._decisions = Counter(
            "slo_autoscaler_decisions_total",
            "Decisions by direction (up, down, hold) and reason.",
            ["function_name", "direction", "reason"],
            registry=registry,
        )
        self._reconcile = Histogram(
            "slo_autoscaler_reconcile_seconds",
            "Duration of one reconcile of all functions.",
            buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0),
            registry=registry,
        )
        self._errors = Counter(
            "slo_autoscaler_errors_total",
            "Failures by where: discover, observe, read, act, reconcile.",
            ["where"],
            registry=registry,
        )
        for where in ("discover", "observe", "read", "act", "reconcile"):
            self._errors.labels(where)
        self._seen: dict[str, set[tuple[str, str]]] = {}

    def decided(self, function_name: str, scale: Scale, decision: Decision, direction: str) -> None:
        """Count one decision."""
        wanted = scale.desired if decision.replicas is None else decision.replicas
        self._desired.labels(function_name).set(wanted)
        self._replicas.labels(function_name, "desired").set(scale.desired)
        self._replicas.labels(function_name, "available").set(scale.available)
        self._decisions.labels(function_name, direction, decision.reason.value).inc()
        self._seen.setdefault(function_name, set()).add((direction, decision.reason.value))

    def forget(self, function_name: str) -> None:
        """Drop the series of a function that is gone."""
        if function_name not in self._seen:
            return
        self._desired.remove(function_name)
        for state in ("desired", "available"):
            self._replicas.remove(function_name, state)
        for direction, reason in self._seen.pop(function_name):
            self._decisions.remove(function_name, direction, reason)

    def failed(self, where: str) -> None:
        """Count one failure."""
        self._errors.labels(where).inc()

    def reconciled(self, seconds: float) -> None:
        """Record how long a reconcile took."""
        self._reconcile.observe(seconds)
