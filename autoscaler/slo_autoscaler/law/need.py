"""Stage 4, ``need``: how many replicas, and why. [P]

Policy ``slo`` requests every replica that saves more late requests than its price (``foresight.price``), at
the late share that the spending window allows (``base.budget``). None is removed while more are late than
allowed, or will be because they wait. If that lasts for minutes, one is added, whatever the prediction says.
Replicas that do not become ready are no supply; a few are replaced.

Next stage: ``further``; then ``allocate``, where functions share a budget of replicas, and ``limits``.
"""

from math import inf, sqrt

from slo_autoscaler.law.foresight.price import Prediction
from slo_autoscaler.law.memory import Account
from slo_autoscaler.law.platform import Standing
from slo_autoscaler.law.replica import Carries
from slo_autoscaler.law.situation import Situation
from slo_autoscaler.law.traffic import Outlook
from slo_autoscaler.law.tuning import TUNING
from slo_autoscaler.model import Forecast, Hold, Need, Reason


def needed(
    at: Situation, standing: Standing, carries: Carries, outlook: Outlook
) -> tuple[Need | Hold, Account]:
    """Return the cheapest count at which budget and price agree, and the account with this observation."""
    spec, scale, replica = at.spec, at.scale, carries.curve
    account = _spent(at, carries)
    allowed = account.budget.allowed(at.seen.slo_objective or 0.0, spec.budget_period)
    gain = bridge(at, standing)

    def predicted(gain: float) -> Prediction:
        return Prediction(outlook.base, outlook.odds, replica, gain)

    then = predicted(gain)
    forecast = Forecast(
        then.rate,
        allowed,
        replica.saved(allowed) / then.rate,
        then.late,
        None if gain == 1.0 else lambda: predicted(1.0).count(allowed),
    )
    count = then.count(allowed)
    # Where no node has room, another replica would find none either.
    broken = max(0, standing.stuck - (scale.unschedulable or 0))
    count += min(broken, max(0, count - scale.available), 1)
    late = carries.overdue or (carries.late is not None and carries.late > allowed)
    if not late:
        return _by_prediction(at, carries, outlook, count, forecast), account
    since = at.now if at.memory.need.late_since is None else at.memory.need.late_since
    account = Account(account.budget, since, account.stalled)
    if count > scale.desired:
        return _by_prediction(at, carries, outlook, count, forecast), account
    up_at = at.memory.step.scaled_up_at
    served_since = -inf if up_at is None else up_at + standing.horizon
    if at.now - max(since, served_since) >= carries.window + TUNING.late_for:
        return Need(scale.desired + 1, Reason.STILL_LATE, forecast=forecast), account
    return Hold(Reason.SCALE_DOWN_UNSAFE, forecast=forecast), account


def _by_prediction(
    at: Situation, carries: Carries, outlook: Outlook, count: int, forecast: Forecast
) -> Need | Hold:
    """Return the need for the predicted ``count``, with its reason."""
    current, replica = at.scale.desired, carries.curve
    if count > current:
        if replica.late(outlook.rate / current) > forecast.allowed:
            return Need(count, Reason.LOAD_ABOVE_CAPACITY, forecast=forecast)
        return Need(count, Reason.PEAK_EXPECTED, forecast=forecast, insists=True)
    if count == current > 1 and replica.late(outlook.rate / (current - 1)) <= forecast.allowed:
        return Hold(Reason.PEAK_EXPECTED, forecast=forecast)
    because = Reason.LOAD_BELOW_CAPACITY if at.seen.arrival_rate else Reason.NO_TRAFFIC
    if carries.late is None and (at.seen.burn_short or 0.0) > 1.0:
        because = Reason.WILL_NOT_HELP
    if count < current:
        return Need(count, because, forecast=forecast, insists=because is Reason.WILL_NOT_HELP)
    return Hold(because if because is Reason.WILL_NOT_HELP else Reason.WITHIN_RANGE, forecast=forecast)


def bridge(at: Situation, standing: Standing) -> float:
    """Return the capacity with which a boost bridges jumps, as a multiple of the nominal; 1: it cannot.

    Not all of the highest factor counts: a boost follows a jump by seconds, and may be less than asked for.
    None does while more have been late than allowed: no node has idle CPU, or the model gains nothing.
    """
    brief = standing.start_up <= TUNING.boost_bridges
    suffices = at.memory.need.budget.remaining(at.spec.budget_period) >= 0.0
    most = at.spec.boost.max_factor if at.bridge is None else at.bridge
    return sqrt(most) if brief and suffices else 1.0


def _spent(at: Situation, carries: Carries) -> Account:
    """Return the account with this observation, and nothing late for long."""
    objective, before = at.seen.slo_objective or 0.0, at.memory.need
    budget = before.budget.after(
        at.passed, at.seen.rate or 0.0, carries.spent, objective, at.spec.budget_period
    )
    stalled = before.stalled if at.seen.stalled is None else at.seen.stalled
    # Within a longer SLO, what hung for the whole window of rates is not late yet.
    stalled = 0.0 if (at.seen.slo_latency or 0.0) >= carries.window else stalled
    return Account(budget.with_late(stalled - before.stalled, objective), stalled=stalled)
