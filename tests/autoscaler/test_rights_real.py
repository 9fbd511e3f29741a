"""What a real API server was asked for by the ServiceAccount that is installed is what its roles allow.

The server's audit log says what was asked, and RBAC refuses the rest.
"""

import time
from contextlib import suppress

import pytest

from autoscaler.control_plane import NAMESPACES, a_namespace, a_token, kubectl, real
from autoscaler.doubles import until
from autoscaler.knative_plane import CONFIG_MAPS, make_kinds
from autoscaler.knative_world import an_autoscaler, labels
from autoscaler.test_knative_real import NAME, a_deployment, service
from autoscaler.test_kubernetes_real import DEPLOY, DEPLOYMENTS, deploy
from slo_autoscaler.errors import ConflictError, NotFoundError
from slo_autoscaler.kube.client import KubeApi, Resource
from slo_autoscaler.kube.lease import LEASES, LeaseLeader, lease_timeout
from slo_autoscaler.kube.lease_rules import Settings as LeaseSettings
from slo_autoscaler.leader import Alone
from slo_autoscaler.platforms.knative import Settings as KnativeSettings
from slo_autoscaler.platforms.knative.floor import Floor
from slo_autoscaler.platforms.knative.minimum import MIN_SCALE, OPT_IN
from slo_autoscaler.platforms.knative.objects import POD_AUTOSCALERS, REVISIONS, SERVICES
from slo_autoscaler.platforms.knative.own_class import OwnClass
from slo_autoscaler.platforms.kubernetes import Kubernetes
from slo_autoscaler.platforms.kubernetes import Settings as KubernetesSettings

pytestmark = real("etcd", "kube-apiserver", "kubectl")

RBAC = "rbac.authorization.k8s.io/v1"
CLUSTER_ROLES = Resource(RBAC, "clusterroles")
ROLES = Resource(RBAC, "roles")
ACCOUNT = "slo-autoscaler"


class Installed:
    """What one ServiceAccount may do, and what it has asked for since it was installed."""

    def __init__(self, access, cluster, folder, namespace):
        self._access = access
        self._user = f"system:serviceaccount:{namespace}:{ACCOUNT}"
        self._before = len(access.asked(self._user))
        self.namespace = namespace
        self.kubeconfig = access.kubeconfig(folder, token=a_token(cluster, namespace, ACCOUNT))

    def where(self, namespace):
        """Settings of a platform; other namespaces are other tests', and may be on their way out."""
        return {"kubeconfig": self.kubeconfig, "namespaces": (namespace,), "timeout": 10.0}

    def asked(self):
        """Every (verb, group, resource) that it has asked for; nothing of it was refused."""
        found = self._access.asked(self._user)[self._before :]
        assert not [each for each in found if each.code in (401, 403)]
        return {each[:3] for each in found}


def allowed(role):
    return {
        (verb, group, resource)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


@pytest.fixture
def install(access, cluster, kubeconfig, tmp_path):
    if access.folder is None:
        pytest.skip("the API server was not started here, and its audit log is not known")

    def install(*how, namespace="tailbound"):
        kubectl(kubeconfig, "apply", *how)
        return Installed(access, cluster, tmp_path, namespace)

    return install


@pytest.fixture
def namespace(cluster):
    with a_namespace(cluster) as name:
        yield name


def test_deployments_need_every_right_of_their_role_and_no_other(cluster, namespace, install):
    installed = install("-f", DEPLOY / "autoscaler-kubernetes.yaml")
    role = cluster.get(CLUSTER_ROLES.path(name="slo-autoscaler"))
    deploy(cluster, namespace)
    function = f"web.{namespace}"
    platform = Kubernetes(KubernetesSettings(**installed.where(namespace)), Alone())
    try:
        assert platform.scales()[function].desired == 2
        platform.scale(function)
        for count in (3, 2, 3):
            platform.set_scale(function, count)
        until(lambda: ("patch", "", "events") in installed.asked(), "an event is counted up")
        until(lambda: {each[0] for each in installed.asked() if each[2] == "deployments"} >= {"watch"}, "")

        def overtaken():
            # The status has changed, and the watch has not told of it yet: most of the time, it is as quick.
            path = DEPLOYMENTS.path(namespace, "web", "status")
            cluster.patch(path, {"status": {"observedGeneration": time.monotonic_ns() % 1_000_000}})
            platform.set_scale(function, 3)
            return ("get", "apps", "deployments/scale") in installed.asked()

        until(overtaken, "a version is stale because of the status alone")
    finally:
        platform.close()
    assert installed.asked() == allowed(role)


@pytest.mark.parametrize(
    ("manifest", "where"),
    [("autoscaler.yaml", "openfaas"), ("autoscaler-kubernetes.yaml", "tailbound")],
)
def test_a_leader_needs_every_right_of_its_role_and_no_other(cluster, install, manifest, where):
    body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": where}}
    with suppress(ConflictError):
        cluster.create(NAMESPACES.path(), body)
    installed = install("-f", DEPLOY / manifest, namespace=where)
    role = cluster.get(ROLES.path(where, "slo-autoscaler-lease"))
    with suppress(NotFoundError):
        cluster.delete(LEASES.path(where, "slo-autoscaler"))
    config = LeaseSettings(duration=15.0, renew_interval=0.2, namespace=where)
    leader = LeaseLeader(
        KubeApi(installed.kubeconfig, timeout=lease_timeout(config.duration), connections=1), config
    )
    try:
        until(lambda: installed.asked() == allowed(role), "it is made and renewed")
        assert leader.leads()
    finally:
        leader.close()


@pytest.fixture
def a_revision(access, cluster, namespace):
    """A PodAutoscaler of our class with its Deployment; of its ServerlessService the rest is done here."""
    make_kinds(access, cluster)
    cluster.create(DEPLOYMENTS.path(namespace), a_deployment())
    autoscaler = an_autoscaler(NAME, "tabular", 1, min_scale="2", max_scale="6")
    autoscaler["metadata"]["namespace"] = namespace
    cluster.create(POD_AUTOSCALERS.path(namespace), autoscaler)
    return namespace


@pytest.fixture
def settings(access, cluster):
    """Knative's config-autoscaler, if it is not there."""
    make_kinds(access, cluster)
    metadata = {"name": "config-autoscaler", "labels": {"app.kubernetes.io/version": "1.23.0"}}
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata}
    with suppress(ConflictError):
        cluster.create(CONFIG_MAPS.path("knative-serving"), body)


