"""Knative Serving on a real API server: its kinds, or its controllers as well.

Without Knative the kinds that we use can be made as stand-ins, which take anything. With TEST_KNATIVE, a
checkout of knative/serving, and its programs on PATH as kn-controller and kn-webhook, what Knative does is
done by Knative: its own kinds, settings and admission. Its port for probes, 8080, must be free. There is no
gateway, no activator and no queue-proxy.
"""

import os
import shutil
import socket
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from autoscaler.doubles import until
from autoscaler.kube.control_plane import NAMESPACES, Access, a_process, kubectl
from autoscaler.kube.freezing_proxy import FreezingProxy, a_freezing_proxy
from slo_autoscaler.errors import ConflictError, NotFoundError, PlatformError
from slo_autoscaler.kube.client import KubeApi, Resource
from slo_autoscaler.kube.informer import Informer, Key
from slo_autoscaler.platforms.knative.objects import POD_AUTOSCALERS, REVISIONS, ROUTES, SERVICES
from tailbound_lab.local.ports import free_ports

CHECKOUT = os.environ.get("TEST_KNATIVE", "")
PROGRAMS = ("kn-controller", "kn-webhook")
PRESENT = bool(CHECKOUT) and all(shutil.which(each) for each in PROGRAMS)
REASON = "TEST_KNATIVE names no checkout, or not all of these are on PATH: " + ", ".join(PROGRAMS)

PROBES = 8080

CRDS = Resource("apiextensions.k8s.io/v1", "customresourcedefinitions")
CONFIG_MAPS = Resource("v1", "configmaps")
INGRESSES = Resource("networking.internal.knative.dev/v1alpha1", "ingresses")
KNATIVE_SERVICES = Resource("serving.knative.dev/v1", "services")
HOOKS = ("mutatingwebhookconfigurations", "validatingwebhookconfigurations")

KINDS = {
    POD_AUTOSCALERS: "PodAutoscaler",
    SERVICES: "ServerlessService",
    REVISIONS: "Revision",
    ROUTES: "Route",
}


def make_kinds(access: Access, api: KubeApi) -> None:
    """Make sure that there are Knative's kinds, its own or stand-ins, and its namespace.

    For a server that was started here: on others stand-ins would be in Knative's way.
    """
    assert access.folder is not None
    for resource, kind in KINDS.items():
        with suppress(ConflictError):
            api.create(CRDS.path(), _stand_in(resource, kind))
        until(partial(_is_served, api, resource.path()), f"{kind} is served")
    make_namespace(api)


def make_namespace(api: KubeApi) -> None:
    metadata = {"name": "knative-serving"}
    with suppress(ConflictError):
        api.create(NAMESPACES.path(), {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})


def _is_served(api: KubeApi, path: str) -> bool:
    try:
        next(api.pages(path))
    except NotFoundError:
        return False
    return True


def _stand_in(resource: Resource, kind: str) -> dict[str, Any]:
    group, _, version = resource.api.partition("/")
    anything = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    return {
        "apiVersion": CRDS.api,
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{resource.plural}.{group}"},
        "spec": {
            "group": group,
            "scope": "Namespaced",
            "names": {"kind": kind, "plural": resource.plural, "singular": kind.lower()},
            "versions": [
                {
                    "name": version,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "schema": {"openAPIV3Schema": anything},
                }
            ],
        },
    }


