"""Decides how much CPU serving replicas get above nominal while requested ones start. [P]

A running replica can be given CPU within a second, a new one needs its start-up time. So the load that the
serving replicas cannot carry is answered vertically first and horizontally after: as Themis
(arXiv:2407.14843) and Sponge (arXiv:2404.00704) do. A boost never replaces a replica: the count is decided as
if there were none.

What a boosted replica measures says little of a nominal one: ``nominal`` holds its capacity and service
time meanwhile, and ``Memory.boosts`` keeps its lateness out of the calibration. But twice the CPU at most
doubles the goodput. So a capacity that was too low before, as of a replica that has just started, does not
last as long as the boost that it causes.
"""

from dataclasses import dataclass, replace
from math import ceil

from slo_autoscaler.law.curve import observed
from slo_autoscaler.law.situation import Situation
from slo_autoscaler.law.tuning import TUNING


@dataclass(frozen=True, slots=True)
class Boost:
    """CPU of the serving replicas of one function."""

    factor: float = 1.0
    """Multiple of the nominal CPU."""
    needed: int = 0
    """Replicas that the load needs at nominal CPU."""
    serving: int = 0
    starting: int = 0


def boost(at: Situation, before: float) -> Boost:
    """Return the boost for the load of now, at most ``boost.max_factor`` of the function's settings.

    ``before``: the factor in force. A higher factor counts at once, a lower one in steps of the grain.
    Without data, or without a known capacity, a boost that is in force ends likewise.
    """
    seen, scale, most = at.seen, at.scale, at.spec.boost.max_factor
    if most <= 1.0:
        return Boost()
    capacity = (seen.capacity or 0.0) * at.memory.calibration.factor
    load = 0.0
    if capacity > 0.0 and scale.available:
        load = _rate(at) / (scale.available * capacity)
    grain = TUNING.boost_grain
    wanted = min(ceil(load / grain) * grain, most) if load > TUNING.boost_least else 1.0
    factor = max(1.0, wanted, min(before, most) - grain)
    needed = ceil(load * scale.available)
    return Boost(factor, needed, scale.available, scale.pending)


def nominal(at: Situation) -> Situation:
    """Return the situation with what was seen of nominal replicas, for as long as a boost distorts it.

    That is until samples taken while boosted have left the windows. No capacity is known if the first
    observation of a function is of a boosted replica.
    """
    seen, memory = at.seen, at.memory
    boosts = [
        (when, factor)
        for when, factor in memory.boosts
        if factor > at.boost and at.now - when <= at.spec.timing.settle_time
    ]
    if at.boost > 1.0:
        boosts.append((at.now, at.boost))
    learned = memory.nominal
    if not boosts and seen.capacity is not None:
        learned = seen.capacity, seen.concurrency, seen.service_time_single
    if boosts or memory.boosts or learned != memory.nominal:
        at = replace(at, memory=replace(memory, boosts=tuple(boosts), nominal=learned))
    if not boosts:
        return at
    capacity, concurrency, service_time = learned
    before = replace(seen, capacity=capacity, concurrency=concurrency, service_time_single=service_time)
    if capacity and seen.capacity and seen.slo_latency and seen.slo_objective:
        gain = observed(seen).goodput / (boosts[0][1] * observed(before).goodput)
        before = replace(before, capacity=capacity * max(1.0, gain))
    return replace(at, seen=before)


def _rate(at: Situation) -> float:
    """Return the requests per second to serve now: arrivals, and those beyond what the replicas hold."""
    seen = at.seen
    arriving = seen.arrival_rate if seen.direct_rate is None else seen.direct_rate
    inside = seen.in_flight if seen.direct_in_flight is None else seen.direct_in_flight
    held = at.scale.available * at.memory.calibration.factor * (seen.held or 0.0)
    return (arriving or 0.0) + max(0.0, (inside or 0.0) - held) / TUNING.boost_drained_in
