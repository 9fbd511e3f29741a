"""Every scaler by its name: ours under each policy, the baselines, the oracle. [P]

Ours is the ``decide`` of the controller, called as the controller calls it. A scaler that is added is a line
in ``SCALERS``. Each has one number that may be chosen, its target.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final, TypeVar

from slo_autoscaler.law.decide import decide
from slo_autoscaler.law.memory import TargetState
from slo_autoscaler.law.policies import POLICIES
from slo_autoscaler.spec import Spec
from tailbound_lab.simulate import SimulationError
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
from tailbound_lab.simulate.function import Function, Scaler, View
from tailbound_lab.simulate.oracle import Oracle
from tailbound_lab.simulate.traces import Trace


class DecideScaler:
    """The controller's loop around ``decide``, for one function."""

    def __init__(self, spec: Spec, interval: float, phase: float, name: str | None = None) -> None:
        """``phase``: reconciles come so long after scrapes, so that samples have a usual age."""
        self.name = name or spec.policy
        self.interval = interval
        self.phase = phase
        self._spec = spec
        self._state: TargetState | None = None

    def scale(self, view: View, now: float) -> int | None:
        """Decide as the controller does."""
        scale = view.scale
        state = self._state or TargetState.initial(self._spec, scale, now)
        decision, self._state = decide(self._spec, view.observe(), scale, state, now)
        return decision.replicas


@dataclass(frozen=True, slots=True)
class Situation:
    """What scalers are made for."""

    trace: Trace
    function: Function
    bounds: Bounds
    spec: Spec
    """How the function is configured, for ours; likewise ``interval`` and ``phase``."""
    interval: float
    """Seconds between two reconciles."""
    phase: float
    """Seconds from a scrape to the reconcile after it."""


_Settings = TypeVar("_Settings")
Maker = Callable[[Situation, float | None, str], Scaler]


def _ours(policy: str) -> Maker:
    def make(at: Situation, target: float | None, name: str) -> Scaler:
        spec = replace(at.spec, policy=policy)
        if target is not None:
            spec = replace(spec, utilization_target=target)
        return DecideScaler(spec, at.interval, at.phase, name)

    return make


def _tuned(settings: Callable[..., _Settings], **target: float | None) -> _Settings:
    """Return the settings with the target in place of their default, if there is one."""
    return settings(**{name: value for name, value in target.items() if value is not None})


SCALERS: Final[Mapping[str, tuple[Maker, str]]] = {
    **{
        policy: (_ours(policy), f"ours, policy {policy}; its utilization_target")
        for policy in sorted(POLICIES)
    },
    "openfaas-ce": (
        lambda at, target, name: OpenFaas(at.bounds, _tuned(OpenFaasRule, threshold=target), name),
        "OpenFaaS CE's alert; successes per second that fire it (5)",
    ),
    "kpa": (
        lambda at, target, name: Kpa(at.bounds, _tuned(KpaSettings, target=target), name),
        "Knative's autoscaler; requests inside one pod (70)",
    ),
    "hpa-cpu": (
        lambda at, target, name: hpa_cpu(at.bounds, _tuned(HpaSettings, target=target), name),
        "the HPA on CPU; share of it (0.8)",
    ),
    "keda-value": (
        lambda at, target, name: keda_value(
            at.bounds, HpaSettings(target=at.function.slo_latency * (target or 1.0)), name
        ),
        "KEDA, type Value, on p99; share of the SLO's latency (1)",
    ),
    "ray-serve": (
        lambda at, target, name: RayServe(at.bounds, _tuned(RaySettings, target=target), name),
        "Ray Serve; ongoing requests of one replica (2)",
    ),
    "threshold": (
        lambda at, target, name: Threshold(at.bounds, _tuned(ThresholdSettings, low=target), name),
        "steps on p99; share of the SLO's latency below which one goes (0.5)",
    ),
    "oracle": (
        lambda at, target, name: Oracle(at.trace, at.function, target or 0.8, at.bounds, name),
        "knows the trace; share of the capacity that it plans with (0.8)",
    ),
}
"""Name -> (how it is made, what it is and what its target means)."""

DEFAULT_POLICIES: Final = ("slo", "openfaas-ce", "kpa", "hpa-cpu", "keda-value", "ray-serve", "oracle")
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
            raise SimulationError(f"policy {choice!r}: TARGET must be a number above 0")
    return SCALERS[name][0](at, target, choice)
