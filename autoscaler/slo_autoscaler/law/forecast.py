"""The arrival rate one start-up time ahead. [P]

A replica that is asked for now serves one start-up time later, so the rate to size for is the rate then
(Swayam, Middleware'17: scale for the demand expected one set-up time ahead). No forecast falls below the
recent maximum, whichever way it is made: a lull shorter than a start-up must not take away what could not be
brought back in time. None exceeds it by much: what was never seen is answered by the next decision.

A new way to look ahead is a function ``(history, now, horizon) -> rate or None`` and one line in
``FORECASTERS``; ``forecast`` puts floor and ceiling around it.
"""

import math
from collections.abc import Callable, Sequence
from typing import Final

from slo_autoscaler.law.window import Entry

Forecaster = Callable[[Sequence[Entry], float, float], float | None]

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

LEVEL_WEIGHT: Final = 0.5
"""Of the newest value in ``holt``'s level: a step is believed by three quarters after two values."""

TREND_WEIGHT: Final = 0.3
"""Of the newest rise in ``holt``'s trend."""

DAMPING: Final = 0.9
"""Of ``holt``'s trend for each value ahead (Gardner and McKenzie, 1985): it is worth nine values at most."""


def forecast(
    forecaster: str, history: Sequence[Entry], recent: Sequence[Entry], now: float, horizon: float
) -> float | None:
    """Return the rate expected ``horizon`` seconds after ``now`` (requests per second), or None without data.

    ``history`` is what the forecaster looks at, ``recent`` (its last part) the floor.
    """
    floor = max((value for _, value in recent or history[-1:]), default=None)
    if floor is None:
        return None
    ahead = FORECASTERS[forecaster](history, now, horizon) if len(history) >= MIN_POINTS else None
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


def holt(points: Sequence[Entry], now: float, horizon: float) -> float | None:
    """Damped double exponential smoothing (Holt, 1957): the newest values count most, the trend fades.

    Quicker than the line after a turn, and noisier. None if all points are of one moment.
    """
    step = (points[-1][0] - points[0][0]) / (len(points) - 1)
    if step <= 0.0:
        return None
    (before, smooth), rise = points[0], 0.0
    for when, value in points[1:]:
        expected = smooth + DAMPING * rise * (when - before) / step
        last, smooth = smooth, LEVEL_WEIGHT * value + (1.0 - LEVEL_WEIGHT) * expected
        rise = TREND_WEIGHT * (smooth - last) + (1.0 - TREND_WEIGHT) * DAMPING * rise
        before = when
    steps = max(0.0, now + horizon - before) / step
    # The sum of DAMPING + DAMPING^2 + ... over that many steps.
    return smooth + rise * DAMPING * (1.0 - math.pow(DAMPING, steps)) / (1.0 - DAMPING)


def level(points: Sequence[Entry], now: float, horizon: float) -> float | None:
    """The newest rate: with the floor, the recent maximum alone. Nothing is extrapolated."""
    del now, horizon
    return points[-1][1]


FORECASTERS: Final[dict[str, Forecaster]] = {"holt": holt, "level": level, "trend": trend}
