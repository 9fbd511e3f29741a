"""Runs the HTTP listener: routes, basic authentication, errors -> statuses.

``proxy`` and ``provider`` implement the routes.
"""

import base64
import hmac
import os
from pathlib import Path
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from tailbound_lab.local.errors import PlatformError, StartError
from tailbound_lab.local.pods import Pods
from tailbound_lab.local.provider import Provider
from tailbound_lab.local.proxy import Proxy

_CHALLENGE: Final = {"WWW-Authenticate": 'Basic realm="Restricted"'}
_SHUTDOWN_SECONDS: Final = 1.0
_MAX_BODY: Final = 64 * 2**20
USER_FILE: Final = "basic-auth-user"
PASSWORD_FILE: Final = "basic-auth-password"  # noqa: S105 - a file name


class BasicAuth:
    """The only user of ``/system``, from OpenFaaS' two files of credentials."""

    def __init__(self, folder: Path) -> None:
        """Read the files. Raises ``StartError``."""
        try:
            user, password = ((folder / name).read_text().strip() for name in (USER_FILE, PASSWORD_FILE))
        except OSError as error:
            raise StartError(f"basic auth: cannot read {error.filename}: {error.strerror}") from None
        if not user or not password:
            raise StartError(f"basic auth: {USER_FILE} and {PASSWORD_FILE} in {folder} must not be empty")
        self._encoded = base64.b64encode(f"{user}:{password}".encode())

    def accepts(self, authorization: str) -> bool:
        """Return whether an Authorization header holds these credentials, in constant time."""
        scheme, _, encoded = authorization.partition(" ")
        return scheme.lower() == "basic" and hmac.compare_digest(
            encoded.strip().encode(errors="replace"), self._encoded
        )


class Gateway:
    """The one HTTP port of the platform."""

    def __init__(self, provider: Provider, proxy: Proxy, pods: Pods, auth: BasicAuth | None) -> None:
        application = web.Application(client_max_size=_MAX_BODY, middlewares=[_edge(auth)])
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


def _edge(auth: BasicAuth | None) -> Middleware:
    @web.middleware
    async def edge(request: web.Request, handler: Handler) -> web.StreamResponse:
        resource = request.match_info.route.resource
        is_guarded = resource is not None and resource.canonical.startswith("/system/")
        if auth is not None and is_guarded and not auth.accepts(request.headers.get("Authorization", "")):
            return web.Response(status=401, text="invalid credentials\n", headers=_CHALLENGE)
        try:
            return await handler(request)
        except PlatformError as error:
            return web.Response(status=error.status, text=f"{error}\n")

    return edge
