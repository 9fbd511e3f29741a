"""Turns a policy's recommendation into a decision with a reason. [P]

Owns the order of the rules below. Reads no clock (``now`` is an argument, seconds on any monotonic clock) and
takes no action; ``controller`` does both. Where functions share a budget of replicas, ``allocate`` runs
between ``recommended`` and ``decided``; without one ``decide`` is both.
"""

import math
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from slo_autoscaler.law.allocate import Claim
from slo_autoscaler.law.boost import nominal
from slo_autoscaler.law.bounds import Bounds, bounds, current_hold
from slo_autoscaler.law.further import joined
from slo_autoscaler.law.inputs import Inputs, numbers, predicted
from slo_autoscaler.law.memory import Memory
from slo_autoscaler.law.policies import POLICIES
from slo_autoscaler.law.situation import Situation
from slo_autoscaler.law.zero import newest_rate, returns, woken
from slo_autoscaler.model import Decision, Reason, Recommendation, Scale
from slo_autoscaler.settings.spec import Spec
from slo_autoscaler.signals.record import Observation


@dataclass(frozen=True, slots=True)
class Wish:
    """Recommendation for one function with its bounds, before the share of the fleet is known."""

    at: Situation
    """With the memory after this observation."""
    recommendation: Recommendation
    bounds: Bounds | None
    """None: the function holds, for the reason of the recommendation."""


def decide(at: Situation) -> tuple[Decision, Memory]:
    """Return the decision on one function, and its memory once the platform has agreed to it.

    Every step can end in a hold.

    1. Read the platform: a refusal, replicas that started.
    2. Check the data: mode off, scaled to zero, no data, no SLO. A gap recommends nothing. A function at zero
       whose requests the platform reports skips to step 4 when it needs a replica (``zero``).
    3. Recommend: the policy, or 0 with no request for the idle period; then the further metrics.
    4. Bounds: an operator's hold, else schedule and labels; then the platform's limit, then the share of the
       fleet's budget.
    5. Up: cooldown; rate limit.
    6. Down: each replica that is not observed is needed; cooldown; rate limit; only to the count that was
       enough at every reconcile of one start-up, the time in which a replica could not be brought back.
    """
    wish = recommended(at)
    decision = decided(wish, None)
    return decision, agreed(wish, decision)


def recommended(at: Situation) -> Wish:
    """Steps 1 to 3 of ``decide``."""
    at = nominal(at)
    memory, scale = at.memory.noticed(at.spec, at.scale, at.now)
    if memory is not at.memory or scale is not at.scale:
        at = replace(at, memory=memory, scale=scale)
    limits = bounds(at)
    if scale.desired == 0 and scale.waiting is not None:
        return _paused(_at_zero(at.after(memory.idle(None)), limits), limits)
    ineligible = _data_check(at.spec, at.seen, scale)
    if ineligible is not None:
        wish = Wish(at.after(memory.idle(None)), Recommendation(scale.desired, ineligible), None)
        if ineligible is Reason.DISABLED:
            return wish
        below = limits.firm and scale.desired < limits.lowest
        return _paused(replace(wish, bounds=limits if below else None), limits)
    memory = memory.told(at.seen.process_start_up).idle(_idle_since(at.seen, scale, memory, at.now))
    recommendation, memory = POLICIES[at.spec.policy].recommend(at.after(memory))
    own = limits
    if not limits.firm and _idle(at.spec, scale, memory, at.now) and not returns(at.after(memory)):
        recommendation, own = Recommendation(0, Reason.IDLE), replace(limits, lowest=0)
    at = at.after(memory)
    recommendation, memory = joined(at, recommendation)
    return _paused(Wish(at.after(memory), recommendation, own), limits)


def _at_zero(at: Situation, limits: Bounds) -> Wish:
    """Return the recommendation for a function without replicas that a decision wakes.

    Its lowest count holds at once, without cooldown and rate limit.
    """
    woken_by = woken(at)
    if woken_by is None:
        return Wish(at, Recommendation(0, Reason.SCALED_TO_ZERO), limits if limits.firm else None)
    return Wish(at, woken_by, limits if limits.firm else replace(limits, why_lowest=woken_by.reason))


def _paused(wish: Wish, limits: Bounds) -> Wish:
    """Return the same as an operator's pause, or a count set by hand, changes it.

    Its memory is the policy's: what was learned meanwhile counts afterwards.
    """
    at, current = wish.at, wish.at.scale.desired
    if (hold := current_hold(at)) is not None and hold.max_replicas is None:
        count, reason, detail = limits.lowest, Reason.HELD, hold.text
    elif at.by_hand:
        count, reason, detail = current, Reason.SET_BY_HAND, at.by_hand
    else:
        return wish
    recommendation = replace(wish.recommendation, replicas=count, reason=reason, detail=detail)
    return Wish(at, recommendation, None if count == current else limits)


