"""What Knative does around its revisions, so far as an autoscaler sees it, on any API server.

Revisions, PodAutoscalers, Deployments and Routes are made as Knative makes them. ``reconcile`` does what the
controllers of ServerlessServices and Deployments do; on the double, what Knative's API refuses is refused.
"""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from autoscaler.doubles import until
from autoscaler.kube.kube_server import KubeServer, Target, a_template
from slo_autoscaler.errors import ConflictError, NotFoundError, PlatformError
from slo_autoscaler.kube.client import KubeApi, Resource
from slo_autoscaler.platforms.knative import Settings as KnativeSettings
from slo_autoscaler.platforms.knative import knative
from slo_autoscaler.platforms.knative.floor import Floor
from slo_autoscaler.platforms.knative.minimum import OPT_IN
from slo_autoscaler.platforms.knative.objects import (
    CONFIG_MAPS,
    DEPLOYMENTS,
    POD_AUTOSCALERS,
    REVISIONS,
    ROUTES,
    SERVICES,
)
from slo_autoscaler.platforms.knative.own_class import OwnClass
from slo_autoscaler.platforms.knative.status import condition

OURS = "slo.tailbound.dev"
KPA = "kpa.autoscaling.knative.dev"
MOMENT = "2026-01-01T00:00:00Z"

KINDS = {
    DEPLOYMENTS: "Deployment",
    POD_AUTOSCALERS: "PodAutoscaler",
    REVISIONS: "Revision",
    ROUTES: "Route",
    SERVICES: "ServerlessService",
}


def labels(service: str, name: str, generation: int) -> dict[str, str]:
    return {
        "app": name,
        "serving.knative.dev/revision": name,
        "serving.knative.dev/configuration": service,
        "serving.knative.dev/configurationGeneration": str(generation),
        "serving.knative.dev/service": service,
    }


def autoscaling(**annotations: str) -> dict[str, str]:
    """Annotations of Knative's; an underscore stands for a dash."""
    return {f"autoscaling.knative.dev/{key.replace('_', '-')}": text for key, text in annotations.items()}


