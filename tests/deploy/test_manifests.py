"""The install manifest: what it is made of, whether Kubernetes would take it, and that it asks for little."""

import shutil
import subprocess
import tomllib
from dataclasses import fields
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from slo_autoscaler import __version__
from slo_autoscaler.config import Config, KubernetesConfig

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
MANIFEST = DEPLOY / "autoscaler.yaml"
MADE = {MANIFEST: DEPLOY / "openfaas", DEPLOY / "autoscaler-kubernetes.yaml": DEPLOY / "kubernetes"}
"""Manifest -> the kustomization that it is made from."""
KUBERNETES = ["1.30", "1.34"]


def documents(path: Path) -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


def named(kind: str) -> dict[str, Any]:
    (document,) = [each for each in documents(MANIFEST) if each["kind"] == kind]
    return document


def pod() -> dict[str, Any]:
    spec: dict[str, Any] = named("Deployment")["spec"]["template"]["spec"]
    return spec


def container() -> dict[str, Any]:
    (only,) = pod()["containers"]
    return only


def holds(whole: object, part: object) -> bool:
    """True if ``part`` is in ``whole``: kustomize adds keys and entries, and takes none away."""
    if isinstance(part, dict):
        return isinstance(whole, dict) and all(
            key in whole and holds(whole[key], each) for key, each in part.items()
        )
    if isinstance(part, list):
        return isinstance(whole, list) and all(any(holds(one, each) for one in whole) for each in part)
    return whole == part


def kustomize() -> list[str] | None:
    if shutil.which("kustomize"):
        return ["kustomize", "build"]
    return ["kubectl", "kustomize"] if shutil.which("kubectl") else None


@pytest.mark.skipif(kustomize() is None, reason="neither kustomize nor kubectl is on PATH")
@pytest.mark.parametrize("manifest", MADE, ids=lambda path: path.name)
def test_the_manifest_is_what_kustomize_makes_of_the_overlay(manifest: Path):
    command = kustomize()
    assert command is not None
    done = subprocess.run(
        [*command, str(MADE[manifest])], capture_output=True, text=True, timeout=50, check=False
    )
    assert done.returncode == 0, done.stderr
    lines = manifest.read_text().splitlines(keepends=True)
    assert "".join(line for line in lines if not line.startswith("#")) == done.stdout, "run deploy/render.sh"


@pytest.mark.parametrize("name", ["serviceaccount", "lease", "deployment", "service"])
@pytest.mark.parametrize("manifest", MADE, ids=lambda path: path.name)
def test_every_document_of_the_base_is_in_the_manifest(manifest: Path, name: str):
    for part in documents(DEPLOY / f"base/{name}.yaml"):
        assert any(holds(each, part) for each in documents(manifest)), "run deploy/render.sh"


def test_every_patch_of_the_overlay_is_in_the_manifest():
    (patch,) = documents(DEPLOY / "openfaas/gateway-credentials.yaml")
    assert holds(named("Deployment"), patch), "run deploy/render.sh"


def test_the_configuration_in_it_is_the_annotated_one_word_for_word():
    annotated = (DEPLOY / "openfaas/config.yaml").read_text()
    assert named("ConfigMap")["data"] == {"config.yaml": annotated}, "run deploy/render.sh"


def test_the_autoscaler_takes_the_configuration_as_it_stands():
    config = Config.parse(named("ConfigMap")["data"]["config.yaml"], "config.yaml")
    assert config.platform.kind == "openfaas"


@pytest.mark.parametrize("version", KUBERNETES)
@pytest.mark.parametrize("manifest", MADE, ids=lambda path: path.name)
def test_kubernetes_knows_every_field(manifest: Path, version: str):
    for document in documents(manifest):
        kubernetes_validate.validate(document, version, strict=True)


def test_a_field_that_kubernetes_does_not_know_would_be_found():
    deployment = named("Deployment")
    deployment["spec"]["replica"] = 2
    with pytest.raises(kubernetes_validate.ValidationError, match="replica"):
        kubernetes_validate.validate(deployment, KUBERNETES[0], strict=True)


def test_everything_is_in_the_charts_namespace_which_it_neither_makes_nor_takes_along_when_deleted():
    kinds = {document["kind"] for document in documents(MANIFEST)}
    assert kinds == {"ServiceAccount", "Role", "RoleBinding", "ConfigMap", "Deployment", "Service"}
    assert {document["metadata"]["namespace"] for document in documents(MANIFEST)} == {"openfaas"}


def test_for_plain_deployments_everything_is_in_a_namespace_of_its_own():
    found = documents(DEPLOY / "autoscaler-kubernetes.yaml")
    everywhere = {"Namespace", "ClusterRole", "ClusterRoleBinding"}
    assert {each["metadata"]["name"] for each in found if each["kind"] == "Namespace"} == {"tailbound"}
    assert {each["metadata"]["namespace"] for each in found if each["kind"] not in everywhere} == {
        "tailbound"
    }
    assert everywhere <= {each["kind"] for each in found}


def test_it_has_no_rights_but_its_lease_and_no_other_pod_gets_its_token():
    assert [each["kind"] for each in documents(MANIFEST) if "Role" in each["kind"]] == ["Role", "RoleBinding"]
    assert {resource for rule in named("Role")["rules"] for resource in rule["resources"]} == {"leases"}
    assert named("ServiceAccount")["automountServiceAccountToken"] is False
    assert pod()["automountServiceAccountToken"] is True


