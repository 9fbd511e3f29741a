"""Writes the Grafana dashboards: ``python deploy/grafana/generate.py``.

Owns the panels, order and PromQL of each dashboard: the tables below the builders. The JSON in the chart's
``files/dashboards/`` is committed, so that Grafana needs only the files. ``tests/contract`` compares the
metric names with those that are exported and those that the chart's ``files/rules/`` record.
"""

import json
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from string import ascii_uppercase
from typing import Any, Final

from slo_autoscaler.signals.record import SIGNALS

Json = dict[str, Any]
Levels = tuple[tuple[float | None, str], ...]
"""Thresholds: (from this value on, color); the first has no lower end."""

FOLDER: Final = Path(__file__).resolve().parents[1] / "helm/slo-autoscaler/files/dashboards"
COLUMNS: Final = 24
FROM_ZERO: Final = {"min": 0}
TO_ONE: Final = {"max": 1}
DATASOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}


def panel(
    kind: str,
    title: str,
    targets: Sequence[Json],
    size: tuple[int, int],
    defaults: Json,
    options: Json,
    overrides: Sequence[Json] = (),
    **further: Sequence[Json],
) -> Json:
    """Return a panel of (width, height) in Grafana's form, without number and place; width 0: the row's."""
    return {
        "id": 0,
        "type": kind,
        "title": title,
        "description": "",
        "datasource": DATASOURCE,
        "gridPos": {"x": 0, "y": 0, "w": size[0], "h": size[1]},
        "targets": [{"refId": ref, **target} for ref, target in zip(ascii_uppercase, targets, strict=False)],
        "fieldConfig": {"defaults": defaults, "overrides": list(overrides)},
        "options": options,
        **further,
    }


def about(text: str) -> Json:
    """Return the addition that gives a panel the description ``text``."""
    return {"description": text}


def query(expr: str, legend: str = "__auto", *, instant: bool = False, shape: str = "time_series") -> Json:
    """Return one PromQL expression and the name of its series, as a target of Grafana."""
    return {
        "datasource": DATASOURCE,
        "expr": expr,
        "legendFormat": legend,
        "format": shape,
        "instant": instant,
        "range": not instant,
    }


def thresholds(levels: Levels) -> Json:
    """Return the levels as Grafana stores them."""
    return {"mode": "absolute", "steps": [{"value": value, "color": color} for value, color in levels]}


def graph(
    title: str,
    lines: Mapping[str, str],
    *,
    unit: str = "short",
    stacked: bool = False,
    span: Mapping[str, int] = FROM_ZERO,
    levels: Levels = (),
) -> Json:
    """Draw ``lines`` (legend: expression) over time within ``span``, with ``levels`` across."""
    custom: Json = {
        "drawStyle": "line",
        "lineWidth": 1,
        "fillOpacity": 40 if stacked else 5,
        "showPoints": "never",
        # Gaps stay visible: they are missing data, or no traffic.
        "spanNulls": False,
        "stacking": {"mode": "normal" if stacked else "none", "group": "A"},
        "thresholdsStyle": {"mode": "line" if levels else "off"},
    }
    defaults: Json = {"unit": unit, "custom": custom, **span}
    if levels:
        defaults["thresholds"] = thresholds(levels)
    options = {
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }
    targets = [query(expr, legend) for legend, expr in lines.items()]
    return panel("timeseries", title, targets, (0, 8), defaults, options)


def split(title: str, label: str, counter: str, change: str = "rate", unit: str = "reqps") -> Json:
    """Draw the change of a counter by the values of ``label``, stacked."""
    lines = {f"{{{{{label}}}}}": f"sum by ({label}) ({over(change, counter)})"}
    return graph(title, lines, unit=unit, stacked=True)


def stat(
    title: str,
    expr: str,
    unit: str = "short",
    levels: Levels = ((None, "text"),),
    decimals: int | None = None,
) -> Json:
    """Show the present value of one number."""
    defaults: Json = {"unit": unit, "thresholds": thresholds(levels), "noValue": "no data"}
    if decimals is not None:
        defaults["decimals"] = decimals
    options = {
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "colorMode": "value",
        "graphMode": "none",
        "textMode": "value",
    }
    return panel("stat", title, [query(expr, instant=True)], (4, 4), defaults, options)


