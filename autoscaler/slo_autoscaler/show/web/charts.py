"""Turns the answers for the charts of a function's page into columns. [P]

Owns the moments of the columns, and the table of batch sizes. ``signals.charts`` has charts and queries.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from slo_autoscaler.settings.fields import whole
from slo_autoscaler.show import words
from slo_autoscaler.signals.charts import Chart
from slo_autoscaler.signals.queries import Points

SPANS: Final[Mapping[str, int]] = {"5m": 300, "15m": 900, "1h": 3600, "6h": 21_600, "24h": 86_400}
"""Selectable time spans, in seconds."""

DEFAULT_SPAN: Final = "1h"

POINTS: Final = 240
"""Maximum points of a line, by the width of a chart."""

ALIGNED: Final = 300
"""Seconds: with longer steps a grid ends this close to now."""

DIGITS: Final = 5

OF_REPLICAS: Final[Mapping[str, tuple[str, str, Callable[[float | None], str]]]] = {
    "load": ("Load", "requests per second, of every outcome", words.per_second),
    "capacity": ("Capacity", "requests per second with the objective met, as it exports", words.per_second),
    "in_flight": ("In flight", "requests received and not yet answered", words.count),
    "cores": ("CPUs", "CPUs for which the capacity holds: more while boosted", words.factor),
    "start_up": ("Start-up", "from the start of its process to its first ready worker", words.seconds),
    "workers": ("Workers", "worker processes", words.count),
    "sick": ("Sick", "workers replaced because their batches failed whole, since it started", words.count),
    "died": ("Died", "workers that died and were replaced, since it started", words.count),
}
"""Columns of the table of replicas: title, hint and text of a number."""

MAX_REPLICAS: Final = 50
"""Maximum rows of the table of replicas: the busiest, after those that Prometheus does not reach."""


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


def grid(span: float, scrape_interval: float, now: float) -> Grid:
    """Return at most about ``POINTS`` moments of the ``span`` seconds before ``now``.

    The last one is a multiple of the step, so that a query a little later can reuse the answer.
    """
    step = max(1, math.ceil(max(scrape_interval, span / POINTS)))
    unit = min(step, ALIGNED)
    end = math.floor(now / unit) * unit
    length = max(2, math.floor(span / step) + 1)
    return Grid(end - step * (length - 1), step, length)


def column(points: Points, at: Grid) -> list[float | None]:
    """Return one value for each moment of the grid; None where there is none."""
    made: list[float | None] = [None] * at.length
    for when, value in points:
        index = round((when - at.start) / at.step)
        if 0 <= index < at.length:
            made[index] = float(f"{value:.{DIGITS}g}")
    return made


def document(
    chosen: Sequence[Chart], answers: Mapping[str, Points], grids: Mapping[int | None, Grid]
) -> dict[str, Any]:
    """Return the charts with their columns as JSON; ``answers``: {name of a line: points}.

    ``grids``: {span of a chart: its moments}. A chart with a span of its own has ``times`` of its own.
    """
    at = grids[None]
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
                **({} if chart.span is None else {"times": grids[chart.span].times}),
                "lines": [
                    {
                        "key": line.key,
                        "label": line.label,
                        "role": line.role,
                        "values": column(answers.get(chart.name(line), ()), grids[chart.span]),
                    }
                    for line in chart.lines
                ],
            }
            for chart in chosen
        ],
    }


def replicas(answers: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """Return a row for each replica as JSON; ``answers`` are those to ``REPLICAS``.

    Those that Prometheus does not reach come first, then the busiest. ``best_effort`` is its share of all
    workers' time; None without any.
    """
    rows: list[dict[str, Any]] = []
    for name in sorted(set().union(*answers.values())):
        known = {key: answer.get(name) for key, answer in answers.items()}
        display = {key: text(known[key]) for key, (_, _, text) in OF_REPLICAS.items()}
        rows.append({"replica": name, **known, "display": display})
    rows.sort(key=lambda row: (bool(row["up"]), -(row["load"] or 0.0) / (row["capacity"] or math.inf)))
    filled, workers = (sum(answers[key].values()) for key in ("best_effort", "workers"))
    return {
        "rows": rows[:MAX_REPLICAS],
        "left_out": max(0, len(rows) - MAX_REPLICAS),
        "best_effort": min(1.0, filled / workers) if filled and workers else None,
    }


def profile(answers: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """Return the learned service times as JSON; ``answers`` are those to ``LEARNED``.

    The throughput of a size is that of a replica whose workers are all busy with batches of it.
    """
    workers = answers["workers"].get("")
    predicted = {size: seconds for text, seconds in answers["predicted"].items() if (size := whole(text))}
    return {
        "workers": None if workers is None else round(workers),
        "capacity": answers["capacity"].get(""),
        "sizes": [
            {
                "size": size,
                "seconds": seconds,
                "throughput": round(workers or 1) * size / seconds if seconds > 0 else None,
            }
            for size, seconds in sorted(predicted.items())
        ],
    }
