"""Stage 3, ``traffic``: what came, and what may come within the horizon. [P]

The moment that counts is the one at which a replica requested now would serve (``foresight``).

Next stage: ``need``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

from slo_autoscaler.law.foresight.scenarios import with_rates
from slo_autoscaler.law.memory import Arrivals
from slo_autoscaler.law.platform import Standing
from slo_autoscaler.law.replica import Carries
from slo_autoscaler.law.situation import Situation
from slo_autoscaler.model import Scale
from slo_autoscaler.signals.record import Observation
from slo_autoscaler.signals.window import believed_rate


@dataclass(frozen=True, slots=True)
class Outlook:
    """The rate of now, and the rates that may come."""

    rate: float
    """Requests per second: the mean, or the newest beyond chance."""
    base: float
    """Requests per second; the rates to come are multiples of it."""
    odds: Sequence[float]
    """Weight of each of ``scenarios.RATIOS``."""
    arrivals: Arrivals
    """The rates, with this one."""


def outlook(at: Situation, standing: Standing, carries: Carries | None) -> Outlook:
    """Return what may come; without odds where nothing tells what a replica carries."""
    since = _idle_since(at)
    if carries is None:
        return Outlook(0.0, 0.0, (), Arrivals(at.memory.traffic.history, since))
    interval, lag = at.spec.timing.interval, at.spec.timing.rate_lag
    rate = believed_rate(at.seen.arrival_rate or 0.0, at.seen.arrival_rate_now, lag)
    history = at.memory.traffic.history.every(interval).after([(at.now, rate)], standing.horizon)
    base, then = max(rate, history.nothing), at.now + standing.horizon
    odds: Sequence[float] = history.followed.odds(rate, history.nothing, carries.window)
    for rates, share in history.repeats(then, then + interval, carries.window / 2.0):
        odds = with_rates(odds, base, rates, share)
    return Outlook(rate, base, odds, Arrivals(history, since))


def _idle_since(at: Situation) -> float | None:
    """Return the time since which every replica is observed and none has a request; None: not so."""
    seen = at.seen
    if unseen(seen, at.scale) or newest_rate(seen) != 0.0 or seen.in_flight != 0.0:
        return None
    since = at.memory.traffic.idle_since
    return at.now if since is None else since


def newest_rate(seen: Observation) -> float | None:
    """Return the newest arrivals per second: over a longer window an idle function has a rate for minutes."""
    return seen.arrival_rate if seen.rate_window is None else seen.arrival_rate_now


def unseen(seen: Observation, scale: Scale) -> int:
    """Return the serving replicas that are not observed, or not in the rates."""
    rated = scale.available if seen.rated_replicas is None else seen.rated_replicas
    return max(0, ceil(scale.available - min(seen.up_replicas or 0.0, rated)))
