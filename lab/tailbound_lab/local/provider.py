"""The provider's REST contract under ``/system``, ``/healthz``, ``/metrics`` and ``/sd/replicas``.

Owns the meaning of statuses: as in faas-netes and faasd; where these differ, as faas-cli and the gateway both
accept. Reads a request, calls ``registry``, writes the answer; ``gateway`` converts raised errors to
statuses.
"""

import json
from typing import Any, Final

from aiohttp import web

from tailbound_lab import __version__
from tailbound_lab.local import specs
from tailbound_lab.local.errors import InvalidRequestError
from tailbound_lab.local.functions import Function, Registry
from tailbound_lab.local.metrics import CONTENT_TYPE, GatewayMetrics

_VERSION: Final = {"release": __version__, "sha": "local"}


class Provider:
    """The routes, over a registry and its metrics."""

    def __init__(self, registry: Registry, metrics: GatewayMetrics) -> None:
        self._registry = registry
        self._metrics = metrics

    def routes(self) -> list[web.RouteDef]:
        """Return every route."""
        return [
            web.get("/system/functions", self.list_functions),
            web.post("/system/functions", self.deploy),
            web.put("/system/functions", self.update),
            web.delete("/system/functions", self.remove),
            web.get("/system/function/{name}", self.read_function),
            web.post("/system/scale-function/{name}", self.scale),
            web.get("/system/info", self.info),
            web.get("/healthz", self.healthz),
            web.get("/metrics", self.metrics),
            web.get("/sd/replicas", self.replicas),
        ]

    async def list_functions(self, request: web.Request) -> web.Response:
        """Return every function of a namespace; without any ``[]``, never null."""
        namespace = request.query.get("namespace") or specs.DEFAULT_NAMESPACE
        return web.json_response(
            [self._status(function) for function in self._registry if function.spec.namespace == namespace]
        )

    async def deploy(self, request: web.Request) -> web.Response:
        """Create a function (202: for faas-cli a 201 is a failure); replicas start in the background."""
        self._registry.deploy(specs.parse_deployment(await _json(request), _namespace(request)))
        return web.Response(status=202)

    async def update(self, request: web.Request) -> web.Response:
        """Update a function; 404 for an unknown one, so that faas-cli creates it."""
        self._registry.update(specs.parse_deployment(await _json(request), _namespace(request)))
        return web.Response(status=202)

    async def remove(self, request: web.Request) -> web.Response:
        """Remove a function; its replicas drain in the background."""
        name, namespace = specs.parse_removal(await _json(request))
        self._registry.remove(self._registry.get(name, _namespace(request), namespace))
        return web.Response(status=202)

    async def read_function(self, request: web.Request) -> web.Response:
        """Return one function's status."""
        function = self._registry.get(request.match_info["name"], _namespace(request))
        return web.json_response(self._status(function))

    async def scale(self, request: web.Request) -> web.Response:
        """Set the desired replicas of a function."""
        replicas, namespace = specs.parse_scale(await _json(request))
        function = self._registry.get(request.match_info["name"], _namespace(request), namespace)
        self._registry.scale(function, replicas)
        return web.Response(status=202)

    def _status(self, function: Function) -> dict[str, Any]:
        return function.spec.status(
            replicas=function.desired,
            available=function.available,
            invocations=self._metrics.invocations(function.spec.full_name),
            created_at=function.created_at,
        )

    async def info(self, request: web.Request) -> web.Response:
        """Return the provider's information to a gateway, the gateway's to faas-cli.

        Only a gateway's request has X-Forwarded-Host.
        """
        provider = {"provider": "local-openfaas", "version": _VERSION, "orchestration": "processes"}
        if "X-Forwarded-Host" in request.headers:
            return web.json_response(provider)
        return web.json_response({"provider": provider, "version": _VERSION, "arch": ""})

    async def healthz(self, request: web.Request) -> web.Response:
        """Return 200 while the listener is up, also to HEAD."""
        return web.Response(text="OK")

    async def metrics(self, request: web.Request) -> web.Response:
        """Return the gateway's metrics, for Prometheus."""
        return web.Response(body=self._metrics.exposition(), headers={"Content-Type": CONTENT_TYPE})

    async def replicas(self, request: web.Request) -> web.Response:
        """Return the targets of Prometheus' http_sd: every running replica, until it ends.

        A draining replica still answers requests, and their outcomes count.
        """
        return web.json_response(
            [
                {
                    "targets": [f"127.0.0.1:{replica.metrics_port}"],
                    "labels": {"function_name": function.spec.full_name, "replica": replica.name},
                }
                for function in self._registry.with_removed()
                for replica in function.replicas
                if replica.pid is not None
            ]
        )


def _namespace(request: web.Request) -> str:
    return request.query.get("namespace", "")


async def _json(request: web.Request) -> object:
    """Return the body as JSON, with any content type; it may be chunked."""
    text = await request.read()
    try:
        return json.loads(text)
    except ValueError as error:
        raise InvalidRequestError(f"the body must be JSON: {error}") from None
