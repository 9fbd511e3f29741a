"""Writes what is made from other files: ``python deploy/helm/render.py``, which ``make manifests`` runs.

The manifests are the chart's output, and the PrometheusRule has the rules of ``deploy/prometheus/rules``.
"""

import json
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import yaml

DEPLOY: Final = Path(__file__).resolve().parents[1]
CHART: Final = DEPLOY / "helm/slo-autoscaler"
NAMESPACES: Final = {
    "openfaas": "openfaas",
    "kubernetes": "tailbound",
    "knative-class": "tailbound-knative",
    "knative-floor": "tailbound-knative-floor",
}
"""Platform -> the namespace of the autoscaler in guides and manifests."""
MANIFESTS: Final = {
    "openfaas": "autoscaler.yaml",
    "kubernetes": "autoscaler-kubernetes.yaml",
    "knative-class": "autoscaler-knative-class.yaml",
    "knative-floor": "autoscaler-knative-floor.yaml",
}
RULE: Final = DEPLOY / "prometheus/prometheus-rule.yaml"
HEADER: Final = """\
# kubectl apply -f deploy/{name}
# `make manifests` renders it from deploy/helm/slo-autoscaler, whose files/{platform}/config.yaml explains
# each key of the configuration. To change a value, render the chart with it: docs/howto/autoscaler.md.
"""
RULE_HEADER: Final = """\
# For the Prometheus operator: the rules of deploy/prometheus/rules/, made by `make manifests`.
# Your Prometheus' ruleSelector must match its labels; kube-prometheus-stack wants release: <its name>.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: tailbound
  namespace: openfaas
  labels:
    app.kubernetes.io/part-of: tailbound
spec:
  groups:
"""


def template(values: Mapping[str, Any], namespace: str) -> list[str]:
    """Return the YAML of each object of the chart, by ``helm template`` or by helm's engine as a library.

    Raises helm's error if its schema refuses the values.
    """
    if shutil.which("helm"):
        command = [
            "helm",
            "template",
            "slo-autoscaler",
            str(CHART),
            "--namespace",
            namespace,
            "--values",
            "-",
        ]
        done = subprocess.run(command, input=json.dumps(values), capture_output=True, text=True, check=True)  # noqa: S603 its arguments are ours
        texts = [done.stdout]
    else:
        import helm_python  # noqa: PLC0415 absent where no wheel is

        with helm_python.Chart.load(CHART) as chart:
            chart.validate_schema(dict(values))
            rendered = chart.render(dict(values), name="slo-autoscaler", namespace=namespace)
        texts = [text for name, text in rendered.items() if name.endswith(".yaml")]
    lines = "\n---\n".join(texts).splitlines()
    whole = "\n".join(line.rstrip() for line in lines if not line.startswith("# Source: "))
    parts = (part.strip() for part in f"\n{whole}\n".split("\n---\n"))
    return [part for part in parts if part]


def manifest(platform: str) -> str:
    """Return the text of a platform's manifest: its namespace first, which all others need."""
    # The namespace of OpenFaaS is its chart's: kubectl delete would take OpenFaaS with it.
    values = {"platform": platform, "createNamespace": platform != "openfaas"}
    objects = {text: yaml.safe_load(text) for text in template(values, NAMESPACES[platform])}
    order = sorted(
        objects, key=lambda text: (objects[text]["kind"] != "Namespace", objects[text]["kind"], text)
    )
    return HEADER.format(name=MANIFESTS[platform], platform=platform) + "\n---\n".join(order) + "\n"


def prometheus_rule() -> str:
    """Return the PrometheusRule: the groups of every rule file, with their comments."""
    files = sorted((DEPLOY / "prometheus/rules").glob("*.yml"))
    lines = [
        line for path in files for line in path.read_text().splitlines() if not line.startswith("groups:")
    ]
    return RULE_HEADER + "".join(f"  {line}".rstrip() + "\n" for line in lines)


if __name__ == "__main__":
    for platform, name in MANIFESTS.items():
        (DEPLOY / name).write_text(manifest(platform))
    RULE.write_text(prometheus_rule())