def decided(wish: Wish, share: int | None) -> Decision:
    """Steps 4 to 6 of ``decide``; ``share`` is the fleet's replicas for the function, None: no fleet."""
    count, reason, limits = None, wish.recommendation.reason, wish.bounds
    if limits is not None:
        limits = limits if share is None else limits.at_most(share, Reason.FLEET_FULL)
        count, reason = _concluded(wish, limits)
    recommendation = wish.recommendation
    detail = recommendation.detail if reason is recommendation.reason else ""
    if reason is Reason.HELD and (hold := current_hold(wish.at)) is not None:
        detail = hold.text
    return Decision(count, reason, Inputs(partial(_inputs, wish, share, count)), detail)


def agreed(wish: Wish, decision: Decision) -> Memory:
    """Return the memory after the platform has agreed to the decision."""
    if decision.replicas is None:
        return wish.at.memory
    rate, late = wish.recommendation.rate, decision.reason is Reason.STILL_LATE
    return wish.at.memory.scaled(wish.at.scale, decision.replicas, wish.at.now, rate=rate, late=late)


def _inputs(wish: Wish, share: int | None, count: int | None) -> dict[str, float | None]:
    """Return the numbers of the decision on ``count``."""
    recommendation, refusal = wish.recommendation, wish.at.memory.refusal
    inputs = numbers(wish.at, recommendation)
    if wish.bounds is None:
        return inputs
    inputs |= {
        "min": wish.bounds.lowest,
        "max": wish.bounds.highest,
        "recommended": recommendation.replicas,
        "share": share,
        "requested": None if refusal is None else refusal.asked,
        "granted": None if refusal is None else refusal.granted,
    }
    return inputs if count is None else inputs | predicted(recommendation, count)


def _concluded(wish: Wish, limits: Bounds) -> tuple[int | None, Reason]:
    """Return the new count (None: hold) and the reason."""
    current, wanted = wish.at.scale.desired, limits.within(wish.recommendation.replicas)
    violated = limits.violated(current)
    if violated is not None:
        return max(wanted, limits.lowest) if current < limits.lowest else limits.highest, violated
    if wanted > current:
        return _up(wish, wanted)
    if wanted == current:
        stuck = wish.at.scale.unschedulable and wish.at.memory.stuck(wish.at.spec, wish.at.now)
        return None, Reason.UNSCHEDULABLE if stuck else _why_same(wish, limits)
    return _down(wish, limits)


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
    wish = recommended(at)
    current = wish.at.scale.desired
    decision = decided(wish, None if free == math.inf else current + max(0, int(free)))
    if decision.replicas is None or decision.replicas <= current:
        return None
    memory = at.memory.idle(None).with_need(at.spec, decision.replicas)
    return decision, memory.scaled(wish.at.scale, decision.replicas, at.now)


def claim(wish: Wish) -> Claim:
    """Return a function's request to a shared budget."""
    recommendation, current, limits = wish.recommendation, wish.at.scale.desired, wish.bounds
    if limits is None:
        return Claim(current, current, current, 0.0, _less_with_each)
    lowest, wanted = limits.lowest, limits.within(recommendation.replicas)
    if max(recommendation.replicas, lowest) < current:
        # It scales down by its own rules, and until then keeps its count.
        down, _ = _down(wish, limits)
        wanted = current if down is None else down
    memory, spec, now = wish.at.memory, wish.at.spec, wish.at.now
    rate, late = recommendation.rate, recommendation.late
    if recommendation.reason is Reason.FURTHER_METRIC:
        # The arrivals say nothing of this work: each replica short of the need leaves its capacity undone.
        rate, late = recommendation.replicas * (wish.at.seen.capacity or 1.0), partial(_short, recommendation)
    elif late is None:
        # Without a prediction the arrivals count, and each further replica is worth less.
        rate, late = wish.at.seen.arrival_rate or 0.0, _less_with_each
    margin, stuck = memory.margin(spec, now), memory.stuck(spec, now)
    return Claim(lowest, wanted, current, rate, late, spec.priority, margin, stuck)


def _short(recommendation: Recommendation, replicas: int) -> float:
    return max(0.0, 1.0 - replicas / recommendation.replicas)


def _less_with_each(replicas: int) -> float:
    return 1.0 / (1.0 + replicas)


