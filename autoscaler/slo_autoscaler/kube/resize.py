"""Gives pods their boosted CPU through the subresource ``pods/resize``, and takes it back.

Owns the watches of the pods with our label and of their ReplicaSets, the thread that compares both, and its
writes; ``resize_rules`` has the rules. The CPU's state is in the cluster: each pass compares every pod with
its template. So a leader's first pass restores the pods that a crash, another leader or a deleted
configuration left boosted, those that start as soon as they serve.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from math import ceil, inf
from typing import Any, Final

from kubernetes.utils.quantity import parse_quantity

from slo_autoscaler.errors import (
    ApiError,
    ConflictError,
    ForbiddenError,
    NotFoundError,
    PlatformError,
    UnreachableError,
)
from slo_autoscaler.kube import BOOST
from slo_autoscaler.kube.client import Document, KubeApi, Resource, version_of
from slo_autoscaler.kube.informer import Informer, Key
from slo_autoscaler.kube.loop import MAX_WAIT_SECONDS, Loop
from slo_autoscaler.kube.pods import PODS, SERVICE_LABELS
from slo_autoscaler.kube.resize_rules import (
    NOMINAL,
    Boosting,
    Cpu,
    CpuBoost,
    Patch,
    Pod,
    Range,
    Start,
    Template,
    boosting,
    plan,
    ranges,
)
from slo_autoscaler.logs import Changes

logger = logging.getLogger(__name__)

REPLICA_SETS: Final = Resource("apps/v1", "replicasets")
ACCESS_REVIEWS: Final = Resource("authorization.k8s.io/v1", "selfsubjectaccessreviews")

PORT: Final = 8080
"""Port of the watchdog, by which its container is known; without one it is the first container."""

RESYNC_SECONDS: Final = 300.0
"""Seconds between two complete lists; watches report the changes in between."""

RIGHTS_SECONDS: Final = 60.0
"""Seconds between two checks of the right to resize, while it is missing."""

BACKOFF_SECONDS: Final = 60.0
"""Seconds after which a refused limit is requested again."""


@dataclass(frozen=True, slots=True)
class _Refusal:
    """A limit that the API server or the kubelet has refused for one pod."""

    function_name: str
    limit: int
    until: float
    why: str


class Resizer:
    """The pods with our label in some namespaces, or in all."""

    def __init__(
        self,
        cluster: tuple[str | None, str | None, bool | None],
        namespaces: Sequence[str] | None,
        leads: Callable[[], bool],
        *,
        timeout: float,
        concurrency: int,
        wanted: bool,
    ) -> None:
        """Begin to check the rights, and then to watch. Raises ``ConfigError`` without credentials.

        ``cluster`` has the first arguments of ``KubeApi``. Only while ``leads()`` a pod is written.
        ``wanted``: a missing right is a warning.
        """
        watches = 2 * len(namespaces or (None,))
        self._api = KubeApi(*cluster, timeout=timeout, connections=concurrency + watches + 1)
        self._namespaces = namespaces
        self._leads = leads
        self._wanted = wanted
        self._checked_at = float("-inf")
        self._watched: tuple[Informer[Pod], Informer[Template]] | None = None
        self._boosts: dict[str, CpuBoost] | None = None
        """None: this process has not decided as the leader, so no pod is written."""
        self._closed = False
        self._ranges: Mapping[str, Range] = {}
        self._boosting: Mapping[str, Boosting] = {}
        self._refused: dict[Key, _Refusal] = {}
        self._starts: dict[Key, Start] = {}
        self._rights, self._refusals, self._obstacles = Changes(logger), Changes(logger), Changes(logger)
        """The last two by function."""
        self._writing = threading.Lock()
        self._pool = ThreadPoolExecutor(concurrency, thread_name_prefix="resize")
        self._loop = Loop("resize", self.reconcile)
        self._loop.start()

    def ranges(self) -> Mapping[str, Range]:
        """Return {function_name: the factors that its pods can have}; absent without pods with the label."""
        return self._ranges

    def boosting(self) -> Mapping[str, Boosting]:
        """Return {function_name: what its pods have of their boosts}; absent without pods with the label."""
        return self._boosting

    def boost(self, boosts: Mapping[str, CpuBoost]) -> None:
        """Set the boost of these functions, and take back that of others; never wait.

        Only the leader calls this. Pods of functions that were never named here are left alone: they may be
        another autoscaler's.
        """
        after = {**dict.fromkeys(self._boosts or (), NOMINAL), **boosts}
        if after != self._boosts:
            self._boosts = after
            self._loop.wake()

    def close(self) -> None:
        """Restore every pod within the timeout if this is the leader: afterwards no process would."""
        self._loop.close()
        self._closed = True
        if self._watched is not None:
            with suppress(PlatformError):
                self.reconcile()
        self._pool.shutdown(wait=False, cancel_futures=True)
        for informer in self._watched or ():
            informer.close()
        self._api.close()

    def reconcile(self) -> float:
        """Give every pod its CPU: the step of the thread. Return the maximum seconds until the next one."""
        watched = self._watch()
        if watched is None:
            return MAX_WAIT_SECONDS
        pods, templates = watched[0].items(), watched[1].items()
        now = time.monotonic()
        refused = {key: refusal.why for key, refusal in self._refused.items() if refusal.until > now}
        self._ranges = ranges(pods, templates, self._boosts or {}, refused.keys())
        self._boosting = boosting(pods, templates, refused)
        began = Start(now)
        self._starts = {key: self._starts.get(key, began) for key, pod in pods.items() if pod.starting}
        if not self._leads():
            # Another leader decides now.
            self._boosts = None
        if self._boosts is None:
            return MAX_WAIT_SECONDS
        with self._writing:
            now = time.monotonic()
            self._refused = {
                key: refusal for key, refusal in self._refused.items() if key in pods and refusal.until > now
            }
            limits = {key: refusal.limit for key, refusal in self._refused.items()}
            boosts = dict.fromkeys(self._boosts, NOMINAL) if self._closed else self._boosts
            planned = plan(pods, templates, boosts, limits, self._starts, now)
            try:
                self._write(planned.patches, watched[0])
            finally:
                self._log(planned.obstacles)
        return MAX_WAIT_SECONDS

    def _watch(self) -> tuple[Informer[Pod], Informer[Template]] | None:
        """Return the watches; None while the right to resize is missing."""
        if self._watched is None and time.monotonic() - self._checked_at >= RIGHTS_SECONDS:
            missing = self._missing_right()
            self._checked_at = time.monotonic()
            if missing:
                level = logging.WARNING if self._wanted else logging.INFO
                self._rights.say("", f"boost: no pod can be boosted: {missing}", level=level)
            else:
                logger.info("boost: may resize the pods with the label %s", BOOST)
                watch = partial(
                    Informer,
                    self._api,
                    namespaces=self._namespaces,
                    query={"labelSelector": BOOST},
                    resync=RESYNC_SECONDS,
                    changed=self._loop.wake,
                )
                self._watched = watch(PODS, transform=pod_of), watch(REPLICA_SETS, transform=template_of)
                for informer in self._watched:
                    informer.wait(self._api.timeout)
        return self._watched

    def _missing_right(self) -> str:
        """Return why no pod can be resized; empty: they can. Raises ``PlatformError``."""
        offered = {resource.get("name") for resource in self._api.get("/api/v1").get("resources") or ()}
        if "pods/resize" not in offered:
            return "the cluster does not offer pods/resize, which needs Kubernetes 1.33 or later"
        for namespace in self._namespaces or ("",):
            asked = {"verb": "patch", "group": "", "resource": "pods", "subresource": "resize"}
            body = {
                "apiVersion": ACCESS_REVIEWS.api,
                "kind": "SelfSubjectAccessReview",
                "spec": {"resourceAttributes": {**asked, "namespace": namespace}},
            }
            try:
                review = self._api.create(ACCESS_REVIEWS.path(), body)
            except ForbiddenError as error:
                return str(error)
            if not (review.get("status") or {}).get("allowed"):
                where = f"in namespace {namespace}" if namespace else "in all namespaces"
                return f"no right to patch pods/resize {where}: set boost.enabled of the Helm chart"
        return ""

    def _write(self, patches: Mapping[Key, Patch], pods: Informer[Pod]) -> None:
        """Write the patches side by side, within the timeout; the next pass writes the rest."""
        work = partial(self._resize, pods)
        try:
            list(self._pool.map(work, patches, patches.values(), timeout=self._api.timeout))
        except TimeoutError:
            raise UnreachableError(f"boost: not all of {len(patches)} pods resized in time") from None

    def _resize(self, pods: Informer[Pod], key: Key, patch: Patch) -> None:
        if not self._leads():
            return
        if patch.why:
            self._refuse(key, patch, patch.before, patch.why)
        try:
            path = PODS.path(*key, "resize")
            answer = self._api.patch(path, body_of(patch), patient=False, strategic=True)
        except (NotFoundError, ConflictError):
            return  # the watch reports what has changed
        except ApiError as error:
            if error.status == 429 or error.status >= 500:
                raise
            self._refuse(key, patch, patch.cpu, str(error))
            return
        if key in self._starts:
            self._starts[key] = replace(self._starts[key], limit=patch.cpu.limit)
        pod = pod_of(answer)
        if pod is not None:
            pods.wrote(key, version_of(answer), pod)

    def _refuse(self, key: Key, patch: Patch, cpu: Cpu, why: str) -> None:
        until = time.monotonic() + BACKOFF_SECONDS
        self._refused[key] = _Refusal(patch.function_name, cpu.limit or 0, until, why)

    def _log(self, obstacles: Mapping[str, str]) -> None:
        """Log the begin and the end of a function's refusals, and each obstacle once."""
        refusals = {refusal.function_name: refusal.why for refusal in self._refused.values()}
        for name, why in sorted(refusals.items()):
            text = f"{name}: boost: refused: {why}; tried again in {BACKOFF_SECONDS:g} s"
            self._refusals.say(name, text, state="refused")
        for name in sorted(map(str, self._refusals.keys() - refusals.keys())):
            self._refusals.over(name, f"{name}: boost: recovered")
        self._obstacles.keep(self._ranges.keys() | obstacles.keys())
        for name, obstacle in obstacles.items():
            self._obstacles.say(name, f"{name}: boost: not possible: {obstacle}")


