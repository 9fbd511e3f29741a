"""Forwards ``/function/<name>`` to the ready replica with the fewest outstanding requests.

Owns the hot path: forwarded parts, the gateway's added headers, the hold of requests without a ready replica,
the wake of a function at zero, and retries. It never logs a request and never changes a body.
"""

import asyncio
import io
import time
import uuid
from typing import Final

import aiohttp
from aiohttp import web
from multidict import CIMultiDict
from yarl import URL

from tailbound_lab import __version__
from tailbound_lab.local.functions import Function, Registry
from tailbound_lab.local.metrics import GatewayMetrics
from tailbound_lab.local.replica import Replica

PREFIX: Final = "/function/"

_METHODS: Final = frozenset({"POST", "PUT", "PATCH", "DELETE", "GET", "OPTIONS", "HEAD"})
_HOP_BY_HOP: Final = (
    *("Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization", "Proxy-Connection"),
    *("TE", "Trailer", "Transfer-Encoding", "Upgrade"),
)
_MAX_HELD: Final = 1024
_SERVED_BY: Final = f"local-openfaas/{__version__}"


class Proxy:
    """Forwards invocations; ``hold_timeout`` limits the wait for a first ready replica, in seconds.

    An invocation counts as started on arrival, held or not, so that the autoscaler sees the load of a cold
    start.
    """

    def __init__(self, registry: Registry, metrics: GatewayMetrics, *, hold_timeout: float) -> None:
        self._registry = registry
        self._metrics = metrics
        self._hold_timeout = hold_timeout

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer one invocation with the function's answer, or our own 404, 405, 502 or 503."""
        name = request.match_info["name"]
        if request.method not in _METHODS:
            answer = _error(405, f"{request.method} is not allowed on a function")
            answer.headers["Allow"] = ", ".join(sorted(_METHODS))
            return answer
        function = self._registry.find(name)
        if function is None:
            return _error(404, f"function {name} does not exist")
        started = time.monotonic()
        body = await request.read() if request.body_exists else None
        function_name = function.spec.full_name
        self._metrics.started(function_name)
        code = 502
        try:
            replica = function.pick()
            if replica is None:
                try:
                    replica = await self._hold(function)
                except _NoReplica as error:
                    code = 503
                    return _error(code, f"No endpoints available for: {function_name}: {error}")
                finally:
                    # Like the gateway's, the histogram excludes the time of the hold.
                    started = time.monotonic()
            # No await since the choice: the replica's outstanding count rises next.
            forwarded = await self._forward(request, function, replica, body)
            code = forwarded.status
            return forwarded
        finally:
            self._metrics.finished(function_name, code, time.monotonic() - started)

    async def _hold(self, function: Function) -> Replica:
        """Wait for a ready replica, waking the function if it is at zero. Raises ``_NoReplica``."""
        if function.held >= _MAX_HELD:
            raise _NoReplica(f"{_MAX_HELD} requests wait for a first replica already")
        function.held += 1
        try:
            # Only the first held request finds it at zero, so it starts once.
            self._registry.wake(function)
            async with asyncio.timeout(self._hold_timeout):
                while (replica := function.pick()) is None:
                    if function.closed:
                        raise _NoReplica("it was removed")
                    if (failing := function.failing) is not None:
                        raise _NoReplica(failing)
                    await function.changed()
        except TimeoutError:
            raise _NoReplica(f"none became ready within {self._hold_timeout:g} s") from None
        finally:
            function.held -= 1
        return replica

    async def _forward(
        self,
        request: web.Request,
        function: Function,
        replica: Replica,
        body: bytes | None,
    ) -> web.StreamResponse:
        headers, stamps = _forwarded_headers(request)
        try:
            return await _exchange(request, replica, headers, body, stamps)
        except aiohttp.ClientConnectorError:
            # The connection was refused: no byte was sent, so another replica may get the request.
            # (An idempotent request may have been sent before, on a kept connection that broke: HTTP allows
            # its repetition, and aiohttp repeats it.)
            another = _another(function, replica)
            if another is None:
                return _error(502, f"{replica.name} refused the connection and no other replica is ready")
        except (aiohttp.ClientError, ConnectionError) as error:
            return _lost(replica, error)
        try:
            return await _exchange(request, another, headers, body, stamps)
        except (aiohttp.ClientError, ConnectionError) as error:
            return _lost(another, error)


class _NoReplica(Exception):
    """A held request cannot be served; the message says why."""


