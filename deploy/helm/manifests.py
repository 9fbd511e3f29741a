"""Writes what is made from other files: ``python deploy/helm/manifests.py``, which ``make manifests`` runs.

The schema of the chart's values: ``config`` is the autoscaler's own configuration, so its part is made from
the sections that read it. Every key is optional, as the chart lays ``config`` over the platform's defaults.
The autoscaler checks rules across keys. The manifests: the chart's output.
"""

import json
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import yaml
from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from slo_autoscaler.config import Config, platform_section
from slo_autoscaler.platforms import PLATFORMS
from slo_autoscaler.settings import fields
from slo_autoscaler.settings.fields import MODES
from slo_autoscaler.settings.spec import Spec

Json = dict[str, Any]

DEPLOY: Final = Path(__file__).resolve().parents[1]
CHART: Final = DEPLOY / "helm/slo-autoscaler"
SCHEMA: Final = CHART / "values.schema.json"
NAMESPACES: Final = {
    "openfaas": "openfaas",
    "kubernetes": "tailbound",
    "knative-class": "tailbound-knative",
}
"""Platform -> the namespace of the autoscaler in guides and manifests."""
HEADER: Final = """\
# kubectl apply -f deploy/{name}
# `make manifests` renders it from deploy/helm/slo-autoscaler, whose files/{platform}/config.yaml explains
# each key of the configuration. To change a value, render the chart with it: docs/install.md.
"""
DURATION: Final[Json] = {
    "anyOf": [
        {"type": "number", "minimum": 0},
        {"type": "string", "pattern": r"^(\d+(\.\d*)?|((\d+(\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h))+)$"},
    ]
}
TEXT: Final[Json] = {"type": "string"}
NAME: Final[Json] = {"type": "string", "minLength": 1}
FLAG: Final[Json] = {"type": "boolean"}
OBJECT: Final[Json] = {"type": "object"}
OBJECTS: Final[Json] = {"type": "array", "items": OBJECT}
TEXTS: Final[Json] = OBJECT | {"additionalProperties": TEXT}


class ConfigSchema(GenerateJsonSchema):
    """The schema of what may be written, where a rule is a function that pydantic cannot look into."""

    def function_before_schema(self, schema: core_schema.BeforeValidatorFunctionSchema) -> JsonSchemaValue:
        """Name durations and modes as they are written, before they are seconds and words."""
        rule = getattr(schema["function"]["function"], "__name__", "")
        if rule == fields.parse_duration.__name__:
            return DURATION
        if rule == "_mode":
            return {"enum": [*MODES, False]}
        if rule == "_headers":
            return OBJECT | {"additionalProperties": {"type": ["string", "integer"]}}
        if rule == "_url":
            return TEXT | {"pattern": "^https?://"}
        return super().function_before_schema(schema)

    def function_plain_schema(self, schema: core_schema.PlainValidatorFunctionSchema) -> JsonSchemaValue:
        """Accept the section of each platform."""
        return {"anyOf": [self.generate_inner(_core(platform_section(kind))) for kind in PLATFORMS]}

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        """Leave defaults to the program: they are not JSON before they are checked."""
        return self.generate_inner(schema["schema"])


def _core(section: type) -> core_schema.CoreSchema:
    return TypeAdapter(section).core_schema


