"""OpenFaaS: reads and scales functions through the REST API of the gateway or of a provider.

Owns requests, basic auth and names. Makes no decisions. Pitfalls of the contract:

- The gateway clamps counts to 1..5 and still answers 202. Only a second read shows the real count.
- ``GET /system/functions`` has the replicas and labels of every function: one request per namespace. But it
  panics in the gateway while Prometheus is down; a single function can still be read then.
- A count has no version, so a write cannot name the decided one. It is read again just before the write; a
  change by another writer in the milliseconds between is overwritten.
- Go omits zero values: a missing count is 0.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar, Literal
from urllib.parse import quote

import requests
from pydantic import Field, ValidationInfo, field_validator

from slo_autoscaler.errors import (
    ApiError,
    FunctionGoneError,
    PlatformError,
    ScaleChangedError,
    UnreadableError,
    brief,
)
from slo_autoscaler.http.session import Authorization, Secret, open_session
from slo_autoscaler.model import Scale
from slo_autoscaler.platforms import ALL_ACTIVE, keys
from slo_autoscaler.platforms.leader import Leader
from slo_autoscaler.settings.fields import (
    Concurrency,
    Count,
    Namespaces,
    PositiveDuration,
    Tls,
    Url,
    over_https,
    settings,
)
from slo_autoscaler.settings.spec import Modes


@settings
class BasicAuth:
    """Files with the gateway's user and password, as OpenFaaS mounts them; each request reads them again."""

    user_file: str
    """File of the user; surrounding space is ignored."""
    password_file: str
    """File of the password; surrounding space is ignored."""


@settings
class Settings:
    """Functions of OpenFaaS, scaled through its gateway."""

    gateway_url: Url
    """URL of the gateway or provider, whose REST API lists and scales the functions."""
    kind: Literal["openfaas"] = "openfaas"
    """Kind of platform; the default kind."""
    basic_auth: BasicAuth | None = None
    namespaces: Namespaces = ("openfaas-fn",)
    """Namespaces of the functions; each costs one request."""
    timeout: PositiveDuration = 5.0
    """Time limit of each request, with its retries."""
    concurrency: Concurrency = 8
    """Number of parallel requests; watches come on top."""
    cap: Count | None = None
    """Maximum number of replicas that the platform grants (OpenFaaS CE: 5). None: learned from refusals."""
    cap_retry: PositiveDuration = 300.0
    """Time after which a refused count is requested again."""

    tls: Tls = Field(default_factory=Tls)
    """TLS for the gateway; ``strict`` also applies to the Kubernetes API of the Lease."""

    wakes: ClassVar[bool] = True
    on_kubernetes: ClassVar[bool] = False

    @field_validator("tls")
    @classmethod
    def _over_https(cls, tls: Tls, info: ValidationInfo) -> Tls:
        return over_https(tls, info.data.get("gateway_url"))

    @property
    def place(self) -> str:
        """URL and namespaces, for the log."""
        return f"{self.gateway_url}, {' '.join(self.namespaces)}"

    @property
    def cluster(self) -> tuple[str | None, str | None, bool | None]:
        """The gateway's API server is that of our pod."""
        return None, None, self.tls.strict


