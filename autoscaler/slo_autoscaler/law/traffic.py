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


def outlook(at: Situation, standing: Standing, window: float) -> tuple[Outlook, Arrivals]:
    """Return what may come, and the rates with this one; ``window``: seconds of the measured rate."""
    interval, lag = at.spec.timing.interval, at.spec.timing.rate_lag
    rate = believed_rate(at.seen.arrival_rate or 0.0, at.seen.arrival_rate_now, lag)
    history = at.memory.traffic.history.every(interval).after([(at.now, rate)], standing.horizon)
    base, then = max(rate, history.nothing), at.now + standing.horizon
    odds: Sequence[float] = history.followed.odds(rate, history.nothing, window)
    for rates, share in history.repeats(then, then + interval, window / 2.0):
        odds = with_rates(odds, base, rates, share)
    return Outlook(rate, base, odds), Arrivals(history)


def idle_since(at: Situation) -> float | None:
    """Return the time since which every replica is observed and none has a request; None: not so."""
    seen = at.seen
    if unseen(seen, at.scale) or newest_rate(seen) != 0.0 or seen.in_flight != 0.0:
        return None
    since = at.memory.traffic.idle_since
    return at.now if since is None else since


def rests(at: Situation, standing: Standing) -> bool:
    """Return whether 0 is due: no request for the whole idle period, and none returns.

    A minimum above 0 forbids it, unless the function's own labels demand it.
    """
    since = at.memory.traffic.idle_since
    if since is None or at.now - since < at.declared.zero_after:
        return False
    if at.scale.zero_after is None and at.scale.min:
        return False
    return not returns(at, standing)


def returns(at: Situation, standing: Standing) -> bool:
    """Return whether the traffic repeats at the time at which a replica requested now would serve."""
    history, timing = at.memory.traffic.history, at.spec.timing
    then = at.now + standing.horizon
    repeats = history.repeats(then, then + timing.interval, timing.rate_lag)
    return any(max(rates) > history.nothing for rates, _ in repeats)


def newest_rate(seen: Observation) -> float | None:
    """Return the newest arrivals per second: over a longer window an idle function has a rate for minutes."""
    return seen.arrival_rate if seen.rate_window is None else seen.arrival_rate_now


def unseen(seen: Observation, scale: Scale) -> int:
    """Return the serving replicas that are not observed, or not in the rates."""
    rated = scale.available if seen.rated_replicas is None else seen.rated_replicas
    return max(0, ceil(scale.available - min(seen.up_replicas or 0.0, rated)))
