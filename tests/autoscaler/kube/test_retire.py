"""The hook before an uninstall: the autoscaler's pods end while their account is still there."""

import threading

import pytest

from slo_autoscaler.kube.client import KubeApi
from slo_autoscaler.kube.pods import PODS
from slo_autoscaler.kube.retire import DEPLOYMENTS, main, retire
from support.cluster import delete, on_double
from support.kube_server import a_deployment, a_pod

NAME = "slo-autoscaler"
MINE = {"app.kubernetes.io/name": NAME, "app.kubernetes.io/instance": "blue"}
SELECTOR = ",".join(f"{key}={text}" for key, text in MINE.items())
RIGHTS = {("patch", "apps", "deployments/scale"), ("list", "", "pods")}


@pytest.fixture
def pods(cluster, namespace):
    """Paths of the pods of this autoscaler and of another one."""
    cluster.create(DEPLOYMENTS.path(namespace), a_deployment(NAME, namespace))
    made = [
        a_pod(NAME, namespace, labels=MINE | {"app.kubernetes.io/instance": it}) for it in ("blue", "green")
    ]
    for pod in made:
        cluster.create(PODS.path(namespace), pod)
    return [PODS.path(namespace, pod["metadata"]["name"]) for pod in made]


@on_double
def test_retire_sets_the_count_to_0_and_waits_for_its_own_pods_alone(
    api, cluster, namespace, pods, tmp_path, keep
):
    hook = keep(KubeApi(api.kubeconfig(tmp_path, "hook"), timeout=10.0, connections=1))
    assert retire(hook, namespace, NAME, SELECTOR, 0.0) == 1
    assert cluster.get(DEPLOYMENTS.path(namespace, NAME))["spec"]["replicas"] == 0
    threading.Timer(0.2, delete, (cluster, pods[0])).start()
    assert retire(hook, namespace, NAME, SELECTOR) == 0
    assert {call[:3] for call in api.calls if call.user == "hook"} == RIGHTS


def test_retire_without_the_deployment_has_nothing_to_wait_for(cluster, namespace):
    assert retire(cluster, namespace, NAME, SELECTOR) == 0


def test_hook_without_an_api_server_stops_no_uninstall(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    assert main([NAME, SELECTOR]) == 0
    assert NAME in capsys.readouterr().out