def heat_map(title: str, expr: str, *, unit: str) -> Json:
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
    target = query(expr, "{{le}}", shape="heatmap") | {"exemplar": True}
    return panel("heatmap", title, [target], (0, 8), {}, options)


def table(
    title: str,
    columns: Mapping[str, tuple[str, str, Levels]],
    label: str = "function_name",
    heading: str = "Function",
    height: int = 12,
) -> Json:
    """Show one row per value of ``label``, a link; ``columns`` is title: (metric, unit, colors)."""
    # By one label only, without the metrics' names: Grafana merges rows whose labels all agree.
    targets = [
        query(f"max by ({label}) ({metric})", instant=True, shape="table")
        for metric, _, _ in columns.values()
    ]
    names = {f"Value #{ref}": column for ref, column in zip(ascii_uppercase, columns, strict=False)}
    variable = "var-function" if label == "function_name" else "${function:queryparam}&var-slo_class"
    url = f"/d/tailbound-function?{variable}=${{__data.fields.{heading}}}&${{datasource:queryparam}}"
    properties: dict[str, list[Json]] = {
        heading: [{"id": "links", "value": [{"title": f"This {heading.lower()}", "url": url}]}]
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
    renamed = {"excludeByName": {"Time": True}, "renameByName": {label: heading, **names}}
    shaping = [{"id": "merge", "options": {}}, {"id": "organize", "options": renamed}]
    options = {"showHeader": True, "sortBy": [{"displayName": "Error budget left", "desc": False}]}
    return panel("table", title, targets, (COLUMNS, height), {}, options, overrides, transformations=shaping)


def alerts(selector: str) -> Json:
    """List the alerts that fire now, by ``selector`` of the series ALERTS."""
    expr = f"count by (alertname, severity, function_name, slo_class, view, reason) (ALERTS{{{selector}}})"
    hidden = {"id": "organize", "options": {"excludeByName": {"Time": True, "Value": True}}}
    queries = [query(expr, instant=True, shape="table")]
    options = {"showHeader": True}
    return panel(
        "table", "Alerts", queries, (COLUMNS, 6), {"noValue": "none"}, options, transformations=[hidden]
    )


def choice(
    metric: str, label: str = "function_name", name: str = "function", title: str = "Function"
) -> Json:
    """Return a variable that selects one value of ``label`` among those of ``metric``."""
    return {
        "name": name,
        "label": title,
        "type": "query",
        "datasource": DATASOURCE,
        "query": {"query": f"label_values({metric}, {label})", "refId": name},
        # Refreshed with the time range, so that a removed function can still be selected.
        "refresh": 2,
        "sort": 1,
        "multi": False,
        "includeAll": False,
    }


def annotation(name: str, expr: str, color: str, *, at_value: bool = False) -> Json:
    """Mark moments on all graphs: samples of ``expr`` or, ``at_value``, the times (ms) that it gives."""
    return {
        "name": name,
        "datasource": DATASOURCE,
        "enable": True,
        "iconColor": color,
        "expr": expr,
        "titleFormat": name,
        "textFormat": "{{alertname}} {{severity}} {{slo_class}} {{view}}",
        "useValueForTime": at_value,
    }


def dashboard(
    name: str,
    rows: Mapping[tuple[str, int], Sequence[Json]],
    *variables: Json,
    opened: int,
    marks: Sequence[Json] = (),
) -> Json:
    """Lay the rows, (title, panels across), out from the top, panels from the left, and number them.

    Rows after the first ``opened`` are collapsed: Grafana queries their panels when they are opened.
    """
    numbers = count(1)
    panels: list[Json] = []
    y = 0
    for (title, across), members in rows.items():
        collapsed = opened <= 0
        opened -= 1
        row = {"id": next(numbers), "type": "row", "title": title, "collapsed": collapsed}
        panels.append({**row, "gridPos": {"x": 0, "y": y, "w": COLUMNS, "h": 1}, "panels": []})
        into = panels[-1]["panels"] if collapsed else panels
        y += 1
        x = height = 0
        for each in members:
            width, high = each["gridPos"]["w"] or COLUMNS // across, each["gridPos"]["h"]
            if x + width > COLUMNS:
                x, y, height = 0, y + height, 0
            place = {"x": x, "y": y, "w": width, "h": high}
            into.append(each | {"id": next(numbers), "gridPos": place})
            x, height = x + width, max(height, high)
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
        "annotations": {"list": list(marks)},
        "panels": panels,
    }


