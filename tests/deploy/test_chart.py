"""What the chart installs: Kubernetes takes it, its parts fit each other, and it asks for little.

Without helm on PATH its engine renders as a library (helm-python-sdk). Skipped where that has no wheel.
"""

import re
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from deploy.helm import manifests

from slo_autoscaler.config import Config
from slo_autoscaler.kube.resize import LABEL
from slo_autoscaler.platforms.knative import minimum
from support.pages import blocks

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
PLATFORMS = tuple(manifests.NAMESPACES)
KUBERNETES = ["1.30", "1.34"]
POLICY = "ValidatingAdmissionPolicy"

Document = dict[str, Any]

pytestmark = pytest.mark.skipif(
    not (shutil.which("helm") or find_spec("helm_python")),
    reason="the chart is not rendered: neither helm nor helm-python-sdk",
)


def rendered(**values: Any) -> list[Document]:
    namespace = manifests.NAMESPACES[values.get("platform", "openfaas")]
    return [yaml.safe_load(text) for text in manifests.template(values, namespace)]


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
    return Config.parse(only(documents, "ConfigMap")["data"]["config.yaml"], "config.yaml")


def test_manifest_is_the_charts_output(platform):
    committed = yaml.safe_load_all(manifests.path(platform).read_text())
    assert list(committed) == list(yaml.safe_load_all(manifests.manifest(platform))), "run make manifests"


def test_prometheus_rule_has_the_groups_of_the_rule_files():
    made = yaml.safe_load(manifests.RULE.read_text())
    files = sorted((DEPLOY / "prometheus/rules").glob("*.yml"))
    groups = [group for path in files for group in yaml.safe_load(path.read_text())["groups"]]
    assert made["spec"] == {"groups": groups}, "run make manifests"


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
    }
    documents = rendered(platform=platform, **everything)
    known_to_kubernetes(*documents)
    assert container(documents)["image"] == f"ghcr.io/tailbound/slo-autoscaler@sha256:{'0' * 64}"
    assert pod(documents)["spec"]["serviceAccountName"] == "scaler"


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


def test_second_release_shares_no_object_with_the_first(platform):
    boost = {"enabled": True}
    first, second = (
        objects(
            rendered(platform=platform, name=name, boost=boost, serviceAccount={"annotations": {"of": name}})
        )
        for name in ("slo-autoscaler", "blue")
    )
    assert len(first) == len(second)
    assert not first & second


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


@pytest.mark.parametrize("mode", ["recommend", "shadow"])
def test_max_mode_below_active_takes_the_right_to_change_deployments(mode):
    active = only(rendered(platform="kubernetes"), "ClusterRole")["rules"]
    documents = rendered(platform="kubernetes", maxMode=mode)
    rules = only(documents, "ClusterRole")["rules"]
    assert {verb for rule in rules for verb in rule["verbs"]} == {"get", "list", "watch"}
    assert all(rule in active for rule in rules)
    assert container(documents)["env"] == [{"name": "SLO_AUTOSCALER_MAX_MODE", "value": mode}]


def test_policy_of_the_floor_allows_the_annotations_that_it_writes():
    (own, *_) = only(rendered(platform="knative-floor"), POLICY)["spec"]["variables"]
    assert own["name"] == "writable"
    assert yaml.safe_load(own["expression"]) == [minimum.MIN_SCALE, minimum.APPLIED, minimum.ORIGINAL]


@pytest.mark.parametrize(
    ("platform", "resource", "optional"),
    [
        ("kubernetes", "deployments/scale", "kubernetes/policy.yaml"),
        ("knative-class", "deployments/scale", "knative/policy.yaml"),
        ("knative-floor", "revisions", None),
    ],
)
def test_policy_limits_the_account_of_the_pod_where_its_role_cannot(platform, resource, optional):
    documents = rendered(platform=platform)
    policies = [*yaml.safe_load_all((DEPLOY / optional).read_text())] if optional else documents
    policy, binding = only(policies, POLICY), only(policies, f"{POLICY}Binding")
    known_to_kubernetes(policy, binding)
    account = only(documents, "ServiceAccount")["metadata"]
    user = f"system:serviceaccount:{account['namespace']}:{account['name']}"
    (condition,) = policy["spec"]["matchConditions"]
    assert condition["expression"] == f'request.userInfo.username == "{user}"'
    (rule,) = policy["spec"]["matchConstraints"]["resourceRules"]
    assert rule["resources"] == [resource]
    assert any(resource in allowed["resources"] for allowed in only(documents, "ClusterRole")["rules"])
    assert binding["spec"]["policyName"] == policy["metadata"]["name"]


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
    assert f'"{LABEL}" in' in label["expression"]
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
        ("howto/autoscaler.md", "knative-class"),
        ("howto/boost.md", "openfaas"),
        ("howto/shadow.md", "openfaas"),
        ("install-kubernetes.md", "kubernetes"),
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
    page = (ROOT / "docs/howto/autoscaler.md").read_text()
    rows = re.findall(r"^\| [^|]+ \| `platform=(\S+) namespace=(\S+)` \|$", page, re.MULTILINE)
    assert dict(rows) == manifests.NAMESPACES
