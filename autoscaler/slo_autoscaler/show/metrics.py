"""Every metric of the autoscaler: names, labels, buckets.

The numbers of a function become prometheus-client families only at a scrape: every reconcile decides for up
to ten thousand functions.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from slo_autoscaler.kube.resize_rules import Boosting
from slo_autoscaler.law.shadow import Score
from slo_autoscaler.model import Decision, Scale
from slo_autoscaler.signals.record import INPUTS

STAGES: Final = ("discover", "observe", "read", "decide", "act", "reconcile")
"""Stages of a reconcile in which a failure can occur."""

GAUGES: Final = {name: signal for name, signal in INPUTS.items() if signal.gauge}
"""Exported inputs of a decision; a function without the number has no sample."""


@dataclass(slots=True)
class _Row:
    """The numbers of one function."""

    scale: Scale
    inputs: Mapping[str, float | None]
    decisions: dict[tuple[str, str], int] = field(default_factory=dict)
    """(direction, reason) -> number of decisions."""
    shadow: tuple[int, Score] | None = None
    """Virtual replicas and score, in shadow mode."""


class Metrics(Collector):
    """The series of one autoscaler, in the given registry."""

    def __init__(self, registry: CollectorRegistry, identity: str = "") -> None:
        """``identity`` tells this autoscaler's series from those of others in one Prometheus."""
        self.registry = registry
        self._rows: dict[str, _Row] = {}
        self._desired: Mapping[str, int] = {}
        self._problems: dict[str, str] = {}
        self._denied: Sequence[str] = ()
        self._boosts: Mapping[str, tuple[float, float]] = {}
        self._boosting: Mapping[str, Boosting] = {}
        self._reconcile = Histogram(
            "slo_autoscaler_reconcile_seconds",
            "Duration of one reconcile of all functions.",
            buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0),
            registry=registry,
        )
        self._errors = Counter(
            "slo_autoscaler_errors_total",
            f"Failures by stage: {', '.join(STAGES)}.",
            ["stage"],
            registry=registry,
        )
        for stage in STAGES:
            self._errors.labels(stage)
        self._leader = Gauge(
            "slo_autoscaler_leader",
            "1 while this autoscaler is the leader and may act, 0 on standby.",
            registry=registry,
        )
        self._conflict = Gauge(
            "slo_autoscaler_conflicting_scaler",
            "1 while replicas change repeatedly without a request of this autoscaler: another scaler acts.",
            registry=registry,
        )
        info = Gauge(
            "slo_autoscaler_info",
            "1, with the identity by which a restarted autoscaler finds its own series.",
            ["identity"],
            registry=registry,
        )
        info.labels(identity).set(1)
        registry.register(self)

    def decided(
        self,
        function_name: str,
        scale: Scale,
        decision: Decision,
        direction: str,
        shadow: tuple[int, Score] | None = None,
    ) -> None:
        """Count one decision; ``scale`` is the platform's, ``shadow`` virtual replicas and score."""
        row = self._rows.get(function_name)
        if row is None:
            row = self._rows[function_name] = _Row(scale, decision.inputs)
        row.scale, row.inputs, row.shadow = scale, decision.inputs, shadow
        key = (direction, decision.reason.value)
        row.decisions[key] = row.decisions.get(key, 0) + 1

    def desires(self, replicas: Mapping[str, int]) -> None:
        """Set the desired replicas of functions; a function left out has no sample."""
        self._desired = dict(replicas)

    def desired(self, function_name: str) -> int | None:
        """Return the desired replicas of a function as exported, or None; from any thread."""
        return self._desired.get(function_name)

    def boosts(self, factors: Mapping[str, tuple[float, float]], boosting: Mapping[str, Boosting]) -> None:
        """Set the CPU factors of functions with their maximums, and what their pods have of them.

        A function left out has no sample.
        """
        self._boosts, self._boosting = factors, boosting

    def troubled(self, function_name: str, stage: str) -> None:
        """Set the stage in which a function fails: "read", "decide" or "act"."""
        self._problems[function_name] = stage

    def recovered(self, function_name: str) -> None:
        """End a function's problem."""
        self._problems.pop(function_name, None)

    def denies(self, places: Iterable[str]) -> None:
        """Set the namespaces and kinds that the autoscaler may not read."""
        self._denied = sorted(places)

    def forget(self, function_name: str) -> None:
        """Drop the series of a function that is gone."""
        self._rows.pop(function_name, None)
        self.recovered(function_name)
        self._desired = {name: count for name, count in self._desired.items() if name != function_name}

    def failed(self, stage: str) -> None:
        """Count one failure."""
        self._errors.labels(stage).inc()

    def reconciled(self, seconds: float) -> None:
        """Record the duration of a reconcile."""
        self._reconcile.observe(seconds)

    def leads(self, leading: bool) -> None:
        """Set whether this autoscaler may act."""
        self._leader.set(leading)

    def conflicting_scaler(self, *, there: bool) -> None:
        """Set whether another scaler acts on any function."""
        self._conflict.set(there)

    def collect(self) -> Iterator[Metric]:
        """Yield the families of all functions, for prometheus-client."""
        rows = list(self._rows.items())
        yield _gauge(
            "slo_autoscaler_desired_replicas",
            "Desired replicas in mode active or recommend; only the leader exports it, and only with data.",
            self._desired.items(),
        )
        problems = GaugeMetricFamily(
            "slo_autoscaler_problem",
            "1 for a function that cannot be read, decided or scaled, with the stage that fails.",
            labels=["function_name", "stage"],
        )
        for name, stage in list(self._problems.items()):
            problems.add_metric([name, stage], 1)
        yield problems
        denied = GaugeMetricFamily(
            "slo_autoscaler_denied",
            "1 for a namespace or kind that the configuration names and the rights do not cover.",
            labels=["place"],
        )
        for place in self._denied:
            denied.add_metric([place], 1)
        yield denied
        yield _gauge(
            "slo_autoscaler_rollout_failed",
            "1 for a function whose new version does not start, while the one before serves.",
            [(name, 1) for name, row in rows if row.scale.rollout_failed],
        )
        boosts = self._boosts.items()
        yield _gauge(
            "slo_autoscaler_boost_factor",
            "CPU limit decided for serving replicas, as a multiple of the nominal one; 1: no boost.",
            [(name, factor) for name, (factor, _) in boosts],
        )
        yield _gauge(
            "slo_autoscaler_boost_max_factor",
            "Maximum of the boost factor, by label or configuration.",
            [(name, most) for name, (_, most) in boosts],
        )
        boosting = self._boosting.items()
        yield _gauge(
            "slo_autoscaler_boosted_starts",
            "Replicas that start with more CPU than their nominal limit.",
            [(name, pods.starts) for name, pods in boosting],
        )
        yield _gauge(
            "slo_autoscaler_boost_refused",
            "1 for a function with a replica that was refused its boost in the last minute, else 0.",
            [(name, float(bool(pods.refusal))) for name, pods in boosting],
        )
        modes = GaugeMetricFamily(
            "slo_autoscaler_mode",
            "1 for the mode of a function, by its label and the configuration.",
            labels=["function_name", "mode"],
        )
        replicas = GaugeMetricFamily(
            "slo_autoscaler_replicas",
            "Replicas as the platform reports them.",
            labels=["function_name", "state"],
        )
        decisions = CounterMetricFamily(
            "slo_autoscaler_decisions",
            "Decisions by direction (up, down, hold) and reason.",
            labels=["function_name", "direction", "reason"],
        )
        for name, row in rows:
            modes.add_metric([name, row.scale.mode], 1)
            replicas.add_metric([name, "desired"], row.scale.desired)
            replicas.add_metric([name, "available"], row.scale.available)
            for (direction, reason), count in list(row.decisions.items()):
                decisions.add_metric([name, direction, reason], count)
        yield modes
        yield replicas
        yield decisions
        for key, signal in GAUGES.items():
            values = [(name, row.inputs.get(key)) for name, row in rows]
            yield _gauge(str(signal.gauge), signal.meaning, values)
        yield from _shadows([(name, *row.shadow) for name, row in rows if row.shadow is not None])


