"""From what a policy wants to what is done, with a reason. [P]

Owns the order of the rules below and the state that they need. It may not read a clock (``now`` is an
argument, seconds on any monotonic scale) nor act: ``controller`` does both.
"""

import math
from dataclasses import dataclass, replace
from typing import Final

from slo_autoscaler.forecast import forecast
from slo_autoscaler.model import (
    Decision,
    Numbers,
    Observation,
    Outlook,
    Reason,
    Recommendation,
    Refusal,
    Scale,
    TargetSpec,
    TargetState,
)
from slo_autoscaler.policies import POLICIES, backlog, latency_at_objective, missed

CORRECTION_STEP: Final = 0.9
"""One settled period of misses with room takes a tenth off the learnt capacity."""

CORRECTION_FLOOR: Final = 0.5
"""Below half, capacity is not what is wrong: more replicas would be bought for nothing."""

CORRECTION_RECOVERY: Final = 300.0
"""Seconds in which a correction loses 63 % of itself while the objective is met."""


def decide(
    spec: TargetSpec, observation: Observation | None, scale: Scale, state: TargetState, now: float
) -> tuple[Decision, TargetState]:
    """Return what to do with one function now, and what to remember. Every step can end in a hold.

    1. Notice what happened since: the platform's refusal, somebody else's change, replicas coming up.
    2. Data check: opted out, scaled to zero, no data, no SLO. The current count is remembered as a
       recommendation, so that a gap in the data is not followed by a dip.
    3. Bounds that the current count violates are restored at once.
    4. Recommend: the policy, given the forecast; with no traffic at all, the minimum.
    5. Tolerance: a wish that is within it is the current count.
    6. Bounds: labels, then what the platform is known to give.
    7. Up: enough samples; cooldown; rate limit.
    8. Down: rate limit; cooldown; stabilisation (no lower than the highest recommendation of the window);
       safety (the SLO is met now, every replica is seen, and the lower count is predicted to meet it).
    """
    state = _notice(spec, scale, state, now)
    ineligible = _data_check(spec, observation, scale)
    if ineligible is not None or observation is None:
        held = replace(state, recommendations=state.recommendations.push(now, scale.desired))
        return Decision(None, ineligible or Reason.NO_DATA, _numbers(observation, scale)), held

    outlook, state = _look_ahead(spec, observation, scale, state, now)
    bounds = _bounds(spec, scale, state)
    numbers = {
        **_numbers(observation, scale),
        "forecast": outlook.forecast,
        "horizon": outlook.horizon,
        "correction": outlook.correction,
        "min": bounds.lowest,
        "max": bounds.highest,
    }
    if not bounds.lowest <= scale.desired <= bounds.highest:
        below = scale.desired < bounds.lowest
        restored = bounds.lowest if below else bounds.highest
        reason = Reason.BELOW_MINIMUM if below else Reason.ABOVE_MAXIMUM
        state = replace(state, recommendations=state.recommendations.push(now, restored))
        return _scaled(restored, reason, numbers, scale, state, now)

    return _judge(spec, observation, scale, outlook, bounds, numbers, state, now)


def unapplied(before: TargetState, after: TargetState) -> TargetState:
    """Return the state after a decision that was not carried out (a dry run, or the platform failed).

    ``before`` went into ``decide``, ``after`` came out. What was learnt stays; nothing was changed or asked.
    """
    return replace(
        after,
        asked=None,
        changed_at=before.changed_at,
        scaled_at=before.scaled_at,
        scaled_up_at=before.scaled_up_at,
        pending_since=before.pending_since,
    )


@dataclass(frozen=True, slots=True)
class _Bounds:
    lowest: int
    highest: int
    capped: bool
    """``highest`` is the platform's word, not the label's."""


def _judge(
    spec: TargetSpec,
    observation: Observation,
    scale: Scale,
    outlook: Outlook,
    bounds: _Bounds,
    numbers: dict[str, float | None],
    state: TargetState,
    now: float,
) -> tuple[Decision, TargetState]:
    """Steps 4 to 8 of ``decide``."""
    wish = _recommend(spec, observation, scale, outlook, bounds)
    numbers["recommended"] = wish.replicas
    tolerated = _within_tolerance(spec, scale, wish)
    wanted = scale.desired if tolerated else wish.replicas
    bounded = min(max(wanted, bounds.lowest), bounds.highest)
    state = replace(state, recommendations=state.recommendations.push(now, bounded))

    if bounded > scale.desired:
        held_up = _why_not_up(spec, observation, state, now)
        if held_up is not None:
            return Decision(None, held_up, numbers), state
        most = max(math.floor(scale.desired * spec.up.max_factor), scale.desired + spec.up.max_step)
        return _scaled(min(bounded, most), wish.reason, numbers, scale, state, now)

    if bounded < scale.desired:
        least = min(math.ceil(scale.desired / spec.down.max_factor), scale.desired - spec.down.max_step)
        lower = max(bounded, least)
        held_down, lower = _why_not_down(spec, observation, scale, outlook, state, lower, now)
        if held_down is not None:
            return Decision(None, held_down, numbers), state
        return _scaled(lower, wish.reason, numbers, scale, state, now)

    reason = _why_same(wish, tolerated, scale, bounds)
    if reason is Reason.PLATFORM_CAP and state.refusal is not None:
        numbers |= {"asked": state.refusal.asked, "granted": state.refusal.granted}
    return Decision(None, reason, numbers), state


