"""Names each label and annotation with its reader and the field that it sets. [P]

Owns the names, the readers and the words of the reference, ``docs/reference/keys.md``. A platform takes the
``texts`` of an object, ``read``s them, and lays them over what it observes (``declared``). Keys without a
field are read elsewhere: those of revisions in ``knative``, those of pods and of the Lease in ``kube``.
"""

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from math import inf
from typing import Any, Final, Literal

from slo_autoscaler.errors import PlatformError, UnreadableError
from slo_autoscaler.kube import BOOST, METRICS_PORTS, PAUSED
from slo_autoscaler.model import Scale
from slo_autoscaler.settings.fields import MOST_FAULTS, Mode, parse_duration, printable, whole
from slo_autoscaler.settings.schedule import Hold, Schedule, hold_of, schedule_of
from slo_autoscaler.settings.spec import Modes

Kind = Literal["label", "annotation"]
Reader = Callable[[str], object]
"""Returns the value of a text. Raises ``ValueError`` with the rule."""

Texts = tuple[tuple[str, str], ...]
"""("label NAME" or "annotation NAME", its text) of each key of an object that may concern us."""

OPENFAAS_MIN: Final = "com.openfaas.scale.min"
OPENFAAS_MAX: Final = "com.openfaas.scale.max"
OPENFAAS_ZERO: Final = "com.openfaas.scale.zero"
OPENFAAS_ZERO_DURATION: Final = "com.openfaas.scale.zero-duration"
OPENFAAS_MODE: Final = "com.tailbound.mode"
"""In our own domain: faas-netes refuses unknown labels under com.openfaas.scale."""
OPENFAAS_SCHEDULE: Final = "com.tailbound.schedule"
OPENFAAS_HOLD: Final = "com.tailbound.hold"
OPENFAAS_UID: Final = "uid"

MODE: Final = "tailbound.dev/mode"
MIN_REPLICAS: Final = "tailbound.dev/min-replicas"
MAX_REPLICAS: Final = "tailbound.dev/max-replicas"
SCHEDULE: Final = "tailbound.dev/schedule"
HOLD: Final = "tailbound.dev/hold"

AUTOSCALING: Final = "autoscaling.knative.dev/"
CLASS: Final = AUTOSCALING + "class"
OUR_CLASS: Final = "slo.tailbound.dev"
"""The value of ``CLASS``. Knative refuses unknown ones under knative.dev."""
MIN_SCALE: Final = AUTOSCALING + "min-scale"
OLD_MIN_SCALE: Final = AUTOSCALING + "minScale"
MAX_SCALE: Final = AUTOSCALING + "max-scale"
OLD_MAX_SCALE: Final = AUTOSCALING + "maxScale"
INITIAL_SCALE: Final = AUTOSCALING + "initial-scale"
OLD_INITIAL_SCALE: Final = AUTOSCALING + "initialScale"
RETENTION: Final = AUTOSCALING + "scale-to-zero-pod-retention-period"
DEADLINE: Final = "serving.knative.dev/progress-deadline"

LONGEST_TITLE: Final = 100
"""Characters of an unknown key that a message shows."""

ZERO_DURATION: Final = 900.0
"""Idle seconds of OpenFaaS Pro if the duration is missing or invalid."""


@dataclass(frozen=True, slots=True)
class Key:
    """A label or an annotation."""

    kind: Kind
    names: tuple[str, ...]
    """The first that an object has counts."""
    values: str
    default: str
    meaning: str
    field: str = ""
    """Field of ``Declaration``; empty: read elsewhere."""
    read: Reader = str

    @property
    def titles(self) -> tuple[str, ...]:
        """Return each name after its kind, as ``Texts`` has it."""
        return tuple(f"{self.kind} {name}" for name in self.names)


