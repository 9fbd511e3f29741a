"""What the chart installs: Kubernetes takes it, its parts fit each other, and it asks for little.

Without helm on PATH its engine renders as a library (helm-python-sdk). Skipped where that has no wheel.
"""

import json
import re
import shutil
import subprocess
import sys
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from deploy.helm import manifests

from slo_autoscaler.config import Config
from slo_autoscaler.kube import BOOST
from slo_autoscaler.kube.pods import REVISION
from slo_autoscaler.platforms.keys import MODE
from support.doubles import exposing
from support.pages import blocks

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
PLATFORMS = tuple(manifests.NAMESPACES)
KUBERNETES = ["1.30", "1.36"]
POLICY = "ValidatingAdmissionPolicy"

Document = dict[str, Any]

RENDERS = bool(shutil.which("helm") or find_spec("helm_python"))
pytestmark = pytest.mark.skipif(
    not RENDERS,
    reason="the chart is not rendered: neither helm nor helm-python-sdk",
)


def rendered(*, release: str = "slo-autoscaler", **values: Any) -> list[Document]:
    namespace = manifests.NAMESPACES[values.get("platform", "openfaas")]
    return [yaml.safe_load(text) for text in manifests.template(values, namespace, release)]


def of_uninstall(**values: Any) -> list[Document]:
    """What an uninstall makes where Helm talks to a cluster."""
    documents = rendered(uninstallHook=True, **values)
    return [each for each in documents if manifests.hook(each) == "pre-delete"]


