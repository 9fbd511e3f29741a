"""Needs by latency alone: policy ``proportional``, and policy ``slo`` until a capacity is known. [P]

These take no prediction: the stages ``replica`` and ``traffic`` say nothing of such a function.
"""

import math

from slo_autoscaler.law.platform import Standing
from slo_autoscaler.law.situation import Situation
from slo_autoscaler.law.tuning import TUNING
from slo_autoscaler.model import Hold, Need, Reason
from slo_autoscaler.signals.record import Observation


def proportional(at: Situation, standing: Standing) -> Need | Hold:  # noqa: PLR0911 - one return a reason
    """Apply the algorithm of the Kubernetes HPA to latency: ceil(available x latency / target).

    The target is ``utilization_target`` of the SLO's latency. Ratios within ``tolerance`` change nothing.
    Hold while replicas start, or the query window still holds the time before they did: the ratio would
    answer the same shortage twice. Recommend fewer only where attainment does not contradict the SLO.
    """
    spec, seen, scale = at.spec, at.seen, at.scale
    latency = latency_at_objective(seen)
    if latency is None or seen.slo_latency is None:
        return Hold(Reason.TOO_FEW_SAMPLES, needed=False)
    if scale.available == 0 or not _settled(at, standing):
        return Hold(Reason.SETTLING, needed=False)
    ratio = latency / (spec.utilization_target * seen.slo_latency)
    count = math.ceil(scale.available * ratio - 1e-9)
    if count > scale.desired and (seen.samples or 0.0) + (seen.in_flight or 0.0) < spec.min_samples:
        return Hold(Reason.TOO_FEW_SAMPLES, needed=False)
    if count == scale.desired:
        return Hold(Reason.WITHIN_RANGE)
    if abs(ratio * scale.available / scale.desired - 1.0) <= spec.tolerance + 1e-9:
        return Hold(Reason.WITHIN_TOLERANCE)
    if count < scale.desired and _contradicts(seen, 1.0):
        return Hold(Reason.SCALE_DOWN_UNSAFE)
    up = count > scale.desired
    return Need(count, Reason.LATENCY_ABOVE_TARGET if up else Reason.LATENCY_BELOW_TARGET)


def without_capacity(at: Situation, standing: Standing) -> Need | Hold:
    """Size by latency / SLO while the objective is missed, else as ``proportional``.

    With a capacity of 0 no count helps the requests; without any, one replica is enough.
    """
    spec, seen, current = at.spec, at.seen, at.scale.desired
    if seen.capacity is not None:
        if seen.arrival_rate:
            return Hold(Reason.WILL_NOT_HELP)
        return Need(1, Reason.NO_TRAFFIC) if current > 1 else Hold(Reason.WITHIN_RANGE)
    enough = (seen.samples or 0.0) >= spec.min_samples
    # A burst that is over needs no replicas.
    lasts = seen.burn_short is None or seen.burn_short > 1.0
    latency = latency_at_objective(seen)
    if not (enough and lasts and _contradicts(seen, TUNING.sigmas)) or not latency or not seen.slo_latency:
        return proportional(at, standing)
    if not _settled(at, standing):
        return Hold(Reason.SETTLING)
    if latency <= seen.slo_latency:
        return Hold(Reason.WILL_NOT_HELP)
    # Beyond saturation latency does not show how many are missing.
    ratio = min(latency / seen.slo_latency, spec.scale_up.max_factor)
    return Need(max(current + 1, math.ceil(current * ratio - 1e-9)), Reason.SLO_MISSED)


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


def _settled(at: Situation, standing: Standing) -> bool:
    """Return whether the query window holds only the time since the last change took effect."""
    step = at.memory.step
    waited = at.now - step.scaled_at if step.scaled_at is not None else math.inf
    start_up = standing.start_up if step.scaled_at == step.scaled_up_at else 0.0
    return waited >= start_up + at.spec.timing.settle_time


def _contradicts(seen: Observation, sigmas: float) -> bool:
    """Return whether attainment is below the objective by more than ``sigmas`` standard errors."""
    if seen.attainment is None or seen.slo_objective is None:
        return False
    return wilson(seen.attainment, seen.samples or 0.0, sigmas)[1] < seen.slo_objective