class Ingresses:
    """Says of every Ingress of Knative's that it is ready, as a gateway would; there is none."""

    def __init__(self, api: KubeApi) -> None:
        self._api = api
        self._found = Informer(api, INGRESSES, None, lambda found: found, resync=60.0, changed=self._tell)
        self._found.start()

    def close(self) -> None:
        self._found.close()

    def _tell(self, key: Key) -> None:
        with suppress(PlatformError):
            found = self._found.get(key)
            if found is None:
                return
            generation = found["metadata"]["generation"]
            if (found.get("status") or {}).get("observedGeneration") == generation:
                return
            gateway = {"ingress": [{"domainInternal": "gateway.test.svc.cluster.local"}]}
            true = {"status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}
            kinds = ("LoadBalancerReady", "NetworkConfigured", "Ready")
            status = {
                "observedGeneration": generation,
                "publicLoadBalancer": gateway,
                "privateLoadBalancer": gateway,
                "conditions": [{"type": kind, **true} for kind in kinds],
            }
            self._api.patch(INGRESSES.path(*key, "status"), {"status": status})


@contextmanager
def ingresses(api: KubeApi) -> Iterator[None]:
    found = Ingresses(api)
    try:
        yield
    finally:
        found.close()


@dataclass(frozen=True, slots=True)
class Knative:
    """Knative's controllers at work."""

    webhook: FreezingProxy
    """Between the API server and the webhook."""


@contextmanager
def knative(access: Access, api: KubeApi, folder: Path) -> Iterator[Knative]:
    """Install Knative from the checkout, and run its controller and its webhook until the block ends."""
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", PROBES)) == 0:
            pytest.skip(f"something listens on port {PROBES}, where Knative's controller wants to be probed")
    config = Path(CHECKOUT) / "config/core"
    kubeconfig = access.kubeconfig(folder)
    make_namespace(api)
    # Two of the files are links to what is in the folder as well.
    kinds = (config / "300-resources", config / "300-imagecache.yaml")
    files = (*kinds, config / "configmaps", config / "webhooks/secret.yaml")
    # By force: other tests may have made stand-ins.
    kubectl(kubeconfig, "apply", "--server-side", "--force-conflicts", *_files(*files))
    # Nobody resolves tags of dev.local, so no registry is asked.
    sidecar = {"data": {"queue-sidecar-image": "dev.local/queue"}}
    api.patch(CONFIG_MAPS.path("knative-serving", "config-deployment"), sidecar)
    port, *profiling = free_ports(3)
    with ExitStack() as running:
        proxy = running.enter_context(a_freezing_proxy(f"127.0.0.1:{port}"))
        for name, profile in zip(PROGRAMS, profiling, strict=True):
            running.enter_context(
                a_process(
                    name,
                    f"--kubeconfig={kubeconfig}",
                    log=folder / f"{name}.log",
                    SYSTEM_NAMESPACE="knative-serving",
                    # Of a server that was built without one.
                    KUBERNETES_MIN_VERSION="0.0.0-0",
                    POD_NAME=f"{name}-{uuid.uuid4().hex[:6]}",
                    CONFIG_LOGGING_NAME="config-logging",
                    CONFIG_OBSERVABILITY_NAME="config-observability",
                    PROFILING_PORT=str(profile),
                    WEBHOOK_NAME="webhook",
                    WEBHOOK_PORT=str(port),
                )
            )
        for resource, body in _activator():
            api.create(resource.path("knative-serving"), body)
        admission = folder / "admission.yaml"
        admission.write_text(yaml.safe_dump_all(_admission(config / "webhooks", proxy.address)))
        kubectl(kubeconfig, "apply", "-f", admission)
        until(lambda: _hooked(api), f"Knative's webhooks are called: {folder}", 50.0)
        try:
            yield Knative(proxy)
        finally:
            for kind in HOOKS:
                path = f"/apis/admissionregistration.k8s.io/v1/{kind}"
                for items, _ in list(api.pages(path)):
                    for each in items:
                        if "knative.dev" in each["metadata"]["name"]:
                            api.delete(f"{path}/{each['metadata']['name']}")


def _activator() -> Iterator[tuple[Resource, dict[str, Any]]]:
    """Give the Service of an activator at an address where none is, for Knative asks for its endpoints."""
    metadata = {"name": "activator-service"}
    ports = [{"name": name, "port": port} for name, port in (("http", 8012), ("http2", 8013))]
    service = {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": {"ports": ports}}
    yield Resource("v1", "services"), service
    subsets = [{"addresses": [{"ip": "192.0.2.8"}], "ports": ports}]
    endpoints = {"apiVersion": "v1", "kind": "Endpoints", "metadata": metadata, "subsets": subsets}
    yield Resource("v1", "endpoints"), endpoints


def _files(*paths: Path) -> list[str | Path]:
    return [part for path in paths for part in ("-f", path)]


def _admission(folder: Path, address: str) -> Iterator[dict[str, Any]]:
    """Give the webhook configurations, and the Service by which the API server finds the webhook here."""
    host, _, port = address.rpartition(":")
    yield {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "webhook", "namespace": "knative-serving"},
        "spec": {"type": "ExternalName", "externalName": host},
    }
    for path in sorted(folder.glob("*.yaml")):
        for document in filter(None, yaml.safe_load_all(path.read_text())):
            for hook in document.get("webhooks", ()):
                hook["clientConfig"]["service"]["port"] = int(port)
            if "webhooks" in document:
                yield document


def _hooked(api: KubeApi) -> bool:
    hooks = [
        hook
        for kind in HOOKS
        for items, _ in api.pages(f"/apis/admissionregistration.k8s.io/v1/{kind}")
        for each in items
        for hook in each["webhooks"]
    ]
    if not all(hook["clientConfig"].get("caBundle") for hook in hooks):
        return False
    wrong = {"autoscaling.knative.dev/class": "wrong.knative.dev"}
    body = a_knative_service("probe", **wrong)
    try:
        api.create(KNATIVE_SERVICES.path("default"), body)
    except PlatformError as error:
        return "wrong.knative.dev" in str(error) or "invalid value" in str(error)
    api.delete(KNATIVE_SERVICES.path("default", "probe"))
    return False


def a_knative_service(name: str, **annotations: str) -> dict[str, Any]:
    """Return a Service; annotations are its template's."""
    return {
        "apiVersion": KNATIVE_SERVICES.api,
        "kind": "Service",
        "metadata": {"name": name},
        "spec": {
            "template": {
                "metadata": {"annotations": {"prometheus.io/scrape": "true", **annotations}},
                "spec": {"containers": [{"image": "dev.local/none"}]},
            }
        },
    }
