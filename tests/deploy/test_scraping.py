"""How replicas are found and called: plain configurations, the charts' values, the operator's monitors."""

import json
import re
import shutil
import urllib.request
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
import yaml

from deploy.test_chart import RENDERS, rendered
from support.doubles import a_prometheus, exposing
from support.promtool import needs_promtool, promtool
from support.waits import until

ROOT = Path(__file__).resolve().parents[2]
PROMETHEUS = ROOT / "deploy/prometheus"
KNATIVE = ROOT / "deploy/knative"
KUBERNETES = ROOT / "deploy/kubernetes"
# Values of a chart -> the rights of its Prometheus, and its namespace.
RIGHTS = {
    PROMETHEUS / "values.yaml": (PROMETHEUS / "rights.yaml", "openfaas"),
    KNATIVE / "prometheus/values.yaml": (KNATIVE / "prometheus/rights.yaml", "monitoring"),
    KUBERNETES / "prometheus/values.yaml": (KUBERNETES / "prometheus/rights.yaml", "monitoring"),
}
Job = dict[str, Any]


def loaded(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def chart(values: Path) -> Job:
    """What the chart makes of its values: ``server.global`` and the lists of ``serverFiles``."""
    given = loaded(values)
    return {"global": given["server"]["global"], **given["serverFiles"]["prometheus.yml"]}


def monitor(platform: str) -> Job:
    """The PodMonitor of functions, as the autoscaler's chart has it."""
    documents = rendered(platform=platform, monitoring={"podMonitors": True})
    (found,) = [each for each in documents if each["metadata"]["name"] == "slo-autoscaler-functions"]
    spec: Job = found["spec"]
    return spec


def job(configuration: Job, name: str) -> Job:
    (found,) = [each for each in configuration["scrape_configs"] if each["job_name"] == name]
    assert isinstance(found, dict)
    return found


def as_the_operator_writes_it(monitor: Job) -> Job:
    """The job of a PodMonitor: its selectors as relabelling, then its own relabelling in snake case."""
    (endpoint,) = monitor["podMetricsEndpoints"]

    def step(source: str, action: str, regex: str) -> Job:
        return {"source_labels": [f"__meta_kubernetes_pod_{source}"], "action": action, "regex": regex}

    present = [
        step("labelpresent_" + re.sub(r"\W", "_", expression["key"]), "keep", "true")
        for expression in monitor["selector"].get("matchExpressions", [])
    ]
    own, of_samples = (
        [
            {
                re.sub("[A-Z]", lambda letter: f"_{letter[0].lower()}", key): value
                for key, value in each.items()
            }
            for each in endpoint[steps]
        ]
        for steps in ("relabelings", "metricRelabelings")
    )
    return {
        "scrape_interval": endpoint["interval"],
        "scrape_timeout": endpoint["scrapeTimeout"],
        "sample_limit": monitor["sampleLimit"],
        "body_size_limit": monitor["bodySizeLimit"],
        "label_value_length_limit": monitor["labelValueLengthLimit"],
        "relabel_configs": [
            step("phase", "drop", "(Failed|Succeeded)"),
            *present,
            {"source_labels": ["__meta_kubernetes_pod_container_name"], "target_label": "container"},
            *own,
        ],
        "metric_relabel_configs": of_samples,
    }


def pods(namespace: str, port: str, *labels: dict[str, str]) -> list[Job]:
    """Pods as Prometheus discovers them, on loopback, as it calls them; ``labels`` begin after ``pod_``.

    Each has a sidecar with a port of its own, so two entries.
    """
    found = []
    for last, each in enumerate(labels, 1):
        ip = f"127.0.1.{last}"
        whole = {"ip": ip, "phase": "Running", "container_port_name": port} | each
        whole |= {
            key.replace("label_", "labelpresent_", 1): "true" for key in each if key.startswith("label_")
        }
        meta = {f"__meta_kubernetes_pod_{key}": value for key, value in whole.items()}
        meta["__meta_kubernetes_namespace"] = namespace
        sidecar = {f"__meta_kubernetes_pod_container{key}": "sidecar" for key in ("_name", "_port_name")}
        found += [
            {"targets": [f"{ip}:8080"], "labels": meta},
            {"targets": [f"{ip}:9901"], "labels": meta | sidecar},
        ]
    return found


ASKED, UNASKED = ({"annotation_prometheus_io_scrape": word} for word in ("true", "false"))
PORT, SERVICE = "annotation_prometheus_io_port", "label_serving_knative_dev_"
OPENFAAS_PODS = pods(
    "openfaas-fn",
    "http",
    {"name": "vision-1", "label_faas_function": "vision", **ASKED, PORT: "8081"},
    {"name": "vision-2", "label_faas_function": "vision", **ASKED, PORT: "9999"},
    {"name": "no-port", "label_faas_function": "tabular", **ASKED},
    {"name": "did-not-opt-in", "label_faas_function": "other", **UNASKED},
    {"name": "ended", "label_faas_function": "vision", **ASKED, "phase": "Succeeded"},
    {"name": "no-function", **ASKED, PORT: "8081"},
    {"name": "ipv6", "label_faas_function": "vision", **ASKED, PORT: "9999", "ip": "fd00::5"},
    {"name": "ipv6-no-port", "label_faas_function": "vision", **ASKED, "ip": "fd00::6"},
)
FUNCTIONS_FOUND = {
    ("http://127.0.1.1:8081/metrics", "vision.openfaas-fn", "vision-1"),
    ("http://127.0.1.2:9999/metrics", "vision.openfaas-fn", "vision-2"),
    ("http://127.0.1.3:8081/metrics", "tabular.openfaas-fn", "no-port"),
    ("http://[fd00::5]:9999/metrics", "vision.openfaas-fn", "ipv6"),
    ("http://[fd00::6]:8081/metrics", "vision.openfaas-fn", "ipv6-no-port"),
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
        {"name": "without-a-function", "controller_name": "bare", METRICS_PORT: "8081"},
        {"name": "ended", METRICS_PORT: "8081", "phase": "Failed"},
        {"name": "ipv6", METRICS_PORT: "8081", "ip": "fd00::5"},
    )
]
DEPLOYMENTS_FOUND = {
    ("http://127.0.1.1:8081/metrics", "web.shop", "web-5d9c-x"),
    ("http://127.0.1.2:9000/metrics", "my-model.shop", "my-model-77f-y"),
    ("http://[fd00::5]:8081/metrics", "web.shop", "ipv6"),
}
TABULAR = {f"{SERVICE}service": "tabular", f"{SERVICE}configuration": "tabular", **ASKED}
REVISIONS: list[dict[str, str]] = [
    {"name": "old", f"{SERVICE}revision": "tabular-00001", **TABULAR, PORT: "8081"},
    {"name": "new", f"{SERVICE}revision": "tabular-00002", **TABULAR, PORT: "9999"},
    {"name": "bare", f"{SERVICE}revision": "plain-00001", f"{SERVICE}configuration": "plain", **ASKED},
    {"name": "unasked", f"{SERVICE}revision": "x-00001", **TABULAR, **UNASKED},
    {"name": "ended", f"{SERVICE}revision": "tabular-00001", **TABULAR, "phase": "Succeeded"},
    {"name": "other", **ASKED, PORT: "8081"},
    {"name": "without-a-function", f"{SERVICE}revision": "bare", **ASKED},
    {"name": "ipv6", f"{SERVICE}revision": "tabular-00002", **TABULAR, PORT: "8081", "ip": "fd00::5"},
]
REVISIONS_FOUND = {
    ("http://127.0.1.1:8081/metrics", "tabular.shop", "old", "tabular-00001"),
    ("http://127.0.1.2:9999/metrics", "tabular.shop", "new", "tabular-00002"),
    ("http://127.0.1.3:8081/metrics", "plain.shop", "bare", "plain-00001"),
    ("http://[fd00::5]:8081/metrics", "tabular.shop", "ipv6", "tabular-00002"),
}

