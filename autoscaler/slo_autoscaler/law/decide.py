"""Turns a policy's recommendation into a decision with a reason. [P]

Owns the order of the rules below. Reads no clock (``now`` is an argument, seconds on any monotonic clock) and
takes no action; ``controller`` does both. Where functions share a budget of replicas, ``allocate`` runs
between ``recommended`` and ``decided``; without one ``decide`` is both.
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import Final

from slo_autoscaler.law.allocate import Claim
from slo_autoscaler.law.inputs import Inputs, numbers, predicted
from slo_autoscaler.law.memory import Memory
from slo_autoscaler.law.policies import POLICIES
from slo_autoscaler.model import Decision, Reason, Recommendation, Scale
from slo_autoscaler.signals import Observation
from slo_autoscaler.spec import Spec


@dataclass(frozen=True, slots=True)
class Wish:
    """Recommendation for one function with its bounds, before the share of the fleet is known."""

    spec: Spec
    seen: Observation | None
    scale: Scale
    """Scale with own writes over stale reads."""
    recommendation: Recommendation
    lowest: int
    highest: int
    capped: bool = False
    """Whether ``highest`` is the platform's limit, not the label's."""
    idle: bool = False
    """Whether the idle period is over and 0 is allowed."""
    holds: bool = False
    """Whether the function holds, for the reason of the recommendation."""


def decide(
    spec: Spec, seen: Observation | None, scale: Scale, memory: Memory, now: float
) -> tuple[Decision, Memory]:
    """Return the decision on one function, and its new memory. Every step can end in a hold.

    1. Read the platform: a refusal, replicas that started.
    2. Check the data: mode off, scaled to zero, no data, no SLO. A gap recommends nothing.
    3. Recommend: the policy. With no request for the idle period: 0.
    4. Bounds: labels, then the platform's limit, then the share of the fleet's budget.
    5. Up: cooldown; rate limit.
    6. Down: every replica is observed; cooldown; rate limit; only to the count that was enough at every
       reconcile of one start-up, the time in which a replica could not be brought back.
    """
    wish, memory = recommended(spec, seen, scale, memory, now)
    return decided(wish, None, memory, now)


def recommended(
    spec: Spec, seen: Observation | None, scale: Scale, memory: Memory, now: float
) -> tuple[Wish, Memory]:
    """Steps 1 to 3 of ``decide``."""
    memory, scale = memory.noticed(spec, scale, now)
    ineligible = _data_check(spec, seen, scale)
    if seen is None or ineligible is not None:
        held = Recommendation(scale.desired, ineligible or Reason.NO_DATA)
        count = scale.desired
        return Wish(spec, seen, scale, held, count, count, holds=True), memory.idle(None)
    memory = memory.told(seen.start_up_time).idle(_idle_since(seen, scale, memory, now))
    found, memory = POLICIES[spec.policy].recommend(spec, seen, scale, memory, now)
    lowest = max(1, spec.min_replicas if scale.min is None else scale.min)
    highest = most = max(lowest, spec.max_replicas if scale.max is None else scale.max)
    if scale.cap is not None:
        most = min(most, scale.cap)
    if memory.refusal is not None:
        most = min(most, max(1, memory.refusal.granted))
    idle = _idle(spec, scale, memory, now)
    if idle:
        found = Recommendation(0, Reason.IDLE)
    wish = Wish(spec, seen, scale, found, min(lowest, most), most, capped=most < highest, idle=idle)
    return wish, memory


def decided(wish: Wish, share: int | None, memory: Memory, now: float) -> tuple[Decision, Memory]:
    """Steps 4 to 6 of ``decide``; ``share`` is the fleet's replicas for the function, None: no fleet."""
    count, reason = None, wish.recommendation.reason
    if not wish.holds:
        count, reason = _concluded(wish, share, memory, now)
    decision = Decision(count, reason, Inputs(partial(_told, wish, share, memory, now, count)))
    return decision, memory if count is None else memory.scaled(wish.scale, count, now)


