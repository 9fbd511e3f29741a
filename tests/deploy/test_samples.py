"""The samples beside the chart: a Service of Knative, and what acts on recommended counts."""

from urllib.parse import urlsplit

import yaml

from batching_watchdog.config import Config
from deploy.test_chart import DEPLOY, ROOT, configuration, known_to_kubernetes, rendered
from slo_autoscaler.show.web.listener import DESIRED


def test_service_for_knative_is_the_stacks_function_and_fits_the_watchdog():
    template = yaml.safe_load((DEPLOY / "knative/my-model.yaml").read_text())["spec"]["template"]
    (sample,) = template["spec"]["containers"]
    environ = {each["name"]: each["value"] for each in sample["env"]}
    stack = yaml.safe_load((ROOT / "stack.yml").read_text())["functions"]["tabular"]
    assert stack["environment"].items() <= environ.items()
    assert sample["resources"] == {key: stack[key] for key in ("requests", "limits")}
    (port,) = sample["ports"]
    config = Config.from_env(environ | {"PORT": str(port["containerPort"])}, cpus=2.0)
    annotations = template["metadata"]["annotations"]
    assert annotations["prometheus.io/port"] == str(config.metrics_port)
    # Knative refuses the way back to its own class where a metric of another is set.
    assert "autoscaling.knative.dev/metric" not in annotations
    stop = config.healthcheck_interval + config.drain_timeout + 3
    assert template["spec"]["timeoutSeconds"] > stop


def test_deployment_sample_has_no_field_that_kubernetes_does_not_know():
    known_to_kubernetes(*yaml.safe_load_all((DEPLOY / "kubernetes/my-model.yaml").read_text()))


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
    assert trigger["metadata"]["url"].endswith(f"{DESIRED}{function}")
    (one, other) = scaled["spec"], hpa["spec"]
    assert (one["minReplicaCount"], one["maxReplicaCount"]) == (other["minReplicas"], other["maxReplicas"])
    assert one["advanced"]["horizontalPodAutoscalerConfig"]["behavior"] == other["behavior"]


def test_values_for_the_operator_name_its_prometheus_and_make_its_objects():
    text = (DEPLOY / "prometheus/operator-values.yaml").read_text()
    documents = rendered(platform="kubernetes", **yaml.safe_load(text))
    kinds = {each["kind"] for each in documents if each["apiVersion"] == "monitoring.coreos.com/v1"}
    assert kinds == {"PodMonitor", "PrometheusRule", "ServiceMonitor"}
    page = (ROOT / "docs/howto/prometheus.md").read_text()
    url = configuration(documents).prometheus.url
    assert f"--external-name {urlsplit(url).hostname}\n" in page