FINALIZERS = ("update", "autoscaling.internal.knative.dev", "podautoscalers/finalizers")
SETTINGS = {("get", "", "configmaps")}


def test_the_class_needs_every_right_of_its_role_and_no_other(cluster, settings, a_revision, install):
    namespace = a_revision
    installed = install("-k", DEPLOY / "knative/class")
    role = cluster.get(CLUSTER_ROLES.path(name="slo-autoscaler-knative-class"))
    platform = OwnClass(KnativeSettings(**installed.where(a_revision)), Alone())
    try:
        until(lambda: service(cluster, namespace), "there is a ServerlessService")
        until(
            lambda: "status" in cluster.get(POD_AUTOSCALERS.path(namespace, NAME)),
            "there is a status",
        )
        # Another mode is set right.
        cluster.patch(SERVICES.path(namespace, NAME), {"spec": {"mode": "Proxy"}})
        until(lambda: service(cluster, namespace)["spec"]["mode"] == "Serve", "it is served again")
        path = DEPLOYMENTS.path(namespace, f"{NAME}-deployment", "status")

        def overtaken():
            cluster.patch(path, {"status": {"observedGeneration": time.monotonic_ns() % 1_000_000}})
            platform.set_scale(f"tabular.{namespace}", 3 + time.monotonic_ns() % 3)
            return ("get", "apps", "deployments/scale") in installed.asked()

        until(overtaken, "a version is stale because of the status alone")
    finally:
        platform.close()
    # Never called, but asked of whoever names an owner: see below.
    assert installed.asked() | {FINALIZERS} == allowed(role) | SETTINGS


def test_without_the_right_to_finalizers_no_service_of_an_owner_can_be_made(
    cluster, settings, a_revision, install
):
    installed = install("-k", DEPLOY / "knative/class")
    path = CLUSTER_ROLES.path(name="slo-autoscaler-knative-class")
    role = cluster.get(path)
    short = [each for each in role["rules"] if "podautoscalers/finalizers" not in each["resources"]]
    cluster.patch(path, {"rules": short})
    platform = OwnClass(KnativeSettings(**installed.where(a_revision)), Alone())
    autoscaler = POD_AUTOSCALERS.path(a_revision, NAME)

    def said():
        found = (cluster.get(autoscaler).get("status") or {}).get("conditions") or []
        return {each["type"]: each.get("reason") for each in found}

    try:
        until(lambda: said().get("SKSReady") == "FailedCreate", "it is said")
        cluster.patch(path, {"rules": role["rules"]})
        until(lambda: service(cluster, a_revision), "with it the service is made")
    finally:
        platform.close()


def test_the_floor_needs_every_right_of_its_role_and_no_other(cluster, settings, namespace, install):
    installed = install("-k", DEPLOY / "knative/floor")
    role = cluster.get(CLUSTER_ROLES.path(name="slo-autoscaler-knative-floor"))
    path = REVISIONS.path(namespace, NAME)
    revision = {
        "apiVersion": REVISIONS.api,
        "kind": "Revision",
        "metadata": {"name": NAME, "labels": labels("tabular", NAME, 1), "annotations": {OPT_IN: "true"}},
        "spec": {"containers": [{"image": "dev.local/none"}]},
    }
    cluster.create(REVISIONS.path(namespace), revision)
    route = {
        "apiVersion": REVISIONS.api,
        "kind": "Route",
        "metadata": {"name": "tabular"},
        "spec": {"traffic": [{"revisionName": NAME, "percent": 100}]},
    }
    cluster.create(Resource(REVISIONS.api, "routes").path(namespace), route)
    platform = Floor(KnativeSettings(mode="floor", **installed.where(namespace)), Alone())
    try:
        until(lambda: f"tabular.{namespace}" in platform.scales(), "it is found")
        platform.set_scale(f"tabular.{namespace}", 4)
        assert cluster.get(path)["metadata"]["annotations"][MIN_SCALE] == "4"
        until(lambda: {each[0] for each in installed.asked() if each[2] == "routes"} >= {"watch"}, "watched")
    finally:
        platform.close()
    assert installed.asked() == allowed(role) | SETTINGS
