"""Recommends a count of replicas: the policies. [P]

A policy is a function ``(Situation) -> (Recommendation, Memory)``; it knows no limits.
``decide`` calls it only with data, an SLO and at least one requested replica, and bounds the result. A new
policy is a function here and a record in ``POLICIES``; its own setting is a field of ``Spec``, its own reason
a member of ``Reason``.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from slo_autoscaler.law.memory import Memory
from slo_autoscaler.law.recommend import recommend
from slo_autoscaler.law.situation import Situation
from slo_autoscaler.law.tuning import TUNING
from slo_autoscaler.model import Reason, Recommendation
from slo_autoscaler.settings.spec import Spec
from slo_autoscaler.signals.record import Observation

Law = Callable[[Situation], tuple[Recommendation, Memory]]


@dataclass(frozen=True, slots=True)
class Policy:
    """One way to size a function."""

    recommend: Law
    label: str
    """Description for the page and the reference."""


def slo(at: Situation) -> tuple[Recommendation, Memory]:
    """Size by predicted late requests: ``recommend``.

    With a capacity of 0 no count helps the requests; without any, one replica is enough. Until a capacity is
    learned latency alone decides: by latency / SLO while the objective is missed, else as ``proportional``.
    """
    if at.seen.capacity is None:
        return _by_latency_alone(at)
    if at.seen.capacity <= 0.0:
        needed = at.scale.desired if at.seen.arrival_rate else 1
        reason = Reason.WILL_NOT_HELP if at.seen.arrival_rate else Reason.LOAD_BELOW_CAPACITY
        return Recommendation(needed, reason), at.memory.with_data(at.spec, at.now, needed)
    return recommend(at)


def proportional(at: Situation) -> tuple[Recommendation, Memory]:
    """Apply the algorithm of the Kubernetes HPA to latency: ceil(available x latency / target).

    The target is ``utilization_target`` of the SLO's latency. Ratios within ``tolerance`` change nothing.
    Hold while replicas start, or the query window still holds the time before they did: the ratio would
    answer the same shortage twice. Recommend fewer only where attainment does not contradict the SLO.
    """
    spec, seen, scale, now = at.spec, at.seen, at.scale, at.now
    memory = at.memory.with_data(spec, now, 0)
    latency = latency_at_objective(seen)
    if latency is None or seen.slo_latency is None:
        return Recommendation(scale.desired, Reason.TOO_FEW_SAMPLES), memory
    if scale.available == 0 or not _settled(spec, memory, now):
        return Recommendation(scale.desired, Reason.SETTLING), memory
    ratio = latency / (spec.utilization_target * seen.slo_latency)
    wanted = math.ceil(scale.available * ratio - 1e-9)
    if wanted > scale.desired and (seen.samples or 0.0) + (seen.in_flight or 0.0) < spec.min_samples:
        return Recommendation(scale.desired, Reason.TOO_FEW_SAMPLES), memory
    needed = memory.with_need(spec, scale.desired)
    if (
        wanted != scale.desired
        and abs(ratio * scale.available / scale.desired - 1.0) <= spec.tolerance + 1e-9
    ):
        return Recommendation(scale.desired, Reason.WITHIN_TOLERANCE), needed
    if wanted < scale.desired and _contradicts(seen, 1.0):
        return Recommendation(scale.desired, Reason.SCALE_DOWN_UNSAFE), needed
    reason = Reason.LATENCY_ABOVE_TARGET if wanted > scale.desired else Reason.LATENCY_BELOW_TARGET
    return Recommendation(wanted, reason), memory.with_need(spec, wanted)


POLICIES: Final[dict[str, Policy]] = {
    "proportional": Policy(proportional, "the formula of the Kubernetes HPA, applied to latency"),
    "slo": Policy(slo, "every replica that saves enough predicted late requests"),
}


def latency_at_objective(seen: Observation) -> float | None:
    """Return the latency quantile nearest to the objective, in seconds; None: unknown.

    Of fewer than 100 requests p99 is the slowest one, and one stall would decide.
    """
    few = seen.samples is not None and seen.samples * (1.0 - 0.99) < 1.0
    return seen.p95 if few or (seen.slo_objective or 1.0) < (0.95 + 0.99) / 2.0 else seen.p99


def wilson(share: float, samples: float, sigmas: float) -> tuple[float, float]:
    """Return (lower, upper) bounds of the true share, given ``share`` of ``samples`` trials.

    ``sigmas`` is the distance of the bounds in standard errors. Without a whole trial, (0, 1). These are
    Wilson's (1927): unlike the normal approximation they hold for few trials, and for shares near 1.
    """
    if samples < 1.0:
        return 0.0, 1.0
    z2 = sigmas * sigmas / samples
    center = (share + z2 / 2.0) / (1.0 + z2)
    half = sigmas * math.sqrt(max(0.0, share * (1.0 - share)) / samples + z2 / (4.0 * samples)) / (1.0 + z2)
    return max(0.0, center - half), min(1.0, center + half)


def _by_latency_alone(at: Situation) -> tuple[Recommendation, Memory]:
    spec, seen, scale, now = at.spec, at.seen, at.scale, at.now
    enough = (seen.samples or 0.0) >= spec.min_samples
    # A burst that is over needs no replicas.
    lasts = seen.burn_short is None or seen.burn_short > 1.0
    latency = latency_at_objective(seen)
    if not (enough and lasts and _contradicts(seen, TUNING.sigmas)) or not latency or not seen.slo_latency:
        return proportional(at)
    memory = at.memory.with_data(spec, now, 0).with_need(spec, scale.desired)
    if not _settled(spec, memory, now):
        return Recommendation(scale.desired, Reason.SETTLING), memory
    if latency <= seen.slo_latency:
        return Recommendation(scale.desired, Reason.WILL_NOT_HELP), memory
    # Beyond saturation latency does not show how many are missing.
    ratio = min(latency / seen.slo_latency, spec.scale_up.max_factor)
    wanted = max(scale.desired + 1, math.ceil(scale.desired * ratio - 1e-9))
    return Recommendation(wanted, Reason.SLO_MISSED), memory


def _settled(spec: Spec, memory: Memory, now: float) -> bool:
    """Return whether the query window holds only the time since the last change took effect."""
    waited = now - memory.scaled_at if memory.scaled_at is not None else math.inf
    start_up = memory.start_up(spec) if memory.scaled_at == memory.scaled_up_at else 0.0
    return waited >= start_up + spec.timing.settle_time


def _contradicts(seen: Observation, sigmas: float) -> bool:
    """Return whether attainment is below the objective by more than ``sigmas`` standard errors."""
    if seen.attainment is None or seen.slo_objective is None:
        return False
    return wilson(seen.attainment, seen.samples or 0.0, sigmas)[1] < seen.slo_objective
