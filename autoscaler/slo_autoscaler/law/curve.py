"""The late share of one replica at a load. [P]

Owns the shape around the capacity that the watchdog exports: how late requests thin out below it, and pile up
beyond it.

Whatever comes beyond what the workers can serve in time is late. Over the time that a request may take, what
comes is about normal, with a standard deviation of ``spread``:

    late(u) = E[max(0, demand - 1)] / u,  demand ~ Normal(u, spread),  u = rate / goodput

``goodput`` is what is served in time under overload; it follows from late(capacity) = 1 - objective. The
spread has two causes: the fewer requests fit into the SLO, the more their number varies by chance; and a
request waits for a batch that has already begun, which takes at least as long as a request alone.

The form was found with the batching engine in virtual time: 1 to 8
workers, 2 to 200 requests that fit into the SLO, constant shares of l(b) from 0 to 0.6, each at loads from
half to twice the capacity.
"""

from dataclasses import dataclass
from functools import lru_cache
from math import erfc, exp, pi, sqrt
from typing import Final

LEAST_REQUESTS: Final = 10.0
"""Within the SLO: 1 / variance where there is hardly ever more than one."""
PER_REQUEST: Final = 6.0
"""By how much 1 / variance grows with each request that can be served within the SLO."""
WAIT_SPREAD: Final = 0.4
"""Standard deviation by which a batch that takes the whole SLO would add to the spread."""
SERVICE_SHARE: Final = 0.25
"""Of the SLO, for one request: where it is not known."""
PAIRS: Final = 0.25
"""Of the goodput: below, lateness is two requests that meet, and its share proportional to the rate."""
WIDEST: Final = 0.5
"""Spread: with more the late share would fall somewhere as the rate grows."""
PRECISION: Final = 1e-9
"""Of the load at the capacity, as a share of it."""


@dataclass(frozen=True, slots=True)
class Curve:
    """The late share of one replica by its load."""

    goodput: float
    """Requests per second that are in time under overload; 0: none ever is."""
    spread: float
    """Standard deviation of the demand, as a share of the goodput."""

    def late(self, rate: float) -> float:
        """Return the share of requests that end late at ``rate`` per second, 0 to 1; it never falls."""
        if rate <= 0.0:
            return 0.0
        if self.goodput <= 0.0:
            return 1.0
        load = rate / self.goodput
        if load < PAIRS:
            return _late_and_busy(PAIRS, self.spread)[0] * load / PAIRS
        return _late_and_busy(load, self.spread)[0]

    def corrected(self, correction: float, late: float) -> "Curve":
        """Return the curve of a replica of which ``correction`` times as many are late as this one says.

        It is told where the share ``late`` really is. This curve says ``late / correction`` there: by the
        load at which it does, over that at which it says ``late``, the capacity is wrong. No correction makes
        the capacity exceed the goodput.
        """
        if correction == 1.0 or self.goodput <= 0.0:
            return self
        told = min(1.0, _load(self.spread, min(late / correction, _ALL_BUT)))
        return Curve(self.goodput * told / _load_at(self.spread, late), self.spread)

    def saved(self, late: float) -> float:
        """Return how many late requests per second one more replica saves where the share ``late`` is late.

        With n replicas at a load of u each, n u goodput late(u) requests are late; this is by how much that
        falls with n. In an overload each replica saves all that it can serve, so it is never worth all of
        that: else no count of replicas would be better than another.
        """
        if self.goodput <= 0.0:
            return 0.0
        load = _load(self.spread, min(late, _ALL_BUT))
        late, busy = _late_and_busy(load, self.spread)
        return self.goodput * min(load * max(busy - late, 0.0), _ALL_BUT)


def curve(
    capacity: float, slo_latency: float, slo_objective: float, service_time: float | None = None
) -> Curve:
    """Return the curve of a replica that meets ``slo_objective`` up to ``capacity`` requests per second.

    ``service_time`` is that of one request alone, in seconds like ``slo_latency``.
    """
    share = SERVICE_SHARE if service_time is None else min(1.0, service_time / slo_latency)
    by_chance = 1.0 / (LEAST_REQUESTS + PER_REQUEST * capacity * slo_latency)
    spread = min(WIDEST, sqrt(by_chance + (WAIT_SPREAD * share) ** 2))
    return Curve(capacity / _load_at(spread, 1.0 - slo_objective), spread)


def _late_and_busy(load: float, spread: float) -> tuple[float, float]:
    """Return the late share at ``load``, a multiple of the goodput, and how likely the demand exceeds it."""
    above = (load - 1.0) / spread
    busy = 0.5 * erfc(-above * _ROOT_HALF)
    excess = exp(-0.5 * above * above) * _NORMAL + above * busy
    # Far below the goodput the two terms cancel, but for what rounding leaves.
    return spread * excess / load if excess > 0.0 else 0.0, busy


def _load(spread: float, late: float) -> float:
    """Return the load, as a multiple of the goodput, at which the share ``late`` is late.

    Newton's method: the excess is convex in the load. The start, where as much would be late if the demand
    never varied, lies above the root, so every step goes down to it.
    """
    at_pairs, _ = _late_and_busy(PAIRS, spread)
    if late <= at_pairs:
        return PAIRS * late / at_pairs
    load, step = 1.0 / (1.0 - late), 1.0
    while step > PRECISION * load:
        found, busy = _late_and_busy(load, spread)
        step = load * (found - late) / (busy - late)
        load -= step
    return load


_load_at: Final = lru_cache(maxsize=1 << 14)(_load)
"""Likewise, remembered: at the objective every look asks for it, and a function's spread seldom changes."""
_ALL_BUT: Final = 0.9
"""The highest late share that is looked up, and of the goodput the most that a replica is worth."""
_ROOT_HALF: Final = sqrt(0.5)
_NORMAL: Final = 1.0 / sqrt(2.0 * pi)
