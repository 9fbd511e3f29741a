"""/metrics, /healthz and /decisions on a small threaded server, for machines.

/healthz is 200 while the loop is alive, also without Prometheus or gateway: a restart would not help.

/decisions?function=NAME&last=N returns the last decisions of a function as JSON, for ``explain``; NAME may be
without its namespace. Without NAME it returns the known names.
"""

import contextlib
import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final, Protocol
from urllib.parse import parse_qs

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from slo_autoscaler.errors import ConfigError
from slo_autoscaler.journal import DEFAULT_LAST, named

CLIENT_TIMEOUT: Final = 10.0
"""Seconds that a silent client may keep a thread."""

STOP_POLL: Final = 0.1
"""Seconds between looks at whether to stop."""


class Decisions(Protocol):
    """Where decisions come from: the controller."""

    def functions(self) -> list[str]:
        """Return the functions of which decisions are known."""
        ...

    def decisions(self, function_name: str, last: int) -> dict[str, Any] | None:
        """Return the last decisions of one function as JSON, or None if there are none."""
        ...


class Web:
    """The listener; serves between ``start`` and ``stop``."""

    def __init__(
        self,
        host: str,
        port: int,
        registry: CollectorRegistry,
        alive: Callable[[], bool],
        decided: Decisions,
    ) -> None:
        """Bind. Raises ``ConfigError`` when the address cannot be had."""

        class Handler(BaseHTTPRequestHandler):
            timeout = CLIENT_TIMEOUT

            def do_GET(self) -> None:
                path, _, query = self.path.partition("?")
                if path == "/metrics":
                    encode, content_type = choose_encoder(self.headers.get("Accept", ""))
                    self._answer(200, content_type, encode(registry))
                elif path == "/healthz":
                    healthy = alive()
                    text = b"ok\n" if healthy else b"no reconcile has finished for several intervals\n"
                    self._answer(200 if healthy else 503, "text/plain; charset=utf-8", text)
                elif path == "/decisions":
                    status, document = _decisions(decided, parse_qs(query))
                    self._answer(status, "application/json", json.dumps(document).encode())
                else:
                    self._answer(404, "text/plain; charset=utf-8", b"/metrics, /healthz or /decisions\n")

            def _answer(self, status: int, content_type: str, body: bytes) -> None:
                with contextlib.suppress(OSError):  # the client has gone
                    self.send_response(status)
                    self.send_header("Content-Type", content_type)
                    self.send_header("Content-Length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002  (the base class names it)
                """Say nothing: scrapes and probes would fill the log."""

        try:
            self._server = ThreadingHTTPServer((host, port), Handler)
        except OSError as error:
            raise ConfigError([f"web: cannot listen on {host}:{port}: {error.strerror or error}"]) from None
        self._server.daemon_threads = True
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(STOP_POLL,), name="web", daemon=True
        )

    @property
    def port(self) -> int:
        """The port that is listened on."""
        return int(self._server.server_address[1])

    def start(self) -> None:
        """Serve in a thread of its own."""
        self._thread.start()

    def stop(self) -> None:
        """Stop serving and give the port back."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()


def _decisions(decided: Decisions, query: dict[str, list[str]]) -> tuple[int, dict[str, Any]]:
    """Return status and answer of /decisions."""
    wanted, last = query.get("function", [""])[0], query.get("last", [str(DEFAULT_LAST)])[0]
    functions = decided.functions()
    if not wanted:
        return 200, {"functions": functions}
    if not (last.isascii() and last.isdecimal() and int(last) > 0):
        return 400, {"error": f"last: {last!r} must be a whole number of at least 1"}
    found, near = named(wanted, functions)
    answers = [answer for name in found if (answer := decided.decisions(name, int(last))) is not None]
    if not answers:
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        return 404, {"error": f"no decisions for {wanted!r}{hint}"}
    return 200, {"found": answers}
