"""Watches the objects of Knative: kinds, cached parts, and the cluster's defaults.

Owns the list of kinds and the cached part of each. Knows no rule of scaling; ``allocation`` and ``status``
have them.
"""

import logging
import threading
import time
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from typing import Final, TypeVar

from slo_autoscaler.errors import PlatformError
from slo_autoscaler.kube.client import Document, KubeApi, Resource
from slo_autoscaler.kube.events import Events, Reference
from slo_autoscaler.kube.informer import Informer
from slo_autoscaler.kube.pods import PODS, REVISION, WITHOUT_NODE, Unschedulable, Watchdogs, shortages
from slo_autoscaler.model import Scale
from slo_autoscaler.platforms.keys import HOLD
from slo_autoscaler.platforms.knative import Settings
from slo_autoscaler.platforms.knative.allocation import (
    CONFIG_MAP,
    CONFIG_NAMESPACE,
    Defaults,
    Json,
    Key,
    defaults_of,
    key_of,
    route_names_of,
    service_of,
    version_of,
)

logger = logging.getLogger(__name__)

T = TypeVar("T")

POD_AUTOSCALERS: Final = Resource("autoscaling.internal.knative.dev/v1alpha1", "podautoscalers")
SERVICES: Final = Resource("networking.internal.knative.dev/v1alpha1", "serverlessservices")
DEPLOYMENTS: Final = Resource("apps/v1", "deployments")
SERVING_SERVICES: Final = Resource("serving.knative.dev/v1", "services")
ROUTES: Final = Resource("serving.knative.dev/v1", "routes")
CONFIG_MAPS: Final = Resource("v1", "configmaps")

DEFAULTS_SECONDS: Final = 60.0
"""Seconds between two reads of config-autoscaler."""


class ClusterDefaults:
    """config-autoscaler, read again every minute; Knative's own defaults until the first read."""

    def __init__(self, api: KubeApi) -> None:
        self._api = api
        self._defaults = Defaults()
        self._version: tuple[int, int] | None = None
        self._error: PlatformError | None = None
        self._read_at = float("-inf")
        self._lock = threading.Lock()

    def defaults(self) -> Defaults:
        """Return the defaults as last read."""
        self._refresh()
        return self._defaults

    def version(self) -> tuple[int, int] | None:
        """Return Knative's version, None if it is no release; raise ``PlatformError`` until it is known."""
        self._refresh()
        if self._version is None and self._error is not None:
            raise self._error
        return self._version

    def _refresh(self) -> None:
        # While another thread reads, use the last answer.
        if time.monotonic() - self._read_at < DEFAULTS_SECONDS or not self._lock.acquire(blocking=False):
            return
        try:
            config_map = self._api.get(CONFIG_MAPS.path(CONFIG_NAMESPACE, CONFIG_MAP), patient=False)
            self._defaults, self._version, self._error = defaults_of(config_map), version_of(config_map), None
        except PlatformError as error:
            if self._error is None:
                logger.warning("cannot read %s; using its last known values: %s", CONFIG_MAP, error)
            self._error = error
        finally:
            self._read_at = time.monotonic()
            self._lock.release()


class DesiredReplicas:
    """The last decision for each function, between two decisions."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._lock = threading.Lock()

    def get(self, function_name: str) -> int | None:
        """Return the count, or None before the first decision."""
        with self._lock:
            return self._counts.get(function_name)

    @contextmanager
    def deciding(self, function_name: str, replicas: int) -> Iterator[None]:
        """Remember a count while the block writes it, and afterwards unless the write fails.

        It is remembered first, so that no other thread undoes the write with the previous count.
        """
        before = self.get(function_name)
        self.put(function_name, replicas)
        try:
            yield
        except PlatformError:
            self.put(function_name, before)
            raise

    def keep(self, known: Collection[str]) -> None:
        """Drop all but these functions'."""
        with self._lock:
            self._counts = {name: count for name, count in self._counts.items() if name in known}

    def put(self, function_name: str, replicas: int | None) -> None:
        """Take a count in place of the last decision; None: there is none."""
        with self._lock:
            self._counts.pop(function_name, None)
            if replicas is not None:
                self._counts[function_name] = replicas


def api_of(config: Settings, kinds: int) -> KubeApi:
    """Return the client of a platform that watches so many kinds of object. Raises ``ConfigError``."""
    watches = kinds * len(config.namespaces or (None,))
    return KubeApi(
        *config.cluster,
        timeout=config.timeout,
        connections=config.concurrency + watches + 2,
    )


