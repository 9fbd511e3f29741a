"""The YAML configuration as a frozen ``Config``.

Owns every key's name, default and rule, and the words in which a wrong one is reported. Environment and flags
come in as ``overrides``. Durations are Go syntax (``1m30s``, ``250ms``) or a plain number of seconds, and are
seconds here.
"""

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import yaml
from pydantic import (
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic.dataclasses import dataclass

from slo_autoscaler.errors import ConfigError
from slo_autoscaler.law.policies import POLICIES
from slo_autoscaler.model import GatewaySlos, RateLimit, Slo, TargetSpec

MIN_SCRAPES: Final = 4
"""Scrapes that the query window must span: two are needed for a rate, one may be missed, one is the edge."""

MISSED_RECONCILES: Final = 4
"""Intervals after which a reconcile that should have come has not: the clock jumped, or the machine slept."""

OBJECTIVE: Final = 0.99
"""Of functions without a watchdog, unless they are given one; it is the watchdog's default too."""

OVERRIDES: Final = {
    "gateway_url": ("platform.gateway_url", "SLO_AUTOSCALER_GATEWAY_URL"),
    "prometheus_url": ("prometheus.url", "SLO_AUTOSCALER_PROMETHEUS_URL"),
    "web_port": ("web.port", "SLO_AUTOSCALER_WEB_PORT"),
}
"""Flag -> (key that it overrides, variable that does so too). The flag wins, then the variable."""

LEASE_SHARE: Final = 3
"""A leader acts for this less one parts of a lease; the last part is for requests that are under way."""

_UNITS: Final = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_GO_PART: Final = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)")
_GO_DURATION: Final = re.compile(rf"(?:{_GO_PART.pattern})+")
_NUMBER: Final = re.compile(r"\d+(?:\.\d*)?")
_FUNCTION_NAME: Final = re.compile(r"[A-Za-z0-9_.-]+\.[a-z0-9-]+")


def parse_duration(value: object) -> float:
    """Return seconds from Go syntax or a number. Raises ``ValueError`` with the rule."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, str) and _GO_DURATION.fullmatch(value):
        return sum(float(number) * _UNITS[unit] for number, unit in _GO_PART.findall(value))
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        return float(value)
    raise ValueError("must be a duration, such as 250ms, 30s or 1m30s (a plain number is seconds)")


def _url(value: object) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"https?://[^/\s?#]+(/[^\s?#]*)?", value):
        raise ValueError("must be an http:// or https:// URL without query")
    return value.rstrip("/")


def _policy(value: object) -> str:
    if not isinstance(value, str) or value not in POLICIES:
        raise ValueError(f"must be one of {', '.join(POLICIES)}")
    return value


Duration = Annotated[float, BeforeValidator(parse_duration), Field(ge=0, allow_inf_nan=False)]
PositiveDuration = Annotated[float, BeforeValidator(parse_duration), Field(gt=0, allow_inf_nan=False)]
Url = Annotated[str, BeforeValidator(_url)]
Factor = Annotated[float, Field(ge=1, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1, strict=True)]

_STRICT: Final = ConfigDict(extra="forbid", validate_default=True)


@dataclass(frozen=True, slots=True, config=_STRICT)
class BasicAuth:
    """Files that hold the gateway's user and password, as OpenFaaS mounts them."""

    user_file: str
    password_file: str


@dataclass(frozen=True, slots=True, config=_STRICT)
class OpenFaasConfig:
    """Functions of OpenFaaS, scaled through its gateway."""

    gateway_url: Url
    kind: Literal["openfaas"] = "openfaas"
    basic_auth: BasicAuth | None = None
    namespaces: Annotated[tuple[str, ...], Field(min_length=1)] = ("openfaas-fn",)
    timeout: PositiveDuration = 5.0
    """For each request."""
    concurrency: Annotated[int, Field(ge=1, le=64)] = 8
    """Requests at a time."""
    cap: Count | None = None
    """The most replicas that the platform gives (OpenFaaS CE: 5). Without it, it is found by asking."""
    cap_retry: PositiveDuration = 300.0
    """How long a refusal is believed."""

    @property
    def place(self) -> str:
        """Where this is, for the log."""
        return self.gateway_url


