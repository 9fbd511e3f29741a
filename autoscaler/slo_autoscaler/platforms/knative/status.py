"""Computes the status of a PodAutoscaler of our class, and its ServerlessService. [P]

Owns the conditions, the status and the body of the ServerlessService, as Knative's own reconcilers write them
(knative/serving 1.23: pkg/apis/autoscaling/v1alpha1/pa_lifecycle.go, pkg/reconciler/autoscaling/hpa and kpa;
knative/pkg apis/condition_set.go). ``own_class`` writes them to the API.

Rules that are easily broken:

- Every text is constant. Any change of a condition moves its lastTransitionTime and costs a write. Knative
  uses that time as a clock, which a changing number in a message would restart in every pass.
- ``Active`` becomes False before the revision has started only if it failed to start: Knative concludes from
  False that the initial scale was never reached.
- ``ScaleTargetInitialized`` opens a revision to traffic, and never becomes False again.
- A status always has ``serviceName`` and ``metricsServiceName``, possibly empty, and each condition its time:
  otherwise the API refuses it.
- Conditions of other writers stay in the list.

**Zero.** A revision scales to zero in Knative's order: inactive, then the activator in its path, then the
grace period, then no replicas. It does so if no route names it, or if its service is idle and the activators'
own metrics show what waits there (``activators``): Knative tells what waits for its own class only. Without
these metrics our condition ``ScaleToZero`` says what is missing. When a replica is requested again, the
activator holds requests until the first one is ready.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from slo_autoscaler.platforms.keys import AUTOSCALING, DEADLINE, MIN_SCALE, OLD_MIN_SCALE, RETENTION
from slo_autoscaler.platforms.knative.allocation import (
    STABLE_WINDOW,
    UNROUTED,
    Defaults,
    Json,
    Revision,
    Routing,
    annotation,
    condition,
    generation_of,
    initial_scale,
    key_of,
    max_scale,
    min_scale,
    service_of,
)
from slo_autoscaler.settings.fields import parse_duration, whole

ACTIVE: Final = "Active"
INITIALIZED: Final = "ScaleTargetInitialized"
SERVICE_READY: Final = "SKSReady"
READY: Final = "Ready"
TO_ZERO: Final = "ScaleToZero"

DEPENDENTS: Final = (ACTIVE, INITIALIZED, SERVICE_READY)
"""Conditions that determine ``Ready``; others are information."""

PROGRESS_DEADLINE: Final = 600.0
"""Default progress deadline of a revision in seconds (Knative's)."""

DIAGNOSIS: Final = 30.0
"""Seconds after the deadline in which Knative determines why the revision did not start."""


@dataclass(frozen=True, slots=True)
class Condition:
    """Status, reason and message of a condition."""

    status: str
    """True, False or Unknown."""
    reason: str = ""
    message: str = ""
    severity: str = ""
    """Empty is an error; Info does not affect ``Ready``."""


TRUE: Final = Condition("True")
UNKNOWN: Final = Condition("Unknown")
STARTING: Final = Condition(
    "Unknown", "Queued", "Requests are held by the activator until a replica is ready."
)
NO_TRAFFIC: Final = Condition("False", "NoTraffic", "No route names this revision.")
IDLE: Final = Condition("False", NO_TRAFFIC.reason, "No request came for long enough.")
TIMED_OUT: Final = Condition(
    "False", "TimedOut", "The revision did not come up within its progress deadline."
)
NOT_OWNED: Final = Condition(
    "False", "NotOwned", "There is a ServerlessService of this name that this PodAutoscaler does not own."
)
SERVICE_NOT_READY: Final = Condition("Unknown", "NotReady", "The ServerlessService is not ready.")
SERVICE_NOT_CREATED: Final = Condition(
    "Unknown", "FailedCreate", "The ServerlessService could not be created; the autoscaler's log says why."
)
ZERO_REFUSED: Final = Condition(
    "False",
    "NoActivatorMetrics",
    "A replica stays: requests would wait at the activator unseen. Set metrics-protocol: prometheus in"
    " config-observability and restart the activators. The autoscaler must be allowed to list pods in"
    " knative-serving, and to reach port 9090 there.",
    "Info",
)


def revision_of(
    pa: Json, deployment: Json, routing: Routing, defaults: Defaults, *, inactive: bool
) -> Revision:
    """Return the revision that a PodAutoscaler and its Deployment describe.

    As in Knative, min-scale does not hold for a revision without a route; here the routes must agree. A
    revision that fails to start gets its initial scale, not the count for its declared traffic.
    """
    namespace, name = key_of(pa)
    replicas = deployment.get("spec", {}).get("replicas")
    least = min_scale(pa, defaults)
    if not has_started(pa) and _reachability(pa) == "Unreachable":
        routing = Routing(routing.routed, None)
    return Revision(
        namespace=namespace,
        name=name,
        service=service_of(pa),
        generation=generation_of(pa),
        routing=routing,
        least=0 if _is_left(pa, routing) else least,
        most=max_scale(pa, defaults),
        start=max(least, initial_scale(pa, defaults)),
        started=has_started(pa),
        replicas=1 if replicas is None else int(replicas),
        ready=int(deployment.get("status", {}).get("readyReplicas") or 0),
        inactive=inactive,
        failed=inactive and not has_started(pa),
        version=str(deployment.get("metadata", {}).get("resourceVersion") or ""),
        zero_after=STABLE_WINDOW if declares_zero(pa) else None,
    )


def declares_zero(pa: Json) -> bool:
    """Return whether the user wrote a minimum of 0; without one the configuration decides."""
    return whole(annotation(pa, MIN_SCALE, OLD_MIN_SCALE)) == 0


def has_started(pa: Json) -> bool:
    """Return whether the revision has had its initial scale once."""
    return _says(condition(pa, INITIALIZED), "True")


def inactivity(
    pa: Json, routing: Routing, defaults: Defaults, now: float, *, superseded: bool
) -> Condition | None:
    """Return why a revision must have no replicas, or None if it must have some.

    ``superseded``: a newer revision of the same service has started. ``now`` is Unix seconds.

    Knative calls a revision unreachable if no route names it, but also if all its replicas fail. So the
    routes count as well: otherwise a routed function would scale to zero because it crashes. While the route
    has no status yet, a superseded revision counts as unreachable too.
    """
    reach = _reachability(pa)
    if has_started(pa):
        unreachable = reach == "Unreachable" or (reach == "" and superseded)
        return NO_TRAFFIC if defaults.scale_to_zero and unreachable and routing == UNROUTED else None
    if routing.routed:
        return None
    active = condition(pa, ACTIVE)
    if _says(active, "False") and active.get("reason") == TIMED_OUT.reason:
        # Permanent: without replicas it would otherwise look startable, and start again and again.
        return TIMED_OUT
    waiting = condition(pa, INITIALIZED)
    since = _seconds(waiting.get("lastTransitionTime"))
    own = _duration(annotation(pa, DEADLINE))
    deadline = PROGRESS_DEADLINE if own is None else own
    late = since is not None and now - since > deadline + DIAGNOSIS
    return TIMED_OUT if reach == "Unreachable" and _says(waiting, "Unknown") and late else None


def may_go(pa: Json, service: Json | None, defaults: Defaults, now: float) -> bool:
    """Return whether the replicas of an inactive revision may be removed.

    That is: the written status is inactive, the activator is in its path, and the grace period is over.
    """
    active = condition(pa, ACTIVE)
    if not _says(active, "False"):
        return False
    if active.get("reason") == TIMED_OUT.reason:
        return True
    since = _seconds(active.get("lastTransitionTime"))
    proxied = service is not None and service.get("spec", {}).get("mode") == "Proxy"
    if active.get("reason") != NO_TRAFFIC.reason or since is None or not proxied:
        return False
    kept = annotation(pa, RETENTION)
    return now - since >= max(defaults.grace_period, _duration(kept) or 0.0)


def status(
    pa: Json,
    service: Json | None,
    revision: Revision,
    *,
    target: int,
    inactive: Condition | None,
    now: float,
    failed: bool = False,
    blind: bool = False,
) -> dict[str, Any]:
    """Return the complete status of a PodAutoscaler; ``pa`` holds the previous one.

    ``service`` is its ServerlessService, None without one (``failed``: it could not be created). ``target``
    is the requested count, ``inactive`` the result of ``inactivity``, or ``IDLE``. ``blind``: its service may
    have no replicas, and the activators cannot be read. Without a change all times stay.
    """
    foreign = service is not None and not is_owned(service, pa)
    named = {} if service is None or foreign else service.get("status") or {}
    service_ready = _service_condition(service, failed=failed, foreign=foreign)
    service_name = str(named.get("serviceName") or "")
    complete = revision.ready >= revision.lowest and service_name != "" and service_ready == TRUE
    started = revision.started or complete
    wanted = {
        ACTIVE: _active(revision, inactive, foreign=foreign, started=started),
        INITIALIZED: TRUE if started else UNKNOWN,
        SERVICE_READY: service_ready,
    }
    if blind and inactive is None:
        wanted[TO_ZERO] = ZERO_REFUSED
    before = pa.get("status") or {}
    return {
        **before,
        "observedGeneration": pa.get("metadata", {}).get("generation", 0),
        "serviceName": service_name,
        "metricsServiceName": str(named.get("privateServiceName") or ""),
        "desiredScale": target,
        "actualScale": revision.ready,
        "conditions": conditions(before.get("conditions") or (), wanted, now),
    }


def conditions(before: Iterable[Json], wanted: Mapping[str, Condition], now: float) -> list[dict[str, Any]]:
    """Return the list of conditions with the ``wanted`` ones, ``Ready`` derived, sorted by type.

    A condition keeps its time unless another field changes; our own information is removed if not wanted.
    """
    present = {
        str(document.get("type")): document
        for document in before
        if document.get("type") != TO_ZERO or TO_ZERO in wanted
    }
    after: dict[str, dict[str, Any]] = {kind: dict(document) for kind, document in present.items()}
    for kind, content in wanted.items():
        after[kind] = _document(kind, content, present.get(kind), now)
    after[READY] = _document(READY, _ready_condition(after), present.get(READY), now)
    return [after[kind] for kind in sorted(after)]


def _active(revision: Revision, inactive: Condition | None, *, foreign: bool, started: bool) -> Condition:
    if foreign:
        return NOT_OWNED
    if inactive is not None:
        return inactive
    # Afterwards one replica is enough: below its minimum a function is slow, not inactive.
    return TRUE if revision.ready >= (1 if started else revision.lowest) else STARTING


def _service_condition(service: Json | None, *, failed: bool, foreign: bool) -> Condition:
    if failed:
        return SERVICE_NOT_CREATED
    if service is None or foreign:
        return SERVICE_NOT_READY
    current = (service.get("status") or {}).get("observedGeneration") == service.get("metadata", {}).get(
        "generation"
    )
    return TRUE if current and _says(condition(service, READY), "True") else SERVICE_NOT_READY


def _ready_condition(after: Mapping[str, Json]) -> Condition:
    """Return ``Ready``: the condition that became False last, else an Unknown one, else True."""
    dependents = sorted(
        (after[kind] for kind in DEPENDENTS),
        key=lambda document: _seconds(document.get("lastTransitionTime")) or 0.0,
        reverse=True,
    )
    for status_ in ("False", "Unknown"):
        for document in dependents:
            if _says(document, status_):
                return Condition(status_, document.get("reason", ""), document.get("message", ""))
    return TRUE


def _document(kind: str, wanted: Condition, before: Json | None, now: float) -> dict[str, Any]:
    said = {"severity": wanted.severity, "reason": wanted.reason, "message": wanted.message}
    document = {
        "type": kind,
        "status": wanted.status,
        **{key: value for key, value in said.items() if value},
    }
    time = None if before is None else before.get("lastTransitionTime")
    unchanged = before is not None and document == {
        key: value for key, value in before.items() if key != "lastTransitionTime" and value
    }
    return document | {"lastTransitionTime": time if unchanged and time else _stamp(now)}


def service_body(pa: Json, mode: str) -> dict[str, Any]:
    """Return the ServerlessService of a PodAutoscaler, to be created in ``mode`` Serve or Proxy.

    Kubernetes deletes it with its owner. Knative's controller finds the pods by the labels.
    """
    metadata = pa["metadata"]
    annotations = metadata.get("annotations") or {}
    return {
        "apiVersion": "networking.internal.knative.dev/v1alpha1",
        "kind": "ServerlessService",
        "metadata": {
            "name": metadata["name"],
            "namespace": metadata["namespace"],
            "labels": dict(metadata.get("labels") or {}),
            "annotations": {
                key: value for key, value in annotations.items() if key != AUTOSCALING + "metric"
            },
            "ownerReferences": [
                {
                    "apiVersion": "autoscaling.internal.knative.dev/v1alpha1",
                    "kind": "PodAutoscaler",
                    "name": metadata["name"],
                    "uid": metadata["uid"],
                    "controller": True,
                    "blockOwnerDeletion": True,
                }
            ],
        },
        "spec": _service_spec(pa, mode),
    }


def service_change(service: Json, pa: Json, mode: str) -> dict[str, Any] | None:
    """Return the merge patch that corrects the ServerlessService, or None if it is correct."""
    wanted = _service_spec(pa, mode)
    spec = dict(service.get("spec") or {})
    if not spec.get("numActivators"):
        spec.pop("numActivators", None)
    if spec == wanted:
        return None
    version = service.get("metadata", {}).get("resourceVersion")
    dropped = dict.fromkeys(spec.keys() - wanted.keys())
    return {"metadata": {"resourceVersion": version}, "spec": {**wanted, **dropped}}


def is_owned(service: Json, pa: Json) -> bool:
    """Return whether the PodAutoscaler controls the ServerlessService."""
    owners = service.get("metadata", {}).get("ownerReferences") or ()
    uid = pa.get("metadata", {}).get("uid")
    return any(owner.get("controller") and owner.get("uid") == uid for owner in owners)


def _service_spec(pa: Json, mode: str) -> dict[str, Any]:
    # numActivators is omitted (0: all): with our class activators are in the path only at zero.
    spec = pa["spec"]
    return {"mode": mode, "objectRef": dict(spec["scaleTargetRef"]), "protocolType": spec["protocolType"]}


def _reachability(pa: Json) -> str:
    return str(pa.get("spec", {}).get("reachability") or "")


def _is_left(pa: Json, routing: Routing) -> bool:
    """Return whether both Knative and the routes send it no more traffic."""
    return has_started(pa) and _reachability(pa) == "Unreachable" and routing == UNROUTED


def _says(condition: Json, wanted: str) -> bool:
    return condition.get("status") == wanted


def _duration(text: str | None) -> float | None:
    try:
        return None if text is None else parse_duration(text)
    except ValueError:
        return None


def _stamp(now: float) -> str:
    return datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _seconds(stamp: object) -> float | None:
    try:
        return datetime.fromisoformat(str(stamp)).timestamp() if stamp else None
    except ValueError:
        return None
