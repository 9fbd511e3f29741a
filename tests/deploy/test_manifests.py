"""What is applied to a cluster: it is built of its parts, Kubernetes takes it, and it asks for little."""

import os
import re
import shutil
import subprocess
from collections.abc import Callable
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
POLICY = "ValidatingAdmissionPolicy"
EVERYWHERE = {"Namespace", "ClusterRole", "ClusterRoleBinding", POLICY, f"{POLICY}Binding"}
KUBERNETES = ["1.30", "1.34"]

Document = dict[str, Any]
Built = Callable[[str], list[Document]]


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


@pytest.mark.parametrize("base", NAMESPACES)
def test_secret_of_the_how_to_is_mounted_where_its_configuration_looks(base: str, tmp_path: Path):
    page = (ROOT / "docs/howto/prometheus.md").read_text()
    (settings,) = (
        found
        for block in blocks(page)
        if block.language == "yaml" and "prometheus" in (found := yaml.safe_load(block.text))
    )
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
def test_manifest_is_what_kustomize_builds_of_its_parts(name: str):
    lines = (DEPLOY / MANIFESTS[name]).read_text().splitlines(keepends=True)
    assert "".join(line for line in lines if not line.startswith("#")) == text_built(name), (
        "run deploy/render.sh"
    )


def test_prometheus_rule_has_every_group_of_the_rules():
    made = yaml.safe_load((DEPLOY / "prometheus/prometheus-rule.yaml").read_text())
    files = sorted((DEPLOY / "prometheus/rules").glob("*.yml"))
    groups = [group for path in files for group in yaml.safe_load(path.read_text())["groups"]]
    assert made["spec"] == {"groups": groups}, "run deploy/render.sh"


@pytest.mark.parametrize("version", KUBERNETES)
def test_manifest_has_no_field_that_kubernetes_does_not_know(documents: list[Document], version: str):
    for document in documents:
        kubernetes_validate.validate(document, version, strict=True)
    unknown = only(documents, "Service") | {"specs": {}}
    with pytest.raises(kubernetes_validate.ValidationError, match="specs"):
        kubernetes_validate.validate(unknown, version, strict=True)


def test_manifest_stays_in_one_namespace_but_for_knatives_own_settings(
    documents: list[Document], kustomization: str
):
    assert all("namespace" not in each["metadata"] for each in documents if each["kind"] in EVERYWHERE)
    elsewhere = {
        (each["kind"], each["metadata"]["namespace"])
        for each in documents
        if each["kind"] not in EVERYWHERE and each["metadata"]["namespace"] != NAMESPACES[kustomization]
    }
    knatives = {("Role", "knative-serving"), ("RoleBinding", "knative-serving")}
    assert elsewhere == (knatives if "knative" in kustomization else set())
    # kubectl delete would take a namespace along, and OpenFaaS is in its own.
    own = {each["metadata"]["name"] for each in documents if each["kind"] == "Namespace"}
    assert own == ({NAMESPACES[kustomization]} if kustomization != "openfaas" else set())


def test_installs_beside_each_other_in_one_cluster_share_no_object():
    objects = [
        (each["kind"], each["metadata"].get("namespace"), each["metadata"]["name"])
        for kustomization in NAMESPACES
        for each in applied(kustomization)
    ]
    assert len(objects) == len(set(objects))


def test_binding_is_of_a_role_that_is_there_to_the_account_of_the_pod(documents: list[Document]):
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


@pytest.mark.parametrize(
    ("kustomization", "resource", "refused"),
    [
        ("kubernetes", "deployments/scale", ("tailbound.dev/mode", "NotIn", ["active", ""])),
        ("knative/class", "deployments/scale", ("serving.knative.dev/revision", "DoesNotExist", None)),
        ("knative/floor", "revisions", None),
    ],
)
def test_policy_limits_the_account_of_the_pod_where_its_role_cannot(
    kustomization: str, resource: str, refused: tuple[str, str, list[str] | None] | None
):
    documents = applied(kustomization)
    policies = [*yaml.safe_load_all((DEPLOY / kustomization / "policy.yaml").read_text())]
    policy, binding = only(policies, POLICY), only(policies, f"{POLICY}Binding")
    # Kubernetes loses sight of Deployments as parameters when such a policy is deleted: those are optional.
    assert any(each["kind"] == POLICY for each in documents) == (refused is None)
    for each in policies:
        kubernetes_validate.validate(each, KUBERNETES[-1], strict=True)
    account = only(documents, "ServiceAccount")["metadata"]
    user = f"system:serviceaccount:{account['namespace']}:{account['name']}"
    (condition,) = policy["spec"]["matchConditions"]
    assert condition["expression"] == f'request.userInfo.username == "{user}"'
    (rule,) = policy["spec"]["matchConstraints"]["resourceRules"]
    assert (rule["resources"], rule["operations"]) == ([resource], ["UPDATE"])
    (role,) = [each for each in documents if each["kind"] == "ClusterRole"]
    assert any(resource in allowed["resources"] for allowed in role["rules"])
    assert policy["spec"]["failurePolicy"] == "Fail"
    assert binding["spec"]["policyName"] == policy["metadata"]["name"]
    assert binding["spec"]["validationActions"] == ["Deny"]
    if refused is not None:
        # Each parameter must agree, and those are the Deployments that are not to be scaled.
        (match,) = binding["spec"]["paramRef"]["selector"]["matchExpressions"]
        assert (match["key"], match["operator"], match.get("values")) == refused
        assert binding["spec"]["paramRef"]["parameterNotFoundAction"] == "Allow"


