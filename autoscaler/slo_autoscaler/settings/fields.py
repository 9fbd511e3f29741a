"""Defines the types of settings, with their rules. [P]

A section of the configuration is a class under ``settings``, in the room that uses it; a key is one field
with type, default and docstring. ``config`` composes the sections. Next step: ``spec``, then ``config``.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from datetime import UTC, datetime
from typing import (
    Annotated,
    Any,
    ClassVar,
    Final,
    Literal,
    TypeVar,
    cast,
    dataclass_transform,
    get_args,
    get_origin,
    get_type_hints,
)
from urllib.parse import urlsplit

import yaml
from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator
from pydantic.dataclasses import dataclass
from pydantic_core import PydanticCustomError

_UNITS: Final = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_GO_PART: Final = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)")
_GO_DURATION: Final = re.compile(rf"(?:{_GO_PART.pattern})+")
_NUMBER: Final = re.compile(r"\d+(?:\.\d*)?")
_TEXT_KEYS: Final = ("tag:yaml.org,2002:str", "tag:yaml.org,2002:merge")
_TOKEN: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_HEADER: Final = re.compile(r"[!-~]([ -~]*[!-~])?")
_LABEL: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_HOST_NAME: Final = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")
_OWN_HEADERS: Final = {
    "authorization": "bearer_token_file and basic_auth set it from a file",
    "host": "it is the host of url",
}

MOST_DIGITS: Final = 10
"""Digits of a number from a client or an annotation, as of Go's int32. Python refuses thousands of digits."""

MOST: Final = 10**MOST_DIGITS - 1
"""The largest such number."""

MOST_NODES: Final = 1_000_000
"""Keys and values of a YAML document, aliases counted at each place; 10,000 functions have a third."""
LONGEST_JSON: Final = 8 * 1024
"""Characters of JSON in an annotation."""
MOST_PARTS: Final = 33
"""Lists and objects in it: a list of 32 objects."""
MOST_KEYS: Final = 16
"""Keys of an object in it."""
MOST_FAULTS: Final = 3
"""Faults of an annotation, or of an object's annotations, that a message names."""
LONGEST_DURATION: Final = 40
"""Characters of a duration."""

_LOCK: Final = "was removed; leader.lease elects one of several autoscalers, without Kubernetes only one runs"

REMOVED: Final[Mapping[str, str]] = {
    "--lock": _LOCK,
    "SLO_AUTOSCALER_LOCK": _LOCK,
    "platform.mode": (
        "was removed; the class slo.tailbound.dev scales, and under Knative's own autoscaler"
        " the label tailbound.dev/mode: recommend decides and writes nothing"
    ),
    "web.grafana_url": (
        "was removed; set grafana_url in Prometheus' global.external_labels, which alerts link by"
    ),
    "slo-autoscaler openslo": (
        "was removed; the chart's Prometheus rules record the objective and the error budget of each function"
    ),
}
"""What users may still write -> the rule, and what does its work now. Keys of the file are dotted."""

_Section = TypeVar("_Section")


