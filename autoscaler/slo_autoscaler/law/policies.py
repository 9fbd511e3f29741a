"""How many replicas are recommended: the policies, side by side. [P]

A policy is a function ``(spec, seen, scale, outlook) -> Recommendation``; it knows no limits and no past.
``decide`` calls it only with data, an SLO and at least one replica wanted, and bounds what it says. A new
policy is a function here and a record in ``POLICIES``; its own setting is a field of ``Spec``, its own reason
a member of ``Reason``.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from slo_autoscaler.law.confidence import wilson
from slo_autoscaler.law.memory import Outlook
from slo_autoscaler.model import Reason, Recommendation, Scale
from slo_autoscaler.signals import Observation
from slo_autoscaler.spec import Spec


@dataclass(frozen=True, slots=True)
class Policy:
    """One way to size a function."""

    recommend: Callable[[Spec, Observation, Scale, Outlook], Recommendation]
    label: str
    """What it does, for the page and the reference."""


QUICK_SHARE: Final = 0.5
"""Of the SLO's latency: successes below it are quick, so what misses then are errors."""

MISS_SIGMAS: Final = 2.0
"""Attainment counts as missed when the objective is this many standard errors above it: with an objective of
0.99, one miss in 20 requests or two in 100 are chance, three in 100 are not."""

DOUBT_SIGMAS: Final = 1.0
"""Keeping replicas takes less evidence of a miss than buying some: one in 20 will do, one in 50 will not."""

PANIC_BURN: Final = 14.4
"""Burn rate that is not waited out: 2 % of a 30-day budget in an hour (Google's SRE workbook, chapter 5)."""

PANIC_SHARE: Final = 0.8
"""An objective of 0.9 cannot burn faster than 10. So no more than this share of misses is asked for."""

PANIC_REACH: Final = 2.0
"""Panic buys no more than this multiple of what the learned capacity says, or one more: beyond that, capacity
is not what is wrong."""

GROWN: Final = 1.5
"""Execution that takes this much longer than usual has become slower; batch sizes alone make less of it while
nothing queues."""

QUEUE_LITTLE: Final = 0.05
"""Of the SLO's latency, in the mean: by Markov's inequality at most 5 % of requests then wait that long."""

P99_FROM: Final = 0.97
"""Objectives from here on are judged by p99, lower ones by p95: the quantile that lies nearer."""

P99_SAMPLES: Final = 100.0
"""Below that many requests p99 is the slowest of them: one stall would be the latency of the function."""

BACKLOG_HORIZONS: Final = 3.0
"""A backlog is worked off in this many times what is looked ahead, by the headroom first. It is late already
and waits in a lane of its own, where it delays nobody who can still be on time: no reason for many."""

UP_TOLERANCE: Final = 0.05
"""``slo`` lives with this share less than is wanted while the load does not rise: what is not planned with
covers it, and a load at the edge between two counts would be followed for nothing."""

TOLERANT_FROM: Final = 4
"""Replicas: with fewer the next count is a large step, which only a change of the load asks for."""

MAX_LATENCY_RATIO: Final = 2.0
"""``slo`` without a learned capacity doubles at most: past the knee latency says that replicas are missing,
not how many."""


