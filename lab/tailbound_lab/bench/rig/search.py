"""The search for a maximum rate: ramp, then bisect. [P]

A pure function of the trials so far, so that it can be tested without a clock or a server. A trial is a run
at one rate that passed (at least 99% of the offered requests within the SLO) or failed. Ramp trials are
short, and a failed one is only a hint. Confirmations are long, and both ends of the answer's bracket are
confirmed. A stall of the machine can fail a run, so a rate counts as failed only after more than one failure.
:mod:`tailbound_lab.bench.rig.measure` runs the trials.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt


@dataclass(frozen=True, slots=True)
class Plan:
    """Settings of a search. Rates are requests per second, durations seconds."""

    first_rate: float
    growth: float = 1.5
    ramp_seconds: float = 1.5
    confirm_seconds: float = 8.0
    tolerance: float = 0.05
    """Stop when the lowest failed rate is at most this share above the highest passed one."""
    max_confirms: int = 8
    """Maximum number of confirmed rates."""
    attempts: int = 2
    """Failures after which a rate does not hold; after one pass it holds."""
    lowest_rate: float = 1.0
    highest_rate: float = 200_000.0


@dataclass(frozen=True, slots=True)
class Trial:
    """A tried rate, its duration, and whether it held."""

    rate: float
    confirm: bool
    passed: bool


@dataclass(frozen=True, slots=True)
class Next:
    """Try this next."""

    rate: float
    seconds: float
    confirm: bool


@dataclass(frozen=True, slots=True)
class Found:
    """The highest rate confirmed to hold (0 if none), and the lowest confirmed to fail (None if none)."""

    rate: float
    failed_at: float | None


def next_step(trials: Sequence[Trial], plan: Plan) -> Next | Found:
    """Return the next rate to try after ``trials``, or the answer."""
    ramp = [trial for trial in trials if not trial.confirm]
    confirms = [trial for trial in trials if trial.confirm]
    if not confirms and (not ramp or ramp[-1].passed):
        rate = ramp[-1].rate * plan.growth if ramp else plan.first_rate
        if rate <= plan.highest_rate:
            return Next(rate, plan.ramp_seconds, confirm=False)
    runs = confirms or ramp
    if runs and not runs[-1].passed and sum(trial.rate == runs[-1].rate for trial in runs) < plan.attempts:
        again = runs[-1]
        return Next(again.rate, plan.confirm_seconds if again.confirm else plan.ramp_seconds, again.confirm)
    good = max((trial.rate for trial in confirms if trial.passed), default=0.0)
    # A rate that failed once and passed above is noise: only failures above the best pass bound it.
    bad = min((trial.rate for trial in confirms if not trial.passed and trial.rate > good), default=None)
    close = good > 0.0 and bad is not None and bad <= good * (1 + plan.tolerance)
    if close or len({trial.rate for trial in confirms}) >= plan.max_confirms:
        return Found(good, bad)
    if not confirms:
        hints = [trial.rate for trial in ramp if trial.passed]
        return Next(max(hints, default=plan.first_rate / 2), plan.confirm_seconds, confirm=True)
    rate = _between(good, bad, ramp, plan)
    if rate < plan.lowest_rate or rate > plan.highest_rate:
        return Found(good, bad)
    return Next(rate, plan.confirm_seconds, confirm=True)


def _between(good: float, bad: float | None, ramp: Sequence[Trial], plan: Plan) -> float:
    """Return the next rate to confirm, above ``good`` and below ``bad``."""
    if bad is None:
        held = {trial.rate for trial in ramp if trial.passed}
        failed = (trial.rate for trial in ramp if trial.rate not in held and trial.rate > good)
        hint = min(failed, default=None)
        if hint is None:
            return good * plan.growth
        # The ramp says that hint fails: confirm halfway, and hint itself once that is near.
        middle = sqrt(good * hint)
        return middle if middle > good * (1 + plan.tolerance) else max(hint, good * (1 + plan.tolerance))
    if not good:
        return bad / plan.growth
    return sqrt(good * bad)