def pod_of(document: Document) -> Pod | None:
    """Read a pod; None if it has no node or ReplicaSet, has ended, is being deleted, or is not initialized.

    Init containers may take longer than a start-up is boosted, and do not get that CPU.
    """
    metadata, status, spec = (document.get(part) or {} for part in ("metadata", "status", "spec"))
    owner = _owner(document, "ReplicaSet")
    lives = status.get("phase") in {"Pending", "Running"} and spec.get("nodeName")
    conditions = {condition.get("type"): condition for condition in status.get("conditions") or ()}
    initialized = conditions.get("Initialized", {}).get("status") == "True" or not spec.get("initContainers")
    if owner is None or not lives or not initialized or "deletionTimestamp" in metadata:
        return None
    containers = spec.get("containers") or ()
    return Pod(
        template=(metadata["namespace"], owner),
        containers={container["name"]: _cpu(container) for container in containers},
        guaranteed=status.get("qosClass") == "Guaranteed",
        serving=conditions.get("Ready", {}).get("status") == "True",
        starting=_starting(conditions.get("Ready") or {}, containers, status.get("containerStatuses") or ()),
        refusal=_refusal(conditions),
    )


def template_of(document: Document) -> Template | None:
    """Read the template of a ReplicaSet; None if it belongs to no Deployment."""
    labels = document["metadata"].get("labels") or {}
    deployment = _owner(document, "Deployment")
    containers = document["spec"]["template"]["spec"]["containers"]
    if deployment is None:
        return None
    name = next((labels[key] for key in SERVICE_LABELS if labels.get(key)), deployment)
    first, *_ = [container for container in containers if PORT in _ports(container)] or containers
    policies = first.get("resizePolicy") or ()
    text = labels.get(BOOST, "")
    most = _factor(text)
    return Template(
        function_name=f"{name}.{document['metadata']['namespace']}",
        container=first["name"],
        nominal=_cpu(first),
        restarts={"resourceName": "cpu", "restartPolicy": "RestartContainer"} in policies,
        most=most,
        fault="" if most or not text else f"label {BOOST}: {text!r} must be a number of at least 1, or empty",
    )


