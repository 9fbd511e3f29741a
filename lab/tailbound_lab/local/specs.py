"""Parses deployment bodies into frozen values, and builds statuses from them. [P]

Owns the JSON of OpenFaaS' provider contract (faas-provider ``types/function_deployment.go`` and
``types/requests.go``): key names, required keys, the rules of names. ``provider`` reads bodies and answers
with it; ``functions`` keeps the values.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Annotated, Any, Final, NotRequired, TypeVar, cast

from pydantic import Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict  # pydantic takes typing's from Python 3.12 on

from tailbound_lab.local.errors import InvalidRequestError

DEFAULT_NAMESPACE: Final = "openfaas-fn"
MIN_LABEL: Final = "com.openfaas.scale.min"

_Label = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$")]
"""A DNS label, as Kubernetes requires of names of functions and namespaces."""
_MAX_REPLICAS: Final = 10_000
"""Maximum replicas in a request or a label: a typing error must not exhaust the machine's processes."""


@dataclass(frozen=True, slots=True)
class FunctionSpec:
    """The parts of a deployment that have an effect here: neither constraints nor secrets.

    Of ``limits`` only ``cpu`` has one. ``labels`` and ``annotations`` return to clients unchanged.
    """

    name: str
    image: str
    namespace: str = DEFAULT_NAMESPACE
    env_process: str = ""
    env_vars: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    limits: Mapping[str, str] = field(default_factory=dict)

    @property
    def cpus(self) -> float | None:
        """CPUs of one replica; None without a limit, or with 0, which is none in Kubernetes."""
        return _cpus(self.limits.get("cpu", "0")) or None

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
            "limits": dict(self.limits),
        }
        return status | {key: value for key, value in optional.items() if value}


_Cpu = Annotated[str, Field(pattern=r"^(\d+m|\d+(\.\d+)?)$")]


class _Limits(TypedDict):
    cpu: NotRequired[_Cpu]
    memory: NotRequired[str]


class _Deployment(TypedDict):
    service: _Label
    image: str
    namespace: NotRequired[_Label]
    envProcess: NotRequired[str]
    envVars: NotRequired[dict[str, str]]
    labels: NotRequired[dict[str, str]]
    annotations: NotRequired[dict[str, str]]
    limits: NotRequired[_Limits]


class _Scale(TypedDict):
    replicas: Annotated[int, Field(strict=True, ge=0, le=_MAX_REPLICAS)]
    namespace: NotRequired[str]


class _Removal(TypedDict):
    functionName: str
    namespace: NotRequired[str]


def parse_deployment(body: object, query_namespace: str = "") -> FunctionSpec:
    """Return a FunctionDeployment body as a spec; the query's namespace takes precedence over the body's.

    Raises ``InvalidRequestError`` that names key, value and rule.
    """
    deployment = _read(_Deployment, body, query_namespace)
    least = deployment.get("labels", {}).get(MIN_LABEL, "")
    if least.isascii() and least.isdigit() and Decimal(least) > _MAX_REPLICAS:
        raise InvalidRequestError(f"labels.{MIN_LABEL}: {least!r} must be at most {_MAX_REPLICAS}")
    return FunctionSpec(
        name=deployment["service"],
        image=deployment["image"],
        namespace=deployment.get("namespace", DEFAULT_NAMESPACE),
        env_process=deployment.get("envProcess", ""),
        env_vars=deployment.get("envVars", {}),
        labels=deployment.get("labels", {}),
        annotations=deployment.get("annotations", {}),
        limits=cast("dict[str, str]", deployment.get("limits", {})),
    )


def parse_scale(body: object) -> tuple[int, str]:
    """Return (replicas, namespace) of a scale request; the name is in its path.

    Zero is valid, as in OpenFaaS Pro: a request wakes the function again. A body without ``replicas`` is
    refused, so that a mistake does not stop a function.
    """
    scale = _read(_Scale, body)
    return scale["replicas"], scale.get("namespace", "")


def parse_resize(body: object) -> float:
    """Return the CPU limit in a strategic merge patch of a pod's one container."""
    try:
        (container,) = body["spec"]["containers"]  # type: ignore[index] # else TypeError
        return _cpus(TypeAdapter(_Cpu).validate_python(container["resources"]["limits"]["cpu"]))
    except (KeyError, TypeError, ValueError):  # pydantic's is a ValueError
        raise InvalidRequestError(
            "spec: must have one container with resources.limits.cpu, a quantity like 500m or 0.5"
        ) from None


def parse_removal(body: object) -> tuple[str, str]:
    """Return (name, namespace) of a delete request."""
    removal = _read(_Removal, body)
    return removal["functionName"], removal.get("namespace", "")


def _cpus(quantity: str) -> float:
    """Return the CPUs in a Kubernetes quantity: 500m or 0.5."""
    return float(quantity[:-1]) / 1000 if quantity.endswith("m") else float(quantity)


_Body = TypeVar("_Body")


def _read(kind: type[_Body], body: object, query_namespace: str = "") -> _Body:
    """Return a body by its rules. To Go's encoder empty values, null among them, are as good as none."""
    if not isinstance(body, dict):
        raise InvalidRequestError("the body must be a JSON object")
    document = body | {"namespace": query_namespace or body.get("namespace")}
    given = {key: value for key, value in document.items() if value not in (None, "", [], {})}
    try:
        return TypeAdapter(kind).validate_python(given)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        place = ".".join(map(str, fault["loc"]))
        value = "" if fault["type"] == "missing" else f"{fault['input']!r}: "
        raise InvalidRequestError(f"{place}: {value}{fault['msg']}") from None