PLAIN = job(loaded(PROMETHEUS / "prometheus-kubernetes.yml"), "functions")
CHART = job(chart(PROMETHEUS / "values.yaml"), "functions")
DEPLOYMENT = job(chart(KUBERNETES / "prometheus/values.yaml"), "functions")
KNATIVE_CHART = job(chart(KNATIVE / "prometheus/values.yaml"), "functions")
KNATIVE_PODS = pods("shop", "user-port", *REVISIONS)
# Job -> itself, pods, what is found of them: URL, function, replica, and on Knative the revision.
WAYS: dict[str, tuple[Job, list[Job], set[tuple[str, ...]]]] = {
    "plain": (PLAIN, OPENFAAS_PODS, FUNCTIONS_FOUND),
    "deployments": (DEPLOYMENT, pods("shop", "http", *DEPLOYMENTS), DEPLOYMENTS_FOUND),
    "knative chart": (KNATIVE_CHART, KNATIVE_PODS, REVISIONS_FOUND),
}
if RENDERS:
    WAYS |= {
        f"operator on {platform}": (as_the_operator_writes_it(monitor(platform)), *WAYS[way][1:])
        for platform, way in (
            ("openfaas", "plain"),
            ("kubernetes", "deployments"),
            ("knative-class", "knative chart"),
        )
    }
