"""Parses deployment bodies into frozen values, and builds statuses from them. [P]

Owns the JSON of OpenFaaS' provider contract (faas-provider ``types/function_deployment.go`` and
``types/requests.go``): key names, required keys, the rules of names. ``provider`` reads bodies and answers
with it; ``functions`` keeps the values.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from tailbound_lab.local.errors import InvalidRequestError

DEFAULT_NAMESPACE: Final = "openfaas-fn"
MIN_LABEL: Final = "com.openfaas.scale.min"
MAX_LABEL: Final = "com.openfaas.scale.max"

_DNS_LABEL: Final = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_SECRET_NAME: Final = re.compile(r"[a-z0-9]([-.a-z0-9]{0,251}[a-z0-9])?")
_MAX_REPLICAS_IN_BODY: Final = 10_000
"""Maximum replicas in a request: a typing error must not exhaust the machine's processes."""


@dataclass(frozen=True, slots=True)
class FunctionSpec:
    """The parts of a deployment that have an effect here, without limits and constraints.

    ``labels`` and ``annotations`` return to clients unchanged.
    """

    name: str
    image: str
    namespace: str = DEFAULT_NAMESPACE
    env_process: str = ""
    env_vars: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    secrets: tuple[str, ...] = ()

    @property
    def full_name(self) -> str:
        """``<name>.<namespace>``: the value of every ``function_name`` label."""
        return f"{self.name}.{self.namespace}"

    @property
    def initial_replicas(self) -> int:
        """Replicas of a new function: the ``com.openfaas.scale.min`` label, else 1 (faas-netes does so)."""
        text = self.labels.get(MIN_LABEL, "")
        return max(1, int(text)) if text.isascii() and text.isdigit() else 1

    def status(self, *, replicas: int, available: int, invocations: int, created_at: str) -> dict[str, Any]:
        """Return a FunctionStatus; ``created_at`` is RFC 3339, because Go clients reject other texts."""
        status: dict[str, Any] = {
            "name": self.name,
            "image": self.image,
            "namespace": self.namespace,
            "replicas": replicas,
            "availableReplicas": available,
            "invocationCount": invocations,
            "labels": dict(self.labels),
            "annotations": dict(self.annotations),
            "createdAt": created_at,
        }
        optional = {
            "envProcess": self.env_process,
            "envVars": dict(self.env_vars),
            "secrets": list(self.secrets),
        }
        return status | {key: value for key, value in optional.items() if value}


def parse_deployment(body: object, query_namespace: str = "") -> FunctionSpec:
    """Return a FunctionDeployment body as a spec; the query's namespace takes precedence over the body's.

    Raises ``InvalidRequestError`` that names key, value and rule.
    """
    document = _mapping(body, "the body")
    name = _text(document, "service")
    if not name:
        raise InvalidRequestError("service: required: the function's name")
    _check_label("service", name)
    image = _text(document, "image")
    if not image:
        raise InvalidRequestError(f"image: required to deploy {name}")
    namespace = query_namespace or _text(document, "namespace") or DEFAULT_NAMESPACE
    _check_label("namespace", namespace)
    secrets = _text_list(document, "secrets")
    for secret in secrets:
        _check_secret_name("secrets", secret)
    return FunctionSpec(
        name=name,
        image=image,
        namespace=namespace,
        env_process=_text(document, "envProcess"),
        env_vars=_text_map(document, "envVars"),
        labels=_text_map(document, "labels"),
        annotations=_text_map(document, "annotations"),
        secrets=secrets,
    )


def parse_scale(body: object) -> tuple[int, str]:
    """Return (replicas, namespace) of a scale request; the name is in its path.

    Zero is valid, as in OpenFaaS Pro: a request wakes the function again. A body without ``replicas`` is
    refused, so that a mistake does not stop a function.
    """
    document = _mapping(body, "the body")
    replicas = document.get("replicas")
    if not isinstance(replicas, int) or isinstance(replicas, bool):
        raise InvalidRequestError(f"replicas: {replicas!r} must be a whole number")
    if replicas < 0:
        raise InvalidRequestError(f"replicas: {replicas} must be at least 0")
    if replicas > _MAX_REPLICAS_IN_BODY:
        raise InvalidRequestError(f"replicas: {replicas} must be at most {_MAX_REPLICAS_IN_BODY}")
    return replicas, _text(document, "namespace")


def parse_delete(body: object) -> tuple[str, str]:
    """Return (name, namespace) of a delete request."""
    document = _mapping(body, "the body")
    name = _text(document, "functionName")
    if not name:
        raise InvalidRequestError("functionName: required: the function to remove")
    return name, _text(document, "namespace")


def parse_secret_name(body: object) -> tuple[str, str, Mapping[str, Any]]:
    """Return (name, namespace, the complete document) of a secret request."""
    document = _mapping(body, "the body")
    name = _text(document, "name")
    _check_secret_name("name", name)
    return name, _text(document, "namespace"), document


def _check_label(key: str, value: str) -> None:
    """Raise ``InvalidRequestError`` unless ``value`` is a DNS label, as Kubernetes requires."""
    if not _DNS_LABEL.fullmatch(value):
        raise InvalidRequestError(
            f"{key}: {value!r} must be a DNS label: 1 to 63 lower-case letters, digits or '-', beginning and "
            "ending with a letter or digit"
        )


def _check_secret_name(key: str, name: str) -> None:
    if not _SECRET_NAME.fullmatch(name):
        raise InvalidRequestError(
            f"{key}: {name!r} must be 1 to 253 lower-case letters, digits, '-' or '.', beginning and ending "
            "with a letter or digit"
        )


def _mapping(value: object, where: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise InvalidRequestError(f"{where} must be a JSON object")
    return value


def _text(document: Mapping[str, Any], key: str) -> str:
    value = document.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise InvalidRequestError(f"{key}: {value!r} must be a string")
    return value


def _text_map(document: Mapping[str, Any], key: str) -> dict[str, str]:
    value = document.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
        raise InvalidRequestError(f"{key}: must be an object whose values are strings")
    return dict(value)


def _text_list(document: Mapping[str, Any], key: str) -> tuple[str, ...]:
    value = document.get(key)
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise InvalidRequestError(f"{key}: must be a list of strings")
    return tuple(value)
