"""Plain Kubernetes: scales each Deployment with our label through its scale subresource.

Likewise objects of other kinds that have one. Makes no decisions. A HorizontalPodAutoscaler on the same
object undoes every write: in mode active such an object is an error that names both.
"""

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, Final, Literal

from pydantic import Field

from slo_autoscaler.errors import (
    ForbiddenError,
    FunctionGoneError,
    NotFoundError,
    PlatformError,
    UnreadableError,
)
from slo_autoscaler.kube.client import Document, KubeApi, Resource
from slo_autoscaler.kube.events import Events, Reference
from slo_autoscaler.kube.informer import Informer, Key
from slo_autoscaler.kube.pods import PODS, WITHOUT_NODE, Shortages, Unschedulable, Watchdogs, shortages
from slo_autoscaler.model import Scale
from slo_autoscaler.platforms import ALL_ACTIVE, place
from slo_autoscaler.platforms.keys import HOLD, KUBERNETES, MODE, Declaration, WrongKeyError
from slo_autoscaler.platforms.leader import Leader
from slo_autoscaler.settings.fields import (
    ClusterTls,
    Concurrency,
    Count,
    Namespaces,
    PositiveDuration,
    settings,
)
from slo_autoscaler.settings.spec import Modes

logger = logging.getLogger(__name__)

DEPLOYMENTS: Final = Resource("apps/v1", "deployments")
DEPLOYMENT: Final = "Deployment"
AUTOSCALERS: Final = Resource("autoscaling/v2", "horizontalpodautoscalers")

_FIRST_LIST_SHARE: Final = 0.8
"""Share of the timeout for which a reader waits for the first lists."""


@settings
class ScaleTarget:
    """A kind of object with ``spec.replicas``, ``status.readyReplicas`` and a scale subresource."""

    apiVersion: str  # noqa: N815 - as Kubernetes writes it
    """Its group and version, such as ``apps/v1``."""
    kind: str
    """Its kind, such as ``StatefulSet``."""


DEPLOYMENT_TARGET: Final = ScaleTarget(DEPLOYMENTS.api, DEPLOYMENT)


@settings
class Settings:
    """Deployments that carry our label, scaled through the Kubernetes API."""

    kind: Literal["kubernetes"] = "kubernetes"
    """Kind of platform."""
    kubeconfig: str | None = None
    """Kubeconfig file. None: the pod's service account, or outside a cluster the file in KUBECONFIG."""
    context: str | None = None
    """Context of the kubeconfig; None: its current one."""
    namespaces: Namespaces | None = None
    """Namespaces to watch; None: all, which needs a ClusterRole."""
    scale_targets: tuple[ScaleTarget, ...] = ()
    """Kinds to scale beside Deployments, such as StatefulSets; the role must allow them."""
    timeout: PositiveDuration = 5.0
    """Time limit of each request, with its retries."""
    concurrency: Concurrency = 8
    """Number of parallel requests; watches come on top."""
    resync: PositiveDuration = 300.0
    """Time between two complete lists; watches report the changes in between."""
    cap: Count | None = None
    """Maximum number of replicas of any function, whatever its annotations say."""
    cap_retry: PositiveDuration = 300.0
    """Time after which a refused count is requested again."""
    tls: ClusterTls = Field(default_factory=ClusterTls)

    wakes: ClassVar[bool] = False
    on_kubernetes: ClassVar[bool] = True

    @property
    def place(self) -> str:
        """Namespaces, for the log."""
        return place(self.kind, self.namespaces)

    @property
    def cluster(self) -> tuple[str | None, str | None, bool | None]:
        """Kubeconfig, context, and whether TLS is strict."""
        return self.kubeconfig, self.context, self.tls.strict