# The same pods by the port at which Knative's own metrics are.
PROXIES = (loaded(KNATIVE / "prometheus/queue-proxy.yml")[0], pods("shop", "http-usermetric", *REVISIONS))
INSTANCE = "label_app_kubernetes_io_instance"
AUTOSCALERS = pods(
    "tailbound",
    "metrics",
    *(
        {"name": name, "label_app_kubernetes_io_name": "slo-autoscaler", INSTANCE: release}
        for name, release in (("leader", "first"), ("standby", "first"), ("other", "second"))
    ),
)


@pytest.fixture(scope="module")
def scraped(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Job]]:
    """What one Prometheus makes of all jobs: the targets of each."""
    if shutil.which("prometheus") is None:
        pytest.skip("prometheus is not installed")
    everything = {"proxies": PROXIES} | {name: (way, found) for name, (way, found, _) in WAYS.items()}
    everything |= {str(values): (job(chart(values), "autoscaler"), AUTOSCALERS) for values in RIGHTS}
    jobs = [
        {"job_name": name, "relabel_configs": way["relabel_configs"], "static_configs": found}
        for name, (way, found) in everything.items()
    ]

    def targets_of_every_job() -> dict[str, list[Job]]:
        targets: dict[str, list[Job]] = {}
        with urllib.request.urlopen(prometheus.url + "/api/v1/targets?state=active", timeout=10) as answer:
            for target in json.load(answer)["data"]["activeTargets"]:
                targets.setdefault(target["scrapePool"], []).append(target)
        return targets if targets.keys() == everything.keys() else {}

    with a_prometheus(tmp_path_factory.mktemp("prometheus"), {}, jobs) as prometheus:
        return until(targets_of_every_job, "there are targets of every job")


@pytest.mark.e2e
@pytest.mark.parametrize("way", WAYS)
def test_prometheus_finds_replicas_that_asked_for_it_under_their_functions_name(scraped, way):
    labels = ("function_name", "replica", "revision")
    found = [(each["scrapeUrl"], *filter(None, map(each["labels"].get, labels))) for each in scraped[way]]
    assert sorted(found) == sorted(WAYS[way][2])


@pytest.mark.e2e
def test_prometheus_does_not_take_knatives_proxies_for_replicas(scraped):
    labels = [each["labels"] for each in scraped["proxies"]]
    assert {each.get("knative_service") for each in labels} == {"tabular.shop", "plain.shop", None}
    assert not any("function_name" in each for each in labels)


@pytest.mark.e2e
@pytest.mark.parametrize("values", RIGHTS)
def test_prometheus_gives_each_release_of_the_autoscaler_a_job_of_its_own(scraped, values):
    jobs = sorted(each["labels"]["job"] for each in scraped[str(values)])
    assert jobs == ["first", "first", "second"]


OF_OTHERS = (
    'gateway_service_count{function_name="victim.openfaas-fn"}',
    'slo_autoscaler_desired_replicas{function_name="victim.openfaas-fn"}',
    'slo_autoscaler_info{identity="ours"}',
    "prometheus_tsdb_wal_storage_size_bytes",
    'ALERTS{alertname="AutoscalerDown",alertstate="firing"}',
    'slo:error_budget_remaining:ratio{view="watchdog"}',
    'job_namespace:slo_autoscaler_reconcile_seconds_count:rate5m{namespace="tailbound"}',
    'function_name:replicas_desired:max{function_name="victim.openfaas-fn"}',
    "up",
)
"""Series of the gateway, of autoscalers, of Prometheus and of its rules."""


@pytest.mark.e2e
def test_page_of_a_function_says_nothing_of_others(tmp_path):
    said = [*OF_OTHERS, 'slo_requests_total{function_name="victim.openfaas-fn",job="gateway"}']
    page = "".join(f"{series} 7\n" for series in said)
    with closing(exposing(lambda _: page)) as liar:
        static = [{"targets": [liar.address], "labels": {"function_name": "liar.openfaas-fn"}}]
        kept = {key: PLAIN[key] for key in ("sample_limit", "body_size_limit", "metric_relabel_configs")}
        with a_prometheus(
            tmp_path, {}, [{"job_name": "functions", "static_configs": static, **kept}]
        ) as server:

            def scraped():
                query = urlencode({"query": f'{{instance="{liar.address}"}} == 7'})
                with urllib.request.urlopen(f"{server.url}/api/v1/query?{query}", timeout=10) as answer:
                    return [each["metric"] for each in json.load(answer)["data"]["result"]]

            (series,) = until(scraped, "the page is scraped")
            assert (series["__name__"], series["job"]) == ("slo_requests_total", "functions")
            assert series["function_name"] == "liar.openfaas-fn"


