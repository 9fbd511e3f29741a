"""Defines offered rates over time, draws Poisson arrivals from them, and shapes traffic. [P]

Reads no clock; uniform draws are an argument. Next step: ``openloop`` sends a request at each arrival.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

# Shares of the whole run at which the peak's corners lie: base, ramp up, hold, ramp down, base. The last base
# phase is the longest because replicas may fall only after the autoscaler's stabilization window.
_RAMP_STARTS, _HOLD_STARTS, _HOLD_ENDS, _RAMP_ENDS = 0.20, 0.37, 0.60, 0.65


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
        if not 0 <= seconds <= self.duration:
            return 0.0
        found = self.points[-1][1]
        for (t0, r0), (t1, r1) in pairwise(self.points):
            if t0 <= seconds < t1:
                found = r0 + (r1 - r0) * ((seconds - t0) / (t1 - t0))
                break
        return found


def peak(base: float, top: float, duration: float) -> Profile:
    """Return one peak: base, a ramp, the top, a ramp down, base again (seconds, requests per second)."""
    return Profile(
        (
            (0.0, base),
            (duration * _RAMP_STARTS, base),
            (duration * _HOLD_STARTS, top),
            (duration * _HOLD_ENDS, top),
            (duration * _RAMP_ENDS, base),
            (duration, base),
        )
    )


def phase(seconds: float, duration: float) -> str:
    """Return the part of :func:`peak` at a moment, in one or two words."""
    share = seconds / duration if duration > 0 else 1.0
    if share < _RAMP_STARTS:
        return "base"
    if share < _HOLD_STARTS:
        return "ramp up"
    if share < _HOLD_ENDS:
        return "peak"
    return "ramp down" if share < _RAMP_ENDS else "base again"


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


def arrivals(profile: Profile, uniform: Callable[[], float]) -> list[float]:
    """Draw the arrival times (seconds, ascending) of a Poisson process with the profile's rate.

    Unit-exponential gaps are laid along the cumulative rate and mapped back to time (time-rescaling, Cinlar
    1975): exact for a piecewise-linear rate, and one draw from [0, 1) for each request.
    """
    times: list[float] = []
    gap = -math.log1p(-uniform())
    for (t0, r0), (t1, r1) in pairwise(profile.points):
        length = t1 - t0
        area = length * (r0 + r1) / 2
        if area <= 0:
            continue
        slope = (r1 - r0) / length
        reached = 0.0
        while reached + gap <= area:
            reached += gap
            root = math.sqrt(max(r0 * r0 + 2 * slope * reached, 0.0))
            times.append(min(t0 + 2 * reached / (r0 + root), t1))
            gap = -math.log1p(-uniform())
        gap -= area - reached
    return times


# The bursty trace of ``bench live``. Its rates are for the simulated accelerator with batches of two (222
# requests/s for each replica at most), and such that two cores carry the gateway, the replicas and their
# starts: at twice these rates the gateway is the bottleneck, and more replicas only take its CPU.

QUIET: Final = 3.0
"""Requests/s between bursts: below the five at which OpenFaaS CE's alert fires, so that it scales down
too."""
LOWEST, HIGHEST = 160.0, 330.0
"""Bursts are between these, requests/s; the highest of a trace is brought to the upper one."""
SPIKE, SPIKE_SECONDS = 400.0, 2.0
_LEAD, _TAIL = 12.0, 12.0
_PAUSE, _CALM, _LENGTH = (4.0, 7.0), (20.0, 28.0), (14.0, 24.0)
_UP, _DOWN = 5.0, 2.0
_SPIKE_EVERY: Final = 2
_FULL: Final = 120.0
"""Seconds below which all lengths of a trace are scaled down."""


def bursty(duration: float, uniform: Callable[[], float]) -> Profile:
    """Return a trace of ``duration`` seconds; ``uniform`` draws from [0, 1).

    A burst ramps up over seconds, as traffic that people make does; every second one has a spike in its
    middle that is shorter than a replica takes to start and to be seen. A short pause follows a burst, then
    another burst, then a long quiet: the pauses are shorter than the local configuration's stabilization
    window, the quiet times are longer. The highest burst is brought to ``HIGHEST``.
    """

    def between(low: float, high: float) -> float:
        return low + (high - low) * uniform()

    scale = min(1.0, duration / _FULL)
    bursts: list[tuple[float, float, float]] = []
    at = _LEAD * scale
    while (end := at + between(*_LENGTH) * scale) <= duration - _TAIL * scale:
        bursts.append((at, end, between(LOWEST, HIGHEST)))
        at = end + between(*(_CALM if len(bursts) % 2 == 0 else _PAUSE)) * scale
    top = max((rate for _, _, rate in bursts), default=HIGHEST)
    points = [(0.0, QUIET)]
    for index, (begin, end, drawn) in enumerate(bursts):
        rate = HIGHEST if drawn == top else drawn
        points += [(begin, QUIET), (begin + _UP * scale, rate)]
        if index % _SPIKE_EVERY:
            middle, half = (begin + end) / 2, SPIKE_SECONDS * scale / 2
            points += [
                (middle - half, rate),
                (middle - half, SPIKE),
                (middle + half, SPIKE),
                (middle + half, rate),
            ]
        points += [(end - _DOWN * scale, rate), (end, QUIET)]
    return Profile((*points, (duration, QUIET)))