class World:
    """A namespace of Knative Serving."""

    def __init__(self, cluster: KubeApi, namespace: str) -> None:
        self.cluster = cluster
        self.namespace = namespace
        self.function = f"tabular.{namespace}"

    def configure(self, version: str = "1.23.0", **data: str) -> None:
        """Write config-autoscaler."""
        metadata = {"name": "config-autoscaler", "labels": {"app.kubernetes.io/version": version}}
        settings = {key.replace("_", "-"): text for key, text in data.items()}
        body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": settings}
        try:
            self.cluster.create(CONFIG_MAPS.path("knative-serving"), body)
        except ConflictError:
            self.cluster.patch(CONFIG_MAPS.path("knative-serving", "config-autoscaler"), body)

    def put(self, resource: Resource, body: dict[str, Any]) -> None:
        """Create an object, or change what is said of it; its status as well."""
        state = body.pop("status", None)
        path = resource.path(self.namespace, body["metadata"]["name"])
        try:
            kind = {"apiVersion": resource.api, "kind": KINDS[resource]}
            self.cluster.create(resource.path(self.namespace), {**kind, **body})
        except ConflictError:
            self.cluster.patch(path, body)
        if state is not None:
            self.cluster.patch(f"{path}/status", {"status": state})

    def change(self, resource: Resource, name: str, **parts: Any) -> None:
        """Change parts of an object: metadata, spec or status."""
        path = resource.path(self.namespace, name)
        self.cluster.patch(f"{path}/status" if "status" in parts else path, parts)

    def get(self, resource: Resource, name: str) -> dict[str, Any]:
        return self.cluster.get(resource.path(self.namespace, name))

    def all(self, resource: Resource) -> list[dict[str, Any]]:
        return [each for items, _ in self.cluster.pages(resource.path(self.namespace)) for each in items]

    def clear(self) -> None:
        """Delete every object, so that no later test's autoscaler finds it."""
        for resource in KINDS:
            for each in self.all(resource):
                with suppress(NotFoundError):
                    self.cluster.delete(resource.path(self.namespace, each["metadata"]["name"]))

    # A revision of our class

    def deploy(self, name: str, service: str, generation: int) -> None:
        metadata = {"name": f"{name}-deployment", "labels": labels(service, name, generation)}
        self.put(DEPLOYMENTS, {"metadata": metadata, "spec": {"replicas": 1, **a_template(app=name)}})

    def autoscale(self, name: str, service: str, generation: int, **annotations: str) -> None:
        """Make its PodAutoscaler."""
        target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": f"{name}-deployment"}
        metadata = {
            "name": name,
            "labels": labels(service, name, generation),
            "annotations": autoscaling(**{"class": OURS, "metric": "", **annotations}),
        }
        self.put(
            POD_AUTOSCALERS,
            {"metadata": metadata, "spec": {"protocolType": "http1", "scaleTargetRef": target}},
        )

    def revise(self, generation: int = 1, service: str = "tabular", **annotations: str) -> str:
        """Make a revision as Knative does: its Deployment with one replica, then its PodAutoscaler."""
        name = f"{service}-{generation:05}"
        self.deploy(name, service, generation)
        self.autoscale(name, service, generation, **annotations)
        return name

    def reach(self, name: str, reachability: str) -> None:
        self.change(POD_AUTOSCALERS, name, spec={"reachability": reachability})

    def route(self, *, service: str = "tabular", **percents: int) -> None:
        """Route to revisions by their last digit: r1=90, r2=10; the spec of one follows the newest."""
        status = [
            {"revisionName": f"{service}-{int(key[1:]):05}", "percent": percent}
            for key, percent in percents.items()
        ]
        latest = [{"configurationName": service, "latestRevision": True, "percent": 100}]
        traffic = latest if len(percents) == 1 else status
        body = {
            "metadata": {"name": service},
            "spec": {"traffic": traffic},
            "status": {"traffic": status},
        }
        self.put(ROUTES, body)

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

    # A Revision of Knative's own class

    def revision(
        self, generation: int = 1, *, ready: str = "True", desired: int = 1, **annotations: str | None
    ) -> str:
        """Make or change one that asks for a floor."""
        name = f"tabular-{generation:05}"
        metadata = {
            "name": name,
            "labels": labels("tabular", name, generation),
            "annotations": {OPT_IN: "true", **annotations},
        }
        ready_ = {"type": "Ready", "status": ready, "lastTransitionTime": MOMENT}
        status = {"desiredReplicas": desired, "actualReplicas": desired, "conditions": [ready_]}
        spec = {"containers": [{"image": "dev.local/none"}]}
        self.put(REVISIONS, {"metadata": metadata, "spec": spec, "status": status})
        return name

    def annotations(self, generation: int = 1) -> dict[str, str]:
        found: dict[str, str] = self.get(REVISIONS, f"tabular-{generation:05}")["metadata"]["annotations"]
        return found

    # What others do

    def reconcile(self) -> None:
        """Do once what the controllers of Deployments and of ServerlessServices do."""
        for each in self.all(DEPLOYMENTS):
            count = each["spec"]["replicas"]
            if (each.get("status") or {}).get("readyReplicas", 0) != count:
                counts = dict.fromkeys(("replicas", "readyReplicas", "availableReplicas"), count)
                self.change(DEPLOYMENTS, each["metadata"]["name"], status=counts)
        for each in self.all(SERVICES):
            name = each["metadata"]["name"]
            with suppress(NotFoundError):
                deployment = self.get(DEPLOYMENTS, f"{name}-deployment")
                ready = bool((deployment.get("status") or {}).get("readyReplicas"))
                says = {"type": "Ready", "status": "True" if ready else "Unknown"}
                status = {
                    "observedGeneration": each["metadata"]["generation"],
                    "serviceName": name,
                    "privateServiceName": f"{name}-private",
                    "conditions": [{**says, "lastTransitionTime": MOMENT}],
                }
                if each.get("status") != status:
                    self.change(SERVICES, name, status=status)

    def until(self, true: Callable[[], object], what: str, *driven: OwnClass | Floor) -> None:
        """Wait until something is so, while controllers reconcile, and the threads' steps of ``driven``."""

        def happened() -> object:
            self.reconcile()
            drive(*driven)
            return true()

        until(happened, what)

    def settle(self, platform: OwnClass | Floor) -> None:
        """Drive a platform until it has seen everything, and has nothing to write."""
        until(lambda: self._settled(platform), "all is seen and written")

    def _settled(self, platform: OwnClass | Floor) -> bool:
        before = self.versions()
        self.reconcile()
        drive(platform)
        return self.versions() == before == self._seen(platform, before)

    def versions(self) -> dict[tuple[str, str], str]:
        """Return the version of every object by plural and name."""
        return {
            (resource.plural, each["metadata"]["name"]): each["metadata"]["resourceVersion"]
            for resource in KINDS
            for each in self.all(resource)
        }

    def _seen(
        self, platform: OwnClass | Floor, there: dict[tuple[str, str], str]
    ) -> dict[tuple[str, str], str]:
        """Return ``there`` as the watches of a platform know it."""
        watched = {
            "deployments": "_deployments",
            "podautoscalers": "_autoscalers",
            "revisions": "_revisions",
            "routes": "_routes",
            "serverlessservices": "_services",
        }
        seen = {}
        for (plural, name), version in there.items():
            informer = getattr(platform, watched[plural], None)
            found = None if informer is None else informer._of((self.namespace, name))
            known = None if found is None else found._seen.get((self.namespace, name))
            seen[plural, name] = version if informer is None else known and known.number
        return seen


def drive(*platforms: OwnClass | Floor) -> None:
    """Take the steps of platforms' threads once, as far as the API server lets them."""
    for platform in platforms:
        steps = (
            (platform.reconcile_floors,)
            if isinstance(platform, Floor)
            else (platform.reconcile_scale, platform.reconcile_status)
        )
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


def driven(config: KnativeSettings) -> tuple[OwnClass | Floor, Standby]:
    """Return a platform whose threads have ended, and its leader, who leads: the test takes their steps."""
    leader = Standby()
    platform = knative(config, leader)
    assert isinstance(platform, OwnClass | Floor)
    loops = (platform._loop,) if isinstance(platform, Floor) else (platform._scaling, platform._telling)
    for loop in loops:
        loop.close()
        loop._thread.join()
    leader.leading = True
    return platform, leader


def admit(target: Target, document: dict[str, Any]) -> str | None:
    """Refuse what Knative's API refuses of a PodAutoscaler: ``admission`` of the double."""
    if (target.plural, target.part) != ("podautoscalers", "status"):
        return None
    status = document["status"]
    for key in ("serviceName", "metricsServiceName"):
        if not isinstance(status.get(key), str):
            return f"{key}: Required value"
    for each in status["conditions"]:
        if not isinstance(each.get("lastTransitionTime"), str):
            return "lastTransitionTime in body must be of type string: null"
    return None


def prepared(api: object, cluster: KubeApi, namespace: str) -> World:
    """Return a world with Knative's settings; the double refuses what Knative refuses."""
    if isinstance(api, KubeServer):
        api.admission = admit
    world = World(cluster, namespace)
    world.configure()
    return world
