"""How functions are found and called: plain configuration, the chart's values, the operator's monitors."""

import json
import re
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy import knative_scraping
from tailbound_lab.local.ports import free_ports

ROOT = Path(__file__).resolve().parents[2]
PROMETHEUS = ROOT / "deploy/prometheus"
RULES = sorted((PROMETHEUS / "rules").glob("*.yml"))
GUIDE = (ROOT / "docs/install-openfaas.md").read_text()

# As Prometheus discovers them: one target for each port that a container declares. They are on loopback, as
# what is found is scraped too.
PODS = [
    {"name": "vision-1", "function": "vision", "ip": "127.0.1.1", "scrape": "true", "port": "8081"},
    {"name": "vision-2", "function": "vision", "ip": "127.0.1.2", "scrape": "true", "port": "9999"},
    {"name": "no-port", "function": "tabular", "ip": "127.0.1.3", "scrape": "true"},
    {"name": "did-not-opt-in", "function": "other", "ip": "127.0.1.4", "scrape": "false"},
    {"name": "ended", "function": "vision", "ip": "127.0.1.5", "scrape": "true", "phase": "Succeeded"},
    {"name": "no-function", "ip": "127.0.1.6", "scrape": "true", "port": "8081"},
]
FOUND = {
    ("http://127.0.1.1:8081/metrics", "vision.openfaas-fn", "vision-1"),
    ("http://127.0.1.2:9999/metrics", "vision.openfaas-fn", "vision-2"),
    ("http://127.0.1.3:8081/metrics", "tabular.openfaas-fn", "no-port"),
}

# The same for plain Deployments, whose pods have an annotation of their own.
DEPLOYMENTS = [
    {"name": "web-5d9c-x", "set": "web-5d9c", "ip": "127.0.2.1", "port": "8081"},
    {"name": "my-model-77f-y", "set": "my-model-77f", "ip": "127.0.2.2", "port": "9000"},
    {"name": "no-annotation", "set": "other-77f", "ip": "127.0.2.3"},
    {"name": "no-port", "set": "other-77f", "ip": "127.0.2.4", "port": "yes"},
    {"name": "of-a-set", "set": "db", "ip": "127.0.2.5", "port": "8081", "controller": "StatefulSet"},
    {"name": "ended", "set": "web-5d9c", "ip": "127.0.2.6", "port": "8081", "phase": "Failed"},
]
FOUND_DEPLOYMENTS = {
    ("http://127.0.2.1:8081/metrics", "web.shop", "web-5d9c-x"),
    ("http://127.0.2.2:9000/metrics", "my-model.shop", "my-model-77f-y"),
}


def deployed(pod: dict[str, str]) -> dict[str, Any]:
    labels = {
        "__meta_kubernetes_namespace": "shop",
        "__meta_kubernetes_pod_name": pod["name"],
        "__meta_kubernetes_pod_ip": pod["ip"],
        "__meta_kubernetes_pod_phase": pod.get("phase", "Running"),
        "__meta_kubernetes_pod_controller_kind": pod.get("controller", "ReplicaSet"),
        "__meta_kubernetes_pod_controller_name": pod["set"],
    }
    if "port" in pod:
        labels["__meta_kubernetes_pod_annotation_tailbound_dev_metrics_port"] = pod["port"]
    return {"targets": [f"{pod['ip']}:8080"], "labels": labels}


def discovered(pod: dict[str, str]) -> dict[str, Any]:
    labels = {
        "__meta_kubernetes_namespace": "openfaas-fn",
        "__meta_kubernetes_pod_name": pod["name"],
        "__meta_kubernetes_pod_ip": pod["ip"],
        "__meta_kubernetes_pod_phase": pod.get("phase", "Running"),
        "__meta_kubernetes_pod_container_port_name": "http",
        "__meta_kubernetes_pod_annotation_prometheus_io_scrape": pod["scrape"],
    }
    if "function" in pod:
        labels["__meta_kubernetes_pod_label_faas_function"] = pod["function"]
        labels["__meta_kubernetes_pod_labelpresent_faas_function"] = "true"
    if "port" in pod:
        labels["__meta_kubernetes_pod_annotation_prometheus_io_port"] = pod["port"]
    return {"targets": [f"{pod['ip']}:8080"], "labels": labels}


def values() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((PROMETHEUS / "values.yaml").read_text())
    return loaded


def chart_configuration() -> dict[str, Any]:
    """What the chart makes of the values: ``server.global`` and the lists of ``serverFiles``."""
    configuration: dict[str, Any] = {"global": values()["server"]["global"]}
    return configuration | values()["serverFiles"]["prometheus.yml"]


def plain_configuration() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((PROMETHEUS / "prometheus-kubernetes.yml").read_text())
    return loaded


def monitors() -> dict[str, dict[str, Any]]:
    found = yaml.safe_load_all((PROMETHEUS / "monitors.yaml").read_text())
    return {monitor["metadata"]["name"]: monitor for monitor in found}


