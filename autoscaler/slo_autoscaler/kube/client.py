"""Sends requests to the Kubernetes API; objects are plain dicts.

Owns connections, credentials, time limits, retries and the translation of errors. Knows no kind of object;
``informer`` keeps lists current with it. The kubernetes package provides credentials and their renewal, TLS,
proxies and the pool of connections. These parts of it are not used:

- Typed methods: 1,000 small Deployments take 0.33 s of CPU as its models and 0.04 s as dicts (version 37,
  AMD EPYC, November 2026). Knative's kinds have no models.
- ``Watch``: without models it raises ``KeyError`` for an ERROR event, and it ignores bookmarks.

Pitfalls:

- urllib3 retries three times within one call and has no timeout, unless both are set.
- A socket timeout restarts with every byte, so a whole answer has a deadline as well.
- A silent watch may be dead. Each watch asks the server to end it in time; a longer read is an error.
- Custom objects reject the package's strategic patches, so patches are merge patches unless asked otherwise.
"""

import json
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlencode

import urllib3
from kubernetes.client import ApiClient, Configuration
from kubernetes.config import (
    ConfigException,
    list_kube_config_contexts,
    load_incluster_config,
    load_kube_config,
)
from urllib3.exceptions import HTTPError

from slo_autoscaler import __version__
from slo_autoscaler.errors import (
    ApiError,
    ConfigError,
    ConflictError,
    ForbiddenError,
    GoneError,
    NotFoundError,
    PlatformError,
    ScaleChangedError,
    UnreachableError,
    brief,
)
from slo_autoscaler.http.session import tls_context

Document = dict[str, Any]
"""An object in the API's JSON."""

PAGE: Final = 500
"""Objects per page of a list."""
FIRST_DELAY: Final = 0.1
"""Seconds before the first retry; each further one doubles it."""
LONGEST_DELAY: Final = 30.0
"""Maximum seconds between two tries."""

SCALE_TRIES: Final = 4
"""Tries of a write of a count. While pods start, the status changes about ten times a second."""

JSON: Final = "application/json"
MERGE: Final = "application/merge-patch+json"
STRATEGIC: Final = "application/strategic-merge-patch+json"

_CHUNK: Final = 1 << 16
_NAMESPACE_FILE: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_KINDS: Final[Mapping[int, type[ApiError]]] = {
    401: ForbiddenError,
    403: ForbiddenError,
    404: NotFoundError,
    409: ConflictError,
    410: GoneError,
}
_RETRIED: Final = (429, 500, 502, 503, 504)


@dataclass(frozen=True, slots=True)
class Resource:
    """A kind of object by its path: ``Resource("apps/v1", "deployments")``."""

    api: str
    """``v1`` for the core group."""
    plural: str

    def path(
        self, namespace: str | None = None, name: str | None = None, subresource: str | None = None
    ) -> str:
        """Return the path of all objects, of a namespace's, of one object, or of its subresource."""
        steps = ["/api/v1" if self.api == "v1" else f"/apis/{self.api}"]
        if namespace is not None:
            steps += ["namespaces", quote(namespace, safe="")]
        steps.append(self.plural)
        steps += [quote(step, safe="") for step in (name, subresource) if step is not None]
        return "/".join(steps)


