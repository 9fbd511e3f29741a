"""A proxy between the autoscaler and a real server, which can be told to spoil what passes.

Every fault is an HTTP or TCP one on real sockets; what is not spoilt is the real server's answer.
"""

import urllib.request
from collections.abc import Callable
from contextlib import closing
from http.server import BaseHTTPRequestHandler
from urllib.parse import unquote_plus

from support.doubles import Fault, Server, status


class FaultProxy:
    """Forwards GETs; ``fault`` answers instead where the path contains ``only``.

    A request without the headers ``required`` is refused with 401, as a proxy with authentication does.
    """

    def __init__(self, upstream: str) -> None:
        self.required: dict[str, str] = {}
        self.upstream = upstream
        self.fault: Fault | None = None
        self.only = ""
        self.passed = 0
        self._server = Server(self._handle)

    @property
    def url(self) -> str:
        return f"http://{self._server.address}"

    def _handle(self, handler: BaseHTTPRequestHandler) -> None:
        fault = self.fault
        if any(handler.headers.get(name) != value for name, value in self.required.items()):
            status(401)(handler)
        elif fault is not None and self.only in unquote_plus(handler.path):
            fault(handler)
        else:
            self.passed += 1
            status(200, self.real(handler))(handler)

    def real(self, handler: BaseHTTPRequestHandler) -> bytes:
        """Return what the real server answers."""
        with urllib.request.urlopen(self.upstream + handler.path, timeout=20) as answer:
            return bytes(answer.read())

    def edited(self, edit: Callable[[bytes], bytes]) -> Fault:
        """Pass on what the real server answers, changed."""
        return lambda handler: status(200, edit(self.real(handler)))(handler)

    def close(self) -> None:
        self._server.close()


def a_fault_proxy(upstream: str) -> closing[FaultProxy]:
    return closing(FaultProxy(upstream))
