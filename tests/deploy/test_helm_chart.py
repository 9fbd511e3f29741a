"""The Helm chart installs the objects of the kustomizations, for every platform, from the same configuration.

Helm's engine renders it as a library (helm-python-sdk). Where that has no wheel, these tests are skipped.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from deploy.helm import generate_schema

from deploy.test_manifests import (
    DEPLOY,
    NAMESPACES,
    Document,
    configuration,
    container,
    known_to_kubernetes,
    only,
    pod,
    settings_of_the_how_to,
    text_built,
)
from docs.pages import blocks
from slo_autoscaler import __version__
from slo_autoscaler.config import Config

ROOT = Path(__file__).resolve().parents[2]
CHART = DEPLOY / "helm/slo-autoscaler"
PLATFORMS = {each.replace("/", "-"): each for each in NAMESPACES}
"""Value of the chart -> kustomization."""

Render = Callable[..., list[Document]]


@pytest.fixture(scope="module")
def helm() -> Any:
    return pytest.importorskip("helm_python", reason="the chart is not rendered: no helm-python-sdk")


def rendered(helm: Any, values: Document, path: Path = CHART) -> list[Document]:
    """Render a chart with values, in the namespace of their platform's kustomization."""
    namespace = NAMESPACES[PLATFORMS[values.get("platform", "openfaas")]]
    with helm.Chart.load(str(path)) as chart:
        chart.validate_schema(values)
        texts = chart.render(values, name="autoscaler", namespace=namespace)
    made = [yaml.safe_load_all(text) for name, text in texts.items() if name.endswith(".yaml")]
    return [each for documents in made for each in documents if each]


@pytest.fixture
def render(helm: Any) -> Render:
    return lambda **values: rendered(helm, values)