def _data_check(spec: Spec, seen: Observation, scale: Scale) -> Reason | None:
    if scale.mode == "off":
        return Reason.DISABLED
    if scale.desired == 0:
        return Reason.SCALED_TO_ZERO
    if seen.sample_age is None or seen.sample_age > spec.timing.max_age:
        return Reason.NO_DATA
    if seen.slo_latency is None or seen.slo_objective is None:
        return Reason.NOT_MANAGED
    if seen.arrival_rate is None or not seen.up_replicas:
        return Reason.NO_DATA
    return None


def _complete(seen: Observation, scale: Scale) -> bool:
    """Return whether every serving replica is observed and is in the rates."""
    return not _unseen(seen, scale)


def _unseen(seen: Observation, scale: Scale) -> int:
    """Return the serving replicas that are not observed, or not in the rates."""
    rated = scale.available if seen.rated_replicas is None else seen.rated_replicas
    return max(0, math.ceil(scale.available - min(seen.up_replicas or 0.0, rated)))


def _idle_since(seen: Observation, scale: Scale, memory: Memory, now: float) -> float | None:
    """Return the time since which every replica is observed and none has a request; None: not so."""
    if not _complete(seen, scale) or newest_rate(seen) != 0.0 or seen.in_flight != 0.0:
        return None
    return now if memory.idle_since is None else memory.idle_since


def _idle(spec: Spec, scale: Scale, memory: Memory, now: float) -> bool:
    """Return whether 0 is due. A minimum above 0 forbids it, unless the function's own labels demand it."""
    if spec.scale_to_zero_after is None or memory.idle_since is None:
        return False
    return (scale.zero_after is not None or not scale.min) and (
        now - memory.idle_since >= spec.scale_to_zero_after
    )


def _up(wish: Wish, wanted: int) -> tuple[int | None, Reason]:
    memory, current, up = wish.at.memory, wish.at.scale.desired, wish.at.spec.scale_up
    if memory.scaled_up_at is not None and wish.at.now - memory.scaled_up_at < up.cooldown:
        return None, Reason.COOLING_DOWN
    most = max(math.floor(current * up.max_factor), current + up.max_step)
    return min(wanted, most), wish.recommendation.reason


def _down(wish: Wish, limits: Bounds) -> tuple[int | None, Reason]:
    recommendation, at, down = wish.recommendation, wish.at, wish.at.spec.scale_down
    unseen = _unseen(at.seen, at.scale)
    if unseen and recommendation.replicas + unseen >= at.scale.desired:
        return None, Reason.PARTIAL_DATA
    if at.memory.scaled_at is not None and at.now - at.memory.scaled_at < down.cooldown:
        return None, Reason.COOLING_DOWN
    # What is seen needs the recommended ones, and nothing tells that one unseen is not needed.
    lower, reason = max(recommendation.replicas + unseen, limits.lowest), recommendation.reason
    if reason is not Reason.IDLE:
        needed, kept = (
            at.memory.needs.highest(at.memory.stabilization(at.spec)) + unseen,
            at.memory.kept(recommendation.rate, at.now),
        )
        if max(needed, kept) >= at.scale.desired:
            return None, Reason.SCALE_DOWN_STABILIZED if needed >= kept else Reason.FEWER_WERE_TOO_FEW
        lower = max(lower, needed, kept)
    least = min(math.ceil(at.scale.desired / down.max_factor), at.scale.desired - down.max_step)
    count = max(lower, least)
    if reason is Reason.LOAD_BELOW_CAPACITY and not at.seen.arrival_rate:
        reason = Reason.NO_TRAFFIC
    elif (
        recommendation.late is not None
        and recommendation.allowed is not None
        and recommendation.late(count) > recommendation.allowed
    ):
        reason = Reason.NOT_WORTH_A_REPLICA
    return count, reason


def _why_same(wish: Wish, limits: Bounds) -> Reason:
    recommendation, current = wish.recommendation, wish.at.scale.desired
    expected = recommendation.reason is Reason.PEAK_EXPECTED and limits.why_highest is not Reason.FLEET_FULL
    if recommendation.replicas > current and not expected:
        return limits.why_highest
    if recommendation.reason in _HOLDS:
        return recommendation.reason
    return limits.why_lowest if recommendation.replicas < current else Reason.WITHIN_RANGE


_HOLDS: Final = {
    Reason.FURTHER_METRIC,
    Reason.FURTHER_METRIC_UNKNOWN,
    Reason.PEAK_EXPECTED,
    Reason.SCALE_DOWN_UNSAFE,
    Reason.SETTLING,
    Reason.SLO_MISSED,
    Reason.TOO_FEW_SAMPLES,
    Reason.WILL_NOT_HELP,
    Reason.WITHIN_TOLERANCE,
}
"""Reasons for which a policy recommends the current count."""
