"""The same against a real Kubernetes API server; ``control_plane`` says which. No controller is needed.

What is made here is in namespaces of its own, which are deleted at the end.
"""

import shutil
from pathlib import Path

import pytest
import yaml

from autoscaler.control_plane import a_namespace, kubectl, real
from autoscaler.doubles import until
from autoscaler.freezing_proxy import a_freezing_proxy
from slo_autoscaler.errors import ConflictError
from slo_autoscaler.kube.client import KubeApi, Resource
from slo_autoscaler.kube.lease import LEASES, LeaseLeader, lease_timeout
from slo_autoscaler.kube.lease_rules import Settings as LeaseSettings
from slo_autoscaler.leader import Alone
from slo_autoscaler.platforms.kubernetes import Kubernetes
from slo_autoscaler.platforms.kubernetes import Settings as KubernetesSettings

DEPLOY = Path(__file__).parents[2] / "deploy"

pytestmark = real()
needs_kubectl = pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not on PATH")

DEPLOYMENTS = Resource("apps/v1", "deployments")
EVENTS = Resource("v1", "events")


@pytest.fixture
def namespace(cluster):
    with a_namespace(cluster) as name:
        yield name


def a_deployment(name="web", replicas=2):
    labels = {"app": name}
    container = {"name": "c", "image": "example.invalid/none"}
    scraped = {"tailbound.dev/metrics-port": "8081"}
    template = {"metadata": {"labels": labels, "annotations": scraped}, "spec": {"containers": [container]}}
    annotations = {"tailbound.dev/autoscale": "true", "tailbound.dev/max-replicas": "9"}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "annotations": annotations},
        "spec": {"replicas": replicas, "selector": {"matchLabels": labels}, "template": template},
    }


def deploy(cluster, namespace, **settings):
    return cluster.create(DEPLOYMENTS.path(namespace), a_deployment(**settings))


def events(cluster, namespace, reason):
    found = [event for items, _ in cluster.pages(EVENTS.path(namespace)) for event in items]
    return [event for event in found if event["reason"] == reason]


def test_a_stale_version_is_refused_by_the_scale_subresource(cluster, namespace):
    created = deploy(cluster, namespace)
    path = DEPLOYMENTS.path(namespace, "web", "scale")
    version = created["metadata"]["resourceVersion"]
    now = cluster.get(path)["metadata"]["resourceVersion"]
    cluster.patch(path, {"metadata": {"resourceVersion": now}, "spec": {"replicas": 3}})
    with pytest.raises(ConflictError):
        cluster.patch(path, {"metadata": {"resourceVersion": version}, "spec": {"replicas": 4}})


def test_a_deployment_is_found_scaled_and_has_its_event(cluster, namespace, kubeconfig):
    deploy(cluster, namespace)
    platform = Kubernetes(
        KubernetesSettings(kubeconfig=kubeconfig, namespaces=(namespace,), timeout=10.0), Alone()
    )
    try:
        name = f"web.{namespace}"
        assert platform.scales()[name].desired == 2
        platform.set_scale(name, 4)
        assert platform.scales()[name].desired == 4
        assert cluster.get(DEPLOYMENTS.path(namespace, "web"))["spec"]["replicas"] == 4
        until(lambda: events(cluster, namespace, "ScaledUp"), "there is an event")
        cluster.patch(DEPLOYMENTS.path(namespace, "web", "scale"), {"spec": {"replicas": 1}})
        until(lambda: platform.scales()[name].desired == 1, "the watch tells of it")
    finally:
        platform.close()


def lead(kubeconfig, namespace, identity, **changes):
    config = LeaseSettings(**{"namespace": namespace, "duration": 3.0, "renew_interval": 0.5, **changes})
    api = KubeApi(kubeconfig, timeout=lease_timeout(config.duration), connections=1)
    return LeaseLeader(api, config, identity)


def test_a_lease_moves_at_once_when_it_is_given_back(cluster, namespace, kubeconfig):
    first = lead(kubeconfig, namespace, "a", duration=60.0)
    second = lead(kubeconfig, namespace, "b", duration=60.0)
    assert (first.leads(), second.leads()) == (True, False)
    first.close()
    until(second.leads, "the second leads", 10.0)
    spec = cluster.get(LEASES.path(namespace, "slo-autoscaler"))["spec"]
    assert (spec["holderIdentity"], spec["leaseTransitions"]) == ("b", 1)
    second.close()


def test_a_frozen_network_never_makes_two_leaders(access, namespace, kubeconfig, tmp_path):
    with a_freezing_proxy(access.address) as proxy:
        first = lead(access.kubeconfig(tmp_path, proxy.address), namespace, "a")
        second = lead(kubeconfig, namespace, "b")
        assert (first.leads(), second.leads()) == (True, False)
        proxy.freeze()

        def follows():
            # In this order: the first may stop between the two looks, and never begins again.
            follower = second.leads()
            assert not (follower and first.leads())
            return follower

        until(follows, "the second leads")
        proxy.thaw()
        assert not first.leads()
        first.close()
        second.close()


def a_namespace_file(folder, name):
    path = folder / "namespace.yaml"
    metadata = {"name": name, "labels": {"app.kubernetes.io/part-of": "tailbound"}}
    path.write_text(yaml.safe_dump({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}))
    return path


@needs_kubectl
@pytest.mark.parametrize(
    ("manifest", "where"),
    [("autoscaler.yaml", "openfaas"), ("autoscaler-kubernetes.yaml", "tailbound")],
)
def test_the_server_takes_the_manifests(access, kubeconfig, tmp_path, manifest, where):
    """A dry run first, then, on a server of our own, in earnest, then once more: which changes nothing."""
    # A dry run makes no namespace, and what is to be in it is refused without.
    kubectl(kubeconfig, "apply", "-f", a_namespace_file(tmp_path, where))
    kubectl(kubeconfig, "apply", "--dry-run=server", "-f", DEPLOY / manifest)
    if access.folder is None:
        return
    kubectl(kubeconfig, "apply", "-f", DEPLOY / manifest)
    again = kubectl(kubeconfig, "apply", "-f", DEPLOY / manifest).splitlines()
    assert {line.rpartition(" ")[2] for line in again} == {"unchanged"}