@pytest.fixture(params=PLATFORMS)
def platform(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def comparable(documents: list[Document]) -> dict[tuple[str, str, str], Document]:
    """Return each object by its identity; a configuration as it is read, lists of named things sorted."""
    config = only(documents, "ConfigMap")
    text = json.dumps(documents).replace(config["metadata"]["name"], "slo-autoscaler-config")
    named = {}
    for each in json.loads(text):
        if each["kind"] == "ConfigMap":
            each["data"] = {"config.yaml": Config.parse(each["data"]["config.yaml"], "config.yaml")}
        if each["kind"] == "Deployment":
            spec = each["spec"]["template"]["spec"]
            spec["volumes"].sort(key=lambda volume: volume["name"])
            spec["containers"][0]["volumeMounts"].sort(key=lambda mount: mount["name"])
        metadata = each["metadata"]
        named[each["kind"], metadata.get("namespace", ""), metadata["name"]] = each
    return named


def kustomized(kustomization: str) -> list[Document]:
    """Return what kustomize applies, but for the namespace, which `helm --create-namespace` makes."""
    built = [each for each in yaml.safe_load_all(text_built(kustomization)) if each]
    return [each for each in built if each["kind"] != "Namespace"]


def test_chart_renders_the_objects_of_the_kustomization(render, platform):
    ours, theirs = comparable(render(platform=platform)), comparable(kustomized(PLATFORMS[platform]))
    assert ours.keys() == theirs.keys()
    for name, theirs_one in theirs.items():
        assert ours[name] == theirs_one, name


def test_packaged_chart_has_the_files_that_the_chart_links_to(helm, platform, tmp_path):
    package = Path(helm.package(str(CHART), destination=str(tmp_path)))
    values = {"platform": platform}
    assert comparable(rendered(helm, values, package)) == comparable(rendered(helm, values))


def test_chart_has_no_error_that_lint_finds(helm):
    found = helm.lint(str(CHART))["messages"]
    assert [each for each in found if each["severity"] > 1] == []  # 1: an icon is recommended


def test_max_mode_recommend_on_kubernetes_is_the_component_recommend(render, tmp_path):
    component = tmp_path / "recommend"
    component.mkdir()
    to = {
        each: "../" * len(component.parts[1:]) + str(DEPLOY / each)[1:]
        for each in ("recommend", "kubernetes")
    }
    (component / "kustomization.yaml").write_text(
        yaml.safe_dump({"resources": [to["kubernetes"]], "components": [to["recommend"]]})
    )
    ours = comparable(render(platform="kubernetes", maxMode="recommend"))
    assert ours == comparable(kustomized(str(component)))


def test_namespaces_of_the_configuration_replace_the_binding_for_all(render):
    documents = render(platform="kubernetes", config={"platform": {"namespaces": ["shop", "search"]}})
    assert configuration(documents).platform.namespaces == ("shop", "search")
    assert not [each for each in documents if each["kind"] == "ClusterRoleBinding"]
    role = only(documents, "ClusterRole")["metadata"]["name"]
    bound = [each for each in documents if each["kind"] == "RoleBinding" and each["roleRef"]["name"] == role]
    assert {each["metadata"]["namespace"] for each in bound} == {"shop", "search"}
    account = only(documents, "ServiceAccount")["metadata"]
    for each in bound:
        (subject,) = each["subjects"]
        assert (subject["name"], subject["namespace"]) == (account["name"], account["namespace"])


def test_values_of_the_configuration_lie_over_the_platforms(render):
    config = {
        "prometheus": {"url": "https://prometheus.example.com"},
        "direct_interval": None,
        "fleet": {"replicas": 10_000_000},
        "defaults": {"mode": "off"},
    }
    documents = render(platform="kubernetes", config=config)
    found, default = configuration(documents), configuration(render(platform="kubernetes"))
    assert found.prometheus.url == "https://prometheus.example.com"
    assert (found.direct_interval, found.fleet.replicas, found.defaults.mode) == (None, 10_000_000, "off")
    assert found.platform == default.platform
    assert found.defaults.max_replicas == default.defaults.max_replicas


def test_ports_follow_the_configuration(render):
    documents = render(config={"web": {"port": 9000, "probe_port": None}})
    assert container(documents)["ports"] == [{"name": "metrics", "containerPort": 9000}]
    assert {
        container(documents)[each]["httpGet"]["port"] for each in ("livenessProbe", "readinessProbe")
    } == {"metrics"}
    assert only(documents, "Service")["spec"]["ports"][0]["port"] == 9000
    assert pod(documents)["metadata"]["annotations"]["prometheus.io/port"] == "9000"


def test_role_of_the_lease_names_the_one_of_the_configuration(render):
    documents = render(config={"leader": {"lease": {"name": "blue", "namespace": "leases"}}})
    role = only(documents, "Role", "slo-autoscaler-lease")
    assert role["metadata"]["namespace"] == "leases"
    assert [rule["resourceNames"] for rule in role["rules"] if "resourceNames" in rule] == [["blue"]]
    without = render(config={"leader": None})
    assert not [each for each in without if each["kind"] == "Role"]


def test_credentials_of_prometheus_are_mounted_where_the_how_to_looks(render):
    _, settings = settings_of_the_how_to()
    documents = render(prometheus={"secret": "mine"}, config=settings)
    (mount,) = [
        each for each in container(documents)["volumeMounts"] if each["name"] == "prometheus-credentials"
    ]
    (volume,) = [each for each in pod(documents)["spec"]["volumes"] if each["name"] == mount["name"]]
    assert volume["secret"] == {"secretName": "mine", "defaultMode": 0o440}
    assert str(Path(configuration(documents).prometheus.bearer_token_file or "").parent) == mount["mountPath"]


def test_second_release_shares_no_object_with_the_first(render, platform):
    objects = [
        set(comparable(render(platform=platform, name=name, serviceAccount={"annotations": {"of": name}})))
        for name in ("slo-autoscaler", "blue")
    ]
    assert {identity[0] for identity in objects[0]} == {identity[0] for identity in objects[1]}
    kept = {identity for identity in objects[0] & objects[1] if identity[0] != "ConfigMap"}
    assert kept == set()


def test_every_value_makes_objects_that_kubernetes_knows(render, platform):
    everything = {
        "config": {"platform": {"namespaces": ["shop"]}},
        "maxMode": "shadow",
        "image": {"digest": f"sha256:{'0' * 64}", "pullSecrets": ["registry"]},
        "prometheus": {"secret": "prometheus-credentials"},
        "serviceAccount": {"name": "scaler", "annotations": {"team": "a"}},
        "podAnnotations": {"team": "a"},
        "nodeSelector": {"kubernetes.io/arch": "amd64"},
        "tolerations": [{"key": "spot", "operator": "Exists"}],
        "affinity": {"nodeAffinity": {}},
    }
    documents = render(platform=platform, **everything)
    known_to_kubernetes(*documents)
    assert container(documents)["image"] == f"ghcr.io/tailbound/slo-autoscaler@sha256:{'0' * 64}"
    assert pod(documents)["spec"]["serviceAccountName"] == "scaler"


def test_values_of_the_how_to_render_and_are_what_the_configuration_becomes(render):
    page = (ROOT / "docs/howto/autoscaler.md").read_text()
    (values,) = (yaml.safe_load(block.text) for block in blocks(page) if block.language == "yaml")
    documents = render(**values)
    config = configuration(documents)
    assert config.platform.kind == values["platform"]
    assert config.prometheus.url == values["config"]["prometheus"]["url"]
    assert config.defaults.max_replicas == values["config"]["defaults"]["max_replicas"]
    assert container(documents)["image"] == f"{values['image']['repository']}:{__version__}"


def test_table_of_the_how_to_has_the_platforms_and_namespaces_of_the_kustomizations():
    page = (ROOT / "docs/howto/autoscaler.md").read_text()
    rows = re.findall(r"^\| [^|]+ \| `platform=(\S+) base=(\S+) namespace=(\S+)` \|$", page, re.MULTILINE)
    assert set(rows) == {(value, base, NAMESPACES[base]) for value, base in PLATFORMS.items()}


def test_schema_is_what_the_configuration_says():
    assert (CHART / "values.schema.json").read_text() == generate_schema.text(), "run make manifests"


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
        jsonschema.validate(values, generate_schema.values())


def test_schema_accepts_every_configuration_that_ships():
    paths = [*DEPLOY.rglob("config.yaml"), ROOT / "lab/autoscaler.yaml"]
    assert len(paths) >= 5
    for path in paths:
        jsonschema.validate({"config": yaml.safe_load(path.read_text())}, generate_schema.values())


def test_values_file_shows_every_value_and_the_chart_has_the_autoscalers_version():
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    assert values.keys() == generate_schema.values()["properties"].keys() - {"global"}
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["version"] == chart["appVersion"] == __version__