@dataclass(frozen=True, slots=True)
class Declaration:
    """What the keys of one object say; None: it has no such key."""

    mode: str | None = None
    """The label's text; empty: the configuration's mode."""
    min: int | None = None
    max: int | None = None
    zero: bool | None = None
    zero_duration: float = ZERO_DURATION
    schedule: Schedule | None = None
    hold: Hold | None = None
    revision: str | None = None
    faults: Mapping[str, str] = field(default_factory=dict)
    """Field -> the rule that its key violates."""
    unknown: str = ""
    """Keys of our domain that mean nothing, each with the likely one."""

    @property
    def zero_after(self) -> float | None:
        """Return the idle seconds after which no replica is needed, infinity for never."""
        if self.zero is None:
            return None
        return self.zero_duration if self.zero else inf


class WrongKeyError(UnreadableError):
    """Some keys of a function are wrong, and all else is read."""

    def __init__(self, function_name: str, scale: Scale, faults: Mapping[str, str]) -> None:
        """``scale`` has the fields that are right; ``faults`` the rule that each other field violates."""
        self.rules = "; ".join(faults.values())
        super().__init__(f"{function_name}: {self.rules}", scale.desired)
        self._scale, self._fields = scale, tuple(faults)

    def with_last(self, last: Scale) -> Scale:
        """Return the scale with the last good values of the wrong fields."""
        kept = {name: getattr(last, name) for name in self._fields}
        return replace(self._scale, wrong=self.rules, **kept)


@dataclass(frozen=True)
class Keys:
    """The keys of one kind of object. No slots: what follows from them is made once, not for each object."""

    domain: str
    """Prefix of our own keys: others below it are mistyped."""
    own: tuple[Key, ...]
    others: tuple[Key, ...] = ()
    """Keys of other objects that may stand here too, and mean nothing here."""

    def texts(self, labels: Mapping[str, Any], annotations: Mapping[str, Any]) -> Texts:
        """Return the keys of these labels and annotations that ``read`` takes."""
        return tuple(
            (title, str(text))
            for kind, given in (("label", labels), ("annotation", annotations))
            for name, text in given.items()
            if text is not None
            and ((title := f"{kind} {name}") in self._titles or name.startswith(self.domain))
        )

    def read(self, texts: Texts) -> Declaration:
        """Return what the keys say; a wrong one is a fault of the declaration."""
        given, values, faults = dict(texts), dict[str, Any](), dict[str, str]()
        for title, key in self._titles.items():
            if title not in given or key.field in values or key.field in faults:
                continue
            try:
                values[key.field] = key.read(given[title])
            except ValueError as error:
                faults[key.field] = f"{title}: {error}"
        return Declaration(**values, faults=faults, unknown=self._unknown(given))

    def declared(
        self, function_name: str, observed: Callable[..., Scale], said: Declaration, modes: Modes
    ) -> Scale:
        """Return the observed scale with what is declared. Raises ``WrongKeyError`` if a key is wrong.

        ``observed`` makes it of the declared fields, which win: one object for each function, not two.
        """
        named = {name: getattr(said, name) for name in _OF_SCALE}
        values = {name: value for name, value in named.items() if value is not None}
        faults = dict(said.faults)
        try:
            values["mode"] = self.mode(function_name, said.mode, modes)
        except PlatformError as error:
            faults["mode"] = str(error).removeprefix(f"{function_name}: ")
        scale = observed(unknown=said.unknown, **values)
        if faults:
            raise WrongKeyError(function_name, scale, faults)
        return scale

    def mode(self, function_name: str, text: str | None, modes: Modes) -> Mode:
        """Return the function's mode. Raises ``PlatformError`` if the label's ``text`` says none."""
        return modes.of(function_name, self._mode_name, text)

    @cached_property
    def _titles(self) -> Mapping[str, Key]:
        """Title -> key, the first title of a key first."""
        return {title: key for key in self.own for title in key.titles}

    @cached_property
    def _known(self) -> Sequence[str]:
        """Titles of our domain."""
        titles = (title for key in (*self.own, *self.others) for title in key.titles)
        return [title for title in titles if self._is_ours(title)]

    @cached_property
    def _mode_name(self) -> str:
        """Name of the key of the mode."""
        (name,) = (key.names[0] for key in self.own if key.field == "mode")
        return name

    def _unknown(self, titles: Iterable[str]) -> str:
        known = self._known
        wrong = sorted(title for title in titles if self._is_ours(title) and title not in known)
        if not wrong:
            return ""
        # A comparison takes longer the longer a title is, and tenants write thousands of long ones.
        shown = [printable(title[:LONGEST_TITLE]) for title in wrong[:MOST_FAULTS]]
        nearest = {title: difflib.get_close_matches(title, known, 1) for title in shown}
        more = [f"{len(wrong) - MOST_FAULTS:,} more are unknown"] if len(wrong) > MOST_FAULTS else []
        parts = [
            f"{title} is unknown" + (f", did you mean {near[0]}?" if near else "")
            for title, near in nearest.items()
        ]
        return "; ".join(parts + more)

    def _is_ours(self, title: str) -> bool:
        return title.partition(" ")[2].startswith(self.domain)