def job(configuration: dict[str, Any], name: str) -> dict[str, Any]:
    (found,) = [each for each in configuration["scrape_configs"] if each["job_name"] == name]
    assert isinstance(found, dict)
    return found


def as_the_operator_writes_it(monitor: dict[str, Any]) -> dict[str, Any]:
    """The job of a PodMonitor: its selectors as relabelling, then its own relabelling in snake case."""
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    present = [
        {
            "source_labels": ["__meta_kubernetes_pod_labelpresent_" + re.sub(r"\W", "_", expression["key"])],
            "action": "keep",
            "regex": "true",
        }
        for expression in monitor["spec"]["selector"]["matchExpressions"]
    ]
    running = {
        "source_labels": ["__meta_kubernetes_pod_phase"],
        "action": "drop",
        "regex": "(Failed|Succeeded)",
    }
    port = {
        "source_labels": ["__meta_kubernetes_pod_container_port_name"],
        "action": "keep",
        "regex": endpoint["port"],
    }
    own = [
        {re.sub("[A-Z]", lambda letter: f"_{letter[0].lower()}", key): value for key, value in step.items()}
        for step in endpoint["relabelings"]
    ]
    return {"relabel_configs": [running, *present, port, *own]}


@contextmanager
def prometheus(configuration: dict[str, Any], folder: Path) -> Iterator[str]:
    """The installed Prometheus; its URL."""
    (folder / "prometheus.yml").write_text(yaml.safe_dump(configuration))
    address = f"127.0.0.1:{free_ports(1)[0]}"
    arguments = [f"--storage.tsdb.path={folder / 'data'}", f"--web.listen-address={address}"]
    arguments += [f"--config.file={folder / 'prometheus.yml'}", "--scrape.discovery-reload-interval=200ms"]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(["prometheus", *arguments], stdout=log, stderr=log)
    try:
        yield f"http://{address}"
        assert process.poll() is None, (folder / "log").read_text()
    finally:
        process.kill()
        process.wait()


def targets(url: str, jobs: int) -> list[dict[str, Any]]:
    """The targets, once Prometheus has some of each job."""
    end = time.monotonic() + 25
    while time.monotonic() < end:
        try:
            with urllib.request.urlopen(url + "/api/v1/targets?state=active", timeout=2) as answer:
                found: list[dict[str, Any]] = json.load(answer)["data"]["activeTargets"]
        except OSError:
            found = []
        if len({target["scrapePool"] for target in found}) == jobs:
            return found
        time.sleep(0.1)
    raise AssertionError("Prometheus did not find targets of every job")


WAYS = {
    "plain": job(plain_configuration(), "functions"),
    "chart": job(chart_configuration(), "functions"),
    "operator": as_the_operator_writes_it(monitors()["functions"]),
}
KNATIVE_WAYS = {
    "knative chart": job(knative_scraping.chart_configuration(), "functions"),
    "knative operator": as_the_operator_writes_it(knative_scraping.monitor("PodMonitor")),
}
PLAIN_DEPLOYMENTS = "deployments"
PROXIES = "queue-proxy"


def deployments_job() -> dict[str, Any]:
    (only,) = yaml.safe_load((ROOT / "deploy/kubernetes/prometheus.yml").read_text())
    assert isinstance(only, dict)
    return only


