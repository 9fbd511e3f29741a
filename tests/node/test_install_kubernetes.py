"""docs/install.md for Kubernetes on a real node, from an empty cluster to one that is empty again."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import yaml

from node import cluster
from node.cluster import (
    Guide,
    exists,
    follows_load,
    guide,
    kubectl,
    load,
    names,
    read,
    unused,
    wait_for,
)
from node.kubernetes import IMAGE, URL, counts, model

pytestmark = [pytest.mark.node, pytest.mark.timeout(3600)]

OURS = ("monitoring", "tailbound", "shop")
RATE = 120.0

told = partial(cluster.told, "tailbound")
newest = partial(cluster.newest, "my-model.shop", "tailbound")


@dataclass(frozen=True)
class Installed:
    guide: Guide
    deployment: dict[str, Any]
    """As the page has it."""


@pytest.fixture(scope="module")
def installed(node: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installed]:
    unused(*OURS)
    with guide("kubernetes", tmp_path_factory.mktemp("node")) as follower:
        try:
            follower.follow("2. Prometheus")
            follower.install_autoscaler()
            yield Installed(follower, model(follower))
        finally:
            follower.remove(*OURS)


def labeled(mode: str) -> str:
    """Set the mode and return when."""
    since = cluster.now()
    kubectl("--namespace=shop", "label", "--overwrite", "deployment/my-model", f"tailbound.dev/mode={mode}")
    return since


def test_load_gives_replicas_that_serve_it_and_its_end_takes_them_back(installed):
    assert counts() == (1, 1)
    labeled("off")
    sent = load("shop", "load", IMAGE, URL, rate=RATE, seconds=150)
    follows_load(sent, counts, partial(labeled, "active"), told)
    events = kubectl("--namespace=shop", "describe", "deployment/my-model")
    assert "ScaledUp" in events
    assert "ScaledDown" in events


def test_last_step_shows_the_slo_that_the_model_exports(installed):
    said = installed.guide.follow("5. See that it keeps its SLO")
    assert '"function_name":"my-model.shop"' in said


@pytest.mark.parametrize("mode", ["shadow", "recommend"])
def test_mode_that_writes_nothing_leaves_the_count_under_load(installed, mode):
    since = labeled(mode)

    def more() -> bool:
        # Of this mode: one of the last may be of the same second.
        found = newest(since)
        return found.get("mode") == mode and found["to"] > 1

    sent = load("shop", f"load-{mode}", IMAGE, URL, rate=RATE, seconds=60)
    wait_for("more that would be there", more, told)
    sent.ended()
    assert counts()[0] == 1


def test_mode_off_decides_nothing_and_active_scales_again(installed):
    since = labeled("off")
    wait_for("a hold", lambda: newest(since).get("reason") == "Disabled", told)
    labeled("active")
    sent = load("shop", "load-active", IMAGE, URL, rate=RATE, seconds=60)
    wait_for("replicas for the load", lambda: counts()[1] >= 2, told)
    # They stay for a while: the third load within minutes is expected to come again.
    sent.ended()


def test_only_a_labeled_deployment_may_be_scaled(installed):
    change = ("/apis/apps/v1/namespaces/shop/deployments/my-model/scale", {"spec": {"replicas": 2}})
    # The API server learns of a label a moment later.
    labeled("active")
    wait_for("the right", lambda: cluster.refused("tailbound", *change) == "")
    labeled("off")
    wait_for("a refusal", lambda: "scales only Deployments" in cluster.refused("tailbound", *change))


def test_count_given_to_another_owner_outlives_its_removal_from_an_applied_manifest(installed):
    labeled("off")
    flux = ("apply", "--server-side", "--force-conflicts", "--field-manager=kustomize-controller")
    manifest = installed.deployment
    manifest["metadata"]["labels"]["tailbound.dev/mode"] = "off"
    counted = manifest | {"spec": manifest["spec"] | {"replicas": 2}}
    kubectl(*flux, "--filename=-", stdin=json.dumps(counted))
    (handover,) = [
        block.text
        for block in installed.guide.blocks("4. A function")
        if "--field-manager=replicas" in block.text
    ]
    installed.guide.run(handover)
    kubectl(*flux, "--filename=-", stdin=json.dumps(manifest))
    assert counts()[0] == 2


def may_scale(namespace: str) -> bool:
    """Whether the autoscaler's account may change a count there."""
    account = "--as=system:serviceaccount:tailbound:slo-autoscaler"
    question = (account, "--namespace", namespace, "patch", "deployments", "--subresource=scale")
    return kubectl("auth", "can-i", *question, check=False).split()[-1] == "yes"


