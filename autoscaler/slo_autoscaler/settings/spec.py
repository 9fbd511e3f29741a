"""Defines the settings of one function: the section ``defaults``, and each entry of ``functions``. [P]

Owns the keys, their rules and defaults. Next step: ``law`` decides by them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf
from typing import Annotated, Final, Literal

from pydantic import Field, InstanceOf, ValidationInfo, field_validator
from pydantic.functional_validators import BeforeValidator

from slo_autoscaler.errors import PlatformError
from slo_autoscaler.settings.fields import (
    MODES,
    Cores,
    Count,
    Duration,
    Factor,
    Mode,
    ModeKey,
    Objective,
    PositiveDuration,
    Share,
    settings,
)
from slo_autoscaler.settings.schedule import Schedule

OBJECTIVE: Final = 0.99
"""Default objective of functions without a watchdog, the same as the watchdog's."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Times in seconds that ``config`` derives from the source and the platform."""

    interval: float = 0.0
    """Time between two reconciles."""
    rate_lag: float = 0.0
    """Mean age of a rate: half its window."""
    window: float = 30.0
    """Query window of attainment."""
    settle_time: float = 0.0
    """Time after a change in which the query window still includes the time before it."""
    max_age: float = inf
    """Maximum age of the newest sample; an older one is no data."""
    longest_gap: float = inf
    """Maximum gap between two decisions; a longer one is ignored, because the clock may have jumped."""
    cap_retry: float = 0.0
    """Time after which the autoscaler retries a count that the platform refused."""


@settings
class ScaleUp:
    """Limits of one scale-up: times ``max_factor`` or plus ``max_step``, whichever allows more."""

    max_factor: Factor = 2.0
    """Maximum factor between the current count and the next; ``max_step`` counts if it allows more."""
    max_step: Count = 4
    """Maximum number of replicas that one decision adds."""
    cooldown: Duration = 0.0
    """Time after a scale-up without another one. Starting replicas count as capacity in any case."""


@settings
class ScaleDown:
    """Limits of one scale-down: divided by ``max_factor`` or minus ``max_step``, whichever allows more."""

    max_factor: Factor = 2.0
    """Maximum divisor of the current count; ``max_step`` counts if it allows more."""
    max_step: Count = 1
    """Maximum number of replicas that one decision removes."""
    cooldown: Duration = 0.0
    """Time after a change in either direction without a scale-down."""
    stabilization_window: Duration = 0.0
    """Time whose highest recommendation rules a scale-down, as in the HPA; one start-up if that is longer."""


@settings
class FurtherMetric:
    """A further metric that sizes a function: at least value / ``target`` replicas."""

    name: Annotated[str, Field(min_length=1)]
    """Name in decisions."""
    query: Annotated[str, Field(min_length=1)]
    """PromQL of one series, or of one with the label function_name for each function."""
    target: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    """Value that one replica is to have of it."""


@settings
class Boost:
    """CPU above nominal: for replicas that serve while others start, and for those that start."""

    max_factor: Factor = 1.0
    """Maximum CPU limit of a serving replica, as a multiple of its nominal limit; 1: no boost. Only pods with
    the label tailbound.dev/boost are boosted, and a number there wins over this key."""
    max_cpu: Cores = 2.0
    """Maximum boosted CPU limit in cores. A nominal limit above it is not boosted."""
    requests: bool = False
    """Whether pods of QoS class Guaranteed are boosted, request and limit together: the node must have the
    CPU to spare. Other pods keep their request."""
    start_up_factor: Factor = 1.0
    """Maximum CPU limit of a replica until it first serves, as a multiple of its nominal limit; 1: no boost.
    Needs the same label, whose number limits it too."""


def _policy(value: object, info: ValidationInfo) -> str:
    known = (info.context or {}).get("policies", (value,))
    if not isinstance(value, str) or value not in known:
        raise ValueError(f"must be one of {', '.join(map(str, known))}")
    return value


