"""The status page's addresses: HTML for people, and behind every view the same as JSON under /api.

Owns what is asked for and how it is answered: statuses, headers, who may ask under which name. Everything is
read-only. What is shown is worked out by ``board`` and ``charts``. docs/status-page.md documents the JSON.
"""

import gzip
import ipaddress
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from flask import Flask, Response, jsonify, render_template, request
from flask.json.provider import DefaultJSONProvider
from werkzeug.exceptions import HTTPException

from slo_autoscaler import __version__
from slo_autoscaler import words as shown
from slo_autoscaler.cli.explain import score, sentence
from slo_autoscaler.config import Config
from slo_autoscaler.errors import SourceError
from slo_autoscaler.journal import DEPTH, named
from slo_autoscaler.web import charts as series
from slo_autoscaler.web import rows as fleet
from slo_autoscaler.web.board import Board
from slo_autoscaler.web.listener import Decisions
from slo_autoscaler.web.reader import Reader
from slo_autoscaler.web.rows import Row

logger = logging.getLogger(__name__)

MOST_ROWS: Final = 1000
"""Of one table; who wants others filters. /api/functions has them all."""

WORTH_PACKING: Final = 4096
"""Bytes. A thousand functions are a megabyte of JSON, every few seconds, often through a tunnel."""

