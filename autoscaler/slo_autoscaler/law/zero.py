"""Decides when a function without replicas gets some, where the platform reports what waits for it. [P]

Elsewhere a request wakes a function by itself. Next step: ``decide``.
"""

from dataclasses import replace
from typing import Any, Final

from slo_autoscaler.law.policies import POLICIES
from slo_autoscaler.law.situation import Situation
from slo_autoscaler.model import Reason, Recommendation
from slo_autoscaler.signals.record import Observation

_OF_REPLICAS: Final = ("capacity", "concurrency", "service_time_single", "slo_latency", "slo_objective")
_LOAD: Final = ("rate", "in_flight", "in_flight_growth", "queue_length", "stalled")
_NEWEST: Final = ("rate_window", "rate_now", "gateway_rate", "gateway_rate_now")


def rested(last: Observation, seen: Observation) -> Observation:
    """Return what is known of a function without replicas: no load, and what its replicas last told.

    ``seen`` itself while a replica still tells its capacity.
    """
    if seen.capacity is not None:
        return seen
    known: dict[str, Any] = {name: getattr(last, name) for name in _OF_REPLICAS}
    return replace(seen, **known | dict.fromkeys(_LOAD, 0.0) | dict.fromkeys(_NEWEST))


def woken(at: Situation) -> Recommendation | None:
    """Return the count of a function without replicas once it needs one, or None.

    It does when a request waits, when a replica that still serves has had one, and one start-up before the
    traffic repeats. The count is that of the policy for the rates that may come then, at least 1.
    """
    if at.scale.waiting or newest_rate(at.seen) or at.seen.in_flight:
        return Recommendation(_count(at), Reason.REQUESTS_WAIT)
    return Recommendation(_count(at), Reason.PEAK_EXPECTED) if returns(at) else None


def returns(at: Situation) -> bool:
    """Return whether the traffic repeats at the time at which a replica requested now would serve."""
    interval, history = at.spec.timing.interval, at.memory.history
    then = at.now + at.memory.start_up(at.spec) + interval
    repeats = history.repeats(then, then + interval, at.spec.timing.rate_lag)
    return any(max(rates) > history.nothing for rates, _ in repeats)


def newest_rate(seen: Observation) -> float | None:
    """Return the newest arrivals per second: over a longer window an idle function has a rate for minutes."""
    return seen.arrival_rate if seen.rate_window is None else seen.arrival_rate_now


def _count(at: Situation) -> int:
    if at.seen.capacity is None or at.seen.slo_latency is None or at.seen.slo_objective is None:
        return 1
    # The policy knows no function without replicas.
    policy = POLICIES[at.spec.policy].recommend
    recommendation, _ = policy(replace(at, scale=replace(at.scale, desired=1)))
    return max(1, recommendation.replicas)