def test_policy_of_the_floor_allows_the_annotations_that_it_writes():
    (own, *_) = only(applied("knative/floor"), POLICY)["spec"]["variables"]
    assert own["name"] == "writable"
    assert yaml.safe_load(own["expression"]) == [minimum.MIN_SCALE, minimum.APPLIED, minimum.ORIGINAL]


def test_configuration_is_accepted_and_shows_every_key_of_its_platform(
    documents: list[Document], kustomization: str
):
    config = configuration(documents)
    kind, _, mode = kustomization.partition("/")
    assert config.platform.kind == kind
    shown = yaml.safe_load(only(documents, "ConfigMap")["data"]["config.yaml"])["platform"]
    assert set(shown) == {each.name for each in fields(config.platform)}
    if kind != "openfaas":  # whose URL and credentials have no default
        assert config.platform == replace(type(config.platform)(), **({"mode": mode} if mode else {}))
    assert not config.functions, "a name in it may be a function of the user"


def test_changed_configuration_has_another_name_so_the_deployment_rolls_and_keeps_the_old_one(
    documents: list[Document],
):
    config = only(documents, "ConfigMap")
    assert re.fullmatch(r"slo-autoscaler-config-[a-z0-9]{10}", config["metadata"]["name"])
    # An edit in place would have no effect until the next restart.
    assert config["immutable"] is True


def test_role_names_the_lease_that_the_configuration_asks_for(documents: list[Document]):
    leader = configuration(documents).leader
    assert leader is not None
    rules = only(documents, "Role", "slo-autoscaler-lease")["rules"]
    assert [rule["resourceNames"] for rule in rules if "resourceNames" in rule] == [[leader.lease.name]]
    assert leader.lease.namespace is None, "the role is in the pod's own namespace"


