"""Plain Kubernetes: every Deployment with our annotation, scaled through its scale subresource.

Owns the names and annotations, the Deployments as a watch tells of them, and how a count is written. What
this module minds:

- A write names the version of the Deployment that the decision was made on, so one that was held up somewhere
  and arrives late, when another leader has written, fails. A version that is old only because the status has
  changed is read again, within the time that one request may take.
- The watch may tell of our own write later than the next reconcile asks; until then the answer to the write
  counts, for a count that is not there yet would be taken for a refusal.
- A HorizontalPodAutoscaler on the same Deployment undoes whatever we write: such a Deployment is an error
  that names both.
"""

import logging
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from slo_autoscaler.config import KubernetesConfig
from slo_autoscaler.errors import ConflictError, FunctionGoneError, NotFoundError, PlatformError
from slo_autoscaler.kube.client import Document, KubeApi, Resource, Watched
from slo_autoscaler.kube.events import Events, Reference
from slo_autoscaler.model import Scale

logger = logging.getLogger(__name__)

AUTOSCALE: Final = "tailbound.dev/autoscale"
""""true": this Deployment is ours to scale. Anything else: decided on, and left alone."""
MIN_REPLICAS: Final = "tailbound.dev/min-replicas"
MAX_REPLICAS: Final = "tailbound.dev/max-replicas"

DEPLOYMENTS: Final = Resource("apps/v1", "deployments")
AUTOSCALERS: Final = Resource("autoscaling/v2", "horizontalpodautoscalers")

_TRIES: Final = 4
"""Of one write. While pods come up the status changes some ten times a second."""
_PATIENCE: Final = 0.8
"""Share of the timeout that the first list is waited for."""


@dataclass(frozen=True, slots=True)
class Deployment:
    """What is kept of one Deployment."""

    namespace: str
    name: str
    uid: str
    version: str
    desired: int
    ready: int
    enabled: bool
    min: int | None = None
    max: int | None = None
    fault: str | None = None
    """What is wrong with its annotations."""

    @classmethod
    def of(cls, document: Document) -> "Deployment | None":
        """Read an object of apps/v1; None without our annotation."""
        metadata = document["metadata"]
        annotations = metadata.get("annotations") or {}
        if AUTOSCALE not in annotations:
            return None
        bounds, faults = {}, []
        for key in (MIN_REPLICAS, MAX_REPLICAS):
            text = annotations.get(key)
            if text is None or (text.isascii() and text.isdecimal() and int(text) >= 1):
                bounds[key] = None if text is None else int(text)
            else:
                faults.append(f"annotation {key}: {text!r} must be a whole number of at least 1")
        replicas = document.get("spec", {}).get("replicas")
        return cls(
            namespace=metadata["namespace"],
            name=metadata["name"],
            uid=metadata.get("uid", ""),
            version=metadata.get("resourceVersion", ""),
            desired=1 if replicas is None else replicas,
            ready=(document.get("status") or {}).get("readyReplicas") or 0,
            enabled=annotations[AUTOSCALE].lower() == "true",
            min=bounds.get(MIN_REPLICAS),
            max=bounds.get(MAX_REPLICAS),
            fault="; ".join(faults) or None,
        )

    @property
    def function_name(self) -> str:
        """name.namespace, as metrics and decisions call it."""
        return f"{self.name}.{self.namespace}"

    @property
    def reference(self) -> Reference:
        """What events are about."""
        return Reference(DEPLOYMENTS.api, "Deployment", self.namespace, self.name, self.uid)


@dataclass(frozen=True, slots=True)
class _Asked:
    """What was written last, and the version that it made."""

    version: str
    replicas: int


