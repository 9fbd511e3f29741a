"""From what a policy wants to what is done, with a reason. [P]

Owns the order of the rules below and the state that they need. It may not read a clock (``now`` is an
argument, seconds on any monotonic scale) nor act: ``controller`` does both.
"""

import math
from dataclasses import dataclass, replace
from typing import Final

from slo_autoscaler.law.forecast import TREND_HISTORY, forecast
from slo_autoscaler.law.inputs import expected, observed
from slo_autoscaler.law.memory import BUDGET_STRETCH, CORRECTION_FLOOR, Outlook, Refusal, TargetState
from slo_autoscaler.law.policies import (
    POLICIES,
    doubtful,
    futile,
    latency_at_objective,
    load,
    missed,
    panic_limit,
    panics,
    quick,
)
from slo_autoscaler.law.restart import smoothed
from slo_autoscaler.model import Decision, Numbers, Reason, Recommendation, Scale
from slo_autoscaler.signals import Observation
from slo_autoscaler.spec import Spec

CORRECTION_STEP: Final = 0.9
"""One settled period of misses with room takes a tenth off the learned capacity."""

CORRECTION_RECOVERY: Final = 300.0
"""Seconds in which a correction loses 63 % of itself while the objective is met."""

BASELINE_MEMORY: Final = 600.0
"""Seconds in which 63 % of a lasting change of the service time become usual, while the objective is met."""

KNEE_MEMORY: Final = 6 * 3600.0
"""Seconds in which what a replica could once not do is believed e times less: a load that was too much for
one replica fewer is tried again about every hour."""

SURGE_SIGMAS: Final = 4.0
"""A rate is sudden when its newest interval is so many standard deviations above the whole window."""

RHYTHM_HORIZONS: Final = 2.0
"""The stabilization window is no longer than so many horizons when the next peak is prepared for."""

KEPT_HORIZONS: Final = 3.0
"""What a peak needs that is due within so many horizons is not given away: it would hardly be gone before."""

BUDGET_AMPLE: Final = 0.5
"""With this share of the error budget left scaling down needs no more caution than usual."""


def decide(
    spec: Spec, observation: Observation | None, scale: Scale, state: TargetState, now: float
) -> tuple[Decision, TargetState]:
    """Return what to do with one function now, and what to remember. Every step can end in a hold.

    1. Notice what happened since: a clock that jumped, the platform's refusal, somebody else's change,
       replicas coming up.
    2. Data check: opted out, scaled to zero, no data, no SLO. The current count is remembered as a
       recommendation, so that a gap in the data is not followed by a dip.
    3. Bounds that the current count violates are restored at once.
    4. Recommend: the policy, given the forecast. A burn rate that panics asks for one more; what is slow in
       execution alone asks for no more. With no traffic at all the minimum; 0 after the idle period.
    5. Tolerance: a wish that is within it is the current count.
    6. Bounds: labels, then what the platform is known to give.
    7. Up: enough samples; cooldown; rate limit.
    8. Down: rate limit; cooldown; not before what was last asked for could have served; stabilization (no
       lower than the highest recommendation of the window, which is longer when little error budget is left);
       safety (every replica is seen, nothing says that the SLO is missed, no exhausted budget burns on, and
       the lower count is predicted to meet the SLO).
    """
    state = _notice(spec, scale, _in_step(spec, state, now), now)
    ineligible = _data_check(spec, observation, scale)
    if ineligible is not None or observation is None:
        held = replace(state, recommendations=state.recommendations.push(now, scale.desired), idle_since=None)
        return Decision(None, ineligible or Reason.NO_DATA, observed(observation, scale, state)), held

    outlook, state = _look_ahead(spec, observation, scale, state, now)
    bounds = _bounds(spec, scale, state, now)
    numbers = observed(observation, scale, state) | expected(outlook, state, now)
    numbers["min"], numbers["max"] = bounds.lowest, bounds.highest
    # On its way to 0 within the rate limits a function passes counts below its minimum.
    lowest = 0 if bounds.idle else bounds.lowest
    if not lowest <= scale.desired <= bounds.highest:
        below = scale.desired < lowest
        restored = bounds.lowest if below else bounds.highest
        reason = Reason.BELOW_MINIMUM if below else Reason.ABOVE_MAXIMUM
        state = replace(state, recommendations=state.recommendations.push(now, restored))
        return _scaled(restored, reason, numbers, scale, state, now)

    return _judge(spec, observation, scale, outlook, bounds, numbers, state, now)


