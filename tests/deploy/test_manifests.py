"""What is applied to a cluster: it is built of its parts, Kubernetes takes it, and it asks for little."""

import os
import re
import shutil
import subprocess
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from batching_watchdog.config import Config as WatchdogConfig
from docs.pages import blocks
from slo_autoscaler import __version__
from slo_autoscaler.config import Config
from slo_autoscaler.platforms.knative import minimum

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
MANIFESTS = {"openfaas": "autoscaler.yaml", "kubernetes": "autoscaler-kubernetes.yaml"}
"""Kustomization -> what deploy/render.sh makes of it."""
NAMESPACES = {
    "openfaas": "openfaas",
    "kubernetes": "tailbound",
    "knative/class": "tailbound-knative",
    "knative/floor": "tailbound-knative-floor",
}
"""Kustomization -> where the autoscaler is."""
COMPONENTS = ("autoscaler", "shadow", "prometheus")
"""The how-to page that writes a kustomization, and pages that add a component to it."""
KUBERNETES = ["1.30", "1.34"]
POLICY = "ValidatingAdmissionPolicy"

Document = dict[str, Any]


def text_built(kustomization: str) -> str:
    command = next(
        (each for each in (["kustomize", "build"], ["kubectl", "kustomize"]) if shutil.which(each[0])), None
    )
    if command is None:
        pytest.skip("neither kustomize nor kubectl is on PATH")
    done = subprocess.run(
        [*command, DEPLOY / kustomization], capture_output=True, text=True, timeout=50, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module", params=NAMESPACES)
def kustomization(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def applied(kustomization: str) -> list[Document]:
    """What is applied."""
    manifest = MANIFESTS.get(kustomization)
    text = (DEPLOY / manifest).read_text() if manifest else text_built(kustomization)
    return [each for each in yaml.safe_load_all(text) if each]


@pytest.fixture(scope="module")
def documents(kustomization: str) -> list[Document]:
    return applied(kustomization)


def known_to_kubernetes(*documents: Document) -> None:
    """Fail on a field that a version of Kubernetes does not know."""
    for document in documents:
        for version in KUBERNETES:
            kubernetes_validate.validate(document, version, strict=True)


def only(documents: list[Document], kind: str, name: str | None = None) -> Document:
    (found,) = [
        each for each in documents if each["kind"] == kind and name in (None, each["metadata"]["name"])
    ]
    return found


def pod(documents: list[Document]) -> Document:
    template: Document = only(documents, "Deployment")["spec"]["template"]
    return template


def container(documents: list[Document]) -> Document:
    (found,) = pod(documents)["spec"]["containers"]
    assert isinstance(found, dict)
    return found


def configuration(documents: list[Document]) -> Config:
    return Config.parse(only(documents, "ConfigMap")["data"]["config.yaml"], "config.yaml")


def settings_of_the_how_to() -> tuple[str, Document]:
    """Return the page on Prometheus' credentials, and the settings that it gives."""
    page = (ROOT / "docs/howto/prometheus.md").read_text()
    (settings,) = (
        found
        for block in blocks(page)
        if block.language == "yaml" and "prometheus" in (found := yaml.safe_load(block.text))
    )
    return page, settings


@pytest.mark.parametrize("base", NAMESPACES)
def test_secret_of_the_how_to_is_mounted_where_its_configuration_looks(base, tmp_path):
    page, settings = settings_of_the_how_to()
    ((deployment, _),) = differing("credentials", base, tmp_path)
    (mount,) = [each for each in container([deployment])["volumeMounts"] if "prometheus" in each["name"]]
    (volume,) = [each for each in pod([deployment])["spec"]["volumes"] if each["name"] == mount["name"]]
    config = Config.parse(yaml.safe_dump({"platform": {"kind": "kubernetes"}, **settings}), "page")
    for path in (config.prometheus.bearer_token_file, config.prometheus.tls.ca_file):
        assert path is not None
        assert Path(path).parent == Path(mount["mountPath"])
        assert f"--from-file={Path(path).name}" in page
    assert f"create secret generic {volume['secret']['secretName']}" in page


@pytest.mark.parametrize("name", MANIFESTS)
def test_manifest_is_what_kustomize_builds_of_its_parts(name):
    lines = (DEPLOY / MANIFESTS[name]).read_text().splitlines(keepends=True)
    assert "".join(line for line in lines if not line.startswith("#")) == text_built(name), (
        "run deploy/render.sh"
    )


def test_prometheus_rule_has_every_group_of_the_rules():
    made = yaml.safe_load((DEPLOY / "prometheus/prometheus-rule.yaml").read_text())
    files = sorted((DEPLOY / "prometheus/rules").glob("*.yml"))
    groups = [group for path in files for group in yaml.safe_load(path.read_text())["groups"]]
    assert made["spec"] == {"groups": groups}, "run deploy/render.sh"


def test_binding_is_of_a_role_that_is_there_to_the_account_of_the_pod(documents):
    account = only(documents, "ServiceAccount", pod(documents)["spec"]["serviceAccountName"])
    assert account["automountServiceAccountToken"] is False, "no other pod gets its token"
    assert pod(documents)["spec"]["automountServiceAccountToken"] is True
    bindings = [each for each in documents if each["kind"].endswith("RoleBinding")]
    roles = [each for each in documents if each["kind"].endswith("Role")]
    assert len(bindings) == len(roles) > 0
    for binding in bindings:
        role = only(documents, binding["roleRef"]["kind"], binding["roleRef"]["name"])
        assert role["metadata"].get("namespace") == binding["metadata"].get("namespace")
        (subject,) = binding["subjects"]
        assert (subject["kind"], subject["name"]) == ("ServiceAccount", account["metadata"]["name"])
        assert subject["namespace"] == account["metadata"]["namespace"]


def test_policy_of_the_floor_allows_the_annotations_that_it_writes():
    (own, *_) = only(applied("knative/floor"), POLICY)["spec"]["variables"]
    assert own["name"] == "writable"
    assert yaml.safe_load(own["expression"]) == [minimum.MIN_SCALE, minimum.APPLIED, minimum.ORIGINAL]


def test_configuration_is_accepted_and_shows_every_key_of_its_platform(documents, kustomization):
    config = configuration(documents)
    kind, _, mode = kustomization.partition("/")
    assert config.platform.kind == kind
    shown = yaml.safe_load(only(documents, "ConfigMap")["data"]["config.yaml"])["platform"]
    assert set(shown) == {each.name for each in fields(config.platform)}
    if kind != "openfaas":  # whose URL and credentials have no default
        assert config.platform == replace(type(config.platform)(), **({"mode": mode} if mode else {}))
    assert not config.functions, "a name in it may be a function of the user"


def differing(component: str, base: str, folder: Path) -> list[tuple[Document, Document]]:
    """Return what a component makes otherwise: (document, the one of its base)."""
    to = {name: os.path.relpath(DEPLOY / name, folder.resolve()) for name in (component, base)}
    kustomization = {"resources": [to[base]], "components": [to[component]]}
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    ours, theirs = ([*yaml.safe_load_all(text_built(each))] for each in (str(folder), base))
    return [(one, other) for one, other in zip(ours, theirs, strict=True) if one != other]


def environment(it: Document) -> dict[str, str]:
    """Return the environment of a container."""
    return {each["name"]: each["value"] for each in it.get("env", [])}


def test_recommend_installs_the_same_without_the_right_to_change_anything(tmp_path):
    (role, active), (deployment, _) = differing("recommend", "kubernetes", tmp_path)
    assert role["kind"] == active["kind"] == "ClusterRole"
    assert {verb for rule in role["rules"] for verb in rule["verbs"]} == {"get", "list", "watch"}
    assert all(rule in active["rules"] for rule in role["rules"])
    assert environment(container([deployment])) == {"SLO_AUTOSCALER_MAX_MODE": "recommend"}
    known_to_kubernetes(deployment)


def test_shadow_installs_the_same_beside_openfaas_own_scaler_and_prometheus(tmp_path):
    ((deployment, active),) = differing("shadow", "openfaas", tmp_path)
    mounts = [container([each])["volumeMounts"] for each in (deployment, active)]
    assert mounts[0] == mounts[1], "with the gateway's credentials"
    environ = environment(container([deployment]))
    assert environ["SLO_AUTOSCALER_MAX_MODE"] == "shadow"
    name = environ["SLO_AUTOSCALER_PROMETHEUS_URL"].removeprefix("http://").partition(".")[0]
    guide = (ROOT / "docs/howto/shadow.md").read_text()
    assert f"helm upgrade {name} " in guide
    assert f"server.fullnameOverride={name} " in guide


def test_components_of_two_guides_in_one_kustomization_both_count(tmp_path):
    (tmp_path / "deploy").symlink_to(DEPLOY)
    guides = {name: (ROOT / f"docs/howto/{name}.md").read_text() for name in COMPONENTS}
    (write,) = (block.text for block in blocks(guides["autoscaler"]) if "<<END" in block.text)
    lines = re.findall(r"^ *(echo .*) >>install/", "\n".join(guides.values()), re.MULTILINE)
    assert len(lines) == len(COMPONENTS) - 1
    script = "".join(f"{line} >>install/openfaas/kustomization.yaml\n" for line in lines)
    variables = "platform=openfaas base=openfaas namespace=openfaas\n"
    subprocess.run(["sh", "-euc", variables + write + script], cwd=tmp_path, check=True)
    it = container([*yaml.safe_load_all(text_built(str(tmp_path / "install/openfaas")))])
    assert environment(it)["SLO_AUTOSCALER_MAX_MODE"] == "shadow"
    assert "/var/secrets/prometheus" in [each["mountPath"] for each in it["volumeMounts"]]


def test_manifest_has_no_field_that_kubernetes_does_not_know(documents):
    known_to_kubernetes(*documents)


def test_installs_beside_each_other_in_one_cluster_share_no_object():
    objects = {
        kustomization: [
            (each["kind"], each["metadata"].get("namespace"), each["metadata"]["name"])
            for each in applied(kustomization)
        ]
        for kustomization in NAMESPACES
    }
    every = [each for found in objects.values() for each in found]
    assert len(every) == len(set(every))
    # kubectl delete would take a namespace along, and OpenFaaS is in its own.
    assert not [each for each in objects["openfaas"] if each[0] == "Namespace"]


@pytest.mark.parametrize(
    ("kustomization", "resource", "refused"),
    [
        ("kubernetes", "deployments/scale", ("tailbound.dev/mode", "NotIn", ["active", ""])),
        ("knative/class", "deployments/scale", ("serving.knative.dev/revision", "DoesNotExist", None)),
        ("knative/floor", "revisions", None),
    ],
)
def test_policy_limits_the_account_of_the_pod_where_its_role_cannot(kustomization, resource, refused):
    documents = applied(kustomization)
    policies = [*yaml.safe_load_all((DEPLOY / kustomization / "policy.yaml").read_text())]
    policy, binding = only(policies, POLICY), only(policies, f"{POLICY}Binding")
    # Kubernetes loses sight of Deployments as parameters when such a policy is deleted: those are optional.
    assert any(each["kind"] == POLICY for each in documents) == (refused is None)
    known_to_kubernetes(*policies)
    account = only(documents, "ServiceAccount")["metadata"]
    user = f"system:serviceaccount:{account['namespace']}:{account['name']}"
    (condition,) = policy["spec"]["matchConditions"]
    assert condition["expression"] == f'request.userInfo.username == "{user}"'
    (rule,) = policy["spec"]["matchConstraints"]["resourceRules"]
    assert rule["resources"] == [resource]
    assert any(resource in allowed["resources"] for allowed in only(documents, "ClusterRole")["rules"])
    assert binding["spec"]["policyName"] == policy["metadata"]["name"]
    if refused is not None:
        # Each parameter must agree, and those are the Deployments that are not to be scaled.
        (match,) = binding["spec"]["paramRef"]["selector"]["matchExpressions"]
        assert (match["key"], match["operator"], match.get("values")) == refused


def test_selectors_find_the_pod_and_probes_and_scrapes_its_ports(documents):
    deployment, service = only(documents, "Deployment")["spec"], only(documents, "Service")["spec"]
    (spread,) = pod(documents)["spec"]["topologySpreadConstraints"]
    for selector in (
        deployment["selector"]["matchLabels"],
        service["selector"],
        spread["labelSelector"]["matchLabels"],
        only(documents, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        only(documents, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
    ):
        assert selector.items() <= pod(documents)["metadata"]["labels"].items()
    web = configuration(documents).web
    ports = {each["name"]: each["containerPort"] for each in container(documents)["ports"]}
    assert ports == {"metrics": web.port, "probes": web.probe_port}
    assert service["ports"] == [{"name": "metrics", "port": web.port, "targetPort": "metrics"}]
    assert pod(documents)["metadata"]["annotations"]["prometheus.io/port"] == str(web.port)
    (rule,) = only(documents, "NetworkPolicy")["spec"]["ingress"]
    assert rule["ports"] == [{"port": "metrics"}], "the probes are the kubelet's alone"
    for probe in ("livenessProbe", "readinessProbe"):
        assert container(documents)[probe]["httpGet"] == {"path": "/healthz", "port": "probes"}


def test_pod_has_no_root_no_capability_and_nothing_to_write_to(documents):
    context, own = pod(documents)["spec"]["securityContext"], container(documents)["securityContext"]
    assert context["runAsNonRoot"]
    assert own["readOnlyRootFilesystem"]
    assert own["capabilities"] == {"drop": ["ALL"]}
    assert all(mount["readOnly"] for mount in container(documents)["volumeMounts"])
    user = f"USER {context['runAsUser']}:{context['runAsGroup']}"
    assert user in (ROOT / "autoscaler/Dockerfile").read_text().splitlines()


def test_version_is_the_distributions_everywhere(documents):
    assert container(documents)["image"] == f"ghcr.io/tailbound/slo-autoscaler:{__version__}"
    assert pod(documents)["metadata"]["labels"]["app.kubernetes.io/version"] == __version__
    assert f"\nARG VERSION={__version__}\n" in (ROOT / "autoscaler/Dockerfile").read_text()


def test_sample_for_knative_is_the_stacks_function_and_fits_the_watchdog():
    template = yaml.safe_load((DEPLOY / "knative/tabular.yaml").read_text())["spec"]["template"]
    (sample,) = template["spec"]["containers"]
    environ = environment(sample)
    stack = yaml.safe_load((ROOT / "stack.yml").read_text())["functions"]["tabular"]
    assert stack["environment"].items() <= environ.items()
    assert sample["resources"] == {key: stack[key] for key in ("requests", "limits")}
    (port,) = sample["ports"]
    config = WatchdogConfig.from_env(environ | {"PORT": str(port["containerPort"])}, cpus=2.0)
    annotations = template["metadata"]["annotations"]
    assert annotations["prometheus.io/port"] == str(config.metrics_port)
    # Knative refuses the way back to its own class where a metric of another is set.
    assert "autoscaling.knative.dev/metric" not in annotations
    stop = config.healthcheck_interval + config.drain_timeout + 3
    assert template["spec"]["timeoutSeconds"] > stop


def test_hpa_adapter_and_keda_are_about_the_count_that_is_exported_of_one_function():
    folder = DEPLOY / "recommend"
    hpa, scaled, adapter = (
        yaml.safe_load((folder / name).read_text())
        for name in ("hpa.yaml", "keda.yaml", "prometheus-adapter.yaml")
    )
    known_to_kubernetes(hpa)
    (metric,) = hpa["spec"]["metrics"]
    name, selector = (metric["external"]["metric"][key] for key in ("name", "selector"))
    function = f"{hpa['spec']['scaleTargetRef']['name']}.{hpa['metadata']['namespace']}"
    assert (name, selector["matchLabels"]) == ("slo_autoscaler_desired_replicas", {"function_name": function})
    (rule,) = adapter["rules"]["external"]
    assert rule["seriesQuery"].partition("{")[0] == name
    (trigger,) = scaled["spec"]["triggers"]
    assert f'{name}{{function_name="{function}"}}' in trigger["metadata"]["query"]
    # No sample is no zero.
    assert trigger["metadata"]["ignoreNullValues"] == "false"
    (one, other) = scaled["spec"], hpa["spec"]
    assert (one["minReplicaCount"], one["maxReplicaCount"]) == (other["minReplicas"], other["maxReplicas"])
    assert one["advanced"]["horizontalPodAutoscalerConfig"]["behavior"] == other["behavior"]
