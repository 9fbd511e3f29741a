"""The arrival rate one start-up time ahead. [P]

A replica that is asked for now serves one start-up time later, so the rate to size for is the rate then
(Swayam, Middleware'17: scale for the demand expected one set-up time ahead). Level and trend are a least
squares line over a short history. The forecast never falls below the recent maximum: a lull shorter than a
start-up must not take away what could not be brought back in time.
"""

import math
from collections.abc import Sequence
from typing import Final

from slo_autoscaler.window import Entry

MIN_POINTS: Final = 4
"""With fewer points a line says nothing about a trend."""

TREND_SIGNIFICANCE: Final = 2.0
"""A trend counts when it is twice its standard error; else arrivals' own noise would be extrapolated."""

MAX_GROWTH: Final = 2.0
"""A forecast is at most this multiple of the recent maximum, however steep the line."""


def forecast(history: Sequence[Entry], recent: Sequence[Entry], now: float, horizon: float) -> float | None:
    """Return the rate expected ``horizon`` seconds after ``now`` (requests per second), or None without data.

    ``history`` gives level and trend, ``recent`` (its last part) the floor.
    """
    floor = max((value for _, value in recent or history[-1:]), default=None)
    if floor is None:
        return None
    ahead = _line_at(history, now + horizon) if len(history) >= MIN_POINTS else None
    if ahead is None:
        return floor
    return min(max(floor, ahead), MAX_GROWTH * floor)


def _line_at(points: Sequence[Entry], when: float) -> float | None:
    """Return the fitted line's value at ``when``, or None if its slope is not significant."""
    count = len(points)
    mean_t = math.fsum(t for t, _ in points) / count
    mean_v = math.fsum(v for _, v in points) / count
    spread = math.fsum((t - mean_t) ** 2 for t, _ in points)
    if spread <= 0.0:
        return None
    slope = math.fsum((t - mean_t) * (v - mean_v) for t, v in points) / spread
    residual = math.fsum((v - mean_v - slope * (t - mean_t)) ** 2 for t, v in points)
    error = math.sqrt(residual / (count - 2) / spread)
    if abs(slope) < TREND_SIGNIFICANCE * error:
        return None
    return mean_v + slope * (when - mean_t)
