"""Reads the YAML configuration into a frozen ``Config``, composed of the sections of each room.

Owns the rules across sections and the error messages. A key is a field of a section: here, in ``spec``, or in
its room's ``Settings``. Environment variables and flags come in as ``overrides``.
"""

import difflib
import importlib
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import Field, PlainValidator, TypeAdapter, ValidationError, ValidationInfo, field_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from slo_autoscaler.errors import ConfigError
from slo_autoscaler.kube import lease_rules
from slo_autoscaler.law.need import POLICIES
from slo_autoscaler.platforms import PLATFORMS, PlatformSettings
from slo_autoscaler.settings import fields
from slo_autoscaler.settings.fields import Mode, PositiveDuration, settings
from slo_autoscaler.settings.spec import Fleet, FurtherMetrics, GatewaySlos, Modes, Spec, Timing
from slo_autoscaler.show.web import Settings as WebSettings
from slo_autoscaler.signals import source as sources

MISSED_RECONCILES: Final = 4
"""Intervals between two reconciles beyond which the clock must have jumped, or the machine slept."""

OVERRIDES: Final = {
    "gateway_url": ("platform.gateway_url", "SLO_AUTOSCALER_GATEWAY_URL"),
    "prometheus_url": ("prometheus.url", "SLO_AUTOSCALER_PROMETHEUS_URL"),
    "web_port": ("web.port", "SLO_AUTOSCALER_WEB_PORT"),
}
"""Flag -> (key that it overrides, variable that does so too). The flag wins, then the variable."""

CONTEXT: Final = {"policies": POLICIES}
"""Validates the fields of ``Spec``, for rules that need other sections."""

_FUNCTION_NAME: Final = re.compile(r"[A-Za-z0-9_.-]+\.[a-z0-9-]+")


def platform_section(kind: str) -> type:
    """Return the section of one kind of platform; loads that platform and no other."""
    section: type = importlib.import_module(PLATFORMS[kind][0]).Settings
    return section


def _kind(platform: object) -> str:
    """Return the configured kind of platform; anything but a mapping fails as the default kind would."""
    kind = platform.get("kind", "openfaas") if isinstance(platform, Mapping) else "openfaas"
    return kind if isinstance(kind, str) else repr(kind)


def _platform(value: object) -> PlatformSettings:
    """Check the section by the class of its kind."""
    kind = _kind(value)
    if kind not in PLATFORMS:
        rule = PydanticCustomError("one_of", f"must be one of {', '.join(PLATFORMS)}")
        shown = value.get("kind") if isinstance(value, Mapping) else value
        fault = InitErrorDetails(type=rule, loc=("kind",), input=shown)
        raise ValidationError.from_exception_data("platform", [fault])
    checked: PlatformSettings = TypeAdapter(platform_section(kind)).validate_python(value)
    return checked


@settings
class LeaderSettings:
    """How several autoscalers elect a leader."""

    lease: lease_rules.Settings = Field(default_factory=lease_rules.Settings)