def test_pod_has_no_root_no_capability_and_nothing_to_write_to(documents: list[Document]):
    context = pod(documents)["spec"]["securityContext"]
    assert context["runAsNonRoot"]
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    user = re.search(r"^USER (.*)$", (ROOT / "autoscaler/Dockerfile").read_text(), re.MULTILINE)
    assert user
    assert user[1] == f"{context['runAsUser']}:{context['runAsGroup']}"
    assert container(documents)["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert all(mount["readOnly"] for mount in container(documents)["volumeMounts"])
    # The variables of a Service's link would pass for settings.
    assert pod(documents)["spec"]["enableServiceLinks"] is False


def test_replacement_comes_before_its_predecessor_goes(documents: list[Document]):
    spec = only(documents, "Deployment")["spec"]
    assert spec["replicas"] == 1
    assert spec["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}


def test_drain_takes_one_of_two_and_two_prefer_two_nodes(documents: list[Document]):
    budget = only(documents, "PodDisruptionBudget")["spec"]
    # minAvailable: 1 would block the drain of a node with the only one.
    assert budget["maxUnavailable"] == 1
    (spread,) = pod(documents)["spec"]["topologySpreadConstraints"]
    assert spread["whenUnsatisfiable"] == "ScheduleAnyway"
    for selector in (budget["selector"], spread["labelSelector"]):
        assert selector["matchLabels"].items() <= pod(documents)["metadata"]["labels"].items()


def test_network_policy_lets_prometheus_in_and_to_the_metrics_alone(documents: list[Document]):
    policy = only(documents, "NetworkPolicy")["spec"]
    assert policy["podSelector"]["matchLabels"].items() <= pod(documents)["metadata"]["labels"].items()
    assert policy["policyTypes"] == ["Ingress"], "egress is to where the configuration says"
    (rule,) = policy["ingress"]
    assert rule["ports"] == [{"port": "metrics"}]
    # Of the charts prometheus-community and kube-prometheus-stack, and of OpenFaaS' own.
    assert [each["podSelector"]["matchLabels"] for each in rule["from"]] == [
        {"app.kubernetes.io/name": "prometheus"},
        {"app": "prometheus"},
    ]


def test_probes_service_and_scrapes_reach_the_port_of_the_configuration(documents: list[Document]):
    web = configuration(documents).web
    ports = {"metrics": web.port, "probes": web.probe_port}
    assert container(documents)["ports"] == [
        {"name": name, "containerPort": port} for name, port in ports.items()
    ]
    for probe in ("livenessProbe", "readinessProbe"):
        assert container(documents)[probe]["httpGet"] == {"path": "/healthz", "port": "probes"}
    service, deployment = only(documents, "Service")["spec"], only(documents, "Deployment")["spec"]
    assert service["ports"] == [{"name": "metrics", "port": web.port, "targetPort": "metrics"}]
    metadata = pod(documents)["metadata"]
    assert metadata["annotations"]["prometheus.io/port"] == str(web.port)
    for selector in (service["selector"], deployment["selector"]["matchLabels"]):
        assert selector.items() <= metadata["labels"].items()


def test_files_that_are_read_are_mounted_and_credentials_are_the_pods_alone(
    documents: list[Document], kustomization: str
):
    mounts = {mount["name"]: mount["mountPath"] for mount in container(documents)["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in pod(documents)["spec"]["volumes"]}
    assert volumes["config"]["configMap"]["name"] == only(documents, "ConfigMap")["metadata"]["name"]
    assert container(documents)["args"] == ["--config", f"{mounts['config']}/config.yaml"]
    assert ("gateway-credentials" in mounts) == (kustomization == "openfaas")
    if kustomization == "openfaas":
        auth = configuration(documents).platform.basic_auth
        # The keys of the chart's secret become the names of the files.
        folder = mounts["gateway-credentials"]
        assert auth
        assert [auth.user_file, auth.password_file] == [
            f"{folder}/basic-auth-{each}" for each in ("user", "password")
        ]
        secret = volumes["gateway-credentials"]["secret"]
        assert (secret["secretName"], secret["defaultMode"]) == ("basic-auth", 0o440)
        context = pod(documents)["spec"]["securityContext"]
        assert context["fsGroup"] == context["runAsGroup"]


def test_version_is_the_distributions_everywhere(documents: list[Document]):
    assert container(documents)["image"] == f"ghcr.io/tailbound/slo-autoscaler:{__version__}"
    for metadata in (only(documents, "Deployment")["metadata"], pod(documents)["metadata"]):
        assert metadata["labels"]["app.kubernetes.io/version"] == __version__
    assert f"\nARG VERSION={__version__}\n" in (ROOT / "autoscaler/Dockerfile").read_text()


def test_sample_for_knative_is_the_stacks_function_and_fits_the_watchdog():
    template = yaml.safe_load((DEPLOY / "knative/tabular.yaml").read_text())["spec"]["template"]
    (sample,) = template["spec"]["containers"]
    environ = {each["name"]: each["value"] for each in sample["env"]}
    stack = yaml.safe_load((ROOT / "stack.yml").read_text())["functions"]["tabular"]
    assert stack["environment"].items() <= environ.items()
    assert sample["resources"] == {key: stack[key] for key in ("requests", "limits")}
    (port,) = sample["ports"]
    config = WatchdogConfig.from_env(environ | {"PORT": str(port["containerPort"])}, cpus=2.0)
    assert config.port == port["containerPort"]
    annotations = template["metadata"]["annotations"]
    assert annotations["prometheus.io/port"] == str(config.metrics_port)
    assert annotations["autoscaling.knative.dev/class"] == "slo.tailbound.dev"
    # Knative refuses the way back to its own class where a metric of another is set.
    assert "autoscaling.knative.dev/metric" not in annotations
    stop = config.healthcheck_interval + config.drain_timeout + 3
    assert template["spec"]["timeoutSeconds"] > stop
    context = sample["securityContext"]
    assert (context["readOnlyRootFilesystem"], context["runAsNonRoot"]) == (True, True)
    assert [mount["mountPath"] for mount in sample["volumeMounts"]] == ["/tmp"]


@pytest.mark.parametrize("version", KUBERNETES)
def test_model_of_the_guide_is_found_by_its_service_and_left_without_a_count(version: str):
    deployment, service = yaml.safe_load_all((DEPLOY / "kubernetes/my-model.yaml").read_text())
    for document in (deployment, service):
        kubernetes_validate.validate(document, version, strict=True)
    assert "replicas" not in deployment["spec"]
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"] == deployment["spec"]["selector"]["matchLabels"] == labels
    environ = {each["name"]: each["value"] for each in container([deployment])["env"]}
    config = WatchdogConfig.from_env(environ, cpus=2.0)
    assert str(config.metrics_port) == pod_annotations(deployment)["tailbound.dev/metrics-port"]
    assert container([deployment])["ports"] == [{"containerPort": config.port}]


def pod_annotations(deployment: Document) -> dict[str, str]:
    found: dict[str, str] = deployment["spec"]["template"]["metadata"]["annotations"]
    return found


def differing(component: str, base: str, folder: Path) -> list[tuple[Document, Document]]:
    """Return what a component makes otherwise: (document, the one of its base)."""
    to = {name: os.path.relpath(DEPLOY / name, folder.resolve()) for name in (component, base)}
    kustomization = {"resources": [to[base]], "components": [to[component]]}
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    ours, theirs = ([*yaml.safe_load_all(text_built(each))] for each in (str(folder), base))
    return [(one, other) for one, other in zip(ours, theirs, strict=True) if one != other]


def environment(deployment: Document) -> dict[str, str]:
    return {each["name"]: each["value"] for each in container([deployment]).get("env", [])}


def test_recommend_installs_the_same_without_the_right_to_change_anything(tmp_path: Path):
    (role, active), (deployment, _) = differing("recommend", "kubernetes", tmp_path)
    assert role["kind"] == active["kind"] == "ClusterRole"
    assert {verb for rule in role["rules"] for verb in rule["verbs"]} == {"get", "list", "watch"}
    assert all(rule in active["rules"] for rule in role["rules"])
    assert environment(deployment) == {"SLO_AUTOSCALER_MAX_MODE": "recommend"}
    kubernetes_validate.validate(deployment, KUBERNETES[-1], strict=True)


def test_shadow_installs_the_same_beside_openfaas_own_scaler_and_prometheus(tmp_path: Path):
    ((deployment, active),) = differing("shadow", "openfaas", tmp_path)
    mounts = [container([each])["volumeMounts"] for each in (deployment, active)]
    assert mounts[0] == mounts[1], "with the gateway's credentials"
    environ = environment(deployment)
    assert environ["SLO_AUTOSCALER_MAX_MODE"] == "shadow"
    name = environ["SLO_AUTOSCALER_PROMETHEUS_URL"].removeprefix("http://").partition(".")[0]
    guide = (ROOT / "docs/howto/shadow.md").read_text()
    assert f"helm upgrade {name} " in guide
    assert f"server.fullnameOverride={name} " in guide


RECOMMEND = DEPLOY / "recommend"
FUNCTION = 'function_name="my-model.shop"'


@pytest.mark.parametrize("version", KUBERNETES)
def test_hpa_gives_the_count_that_is_exported_and_does_not_wait(version: str):
    hpa = yaml.safe_load((RECOMMEND / "hpa.yaml").read_text())
    kubernetes_validate.validate(hpa, version, strict=True)
    spec = hpa["spec"]
    (metric,) = spec["metrics"]
    assert metric["external"]["target"] == {"type": "AverageValue", "averageValue": "1"}
    selector = metric["external"]["metric"]["selector"]["matchLabels"]
    assert selector == {"function_name": f"{spec['scaleTargetRef']['name']}.{hpa['metadata']['namespace']}"}
    assert {each["stabilizationWindowSeconds"] for each in spec["behavior"].values()} == {0}


def test_adapter_serves_the_metric_of_the_hpa_by_one_series():
    hpa = yaml.safe_load((RECOMMEND / "hpa.yaml").read_text())
    (rule,) = yaml.safe_load((RECOMMEND / "prometheus-adapter.yaml").read_text())["rules"]["external"]
    name = hpa["spec"]["metrics"][0]["external"]["metric"]["name"]
    assert rule["seriesQuery"].partition("{")[0] == name
    assert rule["metricsQuery"].startswith("max by (function_name) (")
    assert rule["resources"] == {"namespaced": False}


def test_keda_makes_the_same_hpa_and_takes_no_sample_for_no_number():
    hpa = yaml.safe_load((RECOMMEND / "hpa.yaml").read_text())["spec"]
    scaled = yaml.safe_load((RECOMMEND / "keda.yaml").read_text())["spec"]
    assert scaled["advanced"]["horizontalPodAutoscalerConfig"]["behavior"] == hpa["behavior"]
    assert (scaled["minReplicaCount"], scaled["maxReplicaCount"]) == (hpa["minReplicas"], hpa["maxReplicas"])
    (trigger,) = scaled["triggers"]
    assert (trigger["metricType"], trigger["metadata"]["threshold"]) == ("AverageValue", "1")
    assert trigger["metadata"]["ignoreNullValues"] == "false"
    assert f"slo_autoscaler_desired_replicas{{{FUNCTION}}}" in trigger["metadata"]["query"]
