"""The numbers that a decision is made of, by name: every signal, and what the law derives. [P]

Journal, gauges, words, page and reference follow from these records. ``decide`` fills them in.
"""

from collections.abc import Mapping
from typing import Final

from slo_autoscaler.law.memory import Outlook, TargetState
from slo_autoscaler.model import Scale
from slo_autoscaler.signals import SIGNALS, Observation, Signal, Unit

DERIVED: Final[Mapping[str, Signal]] = {
    "desired": Signal(Unit.COUNT, "replicas that the platform was asked for"),
    "ready": Signal(Unit.COUNT, "replicas that serve"),
    "pending": Signal(Unit.COUNT, "replicas that were asked for and do not serve yet"),
    "arrival_rate": Signal(
        Unit.RATE, "the larger of `rate` + `in_flight_growth` and `gateway_rate`: each can only miss some"
    ),
    "forecast": Signal(
        Unit.RATE,
        "Arrivals expected one start-up time ahead.",
        gauge="slo_autoscaler_forecast_requests_per_second",
    ),
    "horizon": Signal(Unit.SECONDS, "how far ahead that is"),
    "utilization": Signal(Unit.SHARE, "share of the capacity that is planned with"),
    "standing": Signal(Unit.RATE, "requests that must be served at once whenever they come"),
    "overspent": Signal(
        Unit.BUDGET_SECONDS,
        "Error budget spent beyond what was planned, in seconds of mean traffic; negative: in hand.",
        gauge="slo_autoscaler_overspent_budget_seconds",
        restored="max",
    ),
    "regret": Signal(
        Unit.BUDGET_SECONDS,
        "Of what is overspent, what more replicas would have saved at a load that was seen before.",
        gauge="slo_autoscaler_regretted_budget_seconds",
        restored="max",
    ),
    "peak": Signal(
        Unit.RATE,
        "Highest arrival rate of the last hour.",
        gauge="slo_autoscaler_recent_peak_requests_per_second",
        restored="max",
    ),
    "peak_every": Signal(Unit.SECONDS, "distance between peaks, where it is regular"),
    # Of two autoscalers the more careful one.
    "correction": Signal(
        Unit.SHARE,
        "Factor on the learned capacity: how far measured attainment contradicts it.",
        gauge="slo_autoscaler_capacity_correction_ratio",
        restored="min",
    ),
    "burn_rate": Signal(Unit.FACTOR, "how fast the error budget is spent over the window"),
    "service_time_baseline": Signal(
        Unit.SECONDS, "mean service time of a batch while the objective is met, learned slowly"
    ),
    "min": Signal(Unit.COUNT, "lowest count allowed"),
    "max": Signal(Unit.COUNT, "highest count allowed, by label or platform"),
    "recommended": Signal(
        Unit.COUNT,
        "What the policy wants, before bounds, limits and stabilization.",
        gauge="slo_autoscaler_recommended_replicas",
    ),
    "requested": Signal(Unit.COUNT, "the count that the platform refused, with `PlatformCap`"),
    "granted": Signal(Unit.COUNT, "the count that it gave instead"),
}
"""What the law adds to the signals."""

INPUTS: Final[Mapping[str, Signal]] = {**DERIVED, **SIGNALS}

_EARLY: Final = ("forecast", "utilization", "standing", "peak", "peak_every")
"""Known once there are data; None until then."""


def observed(seen: Observation | None, scale: Scale, state: TargetState) -> dict[str, float | None]:
    """Return what every decision tells, with None for what is not known."""
    seen = seen or Observation()
    return {
        "desired": scale.desired,
        "ready": scale.available,
        "pending": scale.pending,
        "arrival_rate": seen.arrival_rate,
        **dict.fromkeys(_EARLY),
        "overspent": state.headroom.overspent,
        "regret": state.headroom.regret,
        "correction": state.correction,
        "burn_rate": seen.burn_rate,
        "service_time_baseline": state.service_baseline,
        **{name: getattr(seen, name) for name in SIGNALS},
    }


def expected(outlook: Outlook, state: TargetState, now: float) -> dict[str, float | None]:
    """Return what is told beside, where there are data."""
    headroom = state.headroom
    return {
        "forecast": outlook.forecast,
        "horizon": outlook.horizon,
        "utilization": outlook.utilization,
        "standing": outlook.standing,
        "overspent": headroom.overspent,
        "regret": headroom.regret,
        "peak": headroom.peak(now),
        "peak_every": headroom.recurrence.every,
    }
