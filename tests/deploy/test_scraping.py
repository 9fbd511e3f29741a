"""How replicas are found and called: plain configurations, the charts' values, the operator's monitors."""

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

from slo_autoscaler.config import Config
from tailbound_lab.local.ports import free_ports

ROOT = Path(__file__).resolve().parents[2]
PROMETHEUS = ROOT / "deploy/prometheus"
KNATIVE = ROOT / "deploy/knative"
Job = dict[str, Any]


def loaded(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def chart(values: Path) -> Job:
    """What the chart makes of its values: ``server.global`` and the lists of ``serverFiles``."""
    given = loaded(values)
    return {"global": given["server"]["global"], **given["serverFiles"]["prometheus.yml"]}


def monitors(path: Path, kind: str = "PodMonitor") -> dict[str, Job]:
    found = [each for each in yaml.safe_load_all(path.read_text()) if each["kind"] == kind]
    return {each["metadata"]["name"]: each["spec"] for each in found}


def functions(configuration: Job) -> Job:
    (found,) = [each for each in configuration["scrape_configs"] if each["job_name"] == "functions"]
    assert isinstance(found, dict)
    return found


def as_the_operator_writes_it(monitor: Job) -> Job:
    """The job of a PodMonitor: its selectors as relabelling, then its own relabelling in snake case."""
    (endpoint,) = monitor["podMetricsEndpoints"]

    def step(source: str, action: str, regex: str) -> Job:
        return {"source_labels": [f"__meta_kubernetes_pod_{source}"], "action": action, "regex": regex}

    present = [
        step("labelpresent_" + re.sub(r"\W", "_", expression["key"]), "keep", "true")
        for expression in monitor["selector"]["matchExpressions"]
    ]
    own = [
        {re.sub("[A-Z]", lambda letter: f"_{letter[0].lower()}", key): value for key, value in each.items()}
        for each in endpoint["relabelings"]
    ]
    return {
        "scrape_interval": endpoint["interval"],
        "scrape_timeout": endpoint["scrapeTimeout"],
        "relabel_configs": [
            step("phase", "drop", "(Failed|Succeeded)"),
            *present,
            step("container_port_name", "keep", endpoint["port"]),
            *own,
        ],
    }


def pods(namespace: str, port: str, *labels: dict[str, str]) -> list[Job]:
    """Pods as Prometheus discovers them, on loopback, as it calls them; ``labels`` begin after ``pod_``."""
    found = []
    for last, each in enumerate(labels, 1):
        ip = f"127.0.1.{last}"
        whole = {
            "namespace": namespace,
            "pod_ip": ip,
            "pod_phase": "Running",
            "pod_container_port_name": port,
        }
        whole |= {f"pod_{key}": value for key, value in each.items()}
        for key in each:
            if key.startswith("label_"):
                whole[f"pod_labelpresent_{key.removeprefix('label_')}"] = "true"
        meta = {f"__meta_kubernetes_{key}": value for key, value in whole.items()}
        found.append({"targets": [f"{ip}:8080"], "labels": meta})
    return found


ASKED = {"annotation_prometheus_io_scrape": "true"}
PORT, SERVICE = "annotation_prometheus_io_port", "label_serving_knative_dev_"
OPENFAAS_PODS = pods(
    "openfaas-fn",
    "http",
    {"name": "vision-1", "label_faas_function": "vision", **ASKED, PORT: "8081"},
    {"name": "vision-2", "label_faas_function": "vision", **ASKED, PORT: "9999"},
    {"name": "no-port", "label_faas_function": "tabular", **ASKED},
    {"name": "did-not-opt-in", "label_faas_function": "other", "annotation_prometheus_io_scrape": "false"},
    {"name": "ended", "label_faas_function": "vision", **ASKED, "phase": "Succeeded"},
    {"name": "no-function", **ASKED, PORT: "8081"},
)
FUNCTIONS_FOUND = {
    ("http://127.0.1.1:8081/metrics", "vision.openfaas-fn", "vision-1"),
    ("http://127.0.1.2:9999/metrics", "vision.openfaas-fn", "vision-2"),
    ("http://127.0.1.3:8081/metrics", "tabular.openfaas-fn", "no-port"),
}
METRICS_PORT = "annotation_tailbound_dev_metrics_port"
DEPLOYMENTS = [
    {"controller_kind": "ReplicaSet", "controller_name": "web-5d9c"} | each
    for each in (
        {"name": "web-5d9c-x", METRICS_PORT: "8081"},
        {"name": "my-model-77f-y", "controller_name": "my-model-77f", METRICS_PORT: "9000"},
        {"name": "no-annotation"},
        {"name": "no-port", METRICS_PORT: "yes"},
        {"name": "of-a-set", "controller_kind": "StatefulSet", METRICS_PORT: "8081"},
        {"name": "ended", METRICS_PORT: "8081", "phase": "Failed"},
    )
]
DEPLOYMENTS_FOUND = {
    ("http://127.0.1.1:8081/metrics", "web.shop", "web-5d9c-x"),
    ("http://127.0.1.2:9000/metrics", "my-model.shop", "my-model-77f-y"),
}
TABULAR = {f"{SERVICE}service": "tabular", f"{SERVICE}configuration": "tabular", **ASKED}
REVISIONS: list[dict[str, str]] = [
    {"name": "old", f"{SERVICE}revision": "tabular-00001", **TABULAR, PORT: "8081"},
    {"name": "new", f"{SERVICE}revision": "tabular-00002", **TABULAR, PORT: "9999"},
    {"name": "bare", f"{SERVICE}revision": "plain-00001", f"{SERVICE}configuration": "plain", **ASKED},
    {
        "name": "unasked",
        f"{SERVICE}revision": "x-00001",
        **TABULAR,
        "annotation_prometheus_io_scrape": "false",
    },
    {"name": "ended", f"{SERVICE}revision": "tabular-00001", **TABULAR, "phase": "Succeeded"},
    {"name": "other", **ASKED, PORT: "8081"},
]
REVISIONS_FOUND = {
    ("http://127.0.1.1:8081/metrics", "tabular.shop", "old", "tabular-00001"),
    ("http://127.0.1.2:9999/metrics", "tabular.shop", "new", "tabular-00002"),
    ("http://127.0.1.3:8081/metrics", "plain.shop", "bare", "plain-00001"),
}

PLAIN = functions(loaded(PROMETHEUS / "prometheus-kubernetes.yml"))
CHART = functions(chart(PROMETHEUS / "values.yaml"))
KNATIVE_PODS = pods("shop", "user-port", *REVISIONS)
# Job -> itself, pods, what is found of them: URL, function, replica, and on Knative the revision.
WAYS: dict[str, tuple[Job, list[Job], set[tuple[str, ...]]]] = {
    "plain": (PLAIN, OPENFAAS_PODS, FUNCTIONS_FOUND),
    "chart": (CHART, OPENFAAS_PODS, FUNCTIONS_FOUND),
    "operator": (
        as_the_operator_writes_it(monitors(PROMETHEUS / "monitors.yaml")["functions"]),
        OPENFAAS_PODS,
        FUNCTIONS_FOUND,
    ),
    "deployments": (
        loaded(ROOT / "deploy/kubernetes/prometheus.yml")[0],
        pods("shop", "http", *DEPLOYMENTS),
        DEPLOYMENTS_FOUND,
    ),
    "knative chart": (functions(chart(KNATIVE / "prometheus/values.yaml")), KNATIVE_PODS, REVISIONS_FOUND),
    "knative operator": (
        as_the_operator_writes_it(*monitors(KNATIVE / "prometheus/podmonitor.yaml").values()),
        KNATIVE_PODS,
        REVISIONS_FOUND,
    ),
}
PROXIES = "queue-proxy"


@contextmanager
def prometheus(configuration: Job, folder: Path) -> Iterator[str]:
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
    end = time.monotonic() + 50
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


@pytest.fixture(scope="module")
def scraped(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What one Prometheus makes of all jobs."""
    if shutil.which("prometheus") is None:
        pytest.skip("prometheus is not installed")
    everything = {name: (way, found) for name, (way, found, _) in WAYS.items()}
    # The same pods by the port at which Knative's own metrics are.
    everything[PROXIES] = (
        loaded(KNATIVE / "prometheus/queue-proxy.yml")[0],
        pods("shop", "http-usermetric", *REVISIONS),
    )
    jobs = [
        {"job_name": name, "relabel_configs": way["relabel_configs"], "static_configs": found}
        for name, (way, found) in everything.items()
    ]
    with prometheus({"scrape_configs": jobs}, tmp_path_factory.mktemp("prometheus")) as url:
        return targets(url, len(jobs))


@pytest.mark.e2e
@pytest.mark.timeout(90)
@pytest.mark.parametrize("way", WAYS)
def test_prometheus_finds_replicas_that_asked_for_it_under_their_functions_name(
    scraped: list[dict[str, Any]], way: str
):
    found = {
        (
            each["scrapeUrl"],
            *(each["labels"].get(label) for label in ("function_name", "replica", "revision")),
        )
        for each in scraped
        if each["scrapePool"] == way
    }
    assert {tuple(part for part in each if part) for each in found} == WAYS[way][2]


@pytest.mark.e2e
@pytest.mark.timeout(90)
def test_prometheus_does_not_take_knatives_proxies_for_replicas(scraped: list[dict[str, Any]]):
    labels = [each["labels"] for each in scraped if each["scrapePool"] == PROXIES]
    assert {each.get("knative_service") for each in labels} == {"tabular.shop", "plain.shop", None}
    assert not any("function_name" in each for each in labels)


def test_every_way_scrapes_as_often_and_the_chart_as_the_plain_configuration():
    assert CHART == PLAIN
    for key in ("scrape_interval", "scrape_timeout"):
        assert {way[key] for way, _, _ in WAYS.values()} == {PLAIN[key]}
    assert WAYS["deployments"][0]["job_name"] == "functions", "which the rules ask for"


def test_chart_and_operator_scrape_the_same_jobs():
    path = PROMETHEUS / "monitors.yaml"
    endpoints = [
        endpoint
        for monitor in (*monitors(path).values(), *monitors(path, "ServiceMonitor").values())
        for endpoint in (monitor.get("podMetricsEndpoints") or monitor["endpoints"])
    ]
    steps = [step for endpoint in endpoints for step in endpoint["relabelings"]]
    relabelled = {step["replacement"] for step in steps if step.get("targetLabel") == "job"}
    jobs = {each["job_name"] for each in chart(PROMETHEUS / "values.yaml")["scrape_configs"]}
    assert jobs == relabelled == {"functions", "gateway", "autoscaler"}


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
@pytest.mark.parametrize("values", [PROMETHEUS / "values.yaml", KNATIVE / "prometheus/values.yaml"])
def test_charts_configuration_is_valid_and_its_own_jobs_are_off(tmp_path: Path, values: Path):
    # They would scrape functions twice.
    assert loaded(values)["scrapeConfigs"] is None
    configuration = chart(values)
    if KNATIVE in values.parents:
        configuration["scrape_configs"] += loaded(KNATIVE / "prometheus/queue-proxy.yml")
    path = tmp_path / "prometheus.yml"
    path.write_text(yaml.safe_dump(configuration))
    done = subprocess.run(
        ["promtool", "check", "config", path], capture_output=True, text=True, timeout=50, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("values", "namespace", "config"),
    [
        (PROMETHEUS / "values.yaml", "openfaas", "openfaas/config.yaml"),
        (KNATIVE / "prometheus/values.yaml", "tailbound", "knative/class/config.yaml"),
        (KNATIVE / "prometheus/values.yaml", "tailbound", "knative/floor/config.yaml"),
    ],
)
def test_charts_service_is_where_the_autoscaler_looks_for_it(values: Path, namespace: str, config: str):
    server = loaded(values)["server"]
    name, port = server["fullnameOverride"], server["service"]["servicePort"]
    asked = Config.parse((ROOT / "deploy" / config).read_text(), config).prometheus.url
    assert asked == f"http://{name}.{namespace}.svc.cluster.local:{port}"


@pytest.mark.parametrize(
    ("guide", "values"),
    [
        ("install-openfaas", PROMETHEUS / "values.yaml"),
        ("install-knative", KNATIVE / "prometheus/values.yaml"),
        ("install-kubernetes", KNATIVE / "prometheus/values.yaml"),
    ],
)
def test_guide_gives_the_rules_to_the_chart_under_names_that_are_loaded(guide: str, values: Path):
    (pattern,) = chart(values)["rule_files"]
    assert pattern == "/etc/config/tailbound*.yml"
    given = dict(
        re.findall(
            r"--set-file 'ruleFiles\.(tailbound[\w-]*)\\\.yml=deploy/prometheus/rules/([\w-]+\.yml)'",
            (ROOT / f"docs/{guide}.md").read_text(),
        )
    )
    files = {path.name for path in (PROMETHEUS / "rules").glob("*.yml")}
    assert set(given.values()) == files - ({"slo-gateway.yml"} if guide != "install-openfaas" else set())
    assert len(given) == len(set(given.values()))


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_guides_queries_of_knatives_own_metrics_are_promql(tmp_path: Path):
    guide = (ROOT / "docs/install-knative.md").read_text()
    queries = re.findall(r"`((?:sum|histogram_quantile)[^`]*queue-proxy[^`]*)`", guide)
    assert queries
    rules = [{"record": f"q:{index}", "expr": query} for index, query in enumerate(queries)]
    path = tmp_path / "rules.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "guide", "rules": rules}]}))
    done = subprocess.run(
        ["promtool", "check", "rules", path], capture_output=True, text=True, timeout=50, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
