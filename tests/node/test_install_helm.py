"""docs/howto/autoscaler.md with Helm on a real node: install, upgrade, rollback and removal."""

from collections.abc import Iterator

import pytest
import yaml

from node.cluster import REGISTRY, Guide, exists, guide, image_of, kubectl, names, read, wait_for

pytestmark = [pytest.mark.node, pytest.mark.timeout(1800)]

NAMESPACE = "tailbound"
ROLLED_OUT = f"kubectl --namespace {NAMESPACE} rollout status deployment/slo-autoscaler"
ACCOUNT = f"--as=system:serviceaccount:{NAMESPACE}:slo-autoscaler"


@pytest.fixture(scope="module")
def installed(node: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guide]:
    assert not exists("namespace", NAMESPACE), f"namespace {NAMESPACE}: this test makes and deletes it"
    with guide("howto/autoscaler.md", tmp_path_factory.mktemp("node")) as follower:
        try:
            follower.follow("The image")
            (page,) = [each.text for each in follower.blocks("With Helm") if each.language == "yaml"]
            save(follower, yaml.safe_load(page) | {"image": {"repository": f"{REGISTRY}/slo-autoscaler"}})
            upgrade(follower)
            yield follower
        finally:
            follower.run(f"helm uninstall slo-autoscaler --namespace {NAMESPACE} || true")
            kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found")


def values(follower: Guide) -> dict:
    return yaml.safe_load((follower.clone / "values.yaml").read_text())


def save(follower: Guide, values: dict) -> None:
    (follower.clone / "values.yaml").write_text(yaml.safe_dump(values))


def upgrade(follower: Guide, **changed: object) -> None:
    """The page's command, with other values."""
    save(follower, values(follower) | changed)
    (command,) = [each.text for each in follower.blocks("With Helm") if "helm upgrade" in each.text]
    follower.run(f"namespace={NAMESPACE}\n{command}\n{ROLLED_OUT}")


def may_scale() -> bool:
    said = kubectl("auth", "can-i", ACCOUNT, "patch", "deployments", "--subresource=scale", check=False)
    return said.split()[-1] == "yes"


def configuration() -> dict:
    """The configuration that the Deployment's pods mount."""
    template = read(f"--namespace={NAMESPACE}", "deployment", "slo-autoscaler")["spec"]["template"]
    (name,) = [each["configMap"]["name"] for each in template["spec"]["volumes"] if "configMap" in each]
    found = read(f"--namespace={NAMESPACE}", "configmap", name)
    return yaml.safe_load(found["data"]["config.yaml"])


def test_chart_installed_runs_the_image_with_the_values(installed):
    assert image_of(NAMESPACE, "slo-autoscaler") == f"{REGISTRY}/slo-autoscaler:0.2.0"
    assert configuration()["defaults"]["max_replicas"] == 20
    assert may_scale()


def test_upgrade_rolls_the_pods_and_rollback_restores_configuration_and_rights(installed):
    before = names(f"--namespace={NAMESPACE}", "pods")
    config = values(installed)["config"] | {"defaults": {"max_replicas": 7}}
    upgrade(installed, config=config, maxMode="shadow")
    wait_for("the old one's end", lambda: not names(f"--namespace={NAMESPACE}", "pods") & before)
    assert configuration()["defaults"]["max_replicas"] == 7
    assert not may_scale()
    installed.run(f"helm rollback slo-autoscaler --namespace {NAMESPACE} && {ROLLED_OUT}")
    assert configuration()["defaults"]["max_replicas"] == 20
    assert may_scale()


def test_value_that_the_schema_refuses_changes_nothing(installed):
    before = read(f"--namespace={NAMESPACE}", "deployment", "slo-autoscaler")["metadata"]["generation"]
    good = values(installed)
    with pytest.raises(AssertionError, match="max_replica"):
        upgrade(installed, config=good["config"] | {"defaults": {"max_replica": 7}})
    save(installed, good)
    after = read(f"--namespace={NAMESPACE}", "deployment", "slo-autoscaler")["metadata"]["generation"]
    assert after == before


def test_uninstall_leaves_nothing_of_the_autoscaler(installed):
    installed.run(f"helm uninstall slo-autoscaler --namespace {NAMESPACE}")
    wait_for("its end", lambda: not names(f"--namespace={NAMESPACE}", "pods"))
    kinds = "clusterroles,clusterrolebindings,validatingadmissionpolicies,validatingadmissionpolicybindings"
    assert not exists(kinds, "--selector=app.kubernetes.io/part-of=tailbound")
    selected = "--selector=app.kubernetes.io/part-of=tailbound"
    kinds = "deployments,services,configmaps,roles,rolebindings,serviceaccounts,poddisruptionbudgets"
    assert not exists(f"--namespace={NAMESPACE}", kinds, selected)