F: Final = '{function_name="$function"}'
VIEW: Final = '{function_name="$function",slo_class="$slo_class",view="watchdog"}'
ALL: Final = '{function_name="$function",view="watchdog"}'
GATEWAY: Final = '{function_name="$function",view="gateway"}'
CLASS: Final = '{function_name="$function",slo_class="$slo_class"}'
OWN: Final = '{function_name="$function",slo_class=~"|default"}'
DEFAULT: Final = '{function_name="$function",slo_class="default"}'
SUCCESSES: Final = '{function_name="$function",code=~"2.."}'
GOOD: Final = '{function_name="$function",outcome="good"}'
REPLICA: Final = "instance, replica"
DESIRED: Final = 'max(slo_autoscaler_replicas{function_name="$function",state="desired"})'
AVAILABLE: Final = 'max(slo_autoscaler_replicas{function_name="$function",state="available"})'
CHANGES: Final = 'slo_autoscaler_decisions_total{direction!="hold"}'

# 14.4 and 6 page, 3 and 1 open a ticket: the chart's files/rules/slo.yml.
BURN_LEVELS: Final = ((None, "green"), (1.0, "yellow"), (3.0, "orange"), (6.0, "red"))
BURN_LINES: Final = ((None, "transparent"), (1.0, "yellow"), (6.0, "orange"))
BUDGET_LEVELS: Final = ((None, "red"), (0.0, "orange"), (0.25, "green"))
COUNT_LEVELS: Final = ((None, "green"), (1.0, "red"))
WINDOWS: Final = {"5m": "5 minutes", "1h": "1 hour", "6h": "6 hours", "3d": "3 days"}
LEAST_BUDGET: Final = 'min by (function_name) (slo:error_budget_remaining:ratio{view="watchdog"})'
FIRST_PIECE: Final = "function_name_slo_class:watchdog_first_piece_seconds"
INTERVAL: Final = "function_name_slo_class:watchdog_piece_interval_seconds"
LEARNED: Final = f"max(slo_autoscaler_capacity_requests_per_second{F})"


def signals(chart: str) -> dict[str, str]:
    """Return the lines of the signals that a chart of the function's page shows too."""
    return {
        signal.shown.label: f"sum({signal.chosen(F[1:-1])} >= 0)"
        for signal in SIGNALS.values()
        if signal.shown and signal.shown.chart == chart
    }


def over(change: str, counter: str) -> str:
    """``rate`` or ``increase`` of a counter over the interval that fits the picture."""
    return f"{change}({counter}[$__rate_interval])"


def windows(series: str, *names: str, of: str = F) -> dict[str, str]:
    """Return one line per window of a recorded series, with the highest value of several classes."""
    return {WINDOWS[name]: f"max({series}:ratio_rate{name}{of})" for name in names}


def buckets(histogram: str, selector: str = "", change: str = "increase") -> str:
    """Return the buckets summed over all replicas, as a quantile needs them."""
    return f"sum by (le) ({over(change, f'{histogram}_bucket{selector}')})"


def quantile(q: float, histogram: str, selector: str = "{}") -> str:
    """Return a quantile over all replicas."""
    return f"histogram_quantile({q}, {buckets(histogram, selector, 'rate')})"