@dataclass(frozen=True, slots=True)
class Deployment:
    """The cached part of one Deployment, or of an object of another kind."""

    namespace: str
    name: str
    uid: str
    version: str
    desired: int
    ready: int
    keys: Declaration
    rollout_failed: bool = False
    scaler: str = ""
    """Client that wrote the count to the scale subresource last; empty: another request has set it."""
    resource: Resource = DEPLOYMENTS
    kind: str = DEPLOYMENT

    @classmethod
    def of(
        cls, document: Document, resource: Resource = DEPLOYMENTS, kind: str = DEPLOYMENT
    ) -> "Deployment | None":
        """Read an object; None without our label. Raises ``ValueError`` for a count that is none."""
        metadata = document["metadata"]
        labels, annotations = metadata.get("labels") or {}, metadata.get("annotations") or {}
        if labels.get(MODE) is None:
            return None
        return cls(
            namespace=metadata["namespace"],
            name=metadata["name"],
            uid=metadata.get("uid", ""),
            version=metadata.get("resourceVersion", ""),
            desired=_count((document.get("spec") or {}).get("replicas"), 1),
            ready=_count((document.get("status") or {}).get("readyReplicas"), 0),
            keys=KUBERNETES.read(KUBERNETES.texts(labels, annotations)),
            rollout_failed=_rollout_failed(document),
            scaler=_scaler(metadata),
            resource=resource,
            kind=kind,
        )

    @property
    def function_name(self) -> str:
        """name.namespace, as metrics and decisions call it."""
        return f"{self.name}.{self.namespace}"

    @property
    def key(self) -> Key:
        """Namespace and name."""
        return self.namespace, self.name

    @property
    def reference(self) -> Reference:
        """The object of events about it."""
        return Reference(self.resource.api, self.kind, self.namespace, self.name, self.uid)


