"""What the installed roles allow is what the code asks for: enough, and no more.

The API server knows the roles by their manifests, refuses the rest, and records what was asked.
"""

from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from slo_autoscaler.kube.lease import LeaseLeader
from slo_autoscaler.kube.lease_rules import Settings as LeaseSettings
from slo_autoscaler.kube.resize import Resizer
from slo_autoscaler.kube.resize_rules import CpuBoost
from slo_autoscaler.platforms import ALL_ACTIVE
from slo_autoscaler.platforms.keys import MODE
from slo_autoscaler.platforms.knative.objects import DEPLOYMENTS, ROUTES, SERVICES
from slo_autoscaler.platforms.kubernetes import Kubernetes
from slo_autoscaler.platforms.kubernetes import Settings as KubernetesSettings
from slo_autoscaler.platforms.leader import Alone
from slo_autoscaler.settings.spec import Modes
from support import doubles
from support.cluster import on_double
from support.doubles import decide
from support.knative_world import KPA
from support.kube_server import a_deployment, a_replica_set, a_running_pod
from support.waits import until

pytestmark = on_double

DEPLOY = Path(__file__).parents[3] / "deploy"
SETTINGS = {("get", "", "configmaps")}
FINALIZERS = {("update", "autoscaling.internal.knative.dev", "podautoscalers/finalizers")}
"""Asked of whoever names an owner, by clusters that check it; no request is made for it."""


@pytest.fixture
def install(api, tmp_path):
    """Give a user the roles of manifests; ``allowed`` are those of one kind."""

    def install(*manifests):
        documents = [each for name in manifests for each in yaml.safe_load_all((DEPLOY / name).read_text())]
        roles = [each for each in documents if each["kind"] in ("Role", "ClusterRole")]
        api.rules["restricted"] = [rule for each in roles for rule in each["rules"]]

        def allowed(kind):
            return {
                (verb, group, resource)
                for rule in [rule for each in roles if each["kind"] == kind for rule in each["rules"]]
                for group in rule["apiGroups"]
                for resource in rule["resources"]
                for verb in rule["verbs"]
            }

        def asked():
            return {tuple(call[:3]) for call in api.calls if call.user == "restricted"}

        kubeconfig = api.kubeconfig(tmp_path, "restricted")
        return SimpleNamespace(allowed=allowed, asked=asked, kubeconfig=kubeconfig)

    return install


def overtake(platform, api, path, *count):
    """Decide on a Deployment whose status changes right before the write."""

    def overtaken(handler):
        api.faults.clear()
        doubles.status(409)(handler)

    api.faults[f"PATCH {path}/scale"] = overtaken
    decide(platform, *count)


def announced(world, platform, installed):
    """Write an event on the Service that owns the route, and count it up."""
    owner = {"apiVersion": "serving.knative.dev/v1", "kind": "Service", "name": "tabular", "uid": "u-1"}
    world.change(ROUTES, "tabular", metadata={"labels": {MODE: ""}, "ownerReferences": [owner]})

    def told():
        platform.announce(world.function, "Held", "held by an operator")
        return {("create", "", "events"), ("patch", "", "events")} <= installed.asked()

    until(told, "an event is counted up")


@pytest.fixture
def scaled(cluster, namespace, keep):
    """Return a platform that has found a Deployment and watches every kind, and the function's name."""

    def scaled(installed, modes=ALL_ACTIVE):
        cluster.create(DEPLOYMENTS.path(namespace), a_deployment(namespace=namespace, mode="active"))
        config = KubernetesSettings(kubeconfig=installed.kubeconfig, namespaces=(namespace,), timeout=10.0)
        platform, function = keep(Kubernetes(config, Alone(), modes)), f"web.{namespace}"
        until(lambda: function in platform.scales(), "it is found")
        until(lambda: sum(each[0] == "watch" for each in installed.asked()) == 3, "every kind is watched")
        return platform, function

    return scaled


def test_deployments_need_every_right_of_their_role_and_no_other(api, namespace, install, scaled):
    installed = install("autoscaler-kubernetes.yaml")
    platform, function = scaled(installed)
    platform.scale(function)
    for count in (3, 2, 3):
        decide(platform, function, count)
    until(lambda: ("patch", "", "events") in installed.asked(), "an event is counted up")
    overtake(platform, api, DEPLOYMENTS.path(namespace, "web"), function, 4)
    assert installed.asked() == installed.allowed("ClusterRole")