def latency(p: str, function: str = "", default: str = '{slo_class="default"}') -> str:
    """Return a recorded quantile of what slo_latency is for: the first piece of streams, else the answer."""
    first_piece = f"max by (function_name) ({FIRST_PIECE}:{p}_rate1m{default})"
    return f"{first_piece} or function_name:http_request_duration_seconds:{p}_rate1m{function}"


def by_replica(title: str, expr: str, unit: str = "short") -> Json:
    """Draw one line for each replica; ``expr`` is by ``REPLICA``."""
    return graph(title, {"{{replica}} {{instance}}": expr}, unit=unit)


FUNCTION: Final = {
    ("SLO", 2): [
        alerts('function_name="$function",alertstate="firing"'),
        table(
            "SLO classes",
            {
                "Error budget left": (f"slo:error_budget_remaining:ratio{ALL}", "percentunit", BUDGET_LEVELS),
                "Spent in": (f"slo:error_budget_exhaustion:seconds{ALL}", "s", ()),
                "Burn, 1 hour": (f"slo:burn_rate:ratio_rate1h{ALL}", "short", BURN_LEVELS),
                "Burn, 3 days": (f"slo:burn_rate:ratio_rate3d{ALL}", "short", BURN_LEVELS),
                "Attained, 30 days": (f"1 - slo:sli_error:ratio_rate30d{ALL}", "percentunit", ()),
                "Objective": (f"slo:objective:ratio{F}", "percentunit", ()),
                "Target": (f"min by (slo_class) (slo_latency_seconds{F})", "s", ()),
                "Requests": (f"sum by (slo_class) ({over('rate', f'slo_requests_total{F}')})", "reqps", ()),
            },
            label="slo_class",
            heading="Class",
            height=6,
        )
        | about(
            "Sorted by error budget of 30 days, least first; below zero the objective is missed. Spent in: "
            "at the last hour's rate; empty without misses. The panels below show the class chosen above."
        ),
        graph(
            "Burn rate",
            {
                **windows("slo:burn_rate", "5m", "1h", "6h", "3d", of=VIEW),
                "page, 1 hour": f"slo:page_burn_rate:ratio{VIEW}",
            },
            levels=BURN_LINES,
        )
        | about(
            "Alerts page at the line (1 hour; 14.4, or 80% misses) and at 6 (6 hours), and open a ticket at "
            "3 (1 day) and 1 (3 days)."
        ),
        graph(
            "Error budget left",
            {
                "watchdog": f"slo:error_budget_remaining:ratio{VIEW}",
                "gateway": f"slo:error_budget_remaining:ratio{GATEWAY}",
            },
            unit="percentunit",
            span=TO_ONE,
            levels=((None, "red"), (0.0, "transparent")),
        ),
    ],
    ("Load and latency", 3): [
        graph(
            "Latency of successes",
            {
                **{p: latency(p, F, DEFAULT) for p in ("p50", "p95", "p99")},
                "target": f"min(slo_latency_seconds{OWN})",
            },
            unit="s",
        )
        | about("Of streams: the time to the first piece, of requests without a class."),
        graph(
            "Load and capacity",
            {
                "requests": f"function_name:slo_requests:rate1m{F}",
                "capacity": f"function_name:watchdog_capacity_requests_per_second:sum{F}",
            },
            unit="reqps",
        ),
        graph(
            "Replicas",
            {"desired": f"function_name:replicas_desired:max{F}", "scraped": f"function_name:up:sum{F}"},
        ),
        split("Requests by outcome", "outcome", f"slo_requests_total{CLASS}")
        | about("Of the selected class. Every outcome except good is a miss."),
        graph(
            "Queue",
            signals("queue"),
        ),
        graph(
            "Where the time goes (p95)",
            {
                "waiting for a worker": quantile(0.95, "watchdog_queue_seconds", F),
                "in the model, per batch": quantile(0.95, "watchdog_service_seconds", F),
            },
            unit="s",
        ),
    ],
    ("Replicas", 3): [
        by_replica("Requests", f"sum by ({REPLICA}) ({over('rate', f'slo_requests_total{F}')})", "reqps"),
        by_replica("Capacity", f"max by ({REPLICA}) (watchdog_capacity_requests_per_second{F} >= 0)", "reqps")
        | about("As each replica exports it. It grows with the CPUs of a boost."),
        by_replica(
            "Missed",
            f"1 - sum by ({REPLICA}) ({over('rate', f'slo_requests_total{GOOD}')})"
            f" / sum by ({REPLICA}) ({over('rate', f'slo_requests_total{F}')})",
            "percentunit",
        )
        | about("Share of the requests that each replica answered late, failed or refused."),
        by_replica("In flight", f"max by ({REPLICA}) (http_requests_in_flight{F})"),
        by_replica("CPUs", f"max by ({REPLICA}) (watchdog_capacity_cores{F} > 0)")
        | about("CPUs for which the capacity holds: more than the others have means a boost."),
        by_replica("Start-up", f"max by ({REPLICA}) (watchdog_start_up_seconds{F})", "s")
        | about("From the start of a replica's process to its first ready worker."),
        graph("Workers by state", {"{{state}}": f"sum by (state) (watchdog_workers{F})"}, stacked=True),
        graph(
            "Workers that died or were replaced",
            {
                "died": f"sum({over('increase', f'watchdog_worker_restarts_total{F}')})",
                "recycled": f"sum({over('increase', f'watchdog_workers_recycled_total{F}')})",
                "sick": f"sum({over('increase', f'watchdog_workers_sick_total{F}')})",
            },
        ),
        split("Refusals by reason, all classes", "reason", f"watchdog_refusals_total{F}", unit="cps"),
    ],
    ("Batches and SLO classes", 3): [
        heat_map("Latency of successes", buckets("http_request_duration_seconds", SUCCESSES), unit="s")
        | about("One bucket edge is exactly the target. A stream counts with its whole length."),
        heat_map("Batch sizes", buckets("watchdog_batch_size", F), unit="short"),
        split("Batches by reason of dispatch", "reason", f"watchdog_dispatch_total{F}", unit="cps"),
        graph(
            "Learned service time by batch size",
            {"{{size}}": f"max by (size) (watchdog_service_seconds_predicted{F})"},
            unit="s",
        ),
        split("Requests by SLO class", "slo_class", f"slo_requests_total{F}"),
        graph(
            "Latency of each class (p99)",
            {
                "{{slo_class}}": f"max by (slo_class) ({FIRST_PIECE}:p99_rate1m{F})"
                " or histogram_quantile(0.99, sum by (slo_class, le) "
                f"({over('rate', f'slo_request_duration_seconds_bucket{F}')}))"
            },
            unit="s",
        )
        | about(
            "Of good and slow requests where classes are declared. Of streams: the time to the first piece."
        ),
        graph(
            "Filled by best effort",
            {
                "share of the workers' time": f"sum({over('rate', f'watchdog_best_effort_seconds_total{F}')})"
                f" / sum(watchdog_workers{F})"
            },
            unit="percentunit",
            span=TO_ONE,
        )
        | about("Requests without a deadline, on workers that no other request needs."),
        split("Requests of best effort by outcome", "outcome", f"watchdog_best_effort_total{F}"),
    ],
    ("Streams, of a function that streams", 3): [
        graph(
            "First piece",
            {
                **{p: f"{FIRST_PIECE}:{p}_rate1m{CLASS}" for p in ("p95", "p99")},
                "target": f"min(slo_latency_seconds{CLASS})",
            },
            unit="s",
        )
        | about(
            "Time from the arrival of a request to the first piece of its stream, in the selected class."
        ),
        graph(
            "Interval",
            {
                **{p: f"{INTERVAL}:{p}_rate1m{CLASS}" for p in ("p95", "p99")},
                "target": f"min(slo_interval_seconds{CLASS})",
            },
            unit="s",
        )
        | about(
            "Time from one piece to the next, in the selected class. A longer one makes no piece late if "
            "earlier pieces came early."
        ),
        graph(
            "Streams",
            {
                "running": f"sum(watchdog_streams{F})",
                **signals("streams"),
            },
        ),
        split("Joins by reason", "reason", f"watchdog_joins_total{F}", unit="cps")
        | about("Streams that joined a worker: while it ran none, beside others, or late."),
        split("Cancels by reason", "reason", f"watchdog_stream_cancels_total{F}", unit="cps")
        | about("Streams that had begun and did not reach their end."),
        split(
            "Late streams by their first late piece",
            "piece",
            f"watchdog_late_streams_total{CLASS}",
            unit="cps",
        ),
    ],
    ("The gateway's view, with OpenFaaS", 3): [
        split("Answers at the gateway by status", "code", f"gateway_function_invocation_total{F}"),
        graph(
            "Errors at the gateway (5xx, 429)",
            windows("slo:sli_error", "5m", "1h", of=GATEWAY),
            unit="percentunit",
        )
        | about("Includes errors of requests that never reached a watchdog."),
        graph(
            "Latency of successes at the gateway",
            {
                "p50": quantile(0.5, "gateway_functions_seconds", SUCCESSES),
                "p99": quantile(0.99, "gateway_functions_seconds", SUCCESSES),
            },
            unit="s",
        )
        | about(
            "Interpolated in wide buckets. Excludes the wait for a starting replica. A stream counts with "
            "its whole length."
        ),
    ],
}
"""One function: its SLO and load; collapsed, its replicas, batches, streams and the gateway's view."""

