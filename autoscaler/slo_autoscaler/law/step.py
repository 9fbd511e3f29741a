"""Stage 6, ``step``: what happens now. [P]

Up: cooldown; rate limit. Down: each replica that is not observed is needed; cooldown; rate limit; only to the
count that was enough at every reconcile of one start-up, the time in which a replica could not be brought
back. A count outside the limits changes at once.
"""

from dataclasses import replace
from math import ceil, floor

from slo_autoscaler.law.limits import Allowed
from slo_autoscaler.law.memory import Asked, Memory, Steps, TooFew
from slo_autoscaler.law.platform import Standing
from slo_autoscaler.law.situation import Situation
from slo_autoscaler.law.traffic import unseen
from slo_autoscaler.law.tuning import TUNING
from slo_autoscaler.model import Change, Hold, Need, Reason, Scale


def step(at: Situation, standing: Standing, allowed: Allowed | Hold) -> Change | Hold:
    """Return what happens now; ``at`` has the memory with the need of this observation."""
    current = at.scale.desired
    if isinstance(allowed, Hold):
        lacking = at.scale.unschedulable and standing.stuck
        return Hold(Reason.UNSCHEDULABLE) if lacking else Hold(allowed.because, allowed.detail)
    if allowed.outright:
        return Change(allowed.count, allowed.because, allowed.detail)
    return _up(at, allowed) if allowed.count > current else down(at, standing, allowed)


def down(at: Situation, standing: Standing, allowed: Allowed) -> Change | Hold:
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
        needed, avoided = steps.needs.highest(standing.stabilization) + missing, kept(steps, rate, at.now)
        if max(needed, avoided) >= current:
            return Hold(Reason.SCALE_DOWN_STABILIZED if needed >= avoided else Reason.FEWER_WERE_TOO_FEW)
        lower = max(lower, needed, avoided)
    count = max(lower, min(ceil(current / limits.max_factor), current - limits.max_step))
    forecast = allowed.forecast
    risky = forecast is not None and forecast.late(count) > forecast.allowed
    if risky and allowed.because is not Reason.NO_TRAFFIC:
        return Change(count, Reason.NOT_WORTH_A_REPLICA)
    return Change(count, allowed.because, allowed.detail)


def after(at: Situation, standing: Standing, need: Need | Hold) -> Steps:
    """Return the steps with this need. After a gap one observation counts as one interval."""
    passed, interval = max(0.0, at.now - at.memory.seen_at), at.spec.timing.interval
    count = need.count if isinstance(need, Need) else at.scale.desired if need.needed else 0
    passed = passed if passed <= 2.0 * interval else interval
    return with_need(at.memory.step, count, standing.stabilization, passed)


def with_need(steps: Steps, count: int, stabilization: float, passed: float = 0.0) -> Steps:
    """Return the steps with one more need, ``passed`` seconds after the last one."""
    return replace(steps, needs=steps.needs.after(passed, count, stabilization))


def margin(at: Situation, standing: Standing) -> float:
    """Return the gain over loss for which a replica may leave for another function, less 1.

    It is the start-up over the expected stay: a start-up, and as long again as the count has stayed.
    """
    scaled_at = at.memory.step.scaled_at
    if scaled_at is None:
        return 0.0
    start_up = max(standing.start_up, at.spec.timing.interval)
    return start_up / (start_up + max(0.0, at.now - scaled_at))


def scaled(
    memory: Memory, scale: Scale, replicas: int, now: float, *, rate: float = 0.0, late: bool = False
) -> Memory:
    """Return the memory after the platform has agreed to a request for ``replicas``.

    ``rate`` requests per second are expected; ``late``: because too many have been late for some time.
    """
    before = memory.step
    steps = changed(before, scale.desired, replicas, now)
    undone = before.scaled_at is not None and before.scaled_at != before.scaled_up_at
    lately = undone and now - (before.scaled_at or 0.0) <= TUNING.undone_within
    if replicas > scale.desired and rate > 0.0 and (late or lately):
        steps = replace(steps, too_few=_too_few(before.too_few, rate / (scale.desired + 1), now))
    asked = Asked(scale.desired, replicas)
    return replace(memory, platform=replace(memory.platform, asked=asked), step=steps)


def changed(steps: Steps, before: int, replicas: int, now: float) -> Steps:
    """Return the steps after a change of the count by any writer."""
    return replace(steps, scaled_at=now, scaled_up_at=now if replicas > before else steps.scaled_up_at)


def kept(steps: Steps, rate: float, now: float) -> int:
    """Return the replicas that ``rate`` requests per second need, because fewer were too few lately."""
    if steps.too_few is None or now >= steps.too_few.until:
        return 0
    return ceil(rate / steps.too_few.enough - 1e-9)


def _too_few(before: TooFew | None, enough: float, now: float) -> TooFew:
    """Return the record of a count that was too low, ``before`` that of the last one."""
    avoided_for = TUNING.avoided_for
    if before is not None and now < before.until + before.avoided_for:
        avoided_for = min(2.0 * before.avoided_for, TUNING.avoided_most)
    return TooFew(enough, now + avoided_for, avoided_for)


def _up(at: Situation, allowed: Allowed) -> Change | Hold:
    up_at, current, up = at.memory.step.scaled_up_at, at.scale.desired, at.spec.scale_up
    if up_at is not None and at.now - up_at < up.cooldown:
        return Hold(Reason.COOLING_DOWN)
    most = max(floor(current * up.max_factor), current + up.max_step)
    return Change(min(allowed.count, most), allowed.because, allowed.detail)
