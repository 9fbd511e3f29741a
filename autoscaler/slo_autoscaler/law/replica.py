"""Stage 2, ``replica``: what one replica carries. [P]

Takes the exported capacity and the measured lateness. The curve of late share by load (``base.curve``) is
corrected by what was late at the loads of the window (``base.calibration``). ``nominal`` replaces what
boosted replicas export.

Next stage: ``traffic``.
"""

from dataclasses import dataclass, replace
from math import inf
from operator import attrgetter
from typing import Any, Final

from slo_autoscaler.law.base.curve import Curve, observed
from slo_autoscaler.law.memory import Measured
from slo_autoscaler.law.platform import Standing
from slo_autoscaler.law.situation import Situation
from slo_autoscaler.law.tuning import TUNING
from slo_autoscaler.signals.record import Observation, Of, signals_of

_NOMINAL: Final = signals_of(Of.REPLICA)
"""What a boost distorts: the parts of ``Measured.nominal``."""
_nominal: Final = attrgetter(*_NOMINAL)


@dataclass(frozen=True, slots=True)
class Carries:
    """What one replica carries, and how late its requests were."""

    curve: Curve
    """Late share by load, corrected."""
    window: float
    """Seconds over which the rates were measured."""
    late: float | None
    """Share of requests that were late because they waited; None: unknown, or none."""
    spent: float
    """The same, as many as the exported curve predicts where it is unknown."""
    overdue: bool
    """Whether more wait than are answered within the SLO: late already, but no counter shows it yet."""


def nominal(at: Situation, stuck: int) -> Situation:
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
    alone = _alone_since(at, stuck)
    if alone == measured.alone_since:
        return at
    return at.after(replace(at.memory, replica=replace(measured, alone_since=alone)))


def carries(at: Situation, standing: Standing) -> tuple[Carries | None, Measured]:
    """Return what a replica carries, and the memory with this observation; None: it is unknown."""
    told = at.seen.capacity and at.seen.slo_latency is not None and at.seen.slo_objective is not None
    if not told or at.spec.policy != "slo":
        return None, at.memory.replica
    seen, scale, now, measured = at.seen, at.scale, at.now, at.memory.replica
    window = seen.rate_window or 2.0 * at.spec.timing.rate_lag
    exported, newest = observed(seen), seen.arrival_rate_now
    rate = (seen.arrival_rate or 0.0) if newest is None else newest
    load = rate / (max(1, scale.available) * exported.goodput)
    loads = (*[past for past in measured.loads if 0.0 < now - past[0] <= window], (now, load))
    overdue = (seen.queue_length or 0.0) > scale.available * exported.goodput * (seen.slo_latency or 0.0)
    calibration = measured.calibration
    overloaded_at = now if overdue or load > calibration.factor else measured.overloaded_at
    late, lately = late_share(seen), [load for _, load in loads]
    if late is None:
        spent = sum(exported.late(load * exported.goodput) for load in lately) / len(lately)
    else:
        spent = late
        # While a backlog or a boost is in the rates, a comparison says nothing of the curve.
        if not measured.boosts and now - overloaded_at > TUNING.drained_in * standing.horizon + window:
            calibration = calibration.after(
                at.passed, at.spec.budget_period, seen.rate or 0.0, late, lately, exported
            )
    measured = replace(measured, loads=loads, overloaded_at=overloaded_at, calibration=calibration)
    return Carries(exported.corrected(calibration.factor), window, late, spent, overdue), measured


def late_share(seen: Observation) -> float | None:
    """Return the late share that more replicas would have avoided; None: unknown, or none.

    If requests hardly waited for a worker, they were late in execution.
    """
    if seen.burn_short is None or seen.slo_objective is None:
        return None
    share = min(TUNING.waited_most, TUNING.waited_little * (1.0 - seen.slo_objective))
    waited = inf if seen.queue_mean is None else seen.queue_mean
    if seen.burn_short > 0.0 and waited <= share * (seen.slo_latency or 0.0):
        return None
    return min(1.0, seen.burn_short * (1.0 - seen.slo_objective))


def load_of(at: Situation, *, arriving: bool = False) -> float:
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


def _alone_since(at: Situation, stuck: int) -> float | None:
    """Return the time since which boosts bridge nothing; None: there are none, or they do.

    Replicas that never start bridge nothing, nor does more than the arrivals explain where none can start.
    """
    measured = at.memory.replica
    if not measured.boosts or at.scale.pending > stuck:
        return None
    lacking = at.memory.step.needs.highest(0.0) > at.scale.desired
    if lacking and 1.0 < at.boost <= load_of(at, arriving=True) + TUNING.boost_grain:
        return None
    return at.now if measured.alone_since is None and at.boost > 1.0 else measured.alone_since
