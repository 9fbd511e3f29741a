"""Answers the status page's addresses: HTML, and for every view the same as JSON under /api.

Owns the addresses, statuses, headers, and the allowed host names. Everything is read-only. ``rows`` and
``charts`` compute the content. docs/status-page.md names the JSON.
"""

import gzip
import ipaddress
import logging
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from flask import Flask, Response, abort, jsonify, render_template, request
from flask.json.provider import DefaultJSONProvider
from werkzeug.exceptions import HTTPException

from slo_autoscaler import __version__
from slo_autoscaler.errors import SourceError
from slo_autoscaler.show import words
from slo_autoscaler.show.journal import DEPTH, named
from slo_autoscaler.show.web import Plan, charts, rows
from slo_autoscaler.show.web.listener import Decisions
from slo_autoscaler.show.web.reader import Reader
from slo_autoscaler.show.web.rows import Row, Rows
from slo_autoscaler.show.words import score, sentence
from slo_autoscaler.signals import charts as lines
from slo_autoscaler.signals import queries

logger = logging.getLogger(__name__)

MAX_ROWS: Final = 1000
"""Maximum rows of the table; a filter shows others. /api/functions has all."""

MIN_GZIP: Final = 4096
"""Minimum bytes of a compressed answer: a thousand functions are a megabyte of JSON every few seconds."""

Document = dict[str, Any] | None
"""A JSON object, if it is known."""

CLASSES: Final[Mapping[str, str]] = {
    column.key: " ".join([column.key, *["number"] * column.numeric, *["minor"] * column.minor])
    for column in words.COLUMNS
}
"""Column -> CSS classes of its cells, computed once for all rows."""

