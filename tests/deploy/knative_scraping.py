"""How pods on Knative are scraped: the configurations, and pods as Prometheus discovers them."""

from pathlib import Path
from typing import Any

import yaml

KNATIVE = Path(__file__).resolve().parents[2] / "deploy/knative"


def values() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((KNATIVE / "prometheus/values.yaml").read_text())
    return loaded


def chart_configuration() -> dict[str, Any]:
    return {"global": values()["server"]["global"], **values()["serverFiles"]["prometheus.yml"]}


def queue_proxy() -> dict[str, Any]:
    (only,) = yaml.safe_load((KNATIVE / "prometheus/queue-proxy.yml").read_text())
    assert isinstance(only, dict)
    return only


def monitor(kind: str) -> dict[str, Any]:
    documents = yaml.safe_load_all((KNATIVE / "prometheus/podmonitor.yaml").read_text())
    (only,) = [each for each in documents if each["kind"] == kind]
    assert isinstance(only, dict)
    return only


def discovered(
    name: str, ip: str, *, scrape: str = "true", phase: str = "Running", port: str = "", **labels: str
) -> dict[str, Any]:
    found = {
        "__meta_kubernetes_namespace": "shop",
        "__meta_kubernetes_pod_name": name,
        "__meta_kubernetes_pod_ip": ip,
        "__meta_kubernetes_pod_phase": phase,
        "__meta_kubernetes_pod_container_port_name": "user-port",
        "__meta_kubernetes_pod_annotation_prometheus_io_scrape": scrape,
        **({"__meta_kubernetes_pod_annotation_prometheus_io_port": port} if port else {}),
    }
    for key, value in labels.items():
        found[f"__meta_kubernetes_pod_label_serving_knative_dev_{key}"] = value
        found[f"__meta_kubernetes_pod_labelpresent_serving_knative_dev_{key}"] = "true"
    return {"targets": [f"{ip}:8080"], "labels": found}


TABULAR = {"service": "tabular", "configuration": "tabular"}
PODS = [
    discovered("old", "127.0.2.1", revision="tabular-00001", port="8081", **TABULAR),
    discovered("new", "127.0.2.2", revision="tabular-00002", port="9999", **TABULAR),
    discovered("bare", "127.0.2.3", revision="plain-00001", configuration="plain"),
    discovered("unasked", "127.0.2.4", revision="x-00001", scrape="false", **TABULAR),
    discovered("ended", "127.0.2.5", revision="tabular-00001", phase="Succeeded", **TABULAR),
    discovered("other", "127.0.2.6", port="8081"),
]
FOUND = {
    ("http://127.0.2.1:8081/metrics", "tabular.shop", "tabular-00001", "old"),
    ("http://127.0.2.2:9999/metrics", "tabular.shop", "tabular-00002", "new"),
    ("http://127.0.2.3:8081/metrics", "plain.shop", "plain-00001", "bare"),
}


def proxies() -> list[dict[str, Any]]:
    """The same pods by the port at which Knative's own metrics are."""
    port = {"__meta_kubernetes_pod_container_port_name": "http-usermetric"}
    return [{**pod, "labels": pod["labels"] | port} for pod in PODS]