@dataclass(frozen=True, slots=True, config=_STRICT)
class KubernetesConfig:
    """Deployments that carry our annotation, scaled through the Kubernetes API."""

    kind: Literal["kubernetes"] = "kubernetes"
    kubeconfig: str | None = None
    """A file. None: the pod's service account, or outside a cluster what KUBECONFIG names."""
    context: str | None = None
    """Of the kubeconfig; None: its current one."""
    namespaces: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """None: all, which takes a ClusterRole."""
    timeout: PositiveDuration = 5.0
    """For each request, with its retries."""
    concurrency: Annotated[int, Field(ge=1, le=64)] = 8
    """Requests at a time, beside one watch for each kind of object and namespace."""
    resync: PositiveDuration = 300.0
    """Between two lists of everything; in between watches tell what changes."""
    cap: Count | None = None
    """The most replicas that any Deployment is to have, whatever its annotations say."""
    cap_retry: PositiveDuration = 300.0
    """How long a refusal is believed."""

    @property
    def place(self) -> str:
        """Where this is, for the log."""
        return _cluster(self.kind, self.namespaces)


@dataclass(frozen=True, slots=True, config=_STRICT)
class KnativeConfig:
    """Revisions of Knative Serving, scaled through the Kubernetes API."""

    kind: Literal["knative"] = "knative"
    mode: Literal["class", "floor"] = "class"
    """``class``: Revisions of the autoscaler class slo.tailbound.dev are ours. ``floor``: Knative's own
    autoscaler keeps them, and we raise its min-scale."""
    kubeconfig: str | None = None
    """A file. None: the pod's service account, or outside a cluster what KUBECONFIG names."""
    context: str | None = None
    """Of the kubeconfig; None: its current one."""
    namespaces: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """None: all, which takes a ClusterRole."""
    timeout: PositiveDuration = 5.0
    """For each request, with its retries."""
    concurrency: Annotated[int, Field(ge=1, le=64)] = 8
    """Requests at a time, beside one watch for each kind of object and namespace."""
    resync: PositiveDuration = 300.0
    """Between two lists of everything; in between watches tell what changes."""
    cap: Count | None = None
    """The most replicas that any Revision is to have, whatever its annotations say."""
    cap_retry: PositiveDuration = 300.0
    """How long a refusal is believed."""

    @property
    def place(self) -> str:
        """Where this is, for the log."""
        return _cluster(self.kind, self.namespaces)


PlatformConfig = OpenFaasConfig | KubernetesConfig | KnativeConfig


def _cluster(kind: str, namespaces: tuple[str, ...] | None) -> str:
    return f"{kind}, {'all namespaces' if namespaces is None else ' '.join(namespaces)}"


def _kind(platform: object) -> str:
    """Return which platform is meant; what is no mapping fails as the default one would."""
    kind = platform.get("kind", "openfaas") if isinstance(platform, Mapping) else "openfaas"
    return kind if isinstance(kind, str) else repr(kind)


@dataclass(frozen=True, slots=True, config=_STRICT)
class LeaseConfig:
    """A Lease of the Kubernetes API by which one of several autoscalers acts."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]{0,251}[a-z0-9])?$")] = "slo-autoscaler"
    namespace: str | None = None
    """None: the one that the autoscaler runs in."""
    duration: Annotated[PositiveDuration, Field(ge=1)] = 15.0
    """Whole seconds. How long after the last renewal of a leader that has died another one follows."""
    renew_interval: PositiveDuration = 2.0
    """Between two renewals; another's lease is looked at four times as often."""

    @field_validator("duration")
    @classmethod
    def _whole(cls, duration: float) -> float:
        if duration != int(duration):
            raise ValueError("must be whole seconds, as the Kubernetes API keeps it")
        return duration

    @field_validator("renew_interval")
    @classmethod
    def _several_tries(cls, interval: float, info: ValidationInfo) -> float:
        duration = info.data.get("duration")
        if duration is not None and interval > duration / LEASE_SHARE:
            raise ValueError(f"must be at most a third of duration, {duration / LEASE_SHARE:g}s")
        return interval


@dataclass(frozen=True, slots=True, config=_STRICT)
class LeaderConfig:
    """How several autoscalers agree on who acts; a lock on a file is the command line's (``--lock``)."""

    lease: LeaseConfig = Field(default_factory=LeaseConfig)


