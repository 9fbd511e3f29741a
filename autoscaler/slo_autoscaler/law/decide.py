"""The decision on one function, from top to bottom: six stages, each a module. [P]

``platform`` (what stands there), ``replica`` (what one carries), ``traffic`` (what may come), ``need`` (how
many, and why), ``limits`` (what is allowed), ``step`` (what happens now). The first four make an
``Assessment``; where functions share a budget of replicas, ``allocate`` sees all of them before the last two.
Reads no clock (``now`` is an argument, seconds on any monotonic clock) and takes no action.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from slo_autoscaler.law import step
from slo_autoscaler.law.allocate import Claim
from slo_autoscaler.law.inputs import Inputs, numbers
from slo_autoscaler.law.limits import Allowed, Limits, allowed, limited
from slo_autoscaler.law.memory import Memory
from slo_autoscaler.law.need import needed
from slo_autoscaler.law.platform import Standing, standing
from slo_autoscaler.law.replica import carries, nominal
from slo_autoscaler.law.situation import Situation
from slo_autoscaler.law.traffic import outlook
from slo_autoscaler.model import Change, Decision, Hold, Need, Reason


@dataclass(frozen=True, slots=True)
class Assessment:
    """One function before the share of the fleet is known."""

    at: Situation
    """With the memory after this observation."""
    stands: Standing
    need: Need | Hold
    limits: Limits | None
    """None: the function holds, for the reason of the need."""


def decide(at: Situation) -> tuple[Decision, Memory]:
    """Return the decision on one function, and its memory once the platform has agreed to it."""
    assessment = assess(at)
    decision = concluded(assessment, None)
    return decision, agreed(assessment, decision)


def assess(at: Situation) -> Assessment:
    """Take the first stages, up to the function's own limits, and join their parts of the memory."""
    stands, requests = standing(at)
    at = replace(at, memory=replace(at.memory, platform=requests), scale=stands.scale)
    at = nominal(at, stands.stuck)
    sized = at.missing is None
    carried, measured = carries(at, stands) if sized else (None, at.memory.replica)
    expected = outlook(at, stands, carried)
    need, account = needed(at, stands, carried, expected)
    if not sized:
        # Nothing was seen from which to learn.
        memory = replace(at.memory, traffic=replace(at.memory.traffic, idle_since=None))
    else:
        memory = Memory(at.now, requests, measured, expected.arrivals, account, step.after(at, stands, need))
    need, own = limited(at, stands, need)
    return Assessment(replace(at, memory=memory), stands, need, own)


def concluded(assessment: Assessment, share: int | None) -> Decision:
    """Take the last two stages; ``share`` is the fleet's replicas for the function, None: no fleet."""
    at, need, own = assessment.at, assessment.need, assessment.limits
    outcome: Change | Hold
    if own is None:
        # Without limits the need is a hold.
        outcome = Hold(need.because, need.detail)
    else:
        within = own if share is None else own.at_most(share, Reason.FLEET_FULL)
        outcome = step.step(at, assessment.stands, allowed(need, at.scale.desired, within))
    count = outcome.to if isinstance(outcome, Change) else None
    return Decision(outcome, Inputs(partial(numbers, at, assessment.stands, need, own, share, count)))


def agreed(assessment: Assessment, decision: Decision) -> Memory:
    """Return the memory after the platform has agreed to the decision."""
    at, forecast = assessment.at, assessment.need.forecast
    if decision.replicas is None:
        return at.memory
    rate = 0.0 if forecast is None else forecast.rate
    late = decision.reason is Reason.STILL_LATE
    return step.scaled(at.memory, at.scale, decision.replicas, at.now, rate=rate, late=late)


def raised(at: Situation, free: float) -> tuple[Decision, Memory] | None:
    """Return a scale-up for arrivals that were read directly between two reconciles, or None.

    The memory is that after the platform has agreed. ``at`` has the last observation with the current
    ``direct_rate``; ``free`` is the unused replicas of the fleet's budget. Added replicas stay for one
    start-up like any need. Nothing else is learned here, because predictions are calibrated by rates over
    longer times. Also for requests that wait for a function without replicas.
    """
    served = (at.seen.capacity or 0.0) * at.scale.desired
    exceeded = at.spec.policy == "slo" and 0.0 < served < (at.seen.direct_rate or 0.0)
    if not (exceeded or at.scale.waiting):
        return None
    assessment = assess(at)
    scale = assessment.at.scale
    decision = concluded(assessment, None if free == math.inf else scale.desired + max(0, int(free)))
    if decision.replicas is None or decision.replicas <= scale.desired:
        return None
    memory = replace(
        at.memory,
        traffic=replace(at.memory.traffic, idle_since=None),
        step=step.with_need(at.memory.step, decision.replicas, assessment.stands.stabilization),
    )
    return decision, step.scaled(memory, scale, decision.replicas, at.now)


def claim(assessment: Assessment) -> Claim:
    """Return a function's request to a shared budget."""
    at, stands, need, own = assessment.at, assessment.stands, assessment.need, assessment.limits
    current, forecast = at.scale.desired, need.forecast
    if own is None:
        return Claim(current, current, current, 0.0, _less_with_each)
    count = need.count if isinstance(need, Need) else current
    wanted = own.within(count)
    if max(count, own.lowest) < current:
        # It scales down by its own rules, and until then keeps its count.
        down = Allowed(wanted, count, need.because, lowest=own.lowest, forecast=forecast)
        outcome = step.down(at, stands, down)
        wanted = outcome.to if isinstance(outcome, Change) else current
    late: Callable[[int], float] = _less_with_each
    if need.because is Reason.FURTHER_METRIC:
        # The arrivals say nothing of this work: each replica short of the need leaves its capacity undone.
        rate = count * (at.seen.capacity or 1.0)
        late = partial(_short, count)
    elif forecast is None:
        # Without a prediction the arrivals count, and each further replica is worth less.
        rate = at.seen.arrival_rate or 0.0
    else:
        rate, late = forecast.rate, forecast.late
    margin = step.margin(at, stands)
    return Claim(own.lowest, wanted, current, rate, late, at.spec.priority, margin, stands.stuck)


def _short(needed: int, replicas: int) -> float:
    return max(0.0, 1.0 - replicas / needed)


def _less_with_each(replicas: int) -> float:
    return 1.0 / (1.0 + replicas)
