"""Creates every scaler by name: ours under each policy, the baselines, the oracle. [P]

Ours is the ``decide`` of the controller, called as the controller calls it. To add a scaler, add a line to
``SCALERS``. Each has one adjustable number, its target.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final, TypeVar

from slo_autoscaler.law.boost import boost
from slo_autoscaler.law.decide import decide, raised
from slo_autoscaler.law.memory import Memory
from slo_autoscaler.law.need import POLICIES
from slo_autoscaler.law.platform import stuck
from slo_autoscaler.law.replica import nominal
from slo_autoscaler.law.situation import Situation
from slo_autoscaler.settings.spec import Spec
from slo_autoscaler.signals.record import Observation
from slo_autoscaler.signals.window import Past, widened
from tailbound_lab.simulate import SimulationError, baselines
from tailbound_lab.simulate.baselines import Bounds, HpaSettings, Oracle
from tailbound_lab.simulate.function import Function, Scaler, View
from tailbound_lab.simulate.traces import Trace


class DecideScaler:
    """The controller's loop around ``decide``, for one function."""

    def __init__(
        self,
        spec: Spec,
        interval: float,
        phase: float,
        name: str | None = None,
        *,
        direct_interval: float | None = None,
    ) -> None:
        """``phase``: seconds from a scrape to the next reconcile, so that samples have a typical age.

        ``direct_interval``: seconds between two direct reads of the load; None: no direct reads.
        """
        self.name = name or spec.policy
        self.interval = interval if direct_interval is None else direct_interval
        self.phase = phase
        self._spec = spec
        self._memory: Memory | None = None
        self._every, self._due = interval, phase
        self._direct = direct_interval is not None
        self._seen: Observation | None = None
        self._past: Past = ()
        self.factor = 1.0

    def scale(self, view: View, now: float) -> int | None:
        """Decide as the controller does."""
        scale = view.scale
        memory = self._memory or Memory.initial(scale, now)
        wanted = None
        if now >= self._due:
            self._due += self._every
            observed = view.observe()
            if observed is not None:
                shortest = 2.0 * self._spec.timing.rate_lag
                observed, self._past = widened(self._past, observed, shortest, now)
            self._seen = observed or self._seen
            seen = observed or Observation()
            decision, memory = decide(Situation(self._spec, seen, scale, memory, now, boost=self.factor))
            wanted = decision.replicas
        if self._direct and self._seen is not None:
            seen = replace(
                self._seen, direct_rate=view.direct_rate(), direct_in_flight=view.direct_in_flight()
            )
            at = Situation(self._spec, seen, scale, memory, now, boost=self.factor)
            at = nominal(at, stuck(memory.platform, self._spec, now))
            memory = at.memory
            self.factor = boost(at, self.factor).factor
            more = raised(at, math.inf) if wanted is None else None
            if more is not None:
                decision, memory = more
                wanted = decision.replicas
        self._memory = memory
        return wanted


@dataclass(frozen=True, slots=True)
class Experiment:
    """The arguments from which scalers are created."""

    trace: Trace
    function: Function
    bounds: Bounds
    spec: Spec
    """The function's settings, for ours; ``interval`` and ``phase`` are also for ours."""
    interval: float
    """Seconds between two reconciles."""
    phase: float
    """Seconds from a scrape to the reconcile after it."""
    direct_interval: float | None = None
    """Seconds between two direct reads of the load, for ours; None: no direct reads."""


Maker = Callable[[Experiment, float | None, str], Scaler]
_Settings = TypeVar("_Settings")
_Law = Callable[[Bounds, _Settings, str], Scaler]


def _ours(policy: str) -> Maker:
    def make(at: Experiment, target: float | None, name: str) -> Scaler:
        spec = replace(at.spec, policy=policy)
        if target is not None and policy == "slo":
            raise SimulationError(f"policy {name!r}: slo must have no target; it aims at the SLO")
        if target is not None:
            spec = replace(spec, utilization_target=target)
        return DecideScaler(spec, at.interval, at.phase, name, direct_interval=at.direct_interval)

    return make


def _theirs(law: _Law[_Settings], settings: Callable[..., _Settings], target: str) -> Maker:
    """Return a factory of an algorithm with default settings, in which a given target replaces its key."""

    def make(at: Experiment, value: float | None, name: str) -> Scaler:
        return law(at.bounds, settings(**({} if value is None else {target: value})), name)

    return make


SCALERS: Final[Mapping[str, Maker]] = {
    **{policy: _ours(policy) for policy in sorted(POLICIES)},
    "openfaas-ce": _theirs(baselines.OpenFaas, baselines.OpenFaasRule, "threshold"),
    "kpa": _theirs(baselines.Kpa, baselines.KpaSettings, "target"),
    "hpa-cpu": _theirs(baselines.hpa_cpu, HpaSettings, "target"),
    "keda-value": lambda at, target, name: baselines.keda_value(
        at.bounds, HpaSettings(at.function.slo_latency * (target or 1.0)), name
    ),
    "llm-d": lambda at, target, name: baselines.Llmd(
        at.bounds,
        replace(baselines.LlmdSettings(), **({} if target is None else {"queue_threshold": target})),
        at.function.slots,
        name,
    ),
    "llm-d-slo": lambda at, target, name: baselines.LlmdSlo(
        at.bounds,
        baselines.LlmdSloSettings() if target is None else baselines.LlmdSloSettings(up=target),
        at.function,
        name,
    ),
    "oracle": lambda at, target, name: Oracle(at.trace, at.function, target or 0.8, at.bounds, name),
}
"""How each is made; what it is and what its target means: README.md."""

DEFAULT_POLICIES: Final = (
    "slo",
    "openfaas-ce",
    "kpa",
    "hpa-cpu",
    "keda-value",
    "llm-d",
    "oracle",
)
"""Scalers that are compared by default."""


def make(choice: str, at: Experiment) -> Scaler:
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
    return SCALERS[name](at, target, choice)
