"""Divides one count for a Knative Service among its revisions. [P]

Owns the meaning of routes, and the division. Objects are the API's JSON. The annotation rules are Knative's
(pkg/apis/autoscaling/register.go, annotation_validation.go). Next: ``status`` applies the counts.

**A function is a Service, not a revision**: ``<service>.<namespace>``. Capacity and replicas belong to a
revision. The objective, its error budget, the learned state and the configuration outlive a rollout and
belong to the service. So decisions use the signals of all revisions together, and the counts are:

- The main revision, which has most of the traffic, has replicas for all of it: traffic that was moved away
  may return at once.
- Another revision has replicas for its share, rounded up. Its share is the routed or the declared one,
  whichever is larger. So a revision has its replicas before it takes over. (Knative's own autoscaler starts
  it with ``initial-scale``.)
- A revision that no route names becomes inactive, without replicas, once it has served (``status``).
"""

import math
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from slo_autoscaler.errors import PlatformError
from slo_autoscaler.model import Scale
from slo_autoscaler.platforms.keys import (
    CLASS,
    INITIAL_SCALE,
    KNATIVE,
    MAX_SCALE,
    MIN_SCALE,
    MODE,
    OLD_INITIAL_SCALE,
    OLD_MAX_SCALE,
    OLD_MIN_SCALE,
    Texts,
    text_of,
)
from slo_autoscaler.settings.fields import parse_duration, whole
from slo_autoscaler.settings.spec import Modes

Json = Mapping[str, Any]

SERVING: Final = "serving.knative.dev/"

KPA: Final = "kpa.autoscaling.knative.dev"

Key = tuple[str, str]
"""(namespace, name)"""


@dataclass(frozen=True, slots=True)
class Defaults:
    """Cluster defaults in config-autoscaler; these values are Knative 1.23's own."""

    class_name: str = KPA
    min_scale: int = 0
    max_scale: int = 0
    initial_scale: int = 1
    scale_to_zero: bool = True
    grace_period: float = 30.0
    """Seconds for which an inactive revision keeps its replicas."""


@dataclass(frozen=True, slots=True)
class Routing:
    """What routes say of a revision: its share of the traffic, 0 to 1 or None if unnamed, and our keys."""

    routed: float | None
    """Present share, in the route's status."""
    declared: float | None
    """Desired share, in the route's spec."""
    texts: Texts = ()
    """Our keys on a route that names it, which Knative copies from the Service."""

    @property
    def mode(self) -> str | None:
        """Return the text of the mode's label; None without one."""
        return text_of(self.texts, f"label {MODE}")

    @property
    def most(self) -> float:
        """Return the share that it must be able to serve."""
        return max(self.routed or 0.0, self.declared or 0.0)


UNROUTED: Final = Routing(None, None)

ACTIVATOR_TELLS: Final = (1, 22)
"""Version of Knative from which activators tell what waits for each revision."""

STABLE_WINDOW: Final = 60.0
"""Seconds without a request after which Knative gives up the last replica, before its grace period."""

CONFIG_MAP: Final = "config-autoscaler"
CONFIG_NAMESPACE: Final = "knative-serving"


@dataclass(frozen=True, slots=True)
class Revision:
    """The state of one revision that scaling needs."""

    namespace: str
    name: str
    service: str
    """The Service's name, or the Configuration's where there is none."""
    generation: int
    """Generation of its Configuration: a higher one is newer."""
    routing: Routing
    least: int
    """min-scale; 0 where it is not set."""
    most: int | None
    """max-scale; None: no bound."""
    start: int
    """Replicas that it must have had once to count as started: at least 1."""
    started: bool
    replicas: int
    """Asked for now."""
    ready: int
    inactive: bool = False
    """Whether it must have no replicas: no route names it, or it never became ready."""
    failed: bool = False
    """Whether Knative, or we by its rule, have given up on it before it ever served."""
    version: str = ""
    """resourceVersion of the object that has ``replicas``."""
    zero_after: float | None = None
    """Seconds without a request after which its service may have no replicas by its own annotation."""
    waiting: float | None = None
    """Requests at the activators for its service, which is to have no replicas; None: it is to have some."""

    @property
    def key(self) -> Key:
        """Return namespace and name."""
        return self.namespace, self.name

    @property
    def function_name(self) -> str:
        """Return <service>.<namespace>."""
        return f"{self.service}.{self.namespace}"

    @property
    def lowest(self) -> int:
        """Return the least count to scale to while it is not inactive.

        Never 0: a routed revision gets there as an inactive one does.
        """
        return max(1, self.least) if self.started else max(1, self.least, self.start)


def annotation(of: Json, *names: str) -> str | None:
    """Return the first of these annotations that the object has."""
    annotations = of.get("metadata", {}).get("annotations") or {}
    for name in names:
        value = annotations.get(name)
        if isinstance(value, str):
            return value
    return None


