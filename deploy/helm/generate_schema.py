"""Writes the schema of the chart's values: ``python deploy/helm/generate_schema.py``.

``config`` is the autoscaler's own configuration, so its part is made from the sections that read it. Every
key is optional, as the chart lays ``config`` over the platform's defaults. The autoscaler checks rules across
keys.
"""

import json
from pathlib import Path
from typing import Any, Final

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from slo_autoscaler import fields
from slo_autoscaler.config import Config, platform_section
from slo_autoscaler.fields import MODES
from slo_autoscaler.platforms import PLATFORMS
from slo_autoscaler.spec import Spec

Json = dict[str, Any]

CHART: Final = Path(__file__).parent / "slo-autoscaler"
PLATFORM_VALUES: Final = ("openfaas", "kubernetes", "knative-class", "knative-floor")
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
        "platform": {"enum": list(PLATFORM_VALUES)},
        "config": config,
        "createNamespace": FLAG,
        "maxMode": {"enum": [mode for mode in MODES if mode != "off"]},
        "name": NAME | {"maxLength": 40, "pattern": "^[a-z0-9]([a-z0-9-]*[a-z0-9])?$"},
        "image": section(
            repository=NAME,
            tag=TEXT,
            digest={"type": "string", "pattern": "^(sha256:[0-9a-f]{64})?$"},
            pullPolicy={"enum": ["Always", "IfNotPresent", "Never"]},
            pullSecrets={"type": "array", "items": NAME},
        ),
        "replicas": {"type": "integer", "minimum": 0},
        "resources": OBJECT,
        "serviceAccount": section(create=FLAG, name=TEXT, annotations=OBJECT),
        "gateway": section(secret=TEXT),
        "prometheus": section(secret=TEXT),
        "podDisruptionBudget": section(enabled=FLAG),
        "networkPolicy": section(enabled=FLAG, **{"from": {"type": "array", "items": OBJECT}}),
        "podAnnotations": OBJECT | {"additionalProperties": TEXT},
        "nodeSelector": OBJECT | {"additionalProperties": TEXT},
        "tolerations": {"type": "array", "items": OBJECT},
        "affinity": OBJECT,
        "global": OBJECT,  # Helm adds it where the chart is a part of another
    }
    schema = {"$schema": "http://json-schema.org/draft-07/schema#", **section(**properties)}
    whole = json.dumps(schema | {"definitions": definitions})
    moved: Json = json.loads(whole.replace("#/$defs/", "#/definitions/"))
    return moved


def text() -> str:
    """Return the file's text."""
    return json.dumps(values(), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    (CHART / "values.schema.json").write_text(text(), encoding="utf-8")