def maximum() -> int:
    """``max_replicas`` of the configuration that the Deployment's pods mount."""
    template = read("--namespace=tailbound", "deployment", "slo-autoscaler")["spec"]["template"]
    (name,) = [each["configMap"]["name"] for each in template["spec"]["volumes"] if "configMap" in each]
    found = read("--namespace=tailbound", "configmap", name)["data"]["config.yaml"]
    return int(yaml.safe_load(found)["defaults"]["max_replicas"])


def test_changed_values_roll_the_autoscaler_alone_and_a_rollback_restores_them(installed):
    labeled("off")
    # From the last test on it may be off already: a hold that repeats is not logged again.
    wait_for("a hold", lambda: newest("").get("reason") == "Disabled", told)
    wait_for("the last pod's end", lambda: len(names("--namespace=shop", "pods")) == counts()[0])
    assert maximum() == 20
    before = {each: names("--namespace", each, "pods") for each in OURS}
    config = {"defaults": {"max_replicas": 6}}
    installed.guide.upgrade_autoscaler(config=config, maxMode="shadow")
    wait_for("the old one's end", lambda: not names("--namespace=tailbound", "pods") & before["tailbound"])
    for each in ("monitoring", "shop"):
        assert names("--namespace", each, "pods") == before[each]
    assert (maximum(), may_scale("shop")) == (6, False)
    installed.guide.run("helm rollback slo-autoscaler --namespace tailbound")
    assert (maximum(), may_scale("shop")) == (20, True)
    wait_for("decisions of the new one", lambda: newest(""), told)


def test_value_that_the_schema_refuses_changes_nothing(installed):
    def generation() -> int:
        found = read("--namespace=tailbound", "deployment", "slo-autoscaler")
        return int(found["metadata"]["generation"])

    before = generation()
    with pytest.raises(AssertionError, match="max_replica"):
        installed.guide.upgrade_autoscaler(config={"defaults": {"max_replica": 7}})
    assert generation() == before


def test_rights_in_one_namespace_are_enough_for_its_models(installed):
    before = names("--namespace=tailbound", "pods")
    config = {"platform": {"namespaces": ["shop"]}}
    installed.guide.upgrade_autoscaler(maxMode="active", config=config)
    wait_for("the old one's end", lambda: not names("--namespace=tailbound", "pods") & before)
    assert may_scale("shop")
    assert not may_scale("default")
    labeled("recommend")
    wait_for("decisions of the new one", lambda: newest("").get("mode") == "recommend", told)
    assert "status 403" not in told()


def test_keda_gives_the_recommended_count(installed):
    if not exists("customresourcedefinition", "scaledobjects.keda.sh"):
        pytest.skip("the cluster has no KEDA")
    policy = {"namespaces": ["monitoring", "keda"]}
    installed.guide.upgrade_autoscaler(maxMode="recommend", networkPolicy=policy)
    bounds = ("tailbound.dev/min-replicas=3", "tailbound.dev/max-replicas=3")
    kubectl("--namespace=shop", "annotate", "--overwrite", "deployment/my-model", *bounds)
    keda = str(installed.guide.clone / "deploy/recommend/keda.yaml")
    kubectl("apply", "--filename", keda)
    try:
        wait_for("the count from KEDA's HPA", lambda: counts() == (3, 3), told)
    finally:
        kubectl("delete", "--filename", keda)


def test_removal_leaves_the_model_and_nothing_of_the_autoscaler(installed):
    before = counts()
    installed.guide.follow("Remove it")
    assert counts() == before
    wait_for("the namespace's end", lambda: not exists("namespace", "tailbound"))
    assert not cluster.left_over()
