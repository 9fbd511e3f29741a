"""The kinds of values that settings hold: each rule once. [P]

A section of the configuration is a class under ``settings``, in the room that uses it; a key is one field
with type, default and docstring. ``config`` composes the sections. Next step: ``spec``, then ``config``.
"""

import re
from dataclasses import is_dataclass
from typing import (
    Annotated,
    Any,
    ClassVar,
    Final,
    TypeVar,
    cast,
    dataclass_transform,
    get_args,
    get_origin,
    get_type_hints,
)

from pydantic import BeforeValidator, ConfigDict, Field
from pydantic.dataclasses import dataclass

_UNITS: Final = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_GO_PART: Final = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)")
_GO_DURATION: Final = re.compile(rf"(?:{_GO_PART.pattern})+")
_NUMBER: Final = re.compile(r"\d+(?:\.\d*)?")

_Section = TypeVar("_Section")


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


Duration = Annotated[float, BeforeValidator(parse_duration), Field(ge=0, allow_inf_nan=False)]
"""Seconds."""
PositiveDuration = Annotated[float, BeforeValidator(parse_duration), Field(gt=0, allow_inf_nan=False)]
Url = Annotated[str, BeforeValidator(_url)]
"""Without a slash at its end."""
Count = Annotated[int, Field(ge=1, strict=True)]
Factor = Annotated[float, Field(ge=1, allow_inf_nan=False)]
Share = Annotated[float, Field(gt=0, le=1)]
Objective = Annotated[float, Field(gt=0, lt=1)]
"""Share of requests; all of them cannot be promised."""
Port = Annotated[int, Field(ge=0, le=65535)]
"""0 is any free port."""
Concurrency = Annotated[int, Field(ge=1, le=64)]
"""Requests at a time."""
Namespaces = Annotated[tuple[str, ...], Field(min_length=1)]


@dataclass_transform(frozen_default=True, field_specifiers=(Field,))
def settings(section: type[_Section]) -> type[_Section]:
    """Make a class a section of the configuration: frozen, checked, without keys that it does not name."""
    config = ConfigDict(extra="forbid", validate_default=True)
    return cast("type[_Section]", dataclass(frozen=True, slots=True, config=config)(section))


def keys(section: type) -> dict[str, Any]:
    """Return {key: type with its rules} of a section; what only the program sets is no key."""
    hints = get_type_hints(section, include_extras=True)
    return {name: hint for name, hint in hints.items() if _is_key(hint)}


def _is_key(hint: Any) -> bool:
    parts = getattr(hint, "__metadata__", ())
    return get_origin(hint) is not ClassVar and not any(type(part).__name__ == "InstanceOf" for part in parts)


def sections(hint: Any) -> list[type]:
    """Return the sections of which a key of this type holds one; none if it holds a value."""
    if isinstance(hint, type) and is_dataclass(hint):
        return [hint]
    return [section for part in get_args(hint) for section in sections(part)]