class OpenFaas:
    """The functions of one gateway, in some namespaces."""

    def __init__(self, config: Settings, _leader: Leader, modes: Modes = ALL_ACTIVE) -> None:
        """Open a session. Raises ``ConfigError`` if a file with credentials is missing.

        Writes only on the controller's request, so it needs no leader.
        """
        self._config = config
        self._modes = modes
        self._written: dict[str, int] = {}
        """Own writes that the gateway does not report yet."""
        auth = None
        if config.basic_auth is not None:
            user = Secret("platform.basic_auth.user_file", config.basic_auth.user_file)
            password = Secret("platform.basic_auth.password_file", config.basic_auth.password_file)
            auth = Authorization(password, user)
        # No retries: the next reconcile retries. One kept connection per caller.
        self._session = open_session(
            config.gateway_url,
            "platform",
            tls=config.tls,
            auth=auth,
            connections=config.concurrency,
        )

    def scales(self) -> dict[str, Scale | PlatformError]:
        """Return replicas and bounds of every function of the configured namespaces."""
        scales: dict[str, Scale | PlatformError] = {}
        for namespace in self._config.namespaces:
            statuses = self._get("/system/functions", namespace)
            if not isinstance(statuses, list):
                raise PlatformError(f"{self._config.gateway_url}/system/functions: not a list")
            for status in statuses:
                name = status.get("name") if isinstance(status, dict) else None
                if not isinstance(name, str) or not name:
                    raise PlatformError(f"{self._config.gateway_url}/system/functions: an entry has no name")
                function_name = f"{name}.{status.get('namespace') or namespace}"
                try:
                    scales[function_name] = self._scale(function_name, status)
                except PlatformError as error:
                    scales[function_name] = error
        return scales

    def scale(self, function_name: str) -> Scale:
        """Return replicas and bounds of one function."""
        return self._scale(function_name, self._status(function_name))

    def set_scale(self, function_name: str, replicas: int, seen: Scale) -> None:
        """Request a count, unless the gateway reports another one than the decision assumed."""
        name, namespace = _split(function_name)
        own = self._written.get(function_name)
        count = _count(function_name, self._status(function_name), "replicas")
        if count not in (seen.desired, replicas, own):
            raise ScaleChangedError(
                f"{function_name}: another writer has set the count to {count} where it was {seen.desired}"
            )
        body = {"serviceName": name, "replicas": replicas, "namespace": namespace}
        try:
            self._request("POST", f"/system/scale-function/{quote(name)}", namespace, body)
        except FunctionGoneError as error:
            # It was there a moment ago: the provider, or a proxy before it, has no such route.
            raise ApiError(str(error), 404) from error
        self._written[function_name] = replicas

    def waiting(self) -> dict[str, float]:
        """Return none: the gateway wakes a function by itself."""
        return {}

    def announce(self, function_name: str, reason: str, message: str) -> None:
        """Do nothing: the gateway has no events."""

    def denied(self) -> dict[str, str]:
        """Return nothing: a gateway has one user for all namespaces."""
        return {}

    def watchdogs(self) -> dict[str, str]:
        """Return none: the gateway does not tell the addresses of replicas."""
        return {}

    def close(self) -> None:
        """Close connections."""
        self._session.close()

    def _status(self, function_name: str) -> Mapping[str, Any]:
        name, namespace = _split(function_name)
        status = self._get(f"/system/function/{quote(name)}", namespace)
        if not isinstance(status, dict):
            raise PlatformError(f"{function_name}: the status is not an object")
        return status

    def _scale(self, function_name: str, status: Mapping[str, Any]) -> Scale:
        labels, annotations = status.get("labels"), status.get("annotations")
        texts = keys.OPENFAAS.texts(
            labels if isinstance(labels, dict) else {}, annotations if isinstance(annotations, dict) else {}
        )
        desired = _count(function_name, status, "replicas")
        if self._written.get(function_name) == desired:
            self._written.pop(function_name, None)
        try:
            available = _count(function_name, status, "availableReplicas")
        except PlatformError as error:
            raise UnreadableError(str(error), desired) from error
        observed = partial(Scale, desired=desired, available=available, cap=self._config.cap)
        return keys.OPENFAAS.declared(function_name, observed, keys.OPENFAAS.read(texts), self._modes)

    def _get(self, path: str, namespace: str) -> Any:
        response = self._request("GET", path, namespace, None)
        try:
            return response.json()
        except ValueError as error:
            raise PlatformError(f"GET {response.url}: not JSON: {response.text[:80]!r}") from error

    def _request(
        self, method: str, path: str, namespace: str, body: Mapping[str, object] | None
    ) -> requests.Response:
        """Return a 200 or 202; the only place that converts exceptions and statuses to our errors."""
        url = self._config.gateway_url + path
        try:
            response = self._session.request(
                method,
                url,
                params={"namespace": namespace},
                json=body,
                timeout=self._config.timeout,
                allow_redirects=False,
            )
        except requests.RequestException as error:
            raise PlatformError(f"{method} {url}: {brief(error)}") from error
        if response.status_code == 404:
            raise FunctionGoneError(f"{method} {url}: 404, not found in namespace {namespace}")
        if response.status_code not in (200, 202):
            hint = ", check platform.basic_auth" if response.status_code == 401 else ""
            text = response.text.strip()[:120]
            what = f"{method} {url}: status {response.status_code}{hint}: {text!r}"
            raise ApiError(what, response.status_code)
        return response


def write_hold(_config: Settings, function_name: str, text: str | None) -> None:
    """Raise ``PlatformError`` with the deployment that makes the hold: the gateway cannot annotate."""
    how = (
        f"without the annotation {keys.OPENFAAS_HOLD}"
        if text is None
        else f"with the annotation {keys.OPENFAAS_HOLD}: {text}"
    )
    raise PlatformError(f"{function_name}: the gateway annotates only what it deploys; deploy it {how}")


def _split(function_name: str) -> tuple[str, str]:
    name, _, namespace = function_name.rpartition(".")
    return name, namespace


def _count(function_name: str, status: Mapping[str, Any], key: str) -> int:
    value = status.get(key, 0)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise PlatformError(f"{function_name}: {key} {value!r} must be a whole number of at least 0")
    return value