async def _exchange(
    request: web.Request,
    replica: Replica,
    headers: CIMultiDict[str],
    body: bytes | None,
    stamps: dict[str, str],
) -> web.StreamResponse:
    """Send the request to ``replica`` and return its answer. Raises ``aiohttp.ClientError``.

    As in OpenFaaS' gateway an answer is flushed piece by piece if Accept begins with text/event-stream.
    """
    url = URL(f"http://127.0.0.1:{replica.port}{_path(request)}", encoded=True)
    # As a file: aiohttp takes large bytes for a mistake.
    data = None if body is None else io.BytesIO(body)
    replica.outstanding += 1
    try:
        async with replica.session.request(
            request.method, url, headers=headers, data=data, allow_redirects=False
        ) as upstream:
            relayed = _relayed_headers(request, upstream, stamps)
            if request.headers.get("Accept", "").startswith("text/event-stream"):
                return await _flushed(request, upstream, relayed)
            # To HEAD there is no body, and Content-Length stays that of the answer to GET.
            content = None if request.method == "HEAD" else await upstream.read()
            return web.Response(status=upstream.status, reason=upstream.reason, headers=relayed, body=content)
    finally:
        replica.outstanding -= 1


async def _flushed(
    request: web.Request, upstream: aiohttp.ClientResponse, headers: CIMultiDict[str]
) -> web.StreamResponse:
    answer = web.StreamResponse(status=upstream.status, reason=upstream.reason, headers=headers)
    await answer.prepare(request)
    try:
        async for piece in upstream.content.iter_any():
            await answer.write(piece)
        await answer.write_eof()
    except (aiohttp.ClientError, ConnectionError):
        if request.transport is not None:
            request.transport.abort()  # a clean end would make it look whole
    return answer


def _path(request: web.Request) -> str:
    """Return the target for the function: the rest of the path and the query, unchanged."""
    target = request.raw_path
    if not target.startswith("/"):
        target = request.rel_url.raw_path_qs
    rest = target[len(PREFIX) :]
    end = min((at for at in (rest.find("/"), rest.find("?")) if at >= 0), default=len(rest))
    return rest[end:] if rest[end : end + 1] == "/" else f"/{rest[end:]}"


def _forwarded_headers(request: web.Request) -> tuple[CIMultiDict[str], dict[str, str]]:
    """Return the request's headers for the function, and the gateway's headers for the answer."""
    headers = _without_hop_by_hop(CIMultiDict(request.headers))
    host = headers.pop("Host", "")
    # The body is sent by us, and the client was already told to continue.
    headers.pop("Expect", None)
    headers.setdefault("X-Forwarded-Host", host)
    if "X-Forwarded-For" not in headers and request.remote:
        peer = request.transport.get_extra_info("peername") if request.transport is not None else None
        headers["X-Forwarded-For"] = f"{peer[0]}:{peer[1]}" if peer else request.remote
    if "X-Start-Time" in headers:
        # A gateway in front has added its headers to request and answer already.
        return headers, {}
    stamps = {"X-Served-By": _SERVED_BY}
    if "X-Call-Id" not in headers:
        headers["X-Call-Id"] = stamps["X-Call-Id"] = str(uuid.uuid4())
    headers["X-Start-Time"] = stamps["X-Start-Time"] = str(time.time_ns())
    return headers, stamps


def _relayed_headers(
    request: web.Request, upstream: aiohttp.ClientResponse, stamps: dict[str, str]
) -> CIMultiDict[str]:
    headers = _without_hop_by_hop(CIMultiDict(upstream.headers))
    if "Content-Type" not in headers:
        # As in the reference proxy: the upstream's, else the request's, else plain text.
        headers["Content-Type"] = request.headers.get("Content-Type", "text/plain")
    headers.extend(stamps)
    return headers


def _without_hop_by_hop(headers: CIMultiDict[str]) -> CIMultiDict[str]:
    if (named := headers.get("Connection")) is not None:
        for name in named.split(","):
            headers.popall(name.strip(), None)
    for name in _HOP_BY_HOP:
        headers.popall(name, None)
    return headers


def _another(function: Function, tried: Replica) -> Replica | None:
    """Return the least loaded ready replica except ``tried``, whose failure the probes have not seen yet."""
    ready = [item for item in function.replicas if item.ready and not item.draining and item is not tried]
    return min(ready, key=lambda item: item.outstanding, default=None)


def _lost(replica: Replica, error: Exception) -> web.Response:
    # The replica may have accepted it, so it must not be sent again: the client decides.
    what = str(error) or type(error).__name__
    return _error(502, f"the connection to {replica.name} broke before it answered: {what}")


def _error(status: int, message: str) -> web.Response:
    return web.Response(status=status, text=f"{message}\n", headers={"X-OpenFaaS-Internal": "proxy"})