def parse_duration(value: object) -> float:
    """Return seconds from Go syntax or a number. Raises ``ValueError`` with the rule."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, str) and len(value) > LONGEST_DURATION:
        raise ValueError(f"must be a duration of at most {LONGEST_DURATION} characters")
    if isinstance(value, str) and _GO_DURATION.fullmatch(value):
        return sum(float(number) * _UNITS[unit] for number, unit in _GO_PART.findall(value))
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        return float(value)
    raise ValueError("must be a duration, such as 250ms, 30s or 1m30s (a plain number is seconds)")


def parse_json(text: str) -> Any:
    """Return the value of a JSON text that any tenant may write. Raises ``ValueError``, one line.

    A text is short, flat and has few keys, so reading it and naming its faults takes milliseconds.
    """
    if len(text) > LONGEST_JSON:
        raise ValueError(f"must have at most {LONGEST_JSON:,} characters, and has {len(text):,}")
    if text.count("[") + text.count("{") > MOST_PARTS:
        raise ValueError(f"must have at most {MOST_PARTS} lists and objects")
    try:
        return json.loads(text, object_pairs_hook=_object, parse_int=_int)
    except json.JSONDecodeError as error:
        raise ValueError(f"must be JSON; YAML is not read here: {error}") from None


def _int(text: str) -> int:
    if len(text) > MOST_DIGITS:
        raise ValueError(f"{text[:20]} must have at most {MOST_DIGITS} digits")
    return int(text)


def _object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    if len(pairs) > MOST_KEYS:
        raise ValueError(f"must have at most {MOST_KEYS} keys in an object, and has {len(pairs)}")
    made: dict[str, Any] = {}
    for key, value in pairs:
        if key in made:
            raise ValueError(f"{printable(key)}: is given twice")
        made[key] = value
    return made


def parse_yaml(
    text: str, file: str, loader: type[yaml.SafeLoader] = yaml.SafeLoader
) -> tuple[Any, list[tuple[str, str]]]:
    """Return the document in ``text`` and no faults, or None and {dotted key, rule} of each wrong key.

    Only for an operator's files: aliases make a short text large. A key must be text, and occur once in its
    mapping: of two, YAML itself would keep the last. Raises ``ValueError``, one line with the place in
    ``file``.
    """
    try:
        reader = loader(text)
        reader.name = file
        node = reader.get_single_node()
        if _size(node, {}) > MOST_NODES:
            raise ValueError("aliases make it too large")
        faults = list(_wrong_keys(node))
        return (None if node is None or faults else reader.construct_document(node)), faults
    # Its own text quotes the line, which may hold a secret.
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = "" if mark is None else f", line {mark.line + 1}, column {mark.column + 1}"
        why = ", ".join(filter(None, [error.context, error.problem]))
        raise ValueError(f"not YAML: {why}{place}") from None
    # ValueError: a timestamp that is no date.
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValueError(f"not YAML: {' '.join(str(error).split())}") from None


def _size(node: yaml.Node | None, sizes: dict[int, int]) -> int:
    """Return the number of nodes, each alias with all that it stands for; ``sizes`` has the known ones."""
    if isinstance(node, yaml.SequenceNode | yaml.MappingNode) and id(node) not in sizes:
        pairs = isinstance(node, yaml.MappingNode)
        below = (part for pair in node.value for part in pair) if pairs else iter(node.value)
        sizes[id(node)] = 1 + sum(_size(part, sizes) for part in below)
    return sizes.get(id(node), 1)


def _wrong_keys(node: yaml.Node | None, path: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield from _wrong_keys(value, f"{path}[{index}]")
    elif isinstance(node, yaml.MappingNode):
        seen = set()
        for key, value in node.value:
            written = _written(key)
            name, line = f"{path}.{written}" if path else written, key.start_mark.line + 1
            if key.tag not in _TEXT_KEYS:
                yield name, f"the key must be text; write it in quotes, line {line}"
            elif name in seen:
                yield name, f"is given twice, line {line}"
            seen.add(name)
            yield from _wrong_keys(value, name)


def _written(key: yaml.Node) -> str:
    """Return a key as the file has it; for one that is a list or a mapping its brackets."""
    if isinstance(key, yaml.ScalarNode):
        return str(key.value) or "''"
    return "[...]" if isinstance(key, yaml.SequenceNode) else "{...}"


def parse_time(value: object) -> datetime:
    """Return a time in UTC from ISO 8601 text with an offset. Raises ``ValueError`` with the rule."""
    rule = "must be a time with its offset, such as 2026-12-01T09:00:00Z or ...+01:00"
    try:
        time = datetime.fromisoformat(str(value))
        if time.tzinfo is None:
            raise ValueError(rule)
        return time.astimezone(UTC)
    except (OverflowError, ValueError):
        raise ValueError(rule) from None


def hidden(rule: str) -> PydanticCustomError:
    """Return an error that does not show the value, because it may hold a secret."""
    return PydanticCustomError("hidden", "{rule}", {"rule": rule})


def whole(text: object) -> int | None:
    """Return the whole number of at least 0 that at most ten plain digits give; else None."""
    digits = isinstance(text, str) and text.isascii() and text.isdecimal() and len(text) <= MOST_DIGITS
    return int(str(text)) if digits else None


def printable(text: object) -> str:
    """Return a text on one line, without the characters that a terminal or a log would obey."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in str(text))


def host_and_port(host: str, port: int) -> str:
    """Return ``host:port`` for a URL, with an IPv6 address in brackets."""
    return f"{f'[{host}]' if ':' in host else host}:{port}"


