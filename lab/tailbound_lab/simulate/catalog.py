"""Every scaler by its name: ours under each policy, the baselines, the oracle.

A scaler that is added is a line in ``SCALERS``. Each has one number that may be chosen, its target; what
that means is said there.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from slo_autoscaler.law.policies import POLICIES
from slo_autoscaler.spec import Spec
from tailbound_lab.simulate.baselines import (
    Bounds,
    HpaSettings,
    Kpa,
    KpaSettings,
    OpenFaas,
    OpenFaasRule,
    RayServe,
    RaySettings,
    Threshold,
    ThresholdSettings,
    hpa_cpu,
    keda_value,
)
from tailbound_lab.simulate.errors import SimulationError
from tailbound_lab.simulate.function import Function
from tailbound_lab.simulate.oracle import Oracle
from tailbound_lab.simulate.scalers import Ours, Scaler
from tailbound_lab.simulate.traces import Trace


@dataclass(frozen=True, slots=True)
class Situation:
    """What scalers are made for."""

    trace: Trace
    function: Function
    bounds: Bounds
    spec: Spec
    """Ours: how the function is configured."""
    interval: float
    """Ours: seconds between two reconciles."""
    phase: float
    """Ours: seconds from a scrape to the reconcile after it."""


Maker = Callable[[Situation, float | None, str], Scaler]


def _ours(policy: str) -> Maker:
    def make(at: Situation, target: float | None, name: str) -> Scaler:
        spec = replace(at.spec, policy=policy)
        if target is not None:
            spec = replace(spec, utilization_target=target)
        return Ours(spec, at.interval, at.phase, name)

    return make


def _openfaas(at: Situation, target: float | None, name: str) -> Scaler:
    return OpenFaas(at.bounds, OpenFaasRule() if target is None else OpenFaasRule(threshold=target), name)


def _kpa(at: Situation, target: float | None, name: str) -> Scaler:
    return Kpa(at.bounds, KpaSettings() if target is None else KpaSettings(target=target), name)


def _hpa_cpu(at: Situation, target: float | None, name: str) -> Scaler:
    return hpa_cpu(at.bounds, HpaSettings() if target is None else HpaSettings(target=target), name)


def _keda_value(at: Situation, target: float | None, name: str) -> Scaler:
    seconds = at.function.slo_latency * (1.0 if target is None else target)
    return keda_value(at.bounds, HpaSettings(target=seconds), name)


def _ray(at: Situation, target: float | None, name: str) -> Scaler:
    return RayServe(at.bounds, RaySettings() if target is None else RaySettings(target=target), name)


def _threshold(at: Situation, target: float | None, name: str) -> Scaler:
    return Threshold(at.bounds, ThresholdSettings() if target is None else ThresholdSettings(target), name)


def _oracle(at: Situation, target: float | None, name: str) -> Scaler:
    return Oracle(at.trace, at.function, 0.8 if target is None else target, at.bounds, name)


SCALERS: Final[Mapping[str, tuple[Maker, str]]] = {
    **{
        policy: (_ours(policy), f"ours, policy {policy}; its utilization_target")
        for policy in sorted(POLICIES)
    },
    "openfaas-ce": (_openfaas, "OpenFaaS CE's alert; successes per second that fire it (5)"),
    "kpa": (_kpa, "Knative's autoscaler; requests inside one pod (70)"),
    "hpa-cpu": (_hpa_cpu, "the HPA on CPU; share of it (0.8)"),
    "keda-value": (_keda_value, "KEDA, type Value, on p99; share of the SLO's latency (1)"),
    "ray-serve": (_ray, "Ray Serve; ongoing requests of one replica (2)"),
    "threshold": (_threshold, "steps on p99; share of the SLO's latency below which one goes (0.5)"),
    "oracle": (_oracle, "knows the trace; share of the capacity that it plans with (0.8)"),
}
"""Name -> (how it is made, what it is and what its target means)."""

USUAL: Final = ("slo", "openfaas-ce", "kpa", "hpa-cpu", "keda-value", "ray-serve", "oracle")
"""Compared unless others are named."""


def make(choice: str, at: Situation) -> Scaler:
    """Return the scaler for ``NAME`` or ``NAME:TARGET``. Raises ``SimulationError``."""
    name, colon, text = choice.partition(":")
    if name not in SCALERS:
        raise SimulationError(f"policy {name!r}: must be one of {', '.join(SCALERS)}")
    target = None
    if colon:
        try:
            target = float(text)
        except ValueError:
            target = math.nan
        if not 0.0 < target < math.inf:
            raise SimulationError(f"policy {choice!r}: what stands after the colon must be a number above 0")
    return SCALERS[name][0](at, target, choice)