@pytest.fixture(params=PLATFORMS)
def platform(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def documents(platform: str) -> list[Document]:
    return rendered(platform=platform)


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


def objects(documents: list[Document]) -> set[tuple[str, str, str]]:
    return {
        (each["kind"], each["metadata"].get("namespace", ""), each["metadata"]["name"]) for each in documents
    }


def pod(documents: list[Document]) -> Document:
    template: Document = only(documents, "Deployment")["spec"]["template"]
    return template


def container(documents: list[Document]) -> Document:
    (found,) = pod(documents)["spec"]["containers"]
    assert isinstance(found, dict)
    return found


def configuration(documents: list[Document]) -> Config:
    mounted = pod(documents)["spec"]["volumes"][0]["configMap"]["name"]
    return Config.parse(only(documents, "ConfigMap", mounted)["data"]["config.yaml"], "config.yaml")


def test_manifest_is_the_charts_output(platform):
    committed = yaml.safe_load_all(manifests.path(platform).read_text())
    assert list(committed) == list(yaml.safe_load_all(manifests.manifest(platform))), "run make manifests"


def test_chart_has_no_links_which_flux_would_drop():
    assert not [path for path in manifests.CHART.rglob("*") if path.is_symlink()]


def test_rules_of_the_operator_are_those_of_the_platform(platform):
    spec = only(rendered(platform=platform, monitoring={"rules": True}), "PrometheusRule")["spec"]
    files = {
        path.name: yaml.safe_load(path.read_text())
        for path in (manifests.CHART / "files/rules").glob("*.yml")
    }
    assert spec["groups"] == [group for name in sorted(files) for group in files[name]["groups"]]


def test_dashboards_are_config_maps_that_grafanas_sidecar_takes():
    documents = rendered(dashboards={"enabled": True, "annotations": {"grafana_folder": "Tailbound"}})
    found = [each for each in documents if each["metadata"]["labels"].get("grafana_dashboard") == "1"]
    known_to_kubernetes(*found)
    shown = {name: json.loads(text) for each in found for name, text in each["data"].items()}
    files = (manifests.CHART / "files/dashboards").glob("*.json")
    assert shown == {path.name: json.loads(path.read_text()) for path in files}


def test_monitors_are_found_by_the_labels_of_the_values_and_find_the_service(platform):
    monitoring = {
        "serviceMonitor": True,
        "podMonitors": True,
        "rules": True,
        "labels": {"release": "monitoring"},
    }
    documents = rendered(platform=platform, release="blue", monitoring=monitoring)
    operators = [each for each in documents if each["apiVersion"] == "monitoring.coreos.com/v1"]
    assert {each["kind"] for each in operators} == {"PodMonitor", "PrometheusRule", "ServiceMonitor"}
    for each in operators:
        assert each["metadata"]["namespace"] == manifests.NAMESPACES[platform]
        assert each["metadata"]["labels"]["release"] == "monitoring"
    service, spec = only(documents, "Service"), only(documents, "ServiceMonitor")["spec"]
    assert spec["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert [each["port"] for each in spec["endpoints"]] == [each["name"] for each in service["spec"]["ports"]]


def test_schema_is_what_the_configuration_says():
    assert manifests.SCHEMA.read_text() == manifests.schema(), "run make manifests"


@pytest.mark.parametrize(
    "values",
    [
        {"replica": 1},
        {"platform": "nomad"},
        {"config": {"intervall": "5s"}},
        {"config": {"interval": "5 seconds"}},
        {"config": {"prometheus": {"url": "prometheus:9090"}}},
    ],
)
def test_schema_refuses_what_the_autoscaler_would_refuse(values):
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(values, manifests.values())


@pytest.mark.parametrize(
    "path", [*manifests.CHART.rglob("config.yaml"), ROOT / "lab/autoscaler.yaml"], ids=str
)
def test_schema_accepts_a_configuration_that_ships(path):
    jsonschema.validate({"config": yaml.safe_load(path.read_text())}, manifests.values())


def test_every_value_makes_objects_that_kubernetes_knows(platform):
    everything = {
        "createNamespace": True,
        "config": {"platform": {"namespaces": ["shop"]}},
        "maxMode": "shadow",
        "boost": {"enabled": True, "requests": True},
        "image": {"digest": f"sha256:{'0' * 64}", "pullSecrets": ["registry"]},
        "prometheus": {"secret": "prometheus-credentials"},
        "serviceAccount": {"name": "scaler", "annotations": {"team": "a"}},
        "podAnnotations": {"team": "a"},
        "nodeSelector": {"kubernetes.io/arch": "amd64"},
        "tolerations": [{"key": "spot", "operator": "Exists"}],
        "affinity": {"nodeAffinity": {}},
        "priorityClassName": "system-cluster-critical",
        "env": [{"name": "HTTPS_PROXY", "value": "http://proxy:3128"}],
        "extraVolumes": [{"name": "ca", "configMap": {"name": "ca"}}],
        "extraVolumeMounts": [{"name": "ca", "mountPath": "/etc/ca", "readOnly": True}],
        "networkPolicy": {"namespaces": ["metrics"], "from": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]},
        "scalePolicy": {"enabled": True},
        "extraRules": [
            {"apiGroups": ["apps"], "resources": ["statefulsets"], "verbs": ["get", "list", "watch"]}
        ],
        "dashboards": {"enabled": True},
        # Where the chart is a part of another.
        "enabled": True,
        "global": {"team": "a"},
    }
    documents = rendered(platform=platform, **everything)
    known_to_kubernetes(*documents, *of_uninstall(platform=platform, **everything))
    assert container(documents)["image"] == f"ghcr.io/tailbound/slo-autoscaler@sha256:{'0' * 64}"
    assert pod(documents)["spec"]["serviceAccountName"] == "scaler"
    assert {"name": "HTTPS_PROXY", "value": "http://proxy:3128"} in container(documents)["env"]
    assert "ca" in {each["name"] for each in pod(documents)["spec"]["volumes"]}
    assert "ca" in {each["name"] for each in container(documents)["volumeMounts"]}


def test_security_contexts_can_be_unset_key_by_key_and_as_a_whole():
    chosen_by_the_cluster = dict.fromkeys(("runAsUser", "runAsGroup", "fsGroup"))
    documents = rendered(podSecurityContext=chosen_by_the_cluster, securityContext=None)
    assert set(pod(documents)["spec"]["securityContext"]) == {"runAsNonRoot", "seccompProfile"}
    assert "securityContext" not in container(documents)
    known_to_kubernetes(*documents)


def test_network_policy_admits_its_own_namespace_and_those_of_the_values():
    policy = only(rendered(networkPolicy={"namespaces": ["metrics"]}), "NetworkPolicy")
    (rule,) = policy["spec"]["ingress"]
    named = {"matchLabels": {"kubernetes.io/metadata.name": "metrics"}}
    assert rule["from"] == [{"podSelector": {}}, {"namespaceSelector": named}]


def test_helm_test_asks_the_service_and_is_in_no_manifest(documents, platform):
    asking = only(documents, "Pod")
    *_, program, address = asking["spec"]["containers"][0]["command"]
    compile(program, "helm test", "exec")
    service = only(documents, "Service")
    assert address == f"http://{service['metadata']['name']}:{service['spec']['ports'][0]['port']}/healthz"
    assert not service["spec"]["selector"].items() <= asking["metadata"]["labels"].items()
    assert "kind: Pod\n" not in manifests.path(platform).read_text()


RESOLVES_LATE = """
import socket
answers = [OSError("Name or service not known")] * 2
def resolved(host, *rest, there=socket.getaddrinfo, **more):
    if answers:
        raise answers.pop()
    return there("127.0.0.1", *rest, **more)
socket.getaddrinfo = resolved
"""
"""The name resolves from the third question on."""


def test_helm_test_waits_for_the_name_of_a_new_service(documents):
    *command, _ = only(documents, "Pod")["spec"]["containers"][0]["command"]
    with closing(exposing(lambda _: "ok")) as service:
        program = command[-1].replace("import sys", f"{RESOLVES_LATE}\nimport sys", 1)
        done = subprocess.run(
            [
                sys.executable,
                "-c",
                program,
                f"http://late.example:{service.address.rpartition(':')[2]}/healthz",
            ],
            capture_output=True,
            text=True,
            check=False,
        )
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "ok"), done.stderr