@dataclass(frozen=True, slots=True, config=_STRICT)
class PrometheusConfig:
    """Where observations come from."""

    url: Url
    scrape_interval: PositiveDuration = 5.0
    """What Prometheus is configured with for the functions; it cannot be asked for."""
    window: PositiveDuration = 30.0
    """Of latency and attainment; arrival rates are taken over ``rate_window``."""
    timeout: PositiveDuration = 5.0
    """For all queries of a reconcile together."""
    max_age: PositiveDuration = 20.0
    """A newest sample older than this is no data."""

    @property
    def rate_window(self) -> float:
        """The shortest window that gives a rate reliably, seconds."""
        return MIN_SCRAPES * self.scrape_interval

    @field_validator("window")
    @classmethod
    def _spans_scrapes(cls, window: float, info: ValidationInfo) -> float:
        scrape = info.data.get("scrape_interval")
        if scrape is not None and window < MIN_SCRAPES * scrape:
            raise ValueError(f"must span at least {MIN_SCRAPES} scrapes, {MIN_SCRAPES * scrape:g}s")
        return window


@dataclass(frozen=True, slots=True, config=_STRICT)
class WebConfig:
    """Where /metrics and /healthz are served, to machines, and where the status page is, to people."""

    host: str = "0.0.0.0"  # noqa: S104  (a pod is scraped from outside; the local platform sets loopback)
    port: Annotated[int, Field(ge=0, le=65535)] = 8082
    """0 is any free port; the log says which."""
    page_host: str = "127.0.0.1"
    """The page asks nobody who they are: beyond loopback, put it behind something that does."""
    page_port: Annotated[int, Field(ge=0, le=65535)] | None = 8083
    """As ``port``; None: no page."""
    page_allowed_hosts: tuple[str, ...] = ()
    """Host names by which browsers may ask for the page, besides localhost and addresses."""


@dataclass(frozen=True, slots=True, config=_STRICT)
class ScaleUpConfig:
    """One decision may multiply by ``max_factor`` or add ``max_step``, whichever allows more."""

    max_factor: Factor = 2.0
    max_step: Count = 4
    cooldown: Duration = 0.0


@dataclass(frozen=True, slots=True, config=_STRICT)
class ScaleDownConfig:
    """One decision may divide by ``max_factor`` or take away ``max_step``, whichever allows more."""

    max_factor: Factor = 2.0
    max_step: Count = 1
    cooldown: Duration = 0.0
    stabilization_window: Duration = 60.0


@dataclass(frozen=True, slots=True, config=_STRICT)
class ScalingConfig:
    """How a function is scaled; ``functions`` may override any of it for one function."""

    policy: Annotated[str, BeforeValidator(_policy)] = "slo"
    mode: Literal["active", "shadow"] = "active"
    """``shadow``: decide and record next to the incumbent, never act."""
    signals: Literal["watchdog", "gateway"] = "watchdog"
    """``gateway``: the function has no batching watchdog; its SLO stands here, and the gateway measures."""
    slo_latency: PositiveDuration | None = None
    """With ``signals: gateway`` only: a watchdog declares its function's SLO itself."""
    slo_objective: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Likewise; the share of requests that may take no longer. None: as the watchdog's default."""
    min_replicas: Count = 1
    """Where the label com.openfaas.scale.min is absent."""
    max_replicas: Count = 5
    """Where the label com.openfaas.scale.max is absent."""
    utilization_target: Annotated[float, Field(gt=0, le=1)] = 0.8
    utilization_limit: Annotated[float, Field(gt=0, le=1)] = 0.9
    """How near to the capacity to plan while error budget is in hand."""
    tolerance: Annotated[float, Field(ge=0, lt=1)] = 0.1
    min_samples: Count = 20
    start_up_time: Duration = 10.0
    scale_to_zero_after: PositiveDuration | None = None
    """Without a single request for so long, the last replica goes too; None: never."""
    scale_up: ScaleUpConfig = Field(default_factory=ScaleUpConfig)
    scale_down: ScaleDownConfig = Field(default_factory=ScaleDownConfig)

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