class KubeApi:
    """One API server; every method may be called from several threads at once."""

    def __init__(
        self,
        kubeconfig: str | None = None,
        context: str | None = None,
        strict: bool | None = None,
        *,
        timeout: float,
        connections: int,
    ) -> None:
        """Read the credentials; send no request yet. Raises ``ConfigError``.

        ``kubeconfig`` None is the pod's service account, or outside a cluster the file in KUBECONFIG, else
        ~/.kube/config. ``strict`` is that of ``session.tls_context``. ``timeout`` limits each call with its
        retries; ``connections`` limits the kept connections.
        """
        configuration, self.namespace = _loaded(kubeconfig, context)
        configuration.retries = False
        configuration.connection_pool_maxsize = connections
        self._configuration = configuration
        self._client = ApiClient(configuration)
        self._pool: urllib3.PoolManager = self._client.rest_client.pool_manager
        if strict is not None and configuration.verify_ssl:
            file = "KUBECONFIG" if kubeconfig is None else "platform.kubeconfig"
            self._pool.connection_pool_kw |= _checked(configuration, file, strict)
        self.timeout = timeout
        """Time limit of a call with its retries, in seconds."""
        self._closed = threading.Event()

    def scaled_resource(self, api: str, kind: str) -> "Resource":
        """Return the resource of a kind with a scale subresource, such as ``apps/v1`` and ``StatefulSet``.

        Every user may ask this. Raises ``PlatformError`` if there is none.
        """
        path = "/api/v1" if api == "v1" else f"/apis/{api}"
        offered = {
            str(offer.get("name")): offer.get("kind")
            for offer in self.get(path, patient=False).get("resources") or ()
        }
        plural = next(
            (name for name, its_kind in offered.items() if its_kind == kind and "/" not in name), None
        )
        if plural is None or f"{plural}/scale" not in offered:
            raise NotFoundError(f"GET {path}: there is no {kind} with a scale subresource", 404)
        return Resource(api, plural)

    def get(self, path: str, *, patient: bool = True) -> Document:
        """Return one object. Raises ``PlatformError``, as all of these methods do.

        ``patient`` waits and retries while the server is too busy (429, 5xx); all tries together take at most
        the timeout.
        """
        return self._request("GET", path, patient=patient)

    def pages(
        self, path: str, query: Mapping[str, str] | None = None
    ) -> Iterator[tuple[list[Document], str]]:
        """Yield the pages of a list, each with the list's resourceVersion."""
        position: str | None = None
        while position != "":
            where = {"limit": str(PAGE), **(query or {}), **({"continue": position} if position else {})}
            page = self._request("GET", path, where, patient=True)
            items, metadata = page.get("items"), page.get("metadata")
            if not isinstance(metadata, dict) or not isinstance(items, list | None):
                raise PlatformError(f"GET {path}: not a list of objects")
            yield items or [], str(metadata.get("resourceVersion", ""))
            position = str(metadata.get("continue") or "")

    def create(self, path: str, body: Mapping[str, Any], *, patient: bool = True) -> Document:
        """Create an object; ``ConflictError`` if it exists already."""
        return self._request("POST", path, None, body, patient=patient)

    def patch(
        self, path: str, body: Mapping[str, Any], *, patient: bool = True, strategic: bool = False
    ) -> Document:
        """Change an object, or its subresource, and return it.

        With ``metadata.resourceVersion`` in the body, ``ConflictError`` if the object has another version.
        ``strategic`` merges lists by name, such as a pod's containers; only for Kubernetes' own kinds.
        """
        kind = STRATEGIC if strategic else MERGE
        return self._request("PATCH", path, None, body, patient=patient, kind=kind)

    def annotate(self, path: str, key: str, text: str | None) -> Document:
        """Write an annotation of an object, or remove it (None), and return the object."""
        return self.patch(path, {"metadata": {"annotations": {key: text}}})

    def scale(
        self,
        path: str,
        version: str,
        before: int,
        replicas: int,
        *,
        may_retry: Callable[[], bool] = lambda: True,
    ) -> str:
        """Write a count to a scale subresource; return the object's new resourceVersion.

        The write names the ``version`` that showed ``before`` replicas at the decision. So a delayed write
        that arrives after another writer's fails: ``ScaleChangedError``. If only the status has changed, the
        version is read again, while ``may_retry()`` holds and within the time of one call.
        """
        end = time.monotonic() + self.timeout
        for left in reversed(range(SCALE_TRIES)):
            body = {"metadata": {"resourceVersion": version}, "spec": {"replicas": replicas}}
            try:
                return version_of(self._request("PATCH", path, None, body, end=end, kind=MERGE))
            except ConflictError:
                scale = self._request("GET", path, end=end)
                now, version = (scale.get("spec") or {}).get("replicas", 0), version_of(scale)
                if now == replicas:
                    return version
                if now != before:
                    why = f"another writer has set the count to {now} where it was {before}"
                    raise ScaleChangedError(f"PATCH {path}: {why}") from None
                if not left or not may_retry():
                    raise
        raise AssertionError("the last try returns or raises")

    def replace(self, path: str, body: Mapping[str, Any], *, patient: bool = True) -> Document:
        """Write a whole object; ``ConflictError`` if it has changed since it was read."""
        return self._request("PUT", path, None, body, patient=patient)

    def watch(self, path: str, query: Mapping[str, str], seconds: float) -> "Stream":
        """Watch a list for ``seconds``."""
        where = {"watch": "true", "timeoutSeconds": str(max(1, round(seconds))), **query}
        silence = seconds + self.timeout
        return Stream(self._open("GET", path, where, timeout=self.timeout, silence=silence), f"watch {path}")

    def close(self) -> None:
        """Close connections, and stop waiting for a busy server."""
        self._closed.set()
        self._pool.clear()
        self._client.close()

    def _request(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        *,
        patient: bool = True,
        end: float | None = None,
        kind: str = JSON,
    ) -> Document:
        """``kind`` is the type of the body. ``end``, on the monotonic clock, limits this call and others."""
        end = time.monotonic() + self.timeout if end is None else end
        for delay in delays():
            # Rounded, so that the same failure has the same message and is logged once.
            left = round(end - time.monotonic(), 2)
            what = f"{method} {path}"
            if left <= 0:
                raise UnreachableError(f"{what}: no time left within the timeout")
            try:
                response = self._open(method, path, query, body=body, kind=kind, timeout=left, silence=left)
                return _document(what, _whole(what, response, end))
            except ApiError as error:
                # A creation that failed within the server may have taken effect, so it is not retried.
                again = error.status == 429 or (error.status in _RETRIED and method != "POST")
                wait = max(delay, error.retry_after or 0.0)
                if not (patient and again) or time.monotonic() + wait >= end or self._closed.wait(wait):
                    raise
        raise AssertionError("delays never end")

    def _open(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        *,
        body: Mapping[str, Any] | None = None,
        kind: str = JSON,
        timeout: float,
        silence: float,
    ) -> urllib3.BaseHTTPResponse:
        """Return an answer with an unread body; the only place that converts statuses to our errors."""
        headers = {"Accept": "application/json", "User-Agent": f"slo-autoscaler/{__version__}"}
        # Read for each request, because the token of a service account is renewed.
        settings: Mapping[str, Any] = self._configuration.auth_settings()
        for setting in settings.values():
            if setting["in"] == "header" and setting["value"]:
                headers[setting["key"]] = setting["value"]
        if body is not None:
            headers["Content-Type"] = kind
        url = self._configuration.host.rstrip("/") + path + (f"?{urlencode(query)}" if query else "")
        what = f"{method} {path}"
        try:
            response = self._pool.request(
                method,
                url,
                headers=headers,
                body=None if body is None else json.dumps(body).encode(),
                timeout=urllib3.Timeout(connect=timeout, read=silence),
                retries=False,
                redirect=False,
                preload_content=False,
            )
        except HTTPError as error:
            raise UnreachableError(f"{what}: {brief(error)}") from error
        if response.status >= 300:
            raise _refusal(what, response, _whole(what, response, time.monotonic() + timeout))
        return response


