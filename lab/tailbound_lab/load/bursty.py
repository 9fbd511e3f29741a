"""A bursty trace for the live comparison: quiet, then a burst, on and off, some with a short spike. [P]

Owns the shape and nothing else: the seed is an argument, and the same seed is the same trace everywhere. A
burst ramps up over seconds, as traffic that people make does; a spike inside it is shorter than a replica
takes to start and to be seen. After a burst comes a short pause, then another burst, then a long quiet: the
pauses are shorter than the local configuration's stabilization window, the quiet times are longer.

The rates are for the simulated accelerator with batches of two (222 requests/s for each replica at most), and
such that two cores carry the gateway, the replicas and their starts: at twice these rates the gateway is the
bottleneck, and more replicas only take its CPU.
"""

import random
from dataclasses import dataclass, replace
from typing import Final

from tailbound_lab.load.arrivals import Profile, arrivals

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
