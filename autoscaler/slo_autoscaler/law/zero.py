"""A function without replicas whose requests the platform holds: when it gets some. [P]

Elsewhere a request wakes a function by itself.
"""

from dataclasses import replace
from typing import Any, Final

from slo_autoscaler.law.platform import Standing
from slo_autoscaler.law.policies import POLICIES
from slo_autoscaler.law.situation import Situation
from slo_autoscaler.law.traffic import newest_rate, returns
from slo_autoscaler.model import Hold, Need, Reason
from slo_autoscaler.signals.record import Observation, Of, signals_of

_KEPT: Final = signals_of(Of.REPLICA, Of.FUNCTION)
_LOAD: Final = dict.fromkeys(signals_of(Of.LOAD), 0.0)
_UNKNOWN: Final = dict.fromkeys(signals_of(Of.MOMENT))


def rested(last: Observation, seen: Observation) -> Observation:
    """Return what is known of a function without replicas: no load, and what its replicas last told.

    ``seen`` itself while a replica still tells its capacity.
    """
    if seen.capacity is not None:
        return seen
    known: dict[str, Any] = {name: getattr(last, name) for name in _KEPT}
    return replace(seen, **known | _LOAD | _UNKNOWN)


def woken(at: Situation, standing: Standing) -> Need | Hold:
    """Return the need of a function without replicas.

    It has one when a request waits, when a replica that still serves has had one, and one start-up before the
    traffic repeats. The count is that of the policy for the rates that may come then, at least 1.
    """
    if at.scale.waiting or newest_rate(at.seen) or at.seen.in_flight:
        return Need(_count(at, standing), Reason.REQUESTS_WAIT)
    if returns(at, standing):
        return Need(_count(at, standing), Reason.PEAK_EXPECTED)
    return Hold(Reason.SCALED_TO_ZERO, needed=False)


def _count(at: Situation, standing: Standing) -> int:
    if at.seen.capacity is None or at.seen.slo_latency is None or at.seen.slo_objective is None:
        return 1
    # The policy knows no function without replicas.
    at = replace(at, scale=replace(at.scale, desired=1))
    need, _ = POLICIES[at.spec.policy].need(at, standing)
    return max(1, need.count if isinstance(need, Need) else 1)
