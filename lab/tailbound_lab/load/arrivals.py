"""Defines offered rates over time. [P]

Next step: ``openload.c`` draws Poisson arrivals from them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

# Seconds after the begin of a peak at which its corners lie, as shares of the whole run.
_HOLD_STARTS, _HOLD_ENDS, _RAMP_ENDS = 0.17, 0.40, 0.45


class ShapeError(ValueError):
    """A rate profile is invalid: the message names the text or the point, and the rule."""


@dataclass(frozen=True, slots=True)
class Profile:
    """An offered rate, linear between points of (seconds, requests per second).

    Two points at one time make a step; the later one holds from there on.
    """

    points: tuple[tuple[float, float], ...]

    def __post_init__(self) -> None:
        if len(self.points) < 2:
            raise ShapeError(f"a profile needs at least two points, got {len(self.points)}")
        if self.points[0][0] != 0:
            raise ShapeError(f"a profile starts at 0 s, got {self.points[0][0]:g} s")
        for (earlier, _), (later, _) in pairwise(self.points):
            if not later >= earlier:
                raise ShapeError(f"a profile's times must not fall: {later:g} s comes after {earlier:g} s")
        for seconds, rate in self.points:
            if not (math.isfinite(seconds) and math.isfinite(rate) and rate >= 0):
                raise ShapeError(f"a rate must be finite and 0 or more, got {rate:g}/s at {seconds:g} s")

    @property
    def duration(self) -> float:
        """Seconds from the first point to the last."""
        return self.points[-1][0]

    def rate(self, seconds: float) -> float:
        """Return the offered rate at a moment; 0 outside the profile."""
        times, rates = zip(*self.points, strict=True)
        return float(np.interp(seconds, times, rates, left=0.0, right=0.0))


def peak(base: float, top: float, duration: float, begin: float) -> Profile:
    """Return one peak: base, a ramp, the top, a ramp down, base again (seconds, requests per second).

    ``begin``: when the ramp starts, as a share of the duration, at most 0.55.
    """
    corners = ((0.0, base), (_HOLD_STARTS, top), (_HOLD_ENDS, top), (_RAMP_ENDS, base))
    ramps = (((begin + share) * duration, rate) for share, rate in corners)
    return Profile(((0.0, base), *ramps, (duration, base)))


def steps(text: str) -> Profile:
    """Read ``rate:seconds[,rate:seconds...]``, each rate held for its seconds, as ``100:5,500:10``."""
    points: list[tuple[float, float]] = []
    begin = 0.0
    for part in text.split(","):
        rate_text, colon, seconds_text = part.partition(":")
        try:
            rate, seconds = float(rate_text), float(seconds_text)
        except ValueError as error:
            raise ShapeError(f"rate {part!r}: expected RATE:SECONDS, as 100:5") from error
        if not (colon and 0 < seconds < math.inf):
            raise ShapeError(f"rate {part!r}: seconds must be finite and more than 0")
        points += [(begin, rate), (begin + seconds, rate)]
        begin += seconds
    return Profile(tuple(points))