class Kubernetes:
    """One API server, some namespaces or all."""

    def __init__(self, config: KubernetesConfig) -> None:
        """Begin to watch at once; raises ``ConfigError`` if there are no credentials."""
        self._config = config
        namespaces: tuple[str | None, ...] = config.namespaces or (None,)
        self._api = KubeApi(
            config.kubeconfig,
            config.context,
            timeout=config.timeout,
            connections=config.concurrency + 2 * len(namespaces) + 1,
        )
        self._events = Events(self._api)
        self._asked: dict[str, _Asked] = {}
        self._lock = threading.Lock()
        self._deployments = {
            namespace: Watched(self._api, DEPLOYMENTS.path(namespace), Deployment.of, resync=config.resync)
            for namespace in namespaces
        }
        self._autoscalers = {
            namespace: Watched(self._api, AUTOSCALERS.path(namespace), _target, resync=config.resync)
            for namespace in namespaces
        }
        self._watches: tuple[Watched[Any], ...] = (*self._deployments.values(), *self._autoscalers.values())
        for watched in self._watches:
            watched.start()

    def scales(self) -> dict[str, Scale | PlatformError]:
        """Return replicas and bounds of every Deployment with our annotation, as the watches have it."""
        end = time.monotonic() + _PATIENCE * self._config.timeout
        for watched in self._watches:
            watched.wait(max(0.0, end - time.monotonic()))
        others = self._others()
        scales: dict[str, Scale | PlatformError] = {}
        for found in self._deployments.values():
            for key, deployment in found.items().items():
                try:
                    scales[deployment.function_name] = self._scale(deployment, others.get(key))
                except PlatformError as error:
                    scales[deployment.function_name] = error
        self._forget(scales)
        return scales

    def scale(self, function_name: str) -> Scale:
        """Return replicas and bounds of one Deployment, read anew."""
        name, namespace = _split(function_name)
        return self._scale(self._read(namespace, name), self._others().get(f"{namespace}/{name}"))

    def set_scale(self, function_name: str, replicas: int) -> None:
        """Write the count, unless somebody else has changed it since the last decision."""
        if replicas < 1:
            raise PlatformError(f"{function_name}: {replicas} replicas: nothing wakes a Deployment from zero")
        end = time.monotonic() + self._config.timeout
        name, namespace = _split(function_name)
        seen = self._seen(namespace, name)
        before, version = self._latest(seen)
        path = DEPLOYMENTS.path(namespace, name, "scale")
        try:
            for left in reversed(range(_TRIES)):
                try:
                    written = self._api.patch(path, _count(version, replicas), within=end - time.monotonic())
                    break
                except ConflictError:
                    if not left:
                        raise
                    found = self._api.get(path, within=end - time.monotonic())
                    now, version = found["spec"].get("replicas", 0), found["metadata"]["resourceVersion"]
                    if now != before:
                        raise PlatformError(
                            f"{function_name}: somebody else has set {now} replicas where there were {before}"
                        ) from None
        except NotFoundError as error:
            raise FunctionGoneError(str(error)) from error
        with self._lock:
            self._asked[function_name] = _Asked(written["metadata"]["resourceVersion"], replicas)
        if before != replicas:
            reason = "ScaledUp" if replicas > before else "ScaledDown"
            self._events.tell(seen.reference, reason, f"Scaled from {before} to {replicas} replicas")

    def close(self) -> None:
        """Give up watches, the events' thread and connections."""
        for watched in self._watches:
            watched.close()
        self._events.close()
        self._api.close()

    def _seen(self, namespace: str, name: str) -> Deployment:
        """Return the Deployment as it was decided on; read anew when the watch has nothing current."""
        watched = self._deployments.get(namespace) or self._deployments.get(None)
        try:
            found = None if watched is None else watched.get(f"{namespace}/{name}")
        except PlatformError:
            return self._read(namespace, name)
        if found is None:
            raise FunctionGoneError(f"{name}.{namespace}: there is no such Deployment with {AUTOSCALE}")
        return found

    def _read(self, namespace: str, name: str) -> Deployment:
        try:
            found = Deployment.of(self._api.get(DEPLOYMENTS.path(namespace, name)))
        except NotFoundError as error:
            raise FunctionGoneError(str(error)) from error
        if found is None:
            raise FunctionGoneError(f"{name}.{namespace}: the Deployment has no annotation {AUTOSCALE}")
        return found

    def _scale(self, deployment: Deployment, other: str | None) -> Scale:
        name = deployment.function_name
        if deployment.fault is not None:
            raise PlatformError(f"{name}: {deployment.fault}")
        if other is not None:
            raise PlatformError(
                f"{name}: HorizontalPodAutoscaler {other} scales it too, and two scalers undo each other:"
                f" delete it, or take the annotation {AUTOSCALE} away"
            )
        return Scale(
            desired=self._latest(deployment)[0],
            available=deployment.ready,
            min=deployment.min,
            max=deployment.max,
            cap=self._config.cap,
            enabled=deployment.enabled,
        )

    def _latest(self, deployment: Deployment) -> tuple[int, str]:
        """Return the count that is wanted and the version that says so: ours, until the watch has it."""
        asked = self._asked.get(deployment.function_name)
        if asked is not None and _older(deployment.version, asked.version):
            return asked.replicas, asked.version
        return deployment.desired, deployment.version

    def _others(self) -> Mapping[str, str]:
        """Return {namespace/name of a Deployment: the HorizontalPodAutoscaler that scales it}.

        Without the right to see them there are none: each watch has complained of that itself.
        """
        found: dict[str, str] = {}
        for watched in self._autoscalers.values():
            if watched.error is None:
                found.update(watched.items().values())
        return found

    def _forget(self, scales: Mapping[str, Scale | PlatformError]) -> None:
        with self._lock:
            for name in self._asked.keys() - scales.keys():
                del self._asked[name]


def _target(document: Document) -> tuple[str, str] | None:
    """Return (namespace/name of the Deployment, name of the HorizontalPodAutoscaler), or None."""
    metadata, target = document["metadata"], document.get("spec", {}).get("scaleTargetRef", {})
    if target.get("kind") != "Deployment":
        return None
    return f"{metadata['namespace']}/{target.get('name')}", metadata["name"]


def _count(version: str, replicas: int) -> dict[str, Any]:
    return {"metadata": {"resourceVersion": version}, "spec": {"replicas": replicas}}


def _older(one: str, other: str) -> bool:
    """Tell whether a resourceVersion is older than another of the same object: they are growing numbers."""
    return one.isdecimal() and other.isdecimal() and int(one) < int(other)


def _split(function_name: str) -> tuple[str, str]:
    name, _, namespace = function_name.rpartition(".")
    return name, namespace
