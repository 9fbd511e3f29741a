"""The whole program on Kubernetes, with a real Prometheus and several leaders.

On the double one endpoint stands for the replicas. On a real control plane kube-controller-manager makes
the pods. Nobody runs them, and they are said to be ready. Prometheus finds them with the shipped scrape job,
and the program has the rights of its own ServiceAccount and no others.
"""

import json
import os
import signal
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import yaml

from autoscaler.doubles import a_fleet, a_prometheus, until
from autoscaler.kube.control_plane import Access, a_kubelet, a_token, controllers, kubectl, real
from autoscaler.kube.freezing_proxy import a_freezing_proxy
from autoscaler.kube.kube_server import a_deployment
from autoscaler.platforms.pods import some_pods
from slo_autoscaler.errors import NotFoundError
from slo_autoscaler.kube.client import Resource
from slo_autoscaler.kube.lease import LEASES
from slo_autoscaler.platforms.kubernetes import DEPLOYMENTS

DEPLOY = Path(__file__).parents[3] / "deploy"
EVENTS = Resource("v1", "events")

CONFIG = """
platform: {{kind: kubernetes, kubeconfig: "{kubeconfig}", timeout: 1s}}
prometheus: {{url: "{prometheus}", scrape_interval: 250ms, window: 1s, timeout: 1s, max_age: 2s}}
interval: 100ms
web: {{host: 127.0.0.1, port: 0, page_port: null}}
leader: {{lease: {{namespace: tailbound, duration: 3s, renew_interval: 200ms}}}}
defaults: {{start_up_time: 100ms, min_samples: 5, scale_down: {{stabilization_window: 0s}}}}
"""

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.parametrize(
        "api",
        ["double", pytest.param("real", marks=real("etcd", "kube-controller-manager", "kubectl"))],
        indirect=True,
    ),
]


@contextmanager
def a_process(config, log):
    """Run the program; give its process and a function that reads its decisions so far."""
    out = log.with_suffix(".jsonl")
    with out.open("wb") as stdout, log.open("wb") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "slo_autoscaler", "--config", str(config)],
            stdout=stdout,
            stderr=stderr,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        try:
            # The last line may be half written.
            yield process, lambda: [json.loads(line) for line in out.read_text().split("\n")[:-1]]
        finally:
            process.kill()
            process.wait()


class Stage:
    """A Deployment of some load, what is said about it, and the autoscalers that act on it."""

    def __init__(self, api, cluster, namespace, prometheus, folder, token):
        self._api = api
        self._cluster = cluster
        self._namespace = namespace
        self._prometheus = prometheus
        self._folder = folder
        self._token = token

    def autoscaler(self, name, address=None):
        """Run one more of them, by way of a proxy at ``address``."""
        config = self._folder / f"{name}.yaml"
        kubeconfig = self._api.kubeconfig(self._folder, address, self._token)
        config.write_text(CONFIG.format(kubeconfig=kubeconfig, prometheus=self._prometheus.url))
        return a_process(config, self._folder / name)

    def replicas(self):
        return self._cluster.get(DEPLOYMENTS.path(self._namespace, "web"))["spec"]["replicas"]

    def holder(self):
        try:
            return self._cluster.get(LEASES.path("tailbound", "slo-autoscaler"))["spec"].get("holderIdentity")
        except NotFoundError:
            return None

    def events(self):
        pages = self._cluster.pages(EVENTS.path(self._namespace))
        return {each["reason"] for items, _ in pages for each in items}

    def log(self, name):
        return (self._folder / name).read_text()


@pytest.fixture
def load(api):
    """What serves requests at ``load.rate``, 100/s each."""
    with some_pods(capacity=100.0) if isinstance(api, Access) else a_fleet(capacity=100.0) as load:
        load.rate = 250.0
        yield load


@pytest.fixture
def stage(api, cluster, namespace, kubeconfig, load, tmp_path):
    with ExitStack() as running:
        targets, jobs, token = {}, None, None
        if isinstance(api, Access):
            if api.folder is None:
                pytest.skip("the API server was not started here, and its controllers are not known")
            kubectl(kubeconfig, "apply", "-f", DEPLOY / "autoscaler-kubernetes.yaml")
            running.enter_context(controllers(api))
            running.enter_context(a_kubelet(cluster))
            token = a_token(cluster, "tailbound", "slo-autoscaler")
            (job,) = yaml.safe_load((DEPLOY / "kubernetes/prometheus.yml").read_text())
            jobs = [load.scraped(api, job)]
        else:
            # One endpoint is scraped, so one replica serves; all beyond it stay in starting.
            api.instantly_ready = False
            targets = {f"web.{namespace}": [load.address]}
        body = a_deployment("web", namespace, 1, autoscale="true", max_replicas="9")
        cluster.create(DEPLOYMENTS.path(namespace), body)
        if token is None:
            cluster.patch(DEPLOYMENTS.path(namespace, "web", "status"), {"status": {"readyReplicas": 1}})
        prometheus = running.enter_context(a_prometheus(tmp_path, targets, jobs))
        yield Stage(api, cluster, namespace, prometheus, tmp_path, token)


def test_a_deployment_follows_prometheus_under_one_leader_after_the_other(stage, load):
    with stage.autoscaler("first") as (first, _):
        until(lambda: stage.replicas() >= 3, "250/s on replicas of 100/s are at least 3")
        leader = stage.holder()
        with stage.autoscaler("second") as (second, decisions):
            until(decisions, "the second decides")
            assert {line["mode"] for line in decisions()} == {"standby"}
            first.kill()
            until(lambda: stage.holder() not in (None, leader), "the lease of the killed one runs out")
            load.rate = 0.0
            until(lambda: stage.replicas() == 1, "the second acts")
            second.send_signal(signal.SIGTERM)
            assert second.wait(20) == 0
    assert stage.holder() is None, "given back at once"
    until(lambda: {"ScaledUp", "ScaledDown"} <= stage.events(), "there is an event of each")
    for name in ("first", "second"):
        assert "Traceback" not in stage.log(name)
        assert "Forbidden" not in stage.log(name)


def test_a_leader_whose_network_is_frozen_has_stopped_before_another_acts(api, stage):
    def acts(decisions):
        return [line["time"] for line in decisions() if line["mode"] == "active"]

    with a_freezing_proxy(api.address) as proxy, stage.autoscaler("first", proxy.address) as (_, first):
        until(lambda: acts(first), "the first acts")
        with stage.autoscaler("second") as (_, second):
            until(second, "the second decides")
            proxy.freeze()
            until(lambda: acts(second), "the second acts")
            proxy.thaw()
            until(lambda: first()[-1]["mode"] == "standby", "the first sees who leads")
        assert max(acts(first)) < min(acts(second)), "by the clock of the one machine that both run on"
