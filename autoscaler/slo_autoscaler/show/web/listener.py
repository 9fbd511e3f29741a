"""Serves /metrics, /healthz, /decisions and /api/v1/desired, for programs.

/healthz is 200 while functions are decided, also without Prometheus or gateway: a restart would not help.

/decisions?function=NAME&last=N returns the last decisions of a function as JSON, for ``explain``; NAME may
omit the namespace. Without NAME it returns the known names.

/api/v1/desired/NAME returns a function's desired replicas, as KEDA's scaler ``metrics-api`` reads them.
Without a count from present data it is 503, so that KEDA keeps its count or takes its fallback.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, Protocol
from urllib.parse import parse_qs

from prometheus_client import CollectorRegistry, make_wsgi_app

from slo_autoscaler.settings.fields import MOST, whole
from slo_autoscaler.show.journal import DEFAULT_LAST, named
from slo_autoscaler.show.web.probes import PATH, verdict
from slo_autoscaler.show.web.server import Application

_TEXT: Final = "text/plain; charset=utf-8"
_STATUS: Final = {
    200: "200 OK",
    400: "400 Bad Request",
    404: "404 Not Found",
    503: "503 Service Unavailable",
}
DESIRED: Final = "/api/v1/desired/"
"""Prefix of the addresses of counts."""


class Decisions(Protocol):
    """The recorded decisions, as the controller provides them."""

    def functions(self) -> list[str]:
        """Return the functions with recorded decisions or a problem."""
        ...

    def removed(self) -> list[str]:
        """Return functions that are gone, and whose decisions are still known."""
        ...

    def decisions(self, function_name: str, last: int) -> dict[str, Any] | None:
        """Return the last decisions of one function and its ``problem``, if any, as JSON; None: neither."""
        ...

    def denied(self) -> Mapping[str, str]:
        """Return {namespace or kind of object: error} that the autoscaler may not read."""
        ...


def create_app(
    registry: CollectorRegistry,
    alive: Callable[[], bool],
    decided: Decisions,
    desired: Callable[[str], int | None],
) -> Application:
    """Return the WSGI application. ``desired`` returns a function's count; None: it is not exported."""
    metrics: Application = make_wsgi_app(registry)

    def app(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            return _answered(start, "405 Method Not Allowed", _TEXT, "GET\n", ("Allow", "GET, HEAD"))
        if path == "/metrics":
            return metrics({**environ, "REQUEST_METHOD": "GET"}, start)
        if path == PATH:
            status, text = verdict(alive=alive())
            return _answered(start, status, _TEXT, text)
        if path == "/decisions":
            code, document = _decisions(decided, parse_qs(environ["QUERY_STRING"]))
            return _answered(start, _STATUS[code], "application/json", json.dumps(document))
        if path.startswith(DESIRED):
            code, document = _desired(path.removeprefix(DESIRED), decided, desired if alive() else _unknown)
            return _answered(start, _STATUS[code], "application/json", json.dumps(document))
        return _answered(start, _STATUS[404], _TEXT, f"/metrics, {PATH}, /decisions or {DESIRED}NAME\n")

    return app


def _answered(
    start: Callable[..., Any], status: str, kind: str, text: str, *headers: tuple[str, str]
) -> Iterable[bytes]:
    body = text.encode()
    start(status, [("Content-Type", kind), ("Content-Length", str(len(body))), *headers])
    return [body]


def _decisions(decided: Decisions, query: dict[str, list[str]]) -> tuple[int, dict[str, Any]]:
    """Return status and answer of /decisions."""
    wanted, text = query.get("function", [""])[0], query.get("last", [str(DEFAULT_LAST)])[0]
    functions = decided.functions()
    if not wanted:
        return 200, {"functions": functions}
    last = whole(text)
    if not last:
        return 400, {"error": f"last: {text[:20]!r} must be a whole number from 1 to {MOST}"}
    decisions, near = named(wanted, functions)
    decisions = decisions or named(wanted, decided.removed())[0]
    answers = [answer for name in decisions if (answer := decided.decisions(name, last)) is not None]
    if not answers:
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        return 404, {"error": f"no decisions for {wanted!r}{hint}"}
    return 200, {"found": answers}


def _unknown(_name: str) -> None:
    """Return no count: that of a loop which stands still is old."""


def _desired(
    name: str, decided: Decisions, desired: Callable[[str], int | None]
) -> tuple[int, dict[str, Any]]:
    """Return status and answer of /api/v1/desired/NAME, with the full name."""
    count = desired(name)
    if count is not None:
        return 200, {"desired": count}
    names, near = named(name, decided.functions())
    if name in names:
        why = "no data, a standby, or a mode that exports no count; /decisions has the cause"
        return 503, {"error": f"{name}: {why}"}
    hint = f"; did you mean {' or '.join([*names, *near])}?" if names or near else ""
    return 404, {"error": f"no function {name!r}{hint}"}
