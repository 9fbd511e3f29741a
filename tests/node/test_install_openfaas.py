"""docs/install.md for OpenFaaS on a real node: OpenFaaS, autoscaler, function and load, then the removal."""

import json
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import yaml

from node import cluster
from node.cluster import (
    Guide,
    exists,
    guide,
    kubectl,
    load,
    names,
    read,
    unlearned,
    unused,
    wait_for,
)
from node.openfaas import URL, counts, function

pytestmark = [pytest.mark.node, pytest.mark.timeout(3600)]

OURS = ("openfaas", "openfaas-fn")
RATE = 120.0

told = partial(cluster.told, "openfaas")


@pytest.fixture(scope="module")
def installed(node: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guide]:
    unused(*OURS)
    with guide("openfaas", tmp_path_factory.mktemp("node")) as follower:
        try:
            follower.follow("1. The platform")
            kubectl("--namespace=openfaas", "rollout", "status", "deployment/gateway", "--timeout=5m")
            follower.follow("2. Prometheus")
            follower.install_autoscaler()
            function(follower)
            yield follower
        finally:
            follower.remove(*OURS)


def deploy(follower: Guide, mode: str) -> str:
    """Deploy the function again with this mode; return when. OpenFaaS sets it to its minimum."""
    folder = follower.clone / "my-functions"
    stack = yaml.safe_load((folder / "stack.yaml").read_text())
    stack["functions"]["my-model"]["labels"]["com.tailbound.mode"] = mode
    (folder / "stack.yaml").write_text(yaml.safe_dump(stack))
    since = cluster.now()
    follower.run("cd my-functions && faas-cli deploy")
    return since


def offered(name: str, seconds: float) -> Any:
    template = read("--namespace=openfaas-fn", "deployment", "my-model")["spec"]["template"]
    (container,) = template["spec"]["containers"]
    return load("openfaas-fn", name, container["image"], URL, rate=RATE, seconds=seconds)


def test_load_gives_replicas_that_serve_it_and_its_end_takes_them_back(installed):
    wait_for("the first replica", lambda: counts() == (1, 1), told)
    sent = offered("load", 180)
    unlearned(sent)
    assert counts() == (1, 1)
    deploy(installed, "active")
    wait_for("replicas for the load", lambda: counts()[1] >= 3, told)
    answers = sent.ended()
    # Another mode is another deployment, which ends the first pod under load.
    assert answers[200] > 0.5 * answers.total(), answers
    wait_for("one replica again", lambda: counts() == (1, 1), told)


def test_last_step_shows_what_the_function_exports(installed):
    said = installed.follow("5. See that it keeps its SLO")
    assert '"function_name":"my-model.openfaas-fn"' in said


def test_changed_configuration_rolls_the_autoscaler_and_nothing_else(installed):
    wait_for("the last pod's end", lambda: len(names("--namespace=openfaas-fn", "pods")) == counts()[0])
    before = {each: names("--namespace", each, "pods") for each in OURS}
    installed.upgrade_autoscaler(config={"defaults": {"max_replicas": 6}})
    ours = {each for each in before["openfaas"] if each.startswith("slo-autoscaler-")}
    wait_for("the old one's end", lambda: not names("--namespace=openfaas", "pods") & ours)
    assert before["openfaas"] - ours <= names("--namespace=openfaas", "pods")
    # The new one may expect the load of the last test again, and add replicas for it.
    assert before["openfaas-fn"] <= names("--namespace=openfaas-fn", "pods")


def test_removal_leaves_openfaas_and_the_function(installed):
    before = counts()[0]
    installed.follow("Remove it")
    assert counts()[0] == before
    assert exists("--namespace=openfaas", "deployment", "gateway")
    wait_for("its end", lambda: not exists("--namespace=openfaas", "deployment", "slo-autoscaler"))
    left = json.loads(kubectl("--namespace=openfaas", "get", "all,configmaps,roles,rolebindings", "-o=json"))
    assert not [each for each in left["items"] if each["metadata"]["name"].startswith("slo-autoscaler")]
