"""Runs the HTTP listener: routes, errors -> statuses.

``proxy`` and ``provider`` implement the routes.
"""

import os
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler

from tailbound_lab.local.errors import PlatformError, StartError
from tailbound_lab.local.pods import Pods
from tailbound_lab.local.provider import Provider
from tailbound_lab.local.proxy import Proxy

_SHUTDOWN_SECONDS: Final = 1.0
_MAX_BODY: Final = 64 * 2**20


class Gateway:
    """The one HTTP port of the platform."""

    def __init__(self, provider: Provider, proxy: Proxy, pods: Pods) -> None:
        application = web.Application(client_max_size=_MAX_BODY, middlewares=[_edge])
        # First, because it is the hot path.
        application.router.add_route("*", "/function/{name}", proxy.handle)
        application.router.add_route("*", "/function/{name}/{path:.*}", proxy.handle)
        application.add_routes([*provider.routes(), *pods.routes()])
        # A client that leaves cancels its handler, so the function's queue drops the request as well.
        self._runner = web.AppRunner(
            application,
            access_log=None,
            handler_cancellation=True,
            auto_decompress=False,
            shutdown_timeout=_SHUTDOWN_SECONDS,
        )

    async def start(self, port: int) -> int:
        """Listen on loopback; return the port, which the kernel chose if 0. Raises ``StartError``."""
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, "127.0.0.1", port, backlog=1024).start()
        except OSError as error:
            # Not its own text, in which asyncio repeats the address.
            fault = os.strerror(error.errno) if error.errno else error
            raise StartError(f"cannot listen on 127.0.0.1:{port}: {fault}; port 0 takes a free one") from None
        bound: int = self._runner.addresses[0][1]
        return bound

    async def stop(self) -> None:
        """Close the listener and, after a second, every connection."""
        await self._runner.cleanup()


@web.middleware
async def _edge(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except PlatformError as error:
        return web.Response(status=error.status, text=f"{error}\n")