FLEET: Final = {
    ("Now", 1): [
        alerts('alertstate="firing",severity=~"page|ticket"'),
        stat("Functions with an SLO", "count(function_name:slo_objective:ratio)"),
        stat("Budget spent", f"count({LEAST_BUDGET} <= 0) or vector(0)", levels=COUNT_LEVELS)
        | about("Functions that have missed an objective over 30 days."),
        stat(
            "Burning too fast",
            'count(max by (function_name) (slo:burn_rate:ratio_rate1h{view="watchdog"}) > 1) or vector(0)',
            levels=((None, "green"), (1.0, "orange")),
        )
        | about("Functions that spend their error budget too early at the last hour's rate."),
        stat("Requests", "sum(function_name:slo_requests:rate1m)", "reqps", decimals=1),
        stat("Replicas", "sum(function_name:replicas_desired:max)"),
        stat(
            "Pages firing",
            'count(ALERTS{alertstate="firing",severity="page"}) or vector(0)',
            levels=COUNT_LEVELS,
        ),
    ],
    ("Functions", 1): [
        table(
            "Functions",
            {
                "Error budget left": (LEAST_BUDGET, "percentunit", BUDGET_LEVELS),
                "Spent in": (
                    'min by (function_name) (slo:error_budget_exhaustion:seconds{view="watchdog"})',
                    "s",
                    (),
                ),
                "Burn, 1 hour": ('slo:burn_rate:ratio_rate1h{view="watchdog"}', "short", BURN_LEVELS),
                "Burn, 3 days": ('slo:burn_rate:ratio_rate3d{view="watchdog"}', "short", BURN_LEVELS),
                "Objective": ("function_name:slo_objective:ratio", "percentunit", ()),
                "Target": (
                    'min by (function_name) (slo_latency_seconds{slo_class=~"|default"})',
                    "s",
                    (),
                ),
                "p99": (latency("p99"), "s", ()),
                "Requests": ("function_name:slo_requests:rate1m", "reqps", ()),
                "Replicas": ("function_name:replicas_desired:max", "short", ()),
                "Gateway errors": ('slo:sli_error:ratio_rate1h{view="gateway"}', "percentunit", ()),
            },
        )
        | about(
            "Sorted by error budget, least first. With several SLO classes, the least one and the highest "
            "burn rate are shown. A function at zero replicas has no target and no latency. p99 of streams "
            "is that of the first piece."
        )
    ],
    ("Over time", 2): [
        graph(
            "Fastest burn, 1 hour",
            {"{{function_name}} {{slo_class}}": 'topk(10, slo:burn_rate:ratio_rate1h{view="watchdog"})'},
            levels=BURN_LINES,
        ),
        graph(
            "Least error budget left",
            {
                "{{function_name}} {{slo_class}}": (
                    'bottomk(10, slo:error_budget_remaining:ratio{view="watchdog"})'
                )
            },
            unit="percentunit",
            span=TO_ONE,
        ),
        split("Requests of all functions by outcome", "outcome", "slo_requests_total{}"),
        graph(
            "Replicas of all functions",
            {"desired": "sum(function_name:replicas_desired:max)", "scraped": "sum(function_name:up:sum)"},
        ),
    ],
}
"""All functions: those that miss or soon miss their SLO, and the replicas of all."""

