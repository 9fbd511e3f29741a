"""Defines the charts of a function's page: their lines, each with its label and its query. [P]

Functions without our watchdog have charts of the gateway's metrics. ``queries`` fills in the texts, and
``web.charts`` makes columns of the answers.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from slo_autoscaler.settings.spec import Slo
from slo_autoscaler.signals.queries import COMPLETED, fill, matching
from slo_autoscaler.signals.record import SIGNALS


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a chart."""

    key: str
    label: str
    query: str
    """Of one function, with at most one series."""
    role: str = "main"
    """How it is drawn: ``main``, ``second``, ``area`` (filled, behind the others) or ``limit`` (dashed)."""


@dataclass(frozen=True, slots=True)
class Chart:
    """Lines with one unit: ``seconds``, ``per_second``, ``share`` or ``count``."""

    key: str
    title: str
    unit: str
    lines: tuple[Line, ...]
    stepped: bool = False
    span: int | None = None
    """Its time span in seconds, whichever the page shows; None: the page's."""

    def name(self, line: Line) -> str:
        """Return the name of a line among those of all charts."""
        return f"{self.key}.{line.key}"


def _signals(chart: str) -> tuple[Line, ...]:
    """Return the lines of the signals that a chart shows, in the order of their records."""
    return tuple(
        Line(shown.key, shown.label, f"sum({signal.chosen('$F')} >= 0)", shown.role)
        for signal in SIGNALS.values()
        if (shown := signal.shown) is not None and shown.chart == chart
    )


def _total(selector: str) -> str:
    return f"sum(rate({selector}[$R]))"


def _mean(histogram: str) -> str:
    return f"{_total(f'{histogram}_sum{{$F}}')} / {_total(f'{histogram}_count{{$F}}')}"


def _quantile(share: float, buckets: str) -> str:
    return f"histogram_quantile({share:g}, sum by (le) (rate({buckets}[$W])))"


def _quantiles(buckets: str, target: str) -> tuple[Line, ...]:
    return (
        Line("p95", "p95", _quantile(0.95, buckets), "second"),
        Line("p99", "p99", _quantile(0.99, buckets)),
        Line("target", "target", target, "limit"),
    )


_GOOD: Final = _total('slo_requests_total{$F,outcome="good"}')
_OFFERED: Final = _total("gateway_function_invocation_started{$F}")
_TARGET: Final = 'min(slo_latency_seconds{slo_class=~"|default",$F})'
_DESIRED: Final = "max(gateway_service_count{$F})"
_RECOMMENDED: Final = "max(slo_autoscaler_recommended_replicas{$F})"

_LOAD: Final = Chart(
    "load",
    "Requests",
    "per_second",
    (
        # Under overload completions are fewer than arrivals, which the gateway counts if all pass it.
        Line("offered", "offered", f"({_OFFERED} > {COMPLETED}) or {COMPLETED}", "area"),
        Line("good", "within the SLO", _GOOD),
        *_signals("load"),
    ),
)
_LATENCY: Final = Chart(
    "latency",
    "Latency",
    "seconds",
    _quantiles('http_request_duration_seconds_bucket{$F,code=~"2.."}', _TARGET),
)
_LATE: Final = Chart(
    "late",
    "Late requests",
    "share",
    (
        # Includes shed and failed requests, which spend the error budget too.
        Line("measured", "missed", f"1 - {_GOOD} / {COMPLETED}", "area"),
        Line("predicted", "predicted", "max(slo_autoscaler_predicted_late_ratio{$F})"),
        Line("allowed", "allowed", "max(slo_autoscaler_allowed_late_ratio{$F})", "limit"),
    ),
)
_REPLICAS: Final = Chart(
    "replicas",
    "Replicas",
    "count",
    (
        Line("serving", "serving", "sum(up{$F})", "area"),
        Line("desired", "desired", f'max(slo_autoscaler_replicas{{$F,state="desired"}}) or {_DESIRED}'),
        Line("recommended", "recommended", _RECOMMENDED, "second"),
    ),
    stepped=True,
)
_BUDGET: Final = Chart(
    "budget",
    "Error budget of 30 days",
    "share",
    (Line("left", "left", 'min(slo:error_budget_remaining:ratio{$F,view="watchdog"})'),),
    span=30 * 86_400,
)
_QUEUE: Final = Chart("queue", "Queue", "count", _signals("queue"))

CHARTS: Final = (
    *(_LOAD, _LATENCY, _LATE, _REPLICAS, _BUDGET, _QUEUE),
    Chart(
        "time",
        "Where the time goes",
        "seconds",
        (
            Line("waiting", "waiting", _mean("watchdog_queue_seconds")),
            Line("model", "in the model", _mean("watchdog_service_seconds"), "second"),
        ),
    ),
    Chart(
        "batches",
        "Batch size",
        "count",
        (
            Line("p95", "p95", _quantile(0.95, "watchdog_batch_size_bucket{$F}"), "second"),
            Line("mean", "mean", _mean("watchdog_batch_size")),
        ),
    ),
)
"""Charts of a function with the batching watchdog."""

STREAM_CHARTS: Final = (
    _LOAD,
    replace(
        _LATENCY,
        title="First piece",
        lines=_quantiles('watchdog_first_piece_seconds_bucket{$F,slo_class="default"}', _TARGET),
    ),
    *(_LATE, _REPLICAS, _BUDGET, _QUEUE),
    Chart(
        "interval",
        "Interval",
        "seconds",
        _quantiles(
            'watchdog_piece_interval_seconds_bucket{$F,slo_class="default"}',
            'min(slo_interval_seconds{$F,slo_class="default"})',
        ),
    ),
    Chart(
        "streams",
        "Streams",
        "count",
        (
            Line("running", "running", "sum(watchdog_streams{$F})", "area"),
            *_signals("streams"),
        ),
    ),
)
"""Charts of a function that streams."""

GATEWAY_CHARTS: Final = (
    Chart(
        "load",
        "Requests",
        "per_second",
        (
            Line("offered", "offered", _OFFERED, "area"),
            Line("good", "successes", _total('gateway_function_invocation_total{$F,code=~"2.."}')),
        ),
    ),
    Chart(
        "latency",
        "Latency, at the gateway",
        "seconds",
        _quantiles('gateway_functions_seconds_bucket{$F,code=~"2.."}', "vector($SLO)"),
    ),
    Chart(
        "replicas",
        "Replicas",
        "count",
        (
            Line("desired", "desired", _DESIRED, "area"),
            Line("recommended", "recommended", _RECOMMENDED),
        ),
        stepped=True,
    ),
)
"""Charts of a function that the gateway measures."""

_UNKNOWN: Final = {signal.shown.chart for signal in SIGNALS.values() if signal.shown} - {
    chart.key for chart in (*CHARTS, *STREAM_CHARTS)
}
if _UNKNOWN:
    raise TypeError(f"signals are shown on charts that do not exist: {sorted(_UNKNOWN)}")


def charts(slo: Slo | None, *, streams: bool = False) -> tuple[Chart, ...]:
    """Return the charts of a function; with ``slo`` the gateway measures it."""
    if slo is not None:
        return GATEWAY_CHARTS
    return STREAM_CHARTS if streams else CHARTS


def filled(
    chosen: Sequence[Chart], function_name: str, slo: Slo | None, rate_window: float, window: float
) -> dict[str, str]:
    """Return {name of a line: its query of this function}; windows are seconds."""
    texts = {chart.name(line): line.query for chart in chosen for line in chart.lines}
    target = 0.0 if slo is None else slo.latency
    return fill(texts, rate_window, window, functions=matching([function_name]), SLO=f"{target:g}")
