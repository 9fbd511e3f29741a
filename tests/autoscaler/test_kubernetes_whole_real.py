"""The whole program on a real control plane, with the rights of its own ServiceAccount and no others.

kube-controller-manager makes the pods; nobody runs them, and they are said to be ready. Prometheus is the
installed one, with the scrape job that is shipped, and finds them by the API.
"""

import signal

import pytest
import yaml

from autoscaler.control_plane import a_kubelet, a_namespace, a_token, controllers, kubectl, real
from autoscaler.doubles import a_prometheus, until
from autoscaler.freezing_proxy import a_freezing_proxy
from autoscaler.pods import some_pods
from autoscaler.test_kubernetes_e2e import CONFIG, a_process
from autoscaler.test_kubernetes_real import DEPLOY, DEPLOYMENTS, deploy, events
from slo_autoscaler.errors import NotFoundError
from slo_autoscaler.kube.lease import LEASES

pytestmark = real("etcd", "kube-apiserver", "kube-controller-manager", "kubectl")

LEASE = LEASES.path("tailbound", "slo-autoscaler")


@pytest.fixture
def token(access, cluster, kubeconfig):
    """Of the ServiceAccount that the manifest installs."""
    if access.folder is None:
        pytest.skip("the API server was not started here, and its controllers are not known")
    kubectl(kubeconfig, "apply", "-f", DEPLOY / "autoscaler-kubernetes.yaml")
    with controllers(access):
        yield a_token(cluster, "tailbound", "slo-autoscaler")


@pytest.fixture
def namespace(cluster):
    with a_namespace(cluster) as name:
        yield name


class Stage:
    """A Deployment of some load, what is said about it, and who acts on it."""

    def __init__(self, access, cluster, token, namespace, prometheus, folder):
        self._access = access
        self._cluster = cluster
        self._token = token
        self._namespace = namespace
        self._prometheus = prometheus
        self._folder = folder
        self._deployment = DEPLOYMENTS.path(namespace, "web")

    def autoscaler(self, name, address=None):
        """Run one more of them, by way of a proxy at ``address``."""
        config = self._folder / f"{name}.yaml"
        kubeconfig = self._access.kubeconfig(self._folder, address, self._token)
        text = CONFIG.format(kubeconfig=kubeconfig, prometheus=self._prometheus.url)
        lease = "lease: {namespace: tailbound, "
        text = text.replace("2s, renew", "3s, renew").replace("600ms", "1s")
        config.write_text(
            text.replace("lease: {", lease).replace("600ms", "1s").replace("2s, renew", "3s, renew")
        )
        return a_process(config, self._folder / name)

    def replicas(self):
        return self._cluster.get(self._deployment)["spec"]["replicas"]

    def ready(self):
        return self._cluster.get(self._deployment)["status"].get("readyReplicas", 0)

    def holder(self):
        try:
            return self._cluster.get(LEASE)["spec"].get("holderIdentity")
        except NotFoundError:
            return None

    def events(self, reason):
        return events(self._cluster, self._namespace, reason)

    def log(self, name):
        return (self._folder / name).read_text()


@pytest.fixture
def pods():
    with some_pods(capacity=100.0) as pods:
        pods.rate = 250.0
        yield pods


@pytest.fixture
def stage(access, cluster, token, namespace, pods, tmp_path):
    deploy(cluster, namespace, replicas=1)
    (job,) = yaml.safe_load((DEPLOY / "kubernetes/prometheus.yml").read_text())
    found = [pods.scraped(access, job)]
    with a_prometheus(tmp_path, {}, found) as prometheus, a_kubelet(cluster):
        yield Stage(access, cluster, token, namespace, prometheus, tmp_path)


def test_a_deployment_follows_prometheus_and_its_leaders_follow_each_other(stage, pods):
    with stage.autoscaler("first") as (first, _):
        until(lambda: stage.ready() >= 3, "250/s on replicas of 100/s are at least 3, which are ready")
        leader = stage.holder()
        with stage.autoscaler("second") as (second, decisions):
            until(decisions, "the second decides")
            assert {line["mode"] for line in decisions()} == {"standby"}
            first.kill()
            until(lambda: stage.holder() not in (None, leader), "the lease of the killed one runs out")
            pods.rate = 0.0
            until(lambda: stage.replicas() == 1, "the second acts")
            second.send_signal(signal.SIGTERM)
            assert second.wait(10) == 0
    assert stage.holder() is None, "given back at once"
    until(lambda: stage.events("ScaledUp") and stage.events("ScaledDown"), "there is an event of each")
    for name in ("first", "second"):
        assert "Traceback" not in stage.log(name)
        assert "Forbidden" not in stage.log(name)


def acts(decisions):
    return [line["time"] for line in decisions() if line["mode"] == "active"]


def test_a_leader_whose_network_is_frozen_has_stopped_before_another_acts(stage, access):
    with a_freezing_proxy(access.address) as proxy, stage.autoscaler("first", proxy.address) as (_, first):
        until(lambda: stage.ready() >= 3, "the first acts")
        with stage.autoscaler("second") as (_, second):
            until(second, "the second decides")
            proxy.freeze()
            until(lambda: acts(second), "the second acts")
            proxy.thaw()
            until(lambda: first()[-1]["mode"] == "standby", "the first sees who leads")
        assert max(acts(first)) < min(acts(second)), "by the clock of the one machine that both run on"