@settings
class Spec:
    """Settings of a function; ``functions`` may override each for one function."""

    policy: Annotated[str, BeforeValidator(_policy)] = "slo"
    """``slo`` sizes by predicted late requests and spending window, ``proportional`` by latency alone."""
    mode: ModeKey = "active"
    """Mode of functions without the label. ``active``: decide and scale. ``recommend``: decide, and export
    the count for an HPA or KEDA. ``shadow``: decide and record beside the incumbent. ``off``: do nothing."""
    signals: Literal["watchdog", "gateway"] = "watchdog"
    """``gateway``: the function has no batching watchdog; its SLO is set here and the gateway measures. Needs
    ``policy: proportional``."""
    slo_latency: PositiveDuration | None = None
    """Target latency, only with ``signals: gateway``: a watchdog declares its function's SLO itself."""
    slo_objective: Objective | None = None
    """Share of requests that must meet ``slo_latency``, only with ``signals: gateway``. None: the watchdog's
    default."""
    min_replicas: Count = 1
    """Lower bound of functions whose labels or annotations have none."""
    max_replicas: Count = 5
    """Upper bound of functions whose labels or annotations have none."""
    budget_period: PositiveDuration = 3600.0
    """Spending window: time over which scaling keeps the objective. A late request counts for this long."""
    utilization_target: Share = 0.8
    """With policy ``proportional``: target latency as a share of the SLO's latency."""
    tolerance: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """With policy ``proportional``: relative deviation from the target latency that changes nothing."""
    min_samples: Count = 20
    """Minimum number of requests, completed or in flight, for a scale-up by latency alone."""
    priority: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    """Weight of its late requests where functions share replicas (``fleet``)."""
    group: str | None = None
    """Replica budget that it shares: one of ``fleet.groups``; None: ``fleet.replicas``."""
    start_up_time: Duration = 10.0
    """Least time from the request for a replica to its first answer. Longer times that replicas report or
    scale-ups show count instead."""
    scale_to_zero_after: PositiveDuration | None = None
    """Time without a request after which the last replica is removed; None: never."""
    schedule: Schedule = ()
    """Bounds at known times, for functions without an annotation that has them."""
    manual_hold: Duration = 0.0
    """Time for which a count stays that another client has set, such as ``kubectl scale``; 0: the next
    reconcile decides again."""
    also: tuple[FurtherMetric, ...] = ()
    """Further metrics that a function must have replicas for, beside those of its requests."""
    scale_up: ScaleUp = Field(default_factory=ScaleUp)
    scale_down: ScaleDown = Field(default_factory=ScaleDown)
    boost: Boost = Field(default_factory=Boost)
    timing: InstanceOf[Timing] = Timing()

    @field_validator("signals")
    @classmethod
    def _has_capacity(cls, signals: str, info: ValidationInfo) -> str:
        if signals == "gateway" and info.data.get("policy") == "slo":
            raise ValueError(
                "must have policy: proportional: policy slo needs the capacity of a replica, which only a"
                " watchdog measures"
            )
        return signals

    @field_validator("slo_latency", "slo_objective")
    @classmethod
    def _declared_once(cls, value: float | None, info: ValidationInfo) -> float | None:
        signals = info.data.get("signals")
        if signals == "watchdog" and value is not None:
            raise ValueError("must not be set without signals: gateway; a watchdog declares the SLO itself")
        if signals == "gateway" and value is None and info.field_name == "slo_latency":
            raise ValueError("must be a duration, such as 250ms, with signals: gateway")
        return value

    @field_validator("max_replicas")
    @classmethod
    def _above_minimum(cls, most: int, info: ValidationInfo) -> int:
        least = info.data.get("min_replicas")
        if least is not None and most < least:
            raise ValueError(f"must be at least min_replicas, {least}")
        return most

    @property
    def gateway_slo(self) -> "Slo | None":
        """The SLO to compare the gateway's metrics with; None: the function has a watchdog."""
        if self.signals != "gateway" or self.slo_latency is None:
            return None
        return Slo(self.slo_latency, self.slo_objective or OBJECTIVE)


@dataclass(frozen=True, slots=True)
class Modes:
    """The mode of each function: its label's, else the configuration's, and never more than ``most``."""

    named: Mapping[str, Mode] = field(default_factory=dict)
    """name.namespace -> its configured mode."""
    others: Mode = "active"
    most: Mode = "active"
    """``MODES`` has them in order."""

    def of(self, function_name: str, label: str, text: str | None) -> Mode:
        """Return the mode of a function with ``label: text``; None or "": it has no label.

        Raises ``PlatformError`` if ``text`` is no mode.
        """
        mode = next((known for known in MODES if known == text), None)
        if text and mode is None:
            raise PlatformError(
                f"{function_name}: label {label}: {text[:20]!r} must be one of {', '.join(MODES)},"
                " or empty for the configuration's mode"
            )
        return max(mode or self.named.get(function_name, self.others), self.most, key=MODES.index)


@settings
class Fleet:
    """Replica budgets: replicas that functions share. None: only each function's own limit."""

    replicas: Count | None = None
    """Replicas of all functions without a group."""
    groups: dict[str, Count] = Field(default_factory=dict)
    """Replicas of each group of functions, for example of those that need a GPU."""

    @property
    def budgets(self) -> dict[str | None, int]:
        """Replica budgets by group."""
        own: dict[str | None, int] = {} if self.replicas is None else {None: self.replicas}
        return own | self.groups


@dataclass(frozen=True, slots=True)
class Slo:
    """``latency`` seconds, met by the share ``objective`` of all requests."""

    latency: float
    objective: float


@dataclass(frozen=True, slots=True)
class GatewaySlos:
    """The SLOs of functions without our watchdog, which the gateway measures."""

    named: Mapping[str, Slo | None] = field(default_factory=dict)
    """name.namespace -> its SLO; None: this function has a watchdog."""
    others: Slo | None = None
    """SLO of every other function; None: they have watchdogs."""

    def of(self, function_name: str) -> Slo | None:
        """Return the SLO to compare the gateway's metrics with; None: the watchdog measures."""
        return self.named.get(function_name, self.others)

    def __bool__(self) -> bool:
        """Return whether any function is measured by the gateway."""
        return self.others is not None or any(slo is not None for slo in self.named.values())


@dataclass(frozen=True, slots=True)
class FurtherMetrics:
    """The further metrics of each function."""

    named: Mapping[str, tuple[FurtherMetric, ...]] = field(default_factory=dict)
    """name.namespace -> its own."""
    others: tuple[FurtherMetric, ...] = ()

    def of(self, function_name: str) -> tuple[FurtherMetric, ...]:
        """Return the metrics of one function."""
        return self.named.get(function_name, self.others)

    @property
    def queries(self) -> frozenset[str]:
        """The texts of all of them, each once."""
        return frozenset(each.query for some in (self.others, *self.named.values()) for each in some)