HEADERS: Final[Mapping[str, str]] = {
    # Only content from this server, no inline code or style, no frame around the page.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self';"
        " form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}
"""Of every answer."""


def create_app(config: Plan, decided: Decisions, alive: Callable[[], bool], reader: Reader) -> Flask:
    """Return the WSGI application."""
    app = Flask(__name__)
    provider = DefaultJSONProvider(app)
    provider.sort_keys = False
    app.json = provider
    app.jinja_env.globals.update(words=words, columns=words.COLUMNS, version=__version__)
    app.jinja_env.trim_blocks = app.jinja_env.lstrip_blocks = True
    hosts = {"localhost", *(name.lower() for name in config.web.page_allowed_hosts)}

    @app.before_request
    def _allowed_host() -> tuple[str, int] | None:
        name = _host_name(request.host)
        if _is_allowed(name, hosts):
            return None
        return f"{name}: not an allowed host name; add it to web.page_allowed_hosts\n", 421

    @app.after_request
    def _headers(response: Response) -> Response:
        response.headers.update(HEADERS)
        if request.endpoint == "static":
            response.headers["Cache-Control"] = "no-cache"
            return response
        response.headers["Cache-Control"] = "no-store"
        response.vary.add("Accept-Encoding")
        if request.accept_encodings["gzip"] and len(response.get_data()) > MIN_GZIP:
            response.set_data(gzip.compress(response.get_data(), compresslevel=1))
            response.content_encoding = "gzip"
        return response

    @app.errorhandler(SourceError)
    def _no_prometheus(error: SourceError) -> tuple[Response, int]:
        return jsonify(error=str(error)), 502

    @app.errorhandler(HTTPException)
    def _refused(error: HTTPException) -> tuple[Response | str, int]:
        return _failure(error.code or 500, error.name, str(error.description))

    @app.errorhandler(Exception)
    def _bug(error: Exception) -> tuple[Response | str, int]:
        logger.exception("%s %s", request.method, request.path)
        text = "The page failed; scaling goes on. The autoscaler's log has the cause."
        return _failure(500, type(error).__name__, text)

    views = _Views(config, decided, Rows(decided, alive, reader), reader)
    app.add_url_rule("/", "fleet", views.fleet)
    app.add_url_rule("/functions/<name>", "function", views.function)
    app.add_url_rule("/api", "api", views.api)
    app.add_url_rule("/api/functions", "api_fleet", views.api_fleet)
    app.add_url_rule("/api/functions/<name>", "api_function", views.api_function)
    app.add_url_rule("/api/functions/<name>/series", "api_series", views.api_series)
    return app


class _Views:
    """The answers of all addresses."""

    def __init__(self, config: Plan, decided: Decisions, table: Rows, reader: Reader) -> None:
        self._config = config
        self._decided = decided
        self._rows = table
        self._reader = reader

    def fleet(self) -> str:
        """Return the table of all functions."""
        text, state, sort = _choice()
        return render_template(
            "fleet.html",
            states=words.STATES,
            classes=CLASSES,
            text=text,
            state=state,
            sort=sort,
            max_rows=MAX_ROWS,
            platform=self._config.platform,
            old=self._reader.health().problem is not None,
            **self._fleet_document(text, state, sort),
        )

    def api_fleet(self) -> Response:
        """Return the table as JSON; ``q``, ``state`` and ``sort`` select as on the page."""
        return jsonify(self._fleet_document(*_choice()))

    def function(self, name: str) -> str:
        """Return one function's page: its state, learned service times, decisions and reasons."""
        return render_template(
            "function.html",
            spans=charts.SPANS,
            span=_span(),
            of_replicas=charts.OF_REPLICAS,
            old=self._reader.health().problem is not None,
            **self._function_document(self._row(name)),
        )

    def api_function(self, name: str) -> Response:
        """Return the same as JSON."""
        return jsonify(self._function_document(self._row(name)))

    def api_series(self, name: str) -> Response:
        """Return the time series of one function, over ``span``."""
        row = self._row(name)
        function_name, streams = row["function_name"], row["slo_interval"] is not None
        prometheus = self._config.prometheus
        slo = self._config.gateway_slos().of(function_name)
        chosen = lines.charts(slo, streams=streams)
        grids: dict[int | None, charts.Grid] = {}
        answers: dict[str, queries.Points] = {}
        now = self._reader.now()
        for span in (None, *{chart.span for chart in chosen} - {None}):
            at = charts.grid(span or charts.SPANS[_span()], prometheus.scrape_interval, now)
            # At least one step, so that no event falls between two moments.
            windows = [max(window, at.step) for window in (prometheus.rate_window, prometheus.window)]
            alike = [chart for chart in chosen if chart.span == span]
            answers |= self._reader.ranges(lines.filled(alike, function_name, slo, *windows), at)
            grids[span] = at
        return jsonify(function_name=function_name, span=_span(), **charts.document(chosen, answers, grids))

    def api(self) -> Response:
        """Return the list of addresses."""
        return jsonify(
            version=__version__,
            functions="/api/functions?q=TEXT&state=STATE&sort=COLUMN",
            function="/api/functions/NAME",
            series="/api/functions/NAME/series?span=SPAN",
            states=dict(words.STATES),
            sorts=list(words.SORTS),
            spans=list(charts.SPANS),
        )

    def _row(self, name: str) -> Row:
        """Return the row of a function by its full name; if there is none, 404 with similar names."""
        row = self._rows.of(name)
        if row is None:
            names, near = named(name, self._decided.functions())
            hint = f"; did you mean {' or '.join(names or near)}?" if names or near else "."
            problem = self._rows.problem(name)
            abort(404, f"No decisions for {name!r}{f': {problem}.' if problem else hint}")
        return row

    def _fleet_document(self, text: str, state: str, sort: str) -> dict[str, Any]:
        every = self._rows.all()
        return {
            "time": _now(),
            "interval": self._config.interval,
            "notices": self._rows.notices(),
            "alerts": self._alerts(),
            "summary": rows.summary(every),
            "functions": rows.matching(rows.ordered(every, sort), text, state),
        }

    def _function_document(self, row: Row) -> dict[str, Any]:
        name = row["function_name"]
        told = self._decided.decisions(name, DEPTH) or {"decisions": []}
        days = {str(decision["time"])[:10] for decision in told["decisions"]}
        decisions = [
            {
                **decision,
                "sentence": sentence(decision, with_date=len(days) > 1),
                "display": rows.inputs(decision),
            }
            for decision in reversed(told["decisions"])
        ]
        numbers = told.get("score")
        trouble = told.get("problem")
        replicas, learned, problem = self._measured(name, streams=row["slo_interval"] is not None)
        alerts = [found for found in self._alerts() if found["function_name"] == name]
        return {
            "time": _now(),
            "interval": self._config.interval,
            "policy": self._config.target(name).policy,
            "row": row,
            # Warnings are about other functions, or repeat the row.
            "notices": [
                *([{"level": "warning", "text": f"It stays at its count: {trouble}."}] if trouble else ()),
                *(record for record in self._rows.notices() if record["level"] != "warning"),
            ],
            "alerts": alerts,
            "decisions": decisions,
            "score": numbers and {**numbers, "sentence": score(name, numbers)},
            "boost": told.get("boost"),
            "replicas": replicas,
            "profile": learned,
            "profile_problem": problem,
        }

    def _alerts(self) -> list[rows.Alerts]:
        return rows.alerts(self._reader.health().alerts)

    def _measured(self, function_name: str, *, streams: bool) -> tuple[Document, Document, str | None]:
        """Return the replicas, their learned service times, and why the latter are unknown."""
        prometheus = self._config.prometheus
        if self._config.gateway_slos().of(function_name) is not None:
            return None, None, "This function has no batching watchdog, so no service times are learned."
        if problem := self._reader.health().problem:
            return None, None, f"Prometheus does not answer: {problem}"
        chosen = queries.matching([function_name])

        def asked(texts: Mapping[str, str], label: str) -> dict[str, dict[str, float]]:
            return self._reader.instants(queries.fill(texts, prometheus.rate_window, functions=chosen), label)

        try:
            replicas = charts.replicas(asked(queries.REPLICAS, "row"))
            if streams:
                why = "This function streams: batching-watchdog try shows its times of starts and steps."
                return replicas, None, why
            return replicas, charts.profile(asked(queries.LEARNED, "size")), None
        except SourceError as error:
            return None, None, f"Prometheus does not answer: {error}"


def _failure(status: int, name: str, text: str) -> tuple[Response | str, int]:
    """Return an error as JSON under /api, otherwise as a page."""
    if request.path.startswith("/api"):
        return jsonify(error=text), status
    return render_template("error.html", status=status, name=name, text=text), status


def _choice() -> tuple[str, str, str]:
    """Return text, state and sort of the requested table; an unknown value is the default."""
    text = request.args.get("q", "")[:200]
    state = request.args.get("state", "")
    # The button of a table header comes after the form's own field.
    sort = (request.args.getlist("sort") or [words.DEFAULT_SORT])[-1]
    return (
        text,
        state if state in words.STATES else "",
        sort if sort.removeprefix("-") in words.SORTS else words.DEFAULT_SORT,
    )


def _span() -> str:
    span = request.args.get("span", charts.DEFAULT_SPAN)
    return span if span in charts.SPANS else charts.DEFAULT_SPAN


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _host_name(host: str) -> str:
    """Return the name or address in the header ``Host``, without the port."""
    name = host.lower()
    return name[1:].partition("]")[0] if name.startswith("[") else name.partition(":")[0]


def _is_allowed(name: str, hosts: set[str]) -> bool:
    """Return whether ``name``, as a browser sends it, is an IP address or one of ``hosts``.

    Otherwise a web site could point its own name here and read the page through a browser on this network.
    """
    if name in hosts:
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
