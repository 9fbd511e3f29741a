"""docs/install.md for Knative on a real node that has Serving: class, function, load and the removal."""

from collections.abc import Iterator
from functools import partial
from json import dumps

import pytest

from node import cluster
from node.cluster import (
    Guide,
    exists,
    follows_load,
    guide,
    kubectl,
    load,
    read,
    unused,
    wait_for,
)
from node.knative import IMAGE, called, counts, deploy, labeled, needs_knative, ready, revision, url

pytestmark = [pytest.mark.node, pytest.mark.timeout(3600)]

OURS = ("monitoring", "tailbound-knative")
RATE = 120.0
SYSTEM = ("--namespace", "knative-serving")
MIN_SCALE = "autoscaling.knative.dev/min-scale"

told = partial(cluster.told, "tailbound-knative")


@pytest.fixture(scope="module")
def installed(node: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guide]:
    needs_knative()
    unused(*OURS)
    with guide("knative-class", tmp_path_factory.mktemp("node")) as follower:
        try:
            follower.install_autoscaler()
            follower.follow("2. Prometheus")
            deploy(follower)
            yield follower
        finally:
            kubectl("delete", "ksvc", "my-model", "--ignore-not-found")
            follower.remove(*OURS)


def test_class_gives_replicas_for_load_and_its_end_takes_them_back(installed):
    wait_for("the first replica", lambda: counts() == (1, 1), told)
    labeled("off")
    sent = load("default", "load", IMAGE, url(), rate=RATE, seconds=150)
    follows_load(sent, counts, partial(labeled, "active"), told)


def test_pod_autoscaler_tells_the_count(installed):
    (found,) = [each for each in read("podautoscalers")["items"] if each["metadata"]["name"] == revision()]
    assert (found["status"]["desiredScale"], found["status"]["actualScale"]) == (1, 1)
    assert ready("podautoscaler", revision())


@pytest.fixture(scope="module")
def at_zero(installed):
    """The function without replicas, by the page's commands; config-observability as before at the end."""
    installed.follow("Let a Service go to zero")
    template = {"metadata": {"annotations": {MIN_SCALE: "0"}}}
    before = revision()
    kubectl("patch", "ksvc", "my-model", "--type=merge", f"--patch={dumps({'spec': {'template': template}})}")
    wait_for("a new revision", lambda: revision() != before, told)
    wait_for("no replicas", lambda: counts() == (0, 0), told)
    yield installed
    undo = dumps({"data": {"metrics-protocol": None}})
    kubectl(*SYSTEM, "patch", "configmap/config-observability", "--type=merge", f"--patch={undo}")
    kubectl(*SYSTEM, "rollout", "restart", "deployment/activator")


def test_requests_at_zero_are_all_answered_and_zero_follows_again(at_zero):
    assert set(called("at-once", 20)) == {200}
    assert counts()[0] >= 1
    wait_for("no replicas again", lambda: counts() == (0, 0), told)
    assert set(called("a-load", 600, 1 / 30)) == {200}
    wait_for("no replicas again", lambda: counts() == (0, 0), told)


@pytest.mark.parametrize("restarted", ["autoscaler", "activator", "neither, and the page is away"])
def test_restart_at_zero_loses_no_request(at_zero, restarted):
    wait_for("no replicas", lambda: counts() == (0, 0), told)
    if restarted == "autoscaler":
        pods = ("--namespace=tailbound-knative", "pod", "--selector=app.kubernetes.io/name=slo-autoscaler")
        kubectl("delete", *pods, "--grace-period=0", "--force", "--wait=false")
    elif restarted == "activator":
        kubectl(*SYSTEM, "rollout", "restart", "deployment/activator")
        kubectl(*SYSTEM, "rollout", "status", "deployment/activator", "--timeout=5m")
    else:
        off = dumps({"data": {"metrics-protocol": "none"}})
        kubectl(*SYSTEM, "patch", "configmap/config-observability", "--type=merge", f"--patch={off}")
        kubectl(*SYSTEM, "rollout", "restart", "deployment/activator")
        wait_for("one replica", lambda: counts()[0] == 1, told)
        autoscalers = read("podautoscalers", revision())["status"]["conditions"]
        assert "ScaleToZero" in [each["type"] for each in autoscalers]
    assert set(called(f"after-{restarted.partition(',')[0]}", 20)) == {200}


def test_removal_leaves_nothing_of_the_autoscaler(installed):
    installed.follow("Remove it")
    wait_for("the namespace's end", lambda: not exists("namespace", "tailbound-knative"))
    assert not cluster.left_over()
    assert not exists("--namespace=knative-serving", "role", "slo-autoscaler-knative-class")
