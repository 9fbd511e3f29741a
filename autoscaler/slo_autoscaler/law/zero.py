"""When a function needs no replica, and when it needs one again. [P]

Again: where the platform holds its requests. Elsewhere a request wakes a function by itself.
"""

from dataclasses import replace
from typing import Any, Final

from slo_autoscaler.law.memory import Arrivals
from slo_autoscaler.law.platform import Standing
from slo_autoscaler.law.situation import Situation
from slo_autoscaler.law.traffic import newest_rate
from slo_autoscaler.model import Reason
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


def rests(at: Situation, standing: Standing, arrivals: Arrivals) -> bool:
    """Return whether 0 is due: no request for the whole idle period, and none returns.

    A minimum above 0 forbids it, unless the function's own labels demand it.
    """
    since = arrivals.idle_since
    if since is None or at.now - since < at.declared.zero_after:
        return False
    if at.scale.zero_after is None and at.scale.min:
        return False
    return not returns(at, standing, arrivals)


def returns(at: Situation, standing: Standing, arrivals: Arrivals) -> bool:
    """Return whether the traffic repeats at the time at which a replica requested now would serve."""
    history, timing = arrivals.history, at.spec.timing
    then = at.now + standing.horizon
    repeats = history.repeats(then, then + timing.interval, timing.rate_lag)
    return any(max(rates) > history.nothing for rates, _ in repeats)


def called(at: Situation, standing: Standing) -> Reason | None:
    """Return why a function without replicas needs one; None: it needs none.

    It does when a request waits, when a replica that still serves has had one, and one start-up before the
    traffic repeats.
    """
    if at.scale.waiting or newest_rate(at.seen) or at.seen.in_flight:
        return Reason.REQUESTS_WAIT
    return Reason.PEAK_EXPECTED if returns(at, standing, at.memory.traffic) else None
