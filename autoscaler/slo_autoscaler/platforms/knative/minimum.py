"""Expresses a floor under Knative's own autoscaler as annotations of a Revision. [P]

Owns ``min-scale`` while the floor exceeds the user's own, and the record of the user's. Both are on the
Revision, so a restart loses nothing. Knative carries a Revision's annotations to its autoscaler within a
second, and makes no new Revision of it (Knative 1.21 and later).

The user's ``min-scale`` is never lowered. It is restored when the floor no longer exceeds it, when the
function's mode is no longer active, or when no route names it, so that it can scale to zero. A manual edit
becomes the user's value. A floor of 1 is not set: Knative and the user's ``min-scale`` decide about the last
replica.

A decision starts from the floor and changes it. Knative may keep more replicas.
"""

from collections.abc import Iterable
from typing import Any, Final

from slo_autoscaler.platforms.keys import FLOOR_APPLIED, FLOOR_ORIGINAL, MIN_SCALE
from slo_autoscaler.platforms.knative.allocation import (
    UNROUTED,
    Defaults,
    Json,
    Key,
    Revision,
    Share,
    annotation,
    condition,
    counts_of,
    generation_of,
    initial_scale,
    key_of,
    max_scale,
    min_scale,
    service_of,
)

LEAST_VERSION: Final = (1, 21)
"""Oldest Knative version that passes changed annotations of an existing Revision to its autoscaler."""


def revision_of(revision: Json, share: Share, defaults: Defaults, *, floored: bool) -> Revision:
    """Return the scaling state of a Revision.

    ``least`` is the user's own lower bound. ``replicas`` is the present floor: 1 without one, 0 while it is
    at zero. Without ``floored`` it is the count that Knative requests.
    """
    namespace, name = key_of(revision)
    state = revision.get("status") or {}
    wanted, ready_replicas = state.get("desiredReplicas") or 0, state.get("actualReplicas") or 0
    floor = max(1, min_scale(revision, defaults)) if wanted or ready_replicas else 0
    return Revision(
        namespace=namespace,
        name=name,
        service=service_of(revision),
        generation=generation_of(revision),
        share=share,
        least=min_scale(_with_own(revision), defaults),
        most=max_scale(revision, defaults),
        start=initial_scale(revision, defaults),
        started=condition(revision, "Ready").get("status") == "True",
        replicas=floor if floored else max(0, wanted),
        ready=int(ready_replicas),
        inactive=share == UNROUTED or not floored,
        failed=condition(revision, "Ready").get("status") == "False",
        version=str(revision.get("metadata", {}).get("resourceVersion") or ""),
    )


def floors(revisions: Iterable[Revision], wanted: int | None) -> dict[Key, int]:
    """Return the floor of each revision of one service; 0: none.

    ``wanted`` is the last decision for the service; None: none yet, and its main revision keeps its floor.
    """
    members = list(revisions)
    counts = counts_of(members, wanted)
    for revision in members:
        most = counts[revision.key] if revision.most is None else revision.most
        counts[revision.key] = 0 if revision.inactive else min(counts[revision.key], most)
    return counts


def change(revision: Json, floor: int, defaults: Defaults) -> dict[str, Any] | None:
    """Return the merge patch that sets a Revision's floor or removes it (0); None if nothing changes.

    It holds the resourceVersion, so that a simultaneous change by the user is not overwritten.
    """
    own = _own(revision)
    annotations: dict[str, str | None] = {FLOOR_APPLIED: None, FLOOR_ORIGINAL: None}
    if floor > max(1, min_scale(_with_own(revision), defaults)):
        annotations = {MIN_SCALE: str(floor), FLOOR_APPLIED: str(floor), FLOOR_ORIGINAL: own or ""}
    elif annotation(revision, FLOOR_APPLIED) is None and annotation(revision, FLOOR_ORIGINAL) is None:
        return None
    else:
        annotations[MIN_SCALE] = own
    present = revision.get("metadata", {}).get("annotations") or {}
    if all(present.get(key) == value for key, value in annotations.items()):
        return None
    version = revision.get("metadata", {}).get("resourceVersion")
    return {"metadata": {"resourceVersion": version, "annotations": annotations}}


def _held(revision: Json) -> bool:
    """Return whether its min-scale is the written floor, not the user's."""
    given = annotation(revision, FLOOR_APPLIED)
    return given is not None and annotation(revision, MIN_SCALE) == given


def _own(revision: Json) -> str | None:
    """Return the user's min-scale as text; None without one under this name."""
    return (
        (annotation(revision, FLOOR_ORIGINAL) or None) if _held(revision) else annotation(revision, MIN_SCALE)
    )


def _with_own(revision: Json) -> Json:
    """Return the Revision with its user's own min-scale."""
    metadata = revision.get("metadata", {})
    annotations = dict(metadata.get("annotations") or {})
    annotations.pop(MIN_SCALE, None)
    own = _own(revision)
    if own is not None:
        annotations[MIN_SCALE] = own
    return {**revision, "metadata": {**metadata, "annotations": annotations}}
