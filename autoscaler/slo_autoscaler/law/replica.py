"""Stage 2, ``replica``: what one replica carries. [P]

Takes the exported capacity and the measured lateness. The curve of late share by load (``base.curve``) is
corrected by what was late at the loads of the window (``base.calibration``). ``boost.nominal`` has replaced
what boosted replicas export before this stage.

Next stage: ``traffic``.
"""

from dataclasses import dataclass, replace
from math import inf

from slo_autoscaler.law.base.curve import Curve, observed
from slo_autoscaler.law.memory import Measured
from slo_autoscaler.law.platform import Standing
from slo_autoscaler.law.situation import Situation
from slo_autoscaler.law.tuning import TUNING
from slo_autoscaler.signals.record import Observation


@dataclass(frozen=True, slots=True)
class Carries:
    """What one replica carries, and how late its requests were."""

    curve: Curve
    """Late share by load, corrected."""
    window: float
    """Seconds over which the rates were measured."""
    late: float | None
    """Share of requests that were late because they waited; None: unknown, or none."""
    spent: float
    """The same, as many as the exported curve predicts where it is unknown."""
    overdue: bool
    """Whether more wait than are answered within the SLO: late already, but no counter shows it yet."""


def carries(at: Situation, standing: Standing) -> tuple[Carries, Measured]:
    """Return what a replica carries, and the memory with this observation.

    Needs an arrival rate, an SLO, and a capacity above 0.
    """
    seen, scale, now, measured = at.seen, at.scale, at.now, at.memory.replica
    window = seen.rate_window or 2.0 * at.spec.timing.rate_lag
    exported, newest = observed(seen), seen.arrival_rate_now
    rate = (seen.arrival_rate or 0.0) if newest is None else newest
    load = rate / (max(1, scale.available) * exported.goodput)
    loads = (*[past for past in measured.loads if 0.0 < now - past[0] <= window], (now, load))
    overdue = (seen.queue_length or 0.0) > scale.available * exported.goodput * (seen.slo_latency or 0.0)
    calibration = measured.calibration
    overloaded_at = now if overdue or load > calibration.factor else measured.overloaded_at
    late, lately = late_share(seen), [load for _, load in loads]
    if late is None:
        spent = sum(exported.late(load * exported.goodput) for load in lately) / len(lately)
    else:
        spent = late
        # While a backlog or a boost is in the rates, a comparison says nothing of the curve.
        if not measured.boosts and now - overloaded_at > TUNING.drained_in * standing.horizon + window:
            calibration = calibration.after(
                at.passed, at.spec.budget_period, seen.rate or 0.0, late, lately, exported
            )
    measured = replace(measured, loads=loads, overloaded_at=overloaded_at, calibration=calibration)
    return Carries(exported.corrected(calibration.factor), window, late, spent, overdue), measured


def late_share(seen: Observation) -> float | None:
    """Return the late share that more replicas would have avoided; None: unknown, or none.

    If requests hardly waited for a worker, they were late in execution.
    """
    if seen.burn_short is None or seen.slo_objective is None:
        return None
    share = min(TUNING.waited_most, TUNING.waited_little * (1.0 - seen.slo_objective))
    waited = inf if seen.queue_mean is None else seen.queue_mean
    if seen.burn_short > 0.0 and waited <= share * (seen.slo_latency or 0.0):
        return None
    return min(1.0, seen.burn_short * (1.0 - seen.slo_objective))