@settings
class Config:
    """Checked settings of one autoscaler."""

    platform: Annotated[PlatformSettings, PlainValidator(_platform)]
    prometheus: sources.Settings
    interval: PositiveDuration = 5.0
    """Time between the starts of two reconciles."""
    direct_interval: PositiveDuration | None = 1.0
    """Time between two direct reads of the load from the pages that Prometheus scrapes; null: none."""
    web: WebSettings = Field(default_factory=WebSettings)
    leader: LeaderSettings | None = None
    """Leader election by a Lease; None: this autoscaler is the only one."""
    fleet: Fleet = Field(default_factory=Fleet)
    """Replica budgets, which functions share."""
    defaults: Spec = Field(default_factory=Spec)
    functions: dict[str, Spec] = Field(default_factory=dict)
    """Settings of single functions, by name.namespace; each is merged with ``defaults``."""

    @field_validator("leader")
    @classmethod
    def _outlasts_requests(cls, leader: LeaderSettings | None, info: ValidationInfo) -> LeaderSettings | None:
        platform = info.data.get("platform")
        if leader is not None and platform is not None:
            least = lease_rules.LEASE_SHARE * platform.timeout
            if leader.lease.duration < least:
                raise ValueError(f"lease.duration must be at least three times platform.timeout, {least:g}s")
        return leader

    @field_validator("defaults", "functions")
    @classmethod
    def _fits_other_sections(cls, value: Any, info: ValidationInfo) -> Any:
        platform, fleet = info.data.get("platform"), info.data.get("fleet")
        specs: dict[str, Spec] = {"": value} if info.field_name == "defaults" else value
        for name, spec in specs.items():
            where = f"{name}: " if name else ""
            if platform is not None and not platform.wakes and spec.scale_to_zero_after is not None:
                rule = "scale_to_zero_after must be null: nothing wakes a Deployment from zero"
                raise ValueError(f"{where}{rule}")
            if fleet is not None and spec.group is not None and spec.group not in fleet.groups:
                known = ", ".join(fleet.groups) or "none is there"
                raise ValueError(f"{where}group {spec.group!r} must be one of fleet.groups: {known}")
        return value

    @field_validator("functions")
    @classmethod
    def _full_names(cls, functions: dict[str, Spec]) -> dict[str, Spec]:
        for name in functions:
            if not _FUNCTION_NAME.fullmatch(name):
                raise ValueError(f"{name!r} must be name.namespace, such as vision.openfaas-fn")
        return functions

    @classmethod
    def parse(cls, text: str, file: str, overrides: Mapping[str, object] | None = None) -> "Config":
        """Read YAML text; ``overrides`` maps dotted keys (``prometheus.url``) to values that win.

        Raises ``ConfigError`` with one line for each fault: file, key, value, rule.
        """
        raw = _mapping(text, file)
        for key, value in (overrides or {}).items():
            if key == "platform.gateway_url" and "gateway_url" not in _platform_keys(raw):
                continue
            raw = _override(raw, key.split("."), value)
        try:
            return _ADAPTER.validate_python(_with_defaults(raw), context=CONTEXT)
        except ValidationError as error:
            raise ConfigError(_lines(error, file, raw)) from None

    def target(self, function_name: str) -> Spec:
        """Return the settings of one function (name.namespace)."""
        source = self.prometheus
        timing = Timing(
            interval=self.interval,
            rate_lag=source.rate_window / 2,
            window=source.window,
            settle_time=source.window + 2 * source.scrape_interval,
            max_age=source.max_age,
            longest_gap=max(MISSED_RECONCILES * self.interval, source.max_age),
            cap_retry=self.platform.cap_retry,
        )
        return replace(self.functions.get(function_name, self.defaults), timing=timing)

    @property
    def identity(self) -> str:
        """A name that a restart keeps, and that other autoscalers in one cluster do not have."""
        lease = None if self.leader is None else self.leader.lease
        parts = [self.platform.place, *(() if lease is None else (lease.namespace or "", lease.name))]
        return ", ".join(part for part in parts if part)

    def modes(self, most: Mode = "active") -> Modes:
        """Return the configured mode of every function, limited to ``most``; labels override it."""
        named = {name: spec.mode for name, spec in self.functions.items()}
        return Modes(named, self.defaults.mode, most)

    def gateway_slos(self) -> GatewaySlos:
        """Return the SLOs of the functions that are judged by the gateway's metrics."""
        named = {name: spec.gateway_slo for name, spec in self.functions.items()}
        return GatewaySlos(named, self.defaults.gateway_slo)

    def further(self) -> FurtherMetrics:
        """Return the further metrics of the functions."""
        return FurtherMetrics({name: spec.also for name, spec in self.functions.items()}, self.defaults.also)


_ADAPTER: Final = TypeAdapter(Config)
_WEB: Final = TypeAdapter(WebSettings)


def read_config(path: str, overrides: Mapping[str, object] | None = None) -> Config:
    """Return the configuration in the file, with ``overrides`` laid over it. Raises ``ConfigError``."""
    return Config.parse(_text(path), path, overrides)