def _notice(spec: TargetSpec, scale: Scale, state: TargetState, now: float) -> TargetState:
    refusal = state.refusal if state.refusal is not None and now < state.refusal.until else None
    if state.asked is not None and scale.desired < state.asked:
        refusal = Refusal(state.asked, scale.desired, now + spec.cap_retry)
    recommendations = state.recommendations
    if scale.desired != (state.desired if state.asked is None else state.asked):
        # Somebody else set this count; it stands for one stabilisation window before it is lowered.
        recommendations = recommendations.push(now, scale.desired)

    pending_since, start_up_time = state.pending_since, state.start_up_time
    if scale.pending:
        pending_since = now if pending_since is None else pending_since
    elif pending_since is not None:
        took = max(0.0, now - pending_since)
        start_up_time = took if start_up_time is None else (start_up_time + took) / 2
        pending_since = None
    return replace(
        state,
        desired=scale.desired,
        asked=None,
        refusal=refusal,
        recommendations=recommendations,
        changed_at=now if scale.pending else state.changed_at,
        pending_since=pending_since,
        start_up_time=start_up_time,
    )


def _data_check(spec: TargetSpec, seen: Observation | None, scale: Scale) -> Reason | None:
    if not scale.enabled:
        return Reason.DISABLED
    if scale.desired == 0:
        return Reason.SCALED_TO_ZERO
    if seen is None or seen.age is None or seen.age > spec.max_age:
        return Reason.NO_DATA
    if seen.slo_latency is None or seen.slo_objective is None:
        return Reason.NOT_MANAGED
    if seen.arrival_rate is None or not seen.up_replicas:
        return Reason.NO_DATA
    return None


def _look_ahead(
    spec: TargetSpec, seen: Observation, scale: Scale, state: TargetState, now: float
) -> tuple[Outlook, TargetState]:
    rate = seen.arrival_rate or 0.0
    # A platform may call a replica available before its model is loaded: what is configured is the least.
    start_up = max(spec.start_up_time, state.start_up_time or 0.0)
    horizon = start_up + spec.rate_lag
    rates = state.rates.push(now, rate)
    expected = forecast(rates.within(now, spec.trend_history), rates.within(now, start_up), now, horizon)
    is_missed = missed(spec, seen)
    settled = now - state.changed_at >= spec.settle_time

    correction, corrected_at = state.correction, state.corrected_at
    if is_missed:
        room = seen.capacity is not None and rate <= scale.available * seen.capacity * correction
        if room and settled and now - corrected_at >= spec.settle_time:
            correction, corrected_at = max(CORRECTION_FLOOR, correction * CORRECTION_STEP), now
    else:
        quiet = max(0.0, now - state.seen_at)
        correction = 1.0 - (1.0 - correction) * math.exp(-quiet / CORRECTION_RECOVERY)
    outlook = Outlook(
        forecast=rate if expected is None else expected,
        horizon=horizon,
        correction=correction,
        missed=is_missed,
        settled=settled,
    )
    return outlook, replace(
        state, rates=rates, correction=correction, corrected_at=corrected_at, seen_at=max(now, state.seen_at)
    )


def _bounds(spec: TargetSpec, scale: Scale, state: TargetState) -> _Bounds:
    """Return the bounds in force. At least 1: nothing here wakes a function from zero."""
    lowest = max(1, spec.min_replicas if scale.min is None else scale.min)
    highest = max(lowest, spec.max_replicas if scale.max is None else scale.max)
    cap = highest if scale.cap is None else scale.cap
    if state.refusal is not None:
        cap = min(cap, max(1, state.refusal.granted))
    if cap < highest:
        return _Bounds(min(lowest, cap), cap, capped=True)
    return _Bounds(lowest, highest, capped=False)


