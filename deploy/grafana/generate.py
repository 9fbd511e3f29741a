"""Writes the Grafana dashboards: ``python deploy/grafana/generate.py``.

Owns what each dashboard shows, in which order and by which PromQL; the JSON in ``dashboards/`` is its output
and is committed, so that Grafana needs nothing but the files. The metric names are the watchdog's, the
gateway's, the autoscaler's and those that ``deploy/prometheus/rules`` records; ``tests/contract`` holds them
together.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

Json = dict[str, Any]

FOLDER: Final = Path(__file__).parent / "dashboards"
COLUMNS: Final = 24
LINE: Final = 110
DATASOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}


@dataclass(frozen=True, slots=True)
class Query:
    """One PromQL expression and what its series are called."""

    expr: str
    legend: str = "__auto"
    instant: bool = False
    shape: str = "time_series"

    def target(self, ref: str) -> Json:
        """The query as Grafana's target ``ref``."""
        return {
            "refId": ref,
            "datasource": DATASOURCE,
            "expr": self.expr,
            "legendFormat": self.legend,
            "format": self.shape,
            "instant": self.instant,
            "range": not self.instant,
        }


@dataclass(frozen=True, slots=True)
class Panel:
    """A panel without its place: ``dashboard`` lays panels out in the order they come."""

    kind: str
    title: str
    queries: tuple[Query, ...]
    description: str
    width: int
    height: int
    defaults: Json
    options: Json
    overrides: tuple[Json, ...] = ()
    transformations: tuple[Json, ...] = ()

    def model(self, number: int, x: int, y: int) -> Json:
        """The panel at a place, as Grafana stores it."""
        model: Json = {
            "id": number,
            "type": self.kind,
            "title": self.title,
            "description": self.description,
            "datasource": DATASOURCE,
            "gridPos": {"x": x, "y": y, "w": self.width, "h": self.height},
            "targets": [query.target(chr(ord("A") + i)) for i, query in enumerate(self.queries)],
            "fieldConfig": {"defaults": self.defaults, "overrides": list(self.overrides)},
            "options": self.options,
        }
        if self.transformations:
            model["transformations"] = list(self.transformations)
        return model


def steps(*levels: tuple[float | None, str]) -> Json:
    """Thresholds: (from this value on, color); the first has no lower end."""
    return {"mode": "absolute", "steps": [{"value": value, "color": color} for value, color in levels]}


def graph(
    title: str,
    *queries: Query,
    unit: str = "short",
    stacked: bool = False,
    lowest: float | None = 0,
    highest: float | None = None,
    lines_at: tuple[tuple[float | None, str], ...] = (),
    description: str = "",
    width: int = 12,
) -> Panel:
    """A time series; ``lines_at`` draws thresholds across it."""
    custom: Json = {
        "drawStyle": "line",
        "lineWidth": 1,
        "fillOpacity": 40 if stacked else 5,
        "showPoints": "never",
        # A gap is shown as one: it is missing data, or no traffic.
        "spanNulls": False,
        "stacking": {"mode": "normal" if stacked else "none", "group": "A"},
        "thresholdsStyle": {"mode": "line" if lines_at else "off"},
    }
    defaults: Json = {"unit": unit, "custom": custom}
    if lowest is not None:
        defaults["min"] = lowest
    if highest is not None:
        defaults["max"] = highest
    if lines_at:
        defaults["thresholds"] = steps(*lines_at)
    options = {
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }
    return Panel("timeseries", title, queries, description, width, 8, defaults, options)


def stat(
    title: str,
    expr: str,
    *,
    unit: str,
    levels: tuple[tuple[float | None, str], ...] = ((None, "text"),),
    decimals: int | None = None,
    description: str = "",
    width: int = 4,
) -> Panel:
    """One number, now."""
    defaults: Json = {"unit": unit, "thresholds": steps(*levels), "noValue": "no data"}
    if decimals is not None:
        defaults["decimals"] = decimals
    options = {
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "colorMode": "value",
        "graphMode": "none",
        "textMode": "value",
    }
    return Panel("stat", title, (Query(expr, instant=True),), description, width, 4, defaults, options)


