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
from slo_autoscaler.law.boost import nominal
from slo_autoscaler.law.further import joined
from slo_autoscaler.law.inputs import Inputs, numbers
from slo_autoscaler.law.limits import Allowed, Limits, allowed, limits, paused
from slo_autoscaler.law.memory import Memory
from slo_autoscaler.law.platform import Standing, standing
from slo_autoscaler.law.policies import POLICIES
from slo_autoscaler.law.situation import Situation
from slo_autoscaler.law.traffic import idle_since, rests
from slo_autoscaler.law.zero import woken
from slo_autoscaler.model import Change, Decision, Hold, Need, Reason


@dataclass(frozen=True, slots=True)
class Assessment:
    """The first four stages for one function, before the share of the fleet is known."""

    at: Situation
    """With the memory after this observation."""
    need: Need | Hold
    limits: Limits | None
    """None: the function holds, for the reason of the need."""


def decide(at: Situation) -> tuple[Decision, Memory]:
    """Return the decision on one function, and its memory once the platform has agreed to it."""
    assessment = assess(at)
    decision = concluded(assessment, None)
    return decision, agreed(assessment, decision)


def assess(at: Situation) -> Assessment:
    """Take the first four stages: they end in a need, or in a hold where there is no data for one."""
    stands, requests = standing(at)
    at = nominal(replace(at, memory=replace(at.memory, platform=requests), scale=stands.scale))
    own = limits(at, stands)
    if at.scale.desired == 0 and at.scale.waiting is not None:
        return _asleep(_learned(at, at.memory, None), stands, own)
    missing = _missing(at)
    if missing is not None:
        return _unknown(_learned(at, at.memory, None), missing, own)
    since = idle_since(at)
    need, memory = POLICIES[at.spec.policy].need(at, stands)
    at = _learned(at, memory, since)
    allowed_here = own
    if not own.firm and rests(at, stands):
        need, allowed_here = Need(0, Reason.IDLE), replace(own, lowest=0)
    need = joined(at, need)
    steps = replace(at.memory.step, needs=step.after(at, need))
    at = at.after(replace(at.memory, seen_at=at.now, step=steps))
    return _paused(Assessment(at, need, allowed_here), own)


def concluded(assessment: Assessment, share: int | None) -> Decision:
    """Take the last two stages; ``share`` is the fleet's replicas for the function, None: no fleet."""
    at, need, own = assessment.at, assessment.need, assessment.limits
    outcome: Change | Hold
    if own is None:
        # Without limits the need is a hold.
        outcome = Hold(need.because, need.detail)
    else:
        within = own if share is None else own.at_most(share, Reason.FLEET_FULL)
        outcome = step.step(at, allowed(need, at.scale.desired, within))
    count = outcome.to if isinstance(outcome, Change) else None
    return Decision(outcome, Inputs(partial(numbers, at, need, own, share, count)))


def agreed(assessment: Assessment, decision: Decision) -> Memory:
    """Return the memory after the platform has agreed to the decision."""
    at, forecast = assessment.at, assessment.need.forecast
    if decision.replicas is None:
        return at.memory
    rate = 0.0 if forecast is None else forecast.rate
    late = decision.reason is Reason.STILL_LATE
    return at.memory.scaled(at.scale, decision.replicas, at.now, rate=rate, late=late)


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
    at = _learned(at, at.memory, None)
    return decision, step.with_need(at, decision.replicas).scaled(scale, decision.replicas, at.now)


def claim(assessment: Assessment) -> Claim:
    """Return a function's request to a shared budget."""
    at, need, own = assessment.at, assessment.need, assessment.limits
    current, forecast = at.scale.desired, need.forecast
    if own is None:
        return Claim(current, current, current, 0.0, _less_with_each)
    count = need.count if isinstance(need, Need) else current
    wanted = own.within(count)
    if max(count, own.lowest) < current:
        # It scales down by its own rules, and until then keeps its count.
        outcome = step.down(at, Allowed(wanted, count, need.because, lowest=own.lowest, forecast=forecast))
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
    stuck = at.memory.platform.stuck(at.spec, at.now)
    return Claim(own.lowest, wanted, current, rate, late, at.spec.priority, step.margin(at), stuck)


def _asleep(at: Situation, stands: Standing, own: Limits) -> Assessment:
    """Assess a function without replicas that a decision wakes.

    Its lowest count holds at once, without cooldown and rate limit.
    """
    need, wakes = woken(at, stands), own if own.firm else None
    if isinstance(need, Need):
        wakes = own if own.firm else replace(own, why_lowest=need.because)
    return _paused(Assessment(at, need, wakes), own)


def _unknown(at: Situation, missing: Reason, own: Limits) -> Assessment:
    """Assess a function without usable data: only a floor that needs none changes it."""
    hold = Assessment(at, Hold(missing, needed=False), None)
    if missing is Reason.DISABLED:
        return hold
    below = own.firm and at.scale.desired < own.lowest
    return _paused(replace(hold, limits=own) if below else hold, own)


def _paused(assessment: Assessment, own: Limits) -> Assessment:
    """Return the assessment as a hold of the operator, or a count set by hand, changes it."""
    need = paused(assessment.at, assessment.need, own)
    if need is assessment.need:
        return assessment
    return Assessment(assessment.at, need, None if isinstance(need, Hold) else own)


def _learned(at: Situation, memory: Memory, since: float | None) -> Situation:
    """Return the situation with what was learned, and the time ``since`` which there is no request."""
    return at.after(replace(memory, traffic=replace(memory.traffic, idle_since=since)))


def _missing(at: Situation) -> Reason | None:
    """Return why the function cannot be sized; None: it can."""
    seen, scale = at.seen, at.scale
    if scale.mode == "off":
        return Reason.DISABLED
    if scale.desired == 0:
        return Reason.SCALED_TO_ZERO
    if seen.sample_age is None or seen.sample_age > at.spec.timing.max_age:
        return Reason.NO_DATA
    if seen.slo_latency is None or seen.slo_objective is None:
        return Reason.NOT_MANAGED
    return Reason.NO_DATA if seen.arrival_rate is None or not seen.up_replicas else None


def _short(needed: int, replicas: int) -> float:
    return max(0.0, 1.0 - replicas / needed)


def _less_with_each(replicas: int) -> float:
    return 1.0 / (1.0 + replicas)