def read_web(path: str | None, overrides: Mapping[str, object] | None = None) -> WebSettings:
    """Return only the section ``web``, for commands that query a running autoscaler. Raises ``ConfigError``.

    ``path`` None gives the defaults. The rest of the file is not checked.
    """
    raw = {} if path is None else _mapping(_text(path), path)
    for key, value in (overrides or {}).items():
        raw = _override(raw, key.split("."), value)
    try:
        return _WEB.validate_python(raw.get("web", {}))
    except ValidationError as error:
        faults = [{**fault, "loc": ("web", *fault["loc"])} for fault in error.errors(include_url=False)]
        raise ConfigError([_line(fault, path or "environment", raw) for fault in faults]) from None


def sections(section: type, key: str) -> list[type]:
    """Return the sections that a key of a section may hold: of ``platform`` one for each kind."""
    if section is Config and key == "platform":
        return [platform_section(kind) for kind in PLATFORMS]
    return fields.sections(fields.keys(section)[key])


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError([f"{path}: cannot be read: {error.strerror}"]) from None
    except UnicodeDecodeError:
        raise ConfigError([f"{path}: must be UTF-8 text"]) from None


def _mapping(text: str, file: str) -> dict[str, Any]:
    """Return the keys of YAML text. Raises ``ConfigError``."""
    try:
        raw, wrong = fields.parse_yaml(text, file)
    except ValueError as error:
        raise ConfigError([f"{file}: {error}"]) from None
    if wrong:
        raise ConfigError([f"{file}: {fields.printable(key)}: {rule}" for key, rule in wrong])
    if raw is not None and not isinstance(raw, dict):
        raise ConfigError([f"{file}: must be a mapping of keys, such as platform: and prometheus:"])
    # A section whose keys are all comments is null.
    known = fields.keys(Config)
    empty = {key for key, value in (raw or {}).items() if value is None and fields.sections(known.get(key))}
    return {key: value for key, value in (raw or {}).items() if key not in empty}


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


def _lines(error: ValidationError, file: str, raw: Mapping[str, Any]) -> list[str]:
    faults = error.errors(include_url=False)
    inherited = {fault["loc"][1:] for fault in faults if fault["loc"][:1] == ("defaults",)}
    return [
        _line(fault, file, raw)
        for fault in faults
        if not (fault["loc"][:1] == ("functions",) and fault["loc"][2:] in inherited)
    ]


def _line(fault: Any, file: str, raw: Mapping[str, Any]) -> str:
    return f"{file}: {'.'.join(map(fields.printable, fault['loc']))}: {_rule(fault, raw)}"


def _rule(fault: Any, raw: Mapping[str, Any]) -> str:
    if fault["type"] == "unexpected_keyword_argument":
        known = _known(fault["loc"][:-1], raw)
        near = difflib.get_close_matches(str(fault["loc"][-1]), known, 1)
        hint = f"did you mean {near[0]}?" if near else f"known here: {', '.join(known)}"
        return fields.REMOVED.get(".".join(map(str, fault["loc"])), f"unknown key; {hint}")
    return fields.rule_of(fault, shows=fault["loc"] not in _WHOLE)


def _known(place: tuple[object, ...], raw: Mapping[str, Any]) -> list[str]:
    """Return the keys of the section at a place in the file."""
    section: type = Config
    # A function may be named like a key.
    named = place[1:2] if place[:1] == ("functions",) else ()
    for part in place[:1] + place[1 + len(named) :]:
        if section is Config and part == "platform":
            section = platform_section(_kind(raw.get("platform")))
        elif part in fields.keys(section):
            section = sections(section, str(part))[0]
    return list(fields.keys(section))


def _platform_keys(raw: Mapping[str, Any]) -> list[str]:
    return _known(("platform",), raw) if _kind(raw.get("platform")) in PLATFORMS else []


_WHOLE: Final = (("functions",), ("defaults",), ("leader",))
"""Sections whose rules concern several keys: their messages name the wrong key themselves."""