def test_proxies_of_knative_say_nothing_of_functions():
    names, labels = PROXIES[0]["metric_relabel_configs"]
    assert (names["action"], labels) == ("keep", {"action": "labeldrop", "regex": "function_name"})
    assert not any(re.fullmatch(names["regex"], re.split(r"\W", series)[0]) for series in OF_OTHERS)


def test_every_way_scrapes_as_often_and_the_chart_as_the_plain_configuration():
    assert CHART == PLAIN
    limits = ("sample_limit", "body_size_limit", "label_value_length_limit", "metric_relabel_configs")
    for key in ("scrape_interval", "scrape_timeout", *limits):
        assert all(way[key] == PLAIN[key] for way, _, _ in WAYS.values()), key
    assert DEPLOYMENT["job_name"] == "functions", "which the rules ask for"


@pytest.mark.parametrize("values", RIGHTS)
def test_charts_prometheus_drops_the_oldest_days_before_its_volume_is_full(values):
    server = loaded(values)["server"]
    kept = float(server["retentionSize"].removesuffix("GB")) * 1e9
    volume = float(server["persistentVolume"]["size"].removesuffix("Gi")) * 2**30
    assert kept <= 0.8 * volume, "the write-ahead log and a compaction need the rest"


@needs_promtool
@pytest.mark.parametrize("values", RIGHTS)
def test_charts_configuration_is_valid_and_its_own_jobs_are_off(tmp_path, values):
    # They would scrape functions twice.
    assert loaded(values)["scrapeConfigs"] is None
    configuration = chart(values)
    if KNATIVE in values.parents:
        configuration["scrape_configs"] += loaded(KNATIVE / "prometheus/queue-proxy.yml")
    path = tmp_path / "prometheus.yml"
    path.write_text(yaml.safe_dump(configuration))
    done = promtool("check", "config", path)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("values", RIGHTS)
def test_charts_prometheus_may_look_at_pods_where_its_jobs_do_and_at_nothing_else(values):
    path, namespace = RIGHTS[values]
    given = loaded(values)
    assert given["rbac"] == {"create": False}, "the chart's own role covers nodes and every ConfigMap"
    documents = list(yaml.safe_load_all(path.read_text()))
    roles = [each for each in documents if each["kind"] in ("Role", "ClusterRole")]
    bindings = [each for each in documents if each not in roles]
    pods_alone = [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]}]
    assert all(each["rules"] == pods_alone for each in roles)
    account = {"kind": "ServiceAccount", "name": given["serviceAccounts"]["server"]["name"]}
    assert [each["subjects"] for each in bindings] == [[account | {"namespace": namespace}]] * len(roles)
    assert [each["roleRef"]["name"] for each in bindings] == [each["metadata"]["name"] for each in roles]
    jobs = chart(values)["scrape_configs"]
    discoveries = [each for way in jobs for each in way.get("kubernetes_sd_configs", ())]
    everywhere = any("namespaces" not in each for each in discoveries)
    named = {name for each in discoveries for name in each.get("namespaces", {"names": []})["names"]}
    assert {each["metadata"].get("namespace") for each in roles} == ({None} if everywhere else named)
    # Discovery of the Alertmanager would need the cluster's pods, too.
    (alertmanager,) = given["server"]["alertmanagers"]
    assert alertmanager.keys() == {"static_configs"}


@pytest.mark.parametrize("values", RIGHTS, ids=lambda path: path.parent.parent.name)
def test_guide_gives_the_rules_to_the_chart_under_names_that_are_loaded(values):
    (pattern,) = chart(values)["rule_files"]
    assert pattern == "/etc/config/tailbound*.yml"
    given = dict(
        re.findall(
            r"ruleFiles\.(tailbound[\w-]*)\\\.yml=deploy/helm/slo-autoscaler/files/rules/([\w-]+\.yml)'",
            (ROOT / "docs/install.md").read_text(),
        )
    )
    files = {path.name for path in (ROOT / "deploy/helm/slo-autoscaler/files/rules").glob("*.yml")}
    assert set(given.values()) == files
    assert len(given) == len(set(given.values()))