class Stream:
    """The events of a watch, until it ends or is closed."""

    def __init__(self, response: urllib3.BaseHTTPResponse, what: str) -> None:
        self._response = response
        self._what = what

    def __iter__(self) -> Iterator[Document]:
        """Yield {type, object} until the server ends the watch; raise ``PlatformError`` if it breaks.

        An event of type ERROR is raised, as ``GoneError`` if the watch must begin with a new list.
        """
        rest = b""
        try:
            while chunk := self._response.read1(_CHUNK):
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    if line.strip():
                        yield self._event(line)
        except HTTPError as error:
            raise UnreachableError(f"{self._what}: {brief(error)}") from error
        finally:
            self._response.close()

    def close(self) -> None:
        """End the watch from another thread, also while it waits for an event."""
        with suppress(OSError, RuntimeError, ValueError):
            self._response.shutdown()

    def _event(self, line: bytes) -> Document:
        event = _document(self._what, line)
        document = event.get("object")
        if not isinstance(document, dict):
            raise PlatformError(f"{self._what}: an event without an object")
        if event.get("type") == "ERROR":
            status = document.get("code")
            raise _error(self._what, status if isinstance(status, int) else 500, document, None)
        return event


def version_of(document: Mapping[str, Any]) -> str:
    """Return the resourceVersion of an object; empty where it has none."""
    return str((document.get("metadata") or {}).get("resourceVersion") or "")