class Kubernetes:
    """The Deployments, and other scale targets, of one API server, in some namespaces or all."""

    def __init__(self, config: Settings, leader: Leader, modes: Modes = ALL_ACTIVE) -> None:
        """Begin to watch. Raises ``ConfigError`` without credentials.

        Writes only on the controller's request, and events only while ``leader`` leads.
        """
        self._config = config
        self._leader = leader
        self._modes = modes
        watches = (4 + len(config.scale_targets)) * len(config.namespaces or (None,))
        self._api = KubeApi(
            *config.cluster,
            timeout=config.timeout,
            connections=config.concurrency + watches + 1,
        )
        self._events = Events(self._api)
        self._workloads = {DEPLOYMENT_TARGET: self._watch(DEPLOYMENTS, DEPLOYMENT)}
        self._absent: dict[ScaleTarget, str] = {}
        """Scale targets that the API server does not have or show, and why."""
        self._autoscalers = Informer(self._api, AUTOSCALERS, config.namespaces, _target, resync=config.resync)
        self._pods = Informer(
            *(self._api, PODS, config.namespaces, Unschedulable.of), query=WITHOUT_NODE, resync=config.resync
        )
        self._watchdogs = Watchdogs(self._api, config.namespaces, config.resync)

    def scales(self) -> dict[str, Scale | PlatformError]:
        """Return replicas and bounds of every Deployment with our label, from the watches."""
        end = time.monotonic() + _FIRST_LIST_SHARE * self._config.timeout
        self._discover()
        for informer in self._informers():
            informer.wait(max(0.0, end - time.monotonic()))
        others, without_node = self._others(), self._shortages()
        scales: dict[str, Scale | PlatformError] = {}
        for deployment in self._items():
            name = deployment.function_name
            try:
                if name in scales:
                    raise PlatformError(
                        f"{name}: objects of several kinds have this name and the label {MODE}"
                    )
                scales[name] = self._scale(deployment, others, without_node)
            except PlatformError as error:
                scales[name] = error
        return scales

    def scale(self, function_name: str) -> Scale:
        """Return replicas and bounds of one Deployment, read anew."""
        return self._scale(self._read(_key(function_name)), self._others(), self._shortages())

    def set_scale(self, function_name: str, replicas: int, seen: Scale) -> None:
        """Write the count, unless another writer has changed the one that was decided on."""
        if replicas < 1:
            raise PlatformError(f"{function_name}: replicas {replicas}: nothing wakes a Deployment from zero")
        key = _key(function_name)
        workload = self._workload(key)
        # With the same count, the newer version differs only in its status.
        version = workload.version if workload.desired == seen.desired else seen.version
        try:
            version = self._api.scale(workload.resource.path(*key, "scale"), version, seen.desired, replicas)
        except NotFoundError as error:
            raise FunctionGoneError(str(error)) from error
        written = replace(workload, desired=replicas, version=version)
        self._workloads[ScaleTarget(workload.resource.api, workload.kind)].wrote(key, version, written)
        if seen.desired != replicas:
            reason = "ScaledUp" if replicas > seen.desired else "ScaledDown"
            self._events.tell(
                workload.reference, reason, f"Scaled replicas from {seen.desired} to {replicas}"
            )

    def waiting(self) -> dict[str, float]:
        """Return none: nothing holds requests."""
        return {}

    def announce(self, function_name: str, reason: str, message: str) -> None:
        """Queue a warning event on the Deployment."""
        with suppress(PlatformError):
            workload = self._workload(_key(function_name))
            if self._leader.leads():
                self._events.tell(workload.reference, reason, message, kind="Warning")

    def denied(self) -> dict[str, str]:
        """Return the namespaces of which a kind may not be listed, and kinds that cannot be watched."""
        denied = {f"{target.kind} of {target.apiVersion}": why for target, why in self._absent.items()}
        for informer in self._workloads.values():
            denied |= informer.denied()
        return denied

    def watchdogs(self) -> dict[str, str]:
        """Return the metrics pages of running pods."""
        return self._watchdogs.pages()

    def close(self) -> None:
        """Stop the watches and the thread of events; close connections."""
        for informer in self._informers():
            informer.close()
        self._watchdogs.close()
        self._events.close()
        self._api.close()

    def _informers(self) -> tuple[Informer[Any], ...]:
        return *self._workloads.values(), self._autoscalers, self._pods

    def _workload(self, key: Key) -> Deployment:
        """Return the watched object, or read it if a watch is not current."""
        try:
            for informer in self._workloads.values():
                with suppress(ForbiddenError):
                    workload = informer.get(key)
                    if workload is not None:
                        return workload
        except PlatformError:
            return self._read(key)
        raise _gone(key)

    def _read(self, key: Key) -> Deployment:
        for target, informer in self._workloads.items():
            with suppress(NotFoundError):
                resource = informer.resource
                workload = Deployment.of(self._api.get(resource.path(*key)), resource, target.kind)
                if workload is not None:
                    return workload
        raise _gone(key)

    def _watch(self, resource: Resource, kind: str) -> Informer[Deployment]:
        config = self._config
        return Informer(
            self._api,
            resource,
            config.namespaces,
            lambda document: Deployment.of(document, resource, kind),
            query={"labelSelector": MODE},
            resync=config.resync,
        )

    def _discover(self) -> None:
        """Begin to watch configured kinds that the API server has by now."""
        for target in self._config.scale_targets:
            if target in self._workloads:
                continue
            try:
                resource = self._api.scaled_resource(target.apiVersion, target.kind)
            except PlatformError as error:
                if target not in self._absent:
                    logger.warning("platform.scale_targets: %s", error)
                self._absent[target] = str(error)
            else:
                self._absent.pop(target, None)
                # Other threads iterate over the one before.
                self._workloads = {**self._workloads, target: self._watch(resource, target.kind)}

    def _items(self) -> Iterator[Deployment]:
        """Yield every watched object. A kind that the role forbids stops no other, but for Deployments."""
        for target, informer in self._workloads.items():
            try:
                workloads = informer.items()
            except ForbiddenError as error:
                if target == DEPLOYMENT_TARGET:
                    raise
                self._absent[target] = str(error)
            else:
                self._absent.pop(target, None)
                yield from workloads.values()

    def _shortages(self) -> Shortages:
        return shortages(self._pods, lambda pod: pod.deployment)

    def _scale(
        self, deployment: Deployment, others: Mapping[tuple[str, Key], str], without_node: Shortages
    ) -> Scale:
        name, other = deployment.function_name, others.get((deployment.kind, deployment.key))
        # A pod tells of its Deployment alone.
        unknown: tuple[int | None, str] = None, ""
        unschedulable, shortage = without_node(deployment.key) if deployment.kind == DEPLOYMENT else unknown
        observed = partial(
            Scale,
            desired=deployment.desired,
            available=deployment.ready,
            cap=self._config.cap,
            scaler=deployment.scaler,
            unschedulable=unschedulable,
            shortage=shortage,
            rollout_failed=deployment.rollout_failed,
            version=deployment.version,
        )
        try:
            scale = KUBERNETES.declared(name, observed, deployment.keys, self._modes)
        except WrongKeyError as error:
            if other is not None:
                # The last good mode may be active.
                raise UnreadableError(str(error), deployment.desired) from error
            raise
        if other is not None and scale.mode == "active":
            raise UnreadableError(
                f"{name}: HorizontalPodAutoscaler {other} scales it too; two scalers undo each other:"
                f" delete it, or set the label {MODE} to shadow, recommend or off",
                deployment.desired,
            )
        return scale

    def _others(self) -> dict[tuple[str, Key], str]:
        """Return {(kind, object): the HorizontalPodAutoscaler that scales it}.

        Without the right to list them return {}; the watch has logged the error.
        """
        return dict(self._autoscalers.items(skip_failed=True).values())


