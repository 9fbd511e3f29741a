"""Defines the charts of a function's page, and turns answers into columns. [P]

Owns the charts, their lines and labels, and the table of batch sizes. Each line is one range query, which
``sources.queries`` has under the keys of chart and line. Functions without our watchdog have charts of the
gateway's metrics.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from slo_autoscaler.fields import whole
from slo_autoscaler.sources.queries import Points
from slo_autoscaler.spec import Slo

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


_QUANTILES: Final = (Line("p95", "p95", "second"), Line("p99", "p99"), Line("target", "target", "limit"))

CHARTS: Final = (
    Chart(
        "load",
        "Requests",
        "per_second",
        (
            Line("offered", "offered", "area"),
            Line("good", "within the SLO"),
            Line("capacity", "capacity", "limit"),
        ),
    ),
    Chart("latency", "Latency", "seconds", _QUANTILES),
    Chart(
        "late",
        "Late requests",
        "share",
        (
            Line("measured", "missed", "area"),
            Line("predicted", "predicted"),
            Line("allowed", "allowed", "limit"),
        ),
    ),
    Chart(
        "replicas",
        "Replicas",
        "count",
        (
            Line("serving", "serving", "area"),
            Line("desired", "desired"),
            Line("recommended", "recommended", "second"),
        ),
        stepped=True,
    ),
    Chart(
        "queue",
        "Queue",
        "count",
        (Line("in_flight", "in flight", "area"), Line("waiting", "waiting for a worker")),
    ),
    Chart(
        "time",
        "Where the time goes",
        "seconds",
        (Line("waiting", "waiting"), Line("model", "in the model", "second")),
    ),
    Chart("batches", "Batch size", "count", (Line("p95", "p95", "second"), Line("mean", "mean"))),
)
"""Charts of a function with the batching watchdog."""

STREAM_CHARTS: Final = (
    *(
        replace(chart, title="First piece") if chart.key == "latency" else chart
        for chart in CHARTS
        if chart.key not in {"time", "batches"}
    ),
    Chart("interval", "Interval", "seconds", _QUANTILES),
    Chart(
        "streams",
        "Streams",
        "count",
        (Line("running", "running", "area"), Line("held", "held within the interval", "limit")),
    ),
)
"""Charts of a function that streams."""

GATEWAY_CHARTS: Final = (
    Chart("load", "Requests", "per_second", (Line("offered", "offered", "area"), Line("good", "successes"))),
    Chart("latency", "Latency, at the gateway", "seconds", _QUANTILES),
    Chart(
        "replicas",
        "Replicas",
        "count",
        (Line("desired", "desired", "area"), Line("recommended", "recommended")),
        stepped=True,
    ),
)
"""Charts of a function that the gateway measures."""


def charts(slo: Slo | None, *, streams: bool = False) -> tuple[Chart, ...]:
    """Return the charts of a function; with ``slo`` the gateway measures it."""
    if slo is not None:
        return GATEWAY_CHARTS
    return STREAM_CHARTS if streams else CHARTS


def grid(span: float, scrape_interval: float, now: float) -> Grid:
    """Return at most about ``POINTS`` moments of the ``span`` seconds before ``now``.

    They are multiples of the step, so that a query a little later can reuse the answer.
    """
    step = max(1, math.ceil(max(scrape_interval, span / POINTS)))
    end = math.floor(now / step) * step
    length = max(2, math.floor(span / step) + 1)
    return Grid(end - step * (length - 1), step, length)


def column(found: Points, at: Grid) -> list[float | None]:
    """Return one value for each moment of the grid; None where there is none."""
    made: list[float | None] = [None] * at.length
    for when, value in found:
        index = round((when - at.start) / at.step)
        if 0 <= index < at.length:
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