def _url(value: object) -> str:
    if isinstance(value, str) and re.match(r"[^/?#]*//[^/?#]*@", value):
        raise hidden("must not hold user or password; basic_auth takes the password from a file")
    if isinstance(value, str) and "?" in value:
        raise hidden("must be an http:// or https:// URL without query; files and headers hold tokens")
    if not isinstance(value, str) or not re.fullmatch(r"https?://[^/\s?#]+(/[^\s?#]*)?", value):
        raise ValueError("must be an http:// or https:// URL without query")
    try:
        urlsplit(value).port  # noqa: B018 - raises for a port or an IPv6 address that is none
    except ValueError as error:
        raise ValueError(f"must be an http:// or https:// URL: {error}") from None
    return value.rstrip("/")


def _one_line(value: str) -> str:
    if not value.isprintable():
        raise ValueError("must be one line of text without control characters")
    return value


def _host_name(value: str) -> str:
    if not _HOST_NAME.fullmatch(value):
        raise ValueError("must be a host name, such as status.example.org, without scheme, port or wildcard")
    return value


def _headers(value: object) -> dict[str, str]:
    if not isinstance(value, dict):
        raise hidden("must be a mapping of names to values, such as X-Scope-OrgID: team-a")
    for name, text in value.items():
        if not isinstance(name, str) or not _TOKEN.fullmatch(name):
            raise hidden(f"{name!r} must be the name of a header: letters, digits and hyphens")
        if name.lower() in _OWN_HEADERS:
            raise hidden(f"{name} must not be set here; {_OWN_HEADERS[name.lower()]}")
        if type(text) not in (str, int) or not _HEADER.fullmatch(str(text)):
            raise hidden(f"{name} must be one line of ASCII text")
    return {name: str(text) for name, text in value.items()}


Mode = Literal["active", "recommend", "shadow", "off"]
"""Use of decisions: applied; exported for another autoscaler; recorded only; none is made."""
MODES: Final[tuple[Mode, ...]] = get_args(Mode)
"""In descending order of effect."""


def _matchers(value: object) -> dict[str, str]:
    if not isinstance(value, dict):
        raise ValueError("must be a mapping of labels to values, such as cluster: eu")  # noqa: TRY004
    for label, text in value.items():
        if not isinstance(label, str) or not _LABEL.fullmatch(label):
            raise ValueError(f"{label!r} must be the name of a label: letters, digits and underscores")
        if not isinstance(text, str):
            raise ValueError(f"{label} must be text; quotes make text of a number")  # noqa: TRY004
    return value