def write_hold(config: Settings, function_name: str, text: str | None) -> None:
    """Write the annotation of a hold to a Service, from which Knative copies it to the Route."""
    name, _, namespace = function_name.rpartition(".")
    with closing(KubeApi(*config.cluster, timeout=config.timeout, connections=1)) as api:
        api.annotate(SERVING_SERVICES.path(namespace, name), HOLD, text)


def informer_of(
    api: KubeApi,
    resource: Resource,
    config: Settings,
    transform: Callable[[Document], Json],
    changed: Callable[[Key], None],
    *,
    label: str | None = None,
    index: Callable[[Json], Iterable[Hashable]] | None = None,
) -> Informer[Json]:
    """Begin to watch the objects of one kind, or those of them with a label."""
    query = {} if label is None else {"labelSelector": label}
    return Informer(
        *(api, resource, config.namespaces, transform),
        query=query,
        resync=config.resync,
        changed=changed,
        index=index,
    )


def pods_of(api: KubeApi, config: Settings) -> Informer[Unschedulable]:
    """Begin to watch the revisions' pods without a node."""
    query = {**WITHOUT_NODE, "labelSelector": REVISION}
    return Informer(api, PODS, config.namespaces, Unschedulable.of, query=query, resync=config.resync)


def watchdogs_of(api: KubeApi, config: Settings) -> Watchdogs:
    """Return the metrics pages of the revisions' pods."""
    return Watchdogs(api, config.namespaces, config.resync, REVISION)


def with_shortages(
    scales: Mapping[str, Scale | PlatformError], pods: Informer[Unschedulable]
) -> dict[str, Scale | PlatformError]:
    """Return the scales with their revisions' replicas without a node, where these are known."""
    without_node = shortages(pods, lambda pod: pod.revision)

    def told(function_name: str, scale: Scale | PlatformError) -> Scale | PlatformError:
        if isinstance(scale, PlatformError):
            return scale
        unschedulable, shortage = without_node((function_name.rpartition(".")[2], scale.revision))
        return replace(scale, unschedulable=unschedulable, shortage=shortage)

    return {name: told(name, scale) for name, scale in scales.items()}


def routes_of(routes: Informer[Json], revisions: Iterable[Json]) -> Iterable[Json]:
    """Return the routes that may name one of these revisions, of an informer that is indexed so."""
    names = {name for revision in revisions for name in route_names_of(revision)}
    return {key: route for name in names for key, route in routes.by(name).items()}.values()


def announce(events: Events, routes: Informer[Json], function_name: str, reason: str, message: str) -> None:
    """Queue a warning event on the Service that owns the route of this name; nothing without one."""
    name, _, namespace = function_name.rpartition(".")
    with suppress(PlatformError):
        route = routes.get((namespace, name))
        for owner in (route or {}).get("metadata", {}).get("ownerReferences") or ():
            about = Reference(SERVING_SERVICES.api, "Service", namespace, name, str(owner.get("uid", "")))
            events.tell(about, reason, message, kind="Warning")


def service_key(of: Json) -> Key:
    """Return (namespace, service) of a revision, or of an object made from one."""
    return key_of(of)[0], service_of(of)


def services_of(of: Json) -> tuple[Key]:
    """Return ``service_key`` as the index of an informer."""
    return (service_key(of),)


def strip_managed_fields(item: Document) -> Json:
    """Remove the record of field owners, which is as long as the rest."""
    metadata = {key: value for key, value in item.get("metadata", {}).items() if key != "managedFields"}
    return {**item, "metadata": metadata}


def strip_deployment(item: Document) -> Json:
    """Keep only name, version, labels and counts of a Deployment."""
    metadata = item.get("metadata", {})
    kept = ("name", "namespace", "resourceVersion", "labels")
    return {
        "metadata": {key: metadata[key] for key in kept if metadata.get(key) is not None},
        "spec": {"replicas": item.get("spec", {}).get("replicas")},
        "status": {"readyReplicas": (item.get("status") or {}).get("readyReplicas")},
    }


def strip_route(item: Document) -> Json:
    """Keep only name, labels, annotations, owner and traffic of a Route."""
    metadata = item.get("metadata", {})
    kept = ("name", "namespace", "labels", "annotations", "ownerReferences")
    return {
        "metadata": {key: metadata.get(key) for key in kept},
        "spec": {"traffic": (item.get("spec") or {}).get("traffic")},
        "status": {"traffic": (item.get("status") or {}).get("traffic")},
    }
