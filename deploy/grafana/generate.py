"""Writes the Grafana dashboards: ``python deploy/grafana/generate.py``.

Owns what each dashboard shows, in which order and by which PromQL: the tables below the builders. The JSON in
``dashboards/`` is committed, so that Grafana needs nothing but the files. ``tests/contract`` compares the
metric names with those that are exported and those that ``deploy/prometheus/rules`` records.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

Json = dict[str, Any]
Levels = tuple[tuple[float | None, str], ...]
"""Thresholds: (from this value on, color); the first has no lower end."""

FOLDER: Final = Path(__file__).parent / "dashboards"
COLUMNS: Final = 24
LINE: Final = 110
DATASOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}


@dataclass(frozen=True, slots=True)
class Panel:
    """A panel without its place: ``dashboard`` lays panels out in the order they come."""

    kind: str
    title: str
    targets: Sequence[Json]
    description: str
    width: int | None
    """None: as wide as the row's other panels."""
    height: int
    defaults: Json
    options: Json
    overrides: Sequence[Json] = ()
    transformations: Sequence[Json] = ()

    def model(self, number: int, x: int, y: int, width: int) -> Json:
        """The panel at a place, as Grafana stores it."""
        model: Json = {
            "id": number,
            "type": self.kind,
            "title": self.title,
            "description": self.description,
            "datasource": DATASOURCE,
            "gridPos": {"x": x, "y": y, "w": width, "h": self.height},
            "targets": [{"refId": letter(i), **target} for i, target in enumerate(self.targets)],
            "fieldConfig": {"defaults": self.defaults, "overrides": list(self.overrides)},
            "options": self.options,
        }
        if self.transformations:
            model["transformations"] = list(self.transformations)
        return model


def letter(index: int) -> str:
    """The name by which Grafana refers to a panel's query."""
    return chr(ord("A") + index)


def query(expr: str, legend: str = "__auto", *, instant: bool = False, shape: str = "time_series") -> Json:
    """One PromQL expression and the name of its series, as a target of Grafana."""
    return {
        "datasource": DATASOURCE,
        "expr": expr,
        "legendFormat": legend,
        "format": shape,
        "instant": instant,
        "range": not instant,
    }


def thresholds(levels: Levels) -> Json:
    """The levels as Grafana stores them."""
    return {"mode": "absolute", "steps": [{"value": value, "color": color} for value, color in levels]}


def graph(
    title: str,
    lines: Mapping[str, str],
    *,
    unit: str = "short",
    stacked: bool = False,
    span: tuple[float | None, float | None] = (0, None),
    levels: Levels = (),
    description: str = "",
) -> Panel:
    """Draw ``lines`` (legend: expression) over time within ``span``, with ``levels`` across."""
    custom: Json = {
        "drawStyle": "line",
        "lineWidth": 1,
        "fillOpacity": 40 if stacked else 5,
        "showPoints": "never",
        # A gap is shown as one: it is missing data, or no traffic.
        "spanNulls": False,
        "stacking": {"mode": "normal" if stacked else "none", "group": "A"},
        "thresholdsStyle": {"mode": "line" if levels else "off"},
    }
    defaults: Json = {"unit": unit, "custom": custom}
    defaults |= {key: end for key, end in zip(("min", "max"), span, strict=True) if end is not None}
    if levels:
        defaults["thresholds"] = thresholds(levels)
    options = {
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }
    queries = [query(expr, legend) for legend, expr in lines.items()]
    return Panel("timeseries", title, queries, description, None, 8, defaults, options)


def stat(
    title: str,
    expr: str,
    unit: str = "short",
    levels: Levels = ((None, "text"),),
    *,
    decimals: int | None = None,
    description: str = "",
) -> Panel:
    """Show one number, now."""
    defaults: Json = {"unit": unit, "thresholds": thresholds(levels), "noValue": "no data"}
    if decimals is not None:
        defaults["decimals"] = decimals
    options = {
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "colorMode": "value",
        "graphMode": "none",
        "textMode": "value",
    }
    return Panel("stat", title, [query(expr, instant=True)], description, 4, 4, defaults, options)


def heat_map(title: str, expr: str, *, unit: str, description: str = "") -> Panel:
    """Show a histogram over time; ``expr`` gives the increase of each bucket by ``le``."""
    color = {"mode": "scheme", "scheme": "Oranges", "steps": 64, "exponent": 0.5, "fill": "orange"}
    options = {
        "calculate": False,
        "cellGap": 1,
        "color": {**color, "reverse": False},
        "filterValues": {"le": 1e-9},
        "legend": {"show": True},
        "tooltip": {"mode": "single", "yHistogram": True},
        "yAxis": {"unit": unit, "axisPlacement": "left"},
    }
    targets = [query(expr, "{{le}}", shape="heatmap")]
    return Panel("heatmap", title, targets, description, None, 8, {}, options)


