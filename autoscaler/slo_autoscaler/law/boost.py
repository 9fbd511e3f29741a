"""Decides how much CPU serving replicas get above nominal while requested ones start. [P]

A running replica can be given CPU within a second, a new one needs its start-up time. So the load that the
serving replicas cannot carry is answered vertically first and horizontally after: as Themis
(arXiv:2407.14843) and Sponge (arXiv:2404.00704) do. A boost replaces no replica that a steady load needs, but
some that would stand by for a jump (``foresight.price``).

What a boosted replica measures says little of a nominal one: ``replica.nominal`` holds its capacity and
service time meanwhile, and ``Measured.boosts`` keeps its lateness out of the calibration.

So a boost may hide a model that has become slower, and then no replica starts. A boost that bridges nothing
ends after ``TUNING.boost_alone``, and none begins until what is exported counts again. Where the arrivals
need more replicas than the function can have, a boost of their load stays: it is all that can be done. It
pauses each ``TUNING.boost_longest`` all the same: the capacity that it holds may be that of a bad moment.
"""

from dataclasses import dataclass
from math import ceil

from slo_autoscaler.law.memory import Memory
from slo_autoscaler.law.replica import load_of
from slo_autoscaler.law.situation import Situation
from slo_autoscaler.law.tuning import TUNING
from slo_autoscaler.model import Scale
from slo_autoscaler.signals.record import Observation


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
    load, grain = load_of(at), TUNING.boost_grain
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
