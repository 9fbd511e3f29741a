"""Offered rates over time and the Poisson arrivals drawn from them.

Owns the traffic's mathematics and nothing else: no clock and no randomness of its own (uniform draws are an
argument). The next step is :mod:`tailbound_lab.load.openloop`, which sends a request at each arrival.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Final

# Shares of the whole run at which the peak's corners lie: base, ramp up, hold, ramp down, base. The last base
# phase is the longest because replicas may fall only after the autoscaler's stabilization window.
_RAMP_STARTS, _HOLD_STARTS, _HOLD_ENDS, _RAMP_ENDS = 0.20, 0.37, 0.60, 0.65


class ShapeError(ValueError):
    """A rate profile that cannot be: the message names the text or the point, and the rule."""


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

    @property
    def highest(self) -> float:
        """The highest rate, requests per second."""
        return max(rate for _, rate in self.points)

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

    def expected(self) -> float:
        """Return the expected number of requests: the area under the rate."""
        return sum((t1 - t0) * (r0 + r1) / 2 for (t0, r0), (t1, r1) in pairwise(self.points))


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
    """Return which part of :func:`peak` a moment falls in, in one or two words."""
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


QUIET: Final = 3.0
"""Requests/s between bursts: below the five at which OpenFaaS CE's alert fires, so that it too comes down."""
LOWEST, HIGHEST = 160.0, 330.0
"""Bursts are between these, requests/s; the highest of a trace is brought to the upper one."""
SPIKE, SPIKE_SECONDS = 400.0, 2.0
_LEAD, _TAIL = 12.0, 12.0
_PAUSE, _CALM, _LENGTH = (4.0, 7.0), (20.0, 28.0), (14.0, 24.0)
_UP, _DOWN = 5.0, 2.0
_EVERY: Final = 2
"""Every second burst has a spike in its middle."""
_FULL: Final = 120.0
"""Traces that are shorter than this have all their lengths scaled down."""


@dataclass(frozen=True, slots=True)
class Burst:
    """From when to when (seconds), at how many requests per second, and from when to when a spike in it."""

    begin: float
    end: float
    rate: float
    spike: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class Trace:
    """What is offered: the rate over time, its bursts, and the seed of the arrivals."""

    profile: Profile
    bursts: tuple[Burst, ...]
    seed: int

    @property
    def duration(self) -> float:
        """Seconds."""
        return self.profile.duration

    def arrivals(self) -> list[float]:
        """When each request is due, seconds from the start; the generator draws the very same."""
        return arrivals(self.profile, random.Random(self.seed).random)

    def middle_of_peak(self, room: float) -> float | None:
        """The middle of the highest burst after which ``room`` seconds are left; None if there is none."""
        fitting = [burst for burst in self.bursts if (burst.begin + burst.end) / 2 + room <= self.duration]
        best = max(fitting, key=lambda burst: burst.rate, default=None)
        return None if best is None else (best.begin + best.end) / 2


def bursty(duration: float, seed: int) -> Trace:
    """A trace of ``duration`` seconds."""
    draw = random.Random(seed)
    scale = min(1.0, duration / _FULL)
    found: list[Burst] = []
    at = _LEAD * scale
    while True:
        end = at + draw.uniform(*_LENGTH) * scale
        if end > duration - _TAIL * scale:
            break
        middle, half = (at + end) / 2, SPIKE_SECONDS * scale / 2
        spike = (middle - half, middle + half) if len(found) % _EVERY else None
        found.append(Burst(at, end, draw.uniform(LOWEST, HIGHEST), spike))
        at = end + draw.uniform(*(_CALM if len(found) % 2 == 0 else _PAUSE)) * scale
    top = max((burst.rate for burst in found), default=HIGHEST)
    bursts = tuple(replace(burst, rate=HIGHEST) if burst.rate == top else burst for burst in found)
    return Trace(_profile(bursts, duration, scale), bursts, seed)


def _profile(bursts: tuple[Burst, ...], duration: float, scale: float) -> Profile:
    points = [(0.0, QUIET)]
    for burst in bursts:
        points += [(burst.begin, QUIET), (burst.begin + _UP * scale, burst.rate)]
        if burst.spike is not None:
            begin, end = burst.spike
            points += [(begin, burst.rate), (begin, SPIKE), (end, SPIKE), (end, burst.rate)]
        points += [(burst.end - _DOWN * scale, burst.rate), (burst.end, QUIET)]
    return Profile((*points, (duration, QUIET)))