def table(title: str, columns: Mapping[str, tuple[str, str, Levels]], *, description: str) -> Panel:
    """Show one row per function; ``columns`` is title: (metric, unit, colors)."""
    # By function_name alone, without the metrics' names: rows are merged where all labels agree.
    targets = [
        query(f"max by (function_name) ({metric})", instant=True, shape="table")
        for metric, _, _ in columns.values()
    ]
    names = {f"Value #{letter(i)}": column for i, column in enumerate(columns)}
    url = "/d/tailbound-function?var-function=${__data.fields.Function}&${datasource:queryparam}"
    properties: dict[str, list[Json]] = {
        "Function": [{"id": "links", "value": [{"title": "This function", "url": url}]}]
    }
    for column, (_, unit, levels) in columns.items():
        properties[column] = [{"id": "unit", "value": unit}]
        if levels:
            properties[column] += [
                {"id": "thresholds", "value": thresholds(levels)},
                {"id": "custom.cellOptions", "value": {"type": "color-text"}},
            ]
    overrides = [
        {"matcher": {"id": "byName", "options": name}, "properties": of} for name, of in properties.items()
    ]
    renamed = {"excludeByName": {"Time": True}, "renameByName": {"function_name": "Function", **names}}
    shaping = [{"id": "merge", "options": {}}, {"id": "organize", "options": renamed}]
    options = {"showHeader": True, "sortBy": [{"displayName": "Budget left", "desc": False}]}
    return Panel("table", title, targets, description, COLUMNS, 12, {}, options, overrides, shaping)


def alerts(selector: str) -> Panel:
    """List the alerts that fire now, by ``selector`` of the series ALERTS."""
    expr = f"count by (alertname, severity, function_name, long, reason) (ALERTS{{{selector}}})"
    hidden = {"id": "organize", "options": {"excludeByName": {"Time": True, "Value": True}}}
    return Panel(
        "table",
        "Alerts",
        [query(expr, instant=True, shape="table")],
        "",
        COLUMNS,
        6,
        {"noValue": "none"},
        {"showHeader": True},
        transformations=[hidden],
    )


def function_variable(metric: str) -> Json:
    """The choice of one function among those that ``metric`` has."""
    return {
        "name": "function",
        "label": "Function",
        "type": "query",
        "datasource": DATASOURCE,
        "query": {"query": f"label_values({metric}, function_name)", "refId": "function"},
        # When the time range changes: a function that has gone can still be looked at.
        "refresh": 2,
        "sort": 1,
        "multi": False,
        "includeAll": False,
    }