def heat_map(title: str, expr: str, *, unit: str, description: str = "", width: int = 12) -> Panel:
    """A histogram over time; ``expr`` gives the increase of each bucket by ``le``."""
    options = {
        "calculate": False,
        "cellGap": 1,
        "color": {
            "mode": "scheme",
            "scheme": "Oranges",
            "steps": 64,
            "exponent": 0.5,
            "fill": "orange",
            "reverse": False,
        },
        "filterValues": {"le": 1e-9},
        "legend": {"show": True},
        "tooltip": {"mode": "single", "yHistogram": True},
        "yAxis": {"unit": unit, "axisPlacement": "left"},
    }
    query = Query(expr, "{{le}}", shape="heatmap")
    return Panel("heatmap", title, (query,), description, width, 8, {}, options)


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table: its title, the metric that has its value by function, and how it is shown."""

    title: str
    metric: str
    unit: str
    levels: tuple[tuple[float | None, str], ...] = ()


def table(title: str, columns: Sequence[Column], *, description: str = "", height: int = 12) -> Panel:
    """One row per function; each name is a link to the function's own dashboard."""
    # By function_name alone, without the metrics' names: rows are merged where all labels agree.
    queries = tuple(
        Query(f"max by (function_name) ({column.metric})", instant=True, shape="table") for column in columns
    )
    names = {f"Value #{chr(ord('A') + i)}": column.title for i, column in enumerate(columns)}
    link = {
        "title": "This function",
        "url": "/d/tailbound-function?var-function=${__data.fields.Function}&${datasource:queryparam}",
    }
    overrides: list[Json] = [
        {
            "matcher": {"id": "byName", "options": "Function"},
            "properties": [{"id": "links", "value": [link]}],
        }
    ]
    for column in columns:
        properties: list[Json] = [{"id": "unit", "value": column.unit}]
        if column.levels:
            properties += [
                {"id": "thresholds", "value": steps(*column.levels)},
                {"id": "custom.cellOptions", "value": {"type": "color-text"}},
            ]
        overrides.append({"matcher": {"id": "byName", "options": column.title}, "properties": properties})
    transformations = (
        {"id": "merge", "options": {}},
        {
            "id": "organize",
            "options": {
                "excludeByName": {"Time": True},
                "renameByName": {"function_name": "Function", **names},
            },
        },
    )
    options = {"showHeader": True, "sortBy": [{"displayName": "Budget left", "desc": False}]}
    return Panel(
        "table", title, queries, description, COLUMNS, height, {}, options, tuple(overrides), transformations
    )


def alerts(title: str, selector: str, *, width: int = COLUMNS) -> Panel:
    """The alerts that fire now, by ``selector`` of the series ALERTS."""
    query = Query(
        f"count by (alertname, severity, function_name, long, reason) (ALERTS{{{selector}}})",
        instant=True,
        shape="table",
    )
    hidden = {"id": "organize", "options": {"excludeByName": {"Time": True, "Value": True}}}
    return Panel(
        "table", title, (query,), "", width, 6, {"noValue": "none"}, {"showHeader": True}, (), (hidden,)
    )