AUTOSCALER: Final = {
    ("Decisions", 2): [
        graph(
            "Replicas",
            {
                "recommended": f"max(slo_autoscaler_recommended_replicas{F})",
                "decided": f"max(slo_autoscaler_desired_replicas{F})",
                "requested from the platform": DESIRED,
                "available": AVAILABLE,
            },
        )
        | about("Recommended: by the policy. Decided: after bounds, rate limits and stabilization."),
        graph(
            "Late requests: predicted, allowed, measured",
            {
                "predicted": f"max(slo_autoscaler_predicted_late_ratio{F})",
                "predicted with one replica fewer": f"max(slo_autoscaler_predicted_late_fewer_ratio{F})",
                "allowed now": f"max(slo_autoscaler_allowed_late_ratio{F})",
                "missed, 5 minutes": f"max(slo:sli_error:ratio_rate5m{ALL})",
            },
            unit="percentunit",
            span=FROM_ZERO,
        )
        | about("Predicted for the time at which a replica requested now would serve."),
        graph(
            "Load, expected load and capacity",
            {
                "requests": f"max(function_name:slo_requests:rate1m{F})",
                "expected": f"max(slo_autoscaler_expected_requests_per_second{F})",
                "capacity of the available replicas": f"{LEARNED} * {AVAILABLE}",
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
    ],
    ("Start-up, boost and room", 4): [
        graph(
            "Start-up",
            {
                "of a replica": f"max(slo_autoscaler_start_up_seconds{F})",
                "of one that waits for a node": f"max(slo_autoscaler_new_node_start_up_seconds{F})",
            },
            unit="s",
        )
        | about("From the request for a replica to its first answer, as observed."),
        graph(
            "Boost",
            {
                "decided": f"max(slo_autoscaler_boost_factor{F})",
                "maximum": f"max(slo_autoscaler_boost_max_factor{F})",
            },
        )
        | about(
            "CPU of the serving replicas, as a multiple of their nominal limit. Empty where boosts are off."
        ),
        graph(
            "Boosts of start-ups, and refusals",
            {
                "replicas that start boosted": f"max(slo_autoscaler_boosted_starts{F})",
                "a boost was refused": f"max(slo_autoscaler_boost_refused{F})",
            },
        )
        | about("The status page and explain name the reason of a refusal. Empty where boosts are off."),
        graph(
            "Replicas that do not come",
            {
                "not coming up": f"max(slo_autoscaler_stuck_replicas{F})",
                "no node has room": f"max(slo_autoscaler_unschedulable_replicas{F})",
            },
        )
        | about("One that does not serve after twice its start-up time does not count as supply."),
    ],
    ("Accounts of the policy", 3): [
        graph(
            "Measured capacity over the exported one",
            {"correction": f"max(slo_autoscaler_correction_ratio{F})"},
            unit="short",
            span=FROM_ZERO,
        )
        | about("Calibration of predictions: 1 where the measured late share equals the predicted one."),
        graph(
            "Spending window",
            {"unspent": f"max(slo_autoscaler_spending_window_unspent_ratio{F})"},
            unit="percentunit",
            span=TO_ONE,
        )
        | about(
            "Unspent share of the spending window (budget_period). It determines the late share allowed now; "
            "below 0: overspent."
        ),
        graph(
            "Share of the replica budget",
            {"share": f"max(slo_autoscaler_fleet_share_replicas{F})"},
        )
        | about("Replicas that fleet.replicas leaves the function. Empty without such a budget."),
    ],
    ("Shadow, in mode shadow", 3): [
        graph(
            "Replicas",
            {"shadow": f"max(slo_autoscaler_shadow_replicas{F})", "incumbent": DESIRED},
        ),
        graph(
            "Replicas on average",
            {
                "{{scaler}}": "sum by (scaler) "
                f"({over('rate', f'slo_autoscaler_shadow_replica_seconds_total{F}')})"
            },
        ),
        graph(
            "Within the SLO",
            {
                "{{scaler}}": "sum by (scaler) "
                f"({over('rate', f'slo_autoscaler_shadow_attained_requests_total{F}')})"
                " / ignoring (scaler) group_left () "
                f"sum({over('rate', f'slo_autoscaler_shadow_requests_total{F}')})"
            },
            unit="percentunit",
            span=TO_ONE,
        )
        | about("The incumbent's is measured, the shadow's predicted."),
    ],
    ("The autoscaler itself", 3): [
        split("Scale changes of all functions", "direction", CHANGES, "increase", "short"),
        graph(
            "Duration of a reconcile",
            {
                "p99": quantile(0.99, "slo_autoscaler_reconcile_seconds"),
                "mean": f"sum({over('rate', 'slo_autoscaler_reconcile_seconds_sum')})"
                f" / sum({over('rate', 'slo_autoscaler_reconcile_seconds_count')})",
            },
            unit="s",
        ),
        split("Failures by where", "stage", "slo_autoscaler_errors_total{}", "increase", "short"),
        graph(
            "Functions with a problem",
            {"{{function_name}}: {{stage}}": "max by (function_name, stage) (slo_autoscaler_problem)"},
        )
        | about("1 while a function cannot be read, decided or scaled. The log and the status page say why."),
        graph("Places without rights", {"{{place}}": "max by (place) (slo_autoscaler_denied)"})
        | about("Namespaces and kinds of objects that are configured and that the role does not cover."),
        graph(
            "Rollouts that failed",
            {"{{function_name}}": "max by (function_name) (slo_autoscaler_rollout_failed)"},
        )
        | about("1 while a new version does not start and the one before serves."),
    ],
}
"""The autoscaler's decisions for one function; collapsed, their grounds, and the autoscaler's health."""

MARKS: Final = (
    annotation(
        "Alert of this class",
        'ALERTS{alertname="ErrorBudgetBurn",alertstate="firing",function_name="$function",slo_class=~"|$slo_class"}',
        "red",
    ),
    annotation(
        "Oldest replica started: a rollout, or a start from zero",
        f"1000 * min(process_start_time_seconds{F})",
        "blue",
        at_value=True,
    ),
)

DASHBOARDS: Final = {
    "function.json": dashboard(
        "function",
        FUNCTION,
        choice("slo:objective:ratio"),
        choice(f"slo:objective:ratio{F}", "slo_class", "slo_class", "SLO class"),
        opened=2,
        marks=MARKS,
    ),
    "fleet.json": dashboard("fleet", FLEET, opened=len(FLEET)),
    "autoscaler.json": dashboard(
        "autoscaler", AUTOSCALER, choice("slo_autoscaler_replicas"), opened=1, marks=MARKS[1:]
    ),
}


def render(name: str) -> str:
    """Return the text of the file ``name`` in the folder of dashboards, with a line for each panel."""
    members = {key: json.dumps(value) for key, value in DASHBOARDS[name].items()}
    members["panels"] = "[\n{}\n]".format(",\n".join(map(json.dumps, DASHBOARDS[name]["panels"])))
    return "{{\n{}\n}}\n".format(",\n".join(f'"{key}": {text}' for key, text in members.items()))


if __name__ == "__main__":
    for each in DASHBOARDS:
        (FOLDER / each).write_text(render(each))