def test_uninstall_stops_the_pods_of_this_release_by_an_account_of_its_own(platform):
    documents = rendered(platform=platform, release="blue")
    hook = of_uninstall(platform=platform, release="blue")
    job = only(hook, "Job")["spec"]["template"]["spec"]
    (retire,) = job["containers"]
    *module, name, selector = retire["command"]
    assert module == ["python", "-m", "slo_autoscaler.kube.retire"]
    assert name == only(documents, "Deployment")["metadata"]["name"]
    labels = {key: text for key, _, text in (part.partition("=") for part in selector.split(","))}
    assert labels == only(documents, "Deployment")["spec"]["selector"]["matchLabels"]
    assert not labels.items() <= only(hook, "Job")["spec"]["template"]["metadata"]["labels"].items()
    role = only(hook, "Role")
    rights = {
        (verb, group, resource)
        for rule in role["rules"]
        for verb in rule["verbs"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }
    assert rights == {("patch", "apps", "deployments/scale"), ("list", "", "pods")}
    assert role["rules"][0]["resourceNames"] == [name]
    account = only(hook, "ServiceAccount")["metadata"]["name"]
    assert job["serviceAccountName"] == account == only(hook, "RoleBinding")["subjects"][0]["name"]
    assert account != pod(documents)["spec"]["serviceAccountName"]
    # `kubectl apply` would run the Job at once.
    assert not objects(hook) & objects(documents)


@pytest.mark.skipif(shutil.which("helm") is None, reason="helm is not on PATH")
def test_helm_lint_has_no_complaint(platform):
    command = ["helm", "lint", "--strict", str(manifests.CHART), "--set", f"platform={platform}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_binding_is_of_a_role_that_is_there_to_the_account_of_the_pod(documents):
    account = only(documents, "ServiceAccount", pod(documents)["spec"]["serviceAccountName"])
    assert account["automountServiceAccountToken"] is False, "no other pod gets its token"
    assert pod(documents)["spec"]["automountServiceAccountToken"] is True
    bindings = [each for each in documents if each["kind"].endswith("RoleBinding")]
    assert len(bindings) == sum(each["kind"].endswith("Role") for each in documents) > 0
    for binding in bindings:
        role = only(documents, binding["roleRef"]["kind"], binding["roleRef"]["name"])
        assert role["metadata"].get("namespace") == binding["metadata"].get("namespace")
        (subject,) = binding["subjects"]
        assert (subject["kind"], subject["name"]) == ("ServiceAccount", account["metadata"]["name"])
        assert subject["namespace"] == account["metadata"]["namespace"]


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


def everything(platform: str, release: str, **values: Any) -> list[Document]:
    monitoring = {"serviceMonitor": True, "podMonitors": True, "rules": True}
    toggles = {"boost": {"enabled": True}, "scalePolicy": {"enabled": True}, "dashboards": {"enabled": True}}
    return rendered(platform=platform, release=release, monitoring=monitoring, **toggles, **values)


@pytest.mark.parametrize("values", [{}, {"name": "scaler"}], ids=["name of the release", "another name"])
def test_second_release_shares_no_object_no_pod_and_no_lease_with_the_first(platform, values):
    first, second = everything(platform, "slo-autoscaler"), everything(platform, "blue", **values)
    assert len(objects(first)) == len(first) == len(second)
    assert not objects(first) & objects(second)
    selector = only(first, "Deployment")["spec"]["selector"]["matchLabels"]
    assert not selector.items() <= pod(second)["metadata"]["labels"].items()
    leases = {configuration(each).leader.lease.name for each in (first, second)}
    assert len(leases) == 2


@pytest.mark.parametrize("values", [{}, {"name": "scaler"}], ids=["name of the release", "another name"])
def test_release_under_another_name_is_scraped(platform, values):
    scraped = yaml.safe_load((DEPLOY / "prometheus/values.yaml").read_text())["serverFiles"]["prometheus.yml"]
    (job,) = [each for each in scraped["scrape_configs"] if each["job_name"] == "autoscaler"]
    label = job["relabel_configs"][0]
    assert label["source_labels"] == ["__meta_kubernetes_pod_label_app_kubernetes_io_name"]
    labels = pod(rendered(platform=platform, release="blue", **values))["metadata"]["labels"]
    assert labels["app.kubernetes.io/name"] == label["regex"]


def test_releases_for_all_platforms_share_no_object():
    boost = {"enabled": True}
    every = [each for platform in PLATFORMS for each in objects(rendered(platform=platform, boost=boost))]
    assert len(every) == len(set(every))


def test_values_of_the_configuration_lie_over_the_platforms():
    config = {
        "prometheus": {"url": "https://prometheus.example.com"},
        "direct_interval": None,
        "fleet": {"replicas": 10_000_000},
        "defaults": {"mode": "off"},
    }
    found = configuration(rendered(platform="kubernetes", config=config))
    default = configuration(rendered(platform="kubernetes"))
    assert found.prometheus.url == "https://prometheus.example.com"
    assert (found.direct_interval, found.fleet.replicas, found.defaults.mode) == (None, 10_000_000, "off")
    assert found.platform == default.platform
    assert found.defaults.max_replicas == default.defaults.max_replicas


def test_configuration_before_is_kept_for_a_rollback_of_the_deployment():
    annotations = only(rendered(), "ConfigMap")["metadata"]["annotations"]
    # By resource-policy keep the next rollback of Helm would fail: the object is there, and of no release.
    assert annotations["helm.sh/hook"] == "pre-install,pre-upgrade,pre-rollback"
    assert annotations["helm.sh/hook-delete-policy"] == "before-hook-creation"


def test_configuration_names_the_pods_and_the_rollout_follows_it():
    names = {
        pod(rendered(config={"interval": interval}))["spec"]["volumes"][0]["configMap"]["name"]
        for interval in ("5s", "6s", "6s")
    }
    assert len(names) == 2


def test_ports_follow_the_configuration():
    documents = rendered(config={"web": {"port": 9000, "probe_port": None}})
    assert container(documents)["ports"] == [{"name": "metrics", "containerPort": 9000}]
    for probe in ("livenessProbe", "readinessProbe"):
        assert container(documents)[probe]["httpGet"]["port"] == "metrics"
    assert only(documents, "Service")["spec"]["ports"][0]["port"] == 9000
    assert pod(documents)["metadata"]["annotations"]["prometheus.io/port"] == "9000"


def test_role_of_the_lease_names_the_one_of_the_configuration():
    documents = rendered(config={"leader": {"lease": {"name": "blue", "namespace": "leases"}}})
    role = only(documents, "Role", "slo-autoscaler-lease")
    assert role["metadata"]["namespace"] == "leases"
    assert [rule["resourceNames"] for rule in role["rules"] if "resourceNames" in rule] == [["blue"]]
    assert not [each for each in rendered(config={"leader": None}) if each["kind"] == "Role"]


def test_namespaces_of_the_configuration_replace_the_binding_for_all():
    documents = rendered(platform="kubernetes", config={"platform": {"namespaces": ["shop", "search"]}})
    assert configuration(documents).platform.namespaces == ("shop", "search")
    assert not [each for each in documents if each["kind"] == "ClusterRoleBinding"]
    role = only(documents, "ClusterRole")["metadata"]["name"]
    bound = [each for each in documents if each["kind"] == "RoleBinding" and each["roleRef"]["name"] == role]
    assert {each["metadata"]["namespace"] for each in bound} == {"shop", "search"}


def test_platform_that_was_removed_is_refused():
    with pytest.raises(Exception, match=r"knative-floor was removed|exit status"):
        manifests.template({"platform": "knative-floor"}, "tailbound")


@pytest.mark.parametrize("mode", ["recommend", "shadow"])
@pytest.mark.parametrize("platform", ["kubernetes", "knative-class"])
def test_max_mode_below_active_takes_the_right_to_change_deployments(platform, mode):
    active = only(rendered(platform=platform), "ClusterRole")["rules"]
    documents = rendered(platform=platform, maxMode=mode)
    rules = only(documents, "ClusterRole")["rules"]
    assert {verb for rule in rules for verb in rule["verbs"]} <= {"get", "list", "watch"}
    read = {resource for rule in active if "list" in rule["verbs"] for resource in rule["resources"]}
    assert {resource for rule in rules for resource in rule["resources"]} == read
    assert container(documents)["env"] == [{"name": "SLO_AUTOSCALER_MAX_MODE", "value": mode}]


@pytest.mark.parametrize(
    ("platform", "resource"),
    [
        ("kubernetes", "deployments/scale"),
        ("knative-class", "deployments/scale"),
    ],
)
def test_policy_limits_the_account_of_the_pod_where_its_role_cannot(platform, resource):
    account_name = {"name": "scaler"}
    documents = rendered(platform=platform, scalePolicy={"enabled": True}, serviceAccount=account_name)
    policy, binding = only(documents, POLICY), only(documents, f"{POLICY}Binding")
    known_to_kubernetes(policy, binding)
    account = only(documents, "ServiceAccount")["metadata"]
    user = f"system:serviceaccount:{account['namespace']}:{account['name']}"
    (condition,) = policy["spec"]["matchConditions"]
    assert condition["expression"] == f'request.userInfo.username == "{user}"'
    (rule,) = policy["spec"]["matchConstraints"]["resourceRules"]
    assert rule["resources"] == [resource]
    assert any(resource in allowed["resources"] for allowed in only(documents, "ClusterRole")["rules"])
    assert binding["spec"]["policyName"] == policy["metadata"]["name"]


SELECTS = {
    "NotIn": lambda value, values: value not in values,
    "DoesNotExist": lambda value, _: value is None,
}
"""Operator of a selector -> whether it selects an object whose label has this value."""


@pytest.mark.parametrize(
    ("platform", "labels", "scaled"),
    [
        ("kubernetes", {MODE: "active"}, True),
        ("kubernetes", {MODE: ""}, True),
        ("kubernetes", {MODE: "off"}, False),
        ("kubernetes", {}, False),
        ("knative-class", {REVISION: "web-00001"}, True),
        ("knative-class", {}, False),
    ],
)
def test_policy_of_the_scale_refuses_deployments_that_are_not_to_be_scaled_and_no_others(
    platform, labels, scaled
):
    documents = rendered(platform=platform, scalePolicy={"enabled": True})
    parameters = only(documents, f"{POLICY}Binding")["spec"]["paramRef"]
    (where,) = parameters["selector"]["matchExpressions"]
    refused = SELECTS[where["operator"]](labels.get(where["key"]), where.get("values"))
    assert refused is not scaled
    assert parameters["parameterNotFoundAction"] == "Allow", "none is to be refused"


def test_boost_gives_one_right_more_and_a_policy_that_limits_it(platform):
    documents = rendered(platform=platform, boost={"enabled": True})
    added = [each for each in documents if each["metadata"]["name"] == f"slo-autoscaler-{platform}-boost"]
    assert objects(documents) - objects(added) == objects(rendered(platform=platform))
    written = {
        (verb, resource)
        for rule in only(added, "ClusterRole")["rules"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
        if verb not in ("list", "watch")
    }
    assert written == {("patch", "pods/resize")}
    policy = only(added, POLICY)["spec"]
    assert policy["matchConstraints"]["resourceRules"][0]["resources"] == ["pods/resize"]
    account = only(documents, "ServiceAccount")["metadata"]
    (condition,) = policy["matchConditions"]
    assert f'"system:serviceaccount:{account["namespace"]}:{account["name"]}"' in condition["expression"]
    label, _ = policy["validations"]
    assert f'"{BOOST}" in' in label["expression"]
    assert only(added, f"{POLICY}Binding")["spec"]["policyName"] == only(added, POLICY)["metadata"]["name"]


def test_boost_right_is_bound_in_the_namespaces_of_the_configuration():
    documents = rendered(
        platform="kubernetes", boost={"enabled": True}, config={"platform": {"namespaces": ["shop"]}}
    )
    bound = [each for each in documents if each["kind"].endswith("RoleBinding")]
    boost = [each for each in bound if each["roleRef"]["name"].endswith("-boost")]
    assert [(each["kind"], each["metadata"]["namespace"]) for each in boost] == [("RoleBinding", "shop")]


def values_on(page: str) -> Document:
    """The chart's values that a page has."""
    found = [
        yaml.safe_load(block.text)
        for block in blocks((ROOT / "docs" / page).read_text())
        if block.language == "yaml"
    ]
    (values,) = [each for each in found if "config" in each]
    return dict(values)


@pytest.mark.parametrize(
    ("page", "platform"),
    [
        ("install.md", "knative-class"),
        ("howto/boost.md", "openfaas"),
        ("howto/shadow.md", "openfaas"),
    ],
)
def test_values_on_a_page_make_objects_that_kubernetes_knows(page, platform):
    known_to_kubernetes(*rendered(platform=platform, **values_on(page)))


def test_secret_of_the_how_to_is_mounted_where_its_configuration_looks():
    page, values = (ROOT / "docs/howto/prometheus.md").read_text(), values_on("howto/prometheus.md")
    documents = rendered(platform="kubernetes", **values)
    secret = values["prometheus"]["secret"]
    assert f"create secret generic {secret} " in page
    (volume,) = [each for each in pod(documents)["spec"]["volumes"] if "secret" in each]
    (mount,) = [each for each in container(documents)["volumeMounts"] if each["name"] == volume["name"]]
    assert volume["secret"] == {"secretName": secret, "defaultMode": 0o440}
    prometheus = configuration(documents).prometheus
    for path in (prometheus.bearer_token_file, prometheus.tls.ca_file):
        assert path is not None
        assert str(Path(path).parent) == mount["mountPath"]
        assert f"--from-file={Path(path).name}" in page


def test_table_of_the_how_to_has_every_platform_and_its_namespace():
    page = (ROOT / "docs/install.md").read_text()
    rows = re.findall(r"^\| [^|]+ \| `platform=(\S+) namespace=(\S+) [^`]+` \|$", page, re.MULTILINE)
    assert dict(rows) == manifests.NAMESPACES


def test_chart_with_several_replicas_and_no_leader_is_refused():
    alone = {"config": {"leader": None}, "replicas": 1}
    assert only(rendered(**alone), "Deployment")["spec"]["replicas"] == 1
    with pytest.raises(Exception, match=r"leader|exit status"):
        rendered(**alone | {"replicas": 2})
