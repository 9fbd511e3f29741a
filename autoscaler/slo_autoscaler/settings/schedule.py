"""Defines the times for which an operator bounds a function's count: a schedule's entries, and a hold. [P]

A schedule is in the configuration, or in an annotation as JSON; a hold in an annotation alone. Any
tenant may write an annotation, so ``fields.parse_json`` limits it. ``law.schedule`` has the rules.
"""

from datetime import UTC, datetime
from functools import cache, lru_cache
from typing import Annotated, Any, Final
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError
from pydantic import (
    AfterValidator,
    BeforeValidator,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from slo_autoscaler.settings import fields
from slo_autoscaler.settings.fields import (
    LONGEST_JSON,
    MOST_FAULTS,
    Count,
    Remark,
    Time,
    parse_duration,
    parse_json,
    printable,
    settings,
)

SHORTEST: Final = 60.0
"""Seconds: the least duration of an entry, as cron counts in minutes."""
LONGEST: Final = 366 * 86_400.0
"""Seconds: the largest duration of an entry, a year."""

CRON_FIELDS: Final = 5

LAST_YEAR: Final = datetime(9998, 12, 31, 23, 59, 59, tzinfo=UTC)
"""Just before the calendar's last: a search for a day that never comes ends with it, not after 50 years."""

REMEMBERED: Final = 10_000
"""Annotations whose values or faults are kept: some platforms return their texts at every reconcile."""


def _cron(text: str) -> str:
    rule = 'must be a cron expression of minute, hour, day, month and weekday, such as "0 8 * * 1-5"'
    if len(text.split()) != CRON_FIELDS:
        raise ValueError(rule)
    try:
        next(CronSim(text, LAST_YEAR))
    except CronSimError as error:
        raise ValueError(f"{rule}: {str(error).lower()}") from None
    except OverflowError:
        raise ValueError(f"{rule}: there is no such day every year") from None
    return text


def _length(seconds: float) -> float:
    if not SHORTEST <= seconds <= LONGEST:
        raise ValueError("must be a duration from 1m to a year, 8784h")
    return seconds


def _timezone(name: str) -> str:
    try:
        zone(name)
    except (LookupError, OSError, ValueError):
        raise ValueError("must be a time zone of the IANA database, such as Europe/Berlin") from None
    return name


@cache
def zone(name: str) -> ZoneInfo:
    """Return a time zone, by its rules of the tz database."""
    return ZoneInfo(name)


@settings
class ScheduleEntry:
    """A repeated time with other bounds, which take the place of the function's own for ``duration``."""

    cron: Annotated[str, AfterValidator(_cron)]
    """When it begins: minute, hour, day of the month, month, weekday."""
    duration: Annotated[float, BeforeValidator(parse_duration), AfterValidator(_length)]
    """How long it lasts, from a minute to a year."""
    min_replicas: Count | None = None
    """Lower bound meanwhile; it also ends a scale to zero. None: the function's own."""
    max_replicas: Count | None = None
    """Upper bound meanwhile. None: the function's own, or ``min_replicas`` if that is more."""
    timezone: Annotated[str, AfterValidator(_timezone)] = "UTC"
    """Time zone of ``cron``, from the IANA database."""

    @field_validator("max_replicas")
    @classmethod
    def _bounds(cls, most: int | None, info: ValidationInfo) -> int | None:
        least = info.data.get("min_replicas")
        if most is None and least is None and "min_replicas" in info.data:
            raise ValueError("must be set, unless min_replicas is")
        if most is not None and least is not None and most < least:
            raise ValueError(f"must be at least min_replicas, {least}")
        return most


@settings
class Hold:
    """A pause of one function, or a cap, until a time: its count stays, is ``replicas``, or is bounded."""

    until: Time
    """Its end."""
    replicas: Count | None = None
    """The count meanwhile. None: the count at which it is found."""
    max_replicas: Count | None = None
    """Upper bound meanwhile, instead of a pause. None: it is a pause."""
    reason: Remark = ""
    """Why, for those who read the decisions."""

    @field_validator("max_replicas")
    @classmethod
    def _pause_or_cap(cls, most: int | None, info: ValidationInfo) -> int | None:
        if most is not None and info.data.get("replicas") is not None:
            raise ValueError("must not be set beside replicas")
        return most

    @property
    def text(self) -> str:
        """Its end and its reason, for a sentence."""
        cap = "" if self.max_replicas is None else f"at most {self.max_replicas} "
        end = f"{cap}until {self.until:%Y-%m-%d %H:%M} UTC"
        return f"{end}: {self.reason}" if self.reason else end


Schedule = tuple[ScheduleEntry, ...]

_SCHEDULE: Final = TypeAdapter(Schedule)
_HOLD: Final = TypeAdapter(Hold)


def schedule_of(text: str) -> Schedule:
    """Return the schedule in an annotation. Raises ``ValueError`` with entries, keys, values and rules."""
    schedule: Schedule = _parsed(_SCHEDULE, text)
    return schedule


def hold_of(text: str) -> Hold:
    """Return the hold in an annotation. Raises ``ValueError`` with keys, values and rules."""
    hold: Hold = _parsed(_HOLD, text)
    return hold


def _parsed(adapter: TypeAdapter[Any], text: str) -> Any:
    # A longer text is a fault, and not worth its memory.
    read = _read if len(text) <= LONGEST_JSON else _read.__wrapped__
    value, fault = read(adapter, text)
    if fault:
        raise ValueError(fault)
    return value


@lru_cache(REMEMBERED)
def _read(adapter: TypeAdapter[Any], text: str) -> tuple[Any, str]:
    """Return the value and no fault, or None and the fault."""
    try:
        return adapter.validate_python(parse_json(text)), ""
    except ValidationError as error:
        faults = error.errors(include_url=False)
        more = len(faults) - MOST_FAULTS
        lines = [*map(_line, faults[:MOST_FAULTS]), *([f"and {more} faults more"] if more > 0 else [])]
        return None, "; ".join(lines)
    except ValueError as error:
        return None, str(error)


def _line(fault: Any) -> str:
    place = ".".join(printable(part)[:40] for part in fault["loc"])
    return f"{place}: {fields.rule_of(fault)}" if place else fields.rule_of(fault)
