"""Stage 4, ``need``: how many replicas, and why. [P]

Policy ``slo`` requests every replica that saves more late requests than its price (``foresight.price``), at
the late share that the spending window allows (``base.budget``). None is removed while more are late than
allowed, or will be because they wait. If that lasts for minutes, one is added, whatever the prediction says.
Replicas that do not become ready are no supply; a few are replaced.

A policy is a function here and a record in ``POLICIES``; its own setting is a field of ``Spec``, its own
reason a member of ``Reason``.

Next stage: ``allocate`` where functions share a budget of replicas, then ``limits``.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import inf, sqrt
from typing import Final

from slo_autoscaler.law import latency
from slo_autoscaler.law.foresight.price import Prediction
from slo_autoscaler.law.further import joined
from slo_autoscaler.law.memory import Account
from slo_autoscaler.law.platform import Standing
from slo_autoscaler.law.replica import Carries, carries
from slo_autoscaler.law.situation import Situation
from slo_autoscaler.law.traffic import Outlook, outlook
from slo_autoscaler.law.tuning import TUNING
from slo_autoscaler.law.zero import called, rests
from slo_autoscaler.model import Forecast, Hold, Need, Reason


def needed(
    at: Situation,
    standing: Standing,
    carried: Carries | None,
    expected: Outlook,
) -> tuple[Need | Hold, Account]:
    """Return how many replicas are needed, and the account with this observation."""
    if at.asleep:
        return _woken(at, standing), at.memory.need
    if at.missing is not None:
        return Hold(at.missing, needed=False), at.memory.need
    need, account = POLICIES[at.spec.policy].need(at, standing, carried, expected)
    if rests(at, standing, expected.arrivals):
        need = Need(0, Reason.IDLE)
    return joined(at, need), account


def _woken(at: Situation, standing: Standing) -> Need | Hold:
    """Return the need of a function without replicas: the policy's, at least 1, once something calls it."""
    because = called(at, standing)
    if because is None:
        return Hold(Reason.SCALED_TO_ZERO, needed=False)
    count = 1
    if at.seen.capacity is not None and at.seen.slo_latency is not None and at.seen.slo_objective is not None:
        # The policy knows no function without replicas.
        one = replace(at, scale=replace(at.scale, desired=1))
        carried, _ = carries(one, standing)
        need, _ = POLICIES[at.spec.policy].need(one, standing, carried, outlook(one, standing, carried))
        count = max(1, need.count) if isinstance(need, Need) else 1
    return Need(count, because)


def slo(
    at: Situation, standing: Standing, carried: Carries | None, expected: Outlook
) -> tuple[Need | Hold, Account]:
    """Return the cheapest count at which budget and price agree; by latency alone without a capacity."""
    if carried is None:
        return latency.without_capacity(at, standing), at.memory.need
    spec, scale, replica = at.spec, at.scale, carried.curve
    account = _spent(at, carried)
    allowed = account.budget.allowed(at.seen.slo_objective or 0.0, spec.budget_period)
    gain = _bridge(at, standing)

    def predicted(gain: float) -> Prediction:
        return Prediction(expected.base, expected.odds, replica, gain)

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
    late = carried.overdue or (carried.late is not None and carried.late > allowed)
    before = at.memory.need.late_since
    since = (at.now if before is None else before) if late else None
    account = replace(account, late_since=since)
    if since is None or count > scale.desired:
        return _by_prediction(at, carried, expected, count, forecast), account
    up_at = at.memory.step.scaled_up_at
    served_since = -inf if up_at is None else up_at + standing.horizon
    if at.now - max(since, served_since) >= carried.window + TUNING.late_for:
        return Need(scale.desired + 1, Reason.STILL_LATE, forecast=forecast), account
    return Hold(Reason.SCALE_DOWN_UNSAFE, forecast=forecast), account


def _by_prediction(
    at: Situation, carried: Carries, expected: Outlook, count: int, forecast: Forecast
) -> Need | Hold:
    """Return the need for the predicted ``count``, with its reason."""
    current, replica = at.scale.desired, carried.curve
    if count > current:
        if replica.late(expected.rate / current) > forecast.allowed:
            return Need(count, Reason.LOAD_ABOVE_CAPACITY, forecast=forecast)
        return Need(count, Reason.PEAK_EXPECTED, forecast=forecast, insists=True)
    if count == current > 1 and replica.late(expected.rate / (current - 1)) <= forecast.allowed:
        return Hold(Reason.PEAK_EXPECTED, forecast=forecast)
    because = Reason.LOAD_BELOW_CAPACITY if at.seen.arrival_rate else Reason.NO_TRAFFIC
    if carried.late is None and (at.seen.burn_short or 0.0) > 1.0:
        because = Reason.WILL_NOT_HELP
    if count < current:
        return Need(count, because, forecast=forecast, insists=because is Reason.WILL_NOT_HELP)
    return Hold(because if because is Reason.WILL_NOT_HELP else Reason.WITHIN_RANGE, forecast=forecast)


def _bridge(at: Situation, standing: Standing) -> float:
    """Return the capacity with which a boost bridges jumps, as a multiple of the nominal; 1: it cannot.

    Not all of the highest factor counts: a boost follows a jump by seconds, and may be less than asked for.
    None does while more have been late than allowed: no node has idle CPU, or the model gains nothing.
    """
    brief = standing.start_up <= TUNING.boost_bridges
    suffices = at.memory.need.budget.remaining(at.spec.budget_period) >= 0.0
    most = at.spec.boost.max_factor if at.bridge is None else at.bridge
    return sqrt(most) if brief and suffices else 1.0


def _spent(at: Situation, carried: Carries) -> Account:
    """Return the account with this observation, and nothing late for long."""
    objective, before = at.seen.slo_objective or 0.0, at.memory.need
    budget = before.budget.after(
        at.passed, at.seen.rate or 0.0, carried.spent, objective, at.spec.budget_period
    )
    stalled = before.stalled if at.seen.stalled is None else at.seen.stalled
    # Within a longer SLO, what hung for the whole window of rates is not late yet.
    stalled = 0.0 if (at.seen.slo_latency or 0.0) >= carried.window else stalled
    return Account(budget.with_late(stalled - before.stalled, objective), stalled=stalled)


def proportional(
    at: Situation, standing: Standing, carried: Carries | None, expected: Outlook
) -> tuple[Need | Hold, Account]:
    """Apply the formula of the Kubernetes HPA to latency."""
    return latency.proportional(at, standing), at.memory.need


Law = Callable[
    [Situation, Standing, Carries | None, Outlook],
    tuple[Need | Hold, Account],
]


@dataclass(frozen=True, slots=True)
class Policy:
    """One way to size a function, by the values of the stages before."""

    need: Law
    label: str
    """Description for the page and the reference."""


POLICIES: Final[dict[str, Policy]] = {
    "proportional": Policy(proportional, "the formula of the Kubernetes HPA, applied to latency"),
    "slo": Policy(slo, "every replica that saves enough predicted late requests"),
}
