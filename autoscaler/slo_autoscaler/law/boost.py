"""Decides how much CPU serving replicas get above nominal while requested ones start. [P]

A running replica can be given CPU within a second, a new one needs its start-up time. So the load that the
serving replicas cannot carry is answered vertically first and horizontally after: as Themis
(arXiv:2407.14843) and Sponge (arXiv:2404.00704) do. A boost replaces no replica that a steady load needs, but
some that would stand by for a jump (``foresight.price``).

What a boosted replica measures says little of a nominal one: ``nominal`` holds its capacity and service
time meanwhile, and ``Measured.boosts`` keeps its lateness out of the calibration.

So a boost may hide a model that has become slower, and then no replica starts. A boost that bridges nothing
ends after ``TUNING.boost_alone``, and none begins until what is exported counts again. Where the arrivals
need more replicas than the function can have, a boost of their load stays: it is all that can be done. It
pauses each ``TUNING.boost_longest`` all the same: the capacity that it holds may be that of a bad moment.
"""

from dataclasses import dataclass, replace
from math import ceil
from operator import attrgetter
from typing import Any, Final

from slo_autoscaler.law.memory import Memory
from slo_autoscaler.law.situation import Situation
from slo_autoscaler.law.tuning import TUNING
from slo_autoscaler.model import Scale
from slo_autoscaler.signals.record import Observation, Of, signals_of

_NOMINAL: Final = signals_of(Of.REPLICA)
"""What a boost distorts: the parts of ``Measured.nominal``."""
_nominal: Final = attrgetter(*_NOMINAL)


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
    scale, most, since = at.scale, at.spec.boost.max_factor, at.memory.replica.alone_since
    if most <= 1.0:
        return Boost()
    load, grain = _load(at), TUNING.boost_grain
    wanted = min(ceil(load / grain) * grain, most) if load > TUNING.boost_least else 1.0
    factor = max(1.0, wanted, min(before, most) - grain)
    boosted_since = at.memory.replica.boosted_since
    alone = since is not None and at.now - since >= TUNING.boost_alone
    long = boosted_since is not None and at.now - boosted_since >= TUNING.boost_longest
    if alone or long:
        factor = 1.0
    needed = ceil(load * scale.available)
    return Boost(factor, needed, scale.available, scale.pending)


def needless(seen: Observation, scale: Scale, memory: Memory, rate: float, inside: float) -> bool:
    """Return whether ``boost`` surely begins none, with ``rate`` and ``inside`` as read directly.

    This holds for most functions, and makes no object.
    """
    if memory.replica.boosts:
        return False
    load = max(rate, seen.arrival_rate or 0.0) + inside / TUNING.boost_drained_in
    return load <= scale.available * memory.replica.calibration.factor * (seen.capacity or 0.0)


def nominal(at: Situation) -> Situation:
    """Return the situation with what was seen of nominal replicas, for as long as a boost distorts it.

    That is until samples taken while boosted have left the windows. A lower capacity counts as soon as no
    boost is in force: what is left of one makes no replica slower. None is known if the first observation of
    a function is of a boosted replica.
    """
    seen, measured = at.seen, at.memory.replica
    boosts = [
        (when, factor)
        for when, factor in measured.boosts
        if factor > at.boost and at.now - when <= at.spec.timing.settle_time
    ]
    if at.boost > 1.0:
        boosts.append((at.now, at.boost))
    learned = measured.nominal
    if seen.capacity is not None and (
        not boosts or (at.boost <= 1.0 and seen.capacity < (learned[_NOMINAL.index("capacity")] or 0.0))
    ):
        learned = _nominal(seen)
    if boosts or measured.boosts or learned != measured.nominal:
        since = (at.now if measured.boosted_since is None else measured.boosted_since) if boosts else None
        measured = replace(measured, boosts=tuple(boosts), nominal=learned, boosted_since=since)
        at = at.after(replace(at.memory, replica=measured))
    if boosts:
        before: dict[str, Any] = dict(zip(_NOMINAL, learned, strict=True))
        at = replace(at, seen=replace(seen, **before))
    alone = _alone_since(at)
    if alone == measured.alone_since:
        return at
    return at.after(replace(at.memory, replica=replace(measured, alone_since=alone)))


def _load(at: Situation, *, arriving: bool = False) -> float:
    """Return the load of the serving replicas as a multiple of their capacity; 0: unknown.

    That is the arrivals, and the requests beyond what the replicas hold, which should be drained.
    ``arriving``: the arrivals alone.
    """
    seen = at.seen
    correct = at.scale.available * at.memory.replica.calibration.factor
    capacity = correct * (seen.capacity or 0.0)
    if capacity <= 0.0:
        return 0.0
    rate = seen.direct_rate or 0.0
    if seen.direct_rate is None or at.now - at.memory.seen_at <= at.spec.timing.max_age:
        # The direct rate is what surely arrives: less than the mean. An old mean says nothing.
        rate = max(rate, seen.arrival_rate or 0.0)
    inside = seen.in_flight if seen.direct_in_flight is None else seen.direct_in_flight
    # A replica that serves one request has none waiting, however few it answers within the SLO.
    held = max(at.scale.available, correct * (seen.held or 0.0))
    beyond = 0.0 if arriving else max(0.0, (inside or 0.0) - held)
    return (rate + beyond / TUNING.boost_drained_in) / capacity


def _alone_since(at: Situation) -> float | None:
    """Return the time since which boosts bridge nothing; None: there are none, or they do.

    Replicas that never start bridge nothing, nor does more than the arrivals explain where none can start.
    """
    measured = at.memory.replica
    if not measured.boosts or at.scale.pending > at.memory.platform.stuck(at.spec, at.now):
        return None
    lacking = at.memory.step.needs.highest(0.0) > at.scale.desired
    if lacking and 1.0 < at.boost <= _load(at, arriving=True) + TUNING.boost_grain:
        return None
    return at.now if measured.alone_since is None and at.boost > 1.0 else measured.alone_since