_OF_SCALE: Final = {each.name for each in fields(Scale)} & {
    *(name for name in dir(Declaration) if not name.startswith("_"))
} - {"mode", "unknown"}
"""What ``Declaration`` says of a function as it stands in its ``Scale``; ``declared`` adds the other two."""


def text_of(texts: Texts, title: str) -> str | None:
    """Return the text of one key; None without it."""
    return dict(texts).get(title)


def _or_none(read: Reader) -> Reader:
    """Return a reader for which an empty text is no value, as OpenFaaS has it."""
    return lambda text: read(text) if text else None


def _count(text: str) -> int:
    count = whole(text)
    if count is None:
        raise ValueError(f"{text[:20]!r} must be a whole number, or empty")
    return count


def _bound(text: str) -> int:
    bound = whole(text)
    if not bound:
        raise ValueError(f"{text[:20]!r} must be a whole number of at least 1")
    return bound


def _zero_duration(text: str) -> float:
    try:
        return parse_duration(text) or ZERO_DURATION
    except ValueError:
        return ZERO_DURATION


_LEAST: Final = "Minimum number of replicas."
_MOST: Final = "Maximum number of replicas."
_MIN_DEFAULT: Final = "`defaults.min_replicas`"
_MAX_DEFAULT: Final = "`defaults.max_replicas`"
_CLUSTERS: Final = "the cluster's"
_COUNT_OR_EMPTY: Final = "a whole number, or empty"
_COUNT_FROM_1: Final = "a whole number of at least 1"
_COUNT_OR_NONE: Final = "a whole number; 0: none"
_DURATION: Final = "a duration"
_MODES: Final = "a [mode](modes.md), or empty for the configuration's"
_ENTRIES: Final = "a JSON list of [entries](../howto/counts.md#prepare-for-known-peaks)"
_UNTIL: Final = "a JSON object with `until`, `replicas` or `max_replicas`, and `reason`"
_FACTOR: Final = "a factor of at least 1, or empty for `boost.max_factor`"
_PAUSE: Final = "[Pause](../howto/counts.md#pause-the-scaling) of the function."
_ABOUT_BOOST: Final = "Maximum factor of the pod's CPU limit in a [boost](../howto/boost.md)."
_ABOUT_ZERO: Final = "Whether an idle function has no replicas. OpenFaaS CE refuses this label."
_ABOUT_RETENTION: Final = "Minimum time for which an inactive revision keeps its replicas."


def _label(name: str, values: str, default: str, meaning: str, field: str = "", read: Reader = str) -> Key:
    return Key("label", (name,), values, default, meaning, field, read)


def _annotation(
    names: str | tuple[str, ...], values: str, default: str, meaning: str, field: str = "", read: Reader = str
) -> Key:
    names = (names,) if isinstance(names, str) else names
    return Key("annotation", names, values, default, meaning, field, read)


_MODE: Final = _label(MODE, _MODES, "", "Mode of the function.", "mode")
_SCHEDULE: Final = _annotation(
    SCHEDULE, _ENTRIES, "`defaults.schedule`", "Bounds at known times.", "schedule", schedule_of
)
_HOLD: Final = _annotation(HOLD, _UNTIL, "none", _PAUSE, "hold", hold_of)
_BOOST: Final = _label(BOOST, _FACTOR, "the pod is never boosted", _ABOUT_BOOST)
_METRICS_PORT: Final = _annotation(METRICS_PORTS, "a port", "`8081`", "Port of the watchdog's metrics page.")

