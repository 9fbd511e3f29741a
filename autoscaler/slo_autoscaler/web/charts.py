"""Defines the charts of a function's page as queries, and turns answers into columns. [P]

Owns the charts, their lines and labels, and the table of batch sizes. Each line is one range query. Functions
without our watchdog have charts of the gateway's metrics. As in ``promql``: rates before sums, buckets summed
before the quantile, successes only.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from slo_autoscaler.fields import whole
from slo_autoscaler.sources.promql import expected
from slo_autoscaler.spec import Slo

Points = Sequence[tuple[float, float]]
"""(Unix time, value), ascending."""

SPANS: Final[Mapping[str, int]] = {"5m": 300, "15m": 900, "1h": 3600, "6h": 21_600, "24h": 86_400}
"""Selectable time spans, in seconds."""

DEFAULT_SPAN: Final = "1h"

POINTS: Final = 240
"""Maximum points of a line, by the width of a chart."""

DIGITS: Final = 5


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a chart."""

    key: str
    label: str
    query: str
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


@dataclass(frozen=True, slots=True)
class Grid:
    """The moments of all columns, Unix seconds."""

    start: int
    step: int
    length: int

    @property
    def end(self) -> int:
        """The last moment."""
        return self.start + self.step * (self.length - 1)

    @property
    def times(self) -> list[int]:
        """Every moment."""
        return [self.start + self.step * index for index in range(self.length)]


def _rate(selector: str) -> str:
    return f"sum(rate({selector}[$W]))"


def _mean(histogram: str) -> str:
    return f"{_rate(f'{histogram}_sum{{$F}}')} / {_rate(f'{histogram}_count{{$F}}')}"


def _quantile(share: float, buckets: str) -> str:
    return f"histogram_quantile({share:g}, sum by (le) (rate({buckets}[$Q])))"


_COMPLETED: Final = _rate("slo_requests_total{$F}")
_GOOD: Final = _rate('slo_requests_total{$F,outcome="good"}')
_STARTED: Final = _rate("gateway_function_invocation_started{$F}")
_SUCCESSES: Final = 'http_request_duration_seconds_bucket{$F,code=~"2.."}'
_GATEWAY_SUCCESSES: Final = 'gateway_functions_seconds_bucket{$F,code=~"2.."}'
_DESIRED: Final = "max(gateway_service_count{$F})"
_RECOMMENDED: Final = "max(slo_autoscaler_recommended_replicas{$F})"

