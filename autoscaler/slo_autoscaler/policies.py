"""How many replicas are wanted: the laws, side by side. [P]

A policy is a function ``(spec, seen, scale, outlook) -> Recommendation``; it knows no limits and no past.
``decide`` calls it only with data, an SLO and at least one replica wanted, and bounds what it says.
A new policy is a function here and one line in ``POLICIES``.
"""

import math
from collections.abc import Callable
from typing import Final

from slo_autoscaler.model import Observation, Outlook, Reason, Recommendation, Scale, TargetSpec

Policy = Callable[[TargetSpec, Observation, Scale, Outlook], Recommendation]

THRESHOLD_LOW: Final = 0.5
"""``threshold`` steps down below this share of the SLO's latency: with one replica of two gone, latency at
most doubles as long as it is service, not queueing."""

MISS_SIGMAS: Final = 2.0
"""Attainment counts as missed when it is this many standard errors below the objective: with an objective of
0.99, one miss in 20 requests or two in 100 are chance, three in 100 are not."""

P99_FROM: Final = 0.97
"""Objectives from here on are judged by p99, lower ones by p95: the quantile that lies nearer."""

MAX_LATENCY_RATIO: Final = 2.0
"""``slo`` without a learnt capacity doubles at most: past the knee latency says that replicas are missing,
not how many."""


def slo(spec: TargetSpec, seen: Observation, scale: Scale, outlook: Outlook) -> Recommendation:
    """Size by rate and learnt capacity; latency is the correction, not the measure.

    replicas = ceil((forecast + backlog / horizon) / (capacity x correction x utilisation target)).

    Backlog is what is in flight beyond what the available replicas hold within the SLO by Little's law
    (capacity x slo_latency each). The result counts every replica asked for, so pending ones are not asked
    for again. Attainment below the objective while the sizing says "enough" adds one, once things have
    settled. Without a learnt capacity, latency alone decides; with a capacity of 0, nothing would help.
    """
    capacity = seen.capacity
    if capacity is None:
        return _by_latency_alone(spec, seen, scale, outlook)
    if capacity <= 0.0:
        return Recommendation(scale.desired, Reason.WILL_NOT_HELP)

    waiting = backlog(seen, scale) / outlook.horizon
    one = capacity * outlook.correction * spec.utilisation_target
    raw = (outlook.forecast + waiting) / one
    wanted = math.ceil(raw - 1e-9)
    if outlook.missed and outlook.settled and wanted <= scale.desired:
        more = wanted == scale.desired
        return Recommendation(scale.desired + more, Reason.SLO_MISSED)
    if wanted < scale.desired:
        return Recommendation(wanted, Reason.LOAD_BELOW_CAPACITY, raw)
    by_load = math.ceil(outlook.forecast / one - 1e-9)
    # No tolerance upwards: the utilisation target is the head room, and it is used up.
    return Recommendation(wanted, Reason.LOAD_ABOVE_CAPACITY if by_load > scale.desired else Reason.BACKLOG)


def proportional(spec: TargetSpec, seen: Observation, scale: Scale, outlook: Outlook) -> Recommendation:
    """Apply the law of the Kubernetes HPA to latency: ceil(available x latency / target).

    The target is ``utilisation_target`` of the SLO's latency. Ratios within ``tolerance`` do nothing. While
    replicas start, or the query window still holds the time before they did, nothing is done: the ratio
    would answer the same shortage twice.
    """
    latency = latency_at_objective(seen)
    if latency is None or seen.slo_latency is None:
        return Recommendation(scale.desired, Reason.TOO_FEW_SAMPLES)
    if not outlook.settled or scale.available == 0:
        return Recommendation(scale.desired, Reason.SETTLING)
    raw = scale.available * latency / (spec.utilisation_target * seen.slo_latency)
    wanted = math.ceil(raw - 1e-9)
    reason = Reason.LATENCY_ABOVE_TARGET if wanted > scale.desired else Reason.LATENCY_BELOW_TARGET
    return Recommendation(wanted, reason, raw)


def threshold(spec: TargetSpec, seen: Observation, scale: Scale, outlook: Outlook) -> Recommendation:
    """Step by one: up when the latency exceeds the SLO, down when it is below half of it."""
    latency = latency_at_objective(seen)
    if latency is None or seen.slo_latency is None:
        return Recommendation(scale.desired, Reason.TOO_FEW_SAMPLES)
    if not outlook.settled:
        return Recommendation(scale.desired, Reason.SETTLING)
    if latency > seen.slo_latency:
        return Recommendation(scale.desired + 1, Reason.LATENCY_ABOVE_TARGET)
    if latency < THRESHOLD_LOW * seen.slo_latency:
        return Recommendation(scale.desired - 1, Reason.LATENCY_BELOW_TARGET)
    return Recommendation(scale.desired, Reason.WITHIN_RANGE)


POLICIES: Final[dict[str, Policy]] = {"proportional": proportional, "slo": slo, "threshold": threshold}


def missed(spec: TargetSpec, seen: Observation) -> bool:
    """Tell whether the objective is missed by more than chance explains, on at least ``min_samples``."""
    if seen.attainment is None or seen.slo_objective is None or not seen.samples:
        return False
    if seen.samples < spec.min_samples:
        return False
    error = math.sqrt(seen.slo_objective * (1.0 - seen.slo_objective) / seen.samples)
    return seen.attainment + MISS_SIGMAS * error < seen.slo_objective


def latency_at_objective(seen: Observation) -> float | None:
    """Return the latency quantile nearest to the objective, in seconds."""
    return seen.p99 if (seen.slo_objective or 1.0) >= P99_FROM else seen.p95


def backlog(seen: Observation, scale: Scale) -> float:
    """Return how many requests are in flight beyond what the available replicas hold within the SLO."""
    if seen.in_flight is None or seen.capacity is None or seen.slo_latency is None:
        return 0.0
    return max(0.0, seen.in_flight - scale.available * seen.capacity * seen.slo_latency)


def _by_latency_alone(spec: TargetSpec, seen: Observation, scale: Scale, outlook: Outlook) -> Recommendation:
    """When the objective is missed, grow by latency / SLO (one replica to a doubling); else as the HPA."""
    if outlook.missed and outlook.settled:
        latency = latency_at_objective(seen)
        ratio = latency / seen.slo_latency if latency and seen.slo_latency else 1.0
        ratio = min(max(ratio, 1.0), MAX_LATENCY_RATIO)
        wanted = max(scale.desired + 1, math.ceil(scale.desired * ratio - 1e-9))
        return Recommendation(wanted, Reason.SLO_MISSED)
    return proportional(spec, seen, scale, outlook)