def label(of: Json, name: str) -> str | None:
    """Return a label of the object, if it has it and it is not empty."""
    value = (of.get("metadata", {}).get("labels") or {}).get(name)
    return value if isinstance(value, str) and value else None


def condition(of: Json, kind: str) -> Json:
    """Return a condition of an object's status; empty if there is none."""
    for document in (of.get("status") or {}).get("conditions") or ():
        if document.get("type") == kind:
            condition: Json = document
            return condition
    return {}


def key_of(of: Json) -> Key:
    """Return namespace and name of an object; empty where it has none."""
    metadata = of.get("metadata", {})
    return str(metadata.get("namespace", "")), str(metadata.get("name", ""))


def defaults_of(config_map: Json) -> Defaults:
    """Return the defaults of config-autoscaler; a missing or invalid value is Knative's default."""
    data = config_map.get("data") or {}
    usual = Defaults()

    def count(key: str, default: int) -> int:
        value = whole(data.get(key))
        return default if value is None else value

    try:
        grace = parse_duration(data.get("scale-to-zero-grace-period", usual.grace_period))
    except ValueError:
        grace = usual.grace_period
    return Defaults(
        class_name=data.get("pod-autoscaler-class") or usual.class_name,
        min_scale=count("min-scale", usual.min_scale),
        max_scale=count("max-scale", usual.max_scale),
        initial_scale=count("initial-scale", usual.initial_scale),
        scale_to_zero=str(data.get("enable-scale-to-zero", "true")).lower() == "true",
        grace_period=grace,
    )


def version_of(config_map: Json) -> tuple[int, int] | None:
    """Return Knative's version from the label that its releases set; None if it is invalid."""
    match = re.match(r"v?(\d+)\.(\d+)", label(config_map, "app.kubernetes.io/version") or "")
    return None if match is None else (int(match[1]), int(match[2]))


def min_scale(of: Json, defaults: Defaults) -> int:
    """Return the user's lower bound; ``min-scale`` wins over the old ``minScale``, 0 is none."""
    own = whole(annotation(of, MIN_SCALE, OLD_MIN_SCALE))
    return defaults.min_scale if own is None else own


def max_scale(of: Json, defaults: Defaults) -> int | None:
    """Return the user's upper bound, or None: no bound."""
    own = whole(annotation(of, MAX_SCALE, OLD_MAX_SCALE))
    return (defaults.max_scale if own is None else own) or None


def initial_scale(of: Json, defaults: Defaults) -> int:
    """Return the count with which a revision starts; the user may set 0 if the cluster allows it."""
    own = whole(annotation(of, INITIAL_SCALE, OLD_INITIAL_SCALE))
    return defaults.initial_scale if own is None else own


def class_of(of: Json, defaults: Defaults) -> str:
    """Return the name of the class that scales it."""
    return annotation(of, CLASS) or defaults.class_name


def service_of(of: Json) -> str:
    """Return the Service of a revision, or of an object made from one.

    Without a Service it is the Configuration, and without that the revision.
    """
    return (
        label(of, SERVING + "service")
        or label(of, SERVING + "configuration")
        or label(of, SERVING + "revision")
        or key_of(of)[1]
    )


def generation_of(of: Json) -> int:
    """Return the generation of its Configuration; 0 if it is missing."""
    return whole(label(of, SERVING + "configurationGeneration")) or 0


def newest(revisions: Iterable[Json]) -> dict[Key, str]:
    """Return {(namespace, configuration): its newest revision}, from revisions or PodAutoscalers."""
    latest: dict[Key, tuple[int, str]] = {}
    for revision in revisions:
        namespace, name = key_of(revision)
        configuration = label(revision, SERVING + "configuration")
        if configuration is not None:
            made = generation_of(revision), name
            latest[namespace, configuration] = max(latest.get((namespace, configuration), made), made)
    return {configuration: name for configuration, (_, name) in latest.items()}


def routings(routes: Iterable[Json], latest: Mapping[Key, str]) -> dict[Key, Routing]:
    """Return {(namespace, revision): its routing} of every revision that a route names, by tag included.

    ``latest`` is ``newest``'s answer: a route that follows a Configuration will name its newest revision,
    which its status does only when that is ready. A revision of several routes counts with the largest
    share.
    """
    routed: dict[Key, float] = {}
    declared: dict[Key, float] = {}
    texts: dict[Key, Texts] = {}
    for route in routes:
        namespace, _ = key_of(route)
        metadata = route.get("metadata", {})
        labels, annotations = metadata.get("labels") or {}, metadata.get("annotations") or {}
        own = KNATIVE.texts(labels, annotations)
        for part, percents in (("status", routed), ("spec", declared)):
            for name, percent in _traffic(route.get(part), namespace, latest).items():
                percents[namespace, name] = max(percents.get((namespace, name), 0.0), percent)
                if own:
                    texts[namespace, name] = own
    return {key: Routing(routed.get(key), declared.get(key), texts.get(key, ())) for key in routed | declared}