CHARTS: Final = (
    Chart(
        "load",
        "Requests",
        "per_second",
        (
            # Under overload completions are fewer than arrivals, which the gateway counts if all pass it.
            Line("offered", "offered", f"({_STARTED} > {_COMPLETED}) or {_COMPLETED}", "area"),
            Line("good", "within the SLO", _GOOD),
            Line("capacity", "capacity", "sum(watchdog_capacity_requests_per_second{$F} >= 0)", "limit"),
        ),
    ),
    Chart(
        "latency",
        "Latency",
        "seconds",
        (
            Line("p95", "p95", _quantile(0.95, _SUCCESSES), "second"),
            Line("p99", "p99", _quantile(0.99, _SUCCESSES)),
            Line("target", "target", 'min(slo_latency_seconds{$F,slo_class=~"|default"})', "limit"),
        ),
    ),
    Chart(
        "late",
        "Late requests",
        "share",
        (
            # Includes shed and failed requests, which spend the error budget too.
            Line("measured", "missed", f"1 - {_GOOD} / {_COMPLETED}", "area"),
            Line("predicted", "predicted", "max(slo_autoscaler_predicted_late_ratio{$F})"),
            Line("allowed", "allowed", "max(slo_autoscaler_allowed_late_ratio{$F})", "limit"),
        ),
    ),
    Chart(
        "replicas",
        "Replicas",
        "count",
        (
            Line("serving", "serving", "sum(up{$F})", "area"),
            Line("desired", "desired", f'max(slo_autoscaler_replicas{{$F,state="desired"}}) or {_DESIRED}'),
            Line("recommended", "recommended", _RECOMMENDED, "second"),
        ),
        stepped=True,
    ),
    Chart(
        "queue",
        "Queue",
        "count",
        (
            Line("in_flight", "in flight", "sum(http_requests_in_flight{$F})", "area"),
            Line("waiting", "waiting for a worker", "sum(watchdog_queue_length{$F})"),
        ),
    ),
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

GATEWAY_CHARTS: Final = (
    Chart(
        "load",
        "Requests",
        "per_second",
        (
            Line("offered", "offered", _STARTED, "area"),
            Line("good", "successes", _rate('gateway_function_invocation_total{$F,code=~"2.."}')),
        ),
    ),
    Chart(
        "latency",
        "Latency, at the gateway",
        "seconds",
        (
            Line("p95", "p95", _quantile(0.95, _GATEWAY_SUCCESSES), "second"),
            Line("p99", "p99", _quantile(0.99, _GATEWAY_SUCCESSES)),
            Line("target", "target", "vector($SLO)", "limit"),
        ),
    ),
    Chart(
        "replicas",
        "Replicas",
        "count",
        (Line("desired", "desired", _DESIRED, "area"), Line("recommended", "recommended", _RECOMMENDED)),
        stepped=True,
    ),
)
"""Charts of a function that the gateway measures."""

LEARNED: Final[Mapping[str, str]] = {
    # The median replica's, as for the sizing.
    "predicted": "quantile by (size) (0.5, watchdog_service_seconds_predicted{$F})",
    # Excludes replicas without a worker so far.
    "workers": "quantile(0.5, sum by (instance) (watchdog_workers{$F}) > 0)",
    "capacity": "quantile(0.5, watchdog_capacity_requests_per_second{$F} >= 0)",
}
"""Instant queries of ``profile``, by ``size``."""


def charts(slo: Slo | None) -> tuple[Chart, ...]:
    """Return the charts of a function; with ``slo`` the gateway measures it."""
    return CHARTS if slo is None else GATEWAY_CHARTS


def grid(span: float, scrape_interval: float, now: float) -> Grid:
    """Return at most about ``POINTS`` moments of the ``span`` seconds before ``now``.

    They are multiples of the step, so that a query a little later can reuse the answer.
    """
    step = max(1, math.ceil(max(scrape_interval, span / POINTS)))
    end = math.floor(now / step) * step
    length = max(2, math.floor(span / step) + 1)
    return Grid(end - step * (length - 1), step, length)


def filled(
    queries: Mapping[str, str],
    function_name: str,
    *,
    rate_window: float,
    window: float,
    slo: Slo | None = None,
) -> dict[str, str]:
    """Return the queries of one function. Windows are seconds: of rates, of quantiles."""
    quoted = function_name.replace("\\", r"\\").replace('"', r"\"")
    values = {
        "$F": f'function_name="{quoted}"',
        "$W": f"{round(rate_window * 1000)}ms",
        "$Q": f"{round(window * 1000)}ms",
        "$SLO": "0" if slo is None else f"{slo.latency:g}",
    }
    texts = dict(queries)
    for name, value in values.items():
        texts = {key: text.replace(name, value) for key, text in texts.items()}
    return texts


def lines(chosen: Sequence[Chart]) -> dict[str, str]:
    """Return {chart.line: query} of all charts."""
    return {f"{chart.key}.{line.key}": line.query for chart in chosen for line in chart.lines}


def points(result: object) -> list[tuple[float, float]]:
    """Return the points of a range answer of one series at most. Raises ``SourceError``."""
    with expected("series with values", result) as matrix:
        return [(float(when), float(value)) for series in matrix[:1] for when, value in series["values"]]


def values(result: object, label: str) -> dict[str, float]:
    """Return {value of the label: value} of an instant answer, without NaN. Raises ``SourceError``."""
    with expected("series with metric and value", result) as vector:
        numbers = {str(series["metric"].get(label, "")): float(series["value"][1]) for series in vector}
        return {key: value for key, value in numbers.items() if math.isfinite(value)}


def column(found: Points, at: Grid) -> list[float | None]:
    """Return one value for each moment of the grid; None where there is none."""
    made: list[float | None] = [None] * at.length
    for when, value in found:
        index = round((when - at.start) / at.step)
        if 0 <= index < at.length and math.isfinite(value):
            made[index] = float(f"{value:.{DIGITS}g}")
    return made


def document(chosen: Sequence[Chart], found: Mapping[str, Points], at: Grid) -> dict[str, Any]:
    """Return the charts with their columns as JSON; ``found``: {chart.line: points}."""
    return {
        "start": at.start,
        "end": at.end,
        "step": at.step,
        "times": at.times,
        "charts": [
            {
                "key": chart.key,
                "title": chart.title,
                "unit": chart.unit,
                "stepped": chart.stepped,
                "lines": [
                    {
                        "key": line.key,
                        "label": line.label,
                        "role": line.role,
                        "values": column(found.get(f"{chart.key}.{line.key}", ()), at),
                    }
                    for line in chart.lines
                ],
            }
            for chart in chosen
        ],
    }


def profile(found: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """Return the learned service times as JSON; ``found``: the answers to ``LEARNED``.

    The throughput of a size is that of a replica whose workers are all busy with batches of it.
    """
    workers = found["workers"].get("")
    predicted = {size: seconds for text, seconds in found["predicted"].items() if (size := whole(text))}
    return {
        "workers": None if workers is None else round(workers),
        "capacity": found["capacity"].get(""),
        "sizes": [
            {
                "size": size,
                "seconds": seconds,
                "throughput": round(workers or 1) * size / seconds if seconds > 0 else None,
            }
            for size, seconds in sorted(predicted.items())
        ],
    }