def delays() -> Iterator[float]:
    """Yield the seconds before each further try: doubled each time, with random jitter of up to half."""
    for attempt in count():
        delay = min(FIRST_DELAY * 2 ** min(attempt, 16), LONGEST_DELAY)
        yield delay * random.uniform(0.5, 1.0)  # noqa: S311 - a spread, nothing secret


def _whole(what: str, response: urllib3.BaseHTTPResponse, end: float) -> bytes:
    """Read a body until ``end`` at the latest."""
    parts = []
    try:
        while part := response.read1(_CHUNK):
            parts.append(part)
            if time.monotonic() > end:
                raise UnreachableError(f"{what}: the answer was not complete in time")
    except HTTPError as error:
        raise UnreachableError(f"{what}: {brief(error)}") from error
    finally:
        # After a complete body the connection is back in the pool; after a partial one it is unusable.
        response.close()
    return b"".join(parts)


def _document(what: str, text: bytes) -> Document:
    try:
        document = json.loads(text)
    except ValueError as error:
        raise PlatformError(f"{what}: not JSON: {text[:80]!r}") from error
    if not isinstance(document, dict):
        raise PlatformError(f"{what}: not an object")
    return document


def _refusal(what: str, response: urllib3.BaseHTTPResponse, body: bytes) -> ApiError:
    try:
        status = json.loads(body)
    except ValueError:
        status = None
    if not isinstance(status, dict):
        status = {"message": body[:120].decode(errors="replace").strip()}
    after = response.headers.get("Retry-After", "")
    return _error(what, response.status, status, float(after) if after.isdecimal() else None)


def _error(what: str, code: int, status: Document, retry_after: float | None) -> ApiError:
    """Return the error for a Status object of the API."""
    reason, message = str(status.get("reason", "")), str(status.get("message", ""))[:300]
    kind = _KINDS.get(code, ApiError)
    return kind(f"{what}: status {code} {reason}: {message}", code, reason, retry_after)


def _checked(configuration: Configuration, file: str, strict: bool) -> dict[str, Any]:
    """Return the pool's arguments for our TLS checks, for which the package has no setting.

    ``file`` is the setting that names the kubeconfig, for errors.

    The context holds the client certificate from the start: loading one for each connection is not safe
    while other threads open theirs. The package still adds the CAs for each connection.
    """
    context = tls_context(strict)
    if configuration.ssl_ca_cert is None and configuration.ca_cert_data is None:
        context.load_default_certs()
    if configuration.cert_file is not None:
        try:
            # An empty password makes an encrypted key fail; without one OpenSSL prompts on the terminal.
            context.load_cert_chain(configuration.cert_file, configuration.key_file, password="")
        except OSError as error:
            why = f"client certificate and key must be a pair of PEM without a password: {error}"
            raise ConfigError([f"{file}: {why}"]) from None
    return {"ssl_context": context, "cert_file": None, "key_file": None}


def namespace_of(kubeconfig: str | None, context: str | None) -> str:
    """Return the namespace that goes with the credentials. Raises ``ConfigError``."""
    return _loaded(kubeconfig, context)[1]


def _loaded(kubeconfig: str | None, context: str | None) -> tuple[Configuration, str]:
    """Return credentials with the address, and their namespace."""
    configuration = Configuration()
    try:
        if kubeconfig is None and context is None:
            with suppress(ConfigException):
                load_incluster_config(client_configuration=configuration)
                with suppress(OSError):
                    return configuration, _NAMESPACE_FILE.read_text(encoding="utf-8").strip() or "default"
                return configuration, "default"
        load_kube_config(kubeconfig, context, client_configuration=configuration, persist_config=False)
        contexts, active = list_kube_config_contexts(kubeconfig)
        chosen = next((entry for entry in contexts if entry["name"] == context), active)
        return configuration, str(chosen["context"].get("namespace") or "default")
    except Exception as error:  # the package and its YAML reader raise many kinds
        why = " ".join(str(error).split())[:200]
        if kubeconfig is not None:
            raise ConfigError([f"platform.kubeconfig: {kubeconfig}: {why}"]) from None
        raise ConfigError(
            [
                "no credentials of a Kubernetes cluster: run in a pod with a service account, or name a file"
                f" in KUBECONFIG (default ~/.kube/config): {why}"
            ]
        ) from None