def _recommend(
    spec: TargetSpec, seen: Observation, scale: Scale, outlook: Outlook, bounds: _Bounds
) -> Recommendation:
    if outlook.forecast <= 0.0 and not seen.in_flight:
        return Recommendation(bounds.lowest, Reason.NO_TRAFFIC)
    return POLICIES[spec.policy](spec, seen, scale, outlook)


def _within_tolerance(spec: TargetSpec, scale: Scale, wish: Recommendation) -> bool:
    if wish.raw is None or wish.replicas == scale.desired:
        return False
    return abs(wish.raw / scale.desired - 1.0) <= spec.tolerance + 1e-9


def _why_not_up(spec: TargetSpec, seen: Observation, state: TargetState, now: float) -> Reason | None:
    # What is in flight counts as evidence too: a function that hangs completes nothing.
    if (seen.samples or 0.0) + (seen.in_flight or 0.0) < spec.min_samples:
        return Reason.TOO_FEW_SAMPLES
    if state.scaled_up_at is not None and now - state.scaled_up_at < spec.up.cooldown:
        return Reason.COOLING_DOWN
    return None


def _why_not_down(
    spec: TargetSpec,
    seen: Observation,
    scale: Scale,
    outlook: Outlook,
    state: TargetState,
    lower: int,
    now: float,
) -> tuple[Reason | None, int]:
    """Return the reason to keep the count, if there is one, and the lowest count that may be set."""
    if state.scaled_at is not None and now - state.scaled_at < spec.down.cooldown:
        return Reason.COOLING_DOWN, lower
    lower = max(lower, int(state.recommendations.value(now) or 0))
    if lower >= scale.desired:
        return Reason.SCALE_DOWN_STABILISED, lower
    if (seen.up_replicas or 0.0) < scale.available:
        return Reason.PARTIAL_DATA, lower
    if outlook.missed:
        return Reason.SCALE_DOWN_UNSAFE, lower
    lower = max(lower, _fewest_safe(seen, scale, outlook))
    return (Reason.SCALE_DOWN_UNSAFE, lower) if lower >= scale.desired else (None, lower)


def _fewest_safe(seen: Observation, scale: Scale, outlook: Outlook) -> int:
    """Return the fewest replicas that are predicted to meet the SLO.

    With a learnt capacity, by it; else latency is taken to grow as the replicas shrink (the HPA's law, which
    holds below the knee and is pessimistic there). Without either, the current count.
    """
    if outlook.forecast <= 0.0 and not seen.in_flight:
        return 0
    if seen.capacity:
        load = outlook.forecast + backlog(seen, scale) / outlook.horizon
        return math.ceil(load / (seen.capacity * outlook.correction) - 1e-9)
    latency = latency_at_objective(seen)
    if latency is None or not seen.slo_latency:
        return scale.desired
    return math.ceil(scale.available * latency / seen.slo_latency - 1e-9)


def _why_same(wish: Recommendation, tolerated: bool, scale: Scale, bounds: _Bounds) -> Reason:
    if tolerated:
        return Reason.WITHIN_TOLERANCE
    if wish.replicas > scale.desired:
        return Reason.PLATFORM_CAP if bounds.capped else Reason.AT_MAXIMUM
    if wish.replicas == scale.desired and wish.reason in _HOLDS:
        return wish.reason
    return Reason.WITHIN_RANGE


_HOLDS: Final = {Reason.WILL_NOT_HELP, Reason.SLO_MISSED, Reason.SETTLING, Reason.TOO_FEW_SAMPLES}
"""Reasons for which a policy itself wants the current count."""


def _scaled(
    replicas: int, reason: Reason, numbers: Numbers, scale: Scale, state: TargetState, now: float
) -> tuple[Decision, TargetState]:
    up = replicas > scale.desired
    changed = replace(
        state,
        asked=replicas,
        scaled_at=now,
        scaled_up_at=now if up else state.scaled_up_at,
        changed_at=now,
        pending_since=now if up else state.pending_since,
    )
    return Decision(replicas, reason, numbers), changed


def _numbers(seen: Observation | None, scale: Scale) -> dict[str, float | None]:
    numbers: dict[str, float | None] = {"desired": scale.desired, "available": scale.available}
    if seen is None:
        return numbers
    return numbers | {
        "rate": seen.arrival_rate,
        "capacity": seen.capacity,
        "in_flight": seen.in_flight,
        "queue_length": seen.queue_length,
        "p50": seen.p50,
        "p95": seen.p95,
        "p99": seen.p99,
        "attainment": seen.attainment,
        "samples": seen.samples,
        "slo_latency": seen.slo_latency,
        "slo_objective": seen.slo_objective,
        "up_replicas": seen.up_replicas,
        "age": seen.age,
    }