def _gauge(series: str, text: str, values: Iterable[tuple[str, float | None]]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(series, text, labels=["function_name"])
    for name, value in values:
        if value is not None:
            family.add_metric([name], value)
    return family


def _shadows(shadows: list[tuple[str, int, Score]]) -> Iterator[Metric]:
    replicas = GaugeMetricFamily(
        "slo_autoscaler_shadow_replicas",
        "Virtual replicas of shadow mode: the count if its decisions were applied.",
        labels=["function_name"],
    )
    seconds = CounterMetricFamily(
        "slo_autoscaler_shadow_replica_seconds",
        "Replica-seconds of the incumbent, measured, and of the shadow.",
        labels=["function_name", "scaler"],
    )
    requests = CounterMetricFamily(
        "slo_autoscaler_shadow_requests", "Requests in the scored time.", labels=["function_name"]
    )
    attained = CounterMetricFamily(
        "slo_autoscaler_shadow_attained_requests",
        "Requests within the SLO: the incumbent's measured, the shadow's predicted.",
        labels=["function_name", "scaler"],
    )
    for name, count, score in shadows:
        replicas.add_metric([name], count)
        seconds.add_metric([name, "incumbent"], score.replica_seconds_incumbent)
        seconds.add_metric([name, "shadow"], score.replica_seconds_shadow)
        requests.add_metric([name], score.requests)
        attained.add_metric([name, "incumbent"], score.attained_incumbent)
        attained.add_metric([name, "shadow"], score.attained_shadow)
    yield from (replicas, seconds, requests, attained)