@dataclass(frozen=True, slots=True, config=_STRICT)
class Config:
    """Checked settings of one autoscaler."""

    platform: Annotated[
        Annotated[OpenFaasConfig, Tag("openfaas")]
        | Annotated[KubernetesConfig, Tag("kubernetes")]
        | Annotated[KnativeConfig, Tag("knative")],
        Discriminator(_kind),
    ]
    prometheus: PrometheusConfig
    interval: PositiveDuration = 5.0
    """Between the starts of two reconciles."""
    web: WebConfig = Field(default_factory=WebConfig)
    leader: LeaderConfig | None = None
    """None: this autoscaler is the only one, or a lock on a file keeps it apart from others."""
    defaults: ScalingConfig = Field(default_factory=ScalingConfig)
    functions: dict[str, ScalingConfig] = Field(default_factory=dict)
    """name.namespace -> what differs from ``defaults``, already merged with them."""

    @field_validator("leader")
    @classmethod
    def _outlasts_requests(cls, leader: LeaderConfig | None, info: ValidationInfo) -> LeaderConfig | None:
        platform = info.data.get("platform")
        if leader is not None and platform is not None:
            least = LEASE_SHARE * platform.timeout
            if leader.lease.duration < least:
                raise ValueError(f"lease.duration must be at least three times platform.timeout, {least:g}s")
        return leader

    @field_validator("defaults", "functions")
    @classmethod
    def _can_be_woken(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(info.data.get("platform"), KubernetesConfig):
            scalings = {"": value} if info.field_name == "defaults" else value
            for name, scaling in scalings.items():
                if scaling.scale_to_zero_after is not None:
                    where = f"{name}: " if name else ""
                    raise ValueError(
                        f"{where}scale_to_zero_after must be null: nothing wakes a Deployment from zero"
                    )
        return value

    @field_validator("functions")
    @classmethod
    def _full_names(cls, functions: dict[str, ScalingConfig]) -> dict[str, ScalingConfig]:
        for name in functions:
            if not _FUNCTION_NAME.fullmatch(name):
                raise ValueError(f"{name!r} must be name.namespace, such as vision.openfaas-fn")
        return functions

    @classmethod
    def parse(cls, text: str, file: str, overrides: Mapping[str, object] | None = None) -> "Config":
        """Read YAML text; ``overrides`` maps dotted keys (``prometheus.url``) to values that win.

        Raises ``ConfigError`` with one line for each fault: file, key, value, rule.
        """
        try:
            twice = _keys_given_twice(yaml.compose(text, yaml.SafeLoader))
            raw = yaml.safe_load(text)
        except (yaml.YAMLError, ValueError) as error:  # ValueError: a timestamp that is no date
            raise ConfigError([f"{file}: not YAML: {' '.join(str(error).split())}"]) from None
        if twice:
            raise ConfigError([f"{file}: {_key(key)}: is given twice, line {line}" for key, line in twice])
        raw = {} if raw is None else raw
        if not isinstance(raw, dict):
            raise ConfigError([f"{file}: must be a mapping of keys, such as platform: and prometheus:"])
        for key, value in (overrides or {}).items():
            if key == "platform.gateway_url" and _kind(raw.get("platform")) != "openfaas":
                continue  # the other platforms have no gateway
            raw = _override(raw, key.split("."), value)
        try:
            return _ADAPTER.validate_python(_with_defaults(raw))
        except ValidationError as error:
            raise ConfigError(_lines(error, file)) from None

    def target(self, function_name: str) -> TargetSpec:
        """Return how one function (name.namespace) is to be scaled."""
        scaling = self.functions.get(function_name, self.defaults)
        up, down = scaling.scale_up, scaling.scale_down
        return TargetSpec(
            function_name=function_name,
            policy=scaling.policy,
            mode=scaling.mode,
            min_replicas=scaling.min_replicas,
            max_replicas=scaling.max_replicas,
            utilization_target=scaling.utilization_target,
            utilization_limit=max(scaling.utilization_limit, scaling.utilization_target),
            tolerance=scaling.tolerance,
            min_samples=scaling.min_samples,
            start_up_time=scaling.start_up_time,
            rate_lag=self.prometheus.rate_window / 2,
            settle_time=self.prometheus.window + 2 * self.prometheus.scrape_interval,
            max_age=self.prometheus.max_age,
            longest_gap=max(MISSED_RECONCILES * self.interval, self.prometheus.max_age),
            scale_to_zero_after=scaling.scale_to_zero_after,
            stabilization_window=down.stabilization_window,
            up=RateLimit(up.max_factor, up.max_step, up.cooldown),
            down=RateLimit(down.max_factor, down.max_step, down.cooldown),
            cap_retry=self.platform.cap_retry,
        )

    def gateway_slos(self) -> GatewaySlos:
        """Return the SLOs of the functions that are judged by the gateway's metrics."""
        return GatewaySlos(
            {name: _gateway_slo(scaling) for name, scaling in self.functions.items()},
            _gateway_slo(self.defaults),
        )


def _gateway_slo(scaling: ScalingConfig) -> Slo | None:
    if scaling.signals != "gateway" or scaling.slo_latency is None:
        return None
    return Slo(scaling.slo_latency, scaling.slo_objective or OBJECTIVE)


def read_config(path: str, overrides: Mapping[str, object] | None = None) -> Config:
    """Return the configuration in the file, with what overrides it. Raises ``ConfigError``."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError([f"{path}: cannot be read: {error.strerror}"]) from None
    except UnicodeDecodeError:
        raise ConfigError([f"{path}: must be UTF-8 text"]) from None
    return Config.parse(text, path, overrides)


_ADAPTER: Final = TypeAdapter(Config)


def _keys_given_twice(node: yaml.Node | None, path: str = "") -> list[tuple[str, int]]:
    """Return the dotted keys that stand twice in a mapping, with the line: YAML would keep the last."""
    if not isinstance(node, yaml.MappingNode):
        return []
    twice, seen = [], set()
    for key, value in node.value:
        name = f"{path}{key.value}"
        if name in seen:
            twice.append((name, key.start_mark.line + 1))
        seen.add(name)
        twice += _keys_given_twice(value, f"{name}.")
    return twice


def _override(raw: dict[str, Any], path: list[str], value: object) -> dict[str, Any]:
    key, *rest = path
    below = raw.get(key)
    return raw | {key: _override(below if isinstance(below, dict) else {}, rest, value) if rest else value}


def _with_defaults(raw: dict[str, Any]) -> dict[str, Any]:
    """Put ``defaults`` under what each function overrides."""
    defaults, functions = raw.get("defaults"), raw.get("functions")
    if not isinstance(defaults, dict) or not isinstance(functions, dict):
        return raw
    return raw | {"functions": {name: _merged(defaults, own) for name, own in functions.items()}}


def _merged(below: object, above: object) -> object:
    if not isinstance(below, dict) or not isinstance(above, dict):
        return above
    return below | {key: _merged(below.get(key), value) for key, value in above.items()}


def _lines(error: ValidationError, file: str) -> list[str]:
    faults = error.errors(include_url=False)
    inherited = {fault["loc"][1:] for fault in faults if fault["loc"][:1] == ("defaults",)}
    return [
        f"{file}: {'.'.join(_key(part) for part in _place(fault))}: {_rule(fault)}"
        for fault in faults
        if not (fault["loc"][:1] == ("functions",) and fault["loc"][2:] in inherited)
    ]


def _place(fault: Any) -> tuple[object, ...]:
    """Return the keys that lead to a fault, as they stand in the file."""
    loc: tuple[object, ...] = fault["loc"]
    if fault["type"] == "union_tag_invalid":
        return (*loc, "kind")
    # Under platform the second part is which of its kinds was meant.
    return ("platform", *loc[2:]) if loc[:1] == ("platform",) else loc


def _rule(fault: Any) -> str:
    if fault["type"] == "unexpected_keyword_argument":
        known = _KEYS.get(str(fault["loc"][-2]) if len(fault["loc"]) > 1 else "", _SCALING_KEYS)
        near = difflib.get_close_matches(str(fault["loc"][-1]), known, 1)
        hint = f"did you mean {near[0]}?" if near else f"known here: {', '.join(known)}"
        return f"unknown key; {hint}"
    if fault["type"].startswith("missing"):
        return "must be set"
    if fault["type"] == "union_tag_invalid":
        return f"{_shown(fault['input'].get('kind'))} must be one of {', '.join(_KINDS)}"
    if fault["type"] == "dataclass_type":
        return f"{_shown(fault['input'])} must be a mapping of keys"
    rule = str(fault["msg"]).removeprefix("Value error, ").replace("Input should be", "must be")
    return rule if fault["loc"] in _WHOLE else f"{_shown(fault['input'])} {rule}"


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _key(part: object) -> str:
    """Return a key as it stands, but on one line whatever is in it."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in str(part))


def _keys(kind: Any) -> tuple[str, ...]:
    return tuple(field.name for field in fields(kind))


_KINDS: Final = {"openfaas": OpenFaasConfig, "kubernetes": KubernetesConfig, "knative": KnativeConfig}
_WHOLE: Final = (("functions",), ("defaults",), ("leader",))
"""Sections with rules over all that is in them: these name what is wrong themselves."""
_SCALING_KEYS: Final = _keys(ScalingConfig)
_KEYS: Final[Mapping[str, Iterable[str]]] = {
    "": _keys(Config),
    **{kind: _keys(config) for kind, config in _KINDS.items()},
    "leader": _keys(LeaderConfig),
    "lease": _keys(LeaseConfig),
    "basic_auth": _keys(BasicAuth),
    "prometheus": _keys(PrometheusConfig),
    "web": _keys(WebConfig),
    "defaults": _SCALING_KEYS,
    "scale_up": _keys(ScaleUpConfig),
    "scale_down": _keys(ScaleDownConfig),
}
"""Section -> its keys; what is not here is one function's overrides."""
