"""What the installed roles allow is what the code asks for: enough, and no more.

The double knows the roles by their manifests, and refuses the rest; a real server has them installed, and its
audit log says what was asked.
"""

import shutil
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import yaml

from autoscaler.doubles import until
from autoscaler.kube.control_plane import Access, a_token, kubectl, on_real
from autoscaler.kube.kube_server import a_deployment
from autoscaler.platforms.knative_world import driven
from slo_autoscaler.errors import NotFoundError
from slo_autoscaler.kube.client import Resource
from slo_autoscaler.kube.lease import LEASES, LeaseLeader
from slo_autoscaler.kube.lease_rules import Settings as LeaseSettings
from slo_autoscaler.leader import Alone
from slo_autoscaler.platforms.knative.minimum import MIN_SCALE, OPT_IN
from slo_autoscaler.platforms.knative.objects import DEPLOYMENTS, REVISIONS, SERVICES
from slo_autoscaler.platforms.kubernetes import Kubernetes
from slo_autoscaler.platforms.kubernetes import Settings as KubernetesSettings

DEPLOY = Path(__file__).parents[3] / "deploy"
ACCOUNT = "slo-autoscaler"
ROLES = {
    kind: Resource("rbac.authorization.k8s.io/v1", kind.lower() + "s") for kind in ("Role", "ClusterRole")
}
SETTINGS = {("get", "", "configmaps")}
FINALIZERS = {("update", "autoscaling.internal.knative.dev", "podautoscalers/finalizers")}
"""Asked of whoever names an owner, by clusters that check it; no request is made for it."""


def manifests(name):
    """The documents of a manifest, or of a folder's role and what it is built on."""
    paths = [DEPLOY / name]
    if paths[0].is_dir():
        paths = [paths[0] / "role.yaml", *(DEPLOY / "knative/common").glob("settings.yaml")]
    return [each for path in paths for each in yaml.safe_load_all(path.read_text())]


