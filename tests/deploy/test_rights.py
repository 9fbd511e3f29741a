"""What the roles allow is what the code asks for: enough, and no more."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from autoscaler.doubles import status, until
from autoscaler.kube_server import KubeServer, a_deployment, a_kube_server
from slo_autoscaler.kube.client import KubeApi
from slo_autoscaler.kube.lease import LeaseLeader, lease_timeout
from slo_autoscaler.kube.lease_rules import Settings as LeaseSettings
from slo_autoscaler.leader import Alone
from slo_autoscaler.platforms.kubernetes import Kubernetes
from slo_autoscaler.platforms.kubernetes import Settings as KubernetesSettings

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"


def rules(manifest: str, kind: str, name: str) -> list[dict[str, Any]]:
    documents = yaml.safe_load_all((DEPLOY / manifest).read_text())
    (role,) = [each for each in documents if each["kind"] == kind and each["metadata"]["name"] == name]
    found: list[dict[str, Any]] = role["rules"]
    return found


def allowed(found: list[dict[str, Any]]) -> set[tuple[str, str, str]]:
    """Every (verb, group, resource) of some rules."""
    return {
        (verb, group, resource)
        for rule in found
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


@pytest.fixture
def server() -> Iterator[KubeServer]:
    with a_kube_server() as double:
        yield double


def test_the_platform_kubernetes_asks_for_all_that_its_role_allows_and_for_nothing_else(
    server: KubeServer, tmp_path: Path
):
    role = rules("autoscaler-kubernetes.yaml", "ClusterRole", "slo-autoscaler")
    server.rules = role
    server.put("apps/v1", "deployments", a_deployment(autoscale="true"))
    platform = Kubernetes(KubernetesSettings(kubeconfig=server.kubeconfig(tmp_path), timeout=5.0), Alone())
    try:
        assert platform.scales()["web.shop"].desired == 2
        until(lambda: server.watches() == 2, "both kinds are watched")
        platform.scale("web.shop")
        for count in (3, 2, 3):
            platform.set_scale("web.shop", count)
        until(
            lambda: any(call[:3] == ("patch", "", "events") for call in server.calls),
            "an event is counted up",
        )
        # The status changes, and the watch does not tell of it: the version that is written from is stale.
        server.faults["GET /apis/apps/v1/deployments"] = status(503)
        server.end_watches()
        until(lambda: not server.watches("deployments"), "nothing is watched")
        stale = server.get("apps/v1", "deployments", "shop", "web")
        server.put("apps/v1", "deployments", {**stale, "status": {"readyReplicas": 1}})
        platform.set_scale("web.shop", 4)
    finally:
        platform.close()
    assert server.verbs() == allowed(role)


@pytest.mark.parametrize("manifest", ["autoscaler.yaml", "autoscaler-kubernetes.yaml"])
def test_a_leader_asks_for_all_that_its_role_allows_and_for_nothing_else(
    server: KubeServer, tmp_path: Path, manifest: str
):
    role = rules(manifest, "Role", "slo-autoscaler-lease")
    server.rules = role
    config = LeaseSettings(duration=15.0, renew_interval=0.05)
    api = KubeApi(server.kubeconfig(tmp_path), timeout=lease_timeout(config.duration), connections=1)
    leader = LeaseLeader(api, config)
    try:
        assert leader.leads()
        until(lambda: any(call.verb == "update" for call in server.calls), "it is renewed")
    finally:
        leader.close()
    assert server.verbs() == allowed(role)
    assert {call.name for call in server.calls} == {"", config.name}, "the rule names this lease and no other"
