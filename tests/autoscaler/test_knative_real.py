"""Our class on a real API server, with Knative's kinds or stand-ins for them; ``control_plane`` says which.

No controller is needed: what Knative's and Kubernetes' would do is done here. In a namespace of its own,
which is deleted at the end.
"""

import pytest

from autoscaler.control_plane import a_namespace, real
from autoscaler.doubles import until
from autoscaler.knative_plane import make_kinds
from autoscaler.knative_world import an_autoscaler, labels
from autoscaler.test_kubernetes_real import DEPLOYMENTS
from slo_autoscaler.errors import NotFoundError
from slo_autoscaler.leader import Alone
from slo_autoscaler.platforms.knative import Settings as KnativeSettings
from slo_autoscaler.platforms.knative.objects import POD_AUTOSCALERS, SERVICES
from slo_autoscaler.platforms.knative.own_class import OwnClass
from slo_autoscaler.platforms.knative.status import condition

pytestmark = real()

NAME = "tabular-00001"


@pytest.fixture
def namespace(access, cluster):
    make_kinds(access, cluster)
    with a_namespace(cluster) as name:
        yield name


def a_deployment():
    chosen = {"app": NAME}
    container = {"name": "c", "image": "example.invalid/none"}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": f"{NAME}-deployment", "labels": labels("tabular", NAME, 1)},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": chosen},
            "template": {"metadata": {"labels": chosen}, "spec": {"containers": [container]}},
        },
    }


def test_a_revision_of_our_class_becomes_ready_and_follows_decisions(cluster, namespace, kubeconfig):
    cluster.create(DEPLOYMENTS.path(namespace), a_deployment())
    autoscaler = an_autoscaler(NAME, "tabular", 1, min_scale="2", max_scale="6")
    autoscaler["metadata"]["namespace"] = namespace
    cluster.create(POD_AUTOSCALERS.path(namespace), autoscaler)
    platform = OwnClass(
        KnativeSettings(kubeconfig=kubeconfig, namespaces=(namespace,), timeout=10.0), Alone()
    )
    deployment = DEPLOYMENTS.path(namespace, f"{NAME}-deployment")
    try:
        until(lambda: cluster.get(deployment)["spec"]["replicas"] == 2, "it is raised to its minimum")
        until(lambda: service(cluster, namespace), "there is a ServerlessService")
        sks = service(cluster, namespace)
        assert sks["metadata"]["ownerReferences"][0]["kind"] == "PodAutoscaler"
        ready = {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}
        named = {"serviceName": NAME, "privateServiceName": f"{NAME}-private"}
        state = {**named, "observedGeneration": sks["metadata"]["generation"], "conditions": [ready]}
        cluster.patch(SERVICES.path(namespace, NAME, "status"), {"status": state})
        counts = {"replicas": 2, "readyReplicas": 2, "availableReplicas": 2, "updatedReplicas": 2}
        cluster.patch(DEPLOYMENTS.path(namespace, f"{NAME}-deployment", "status"), {"status": counts})
        path = POD_AUTOSCALERS.path(namespace, NAME)
        until(lambda: condition(cluster.get(path), "Ready").get("status") == "True", "it is ready")
        platform.set_scale(f"tabular.{namespace}", 5)
        assert cluster.get(deployment)["spec"]["replicas"] == 5
        until(lambda: cluster.get(path)["status"]["desiredScale"] == 5, "the status follows")
    finally:
        platform.close()


def service(cluster, namespace):
    try:
        return cluster.get(SERVICES.path(namespace, NAME))
    except NotFoundError:
        return None