def dashboard(name: str, variables: Sequence[Json], rows: Mapping[tuple[str, int], Sequence[Panel]]) -> Json:
    """Lay the rows, (title, panels across), out from the top, panels from the left, and number them."""
    panels: list[Json] = []
    y = 0
    for (title, across), members in rows.items():
        place = {"x": 0, "y": y, "w": COLUMNS, "h": 1}
        row = {"id": len(panels) + 1, "type": "row", "title": title, "collapsed": False}
        panels.append({**row, "gridPos": place, "panels": []})
        y += 1
        x = height = 0
        for panel in members:
            width = panel.width or COLUMNS // across
            if x + width > COLUMNS:
                x, y, height = 0, y + height, 0
            panels.append(panel.model(len(panels) + 1, x, y, width))
            x, height = x + width, max(height, panel.height)
        y += height
    link = {
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
    source = {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"}
    return {
        "uid": f"tailbound-{name}",
        "title": f"Tailbound: {name}",
        "tags": ["tailbound"],
        "schemaVersion": 39,
        "editable": False,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "links": [link],
        "templating": {"list": [source, *variables]},
        "panels": panels,
    }


F: Final = '{function_name="$function"}'
SUCCESSES: Final = '{function_name="$function",code=~"2.."}'
DESIRED: Final = '{function_name="$function",state="desired"}'
AVAILABLE: Final = '{function_name="$function",state="available"}'

# 14.4 and 6 page, 3 and 1 open a ticket: deploy/prometheus/rules/slo.yml.
BURN_LEVELS: Final = ((None, "green"), (1.0, "yellow"), (3.0, "orange"), (6.0, "red"))
BURN_LINES: Final = ((None, "transparent"), (1.0, "yellow"), (14.4, "red"))
BUDGET_LEVELS: Final = ((None, "red"), (0.0, "orange"), (0.25, "green"))
TO_ONE: Final = (None, 1)
LEARNED: Final = f"max(slo_autoscaler_capacity_requests_per_second{F})"
CORRECTION: Final = f"max(slo_autoscaler_capacity_correction_ratio{F})"
REPLICAS_AVAILABLE: Final = f"max(slo_autoscaler_replicas{AVAILABLE})"


def over(change: str, counter: str) -> str:
    """``rate`` or ``increase`` of a counter over the interval that fits the picture."""
    return f"{change}({counter}[$__rate_interval])"


def by(label: str, change: str, counter: str) -> dict[str, str]:
    """One line per value of ``label``."""
    return {f"{{{{{label}}}}}": f"sum by ({label}) ({over(change, counter)})"}


def buckets(histogram: str, selector: str = "", change: str = "increase") -> str:
    """The buckets over all replicas: summed before a quantile is taken."""
    return f"sum by (le) ({over(change, f'{histogram}_bucket{selector}')})"


def quantile(q: float, histogram: str, selector: str = "{}") -> str:
    """A quantile over all replicas."""
    return f"histogram_quantile({q}, {buckets(histogram, selector, 'rate')})"


FUNCTION: Final = {
    ("SLO", 3): [
        stat("Objective", f"max(slo:objective:ratio{F})", "percentunit"),
        stat("Target", f"min(slo_latency_seconds{F})", "s"),
        stat(
            "Attainment, 30 days",
            f"1 - max(slo:sli_error:ratio_rate30d{F})",
            "percentunit",
            decimals=3,
            description="Requests answered within the target, of all that ended, weighted by their number.",
        ),
        stat(
            "Budget left, 30 days",
            f"max(slo:error_budget_remaining:ratio{F})",
            "percentunit",
            BUDGET_LEVELS,
            description="Of the misses that the objective allows. Below zero the objective is missed.",
        ),
        stat(
            "Budget gone in",
            f"min(slo:error_budget_exhaustion:seconds{F})",
            "s",
            description="If the last hour goes on. No data: nothing was missed in it.",
        ),
        stat(
            "Burn rate, 1 hour",
            f"max(slo:burn_rate:ratio_rate1h{F})",
            "short",
            BURN_LEVELS,
            decimals=1,
            description="1 spends the budget exactly in 30 days.",
        ),
        graph(
            "Attainment",
            {
                "1 minute": f"function_name:slo_attainment:ratio_rate1m{F}",
                "5 minutes": f"1 - slo:sli_error:ratio_rate5m{F}",
                "1 hour": f"1 - slo:sli_error:ratio_rate1h{F}",
                "objective": f"slo:objective:ratio{F}",
            },
            unit="percentunit",
            span=TO_ONE,
        ),
        graph(
            "Burn rate",
            {
                "5 minutes": f"slo:burn_rate:ratio_rate5m{F}",
                "1 hour": f"slo:burn_rate:ratio_rate1h{F}",
                "6 hours": f"slo:burn_rate:ratio_rate6h{F}",
                "3 days": f"slo:burn_rate:ratio_rate3d{F}",
            },
            levels=((None, "transparent"), (1.0, "yellow"), (6.0, "orange"), (14.4, "red")),
            description="A page at 14.4 (1 hour) and 6 (6 hours), a ticket at 3 (1 day) and 1 (3 days).",
        ),
        graph(
            "Error budget left",
            {
                "watchdog": f"slo:error_budget_remaining:ratio{F}",
                "gateway": f"slo:gateway_error_budget_remaining:ratio{F}",
            },
            unit="percentunit",
            span=TO_ONE,
            levels=((None, "red"), (0.0, "transparent")),
        ),
        alerts('function_name="$function",alertstate="firing"'),
    ],
    ("Latency", 2): [
        heat_map(
            "Latency of successes",
            buckets("http_request_duration_seconds", SUCCESSES),
            unit="s",
            description="One edge lies exactly at the target.",
        ),
        graph(
            "Latency of successes",
            {
                "p50": f"function_name:http_request_duration_seconds:p50_rate1m{F}",
                "p95": f"function_name:http_request_duration_seconds:p95_rate1m{F}",
                "p99": f"function_name:http_request_duration_seconds:p99_rate1m{F}",
                "target": f"min(slo_latency_seconds{F})",
            },
            unit="s",
        ),
        graph(
            "Where the time goes (p95)",
            {
                "waiting for a worker": quantile(0.95, "watchdog_queue_seconds", F),
                "in the model, per batch": quantile(0.95, "watchdog_service_seconds", F),
            },
            unit="s",
        ),
        graph(
            "Service time as learned, by batch size",
            {"{{size}}": f"max by (size) (watchdog_service_seconds_predicted{F})"},
            unit="s",
        ),
    ],
    ("Queue and batches", 3): [
        graph(
            "Requests by outcome",
            by("outcome", "rate", f"slo_requests_total{F}"),
            unit="reqps",
            stacked=True,
            description="All but good ones are misses.",
        ),
        graph(
            "Load and capacity",
            {
                "requests": f"function_name:slo_requests:rate1m{F}",
                "capacity": f"function_name:watchdog_capacity_requests_per_second:sum{F}",
            },
            unit="reqps",
        ),
        graph(
            "Queue",
            {"waiting": f"sum(watchdog_queue_length{F})", "in flight": f"sum(http_requests_in_flight{F})"},
        ),
        heat_map("Batch sizes", buckets("watchdog_batch_size", F), unit="short"),
        graph(
            "Batches by why they left",
            by("reason", "rate", f"watchdog_dispatch_total{F}"),
            unit="cps",
            stacked=True,
        ),
        graph(
            "Refusals by why", by("reason", "rate", f"watchdog_refusals_total{F}"), unit="cps", stacked=True
        ),
    ],
    ("The gateway's view", 3): [
        graph(
            "Answers at the gateway by status",
            by("code", "rate", f"gateway_function_invocation_total{F}"),
            unit="reqps",
            stacked=True,
        ),
        graph(
            "Errors at the gateway (5xx, 429)",
            {
                "5 minutes": f"slo:gateway_error:ratio_rate5m{F}",
                "1 hour": f"slo:gateway_error:ratio_rate1h{F}",
            },
            unit="percentunit",
            description="Also those that never reached a watchdog.",
        ),
        graph(
            "Latency of successes at the gateway",
            {
                "p50": quantile(0.5, "gateway_functions_seconds", SUCCESSES),
                "p99": quantile(0.99, "gateway_functions_seconds", SUCCESSES),
            },
            unit="s",
            description="Interpolated in wide buckets, and without the wait for a replica that starts.",
        ),
    ],
    ("Replicas", 3): [
        graph(
            "Replicas",
            {"desired": f"function_name:replicas_desired:max{F}", "scraped": f"function_name:up:sum{F}"},
        ),
        graph("Workers by state", {"{{state}}": f"sum by (state) (watchdog_workers{F})"}, stacked=True),
        graph(
            "Workers that died or were recycled",
            {
                "died": f"sum({over('increase', f'watchdog_worker_restarts_total{F}')})",
                "recycled": f"sum({over('increase', f'watchdog_workers_recycled_total{F}')})",
            },
        ),
    ],
}
"""One function: its SLO, its latency, its queue and batches, the gateway's view, its replicas."""

FLEET: Final = {
    ("Now", 1): [
        stat("Functions with an SLO", "count(slo:objective:ratio)"),
        stat(
            "Budget spent",
            "count(slo:error_budget_remaining:ratio <= 0) or vector(0)",
            levels=((None, "green"), (1.0, "red")),
            description="Functions that have missed their objective over 30 days.",
        ),
        stat(
            "Burning too fast",
            "count(slo:burn_rate:ratio_rate1h > 1) or vector(0)",
            levels=((None, "green"), (1.0, "orange")),
            description="Functions whose last hour, if it went on, would spend more than the budget.",
        ),
        stat("Requests", "sum(function_name:slo_requests:rate1m)", "reqps", decimals=1),
        stat("Replicas", "sum(function_name:replicas_desired:max)"),
        stat(
            "Pages firing",
            'count(ALERTS{alertstate="firing",severity="page"}) or vector(0)',
            levels=((None, "green"), (1.0, "red")),
        ),
        alerts('alertstate="firing",severity=~"page|ticket"'),
    ],
    ("Functions", 1): [
        table(
            "Functions",
            {
                "Budget left": ("slo:error_budget_remaining:ratio", "percentunit", BUDGET_LEVELS),
                "Gone in": ("slo:error_budget_exhaustion:seconds", "s", ()),
                "Burn, 1 hour": ("slo:burn_rate:ratio_rate1h", "short", BURN_LEVELS),
                "Burn, 3 days": ("slo:burn_rate:ratio_rate3d", "short", BURN_LEVELS),
                "Objective": ("slo:objective:ratio", "percentunit", ()),
                "Target": ("slo_latency_seconds", "s", ()),
                "p99": ("function_name:http_request_duration_seconds:p99_rate1m", "s", ()),
                "Requests": ("function_name:slo_requests:rate1m", "reqps", ()),
                "Replicas": ("function_name:replicas_desired:max", "short", ()),
                "Gateway errors": ("slo:gateway_error:ratio_rate1h", "percentunit", ()),
            },
            description="The least budget first. A function at zero replicas has no target and no latency.",
        )
    ],
    ("Over time", 2): [
        graph(
            "Fastest burn, 1 hour",
            {"{{function_name}}": "topk(10, slo:burn_rate:ratio_rate1h)"},
            levels=BURN_LINES,
        ),
        graph(
            "Least budget left",
            {"{{function_name}}": "bottomk(10, slo:error_budget_remaining:ratio)"},
            unit="percentunit",
            span=TO_ONE,
        ),
        graph(
            "Requests of all functions by outcome",
            by("outcome", "rate", "slo_requests_total{}"),
            unit="reqps",
            stacked=True,
        ),
        graph(
            "Replicas of all functions",
            {"desired": "sum(function_name:replicas_desired:max)", "scraped": "sum(function_name:up:sum)"},
        ),
    ],
}
"""All functions: who misses, who is about to, and what the whole costs."""

AUTOSCALER: Final = {
    ("Decisions", 2): [
        graph(
            "Replicas",
            {
                "recommended": f"max(slo_autoscaler_recommended_replicas{F})",
                "decided": f"max(slo_autoscaler_desired_replicas{F})",
                "asked of the platform": f"max(slo_autoscaler_replicas{DESIRED})",
                "available": REPLICAS_AVAILABLE,
            },
            description="Recommended by the policy; decided after bounds, rate limits and stabilization.",
        ),
        graph(
            "Load, forecast and capacity",
            {
                "requests": f"max(function_name:slo_requests:rate1m{F})",
                "forecast": f"max(slo_autoscaler_forecast_requests_per_second{F})",
                "capacity of the available replicas, as learned": f"{LEARNED} * {REPLICAS_AVAILABLE}",
                "the same, corrected": f"{LEARNED} * {CORRECTION} * {REPLICAS_AVAILABLE}",
            },
            unit="reqps",
        ),
        graph(
            "Decisions by reason",
            {
                "{{direction}}: {{reason}}": "sum by (direction, reason) "
                f"({over('increase', f'slo_autoscaler_decisions_total{F}')})"
            },
            stacked=True,
        ),
        graph(
            "Share of each reason, 5 minutes",
            {"{{reason}}": f"function_name_reason:slo_autoscaler_decisions:ratio_increase5m{F}"},
            unit="percentunit",
            stacked=True,
            span=(0, 1),
        ),
        graph(
            "Correction of the learned capacity",
            {"correction": CORRECTION},
            unit="percentunit",
            span=(0, 1),
            description="Shrinks when the SLO is missed although the capacity says that there is room.",
        ),
        graph(
            "Burn rate",
            {"5 minutes": f"slo:burn_rate:ratio_rate5m{F}", "1 hour": f"slo:burn_rate:ratio_rate1h{F}"},
            levels=BURN_LINES,
        ),
    ],
    ("The autoscaler itself", 3): [
        graph(
            "Scale changes of all functions",
            by("direction", "increase", 'slo_autoscaler_decisions_total{direction!="hold"}'),
            stacked=True,
        ),
        graph(
            "Duration of a reconcile",
            {
                "p99": quantile(0.99, "slo_autoscaler_reconcile_seconds"),
                "mean": f"sum({over('rate', 'slo_autoscaler_reconcile_seconds_sum')})"
                f" / sum({over('rate', 'slo_autoscaler_reconcile_seconds_count')})",
            },
            unit="s",
        ),
        graph("Failures by where", by("stage", "increase", "slo_autoscaler_errors_total{}"), stacked=True),
    ],
}
"""What the autoscaler decides for one function, from what, and how it fares itself."""

DASHBOARDS: Final = {
    "function.json": dashboard("function", [function_variable("slo:objective:ratio")], FUNCTION),
    "fleet.json": dashboard("fleet", [], FLEET),
    "autoscaler.json": dashboard(
        "autoscaler", [function_variable("slo_autoscaler_desired_replicas")], AUTOSCALER
    ),
}


def render(name: str) -> str:
    """The text of the file ``name`` in the folder of dashboards."""
    return _text(DASHBOARDS[name]) + "\n"


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