def test_scale_target_needs_the_rights_of_the_page_and_no_other(api, cluster, namespace, install, keep):
    text = (DEPLOY.parent / "docs/reference/modes.md").read_text()
    rules = yaml.safe_load(text[text.index("- {apiGroups: [apps]") :].partition("```")[0])
    installed = install("autoscaler-kubernetes.yaml")
    deployments = installed.allowed("ClusterRole")
    api.rules["restricted"] += rules
    api.offers += ["statefulsets", "statefulsets/scale"]
    api.kinds["statefulsets"] = "StatefulSet"
    body = {**a_deployment(namespace=namespace, mode="active"), "kind": "StatefulSet"}
    cluster.create(f"/apis/apps/v1/namespaces/{namespace}/statefulsets", body)
    target = {"apiVersion": "apps/v1", "kind": "StatefulSet"}
    config = KubernetesSettings(
        kubeconfig=installed.kubeconfig, namespaces=(namespace,), timeout=10.0, scale_targets=[target]
    )
    platform, function = keep(Kubernetes(config, Alone())), f"web.{namespace}"
    until(lambda: function in platform.scales(), "it is found")
    until(lambda: ("watch", "apps", "statefulsets") in installed.asked(), "it is watched")
    platform.scale(function)
    overtake(platform, api, f"/apis/apps/v1/namespaces/{namespace}/statefulsets/web", function, 4)
    needed = {(verb, "apps", part) for rule in rules for part in rule["resources"] for verb in rule["verbs"]}
    assert installed.asked() - deployments == needed


def test_deployments_that_are_not_scaled_need_no_right_to_change_one(install, scaled, tmp_path):
    role = tmp_path / "role.yaml"
    rules = DEPLOY / "helm/slo-autoscaler/files/kubernetes/read-only.yaml"
    role.write_text(f"kind: ClusterRole\n{rules.read_text()}")
    installed = install(role)
    platform, function = scaled(installed, Modes(most="recommend"))
    assert platform.scale(function).mode == "recommend"
    assert installed.asked() == installed.allowed("ClusterRole")


def test_boosts_need_every_right_of_their_role_and_no_other(api, install, keep, tmp_path):
    role = tmp_path / "role.yaml"
    role.write_text(f"kind: ClusterRole\n{(DEPLOY / 'helm/slo-autoscaler/files/boost.yaml').read_text()}")
    installed = install(role)
    owner = a_replica_set("web", "shop", {"name": "c", "resources": {"limits": {"cpu": "1"}}})
    api.put("apps/v1", "replicasets", owner)
    api.put("v1", "pods", a_running_pod(owner))
    cluster = (installed.kubeconfig, None, None)
    resizer = keep(Resizer(cluster, None, lambda: True, timeout=10.0, concurrency=1, wanted=True))
    resizer.boost({"web.shop": CpuBoost(2.0, 2.0)})
    until(lambda: installed.asked() == installed.allowed("ClusterRole"), "all was asked")


@pytest.mark.parametrize("manifest", ["autoscaler.yaml", "autoscaler-kubernetes.yaml"])
def test_a_leader_needs_every_right_of_its_role_and_no_other(install, manifest):
    installed = install(manifest)
    config = LeaseSettings(duration=15.0, renew_interval=0.2, namespace="tailbound")
    leader = LeaseLeader(config, (installed.kubeconfig, None))
    until(leader.leads, "it leads")
    until(lambda: installed.asked() == installed.allowed("Role"), "the lease is made and renewed")
    leader.close()


def test_the_class_needs_every_right_of_its_role_and_no_other(api, world, install, start):
    installed = install("autoscaler-knative-class.yaml")
    name = world.revise(min_scale="2", max_scale="6")
    platform = start(kubeconfig=installed.kubeconfig)
    world.until(world.is_ready(name), "it is ready", platform)
    world.change(SERVICES, name, spec={"mode": "Proxy"})
    world.until(lambda: world.mode(name) == "Serve", "another mode is set right", platform)
    world.settle(platform)
    path = DEPLOYMENTS.path(world.namespace, f"{name}-deployment")
    overtake(platform, api, path, world.function, 3)
    announced(world, platform, installed)
    assert installed.asked() | FINALIZERS == installed.allowed("ClusterRole") | SETTINGS


def test_service_of_another_class_needs_no_right_to_change_it(world, install, start, tmp_path):
    role = tmp_path / "role.yaml"
    rules = DEPLOY / "helm/slo-autoscaler/files/knative-class/read-only.yaml"
    role.write_text(f"kind: ClusterRole\n{rules.read_text()}")
    installed = install(role)
    world.revise(**{"class": KPA})
    world.route(mode="recommend", r1=100)
    platform = start(kubeconfig=installed.kubeconfig)
    world.until(lambda: world.function in platform.scales(), "it is found", platform)
    until(lambda: installed.allowed("ClusterRole") <= installed.asked(), "every kind is watched")
    assert installed.asked() - SETTINGS == installed.allowed("ClusterRole")