def optional(schema: Any) -> Any:
    """Return the schema without required keys, pydantic's own words, and docstrings."""
    if isinstance(schema, list):
        return [optional(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {key: optional(value) for key, value in schema.items() if key not in {"required", "gt", "ge"}}
    texts = {"title", "description"}
    return {key: value for key, value in kept.items() if key not in texts or not isinstance(value, str)}


def section(**properties: Json) -> Json:
    """Return the schema of a mapping that has these keys and no other."""
    return OBJECT | {"additionalProperties": False, "properties": properties}


def values() -> Json:
    """Return the schema of values.yaml."""
    config = optional(TypeAdapter(Config).json_schema(schema_generator=ConfigSchema, mode="validation"))
    definitions = config.pop("$defs", {})
    spec = definitions["Spec"]["properties"]
    for name in spec.keys() - fields.keys(Spec).keys():
        del spec[name]
    properties = {
        # The chart itself refuses the last one, and says what does its work.
        "platform": {"enum": [*NAMESPACES, "knative-floor"]},
        "config": config,
        "createNamespace": FLAG,
        "maxMode": {"enum": [mode for mode in MODES if mode != "off"]},
        "name": TEXT | {"maxLength": 40, "pattern": "^([a-z0-9]([a-z0-9-]*[a-z0-9])?)?$"},
        "image": section(
            repository=NAME,
            tag=TEXT,
            digest={"type": "string", "pattern": "^(sha256:[0-9a-f]{64})?$"},
            pullPolicy={"enum": ["Always", "IfNotPresent", "Never"]},
            pullSecrets={"type": "array", "items": NAME},
        ),
        "replicas": {"type": "integer", "minimum": 0},
        "resources": OBJECT,
        "priorityClassName": TEXT,
        "extraRules": OBJECTS,
        "env": OBJECTS,
        "extraVolumes": OBJECTS,
        "extraVolumeMounts": OBJECTS,
        "podSecurityContext": OBJECT,
        "securityContext": OBJECT,
        "serviceAccount": section(create=FLAG, name=TEXT, annotations=OBJECT),
        "boost": section(enabled=FLAG, requests=FLAG),
        "gateway": section(secret=TEXT),
        "prometheus": section(secret=TEXT),
        "podDisruptionBudget": section(enabled=FLAG),
        "networkPolicy": section(
            enabled=FLAG, namespaces={"type": "array", "items": NAME}, **{"from": OBJECTS}
        ),
        "scalePolicy": section(enabled=FLAG),
        "uninstallHook": {"type": ["boolean", "null"]},
        "monitoring": section(serviceMonitor=FLAG, podMonitors=FLAG, rules=FLAG, labels=TEXTS),
        "dashboards": section(enabled=FLAG, labels=TEXTS, annotations=TEXTS),
        "podAnnotations": TEXTS,
        "nodeSelector": TEXTS,
        "tolerations": OBJECTS,
        "affinity": OBJECT,
        # Where the chart is a part of another.
        "enabled": FLAG,
        "global": OBJECT,
    }
    whole = {"$schema": "http://json-schema.org/draft-07/schema#", **section(**properties)}
    text = json.dumps(whole | {"definitions": definitions})
    moved: Json = json.loads(text.replace("#/$defs/", "#/definitions/"))
    return moved


def schema() -> str:
    """Return the text of the schema, with a line for each key of the chart and each definition."""
    members = {key: json.dumps(value, ensure_ascii=False) for key, value in values().items()}
    for key in ("properties", "definitions"):
        inner = (f'"{name}": {json.dumps(part, ensure_ascii=False)}' for name, part in values()[key].items())
        members[key] = "{{\n{}\n}}".format(",\n".join(inner))
    return "{{\n{}\n}}\n".format(",\n".join(f'"{key}": {text}' for key, text in members.items()))


def template(values: Mapping[str, Any], namespace: str, release: str = "slo-autoscaler") -> list[str]:
    """Return the YAML of each object of the chart, by ``helm template`` or by helm's engine as a library.

    Raises helm's error if its schema refuses the values.
    """
    if shutil.which("helm"):
        command = [
            "helm",
            "template",
            release,
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
            rendered = chart.render(dict(values), name=release, namespace=namespace)
        texts = [text for name, text in rendered.items() if name.endswith(".yaml")]
    lines = "\n---\n".join(texts).splitlines()
    whole = "\n".join(line.rstrip() for line in lines if not line.startswith("# Source: "))
    parts = (part.strip() for part in f"\n{whole}\n".split("\n---\n"))
    return [part for part in parts if part]


def hook(rendered: Json) -> str:
    """Return the event of Helm for which alone an object is there: ``test``, ``pre-delete``; else nothing."""
    annotations: Json = rendered["metadata"].get("annotations", {})
    event = str(annotations.get("helm.sh/hook", ""))
    return event if event in {"test", "pre-delete"} else ""


def path(platform: str) -> Path:
    """Return where a platform's manifest is."""
    return DEPLOY / ("autoscaler.yaml" if platform == "openfaas" else f"autoscaler-{platform}.yaml")


def manifest(platform: str) -> str:
    """Return the text of a platform's manifest: its namespace first, which all others need."""
    # The namespace of OpenFaaS is its chart's: kubectl delete would take OpenFaaS with it.
    values = {"platform": platform, "createNamespace": platform != "openfaas"}
    rendered = {text: yaml.safe_load(text) for text in template(values, NAMESPACES[platform])}
    objects = {text: each for text, each in rendered.items() if not hook(each)}
    order = sorted(
        objects, key=lambda text: (objects[text]["kind"] != "Namespace", objects[text]["kind"], text)
    )
    return HEADER.format(name=path(platform).name, platform=platform) + "\n---\n".join(order) + "\n"


if __name__ == "__main__":
    SCHEMA.write_text(schema(), encoding="utf-8")
    for platform in NAMESPACES:
        path(platform).write_text(manifest(platform))
