"""The same against a real Kubernetes API server: where TEST_KUBE_APISERVER (a URL) or KUBECONFIG names one.

Everything is in a namespace of its own, which is deleted at the end. No controller is needed.
"""

import os
import shutil
import subprocess
import uuid
from pathlib import Path

import pytest
import yaml

from autoscaler.doubles import until
from autoscaler.freezing_proxy import a_freezing_proxy
from slo_autoscaler.config import KubernetesConfig, LeaseConfig
from slo_autoscaler.errors import ConflictError, PlatformError
from slo_autoscaler.platforms.kube_api import KubeApi, Resource
from slo_autoscaler.platforms.kubernetes import Kubernetes
from slo_autoscaler.platforms.lease import LEASES, LeaseLeader, lease_timeout

ADDRESS = os.environ.get("TEST_KUBE_APISERVER", "")
KUBECONFIG = os.environ.get("KUBECONFIG", "")
DEPLOY = Path(__file__).parents[2] / "deploy"

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(
        not (ADDRESS or KUBECONFIG), reason="neither TEST_KUBE_APISERVER nor KUBECONFIG is set"
    ),
]

DEPLOYMENTS = Resource("apps/v1", "deployments")
NAMESPACES = Resource("v1", "namespaces")
EVENTS = Resource("v1", "events")


def a_kubeconfig(folder: Path, server: str) -> str:
    user = {"token": os.environ["TEST_KUBE_TOKEN"]} if "TEST_KUBE_TOKEN" in os.environ else {}
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "test",
        "contexts": [{"name": "test", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": server, "insecure-skip-tls-verify": True}}],
        "users": [{"name": "u", "user": user}],
    }
    path = folder / f"kubeconfig-{uuid.uuid4().hex[:6]}"
    path.write_text(yaml.safe_dump(document))
    return str(path)


@pytest.fixture(scope="module")
def kubeconfig(tmp_path_factory):
    return a_kubeconfig(tmp_path_factory.mktemp("kube"), ADDRESS) if ADDRESS else KUBECONFIG


@pytest.fixture
def api(kubeconfig):
    client = KubeApi(kubeconfig, timeout=10.0, connections=4)
    yield client
    client.close()


@pytest.fixture
def namespace(api):
    name = f"tailbound-test-{uuid.uuid4().hex[:8]}"
    api.create(NAMESPACES.path(), {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    yield name
    api.delete(NAMESPACES.path(name=name))


def deploy(api, namespace, name="web", replicas=2):
    labels = {"app": name}
    container = {"name": "c", "image": "example.invalid/none"}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [container]}}
    annotations = {"tailbound.dev/autoscale": "true", "tailbound.dev/max-replicas": "9"}
    document = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": namespace, "annotations": annotations},
        "spec": {"replicas": replicas, "selector": {"matchLabels": labels}, "template": template},
    }
    return api.create(DEPLOYMENTS.path(namespace), document)


def test_a_stale_version_is_refused_by_the_scale_subresource(api, namespace):
    created = deploy(api, namespace)
    path = DEPLOYMENTS.path(namespace, "web", "scale")
    version = created["metadata"]["resourceVersion"]
    api.patch(
        path,
        {
            "metadata": {"resourceVersion": api.get(path)["metadata"]["resourceVersion"]},
            "spec": {"replicas": 3},
        },
    )
    with pytest.raises(ConflictError):
        api.patch(path, {"metadata": {"resourceVersion": version}, "spec": {"replicas": 4}})


def test_a_deployment_is_found_scaled_and_has_its_event(api, namespace, kubeconfig):
    deploy(api, namespace)
    platform = Kubernetes(KubernetesConfig(kubeconfig=kubeconfig, namespaces=(namespace,), timeout=10.0))
    try:
        name = f"web.{namespace}"
        assert platform.scales()[name].desired == 2
        platform.set_scale(name, 4)
        assert platform.scales()[name].desired == 4
        assert api.get(DEPLOYMENTS.path(namespace, "web"))["spec"]["replicas"] == 4

        def told():
            found = [event for items, _ in api.pages(EVENTS.path(namespace)) for event in items]
            return [event for event in found if event["reason"] == "ScaledUp"]

        until(told, "there is an event")
        api.patch(DEPLOYMENTS.path(namespace, "web", "scale"), {"spec": {"replicas": 1}})
        until(lambda: platform.scales()[name].desired == 1, "the watch tells of it")
    finally:
        platform.close()


def lead(kubeconfig, namespace, identity, **changes):
    config = LeaseConfig(**{"namespace": namespace, "duration": 3.0, "renew_interval": 0.5, **changes})
    api = KubeApi(kubeconfig, timeout=lease_timeout(config.duration), connections=1)
    return LeaseLeader(api, config, identity)


def test_a_lease_moves_at_once_when_it_is_given_back(api, namespace, kubeconfig):
    first = lead(kubeconfig, namespace, "a", duration=60.0)
    second = lead(kubeconfig, namespace, "b", duration=60.0)
    assert (first.leads(), second.leads()) == (True, False)
    first.close()
    until(second.leads, "the second leads", 10.0)
    spec = api.get(LEASES.path(namespace, "slo-autoscaler"))["spec"]
    assert (spec["holderIdentity"], spec["leaseTransitions"]) == ("b", 1)
    second.close()


@pytest.mark.skipif(not ADDRESS.startswith("http://"), reason="TEST_KUBE_APISERVER is no http:// URL")
def test_a_frozen_network_never_makes_two_leaders(namespace, kubeconfig, tmp_path):
    with a_freezing_proxy(ADDRESS.removeprefix("http://").rstrip("/")) as proxy:
        first = lead(a_kubeconfig(tmp_path, f"http://{proxy.address}"), namespace, "a")
        second = lead(kubeconfig, namespace, "b")
        proxy.freeze()

        def follows():
            assert not (first.leads() and second.leads() and first.leads())
            return second.leads()

        until(follows, "the second leads")
        proxy.thaw()
        assert not first.leads()
        first.close()
        second.close()


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not on PATH")
@pytest.mark.parametrize(
    ("manifest", "namespace_of_it"),
    [("autoscaler.yaml", "openfaas"), ("autoscaler-kubernetes.yaml", "tailbound")],
)
def test_the_server_would_take_the_manifests(api, kubeconfig, manifest, namespace_of_it):
    made = False
    try:
        body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace_of_it}}
        api.create(NAMESPACES.path(), body)
        made = True
    except PlatformError:
        pass  # it is there
    try:
        done = subprocess.run(
            [
                "kubectl",
                "--kubeconfig",
                kubeconfig,
                "apply",
                "--dry-run=server",
                "-f",
                str(DEPLOY / manifest),
            ],
            capture_output=True,
            text=True,
            timeout=50,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert "Warning" not in done.stderr
    finally:
        if made:
            api.delete(NAMESPACES.path(name=namespace_of_it))