@pytest.fixture(scope="module")
def scraped(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    """What one Prometheus makes of all jobs: the targets of each."""
    if shutil.which("prometheus") is None:
        pytest.skip("prometheus is not installed")
    pods = [discovered(pod) for pod in PODS]
    everything = [
        *((name, way, pods) for name, way in WAYS.items()),
        (PLAIN_DEPLOYMENTS, deployments_job(), [deployed(pod) for pod in DEPLOYMENTS]),
        *((name, way, knative_scraping.PODS) for name, way in KNATIVE_WAYS.items()),
        (PROXIES, knative_scraping.queue_proxy(), knative_scraping.proxies()),
    ]
    jobs = [
        {"job_name": name, "relabel_configs": way["relabel_configs"], "static_configs": found}
        for name, way, found in everything
    ]
    with prometheus({"scrape_configs": jobs}, tmp_path_factory.mktemp("prometheus")) as url:
        found = targets(url, len(jobs))
    return {name: [each for each in found if each["scrapePool"] == name] for name, _, _ in everything}


def called(target: dict[str, Any], *labels: str) -> tuple[str, ...]:
    """Where a target is scraped, and some of its labels."""
    return target["scrapeUrl"], *(target["labels"][each] for each in labels)


@pytest.mark.e2e
def test_only_functions_that_opted_in_are_scraped_and_they_are_called_as_the_gateway_calls_them(
    scraped: dict[str, list[dict[str, Any]]],
):
    for way in WAYS:
        assert {called(each, "function_name", "replica") for each in scraped[way]} == FOUND, way
    jobs = {target["labels"]["job"] for way in WAYS for target in scraped[way]}
    assert jobs == {"plain", "chart", "functions"}


@pytest.mark.e2e
def test_plain_deployments_are_scraped_under_their_own_names(scraped: dict[str, list[dict[str, Any]]]):
    found = {called(each, "function_name", "replica") for each in scraped[PLAIN_DEPLOYMENTS]}
    assert found == FOUND_DEPLOYMENTS


@pytest.mark.e2e
def test_on_knative_replicas_of_every_revision_are_scraped_under_the_name_of_their_service(
    scraped: dict[str, list[dict[str, Any]]],
):
    for way in KNATIVE_WAYS:
        found = {called(each, "function_name", "revision", "replica") for each in scraped[way]}
        assert found == knative_scraping.FOUND, way


@pytest.mark.e2e
def test_on_knative_the_proxies_are_not_taken_for_replicas(scraped: dict[str, list[dict[str, Any]]]):
    labels = [target["labels"] for target in scraped[PROXIES]]
    assert {each.get("knative_service") for each in labels} == {"tabular.shop", "plain.shop", None}
    assert not any("function_name" in each for each in labels)


def test_the_chart_scrapes_functions_exactly_as_the_plain_configuration_does():
    assert job(chart_configuration(), "functions") == job(plain_configuration(), "functions")


def test_deployments_are_scraped_as_often_as_functions_and_under_the_job_that_the_rules_ask_for():
    (deployments,) = yaml.safe_load((ROOT / "deploy/kubernetes/prometheus.yml").read_text())
    functions = job(plain_configuration(), "functions")
    for key in ("job_name", "scrape_interval", "scrape_timeout"):
        assert deployments[key] == functions[key]


def test_the_operator_scrapes_functions_as_often_as_the_plain_configuration_does():
    (endpoint,) = monitors()["functions"]["spec"]["podMetricsEndpoints"]
    plain = job(plain_configuration(), "functions")
    assert endpoint["interval"] == plain["scrape_interval"]
    assert endpoint["scrapeTimeout"] == plain["scrape_timeout"]


def test_chart_and_operator_scrape_the_same_jobs():
    jobs = {each["job_name"] for each in chart_configuration()["scrape_configs"]}
    relabelled = set()
    for monitor in monitors().values():
        (endpoint,) = monitor["spec"].get("podMetricsEndpoints") or monitor["spec"]["endpoints"]
        relabelled |= {
            step["replacement"] for step in endpoint["relabelings"] if step.get("targetLabel") == "job"
        }
    assert jobs == relabelled == {"functions", "gateway", "autoscaler"}


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_the_charts_configuration_is_valid(tmp_path: Path):
    path = tmp_path / "prometheus.yml"
    path.write_text(yaml.safe_dump(chart_configuration()))
    done = subprocess.run(
        ["promtool", "check", "config", path], capture_output=True, text=True, timeout=50, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_charts_service_has_the_name_and_port_that_gateway_and_autoscaler_look_for():
    server = values()["server"]
    name, port = server["fullnameOverride"], server["service"]["servicePort"]
    config = yaml.safe_load((ROOT / "deploy/openfaas/config.yaml").read_text())
    assert config["prometheus"]["url"] == f"http://{name}.openfaas.svc.cluster.local:{port}"


def test_the_charts_own_jobs_are_off_as_they_would_scrape_functions_twice():
    assert values()["scrapeConfigs"] is None


def test_the_prometheusrule_holds_every_group_of_the_rules_unchanged():
    made = yaml.safe_load((PROMETHEUS / "prometheus-rule.yaml").read_text())
    groups = [group for path in RULES for group in yaml.safe_load(path.read_text())["groups"]]
    assert made["kind"] == "PrometheusRule"
    assert made["spec"] == {"groups": groups}, "run deploy/render.sh"


def test_the_guide_gives_every_rule_file_to_the_chart_under_a_name_that_is_loaded():
    (pattern,) = chart_configuration()["rule_files"]
    assert pattern == "/etc/config/tailbound*.yml"
    given = re.findall(
        r"--set-file 'ruleFiles\.(tailbound[\w-]*)\\\.yml=deploy/prometheus/rules/([\w-]+\.yml)'", GUIDE
    )
    assert sorted(file for _, file in given) == sorted(path.name for path in RULES)
    assert len({key for key, _ in given}) == len(given)


@pytest.mark.parametrize("name", ["functions", "gateway", "slo-autoscaler"])
def test_monitors_stand_in_the_charts_namespace_and_can_be_labelled_together(name: str):
    metadata = monitors()[name]["metadata"]
    assert metadata["namespace"] == "openfaas"
    assert metadata["labels"] == {"app.kubernetes.io/part-of": "tailbound"}
