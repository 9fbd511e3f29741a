"""The policies: how the stages ``replica``, ``traffic`` and ``need`` answer. [P]

A policy is a function ``(Situation, Standing) -> (Need | Hold, Memory)``; it knows no limits. ``decide``
calls it only with data, an SLO and at least one requested replica. A new policy is a function and a record
in ``POLICIES``; its own setting is a field of ``Spec``, its own reason a member of ``Reason``.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from slo_autoscaler.law import latency
from slo_autoscaler.law.memory import Memory
from slo_autoscaler.law.need import needed
from slo_autoscaler.law.platform import Standing
from slo_autoscaler.law.replica import carries
from slo_autoscaler.law.situation import Situation
from slo_autoscaler.law.traffic import outlook
from slo_autoscaler.model import Hold, Need

Law = Callable[[Situation, Standing], tuple[Need | Hold, Memory]]


@dataclass(frozen=True, slots=True)
class Policy:
    """One way to size a function."""

    need: Law
    label: str
    """Description for the page and the reference."""


def slo(at: Situation, standing: Standing) -> tuple[Need | Hold, Memory]:
    """Size by predicted late requests; by latency alone until a capacity is known."""
    if not at.seen.capacity:
        return latency.without_capacity(at, standing), at.memory
    carried, measured = carries(at, standing)
    expected, arrivals = outlook(at, standing, carried.window)
    need, account = needed(at, standing, carried, expected)
    return need, replace(at.memory, replica=measured, traffic=arrivals, need=account)


def proportional(at: Situation, standing: Standing) -> tuple[Need | Hold, Memory]:
    """Apply the formula of the Kubernetes HPA to latency."""
    return latency.proportional(at, standing), at.memory


POLICIES: Final[dict[str, Policy]] = {
    "proportional": Policy(proportional, "the formula of the Kubernetes HPA, applied to latency"),
    "slo": Policy(slo, "every replica that saves enough predicted late requests"),
}