def unapplied(before: TargetState, after: TargetState) -> TargetState:
    """Return the state after a decision that was not carried out (a dry run, or the platform failed).

    ``before`` went into ``decide``, ``after`` came out. What was learned stays; nothing was changed or asked.
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
    idle: bool
    """The idle period is over, and 0 is allowed."""


def _judge(
    spec: Spec,
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
    lowest = 0 if wish.reason is Reason.IDLE else bounds.lowest
    bounded = min(max(wanted, lowest), bounds.highest)
    state = replace(state, recommendations=state.recommendations.push(now, bounded))

    if bounded > scale.desired:
        held_up = _why_not_up(spec, observation, wish, state, now)
        if held_up is not None:
            return Decision(None, held_up, numbers), state
        up = spec.scale_up
        most = max(math.floor(scale.desired * up.max_factor), scale.desired + up.max_step)
        return _scaled(min(bounded, most), wish.reason, numbers, scale, state, now)

    if bounded < scale.desired:
        down = spec.scale_down
        least = min(math.ceil(scale.desired / down.max_factor), scale.desired - down.max_step)
        lower = max(bounded, least)
        held_down, lower = _why_not_down(spec, observation, scale, outlook, wish, state, lower, now)
        if held_down is not None:
            return Decision(None, held_down, numbers), state
        return _scaled(lower, wish.reason, numbers, scale, state, now)

    reason = _why_same(wish, tolerated, scale, bounds)
    if reason is Reason.PLATFORM_CAP and state.refusal is not None:
        numbers |= {"requested": state.refusal.asked, "granted": state.refusal.granted}
    return Decision(None, reason, numbers), state


def _in_step(spec: Spec, state: TargetState, now: float) -> TargetState:
    """Move all remembered times by what the clock jumped, so that the jump is no time that passed.

    Backwards, or forwards by more than ``longest_gap`` (a machine that slept): no window may run out, and no
    cooldown last for hours, by that alone. What must hold without a gap, the idle period, begins anew.
    """
    gap = now - state.decided_at
    if 0.0 <= gap <= spec.timing.longest_gap:
        return state
    refusal = state.refusal
    return replace(
        state,
        decided_at=now,
        refusal=None if refusal is None else replace(refusal, until=refusal.until + gap),
        recommendations=state.recommendations.moved(gap),
        rates=state.rates.moved(gap),
        changed_at=state.changed_at + gap,
        scaled_at=None if state.scaled_at is None else state.scaled_at + gap,
        scaled_up_at=None if state.scaled_up_at is None else state.scaled_up_at + gap,
        pending_since=None if state.pending_since is None else state.pending_since + gap,
        corrected_at=state.corrected_at + gap,
        headroom=state.headroom.moved(gap),
        seen_at=state.seen_at + gap,
        idle_since=None,
    )


def _notice(spec: Spec, scale: Scale, state: TargetState, now: float) -> TargetState:
    refusal = state.refusal if state.refusal is not None and now < state.refusal.until else None
    if state.asked is not None and scale.desired < state.asked:
        refusal = Refusal(state.asked, scale.desired, now + spec.timing.cap_retry)
    recommendations, idle_since = state.recommendations, state.idle_since
    if scale.desired != (state.desired if state.asked is None else state.asked):
        # Somebody else set this count: it stands for one stabilization window before it is lowered, and for
        # one idle period before it is 0. So a platform that does not give 0 is not asked again at once.
        recommendations, idle_since = recommendations.push(now, scale.desired), None

    pending_since, start_up_time = state.pending_since, state.start_up_time
    if scale.pending:
        pending_since = now if pending_since is None else pending_since
    elif pending_since is not None:
        start_up_time, pending_since = smoothed(start_up_time, now - pending_since), None
    return replace(
        state,
        decided_at=now,
        desired=scale.desired,
        asked=None,
        refusal=refusal,
        recommendations=recommendations,
        changed_at=now if scale.pending else state.changed_at,
        pending_since=pending_since,
        start_up_time=start_up_time,
        idle_since=idle_since,
    )


def _data_check(spec: Spec, seen: Observation | None, scale: Scale) -> Reason | None:
    if not scale.enabled:
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


def _look_ahead(
    spec: Spec, seen: Observation, scale: Scale, state: TargetState, now: float
) -> tuple[Outlook, TargetState]:
    rate = seen.arrival_rate or 0.0
    start_up = _start_up(spec, state)
    horizon = start_up + spec.timing.rate_lag
    rates = state.rates.push(now, rate)
    recent = rates.within(now, start_up)
    expected = forecast(rates.within(now, TREND_HISTORY), recent, now, horizon)
    likely = rate if expected is None else expected
    highest = max((value for _, value in recent), default=rate)
    surge = _surge(spec, seen, rate)
    if surge is not None:
        # One interval may be a spike that is over before anything has started; two in a row are none, nor is
        # work that is taken up again.
        believed = state.surge is not None or state.headroom.resumed(now, surge)
        likely = max(likely, surge if believed else (rate + surge) / 2.0)
    is_missed = missed(spec, seen)
    # A burst that is over asks for nothing, and is no fault of the capacity.
    lasts = is_missed and (seen.burn_short is None or seen.burn_short > 1.0)
    since_change = now - state.changed_at
    settled = since_change >= spec.timing.settle_time
    room = seen.capacity is not None and rate <= scale.available * seen.capacity * state.correction
    is_futile = futile(
        seen, state.service_baseline, is_missed=is_missed, overloaded=bool(seen.capacity) and not room
    )
    # What more replicas would not mend is neither spent nor regretted. Time without data is not quiet.
    burn = None if is_futile or (quick(seen) and is_missed) else seen.burn_short or 0.0
    passed = min(max(0.0, now - state.seen_at), spec.timing.longest_gap)
    headroom = state.headroom.after(now, passed, rate, seen.arrival_rate_now or 0.0, burn)
    # A capacity is doubted when there are more misses than headroom answers.
    doubted = lasts and (headroom.excessive or is_futile or not seen.capacity)
    correction, corrected_at = state.correction, state.corrected_at
    if doubted and room and not is_futile and settled and now - corrected_at >= spec.timing.settle_time:
        correction, corrected_at = max(CORRECTION_FLOOR, correction * CORRECTION_STEP), now
    if not is_missed:
        correction = 1.0 - (1.0 - correction) * math.exp(-passed / CORRECTION_RECOVERY)
    # Twice its lag is the rate window: what it holds must have happened at the present count.
    shown = since_change > 2.0 * spec.timing.rate_lag
    knee = _knee(seen, scale, state, passed, beyond=lasts and shown and not is_futile)
    outlook = Outlook(
        forecast=likely,
        horizon=horizon,
        rising=likely > highest,
        utilization=headroom.utilization(
            spec.utilization_target, max(spec.utilization_limit, spec.utilization_target)
        ),
        standing=headroom.standing(now, likely, horizon),
        kept=headroom.standing(now, likely, KEPT_HORIZONS * horizon),
        correction=correction,
        missed=doubted,
        settled=settled,
        burning=lasts and shown and panics(seen),
        futile=is_futile,
        knee=knee,
    )
    return outlook, replace(
        state,
        rates=rates,
        correction=correction,
        corrected_at=corrected_at,
        seen_at=max(now, state.seen_at),
        idle_since=_idle_since(seen, scale, state, now),
        service_baseline=state.service_baseline if is_missed else _baseline(spec, seen, state, passed),
        headroom=headroom,
        surge=surge,
        knee=knee,
    )


def _surge(spec: Spec, seen: Observation, rate: float) -> float | None:
    """Return the newest rate if it exceeds ``rate`` by more than the noise of Poisson arrivals explains."""
    newest = seen.arrival_rate_now
    if newest is None:
        return None
    interval = spec.timing.rate_lag / 2.0  # half of a window of four scrapes is two of them
    noise = math.sqrt(max(rate, 1.0 / interval) / interval)
    return newest if newest - rate > SURGE_SIGMAS * noise else None


def _start_up(spec: Spec, state: TargetState) -> float:
    """Seconds; a platform may call a replica available early, so what is configured is the least."""
    return max(spec.start_up_time, state.start_up_time or 0.0)


def _idle_since(seen: Observation, scale: Scale, state: TargetState, now: float) -> float | None:
    """Return since when it is sure that nothing comes in: every replica is seen, and all are at rest."""
    complete = seen.up_replicas is not None and seen.up_replicas >= scale.available
    if not complete or seen.arrival_rate != 0.0 or seen.in_flight != 0.0:
        return None
    return now if state.idle_since is None else state.idle_since


def _baseline(spec: Spec, seen: Observation, state: TargetState, passed: float) -> float | None:
    if seen.service_mean is None or (seen.samples or 0.0) < spec.min_samples:
        return state.service_baseline
    if state.service_baseline is None:
        return seen.service_mean
    kept = math.exp(-passed / BASELINE_MEMORY)
    return kept * state.service_baseline + (1.0 - kept) * seen.service_mean


def _knee(
    seen: Observation, scale: Scale, state: TargetState, passed: float, *, beyond: bool
) -> float | None:
    """Return what a replica completes when it is too much for it, from the times when it was.

    It stands in for the capacity of functions that report none, downwards only. What a replica does within
    the SLO raises it.
    """
    each = (seen.rate or 0.0) / max(1, scale.available)
    latency = latency_at_objective(seen)
    slow = latency is not None and seen.slo_latency is not None and latency > seen.slo_latency
    if beyond and slow and each > 0.0:
        return each
    if state.knee is None:
        return None
    relaxed = state.knee * math.exp(passed / KNEE_MEMORY)
    return relaxed if slow else max(relaxed, each)


def _bounds(spec: Spec, scale: Scale, state: TargetState, now: float) -> _Bounds:
    """Return the bounds in force.

    At least 1: nothing here wakes a function from zero, and only idleness puts it to sleep. A minimum above 0
    forbids that, unless the function's own labels ask for it: then it is the minimum while awake, as in
    OpenFaaS Pro.
    """
    lowest = max(1, spec.min_replicas if scale.min is None else scale.min)
    highest = max(lowest, spec.max_replicas if scale.max is None else scale.max)
    idle = (
        spec.scale_to_zero_after is not None
        and (scale.zero_after is not None or not scale.min)
        and state.idle_since is not None
        and now - state.idle_since >= spec.scale_to_zero_after
    )
    cap = highest if scale.cap is None else scale.cap
    if state.refusal is not None:
        cap = min(cap, max(1, state.refusal.granted))
    if cap < highest:
        return _Bounds(min(lowest, cap), cap, capped=True, idle=idle)
    return _Bounds(lowest, highest, capped=False, idle=idle)


def _recommend(
    spec: Spec, seen: Observation, scale: Scale, outlook: Outlook, bounds: _Bounds
) -> Recommendation:
    if outlook.forecast <= 0.0 and not seen.in_flight:
        if bounds.idle:
            return Recommendation(0, Reason.IDLE)
        if outlook.standing <= 0.0:
            return Recommendation(bounds.lowest, Reason.NO_TRAFFIC)
    wish = POLICIES[spec.policy].recommend(spec, seen, scale, outlook)
    if (
        outlook.burning
        and wish.replicas <= scale.desired
        and scale.desired < panic_limit(spec, seen, scale, outlook)
    ):
        wish = Recommendation(scale.desired + 1, Reason.BURN_RATE)
    if outlook.futile and wish.reason in _ANSWERS_TO_MISSES:
        return Recommendation(scale.desired, Reason.WILL_NOT_HELP)
    return wish


_ANSWERS_TO_MISSES: Final = {Reason.BURN_RATE, Reason.LATENCY_ABOVE_TARGET, Reason.SLO_MISSED}
"""Reasons that hope for fewer misses from more replicas; the others count load."""


def _within_tolerance(spec: Spec, scale: Scale, wish: Recommendation) -> bool:
    if wish.raw is None or wish.replicas == scale.desired:
        return False
    return abs(wish.raw / scale.desired - 1.0) <= spec.tolerance + 1e-9


def _why_not_up(
    spec: Spec, seen: Observation, wish: Recommendation, state: TargetState, now: float
) -> Reason | None:
    # What is in flight counts as evidence too: a function that hangs completes nothing. A peak that is due
    # has had its evidence when it was here.
    evidence = (seen.samples or 0.0) + (seen.in_flight or 0.0)
    if evidence < spec.min_samples and wish.reason is not Reason.RECENT_PEAK:
        return Reason.TOO_FEW_SAMPLES
    if state.scaled_up_at is not None and now - state.scaled_up_at < spec.scale_up.cooldown:
        return Reason.COOLING_DOWN
    return None


def _why_not_down(
    spec: Spec,
    seen: Observation,
    scale: Scale,
    outlook: Outlook,
    wish: Recommendation,
    state: TargetState,
    lower: int,
    now: float,
) -> tuple[Reason | None, int]:
    """Return the reason to keep the count, if there is one, and the lowest count that may be set."""
    if state.scaled_at is not None and now - state.scaled_at < spec.scale_down.cooldown:
        return Reason.COOLING_DOWN, lower
    # The idle period is a window of its own, and nothing was burnt in it.
    if wish.reason is not Reason.IDLE:
        early, lower = _too_early(spec, seen, scale, outlook, state, lower, now)
        if early is not None:
            return early, lower
    if (seen.up_replicas or 0.0) < scale.available:
        return Reason.PARTIAL_DATA, lower
    return _too_risky(seen, scale, outlook, lower)


def _too_early(
    spec: Spec,
    seen: Observation,
    scale: Scale,
    outlook: Outlook,
    state: TargetState,
    lower: int,
    now: float,
) -> tuple[Reason | None, int]:
    if state.scaled_up_at is not None and now - state.scaled_up_at < _start_up(spec, state):
        return Reason.SCALE_DOWN_STABILIZED, lower
    window, stretch = spec.scale_down.stabilization_window, _stretch(seen)
    if state.headroom.prepared:
        # The windows are for what comes back at any time; what comes at known times is made ready for then.
        window, stretch = min(window, RHYTHM_HORIZONS * outlook.horizon), 1.0
    usual = max(lower, int(state.recommendations.value(now, window) or 0))
    if usual >= scale.desired:
        return Reason.SCALE_DOWN_STABILIZED, usual
    lower = max(lower, int(state.recommendations.value(now, stretch * window) or 0))
    return (Reason.BUDGET_LOW if lower >= scale.desired else None), lower


def _too_risky(seen: Observation, scale: Scale, outlook: Outlook, lower: int) -> tuple[Reason | None, int]:
    if doubtful(seen):
        return Reason.SCALE_DOWN_UNSAFE, lower
    if seen.budget_remaining is not None and seen.budget_remaining <= 0.0 and (seen.burn_rate or 0.0) > 1.0:
        return Reason.BUDGET_LOW, lower
    lower = max(lower, _fewest_safe(seen, scale, outlook))
    return (Reason.SCALE_DOWN_UNSAFE, lower) if lower >= scale.desired else (None, lower)


def _stretch(seen: Observation) -> float:
    """Return how many times longer the stabilization window is for the error budget that is left."""
    if seen.budget_remaining is None:
        return 1.0
    left = min(max(seen.budget_remaining / BUDGET_AMPLE, 0.0), 1.0)
    return 1.0 + (BUDGET_STRETCH - 1.0) * (1.0 - left)


def _fewest_safe(seen: Observation, scale: Scale, outlook: Outlook) -> int:
    """Return the fewest replicas that are predicted to meet the SLO.

    With a learned capacity, by it; else latency is taken to grow as the replicas shrink (the HPA's law), and
    no replica gets more than what was once too much for one: before the knee latency tells nothing of how
    near it is. Without either, the current count.
    """
    if max(outlook.forecast, outlook.kept) <= 0.0 and not seen.in_flight:
        return 0
    if seen.capacity:
        needed = max(load(seen, scale, outlook), outlook.kept)
        return math.ceil(needed / (seen.capacity * outlook.correction) - 1e-9)
    latency = latency_at_objective(seen)
    if latency is None or not seen.slo_latency:
        return scale.desired
    by_knee = math.ceil(outlook.forecast / outlook.knee - 1e-9) if outlook.knee else 0
    return max(by_knee, math.ceil(scale.available * latency / seen.slo_latency - 1e-9))


def _why_same(wish: Recommendation, tolerated: bool, scale: Scale, bounds: _Bounds) -> Reason:
    if tolerated:
        return Reason.WITHIN_TOLERANCE
    if wish.replicas > scale.desired:
        return Reason.PLATFORM_CAP if bounds.capped else Reason.AT_MAXIMUM
    if wish.replicas == scale.desired and wish.reason in _HOLDS:
        return wish.reason
    return Reason.WITHIN_RANGE


_HOLDS: Final = {
    Reason.SETTLING,
    Reason.SLO_MISSED,
    Reason.TOO_FEW_SAMPLES,
    Reason.WILL_NOT_HELP,
    Reason.WITHIN_TOLERANCE,
}
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