def _told(
    wish: Wish, share: int | None, memory: Memory, now: float, count: int | None
) -> dict[str, float | None]:
    """Return the numbers of the decision on ``count``."""
    found = wish.recommendation
    told = numbers(wish.spec, wish.seen, wish.scale, memory, found, now)
    if wish.holds:
        return told
    told |= {
        "min": wish.lowest,
        "max": wish.highest,
        "recommended": found.replicas,
        "share": share,
        "requested": None if memory.refusal is None else memory.refusal.asked,
        "granted": None if memory.refusal is None else memory.refusal.granted,
    }
    return told if count is None else told | predicted(found, count)


def _concluded(wish: Wish, share: int | None, memory: Memory, now: float) -> tuple[int | None, Reason]:
    """Return the new count (None: hold) and the reason."""
    current = wish.scale.desired
    lowest, highest = 0 if wish.idle else wish.lowest, wish.highest
    if share is not None:
        highest = max(min(highest, share), min(lowest, share))
    wanted = min(max(wish.recommendation.replicas, lowest), highest)
    if current < lowest:
        return max(lowest, wanted), Reason.BELOW_MINIMUM
    if current > wish.highest:
        return wish.highest, Reason.ABOVE_MAXIMUM
    if wanted > current:
        return _up(wish, wanted, memory, now)
    if highest < current:
        # Another function's late requests weigh more; stabilization does not apply.
        return highest, Reason.FLEET_FULL
    if wanted == current:
        stuck = memory.stuck(wish.spec, now)
        return None, Reason.UNSCHEDULABLE if stuck and wish.scale.unschedulable else _why_same(wish, share)
    return _down(wish, memory, lowest, now)


def raised(
    spec: Spec, seen: Observation, scale: Scale, free: float, memory: Memory, now: float
) -> tuple[Decision | None, Memory]:
    """Return a scale-up for arrivals that were read directly between two reconciles, or None.

    ``seen`` is the last observation with the current ``direct_rate``; ``free`` is the unused replicas of the
    fleet's budget. Added replicas stay for one start-up like any need. Nothing else is learned here, because
    predictions are calibrated by rates over longer times.
    """
    served = (seen.capacity or 0.0) * scale.desired
    if spec.policy != "slo" or not served or (seen.direct_rate or 0.0) <= served:
        return None, memory
    wish, after = recommended(spec, seen, scale, memory, now)
    share = None if free == math.inf else wish.scale.desired + max(0, int(free))
    decision, _ = decided(wish, share, after, now)
    if decision.replicas is None or decision.replicas <= wish.scale.desired:
        return None, memory
    memory = memory.with_need(decision.replicas, memory.held(spec))
    return decision, memory.scaled(wish.scale, decision.replicas, now)


def claim(wish: Wish, memory: Memory, now: float) -> Claim:
    """Return a function's request to a shared budget. Replicas that do not become ready earn no more."""
    found, current = wish.recommendation, wish.scale.desired
    lowest = 0 if wish.idle else wish.lowest
    wanted = min(max(found.replicas, lowest), wish.highest)
    if max(found.replicas, lowest) < current:
        # It scales down by its own rules, and until then keeps its count.
        down, _ = _down(wish, memory, lowest, now)
        wanted = current if down is None else down
    stuck = memory.stuck(wish.spec, now)
    if stuck:
        wanted = max(lowest, min(wanted, current - stuck + 1))
    rate, late = found.rate, found.late
    if late is None:
        # Without a prediction the arrivals count, and each further replica is worth less.
        rate = (wish.seen.arrival_rate or 0.0) if wish.seen else 0.0
        late = _less_with_each
    return Claim(min(lowest, wanted), wanted, current, rate, late, wish.spec.priority)


def _less_with_each(replicas: int) -> float:
    return 1.0 / (1.0 + replicas)


