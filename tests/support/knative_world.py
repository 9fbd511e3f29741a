"""What Knative does around its revisions, so far as an autoscaler sees it, on the double of the API server.

Revisions, PodAutoscalers, Deployments and Routes are made as Knative makes them. ``reconcile`` does what the
controllers of ServerlessServices and Deployments do.
"""

from collections.abc import Callable
from contextlib import suppress
from typing import Any
from unittest.mock import patch

from slo_autoscaler.errors import NotFoundError, PlatformError
from slo_autoscaler.kube.client import KubeApi, Resource
from slo_autoscaler.kube.loop import Loop
from slo_autoscaler.platforms.keys import MODE
from slo_autoscaler.platforms.keys import OUR_CLASS as CLASS
from slo_autoscaler.platforms.knative import Settings as KnativeSettings
from slo_autoscaler.platforms.knative import knative
from slo_autoscaler.platforms.knative.objects import (
    CONFIG_MAPS,
    DEPLOYMENTS,
    POD_AUTOSCALERS,
    ROUTES,
    SERVICES,
)
from slo_autoscaler.platforms.knative.own_class import OwnClass
from slo_autoscaler.platforms.knative.status import condition
from slo_autoscaler.platforms.leader import Leader
from support.cluster import delete
from support.kube_server import KubeServer, a_deployment
from support.waits import until

KPA = "kpa.autoscaling.knative.dev"
MOMENT = "2026-01-01T00:00:00Z"
WATCHED = {
    DEPLOYMENTS: "_deployments",
    POD_AUTOSCALERS: "_autoscalers",
    ROUTES: "_routes",
    SERVICES: "_services",
}
"""Kind -> the informer of a platform that watches it."""


def autoscaling(**annotations: str) -> dict[str, str]:
    """Annotations of Knative's; an underscore stands for a dash."""
    return {f"autoscaling.knative.dev/{key.replace('_', '-')}": text for key, text in annotations.items()}


