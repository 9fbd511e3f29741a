"""Defines the numbers of a decision by name: every signal, and the derived ones. [P]

Journal, gauges, words, page and reference follow from these records. ``decide`` fills them in.
"""

from collections.abc import Mapping
from operator import attrgetter
from typing import Final

from slo_autoscaler.law.memory import Memory
from slo_autoscaler.law.periodicity import SLOT
from slo_autoscaler.model import Recommendation, Scale
from slo_autoscaler.signals import SIGNALS, Observation, Signal, Unit
from slo_autoscaler.spec import Spec

DERIVED: Final[Mapping[str, Signal]] = {
    "desired": Signal(Unit.COUNT, "Replicas requested from the platform."),
    "ready": Signal(Unit.COUNT, "Replicas that serve."),
    "pending": Signal(Unit.COUNT, "Replicas requested that do not serve yet."),
    "arrival_rate": Signal(
        Unit.RATE, "The larger of `rate` + `in_flight_growth` and `gateway_rate`: neither counts too many."
    ),
    "expected": Signal(
        Unit.RATE,
        "Requests per second expected one start-up time ahead.",
        gauge="slo_autoscaler_expected_requests_per_second",
    ),
    "predicted": Signal(
        Unit.SHARE,
        "Share of requests predicted to end late with the decided count.",
        gauge="slo_autoscaler_predicted_late_ratio",
    ),
    "predicted_fewer": Signal(
        Unit.SHARE,
        "Share of requests predicted to end late with one replica fewer than decided.",
        gauge="slo_autoscaler_predicted_late_fewer_ratio",
    ),
    "predicted_more": Signal(
        Unit.SHARE, "Share of requests predicted to end late with one replica more than decided."
    ),
    "worth": Signal(Unit.RATE, "Late requests per second that one more replica must save to be recommended."),
    "allowed": Signal(
        Unit.SHARE,
        "Share of requests that the error budget allows to end late now.",
        gauge="slo_autoscaler_allowed_late_ratio",
    ),
    "budget": Signal(
        Unit.SHARE,
        "Unspent share of the error budget of `budget_period`: 0 even, below 0 overspent.",
        gauge="slo_autoscaler_budget_ratio",
        restored="min",
    ),
    "correction": Signal(
        Unit.FACTOR,
        "Measured over predicted late requests: the calibration of the predictions.",
        gauge="slo_autoscaler_correction_ratio",
        restored="max",
    ),
    "horizon": Signal(Unit.SECONDS, "Time from requesting a replica to its first answer, as observed."),
    "period": Signal(Unit.SECONDS, "Period with which the rates repeat, if they do."),
    "burn_rate": Signal(
        Unit.FACTOR, "Rate at which the error budget is spent over the window; 1 spends it exactly."
    ),
    "stuck": Signal(
        Unit.COUNT,
        "Replicas that should serve by now and do not.",
        gauge="slo_autoscaler_stuck_replicas",
    ),
    "unschedulable": Signal(
        Unit.COUNT,
        "Replicas for which no node has room; null where the platform does not report them.",
        gauge="slo_autoscaler_unschedulable_replicas",
    ),
    "min": Signal(Unit.COUNT, "Lowest count allowed."),
    "max": Signal(Unit.COUNT, "Highest count allowed, by label, configuration or platform."),
    "share": Signal(
        Unit.COUNT,
        "Replicas that the shared budget of the fleet gives the function.",
        gauge="slo_autoscaler_fleet_share_replicas",
    ),
    "recommended": Signal(
        Unit.COUNT,
        "Replicas that the policy recommends, before bounds, limits and stabilization.",
        gauge="slo_autoscaler_recommended_replicas",
    ),
    "requested": Signal(Unit.COUNT, "Count that the platform refused, with `PlatformCap`."),
    "granted": Signal(Unit.COUNT, "Count that the platform gave instead."),
}
"""The derived numbers."""

INPUTS: Final[Mapping[str, Signal]] = {**DERIVED, **SIGNALS}


def numbers(
    spec: Spec, seen: Observation | None, scale: Scale, memory: Memory, found: Recommendation, now: float
) -> dict[str, float | None]:
    """Return the numbers of a decision; None: unknown."""
    seen = seen or _NOT_SEEN
    told: dict[str, float | None] = dict.fromkeys(DERIVED)
    told.update(zip(SIGNALS, _signals(seen), strict=True))
    told |= {
        "desired": scale.desired,
        "ready": scale.available,
        "pending": scale.pending,
        "arrival_rate": seen.arrival_rate,
        "horizon": memory.start_up(spec),
        "stuck": memory.stuck(spec, now),
        "unschedulable": scale.unschedulable,
        "period": memory.periodicity.period * SLOT or None,
        "correction": memory.budget.correction,
        "burn_rate": seen.burn_rate,
    }
    if found.late is not None:
        told |= {
            **predicted(found, scale.desired),
            "expected": found.rate,
            "allowed": found.allowed,
            "worth": found.worth,
            "budget": memory.budget.remaining(memory.moments.mean, spec.budget_period),
        }
    return told


_NOT_SEEN: Final = Observation()
_signals: Final = attrgetter(*SIGNALS)


def predicted(found: Recommendation, replicas: int) -> dict[str, float | None]:
    """Return the late shares predicted with so many replicas, one fewer and one more; {} without any."""
    if found.late is None:
        return {}
    return {
        "predicted": found.late(replicas),
        "predicted_fewer": found.late(replicas - 1),
        "predicted_more": found.late(replicas + 1),
    }
