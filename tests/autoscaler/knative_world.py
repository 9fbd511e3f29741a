"""What Knative does around its revisions, so far as an autoscaler sees it, on an API server.

``serving`` does in a thread what the controller of ServerlessServices does; revisions are made, and what is
wrong is refused, as Knative does it.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from autoscaler.kube_server import KubeServer, Target

PA = ("autoscaling.internal.knative.dev/v1alpha1", "podautoscalers")
SKS = ("networking.internal.knative.dev/v1alpha1", "serverlessservices")
DEPLOYMENT = ("apps/v1", "deployments")
REVISION = ("serving.knative.dev/v1", "revisions")
ROUTE = ("serving.knative.dev/v1", "routes")

OURS = "slo.tailbound.dev"
NAMESPACE = "default"


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


def an_autoscaler(name: str, service: str, generation: int, **annotations: str) -> dict[str, Any]:
    return {
        "apiVersion": PA[0],
        "kind": "PodAutoscaler",
        "metadata": {
            "name": name,
            "namespace": NAMESPACE,
            "labels": labels(service, name, generation),
            "annotations": autoscaling(**{"class": OURS, "metric": "", **annotations}),
        },
        "spec": {
            "protocolType": "http1",
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": f"{name}-deployment"},
        },
    }


def a_deployment(name: str, service: str, generation: int, replicas: int = 1) -> dict[str, Any]:
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "name": f"{name}-deployment",
            "namespace": NAMESPACE,
            "labels": labels(service, name, generation),
        },
        "spec": {"replicas": replicas, "template": {}},
    }


class World:
    """A namespace of Knative Serving on a server."""

    def __init__(self, server: KubeServer) -> None:
        self.server = server

    def configure(self, version: str = "1.23.0", **data: str) -> None:
        self.server.put(
            "v1",
            "configmaps",
            {
                "metadata": {
                    "name": "config-autoscaler",
                    "namespace": "knative-serving",
                    "labels": {"app.kubernetes.io/version": version},
                },
                "data": {key.replace("_", "-"): text for key, text in data.items()},
            },
        )

    def revise(self, generation: int = 1, service: str = "tabular", **annotations: str) -> str:
        """Make a revision as Knative does: its Deployment with one replica, then its PodAutoscaler."""
        name = f"{service}-{generation:05}"
        self.server.put(*DEPLOYMENT, a_deployment(name, service, generation))
        self.server.put(*PA, an_autoscaler(name, service, generation, **annotations))
        return name

    def route(self, *, service: str = "tabular", **percents: int) -> None:
        """Route to revisions by their last digit: r1=90, r2=10; the spec follows the newest."""
        status = [
            {"revisionName": f"{service}-{int(key[1:]):05}", "percent": percent}
            for key, percent in percents.items()
        ]
        self.server.put(
            *ROUTE,
            {
                "metadata": {"name": service, "namespace": NAMESPACE},
                "spec": {
                    "traffic": [{"configurationName": service, "latestRevision": True, "percent": 100}]
                    if len(percents) <= 1
                    else status
                },
                "status": {"traffic": status},
            },
        )

    @contextmanager
    def edit(self, kind: tuple[str, str], name: str) -> Iterator[dict[str, Any]]:
        """Change an object in the block, and nobody else does so meanwhile."""
        with self.server._changed:
            document = self.server.get(*kind, NAMESPACE, name)
            yield document
            self.server.put(*kind, document)

    def reach(self, name: str, reachability: str) -> None:
        with self.edit(PA, name) as pa:
            pa["spec"]["reachability"] = reachability

    def autoscaler(self, name: str) -> dict[str, Any]:
        return self.server.get(*PA, NAMESPACE, name)

    def service(self, name: str) -> dict[str, Any]:
        return self.server.get(*SKS, NAMESPACE, name)

    def replicas(self, name: str) -> int:
        return int(self.server.get(*DEPLOYMENT, NAMESPACE, f"{name}-deployment")["spec"]["replicas"])

    def says(self, name: str, kind: str) -> str | None:
        """The status of a PodAutoscaler's condition, and its reason if it has one."""
        for each in (self.autoscaler(name).get("status") or {}).get("conditions", ()):
            if each["type"] == kind:
                return " ".join(filter(None, (each["status"], each.get("reason"))))
        return None

    def times(self, name: str) -> dict[str, str]:
        return {
            each["type"]: each["lastTransitionTime"] for each in self.autoscaler(name)["status"]["conditions"]
        }

    def admit(self, target: Target, document: dict[str, Any]) -> str | None:
        """Refuse what Knative's API refuses of a PodAutoscaler."""
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

    def reconcile_services(self) -> None:
        """Do what the controller of ServerlessServices does."""
        for each in self.server.all(*SKS):
            name = each["metadata"]["name"]
            with suppress(KeyError), self.edit(SKS, name) as sks:
                deployment = self.server.get(*DEPLOYMENT, NAMESPACE, f"{name}-deployment")
                ready = (deployment.get("status") or {}).get("readyReplicas")
                verdict = (
                    {"status": "True"} if ready else {"status": "Unknown", "reason": "NoHealthyBackends"}
                )
                sks["status"] = {
                    "observedGeneration": sks["metadata"]["generation"],
                    "serviceName": name,
                    "privateServiceName": f"{name}-private",
                    "conditions": [
                        {"type": "Ready", "lastTransitionTime": "2026-01-01T00:00:00Z", **verdict}
                    ],
                }

    @contextmanager
    def serving(self) -> Iterator[None]:
        """Keep ServerlessServices up to date until the block ends."""
        stop = threading.Event()

        def run() -> None:
            while not stop.wait(0.01):
                self.reconcile_services()

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