HEADERS: Final[Mapping[str, str]] = {
    # Nothing but what this server sends, no code or style within a page, no frame around it.
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


@dataclass(frozen=True, slots=True)
class Column:
    """One column of the fleet table; ``key`` is that of ``fleet.SORTS`` and of a row's ``shown``."""

    key: str
    title: str
    hint: str
    numeric: bool = True
    minor: bool = False
    """Left out where there is little room."""


COLUMNS: Final = (
    Column("function", "Function", "name.namespace", numeric=False),
    Column("state", "SLO", "whether it is met in the autoscaler's window", numeric=False),
    Column("target", "Target", "share of all requests that must be within a latency", minor=True),
    Column("attainment", "Attained", "share of all requests within the target, in the window", minor=True),
    Column("budget", "Budget left", "of the misses that the objective allows in 30 days"),
    Column("burn", "Burn", "how many times too fast the budget is spent: 1 spends it in 30 days", minor=True),
    Column("p95", "p95", "latency of successes; sorted by its share of the target", minor=True),
    Column("p99", "p99", "latency of successes; sorted by its share of the target"),
    Column("replicas", "Replicas", "serving now / wanted / the most there may be"),
    Column("mode", "Mode", "active, shadow or standby", numeric=False, minor=True),
    Column("last", "Last decision", "the newest one, and why", numeric=False),
)


def create_app(config: Config, decided: Decisions, alive: Callable[[], bool], reader: Reader) -> Flask:
    """Return the WSGI application."""
    app = Flask(__name__)
    provider = DefaultJSONProvider(app)
    provider.sort_keys = False
    app.json = provider
    app.jinja_env.globals.update(shown=shown, version=__version__)
    app.jinja_env.trim_blocks = app.jinja_env.lstrip_blocks = True
    views = _Views(config, decided, Board(decided, alive, reader), reader)
    names = {"localhost", *(name.lower() for name in config.web.page_allowed_hosts)}

    @app.before_request
    def _known_name() -> tuple[str, int] | None:
        if _may_be_asked_as(request.host, names):
            return None
        return f"{request.host}: not a name of this page; web.page_allowed_hosts has them\n", 421

    @app.after_request
    def _headers(response: Response) -> Response:
        response.headers.update(HEADERS)
        if request.endpoint == "static":
            response.headers["Cache-Control"] = "no-cache"
            return response
        response.headers["Cache-Control"] = "no-store"
        response.vary.add("Accept-Encoding")
        if request.accept_encodings["gzip"] and len(response.get_data()) > WORTH_PACKING:
            response.set_data(gzip.compress(response.get_data(), compresslevel=1))
            response.content_encoding = "gzip"
        return response

    @app.errorhandler(SourceError)
    def _no_prometheus(error: SourceError) -> tuple[Response, int]:
        return jsonify(error=str(error)), 502

    @app.errorhandler(HTTPException)
    def _refused(error: HTTPException) -> tuple[Response | str, int]:
        status, text = error.code or 500, str(error.description)
        if request.path.startswith("/api"):
            return jsonify(error=text), status
        return render_template("error.html", status=status, name=error.name, text=text), status

    @app.errorhandler(Exception)
    def _bug(error: Exception) -> tuple[Response | str, int]:
        logger.exception("%s %s", request.method, request.path)
        text = "The page failed; scaling goes on. The autoscaler's log says why."
        if request.path.startswith("/api"):
            return jsonify(error=text), 500
        return render_template("error.html", status=500, name=type(error).__name__, text=text), 500

    app.add_url_rule("/", "fleet", views.fleet)
    app.add_url_rule("/functions/<name>", "function", views.function)
    app.add_url_rule("/api", "api", views.api)
    app.add_url_rule("/api/functions", "api_fleet", views.api_fleet)
    app.add_url_rule("/api/functions/<name>", "api_function", views.api_function)
    app.add_url_rule("/api/functions/<name>/series", "api_series", views.api_series)
    return app


class _Views:
    """What each address answers."""

    def __init__(self, config: Config, decided: Decisions, board: Board, reader: Reader) -> None:
        self._config = config
        self._decided = decided
        self._board = board
        self._reader = reader

    def fleet(self) -> str:
        """The table of all functions."""
        text, state, sort = _wanted()
        rows = fleet.matching(fleet.ordered(self._board.rows(), sort), text, state)
        return render_template(
            "fleet.html",
            columns=COLUMNS,
            states=fleet.STATES,
            text=text,
            state=state,
            sort=sort,
            rows=rows[:MOST_ROWS],
            found=len(rows),
            most=MOST_ROWS,
            whole=self._fleet_document([]),
            platform=self._config.platform,
        )

    def api_fleet(self) -> Response:
        """The same as JSON; ``q``, ``state`` and ``sort`` choose as in the page."""
        text, state, sort = _wanted()
        rows = fleet.matching(fleet.ordered(self._board.rows(), sort), text, state)
        return jsonify(self._fleet_document(rows))

    def function(self, name: str) -> str | tuple[str, int]:
        """One function: what it does, what it has learned, what was decided and why."""
        row = self._row(name)
        if isinstance(row, str):
            return render_template("error.html", status=404, name="No such function", text=row), 404
        return render_template(
            "function.html",
            spans=series.SPANS,
            span=_span(),
            **self._function_document(row),
        )

    def api_function(self, name: str) -> Response | tuple[Response, int]:
        """The same as JSON."""
        row = self._row(name)
        return (jsonify(error=row), 404) if isinstance(row, str) else jsonify(self._function_document(row))

    def api_series(self, name: str) -> Response | tuple[Response, int]:
        """The time series of one function, over ``span``."""
        row = self._row(name)
        if isinstance(row, str):
            return jsonify(error=row), 404
        prometheus = self._config.prometheus
        slo = self._config.gateway_slos().of(row["function_name"])
        chosen = series.charts(slo)
        at = series.grid(series.SPANS[_span()], prometheus.scrape_interval, self._reader.now())
        # At least a step, so that nothing falls between two moments.
        queries = series.filled(
            series.lines(chosen),
            row["function_name"],
            rate_window=max(prometheus.rate_window, at.step),
            window=max(prometheus.window, at.step),
            slo=slo,
        )
        found = self._reader.ranges(queries, at)
        return jsonify(function_name=row["function_name"], span=_span(), **series.document(chosen, found, at))

    def api(self) -> Response:
        """What there is."""
        return jsonify(
            version=__version__,
            functions="/api/functions?q=TEXT&state=STATE&sort=COLUMN",
            function="/api/functions/NAME",
            series="/api/functions/NAME/series?span=SPAN",
            states=dict(fleet.STATES),
            sorts=list(fleet.SORTS),
            spans=list(series.SPANS),
        )

    def _row(self, name: str) -> Row | str:
        """Return the row of a function by its full name, or what is to be said instead."""
        row = self._board.row(name)
        if row is not None:
            return row
        found, near = named(name, self._decided.functions())
        hint = f"; did you mean {' or '.join(found or near)}?" if found or near else "."
        return f"Nothing was decided for {name!r}{hint}"

    def _fleet_document(self, rows: list[Row]) -> dict[str, Any]:
        return {
            "time": _now(),
            "interval": self._config.interval,
            "notices": self._board.notices(),
            "summary": fleet.summary(self._board.rows()),
            "functions": rows,
        }

    def _function_document(self, row: Row) -> dict[str, Any]:
        name = row["function_name"]
        told = self._decided.decisions(name, DEPTH) or {"decisions": []}
        days = {str(decision["time"])[:10] for decision in told["decisions"]}
        decisions = [
            {**decision, "sentence": sentence(decision, with_date=len(days) > 1)}
            for decision in reversed(told["decisions"])
        ]
        spec = self._config.target(name)
        numbers = told.get("score")
        learned, problem = self._learned(row)
        return {
            "time": _now(),
            "interval": self._config.interval,
            "policy": spec.policy,
            "row": row,
            # Warnings are of other functions, or are what the row itself says.
            "notices": [each for each in self._board.notices() if each["level"] != "warning"],
            "last_change": next((each for each in decisions if each["action"] != "hold"), None),
            "decisions": decisions,
            "score": numbers and {**numbers, "sentence": score(name, numbers)},
            "profile": learned,
            "profile_problem": problem,
        }

    def _learned(self, row: Row) -> tuple[dict[str, Any] | None, str | None]:
        """Return what the watchdogs have learned, or why that is not known."""
        name, prometheus = row["function_name"], self._config.prometheus
        if self._config.gateway_slos().of(name) is not None:
            return None, "This function has no batching watchdog, which would learn service times."
        queries = series.filled(
            series.LEARNED, name, rate_window=prometheus.rate_window, window=prometheus.window
        )
        try:
            found = self._reader.instants(queries, "size")
        except SourceError as error:
            return None, f"Prometheus does not answer: {error}"
        return series.profile(found), None


def _wanted() -> tuple[str, str, str]:
    """Return text, state and sort of the table that is asked for; what makes no sense is the default."""
    text = request.args.get("q", "")[:200]
    state = request.args.get("state", "")
    # A header's button comes after the form's own field.
    sort = (request.args.getlist("sort") or [fleet.DEFAULT_SORT])[-1]
    return (
        text,
        state if state in fleet.STATES else "",
        sort if sort.removeprefix("-") in fleet.SORTS else fleet.DEFAULT_SORT,
    )


def _span() -> str:
    span = request.args.get("span", series.DEFAULT_SPAN)
    return span if span in series.SPANS else series.DEFAULT_SPAN


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _may_be_asked_as(host: str, names: set[str]) -> bool:
    """Tell whether ``host``, as a browser says it, is an address or one of the page's names.

    Else any web site could have a name of its own point here, and read what a browser on this network may.
    """
    name = host.lower()
    name = name[1:].partition("]")[0] if name.startswith("[") else name.partition(":")[0]
    if name in names:
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