class World:
    """A namespace of Knative Serving."""

    def __init__(self, api: KubeServer, cluster: KubeApi, namespace: str) -> None:
        self.leader = Standby(leading=True)
        self.api = api
        self.cluster = cluster
        self.namespace = namespace
        self.function = f"tabular.{namespace}"
        self.configure()

    def configure(self, version: str = "1.23.0") -> None:
        """Write config-autoscaler."""
        labels = {"app.kubernetes.io/version": version}
        name = {"namespace": "knative-serving", "name": "config-autoscaler"}
        self.api.put(CONFIG_MAPS.api, CONFIG_MAPS.plural, {"metadata": {**name, "labels": labels}})

    def change(self, resource: Resource, name: str, **parts: Any) -> None:
        """Create an object, or change parts of it: metadata, spec, status."""
        metadata = {"namespace": self.namespace, "name": name, **parts.pop("metadata", {})}
        self.api.put(resource.api, resource.plural, {"metadata": metadata, **parts})

    def get(self, resource: Resource, name: str) -> dict[str, Any]:
        return self.cluster.get(resource.path(self.namespace, name))

    def all(self, resource: Resource) -> list[dict[str, Any]]:
        return self.api.all(resource.api, resource.plural)

    # A revision of our class

    def deploy(self, name: str, service: str = "tabular", generation: int = 1) -> None:
        body = a_deployment(f"{name}-deployment", replicas=1)
        metadata = {"labels": _labels(service, name, generation)}
        self.change(DEPLOYMENTS, f"{name}-deployment", metadata=metadata, spec=body["spec"])

    def autoscale(self, name: str, service: str = "tabular", generation: int = 1, **annotations: str) -> None:
        """Make its PodAutoscaler."""
        target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": f"{name}-deployment"}
        metadata = {
            "labels": _labels(service, name, generation),
            "annotations": autoscaling(**{"class": CLASS, "metric": "", **annotations}),
        }
        spec = {"protocolType": "http1", "scaleTargetRef": target}
        self.change(POD_AUTOSCALERS, name, metadata=metadata, spec=spec)

    def revise(self, generation: int = 1, service: str = "tabular", **annotations: str) -> str:
        """Make a revision as Knative does: its Deployment with one replica, then its PodAutoscaler."""
        name = f"{service}-{generation:05}"
        self.deploy(name, service, generation)
        self.autoscale(name, service, generation, **annotations)
        return name

    def reach(self, name: str, reachability: str) -> None:
        self.change(POD_AUTOSCALERS, name, spec={"reachability": reachability})

    def route(self, mode: str | None = "", **percents: int) -> None:
        """Route to revisions by their last digit: r1=90, r2=10; the spec of one follows the newest.

        ``mode`` is the label that Knative copies from the Service; None: it has none.
        """
        status = [
            {"revisionName": f"tabular-{int(key[1:]):05}", "percent": percent}
            for key, percent in percents.items()
        ]
        latest = [{"configurationName": "tabular", "latestRevision": True, "percent": 100}]
        traffic = latest if len(percents) == 1 else status
        self.change(
            ROUTES,
            "tabular",
            metadata={"labels": {MODE: mode}},
            spec={"traffic": traffic},
            status={"traffic": status},
        )

    def replicas(self, name: str) -> int:
        return int(self.get(DEPLOYMENTS, f"{name}-deployment")["spec"]["replicas"])

    def status(self, name: str) -> dict[str, Any]:
        """The status of a PodAutoscaler."""
        return self.get(POD_AUTOSCALERS, name).get("status") or {}

    def says(self, name: str, kind: str) -> str:
        """The status of a PodAutoscaler's condition, and its reason if it has one."""
        found = condition({"status": self.status(name)}, kind)
        return " ".join(filter(None, (found.get("status"), found.get("reason"))))

    def is_ready(self, *names: str) -> Callable[[], bool]:
        """Return whether PodAutoscalers are ready, and all that follows from that is done."""
        return lambda: all(self.says(name, "Ready") == "True" for name in names)

    def mode(self, name: str) -> str:
        return str(self.get(SERVICES, name)["spec"]["mode"])

    # What others do

    def reconcile(self) -> None:
        """Do once what the garbage collector and the controllers of ServerlessServices do."""
        services = self.all(SERVICES)
        owners = {each["metadata"]["uid"] for each in self.all(POD_AUTOSCALERS)}
        for each in services:
            name = each["metadata"]["name"]
            with suppress(NotFoundError):
                references = each["metadata"].get("ownerReferences", [])
                if any(of.get("kind") == "PodAutoscaler" and of["uid"] not in owners for of in references):
                    delete(self.cluster, SERVICES.path(self.namespace, name))
                    continue
                deployment = self.get(DEPLOYMENTS, f"{name}-deployment")
                ready = bool((deployment.get("status") or {}).get("readyReplicas"))
                says = {"type": "Ready", "status": "True" if ready else "Unknown"}
                status = {
                    "observedGeneration": each["metadata"]["generation"],
                    "serviceName": name,
                    "privateServiceName": f"{name}-private",
                    "conditions": [{**says, "lastTransitionTime": MOMENT}],
                }
                self.change(SERVICES, name, status=status)

    def until(self, true: Callable[[], object], what: str, *driven: OwnClass) -> None:
        """Wait until something is so, while controllers reconcile, and the threads' steps of ``driven``."""

        def happened() -> object:
            self.reconcile()
            drive(*driven)
            return true()

        until(happened, what)

    def settle(self, platform: OwnClass) -> None:
        """Drive a platform until it has seen everything, and has nothing to write."""

        def settled() -> bool:
            before = self.api.version
            self.reconcile()
            drive(platform)
            return self.api.version == before and self._is_seen(platform)

        until(settled, "all is seen and written")

    def _is_seen(self, platform: OwnClass) -> bool:
        """Tell whether the watches of a platform know the version of every object."""
        for resource, name in WATCHED.items():
            informer = getattr(platform, name, None)
            there = {each["metadata"]["name"]: each["metadata"] for each in self.all(resource)}
            versions = {name: metadata["resourceVersion"] for name, metadata in there.items()}
            seen = {} if informer is None else informer._of((self.namespace, ""))._seen  # noqa: SLF001
            if informer is not None and versions != {key[1]: each.number for key, each in seen.items()}:
                return False
        return True


def drive(*platforms: OwnClass) -> None:
    """Take the steps of platforms' threads once, as far as the API server lets them."""
    for platform in platforms:
        steps = platform.reconcile_scale, platform.reconcile_status
        for step in steps:
            with suppress(PlatformError):
                step()


class Standby:
    """A leader that leads when the test says so."""

    def __init__(self, *, leading: bool = False) -> None:
        self.leading = leading

    def leads(self) -> bool:
        return self.leading

    def close(self) -> None:
        pass


def driven(config: KnativeSettings, leader: Leader) -> OwnClass:
    """Return a platform whose threads never start: the test takes their steps."""
    with patch.object(Loop, "start"):
        platform = knative(config, leader)
    assert isinstance(platform, OwnClass)
    return platform


def _labels(service: str, name: str, generation: int) -> dict[str, str]:
    return {
        "serving.knative.dev/revision": name,
        "serving.knative.dev/configuration": service,
        "serving.knative.dev/configurationGeneration": str(generation),
        "serving.knative.dev/service": service,
    }
