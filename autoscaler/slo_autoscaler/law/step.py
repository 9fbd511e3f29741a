"""Stage 6, ``step``: what happens now. [P]

Up: cooldown; rate limit. Down: each replica that is not observed is needed; cooldown; rate limit; only to the
count that was enough at every reconcile of one start-up, the time in which a replica could not be brought
back. A count outside the limits changes at once.
"""

from dataclasses import replace
from math import ceil, floor

from slo_autoscaler.law.base.needs import Needs
from slo_autoscaler.law.limits import Allowed
from slo_autoscaler.law.memory import Memory
from slo_autoscaler.law.situation import Situation
from slo_autoscaler.law.traffic import unseen
from slo_autoscaler.model import Change, Hold, Need, Reason


def step(at: Situation, allowed: Allowed | Hold) -> Change | Hold:
    """Return what happens now; ``at`` has the memory with the need of this observation."""
    requests, current = at.memory.platform, at.scale.desired
    if isinstance(allowed, Hold):
        lacking = at.scale.unschedulable and requests.stuck(at.spec, at.now)
        return Hold(Reason.UNSCHEDULABLE) if lacking else Hold(allowed.because, allowed.detail)
    if allowed.outright:
        return Change(allowed.count, allowed.because, allowed.detail)
    return _up(at, allowed) if allowed.count > current else down(at, allowed)


def down(at: Situation, allowed: Allowed) -> Change | Hold:
    """Return how far the count goes down now."""
    steps, limits, current = at.memory.step, at.spec.scale_down, at.scale.desired
    missing = unseen(at.seen, at.scale)
    if missing and allowed.wanted + missing >= current:
        return Hold(Reason.PARTIAL_DATA)
    if steps.scaled_at is not None and at.now - steps.scaled_at < limits.cooldown:
        return Hold(Reason.COOLING_DOWN)
    # What is seen needs the recommended ones, and nothing tells that one unseen is not needed.
    lower = max(allowed.wanted + missing, allowed.lowest)
    if allowed.because is not Reason.IDLE:
        rate = 0.0 if allowed.forecast is None else allowed.forecast.rate
        needed, kept = steps.needs.highest(stabilization(at)) + missing, steps.kept(rate, at.now)
        if max(needed, kept) >= current:
            return Hold(Reason.SCALE_DOWN_STABILIZED if needed >= kept else Reason.FEWER_WERE_TOO_FEW)
        lower = max(lower, needed, kept)
    count = max(lower, min(ceil(current / limits.max_factor), current - limits.max_step))
    forecast = allowed.forecast
    risky = forecast is not None and forecast.late(count) > forecast.allowed
    if risky and allowed.because is not Reason.NO_TRAFFIC:
        return Change(count, Reason.NOT_WORTH_A_REPLICA)
    return Change(count, allowed.because, allowed.detail)


def after(at: Situation, need: Need | Hold) -> Needs:
    """Return the needs with this one. After a gap one observation counts as one interval."""
    passed, interval = max(0.0, at.now - at.memory.seen_at), at.spec.timing.interval
    count = need.count if isinstance(need, Need) else at.scale.desired if need.needed else 0
    passed = passed if passed <= 2.0 * interval else interval
    return at.memory.step.needs.after(passed, count, stabilization(at))


def with_need(at: Situation, count: int) -> Memory:
    """Return the memory with one more need, at the time of the last one."""
    steps = at.memory.step
    needs = steps.needs.after(0.0, count, stabilization(at))
    return replace(at.memory, step=replace(steps, needs=needs))


def stabilization(at: Situation) -> float:
    """Return the seconds for which fewer must have been enough before a scale-down."""
    return max(at.memory.platform.start_up(at.spec), at.spec.scale_down.stabilization_window)


def margin(at: Situation) -> float:
    """Return the gain over loss for which a replica may leave for another function, less 1.

    It is the start-up over the expected stay: a start-up, and as long again as the count has stayed.
    """
    scaled_at = at.memory.step.scaled_at
    if scaled_at is None:
        return 0.0
    start_up = max(at.memory.platform.start_up(at.spec), at.spec.timing.interval)
    return start_up / (start_up + max(0.0, at.now - scaled_at))


def _up(at: Situation, allowed: Allowed) -> Change | Hold:
    up_at, current, up = at.memory.step.scaled_up_at, at.scale.desired, at.spec.scale_up
    if up_at is not None and at.now - up_at < up.cooldown:
        return Hold(Reason.COOLING_DOWN)
    most = max(floor(current * up.max_factor), current + up.max_step)
    return Change(min(allowed.count, most), allowed.because, allowed.detail)