def named_by(route: Json) -> set[Key]:
    """Return (namespace, name) of every revision and configuration that a route names."""
    namespace, _ = key_of(route)
    entries = [entry for part in ("status", "spec") for entry in (route.get(part) or {}).get("traffic") or ()]
    names = {entry.get(key) for entry in entries for key in ("revisionName", "configurationName")}
    return {(namespace, name) for name in names if isinstance(name, str)}


def route_names_of(revision: Json) -> set[Key]:
    """Return the keys by which a route may name a revision, or an object made from one."""
    namespace, name = key_of(revision)
    configuration = label(revision, SERVING + "configuration")
    return {(namespace, name)} if configuration is None else {(namespace, name), (namespace, configuration)}


def _traffic(of: Any, namespace: str, latest: Mapping[Key, str]) -> dict[str, float]:
    """Return {revision: share} of a route's spec or status; entries of one revision add up."""
    parts: dict[str, float] = {}
    entries = of.get("traffic") if isinstance(of, Mapping) else None
    for entry in entries or ():
        configuration = entry.get("configurationName")
        name = entry.get("revisionName") or (
            latest.get((namespace, configuration)) if configuration else None
        )
        percent = entry.get("percent") or 0
        if isinstance(name, str) and isinstance(percent, int):
            parts[name] = min(1.0, parts.get(name, 0.0) + percent / 100)
    return parts


def main_of(revisions: Iterable[Revision]) -> Revision:
    """Return the service's main revision: the one with most traffic, the newest of equals.

    A revision that has not started serves nothing yet. Raises ``ValueError`` without revisions.
    """
    return max(
        revisions,
        key=lambda revision: (
            not revision.inactive or revision.waiting is not None,
            revision.started,
            revision.routing.most,
            revision.generation,
            revision.name,
        ),
    )


def plan(revisions: Iterable[Revision], wanted: int | None) -> dict[Key, int]:
    """Return the count of each revision of one service, within its bounds.

    ``wanted`` is the last decision for the service; None: none yet, and a restart changes nothing. An
    inactive revision keeps its count: ``status`` decides when it may scale to zero.
    """
    members = list(revisions)
    counts: dict[Key, int] = {}
    if not members:
        return counts
    main = main_of(members)
    whole = main.replicas if wanted is None else wanted
    for revision in members:
        count = whole if revision.key == main.key else replicas_for_share(whole, revision.routing.most)
        # As in Knative, a lower bound above the upper one wins (an initial scale may be).
        most = count if revision.most is None else min(count, revision.most)
        counts[revision.key] = revision.replicas if revision.inactive else max(most, revision.lowest)
    return counts


def scale_of(revisions: Collection[Revision], cap: int | None, modes: Modes) -> Scale:
    """Return the counts and bounds of a service's main revision, from which a decision starts.

    Raises ``UnreadableError`` if one of the Service's keys is wrong.
    """
    main = main_of(revisions)
    observed = partial(
        Scale,
        desired=main.replicas if main.waiting is None else 0,
        available=main.ready,
        min=main.least or None,
        max=main.most,
        cap=cap,
        zero_after=main.zero_after,
        waiting=main.waiting,
        scaler="",  # what another client writes to a Deployment is set right
        revision=main.name,
        rollout_failed=any(
            revision.failed and revision.generation > main.generation for revision in revisions
        ),
        version=main.version,
    )
    return KNATIVE.declared(main.function_name, observed, KNATIVE.read(main.routing.texts), modes)


def is_scaled(function_name: str, routing: Routing, modes: Modes) -> bool:
    """Return whether decisions for a function are applied; with a wrong label the last one stands."""
    try:
        return KNATIVE.mode(function_name, routing.mode, modes) == "active"
    except PlatformError:
        return True


def may_rest(main: Revision, defaults: Defaults, version: tuple[int, int] | None, modes: Modes) -> bool:
    """Return whether a service may have no replicas while a route names its main revision.

    Not where no decision would wake it: in another mode than ``active``, or with a wrong key.
    """
    said = KNATIVE.read(main.routing.texts)
    try:
        acts = KNATIVE.mode(main.function_name, said.mode, modes) == "active" and not said.faults
    except PlatformError:
        return False
    told = version is None or version >= ACTIVATOR_TELLS
    routed = main.started and main.routing != UNROUTED
    return acts and told and routed and main.least == 0 and defaults.scale_to_zero


def scales_of(
    functions: Mapping[str, Collection[Revision]], cap: int | None, modes: Modes
) -> dict[str, Scale | PlatformError]:
    """Return ``scale_of`` each function's revisions; a wrong label affects only its function."""
    scales: dict[str, Scale | PlatformError] = {}
    for name, revisions in functions.items():
        try:
            scales[name] = scale_of(revisions, cap, modes)
        except PlatformError as error:
            scales[name] = error
    return scales


def replicas_for_share(whole: int, share: float) -> int:
    """Return the replicas for a share of the traffic that ``whole`` replicas serve."""
    # Rounded first: 0.07 x 100 is a little more than 7.
    return math.ceil(round(whole * share, 6))
