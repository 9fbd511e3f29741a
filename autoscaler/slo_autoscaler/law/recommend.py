"""Policy ``slo``: requests every replica that saves more late requests than its price. [P]

Owns what an observation teaches: the late share of a replica and what may be late now (``base``), and the
rates to come (``foresight``).

The moment that counts is the one at which a replica requested now would serve. A replica is removed only if
no such moment still ahead needs it: it could not be brought back until then (``base.needs``). None is
removed while more are late than allowed, or will be because they wait. If that lasts for minutes, one is
added, whatever the prediction says. Replicas that do not become ready are no supply; a few are replaced.

Next step: ``allocate`` where functions share a budget of replicas, then ``decide``.
"""

from collections.abc import Sequence
from math import inf

from slo_autoscaler.law.base.budget import Budget
from slo_autoscaler.law.base.calibration import Calibration
from slo_autoscaler.law.base.curve import Curve, observed
from slo_autoscaler.law.foresight.price import Prediction
from slo_autoscaler.law.foresight.scenarios import with_rates
from slo_autoscaler.law.memory import Memory
from slo_autoscaler.law.situation import Situation
from slo_autoscaler.law.tuning import TUNING
from slo_autoscaler.model import Reason, Recommendation
from slo_autoscaler.signals.record import Observation
from slo_autoscaler.signals.window import believed_rate


def recommend(at: Situation) -> tuple[Recommendation, Memory]:
    """Return the recommended count, and the memory with this observation.

    Needs an arrival rate, an SLO, and a capacity above 0.
    """
    spec, seen, scale, memory, now = at.spec, at.seen, at.scale, at.memory, at.now
    objective, interval = seen.slo_objective or 0.0, spec.timing.interval
    window = seen.rate_window or 2.0 * spec.timing.rate_lag
    replica = observed(seen)
    rate, newest = seen.arrival_rate or 0.0, seen.arrival_rate_now
    believed = believed_rate(rate, newest, spec.timing.rate_lag)
    horizon = memory.start_up(spec) + interval
    history = memory.history.every(interval).after([(now, believed)], horizon)
    load = (rate if newest is None else newest) / (max(1, scale.available) * replica.goodput)
    loads = (*[past for past in memory.loads if 0.0 < now - past[0] <= window], (now, load))
    # More wait than can be answered within the SLO: late already, but no counter shows it yet.
    overdue = (seen.queue_length or 0.0) > scale.available * replica.goodput * (seen.slo_latency or 0.0)
    overloaded_at = now if overdue or load > memory.calibration.factor else memory.overloaded_at
    stalled = _hanging(seen, memory.stalled, window)
    late = late_share(seen)
    # While a backlog or a boost is in the rates, a comparison says nothing of the curve.
    settled = not memory.boosts and now - overloaded_at > TUNING.drained_in * horizon + window
    calibration, budget = _accounts(at, replica, loads, late, compare=settled)
    budget = budget.with_late(stalled - memory.stalled, objective)
    replica = replica.corrected(calibration.factor)
    allowed = budget.allowed(objective, spec.budget_period)
    base, bridge = max(believed, history.nothing), memory.bridge(spec, at.bridge)

    def foreseen(gain: float) -> Prediction:
        odds: Sequence[float] = history.followed.odds(believed, history.nothing, window)
        for rates, share in history.repeats(now + horizon, now + horizon + interval, window / 2.0):
            odds = with_rates(odds, base, rates, share)
        return Prediction(base, odds, replica, gain)

    then = foreseen(bridge)
    count = then.count(allowed)
    missing = max(0, count - scale.available)
    # Where no node has room, another replica would find none either.
    broken = max(0, memory.stuck(spec, now) - (scale.unschedulable or 0))
    count += min(broken, missing, 1)

    late_since = None
    if overdue or (late is not None and late > allowed):
        late_since = now if memory.late_since is None else memory.late_since
    reason = Reason.LOAD_BELOW_CAPACITY
    if late_since is not None and count <= scale.desired:
        served_since = -inf if memory.scaled_up_at is None else memory.scaled_up_at + horizon
        lasts = now - max(late_since, served_since) >= window + TUNING.late_for
        reason = Reason.STILL_LATE if lasts else Reason.SCALE_DOWN_UNSAFE
        count = scale.desired + 1 if lasts else scale.desired
    elif count > scale.desired:
        too_late = replica.late(believed / scale.desired) > allowed
        reason = Reason.LOAD_ABOVE_CAPACITY if too_late else Reason.PEAK_EXPECTED
    elif count == scale.desired > 1 and replica.late(believed / (scale.desired - 1)) <= allowed:
        reason = Reason.PEAK_EXPECTED
    elif late is None and (seen.burn_short or 0.0) > 1.0:
        reason = Reason.WILL_NOT_HELP
    recommendation = Recommendation(
        count,
        reason,
        rate=then.rate,
        allowed=allowed,
        worth=replica.saved(allowed) / then.rate,
        late=then.late,
        unbridged=None if bridge == 1.0 else lambda: foreseen(1.0).count(allowed),
    )
    return recommendation, memory.with_data(
        spec,
        now,
        count,
        loads=loads,
        overloaded_at=overloaded_at,
        late_since=late_since,
        stalled=stalled,
        history=history,
        calibration=calibration,
        budget=budget,
    )


def _accounts(
    at: Situation,
    replica: Curve,
    loads: Sequence[tuple[float, float]],
    late: float | None,
    *,
    compare: bool,
) -> tuple[Calibration, Budget]:
    """Return those of the memory with this observation; ``compare``: correct the curve.

    ``replica`` is without correction.
    """
    spec, seen, memory, calibration = at.spec, at.seen, at.memory, at.memory.calibration
    passed = min(max(0.0, at.now - memory.seen_at), spec.timing.longest_gap)
    served, lately = seen.rate or 0.0, [load for _, load in loads]
    if late is None:
        # Unknown: as many as the curve predicts.
        late = sum(replica.late(load * replica.goodput) for load in lately) / len(lately)
    elif compare:
        calibration = calibration.after(passed, spec.budget_period, served, late, lately, replica)
    objective = seen.slo_objective or 0.0
    return calibration, memory.budget.after(passed, served, late, objective, spec.budget_period)


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


def _hanging(seen: Observation, before: float, window: float) -> float:
    """Return the number of requests in flight for the whole window of rates; 0 if the SLO is longer."""
    if (seen.slo_latency or 0.0) >= window:
        return 0.0
    return before if seen.stalled is None else seen.stalled