def _number(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("must be a number")  # noqa: TRY004 - pydantic turns only a ValueError into a fault
    return value


def _mode(value: object) -> object:
    """Return "off" for False, to which YAML turns a bare ``off``."""
    return "off" if value is False else value


ModeKey = Annotated[Mode, BeforeValidator(_mode)]
Duration = Annotated[float, BeforeValidator(parse_duration), Field(ge=0, allow_inf_nan=False)]
"""Seconds."""
PositiveDuration = Annotated[float, BeforeValidator(parse_duration), Field(gt=0, allow_inf_nan=False)]
Url = Annotated[str, BeforeValidator(_url)]
"""A URL without a slash at its end."""
HostName = Annotated[str, AfterValidator(_host_name)]
"""A name of a host as a browser sends it, without the port."""
Headers = Annotated[dict[str, str], BeforeValidator(_headers)]
"""Headers to send with each request. No message shows their values."""
Matchers = Annotated[dict[str, str], BeforeValidator(_matchers)]
"""Labels that series must have, with their values."""
Count = Annotated[int, Field(ge=1, strict=True)]
Factor = Annotated[float, Field(ge=1, allow_inf_nan=False), BeforeValidator(_number)]
Cores = Annotated[float, Field(gt=0, allow_inf_nan=False), BeforeValidator(_number)]
"""CPU in cores."""
Share = Annotated[float, Field(gt=0, le=1), BeforeValidator(_number)]
Objective = Annotated[float, Field(gt=0, lt=1)]
"""Share of requests, below 1: no system can promise all of them."""
Port = Annotated[int, Field(ge=0, le=65535), BeforeValidator(_number)]
"""A port; 0 chooses any free port."""
Concurrency = Annotated[int, Field(ge=1, le=64), BeforeValidator(_number)]
"""Number of parallel requests."""
Remark = Annotated[str, Field(max_length=200), AfterValidator(_one_line)]
"""A short text for those who read decisions."""
Time = Annotated[datetime, BeforeValidator(parse_time)]
Namespaces = Annotated[tuple[str, ...], Field(min_length=1)]


@dataclass_transform(frozen_default=True, field_specifiers=(Field,))
def settings(section: type[_Section]) -> type[_Section]:
    """Make a class a section of the configuration: frozen, validated, without unknown keys."""
    config = ConfigDict(extra="forbid", validate_default=True)
    return cast("type[_Section]", dataclass(frozen=True, slots=True, config=config)(section))


_KINDS: Final = {
    "dataclass_type": "a mapping of keys",
    "dict_type": "a mapping of names to values",
    "tuple_type": "a list, such as [a, b]",
    "too_short": "a list of at least one",
    "string_type": "text; quotes make text of a number",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
}
"""Kind of a fault -> its rule in YAML's words, for rules that pydantic tells in Python's."""


def rule_of(fault: Any, *, shows: bool = True) -> str:
    """Return the value of one of pydantic's faults and the rule that it violates, or only the rule."""
    if fault["type"] == "unexpected_keyword_argument":
        return "unknown key"
    if fault["type"].startswith("missing"):
        return "must be set"
    if fault["type"] == "dataclass_type" and isinstance(fault["input"], str):
        return f"must be {_KINDS['dataclass_type']}"  # the text may be a password
    if fault["type"] in _KINDS:
        return f"{_shown(fault['input'])} must be {_KINDS[fault['type']]}"
    rule = str(fault["msg"]).removeprefix("Value error, ").replace("Input should be", "must be")
    return f"{_shown(fault['input'])} {rule}" if shows and fault["type"] != "hidden" else rule


def _shown(value: object) -> str:
    text = {"None": "null", "True": "true", "False": "false"}.get(repr(value), repr(value))
    return text if len(text) <= 60 else text[:57] + "..."


def keys(section: type) -> dict[str, Any]:
    """Return {key: type with its rules} of a section, without fields that only the program sets."""
    hints = get_type_hints(section, include_extras=True)
    return {name: hint for name, hint in hints.items() if _is_key(hint)}


def _is_key(hint: Any) -> bool:
    parts = getattr(hint, "__metadata__", ())
    return get_origin(hint) is not ClassVar and not any(type(part).__name__ == "InstanceOf" for part in parts)


def sections(hint: Any) -> list[type]:
    """Return the sections that a key of this type can hold; none if it holds a value."""
    if isinstance(hint, type) and is_dataclass(hint):
        return [hint]
    return [section for part in get_args(hint) for section in sections(part)]


@settings
class Tls:
    """Certificates for one https:// server, in PEM files that are read again when they change."""

    ca_file: str | None = None
    """File of the trusted CAs. None: the public CAs of the package certifi."""
    cert_file: str | None = None
    """File of the client certificate that the server sees."""
    key_file: str | None = None
    """File of the private key of ``cert_file``, without a password."""
    strict: bool | None = None
    """Whether certificates must follow RFC 5280 strictly, such as a CA with key usage; those of some managed
    clusters do not. None: Python's own default, which is true from 3.13 on."""

    @field_validator("key_file")
    @classmethod
    def _both_or_neither(cls, key_file: str | None, info: ValidationInfo) -> str | None:
        if "cert_file" in info.data and (key_file is None) != (info.data["cert_file"] is None):
            raise ValueError("must be set if cert_file is, and only then")
        return key_file


@settings
class ClusterTls:
    """TLS for the Kubernetes API, whose CA and client certificate come with its credentials."""

    strict: bool | None = None
    """Whether certificates must follow RFC 5280 strictly, such as a CA with key usage; those of some managed
    clusters do not. None: Python's own default, which is true from 3.13 on."""


def over_https(tls: Tls, url: str | None) -> Tls:
    """Return the section; raise ``ValueError`` if it has files and the server's URL is not https://."""
    if url is not None and url.startswith("http://") and (tls.ca_file or tls.cert_file):
        raise ValueError("must not be set with an http:// URL")
    return tls