def _data_check(spec: Spec, seen: Observation | None, scale: Scale) -> Reason | None:
    if scale.mode == "off":
        return Reason.DISABLED
    if scale.desired == 0:
        return Reason.SCALED_TO_ZERO
    if seen is None or seen.sample_age is None or seen.sample_age > spec.timing.max_age:
        return Reason.NO_DATA
    if seen.slo_latency is None or seen.slo_objective is None:
        return Reason.NOT_MANAGED
    if seen.arrival_rate is None or not seen.up_replicas:
        return Reason.NO_DATA
    return None


def _complete(seen: Observation, scale: Scale) -> bool:
    """Return whether every serving replica is observed and is in the rates."""
    rated = scale.available if seen.rated_replicas is None else seen.rated_replicas
    return min(seen.up_replicas or 0.0, rated) >= scale.available


def _idle_since(seen: Observation, scale: Scale, memory: Memory, now: float) -> float | None:
    """Return the time since which every replica is observed and none has a request; None: not so."""
    if not _complete(seen, scale) or seen.arrival_rate != 0.0 or seen.in_flight != 0.0:
        return None
    return now if memory.idle_since is None else memory.idle_since


def _idle(spec: Spec, scale: Scale, memory: Memory, now: float) -> bool:
    """Return whether 0 is due. A minimum above 0 forbids it, unless the function's own labels demand it."""
    if spec.scale_to_zero_after is None or memory.idle_since is None:
        return False
    return (scale.zero_after is not None or not scale.min) and (
        now - memory.idle_since >= spec.scale_to_zero_after
    )


def _up(wish: Wish, wanted: int, memory: Memory, now: float) -> tuple[int | None, Reason]:
    current, up = wish.scale.desired, wish.spec.scale_up
    if memory.scaled_up_at is not None and now - memory.scaled_up_at < up.cooldown:
        return None, Reason.COOLING_DOWN
    most = max(math.floor(current * up.max_factor), current + up.max_step)
    return min(wanted, most), wish.recommendation.reason


def _down(wish: Wish, memory: Memory, lowest: int, now: float) -> tuple[int | None, Reason]:
    found, scale, down = wish.recommendation, wish.scale, wish.spec.scale_down
    if wish.seen is None or not _complete(wish.seen, scale):
        return None, Reason.PARTIAL_DATA
    if memory.scaled_at is not None and now - memory.scaled_at < down.cooldown:
        return None, Reason.COOLING_DOWN
    lower = max(found.replicas, lowest)
    if not wish.idle:
        lower = max(lower, memory.needed(memory.held(wish.spec)), found.fewest or 0)
    if lower >= scale.desired:
        return None, found.reason if found.reason is Reason.PEAK_EXPECTED else Reason.SCALE_DOWN_STABILIZED
    quiet = found.reason is Reason.LOAD_BELOW_CAPACITY and not wish.seen.arrival_rate
    least = min(math.ceil(scale.desired / down.max_factor), scale.desired - down.max_step)
    return max(lower, least), Reason.NO_TRAFFIC if quiet else found.reason


def _why_same(wish: Wish, share: int | None) -> Reason:
    found, scale = wish.recommendation, wish.scale
    if found.replicas > scale.desired:
        if share is not None and share < wish.highest:
            return Reason.FLEET_FULL
        if found.reason is not Reason.PEAK_EXPECTED:
            return Reason.PLATFORM_CAP if wish.capped else Reason.AT_MAXIMUM
    return found.reason if found.reason in _HOLDS else Reason.WITHIN_RANGE


_HOLDS: Final = {
    Reason.PEAK_EXPECTED,
    Reason.SCALE_DOWN_UNSAFE,
    Reason.SETTLING,
    Reason.SLO_MISSED,
    Reason.TOO_FEW_SAMPLES,
    Reason.WILL_NOT_HELP,
    Reason.WITHIN_TOLERANCE,
}
"""Reasons for which a policy recommends the current count."""