OPENFAAS: Final = Keys(
    "com.tailbound.",
    own=(
        replace(_MODE, names=(OPENFAAS_MODE,), default="the configuration's mode"),
        _label(OPENFAAS_MIN, _COUNT_OR_EMPTY, _MIN_DEFAULT, _LEAST, "min", _or_none(_count)),
        _label(OPENFAAS_MAX, _COUNT_OR_EMPTY, _MAX_DEFAULT, _MOST, "max", _or_none(_count)),
        _label(
            *(OPENFAAS_ZERO, "`true`; all others are no", "`defaults.scale_to_zero_after`", _ABOUT_ZERO),
            *("zero", lambda text: text.lower() == "true"),
        ),
        _label(
            *(OPENFAAS_ZERO_DURATION, _DURATION, "`15m`"),
            *("Time without a request after which the function is idle.", "zero_duration", _zero_duration),
        ),
        _label(
            OPENFAAS_UID, "text", "none", "Identity of a deployment, which faas-netes writes.", "revision"
        ),
        replace(_SCHEDULE, names=(OPENFAAS_SCHEDULE,), read=_or_none(schedule_of)),
        replace(_HOLD, names=(OPENFAAS_HOLD,), read=_or_none(hold_of)),
    ),
)

KUBERNETES: Final = Keys(
    "tailbound.dev/",
    own=(
        replace(_MODE, default="the object is not watched"),
        _annotation(MIN_REPLICAS, _COUNT_FROM_1, _MIN_DEFAULT, _LEAST, "min", _bound),
        _annotation(MAX_REPLICAS, _COUNT_FROM_1, _MAX_DEFAULT, _MOST, "max", _bound),
        _SCHEDULE,
        _HOLD,
    ),
    others=(_BOOST, _METRICS_PORT),
)

KNATIVE: Final = Keys(
    "tailbound.dev/",
    own=(
        replace(_MODE, default="our class: the configuration's mode. Others: the Service is left alone"),
        _SCHEDULE,
        _HOLD,
    ),
)
"""Of the Service: a label on its template would create a new revision."""

_REVISION: Final = (
    _annotation(CLASS, f"`{OUR_CLASS}`", _CLUSTERS, "Autoscaler of the revision."),
    _annotation(
        *((MIN_SCALE, OLD_MIN_SCALE), _COUNT_OR_NONE, f"{_CLUSTERS}, else {_MIN_DEFAULT}"),
        _LEAST,
    ),
    _annotation((MAX_SCALE, OLD_MAX_SCALE), _COUNT_OR_NONE, f"{_CLUSTERS}, else {_MAX_DEFAULT}", _MOST),
    _annotation(
        *((INITIAL_SCALE, OLD_INITIAL_SCALE), "a whole number", _CLUSTERS),
        "Replicas with which a revision starts.",
    ),
    _annotation(RETENTION, _DURATION, "the cluster's grace period", _ABOUT_RETENTION),
    _annotation(DEADLINE, _DURATION, "`10m`", "Time within which a revision must start."),
)

_LEASE: Final = (
    _annotation(PAUSED, "any text", "none", "With it [no autoscaler acts](../howto/roll-back.md)."),
)

PLACES: Final[Mapping[str, tuple[Key, ...]]] = {
    "OpenFaaS: function": OPENFAAS.own,
    "Kubernetes: Deployment": KUBERNETES.own,
    "Knative: Service": KNATIVE.own,
    "Knative: template of the Service": _REVISION,
    "all: pod": KUBERNETES.others,
    "all: Lease": _LEASE,
}
"""Platform and object -> its keys."""

_UNUSED: Final = (
    {key.field for keys in PLACES.values() for key in keys if key.field}
    - _OF_SCALE
    - {"mode", "zero", "zero_duration"}
)
if _UNUSED:
    raise TypeError(f"keys set fields that no Scale has: {sorted(_UNUSED)}")