@pytest.mark.parametrize("manifest", MADE, ids=lambda path: path.name)
def test_every_binding_is_to_the_account_that_the_pod_runs_as_in_its_namespace(manifest: Path):
    found = documents(manifest)
    (deployment,) = [each for each in found if each["kind"] == "Deployment"]
    account = deployment["spec"]["template"]["spec"]["serviceAccountName"]
    roles = {(each["kind"], each["metadata"]["name"]) for each in found if each["kind"].endswith("Role")}
    bindings = [each for each in found if each["kind"].endswith("RoleBinding")]
    assert bindings
    for binding in bindings:
        (subject,) = binding["subjects"]
        assert (subject["kind"], subject["name"]) == ("ServiceAccount", account)
        assert subject["namespace"] == deployment["metadata"]["namespace"]
        assert (binding["roleRef"]["kind"], binding["roleRef"]["name"]) in roles


def test_it_runs_as_no_root_with_nothing_to_write_to_and_no_capability():
    assert pod()["securityContext"]["runAsNonRoot"] is True
    assert pod()["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container()["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert all(mount["readOnly"] for mount in container()["volumeMounts"])


def test_its_user_is_the_images():
    (user,) = [
        line.split()[1]
        for line in (ROOT / "autoscaler/Dockerfile").read_text().splitlines()
        if line.startswith("USER ")
    ]
    context = pod()["securityContext"]
    assert user == f"{context['runAsUser']}:{context['runAsGroup']}"


def test_no_variable_of_a_service_can_pass_for_a_setting():
    assert pod()["enableServiceLinks"] is False


def test_there_is_one_and_two_are_safe_so_that_a_new_one_may_come_before_the_old_one_goes():
    spec = named("Deployment")["spec"]
    assert spec["replicas"] == 1
    assert spec["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
    assert Config.parse(named("ConfigMap")["data"]["config.yaml"], "config.yaml").leader is not None


def test_the_configuration_for_plain_deployments_shows_every_key_of_its_platform_with_its_default():
    text = (DEPLOY / "kubernetes/config.yaml").read_text()
    config = Config.parse(text, "config.yaml")
    assert config.platform == KubernetesConfig()
    assert set(yaml.safe_load(text)["platform"]) == {each.name for each in fields(KubernetesConfig)}
    (shipped,) = [
        each for each in documents(DEPLOY / "autoscaler-kubernetes.yaml") if each["kind"] == "ConfigMap"
    ]
    assert shipped["data"] == {"config.yaml": text}, "run deploy/render.sh"


def test_probes_and_the_service_reach_the_port_that_the_configuration_opens():
    config = Config.parse(named("ConfigMap")["data"]["config.yaml"], "config.yaml")
    assert container()["ports"] == [{"name": "metrics", "containerPort": config.web.port}]
    for probe in ("livenessProbe", "readinessProbe"):
        assert container()[probe]["httpGet"] == {"path": "/healthz", "port": "metrics"}
    (port,) = named("Service")["spec"]["ports"]
    assert port == {"name": "metrics", "port": config.web.port, "targetPort": "metrics"}
    annotations = named("Deployment")["spec"]["template"]["metadata"]["annotations"]
    assert annotations == {"prometheus.io/scrape": "true", "prometheus.io/port": str(config.web.port)}


def test_the_selectors_find_the_pods():
    labels = named("Deployment")["spec"]["template"]["metadata"]["labels"]
    assert holds(labels, named("Service")["spec"]["selector"])
    assert holds(labels, named("Deployment")["spec"]["selector"]["matchLabels"])


def test_the_files_that_the_configuration_names_are_mounted():
    mounts = {mount["name"]: mount["mountPath"] for mount in container()["volumeMounts"]}
    assert container()["args"] == ["--config", f"{mounts['config']}/config.yaml"]
    auth = Config.parse(named("ConfigMap")["data"]["config.yaml"], "config.yaml").platform.basic_auth
    assert auth is not None
    # The keys of the chart's secret become the names of the files.
    assert auth.user_file == f"{mounts['gateway-credentials']}/basic-auth-user"
    assert auth.password_file == f"{mounts['gateway-credentials']}/basic-auth-password"
    volumes = {volume["name"]: volume for volume in pod()["volumes"]}
    assert volumes["gateway-credentials"]["secret"]["secretName"] == "basic-auth"
    assert volumes["config"]["configMap"]["name"] == named("ConfigMap")["metadata"]["name"]


def test_a_group_that_the_pod_has_may_read_the_credentials_and_others_may_not():
    (volume,) = [each for each in pod()["volumes"] if "secret" in each]
    assert volume["secret"]["defaultMode"] == 0o440
    assert pod()["securityContext"]["fsGroup"] == pod()["securityContext"]["runAsGroup"]


def test_image_and_labels_have_the_distributions_version():
    project = tomllib.loads((ROOT / "autoscaler/pyproject.toml").read_text())["project"]
    assert project["version"] == __version__
    assert container()["image"] == f"ghcr.io/tailbound/slo-autoscaler:{__version__}"
    deployment = named("Deployment")
    for labels in (deployment["metadata"]["labels"], deployment["spec"]["template"]["metadata"]["labels"]):
        assert labels["app.kubernetes.io/version"] == __version__
    assert f"\nARG VERSION={__version__}\n" in (ROOT / "autoscaler/Dockerfile").read_text()