def allowed(*roles):
    """Every (verb, group, resource) of some roles."""
    return {
        (verb, group, resource)
        for role in roles
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def make_namespace(kubeconfig, folder, name):
    """Make a namespace by kubectl: it warns of those that were made otherwise."""
    path = folder / "namespace.yaml"
    metadata = {"name": name, "labels": {"app.kubernetes.io/part-of": "tailbound"}}
    path.write_text(yaml.safe_dump({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}))
    kubectl(kubeconfig, "apply", "-f", path)


class Installed:
    """One ServiceAccount: what its roles allow, and what it has asked for since it was installed."""

    def __init__(self, api, cluster, folder, manifest, namespace):
        self._api = api
        self.roles = [each for each in manifests(manifest) if each["kind"] in ROLES]
        if isinstance(api, Access):
            if api.folder is None or shutil.which("kubectl") is None:
                pytest.skip("no kubectl, or the API server was not started here: there is no audit log")
            kubeconfig = api.kubeconfig(folder)
            make_namespace(kubeconfig, folder, namespace)
            kubectl(kubeconfig, "apply", "-k" if (DEPLOY / manifest).is_dir() else "-f", DEPLOY / manifest)
            self._user = f"system:serviceaccount:{namespace}:{ACCOUNT}"
            token = a_token(cluster, namespace, ACCOUNT)
        else:
            self._user = token = "restricted"
            api.rules[token] = [rule for each in self.roles for rule in each["rules"]]
        self._before = len(self._all())
        self.kubeconfig = api.kubeconfig(folder, token=token)

    def _all(self):
        if isinstance(self._api, Access):
            found = self._api.asked(self._user)
            assert not [each for each in found if each.code in (401, 403)], "nothing of it was refused"
            return found
        return [call for call in self._api.calls if call.user == self._user]

    def asked(self):
        """Every (verb, group, resource) that it has asked for."""
        return {each[:3] for each in self._all()[self._before :]}


@pytest.fixture
def install(api, cluster, tmp_path):
    return lambda manifest, namespace="tailbound": Installed(api, cluster, tmp_path, manifest, namespace)


@contextmanager
def closing(platform):
    try:
        yield platform
    finally:
        platform.close()


def overtake(platform, cluster, path, count):
    """Decide on a Deployment whose status has changed since the watch reported it last."""
    platform._deployments.close()
    cluster.patch(f"{path}/status", {"status": {"observedGeneration": 1}})
    platform.set_scale(*count)


def test_deployments_need_every_right_of_their_role_and_no_other(cluster, namespace, install):
    installed = install("autoscaler-kubernetes.yaml")
    (role,) = [each for each in installed.roles if each["kind"] == "ClusterRole"]
    cluster.create(DEPLOYMENTS.path(namespace), a_deployment(namespace=namespace, autoscale="true"))
    function, path = f"web.{namespace}", DEPLOYMENTS.path(namespace, "web")
    config = KubernetesSettings(kubeconfig=installed.kubeconfig, namespaces=(namespace,), timeout=10.0)
    with closing(Kubernetes(config, Alone())) as platform:
        until(lambda: function in platform.scales(), "it is found")
        platform.scale(function)
        for count in (3, 2, 3):
            platform.set_scale(function, count)
        until(lambda: ("patch", "", "events") in installed.asked(), "an event is counted up")
        until(lambda: sum(each[0] == "watch" for each in installed.asked()) == 2, "both kinds are watched")
        overtake(platform, cluster, path, (function, 4))
    assert installed.asked() == allowed(role)


@pytest.mark.parametrize(
    ("manifest", "where"),
    [("autoscaler.yaml", "openfaas"), ("autoscaler-kubernetes.yaml", "tailbound")],
)
def test_a_leader_needs_every_right_of_its_role_and_no_other(cluster, install, manifest, where):
    installed = install(manifest, where)
    (role,) = [each for each in installed.roles if each["kind"] == "Role"]
    with suppress(NotFoundError):
        cluster.delete(LEASES.path(where, ACCOUNT))
    config = LeaseSettings(duration=15.0, renew_interval=0.2, namespace=where)
    with closing(LeaseLeader(config, (installed.kubeconfig, None))) as leader:
        until(leader.leads, "it leads")
        until(lambda: installed.asked() == allowed(role), "the lease is made and renewed")


def test_the_class_needs_every_right_of_its_role_and_no_other(world, install, settings):
    installed = install("knative/class")
    name = world.revise(min_scale="2", max_scale="6")
    platform, _ = driven(settings(kubeconfig=installed.kubeconfig))
    with closing(platform):
        world.until(world.is_ready(name), "it is ready", platform)
        world.change(SERVICES, name, spec={"mode": "Proxy"})
        world.until(lambda: world.mode(name) == "Serve", "another mode is set right", platform)
        world.settle(platform)
        path = DEPLOYMENTS.path(world.namespace, f"{name}-deployment")
        overtake(platform, world.cluster, path, (world.function, 3))
    (role, *_) = [each for each in installed.roles if "class" in each["metadata"]["name"]]
    assert installed.asked() | FINALIZERS == allowed(role) | SETTINGS


@on_real("etcd", "kube-apiserver", "kubectl")
def test_without_the_right_to_finalizers_no_service_of_an_owner_can_be_made(world, install, settings):
    installed = install("knative/class")
    (role,) = [each for each in installed.roles if "class" in each["metadata"]["name"]]
    path = ROLES["ClusterRole"].path(name=role["metadata"]["name"])
    short = [each for each in role["rules"] if "podautoscalers/finalizers" not in each["resources"]]
    world.cluster.patch(path, {"rules": short})
    name = world.revise()
    platform, _ = driven(settings(kubeconfig=installed.kubeconfig))
    with closing(platform):
        world.until(lambda: world.says(name, "SKSReady") == "Unknown FailedCreate", "it is said", platform)
        world.cluster.patch(path, {"rules": role["rules"]})
        world.until(world.is_ready(name), "with it the service is made", platform)


def test_the_floor_needs_every_right_of_its_role_and_no_other(world, install, settings):
    installed = install("knative/floor")
    name = world.revision()
    world.route(r1=100)
    platform, _ = driven(settings(kubeconfig=installed.kubeconfig, mode="floor"))
    with closing(platform):
        world.until(lambda: world.function in platform.scales(), "it is found", platform)
        platform.set_scale(world.function, 4)
        assert world.annotations()[MIN_SCALE] == "4"
        world.change(REVISIONS, name, metadata={"annotations": {OPT_IN: None}})
        world.until(lambda: MIN_SCALE not in world.annotations(), "its own minimum is back", platform)
    (role, *_) = [each for each in installed.roles if "floor" in each["metadata"]["name"]]
    assert installed.asked() == allowed(role) | SETTINGS


@on_real("kubectl")
@pytest.mark.parametrize(
    ("manifest", "where"),
    [("autoscaler.yaml", "openfaas"), ("autoscaler-kubernetes.yaml", "tailbound")],
)
def test_the_server_takes_the_manifests(api, kubeconfig, tmp_path, manifest, where):
    """A dry run first, then, on a server of our own, in earnest, then once more: which changes nothing."""
    # A dry run makes no namespace, and what is to be in it is refused without.
    make_namespace(kubeconfig, tmp_path, where)
    kubectl(kubeconfig, "apply", "--dry-run=server", "-f", DEPLOY / manifest)
    if api.folder is not None:
        kubectl(kubeconfig, "apply", "-f", DEPLOY / manifest)
        again = kubectl(kubeconfig, "apply", "-f", DEPLOY / manifest).splitlines()
        assert {line.rpartition(" ")[2] for line in again} == {"unchanged"}
