"""Our class against a real API server with Knative's CRDs: where TEST_KUBE_APISERVER or KUBECONFIG names one.

No controller is needed: what Knative's and Kubernetes' would do is done here. In a namespace of its own,
which is deleted at the end.
"""

import uuid

import pytest

from autoscaler.doubles import until
from autoscaler.knative_world import an_autoscaler, labels
from autoscaler.test_kubernetes_real import ADDRESS, DEPLOYMENTS, KUBECONFIG, NAMESPACES, a_kubeconfig
from slo_autoscaler.config import KnativeConfig
from slo_autoscaler.errors import NotFoundError
from slo_autoscaler.leader import Alone
from slo_autoscaler.platforms.knative import KnativeClass
from slo_autoscaler.platforms.knative_cluster import POD_AUTOSCALERS, SERVICES
from slo_autoscaler.platforms.knative_status import condition
from slo_autoscaler.platforms.kube_api import KubeApi

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(
        not (ADDRESS or KUBECONFIG), reason="neither TEST_KUBE_APISERVER nor KUBECONFIG is set"
    ),
]

NAME = "tabular-00001"


@pytest.fixture
def kubeconfig(tmp_path):
    return a_kubeconfig(tmp_path, ADDRESS) if ADDRESS else KUBECONFIG


@pytest.fixture
def api(kubeconfig):
    client = KubeApi(kubeconfig, timeout=10.0, connections=4)
    try:
        next(client.pages(POD_AUTOSCALERS.path()))
    except NotFoundError:
        pytest.skip("Knative's CRDs are not installed")
    yield client
    client.close()


@pytest.fixture
def namespace(api):
    name = f"tailbound-test-{uuid.uuid4().hex[:8]}"
    api.create(NAMESPACES.path(), {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    yield name
    api.delete(NAMESPACES.path(name=name))


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


def test_a_revision_of_our_class_becomes_ready_and_follows_decisions(api, namespace, kubeconfig):
    api.create(DEPLOYMENTS.path(namespace), a_deployment())
    autoscaler = an_autoscaler(NAME, "tabular", 1, min_scale="2", max_scale="6")
    autoscaler["metadata"]["namespace"] = namespace
    api.create(POD_AUTOSCALERS.path(namespace), autoscaler)
    platform = KnativeClass(KnativeConfig(kubeconfig=kubeconfig, namespaces=(namespace,), timeout=10.0))
    platform.attach(Alone())
    deployment = DEPLOYMENTS.path(namespace, f"{NAME}-deployment")
    try:
        until(lambda: api.get(deployment)["spec"]["replicas"] == 2, "it is raised to its minimum")
        until(lambda: service(api, namespace), "there is a ServerlessService")
        sks = service(api, namespace)
        assert sks["metadata"]["ownerReferences"][0]["kind"] == "PodAutoscaler"
        ready = {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}
        named = {"serviceName": NAME, "privateServiceName": f"{NAME}-private"}
        state = {**named, "observedGeneration": sks["metadata"]["generation"], "conditions": [ready]}
        api.patch(SERVICES.path(namespace, NAME, "status"), {"status": state})
        counts = {"replicas": 2, "readyReplicas": 2, "availableReplicas": 2, "updatedReplicas": 2}
        api.patch(DEPLOYMENTS.path(namespace, f"{NAME}-deployment", "status"), {"status": counts})
        path = POD_AUTOSCALERS.path(namespace, NAME)
        until(lambda: condition(api.get(path), "Ready").get("status") == "True", "it is ready")
        platform.set_scale(f"tabular.{namespace}", 5)
        assert api.get(deployment)["spec"]["replicas"] == 5
        until(lambda: api.get(path)["status"]["desiredScale"] == 5, "the status follows")
    finally:
        platform.close()


def service(api, namespace):
    try:
        return api.get(SERVICES.path(namespace, NAME))
    except NotFoundError:
        return None
