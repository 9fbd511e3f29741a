"""What is installed on Knative: the kustomizations, the sample Service, and how its pods are scraped."""

import re
import shutil
import subprocess
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal

import kubernetes_validate
import pytest
import yaml

from batching_watchdog.config import Config as WatchdogConfig
from deploy.knative_scraping import KNATIVE, chart_configuration, monitor, queue_proxy, values
from deploy.test_manifests import KUBERNETES, ROOT, kustomize
from slo_autoscaler.config import Config, KnativeConfig
from slo_autoscaler.platforms.knative.allocation import CLASS_ANNOTATION, Defaults, max_scale, min_scale
from slo_autoscaler.platforms.knative.status import CLASS

GUIDE = (ROOT / "docs/install-knative.md").read_text()
WAYS = ["class", "floor"]


@pytest.fixture(scope="module")
def built() -> dict[str, list[dict[str, Any]]]:
    """Both ways to install it, as kustomize writes them."""
    command = kustomize()
    if command is None:
        pytest.skip("neither kustomize nor kubectl is on PATH")
    found = {}
    for way in WAYS:
        done = subprocess.run(
            [*command, str(KNATIVE / way)], capture_output=True, text=True, timeout=50, check=False
        )
        assert done.returncode == 0, done.stderr
        found[way] = list(yaml.safe_load_all(done.stdout))
    return found


def of(documents: list[dict[str, Any]], kind: str, name: str | None = None) -> dict[str, Any]:
    (only,) = [
        each
        for each in documents
        if each["kind"] == kind and (name is None or each["metadata"]["name"] == name)
    ]
    return only


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("version", KUBERNETES)
def test_kubernetes_knows_every_field(built: dict[str, list[dict[str, Any]]], way: str, version: str):
    for document in built[way]:
        kubernetes_validate.validate(document, version, strict=True)


@pytest.mark.parametrize("way", WAYS)
def test_everything_is_in_a_namespace_of_its_own_but_the_right_to_read_knatives_settings(
    built: dict[str, list[dict[str, Any]]], way: str
):
    elsewhere = {
        (document["kind"], document["metadata"]["namespace"])
        for document in built[way]
        if document["metadata"].get("namespace", "tailbound") != "tailbound"
    }
    assert elsewhere == {("Role", "knative-serving"), ("RoleBinding", "knative-serving")}


@pytest.mark.parametrize("way", WAYS)
def test_every_binding_is_of_a_role_that_is_there_to_the_autoscalers_account(
    built: dict[str, list[dict[str, Any]]], way: str
):
    account = of(built[way], "ServiceAccount")["metadata"]
    bindings = [each for each in built[way] if each["kind"].endswith("Binding")]
    assert len(bindings) == 3
    for binding in bindings:
        role = of(built[way], binding["roleRef"]["kind"], binding["roleRef"]["name"])
        assert role["metadata"].get("namespace") == binding["metadata"].get("namespace")
        (subject,) = binding["subjects"]
        assert (subject["name"], subject["namespace"]) == (account["name"], account["namespace"])


@pytest.mark.parametrize("way", WAYS)
def test_the_pod_has_the_token_that_it_needs(built: dict[str, list[dict[str, Any]]], way: str):
    assert of(built[way], "Deployment")["spec"]["template"]["spec"]["automountServiceAccountToken"] is True


@pytest.mark.parametrize("way", WAYS)
def test_the_autoscaler_takes_the_configuration_as_it_stands(
    built: dict[str, list[dict[str, Any]]], way: Literal["class", "floor"]
):
    config = Config.parse(of(built[way], "ConfigMap")["data"]["config.yaml"], "config.yaml")
    assert config.platform == KnativeConfig(mode=way)
    shown = yaml.safe_load((KNATIVE / way / "config.yaml").read_text())["platform"]
    assert set(shown) == {each.name for each in fields(KnativeConfig)}, "every key, with its default"
    lease = of(built[way], "Role", "slo-autoscaler-lease")["rules"][1]
    assert config.leader is not None
    assert lease["resourceNames"] == [config.leader.lease.name]


def test_the_two_configurations_differ_in_nothing_but_the_way():
    texts = [re.sub(r" *#.*", "", (KNATIVE / way / "config.yaml").read_text()) for way in WAYS]
    assert texts[0].replace("mode: class", "mode: floor") == texts[1]


# The sample


def sample() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((KNATIVE / "tabular.yaml").read_text())
    return loaded