def body_of(patch: Patch) -> dict[str, Any]:
    """Return the strategic merge patch of one container's CPU."""
    resources = {"limits": {"cpu": f"{patch.cpu.limit}m"}}
    if patch.cpu.request != patch.before.request:
        resources["requests"] = {"cpu": f"{patch.cpu.request}m"}
    return {"spec": {"containers": [{"name": patch.container, "resources": resources}]}}


def _starting(
    ready: Document, containers: Sequence[Document], statuses: Sequence[Document]
) -> frozenset[str]:
    """Return the containers since whose last start the pod has not been Ready.

    Times are RFC 3339 in UTC, as Kubernetes writes them: they sort as text.
    """
    if ready.get("status") == "True":
        return frozenset()
    since = str(ready.get("lastTransitionTime") or "")
    running = {each["name"]: (each.get("state") or {}).get("running") for each in statuses}
    started = {name: str(run.get("startedAt")) for name, run in running.items() if run}
    names = [container["name"] for container in containers]
    return frozenset(name for name in names if since <= started.get(name, since))


def _refusal(conditions: Mapping[str, Document]) -> str:
    """Return the kubelet's reason and message for a resize that it has not applied (KEP-1287)."""
    pending, under_way = conditions.get("PodResizePending"), conditions.get("PodResizeInProgress", {})
    condition = under_way if pending is None and under_way.get("reason") == "Error" else pending
    if condition is None or condition.get("status") != "True":
        return ""
    return f"{condition['type']} {condition.get('reason', '')}: {condition.get('message', '')}"


def _owner(document: Document, kind: str) -> str | None:
    owners = document["metadata"].get("ownerReferences") or ()
    return next(
        (owner["name"] for owner in owners if owner.get("controller") and owner["kind"] == kind), None
    )


def _ports(container: Document) -> set[int]:
    return {port.get("containerPort") for port in container.get("ports") or ()}


def _cpu(container: Document) -> Cpu:
    resources = container.get("resources") or {}
    parts = (resources.get(part) or {} for part in ("requests", "limits"))
    request, limit = (
        None if "cpu" not in part else ceil(1000 * parse_quantity(part["cpu"])) for part in parts
    )
    # The API server fills a missing request from the limit.
    return Cpu(limit if request is None else request, limit)


def _factor(text: str) -> float | None:
    """Return the number of a label, at least 1; None if it has none."""
    try:
        return float(text) if 1.0 <= float(text) < inf else None
    except ValueError:
        return None