def datasource_variable() -> Json:
    """The choice of the Prometheus."""
    return {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"}


def function_variable(metric: str) -> Json:
    """The choice of one function among those that ``metric`` has."""
    query = f"label_values({metric}, function_name)"
    return {
        "name": "function",
        "label": "Function",
        "type": "query",
        "datasource": DATASOURCE,
        "query": {"query": query, "refId": "function"},
        # When the time range changes: a function that has gone can still be looked at.
        "refresh": 2,
        "sort": 1,
        "multi": False,
        "includeAll": False,
    }


def dashboard(
    uid: str, title: str, variables: Sequence[Json], rows: Sequence[tuple[str, Sequence[Panel]]]
) -> Json:
    """Lay the rows out from the top, panels from the left, and number them."""
    panels: list[Json] = []
    y = 0
    for name, members in rows:
        panels.append(
            {
                "id": len(panels) + 1,
                "type": "row",
                "title": name,
                "collapsed": False,
                "gridPos": {"x": 0, "y": y, "w": COLUMNS, "h": 1},
                "panels": [],
            }
        )
        y += 1
        x = height = 0
        for panel in members:
            if x + panel.width > COLUMNS:
                x, y, height = 0, y + height, 0
            panels.append(panel.model(len(panels) + 1, x, y))
            x, height = x + panel.width, max(height, panel.height)
        y += height
    return {
        "uid": uid,
        "title": title,
        "tags": ["tailbound"],
        "schemaVersion": 39,
        "editable": False,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "links": [
            {
                "title": "Tailbound",
                "type": "dashboards",
                "tags": ["tailbound"],
                "asDropdown": False,
                "includeVars": True,
                "keepTime": True,
                "targetBlank": False,
                "icon": "external link",
                "tooltip": "",
            }
        ],
        "templating": {"list": [datasource_variable(), *variables]},
        "panels": panels,
    }


# 14.4 and 6 page, 3 and 1 open a ticket: deploy/prometheus/rules/slo.yml.
BURN_LEVELS: Final = ((None, "green"), (1.0, "yellow"), (3.0, "orange"), (6.0, "red"))
BUDGET_LEVELS: Final = ((None, "red"), (0.0, "orange"), (0.25, "green"))
F: Final = 'function_name="$function"'
SUCCESSES: Final = F + ',code=~"2.."'


def per_second(labels: str, counter: str, selector: str) -> str:
    """How often, by ``labels``."""
    return f"sum by ({labels}) (rate({counter}{{{selector}}}[$__rate_interval]))"


def increase(labels: str, counter: str, selector: str) -> str:
    """How many, by ``labels``."""
    return f"sum by ({labels}) (increase({counter}{{{selector}}}[$__rate_interval]))"


def quantile(q: float, histogram: str, selector: str = "") -> str:
    """A quantile over all replicas: their buckets are summed before it is taken."""
    return f"histogram_quantile({q}, {per_second('le', histogram + '_bucket', selector)})"


def function_dashboard() -> Json:
    """One function: its SLO, its latency, its queue and batches, the gateway's view, its replicas."""
    slo = [
        stat("Objective", f"max(slo:objective:ratio{{{F}}})", unit="percentunit"),
        stat("Target", f"min(slo_latency_seconds{{{F}}})", unit="s"),
        stat(
            "Attainment, 30 days",
            f"1 - max(slo:sli_error:ratio_rate30d{{{F}}})",
            unit="percentunit",
            decimals=3,
            description="Requests answered within the target, of all that ended, weighted by their number.",
        ),
        stat(
            "Budget left, 30 days",
            f"max(slo:error_budget_remaining:ratio{{{F}}})",
            unit="percentunit",
            levels=BUDGET_LEVELS,
            description="Of the misses that the objective allows. Below zero the objective is missed.",
        ),
        stat(
            "Budget gone in",
            f"min(slo:error_budget_exhaustion:seconds{{{F}}})",
            unit="s",
            description="If the last hour goes on. No data: nothing was missed in it.",
        ),
        stat(
            "Burn rate, 1 hour",
            f"max(slo:burn_rate:ratio_rate1h{{{F}}})",
            unit="short",
            levels=BURN_LEVELS,
            decimals=1,
            description="1 spends the budget exactly in 30 days.",
        ),
        graph(
            "Attainment",
            Query(f"function_name:slo_attainment:ratio_rate1m{{{F}}}", "1 minute"),
            Query(f"1 - slo:sli_error:ratio_rate5m{{{F}}}", "5 minutes"),
            Query(f"1 - slo:sli_error:ratio_rate1h{{{F}}}", "1 hour"),
            Query(f"slo:objective:ratio{{{F}}}", "objective"),
            unit="percentunit",
            lowest=None,
            highest=1,
            width=8,
        ),
        graph(
            "Burn rate",
            Query(f"slo:burn_rate:ratio_rate5m{{{F}}}", "5 minutes"),
            Query(f"slo:burn_rate:ratio_rate1h{{{F}}}", "1 hour"),
            Query(f"slo:burn_rate:ratio_rate6h{{{F}}}", "6 hours"),
            Query(f"slo:burn_rate:ratio_rate3d{{{F}}}", "3 days"),
            lines_at=((None, "transparent"), (1.0, "yellow"), (6.0, "orange"), (14.4, "red")),
            description="A page at 14.4 (1 hour) and 6 (6 hours), a ticket at 3 (1 day) and 1 (3 days).",
            width=8,
        ),
        graph(
            "Error budget left",
            Query(f"slo:error_budget_remaining:ratio{{{F}}}", "watchdog"),
            Query(f"slo:gateway_error_budget_remaining:ratio{{{F}}}", "gateway"),
            unit="percentunit",
            lowest=None,
            highest=1,
            lines_at=((None, "red"), (0.0, "transparent")),
            width=8,
        ),
        alerts("Alerts", f'{F},alertstate="firing"'),
    ]
    latency = [
        heat_map(
            "Latency of successes",
            increase("le", "http_request_duration_seconds_bucket", SUCCESSES),
            unit="s",
            description="One edge lies exactly at the target.",
        ),
        graph(
            "Latency of successes",
            Query(f"function_name:http_request_duration_seconds:p50_rate1m{{{F}}}", "p50"),
            Query(f"function_name:http_request_duration_seconds:p95_rate1m{{{F}}}", "p95"),
            Query(f"function_name:http_request_duration_seconds:p99_rate1m{{{F}}}", "p99"),
            Query(f"min(slo_latency_seconds{{{F}}})", "target"),
            unit="s",
        ),
        graph(
            "Where the time goes (p95)",
            Query(quantile(0.95, "watchdog_queue_seconds", F), "waiting for a worker"),
            Query(quantile(0.95, "watchdog_service_seconds", F), "in the model, per batch"),
            unit="s",
        ),
        graph(
            "Service time as learned, by batch size",
            Query(f"max by (size) (watchdog_service_seconds_predicted{{{F}}})", "{{size}}"),
            unit="s",
        ),
    ]
    queue = [
        graph(
            "Requests by outcome",
            Query(per_second("outcome", "slo_requests_total", F), "{{outcome}}"),
            unit="reqps",
            stacked=True,
            description="All but good ones are misses.",
            width=8,
        ),
        graph(
            "Load and capacity",
            Query(f"function_name:slo_requests:rate1m{{{F}}}", "requests"),
            Query(f"function_name:watchdog_capacity_requests_per_second:sum{{{F}}}", "capacity"),
            unit="reqps",
            width=8,
        ),
        graph(
            "Queue",
            Query(f"sum(watchdog_queue_length{{{F}}})", "waiting"),
            Query(f"sum(http_requests_in_flight{{{F}}})", "in flight"),
            width=8,
        ),
        heat_map(
            "Batch sizes",
            increase("le", "watchdog_batch_size_bucket", F),
            unit="short",
            width=8,
        ),
        graph(
            "Batches by why they left",
            Query(per_second("reason", "watchdog_dispatch_total", F), "{{reason}}"),
            unit="cps",
            stacked=True,
            width=8,
        ),
        graph(
            "Refusals by why",
            Query(per_second("reason", "watchdog_refusals_total", F), "{{reason}}"),
            unit="cps",
            stacked=True,
            width=8,
        ),
    ]
    gateway = [
        graph(
            "Answers at the gateway by status",
            Query(per_second("code", "gateway_function_invocation_total", F), "{{code}}"),
            unit="reqps",
            stacked=True,
            width=8,
        ),
        graph(
            "Errors at the gateway (5xx, 429)",
            Query(f"slo:gateway_error:ratio_rate5m{{{F}}}", "5 minutes"),
            Query(f"slo:gateway_error:ratio_rate1h{{{F}}}", "1 hour"),
            unit="percentunit",
            description="Also those that never reached a watchdog.",
            width=8,
        ),
        graph(
            "Latency of successes at the gateway",
            Query(quantile(0.5, "gateway_functions_seconds", SUCCESSES), "p50"),
            Query(quantile(0.99, "gateway_functions_seconds", SUCCESSES), "p99"),
            unit="s",
            description="Interpolated in wide buckets, and without the wait for a replica that starts.",
            width=8,
        ),
    ]
    replicas = [
        graph(
            "Replicas",
            Query(f"function_name:replicas_desired:max{{{F}}}", "desired"),
            Query(f"function_name:up:sum{{{F}}}", "scraped"),
            width=8,
        ),
        graph(
            "Workers by state",
            Query(f"sum by (state) (watchdog_workers{{{F}}})", "{{state}}"),
            stacked=True,
            width=8,
        ),
        graph(
            "Workers that died or were recycled",
            Query(f"sum(increase(watchdog_worker_restarts_total{{{F}}}[$__rate_interval]))", "died"),
            Query(f"sum(increase(watchdog_workers_recycled_total{{{F}}}[$__rate_interval]))", "recycled"),
            width=8,
        ),
    ]
    return dashboard(
        "tailbound-function",
        "Tailbound: function",
        [function_variable("slo:objective:ratio")],
        [
            ("SLO", slo),
            ("Latency", latency),
            ("Queue and batches", queue),
            ("The gateway's view", gateway),
            ("Replicas", replicas),
        ],
    )


def fleet_dashboard() -> Json:
    """All functions: who misses, who is about to, and what the whole costs."""
    now = [
        stat("Functions with an SLO", "count(slo:objective:ratio)", unit="short"),
        stat(
            "Budget spent",
            "count(slo:error_budget_remaining:ratio <= 0) or vector(0)",
            unit="short",
            levels=((None, "green"), (1.0, "red")),
            description="Functions that have missed their objective over 30 days.",
        ),
        stat(
            "Burning too fast",
            "count(slo:burn_rate:ratio_rate1h > 1) or vector(0)",
            unit="short",
            levels=((None, "green"), (1.0, "orange")),
            description="Functions whose last hour, if it went on, would spend more than the budget.",
        ),
        stat("Requests", "sum(function_name:slo_requests:rate1m)", unit="reqps", decimals=1),
        stat("Replicas", "sum(function_name:replicas_desired:max)", unit="short"),
        stat(
            "Pages firing",
            'count(ALERTS{alertstate="firing",severity="page"}) or vector(0)',
            unit="short",
            levels=((None, "green"), (1.0, "red")),
        ),
        alerts("Alerts", 'alertstate="firing",severity=~"page|ticket"'),
    ]
    functions = [
        table(
            "Functions",
            [
                Column("Budget left", "slo:error_budget_remaining:ratio", "percentunit", BUDGET_LEVELS),
                Column("Gone in", "slo:error_budget_exhaustion:seconds", "s"),
                Column("Burn, 1 hour", "slo:burn_rate:ratio_rate1h", "short", BURN_LEVELS),
                Column("Burn, 3 days", "slo:burn_rate:ratio_rate3d", "short", BURN_LEVELS),
                Column("Objective", "slo:objective:ratio", "percentunit"),
                Column("Target", "slo_latency_seconds", "s"),
                Column("p99", "function_name:http_request_duration_seconds:p99_rate1m", "s"),
                Column("Requests", "function_name:slo_requests:rate1m", "reqps"),
                Column("Replicas", "function_name:replicas_desired:max", "short"),
                Column("Gateway errors", "slo:gateway_error:ratio_rate1h", "percentunit"),
            ],
            description="The least budget first. A function at zero replicas has no target and no latency.",
        ),
    ]
    worst = [
        graph(
            "Fastest burn, 1 hour",
            Query("topk(10, slo:burn_rate:ratio_rate1h)", "{{function_name}}"),
            lines_at=((None, "transparent"), (1.0, "yellow"), (14.4, "red")),
        ),
        graph(
            "Least budget left",
            Query("bottomk(10, slo:error_budget_remaining:ratio)", "{{function_name}}"),
            unit="percentunit",
            lowest=None,
            highest=1,
        ),
        graph(
            "Requests of all functions by outcome",
            Query(per_second("outcome", "slo_requests_total", ""), "{{outcome}}"),
            unit="reqps",
            stacked=True,
        ),
        graph(
            "Replicas of all functions",
            Query("sum(function_name:replicas_desired:max)", "desired"),
            Query("sum(function_name:up:sum)", "scraped"),
        ),
    ]
    return dashboard(
        "tailbound-fleet",
        "Tailbound: fleet",
        [],
        [("Now", now), ("Functions", functions), ("Over time", worst)],
    )


def autoscaler_dashboard() -> Json:
    """What the autoscaler decides for one function, from what, and how it fares itself."""
    decisions = [
        graph(
            "Replicas",
            Query(f"max(slo_autoscaler_recommended_replicas{{{F}}})", "recommended"),
            Query(f"max(slo_autoscaler_desired_replicas{{{F}}})", "decided"),
            Query(f'max(slo_autoscaler_replicas{{{F},state="desired"}})', "asked of the platform"),
            Query(f'max(slo_autoscaler_replicas{{{F},state="available"}})', "available"),
            description="Recommended by the policy; decided after bounds, rate limits and stabilization.",
        ),
        graph(
            "Load, forecast and capacity",
            Query(f"max(function_name:slo_requests:rate1m{{{F}}})", "requests"),
            Query(f"max(slo_autoscaler_forecast_requests_per_second{{{F}}})", "forecast"),
            Query(
                f"max(slo_autoscaler_capacity_requests_per_second{{{F}}})"
                f' * max(slo_autoscaler_replicas{{{F},state="available"}})',
                "capacity of the available replicas, as learned",
            ),
            Query(
                f"max(slo_autoscaler_capacity_requests_per_second{{{F}}})"
                f" * max(slo_autoscaler_capacity_correction_ratio{{{F}}})"
                f' * max(slo_autoscaler_replicas{{{F},state="available"}})',
                "the same, corrected",
            ),
            unit="reqps",
        ),
        graph(
            "Decisions by reason",
            Query(
                increase("direction, reason", "slo_autoscaler_decisions_total", F),
                "{{direction}}: {{reason}}",
            ),
            stacked=True,
        ),
        graph(
            "Share of each reason, 5 minutes",
            Query(f"function_name_reason:slo_autoscaler_decisions:ratio_increase5m{{{F}}}", "{{reason}}"),
            unit="percentunit",
            stacked=True,
            highest=1,
        ),
        graph(
            "Correction of the learned capacity",
            Query(f"max(slo_autoscaler_capacity_correction_ratio{{{F}}})", "correction"),
            unit="percentunit",
            highest=1,
            description="Shrinks when the SLO is missed although the capacity says that there is room.",
        ),
        graph(
            "Burn rate",
            Query(f"slo:burn_rate:ratio_rate5m{{{F}}}", "5 minutes"),
            Query(f"slo:burn_rate:ratio_rate1h{{{F}}}", "1 hour"),
            lines_at=((None, "transparent"), (1.0, "yellow"), (14.4, "red")),
        ),
    ]
    itself = [
        graph(
            "Scale changes of all functions",
            Query(
                increase("direction", "slo_autoscaler_decisions_total", 'direction!="hold"'), "{{direction}}"
            ),
            stacked=True,
            width=8,
        ),
        graph(
            "Duration of a reconcile",
            Query(quantile(0.99, "slo_autoscaler_reconcile_seconds"), "p99"),
            Query(
                "sum(rate(slo_autoscaler_reconcile_seconds_sum[$__rate_interval]))"
                " / sum(rate(slo_autoscaler_reconcile_seconds_count[$__rate_interval]))",
                "mean",
            ),
            unit="s",
            width=8,
        ),
        graph(
            "Failures by where",
            Query(increase("stage", "slo_autoscaler_errors_total", ""), "{{stage}}"),
            stacked=True,
            width=8,
        ),
    ]
    return dashboard(
        "tailbound-autoscaler",
        "Tailbound: autoscaler",
        [function_variable("slo_autoscaler_desired_replicas")],
        [("Decisions", decisions), ("The autoscaler itself", itself)],
    )


DASHBOARDS: Final = {
    "function.json": function_dashboard,
    "fleet.json": fleet_dashboard,
    "autoscaler.json": autoscaler_dashboard,
}


def render(name: str) -> str:
    """The text of the file ``name`` in the folder of dashboards."""
    return _text(DASHBOARDS[name]()) + "\n"


def _text(value: object, indent: str = "") -> str:
    """JSON with whatever fits on one line: a person reads panels, not brackets."""
    flat = json.dumps(value)
    if len(indent) + len(flat) <= LINE or not isinstance(value, dict | list):
        return flat
    inner = indent + "  "
    if isinstance(value, dict):
        items = [f"{inner}{json.dumps(key)}: {_text(item, inner)}" for key, item in value.items()]
        return "{\n" + ",\n".join(items) + f"\n{indent}}}"
    return "[\n" + ",\n".join(inner + _text(item, inner) for item in value) + f"\n{indent}]"


def main() -> int:
    """Write every file."""
    for name in DASHBOARDS:
        (FOLDER / name).write_text(render(name))
    return 0


if __name__ == "__main__":
    sys.exit(main())
