"""How one function is scaled: the section ``defaults`` of the configuration, and each of ``functions``. [P]

Owns the keys of a function, their rules and defaults. Next step: ``law`` decides by them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf
from typing import Annotated, Final, Literal

from pydantic import Field, InstanceOf, ValidationInfo, field_validator
from pydantic.functional_validators import BeforeValidator

from slo_autoscaler.errors import PlatformError
from slo_autoscaler.fields import (
    MODES,
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

OBJECTIVE: Final = 0.99
"""Of functions without a watchdog, unless they are given one; it is the watchdog's default too."""


@dataclass(frozen=True, slots=True)
class Timing:
    """What the source and the platform make of time, in seconds; ``config`` derives it."""

    interval: float = 0.0
    """Between two reconciles."""
    rate_lag: float = 0.0
    """How old a rate is on average: half its window."""
    settle_time: float = 0.0
    """After a change, how long the query window still holds the time before it."""
    max_age: float = inf
    """A newest sample older than this is no data."""
    longest_gap: float = inf
    """More than this between two decisions is no passing of time that anything may be concluded from."""
    cap_retry: float = 0.0
    """How long a platform's refusal to give more is believed before it is asked again."""


@settings
class ScaleUp:
    """One decision may multiply by ``max_factor`` or add ``max_step``, whichever allows more."""

    max_factor: Factor = 2.0
    """By which one decision may multiply the current count."""
    max_step: Count = 4
    """Replicas that one decision may add."""
    cooldown: Duration = 0.0
    """Since the last scale-up. Replicas that are starting count as capacity anyway."""


@settings
class ScaleDown:
    """One decision may divide by ``max_factor`` or take away ``max_step``, whichever allows more."""

    max_factor: Factor = 2.0
    """By which one decision may divide the current count."""
    max_step: Count = 1
    """Replicas that one decision may take away."""
    cooldown: Duration = 0.0
    """Since the last change in either direction."""
    stabilization_window: Duration = 0.0
    """Beyond one start-up, for how long fewer must have been enough at every look."""


def _policy(value: object, info: ValidationInfo) -> str:
    known = (info.context or {}).get("policies", (value,))
    if not isinstance(value, str) or value not in known:
        raise ValueError(f"must be one of {', '.join(map(str, known))}")
    return value


@settings
class Spec:
    """How a function is scaled; ``functions`` may override any of it for one function."""

    policy: Annotated[str, BeforeValidator(_policy)] = "slo"
    """``slo`` sizes by predicted late requests and error budget, ``proportional`` by latency alone."""
    mode: ModeKey = "active"
    """Where the function's label says none. ``active``: decide and scale. ``recommend``: decide, and export
    the count for an HPA or KEDA. ``shadow``: decide and record next to the incumbent. ``off``: nothing."""
    signals: Literal["watchdog", "gateway"] = "watchdog"
    """``gateway``: the function has no batching watchdog; its SLO stands here, and the gateway measures."""
    slo_latency: PositiveDuration | None = None
    """With ``signals: gateway`` only: a watchdog declares its function's SLO itself."""
    slo_objective: Objective | None = None
    """Likewise; the share of requests that may take no longer. None: as the watchdog's default."""
    min_replicas: Count = 1
    """Where the label com.openfaas.scale.min is absent."""
    max_replicas: Count = 5
    """Where the label com.openfaas.scale.max is absent."""
    budget_period: PositiveDuration = 3600.0
    """Over which the objective is to hold, as far as scaling can make it: the account of what was late."""
    utilization_target: Share = 0.8
    """In ``proportional``: share of the SLO's latency to aim at."""
    tolerance: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """In ``proportional``: a latency this close to its target changes nothing."""
    min_samples: Count = 20
    """Where latency alone decides, fewer requests (completed or in flight) never cause a scale-up."""
    priority: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    """How much a late request of it weighs where functions share replicas (``fleet``)."""
    group: str | None = None
    """Whose replicas it shares: one of ``fleet.groups``; None: ``fleet.replicas``."""
    start_up_time: Duration = 10.0
    """From asking for a replica to its first answer; longer if scale-ups are seen to take longer."""
    scale_to_zero_after: PositiveDuration | None = None
    """Without a single request for so long, the last replica goes too; None: never."""
    scale_up: ScaleUp = Field(default_factory=ScaleUp)
    scale_down: ScaleDown = Field(default_factory=ScaleDown)
    timing: InstanceOf[Timing] = Timing()

    @field_validator("slo_latency", "slo_objective")
    @classmethod
    def _declared_once(cls, value: float | None, info: ValidationInfo) -> float | None:
        signals = info.data.get("signals")
        if signals == "watchdog" and value is not None:
            raise ValueError("is for signals: gateway only; a watchdog declares its function's SLO itself")
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
        """The SLO that the gateway's metrics are held against; None: the function has a watchdog."""
        if self.signals != "gateway" or self.slo_latency is None:
            return None
        return Slo(self.slo_latency, self.slo_objective or OBJECTIVE)


@dataclass(frozen=True, slots=True)
class Modes:
    """Which mode each function has: its label's, else the configuration's, and never more than ``most``."""

    named: Mapping[str, Mode] = field(default_factory=dict)
    """name.namespace -> what the configuration says of it."""
    others: Mode = "active"
    most: Mode = "active"
    """``MODES`` has them in order."""

    def of(self, function_name: str, label: str, text: str | None) -> Mode:
        """Return the mode of a function whose ``label`` says ``text``; None or nothing: it says none.

        Raises ``PlatformError`` if that is no mode.
        """
        mode = next((known for known in MODES if known == text), None)
        if text and mode is None:
            raise PlatformError(
                f"{function_name}: label {label}: {text!r} must be one of {', '.join(MODES)},"
                " or empty for the configuration's mode"
            )
        return max(mode or self.named.get(function_name, self.others), self.most, key=MODES.index)


@settings
class Fleet:
    """Replicas that functions share: what the cluster can hold. None: no limit but each function's own."""

    replicas: Count | None = None
    """Of all functions without a group."""
    groups: dict[str, Count] = Field(default_factory=dict)
    """Of the functions of each group, such as those that need a GPU."""

    @property
    def budgets(self) -> dict[str | None, int]:
        """Group -> replicas that its functions share."""
        own: dict[str | None, int] = {} if self.replicas is None else {None: self.replicas}
        return own | self.groups


@dataclass(frozen=True, slots=True)
class Slo:
    """``latency`` seconds, met by the share ``objective`` of all requests."""

    latency: float
    objective: float


@dataclass(frozen=True, slots=True)
class GatewaySlos:
    """The SLOs of functions without our watchdog, which are judged by the gateway's metrics."""

    named: Mapping[str, Slo | None] = field(default_factory=dict)
    """name.namespace -> its SLO; None: this one has a watchdog, whatever holds for the others."""
    others: Slo | None = None
    """For every function that is not named; None: they have watchdogs."""

    def of(self, function_name: str) -> Slo | None:
        """Return the SLO that the gateway's metrics are held against; None: the watchdog's are used."""
        return self.named.get(function_name, self.others)

    def __bool__(self) -> bool:
        """Tell whether there is any such function."""
        return self.others is not None or any(slo is not None for slo in self.named.values())