def slo(spec: Spec, seen: Observation, scale: Scale, outlook: Outlook) -> Recommendation:
    """Size by rate and learned capacity; latency is the correction, not the measure.

    replicas = ceil(forecast / (capacity x correction x utilization)), and no fewer than what
    (forecast + backlog / 3 horizons) or what must stand ready need at the whole capacity x correction. Less
    than ``UP_TOLERANCE`` above the current count, and within its whole capacity, is the current count, if
    that is ``TOLERANT_FROM`` or more.

    Backlog is what is in flight beyond what the available replicas hold within the SLO by Little's law
    (capacity x slo_latency each). The result counts every replica asked for, so pending ones are not asked
    for again. Attainment below the objective while the sizing says "enough" adds one, once things have
    settled. Without a learned capacity, latency alone decides; with a capacity of 0, nothing would help.
    """
    capacity = seen.capacity
    if capacity is None:
        return _by_latency_alone(spec, seen, scale, outlook)
    if capacity <= 0.0:
        return Recommendation(scale.desired, Reason.WILL_NOT_HELP)

    one = capacity * outlook.correction * outlook.utilization
    raw = load(seen, scale, outlook) / one
    wanted = math.ceil(raw - 1e-9)
    most = scale.desired * min(1.0 + UP_TOLERANCE, 1.0 / outlook.utilization)
    tolerated = not outlook.rising and TOLERANT_FROM <= scale.desired < raw <= most
    if tolerated:
        wanted = scale.desired
    if outlook.missed and outlook.settled and wanted <= scale.desired:
        more = wanted == scale.desired
        return Recommendation(scale.desired + more, Reason.SLO_MISSED)
    if wanted < scale.desired:
        return Recommendation(wanted, Reason.LOAD_BELOW_CAPACITY, raw)
    return Recommendation(wanted, _why(seen, scale, outlook, one, tolerated=tolerated))


def proportional(spec: Spec, seen: Observation, scale: Scale, outlook: Outlook) -> Recommendation:
    """Apply the law of the Kubernetes HPA to latency: ceil(available x latency / target).

    The target is ``utilization_target`` of the SLO's latency. Ratios within ``tolerance`` do nothing. While
    replicas start, or the query window still holds the time before they did, nothing is done: the ratio
    would answer the same shortage twice.
    """
    latency = latency_at_objective(seen)
    if latency is None or seen.slo_latency is None:
        return Recommendation(scale.desired, Reason.TOO_FEW_SAMPLES)
    if not outlook.settled or scale.available == 0:
        return Recommendation(scale.desired, Reason.SETTLING)
    raw = scale.available * latency / (spec.utilization_target * seen.slo_latency)
    wanted = math.ceil(raw - 1e-9)
    reason = Reason.LATENCY_ABOVE_TARGET if wanted > scale.desired else Reason.LATENCY_BELOW_TARGET
    return Recommendation(wanted, reason, raw)


POLICIES: Final[dict[str, Policy]] = {
    "proportional": Policy(proportional, "the law of the Kubernetes HPA on latency"),
    "slo": Policy(slo, "arrivals by learned capacity, corrected by the error budget"),
}


def missed(spec: Spec, seen: Observation) -> bool:
    """Tell whether the objective is missed by more than chance explains, on at least ``min_samples``."""
    return (seen.samples or 0.0) >= spec.min_samples and _contradicts(seen, MISS_SIGMAS)


def doubtful(seen: Observation) -> bool:
    """Tell whether there is any sign that the objective is missed: no time to give replicas away."""
    return _contradicts(seen, DOUBT_SIGMAS)


def panics(seen: Observation) -> bool:
    """Tell whether the budget burns at a panic rate over the window and over the shorter rate window."""
    if seen.burn_rate is None or seen.burn_short is None or seen.slo_objective is None:
        return False
    limit = min(PANIC_BURN, PANIC_SHARE / (1.0 - seen.slo_objective))
    return min(seen.burn_rate, seen.burn_short) >= limit


def panic_limit(spec: Spec, seen: Observation, scale: Scale, outlook: Outlook) -> int:
    """Return the count from which on a panic adds nothing.

    With a learned capacity ``PANIC_REACH`` times what it says, or one more. Without one there is no limit but
    the bounds, unless successes are quick: then the misses are errors, and replicas do not mend those.
    """
    if seen.capacity is not None:
        if seen.capacity <= 0.0:
            return 0
        raw = load(seen, scale, outlook) / (seen.capacity * spec.utilization_target)
        return max(math.ceil(PANIC_REACH * raw - 1e-9), math.ceil(raw - 1e-9) + 1)
    return 0 if quick(seen) else scale.desired + 1