def sample_container() -> dict[str, Any]:
    (container,) = sample()["spec"]["template"]["spec"]["containers"]
    assert isinstance(container, dict)
    return container


def test_the_sample_asks_for_the_class_on_its_template_and_not_on_itself():
    template = sample()["spec"]["template"]
    assert template["metadata"]["annotations"][CLASS_ANNOTATION] == CLASS
    assert (min_scale(template, Defaults()), max_scale(template, Defaults())) == (1, 5)
    assert "autoscaling.knative.dev/metric" not in template["metadata"]["annotations"]
    assert "annotations" not in sample()["metadata"]


def test_the_watchdog_takes_the_samples_environment_and_knatives_port():
    environ = {each["name"]: each["value"] for each in sample_container()["env"]}
    (port,) = sample_container()["ports"]
    config = WatchdogConfig.from_env(environ | {"PORT": str(port["containerPort"])}, cpus=2.0)
    assert config.port == port["containerPort"]
    assert config.slo_latency == 0.1
    assert config.healthcheck_interval == 0.0
    annotations = sample()["spec"]["template"]["metadata"]["annotations"]
    assert annotations["prometheus.io/port"] == str(config.metrics_port)
    stop = config.healthcheck_interval + config.drain_timeout + 3
    assert sample()["spec"]["template"]["spec"]["timeoutSeconds"] > stop


def test_the_samples_slo_and_resources_are_those_of_the_stack():
    stack = yaml.safe_load((ROOT / "stack.yml").read_text())["functions"]["tabular"]
    environ = {each["name"]: each["value"] for each in sample_container()["env"]}
    assert stack["environment"].items() <= environ.items()
    assert sample_container()["resources"] == {key: stack[key] for key in ("requests", "limits")}


def test_the_sample_runs_as_no_root_with_a_folder_of_its_own_to_write_to():
    context = sample_container()["securityContext"]
    assert context["readOnlyRootFilesystem"]
    assert context["runAsNonRoot"]
    assert context["capabilities"] == {"drop": ["ALL"]}
    assert sample_container()["volumeMounts"] == [{"name": "tmp", "mountPath": "/tmp"}]


def test_the_way_back_to_knatives_class_gives_it_a_metric_which_its_webhook_asks_for():
    (way,) = re.findall(r"annotate revision <name>[^`]*class=kpa[^`]*```", GUIDE)
    assert "autoscaling.knative.dev/metric=concurrency" in way


# Scraping; what Prometheus makes of it is in test_scraping.py


def test_the_operator_scrapes_as_often_as_the_chart():
    (endpoint,) = monitor("PodMonitor")["spec"]["podMetricsEndpoints"]
    chart = chart_configuration()["scrape_configs"][0]
    assert (endpoint["interval"], endpoint["scrapeTimeout"]) == (
        chart["scrape_interval"],
        chart["scrape_timeout"],
    )


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_the_charts_configuration_is_valid(tmp_path: Path):
    configuration = chart_configuration()
    configuration["scrape_configs"].append(queue_proxy())
    path = tmp_path / "prometheus.yml"
    path.write_text(yaml.safe_dump(configuration))
    done = subprocess.run(
        ["promtool", "check", "config", path], capture_output=True, text=True, timeout=50, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_charts_service_is_where_the_autoscaler_looks_for_it():
    server = values()["server"]
    name, port = server["fullnameOverride"], server["service"]["servicePort"]
    for way in WAYS:
        config = Config.parse((KNATIVE / way / "config.yaml").read_text(), way)
        assert config.prometheus.url == f"http://{name}.tailbound.svc.cluster.local:{port}"


def test_the_guides_rules_and_files_are_there():
    given = re.findall(r"=(deploy/[\w/.-]+)'?", GUIDE)
    assert len(given) >= 4
    for path in [*given, *re.findall(r"-[fk] (deploy/knative/[\w/.-]+)", GUIDE)]:
        assert (ROOT / path).exists(), path


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_the_guides_queries_of_knatives_own_metrics_are_promql(tmp_path: Path):
    queries = re.findall(r"`((?:sum|histogram_quantile)[^`]*queue-proxy[^`]*)`", GUIDE)
    assert len(queries) == 8
    rules = [{"record": f"q:{index}", "expr": query} for index, query in enumerate(queries)]
    path = tmp_path / "rules.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "guide", "rules": rules}]}))
    done = subprocess.run(
        ["promtool", "check", "rules", path], capture_output=True, text=True, timeout=50, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
