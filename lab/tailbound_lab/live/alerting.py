"""OpenFaaS CE's default scaling as a law: when Alertmanager notifies, and what the gateway then does.

Pure: the moment and the firing alerts are arguments. :mod:`tailbound_lab.live.twins` feeds it and acts.

In a cluster, Prometheus tells Alertmanager which alerts fire, and Alertmanager posts to the gateway. All
functions' alerts share one group (the chart groups by alertname, cluster and service), so one function's news
is every firing function's step. Here Alertmanager is these rules; they are its dispatch and de-duplication
with the chart's times, without clustering, silences or inhibition.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

GROUP_WAIT = 5.0
"""Seconds from a group's first alert to its first notification."""

GROUP_INTERVAL = 10.0
"""Seconds between two looks at a group that has been notified about."""

REPEAT_INTERVAL = 30.0
"""Seconds after which unchanged firing alerts are notified about again."""

MAX_REPLICAS = 5
"""OpenFaaS CE's ceiling, whatever the label says."""


@dataclass(frozen=True, slots=True)
class Group:
    """The alert group: when to look at it next (None: it has no alerts), and what was last said, and when."""

    alerts: frozenset[str] = frozenset()
    next_flush: float | None = None
    notified: frozenset[str] = frozenset()
    notified_at: float = -math.inf


@dataclass(frozen=True, slots=True)
class Notification:
    """One post to the gateway: the functions whose alert fires, and those whose alert has been resolved."""

    firing: frozenset[str]
    resolved: frozenset[str]


def observe(group: Group, firing: frozenset[str], now: float) -> tuple[Group, Notification | None]:
    """Return the group after a look at the firing alerts, and the notification that goes out now, if any.

    1. New alerts join the group; a group's first alert starts the group wait.
    2. Nothing goes out before the group's next flush.
    3. At a flush a notification goes out if an alert fires that was not in the last one, if one of the last
       one's no longer fires, or if the last one is a repeat interval old and alerts still fire.
    4. Alerts that no longer fire leave the group; an empty group has no next flush.
    """
    alerts = group.alerts | firing
    if not alerts:
        return group, None
    due = now + GROUP_WAIT if group.next_flush is None else group.next_flush
    if now < due:
        return Group(alerts, due, group.notified, group.notified_at), None
    resolved = alerts - firing
    news = bool(firing - group.notified) or bool(resolved & group.notified)
    repeat = bool(firing) and now - group.notified_at >= REPEAT_INTERVAL
    following = now + GROUP_INTERVAL if firing else None
    if not (news or repeat):
        return Group(firing, following, group.notified & firing, group.notified_at), None
    return Group(firing, following, firing, now), Notification(firing, resolved)


def desired_replicas(current: int, *, firing: bool, minimum: int, maximum: int, factor: int) -> int:
    """Return the count that the gateway sets on an alert: one step up while it fires, the minimum afterwards.

    The step is ``factor`` percent of the maximum, rounded up; the maximum is capped at 5 (CE). A count that
    somebody else put above the maximum is lowered to it, as the gateway does.
    """
    if not firing:
        return minimum
    ceiling = min(maximum, MAX_REPLICAS)
    # Integers, not floats: 5 * 20 / 100 must be 1, whatever the rounding.
    step = -(-ceiling * factor // 100)
    return min(current + step, ceiling)
