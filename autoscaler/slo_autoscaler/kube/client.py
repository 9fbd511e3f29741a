"""Sends requests to the Kubernetes API; objects are plain dicts.

Owns connections, credentials, time limits, retries and the translation of errors. Knows no kind of object;
``informer`` keeps lists current with it. The kubernetes package gives credentials and their renewal, TLS,
proxies and the pool of connections. Not used of it, and why:

- Typed methods: 1,000 small Deployments take 0.33 s of CPU as its models and 0.04 s as dicts (version 37,
  AMD EPYC, November 2026). Knative's kinds have no models.
- ``Watch``: without models an ERROR event is a ``KeyError``, and bookmarks are not followed.

Pitfalls:

- urllib3 retries three times within one call and has no timeout, unless both are set.
- A socket timeout starts anew with every byte. So a whole answer has a deadline as well.
- A silent watch may be dead. The server is asked to end each watch, and a read that takes longer is an error.
- Only merge patches are sent. Custom objects do not take the strategic patches that the package makes.
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
from slo_autoscaler.session import tls_context

Document = dict[str, Any]
"""An object as the API gives it."""

PAGE: Final = 500
"""Objects in one answer to a list."""
FIRST_DELAY: Final = 0.1
"""Seconds before the first retry; doubled for each further one."""
LONGEST_DELAY: Final = 30.0
"""Seconds between two tries at most."""

SCALE_TRIES: Final = 4
"""Of a write of a count. While pods start, the status changes some ten times a second."""

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
    """A kind of object, as paths name it: ``Resource("apps/v1", "deployments")``."""

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
        """Read the credentials; nothing is asked for yet. Raises ``ConfigError``.

        ``kubeconfig`` None is the pod's service account, or outside a cluster what KUBECONFIG names, else
        ~/.kube/config. ``strict`` is that of ``session.tls_context``. ``timeout`` is for each call with its
        retries; ``connections`` are kept at most.
        """
        configuration, self.namespace = _loaded(kubeconfig, context)
        configuration.retries = False
        configuration.connection_pool_maxsize = connections
        self._configuration = configuration
        self._client = ApiClient(configuration)
        self._pool: urllib3.PoolManager = self._client.rest_client.pool_manager
        if strict is not None and configuration.verify_ssl:
            self._pool.connection_pool_kw |= _checked(configuration, strict)
        self.timeout = timeout
        """Seconds that a call may take with its retries."""
        self._closed = threading.Event()

    def get(self, path: str, *, patient: bool = True) -> Document:
        """Return one object; raises ``PlatformError``, as all of these do.

        ``patient`` waits and tries again when the server is too busy (429, 5xx). All tries together take the
        timeout at most.
        """
        return self._request("GET", path, patient=patient)

    def pages(
        self, path: str, query: Mapping[str, str] | None = None
    ) -> Iterator[tuple[list[Document], str]]:
        """Give the objects of a list a page at a time, each with the list's resourceVersion."""
        position: str | None = None
        while position != "":
            where = {"limit": str(PAGE), **(query or {}), **({"continue": position} if position else {})}
            found = self._request("GET", path, where, patient=True)
            items, metadata = found.get("items"), found.get("metadata")
            if not isinstance(metadata, dict) or not isinstance(items, list | None):
                raise PlatformError(f"GET {path}: not a list of objects")
            yield items or [], str(metadata.get("resourceVersion", ""))
            position = str(metadata.get("continue") or "")

    def create(self, path: str, body: Mapping[str, Any], *, patient: bool = True) -> Document:
        """Create an object; ``ConflictError`` if it is there already."""
        return self._request("POST", path, None, body, patient=patient)

    def patch(self, path: str, body: Mapping[str, Any], *, patient: bool = True) -> Document:
        """Change an object, or its subresource, and return it.

        With ``metadata.resourceVersion`` in the body, ``ConflictError`` if it is not that one any more.
        """
        return self._request("PATCH", path, None, body, patient=patient)

    def scale(
        self,
        path: str,
        version: str,
        before: int,
        replicas: int,
        *,
        may_retry: Callable[[], bool] = lambda: True,
    ) -> str:
        """Write a count to a scale subresource; return the resourceVersion of the object that has it.

        The write names the ``version`` that showed ``before`` replicas when this was decided on. So a write
        that was delayed, and arrives after another writer's, fails: ``ScaleChangedError``. If only the status
        has changed since, the version is read again, while ``may_retry`` and within the time of one call.
        """
        end = time.monotonic() + self.timeout
        for left in reversed(range(SCALE_TRIES)):
            body = {"metadata": {"resourceVersion": version}, "spec": {"replicas": replicas}}
            try:
                return version_of(self._request("PATCH", path, None, body, end=end))
            except ConflictError:
                found = self._request("GET", path, end=end)
                now, version = (found.get("spec") or {}).get("replicas", 0), version_of(found)
                if now == replicas:
                    return version
                if now != before:
                    why = f"another writer has set {now} replicas where there were {before}"
                    raise ScaleChangedError(f"PATCH {path}: {why}") from None
                if not left or not may_retry():
                    raise
        raise AssertionError("the last try returns or raises")

    def replace(self, path: str, body: Mapping[str, Any], *, patient: bool = True) -> Document:
        """Write a whole object; ``ConflictError`` if it has changed since it was read."""
        return self._request("PUT", path, None, body, patient=patient)

    def watch(self, path: str, query: Mapping[str, str], seconds: float) -> "Stream":
        """Begin to watch a list for ``seconds``."""
        where = {"watch": "true", "timeoutSeconds": str(max(1, round(seconds))), **query}
        silence = seconds + self.timeout
        return Stream(self._open("GET", path, where, None, self.timeout, silence), f"watch {path}")

    def close(self) -> None:
        """Give up connections, and waiting for a busy server."""
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
    ) -> Document:
        """``end``, on the monotonic clock, is when the time is up that this call shares with others."""
        end = time.monotonic() + self.timeout if end is None else end
        for delay in delays():
            # Rounded, so that the same failure has the same words and is logged once.
            left = round(end - time.monotonic(), 2)
            what = f"{method} {path}"
            if left <= 0:
                raise UnreachableError(f"{what}: no time is left for it")
            try:
                response = self._open(method, path, query, body, left, left)
                return _document(what, _whole(what, response, end))
            except ApiError as error:
                # A creation that failed within the server may have been done; it is not tried again.
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
        body: Mapping[str, Any] | None,
        timeout: float,
        silence: float,
    ) -> urllib3.BaseHTTPResponse:
        """Return an answer whose body is yet to be read; the one place where statuses become ours."""
        headers = {"Accept": "application/json", "User-Agent": f"slo-autoscaler/{__version__}"}
        # Asked for each time, for the token of a service account is renewed.
        settings: Mapping[str, Any] = self._configuration.auth_settings()
        for setting in settings.values():
            if setting["in"] == "header" and setting["value"]:
                headers[setting["key"]] = setting["value"]
        if body is not None:
            headers["Content-Type"] = f"application/{'merge-patch+' if method == 'PATCH' else ''}json"
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
        """Give {type, object}; ends when the server ends the watch, raises ``PlatformError`` if it breaks.

        An event of type ERROR is raised: as ``GoneError`` when the watch has to begin with a new list.
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
        """End it from another thread, also while it waits for an event."""
        with suppress(OSError, RuntimeError, ValueError):
            self._response.shutdown()

    def _event(self, line: bytes) -> Document:
        event = _document(self._what, line)
        found = event.get("object")
        if not isinstance(found, dict):
            raise PlatformError(f"{self._what}: an event without an object")
        if event.get("type") == "ERROR":
            status = found.get("code")
            raise _error(self._what, status if isinstance(status, int) else 500, found, None)
        return event


def version_of(document: Mapping[str, Any]) -> str:
    """Return the resourceVersion of an object; empty where it has none."""
    return str((document.get("metadata") or {}).get("resourceVersion") or "")


def delays() -> Iterator[float]:
    """Give the seconds before each further try: doubled each time, and drawn by lot from half of it on."""
    for attempt in count():
        delay = min(FIRST_DELAY * 2 ** min(attempt, 16), LONGEST_DELAY)
        yield delay * random.uniform(0.5, 1.0)  # noqa: S311 - a spread, nothing secret


def _whole(what: str, response: urllib3.BaseHTTPResponse, end: float) -> bytes:
    """Read a body, however slowly it comes, until ``end`` at the latest."""
    parts = []
    try:
        while part := response.read1(_CHUNK):
            parts.append(part)
            if time.monotonic() > end:
                raise UnreachableError(f"{what}: the answer was not complete in time")
    except HTTPError as error:
        raise UnreachableError(f"{what}: {brief(error)}") from error
    finally:
        # Read to its end, the connection is back in the pool by now; otherwise it is of no use any more.
        response.close()
    return b"".join(parts)


def _document(what: str, text: bytes) -> Document:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise PlatformError(f"{what}: not JSON: {text[:80]!r}") from error
    if not isinstance(found, dict):
        raise PlatformError(f"{what}: not an object")
    return found


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


def _checked(configuration: Configuration, strict: bool) -> dict[str, Any]:
    """Return what replaces the package's own TLS checks in its pool; it has no setting for them.

    The client certificate is in the context from the start: loading one for each connection is not safe
    while other threads open theirs. CAs are added for each connection, as before.
    """
    context = tls_context(strict)
    if configuration.ssl_ca_cert is None and configuration.ca_cert_data is None:
        context.load_default_certs()
    if configuration.cert_file is not None:
        try:
            # Without a password an encrypted key would be asked for on the terminal.
            context.load_cert_chain(configuration.cert_file, configuration.key_file, password="")
        except OSError as error:
            why = f"client certificate and key must be a pair of PEM without a password: {error}"
            raise ConfigError([f"platform.kubeconfig: {why}"]) from None
    return {"ssl_context": context, "cert_file": None, "key_file": None}


def _loaded(kubeconfig: str | None, context: str | None) -> tuple[Configuration, str]:
    """Return credentials and address, and the namespace that they belong to."""
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
        chosen = next((each for each in contexts if each["name"] == context), active)
        return configuration, str(chosen["context"].get("namespace") or "default")
    except Exception as error:  # whatever the package, its YAML reader and a broken file come to
        where = kubeconfig or "neither a pod's service account nor KUBECONFIG nor ~/.kube/config"
        raise ConfigError([f"platform.kubeconfig: {where}: {' '.join(str(error).split())[:200]}"]) from None