def write_hold(config: Settings, function_name: str, text: str | None) -> None:
    """Write the annotation of a hold to an object, or remove it (None). Raises ``PlatformError``."""
    with closing(KubeApi(*config.cluster, timeout=config.timeout, connections=1)) as api:
        document = _annotated(api, config.scale_targets, _key(function_name), text)
    if Deployment.of(document) is None:
        raise PlatformError(f"{function_name}: annotated, but not scaled: it has no label {MODE}")


def _annotated(api: KubeApi, targets: Sequence[ScaleTarget], key: Key, text: str | None) -> Document:
    """Annotate the Deployment of this name, or the first other scale target."""
    try:
        return api.annotate(DEPLOYMENTS.path(*key), HOLD, text)
    except NotFoundError:
        for target in targets:
            with suppress(NotFoundError):
                resource = api.scaled_resource(target.apiVersion, target.kind)
                return api.annotate(resource.path(*key), HOLD, text)
        raise


def _scaler(metadata: Document) -> str:
    """Return the client that owns the count by a write to the scale subresource; empty: there is none."""
    for entry in metadata.get("managedFields") or ():
        fields = (entry.get("fieldsV1") or {}).get("f:spec") or {}
        if entry.get("subresource") == "scale" and "f:replicas" in fields:
            return str(entry.get("manager"))
    return ""


def _count(value: object, default: int) -> int:
    """Return a count; kinds of others may leave it out, and take any value for it."""
    if value is None:
        return default
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"{str(value)[:20]!r} must be a whole number of at least 0")
    return value


def _rollout_failed(document: Document) -> bool:
    """Return whether a Deployment's new pods did not become ready within ``progressDeadlineSeconds``."""
    conditions = (document.get("status") or {}).get("conditions") or ()
    return any(condition.get("reason") == "ProgressDeadlineExceeded" for condition in conditions)


def _target(document: Document) -> tuple[tuple[str, Key], str]:
    """Return kind and object that a HorizontalPodAutoscaler scales, and its own name."""
    metadata, target = document["metadata"], document.get("spec", {}).get("scaleTargetRef", {})
    return (str(target.get("kind")), (metadata["namespace"], str(target.get("name")))), metadata["name"]


def _gone(key: Key) -> FunctionGoneError:
    return FunctionGoneError(f"{key[1]}.{key[0]}: there is no such scale target with the label {MODE}")


def _key(function_name: str) -> Key:
    name, _, namespace = function_name.rpartition(".")
    return namespace, name
