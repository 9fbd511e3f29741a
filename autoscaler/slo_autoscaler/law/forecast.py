"""The arrival rate one start-up time ahead. [P]

A replica that is asked for now serves one start-up time later, so the rate to size for is the rate then
(Swayam, Middleware'17: scale for the demand expected one set-up time ahead). No forecast falls below the
recent maximum, whichever way it is made: a lull shorter than a start-up must not take away what could not be
brought back in time. None exceeds it by much: what was never seen is answered by the next decision.
"""

import math
from collections.abc import Sequence
from typing import Final

from slo_autoscaler.law.window import Entry

TREND_HISTORY: Final = 30.0
"""Seconds that a trend is taken over."""

MIN_POINTS: Final = 4
"""With fewer points nothing is said about a trend."""

TREND_SIGNIFICANCE: Final = 8.0
"""A trend counts when it is eight times its standard error. Two would do if the values were independent; but
rates are of windows that overlap, so noise comes as short slopes, and those would be extrapolated."""

STEEP: Final = 0.4
"""A trend counts when it leads beyond the newest value by this share. What is less fits into what is not
planned with, and is noise more often than not."""

GROWTH_PER_SECOND: Final = 0.006
"""A forecast exceeds the recent maximum by at most this share for each second ahead, however steep the line:
a load that doubles in three minutes is followed. What is steeper is a step, of which the line makes too much,
for it goes on rising as long as the window holds the time before."""


def forecast(history: Sequence[Entry], recent: Sequence[Entry], now: float, horizon: float) -> float | None:
    """Return the rate expected ``horizon`` seconds after ``now`` (requests per second), or None without data.

    ``history`` is what the trend is taken over, ``recent`` (its last part) the floor.
    """
    floor = max((value for _, value in recent or history[-1:]), default=None)
    if floor is None:
        return None
    ahead = trend(history, now, horizon) if len(history) >= MIN_POINTS else None
    if ahead is None:
        return floor
    return min(max(floor, ahead), (1.0 + GROWTH_PER_SECOND * horizon) * floor)


def trend(points: Sequence[Entry], now: float, horizon: float) -> float | None:
    """Level and trend: a least squares line; None if its slope is not significant, or hardly leads up."""
    count = len(points)
    mean_t = sum(t for t, _ in points) / count
    mean_v = sum(v for _, v in points) / count
    spread = sum((t - mean_t) ** 2 for t, _ in points)
    if spread <= 0.0:
        return None
    slope = sum((t - mean_t) * (v - mean_v) for t, v in points) / spread
    residual = sum((v - mean_v - slope * (t - mean_t)) ** 2 for t, v in points)
    error = math.sqrt(residual / (count - 2) / spread)
    if abs(slope) < TREND_SIGNIFICANCE * error:
        return None
    ahead = mean_v + slope * (now + horizon - mean_t)
    return ahead if ahead >= (1.0 + STEEP) * points[-1][1] else None
