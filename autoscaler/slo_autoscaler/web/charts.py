"""Turns the answers for the charts of a function's page into columns. [P]

Owns the moments of the columns, and the table of batch sizes. ``sources.charts`` has charts and queries.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from slo_autoscaler.fields import whole
from slo_autoscaler.sources.charts import Chart
from slo_autoscaler.sources.queries import Points

SPANS: Final[Mapping[str, int]] = {"5m": 300, "15m": 900, "1h": 3600, "6h": 21_600, "24h": 86_400}
"""Selectable time spans, in seconds."""

DEFAULT_SPAN: Final = "1h"

POINTS: Final = 240
"""Maximum points of a line, by the width of a chart."""

DIGITS: Final = 5


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

    They are multiples of the step, so that a query a little later can reuse the answer.
    """
    step = max(1, math.ceil(max(scrape_interval, span / POINTS)))
    end = math.floor(now / step) * step
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


def document(chosen: Sequence[Chart], answers: Mapping[str, Points], at: Grid) -> dict[str, Any]:
    """Return the charts with their columns as JSON; ``answers``: {name of a line: points}."""
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
                        "values": column(answers.get(chart.name(line), ()), at),
                    }
                    for line in chart.lines
                ],
            }
            for chart in chosen
        ],
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