def quick(seen: Observation) -> bool:
    """Tell whether successes take less than half of the SLO: what misses then are errors."""
    latency = latency_at_objective(seen)
    return bool(latency is not None and seen.slo_latency and latency < QUICK_SHARE * seen.slo_latency)


def futile(seen: Observation, baseline: float | None, *, is_missed: bool, overloaded: bool) -> bool:
    """Tell whether it is execution that is slow, and not waiting: then more replicas do not help.

    So it is when a request alone is predicted to take longer than the SLO; or when the objective is missed
    while batches take ``GROWN`` times their usual ``baseline`` seconds and requests hardly wait. Never while
    the load exceeds the capacity: then requests wait, even if nobody has seen it yet.
    """
    if overloaded or not seen.slo_latency:
        return False
    if seen.service_time_single is not None and seen.service_time_single > seen.slo_latency:
        return True
    if not is_missed or not baseline or seen.service_mean is None or seen.queue_mean is None:
        return False
    return seen.service_mean >= GROWN * baseline and seen.queue_mean <= QUEUE_LITTLE * seen.slo_latency


def latency_at_objective(seen: Observation) -> float | None:
    """Return the latency quantile nearest to the objective that the samples can carry, in seconds."""
    few = seen.samples is not None and seen.samples < P99_SAMPLES
    return seen.p95 if few or (seen.slo_objective or 1.0) < P99_FROM else seen.p99


def backlog(seen: Observation, scale: Scale) -> float:
    """Return how many requests are in flight beyond what the available replicas hold within the SLO."""
    if seen.in_flight is None or seen.capacity is None or seen.slo_latency is None:
        return 0.0
    return max(0.0, seen.in_flight - scale.available * seen.capacity * seen.slo_latency)


def load(seen: Observation, scale: Scale, outlook: Outlook) -> float:
    """Return the requests per second to size for, by the utilization that is planned with.

    The forecast; or, if that is more, what may take the whole capacity: the forecast and what it takes to
    work off the backlog, or what must stand ready.
    """
    return max(_arriving(seen, scale, outlook), outlook.standing * outlook.utilization)


def _why(seen: Observation, scale: Scale, outlook: Outlook, one: float, *, tolerated: bool) -> Reason:
    """Return why ``slo`` wants no fewer than there are; ``one`` is what a replica is planned with."""
    if tolerated:
        return Reason.WITHIN_TOLERANCE
    if math.ceil(outlook.forecast / one - 1e-9) > scale.desired:
        return Reason.LOAD_ABOVE_CAPACITY
    kept = outlook.standing * outlook.utilization > _arriving(seen, scale, outlook)
    return Reason.RECENT_PEAK if kept else Reason.BACKLOG


def _arriving(seen: Observation, scale: Scale, outlook: Outlook) -> float:
    worked_off = backlog(seen, scale) / (BACKLOG_HORIZONS * outlook.horizon)
    return max(outlook.forecast, (outlook.forecast + worked_off) * outlook.utilization)


def _by_latency_alone(spec: Spec, seen: Observation, scale: Scale, outlook: Outlook) -> Recommendation:
    """When the objective is missed, grow by latency / SLO (one replica to a doubling); else as the HPA."""
    if outlook.missed and outlook.settled:
        latency = latency_at_objective(seen)
        ratio = latency / seen.slo_latency if latency and seen.slo_latency else 1.0
        ratio = min(max(ratio, 1.0), MAX_LATENCY_RATIO)
        wanted = max(scale.desired + 1, math.ceil(scale.desired * ratio - 1e-9))
        return Recommendation(wanted, Reason.SLO_MISSED)
    return proportional(spec, seen, scale, outlook)


def _contradicts(seen: Observation, sigmas: float) -> bool:
    if seen.attainment is None or seen.slo_objective is None:
        return False
    return wilson(seen.attainment, seen.samples or 0.0, sigmas)[1] < seen.slo_objective
