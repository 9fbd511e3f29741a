"""Computes the late share of one replica at a load. [P]

Owns the form of the curve around the capacity that the watchdog exports.

Demand beyond the goodput is late. Over the time that a request may take, demand is about normal, with a
standard deviation of ``spread``:

    late(u) = E[max(0, demand - 1)] / u,  demand ~ Normal(u, spread),  u = rate / goodput

``goodput`` is the rate served in time under overload; it follows from late(capacity) = 1 - objective. The
spread has two causes. The fewer requests fit into the SLO, or the fewer streams a replica holds, the
more their number varies by chance. And a request waits for the batch in progress, which takes at least as
long as a request alone; a stream does not.

The form was fitted to the batching engine in virtual time: 1 to 8 workers, 2 to 200 requests that fit into
the SLO, constant shares of l(b) from 0 to 0.6, each at loads from half to twice the capacity.
"""

from dataclasses import dataclass
from functools import lru_cache
from math import ceil, erfc, exp, pi, sqrt
from typing import Final

from slo_autoscaler.law.tuning import TUNING
from slo_autoscaler.signals.record import Observation

PRECISION: Final = 1e-9
"""Relative error of a load."""
STEP: Final = 1.05
"""Ratio of neighbors in a grid of loads or rates: 5% of load is one replica of twenty."""
LOADS: Final = range(-240, 400)
"""Exponents of ``STEP``: loads of a replica, as multiples of its goodput. Late shares are constant beyond."""


@dataclass(frozen=True, slots=True)
class Curve:
    """The late share of one replica by its load."""

    goodput: float
    """Requests per second served in time under overload; 0: none ever is."""
    spread: float
    """Standard deviation of the demand, as a share of the goodput."""
    promised: float = 1.0
    """The exported capacity, as a share of the goodput."""

    def late(self, rate: float) -> float:
        """Return the share of requests that end late at ``rate`` per second, 0 to 1; it never falls."""
        if rate <= 0.0:
            return 0.0
        if self.goodput <= 0.0:
            return 1.0
        load = rate / self.goodput
        if load < TUNING.pairs:
            return _late_and_busy(TUNING.pairs, self.spread)[0] * load / TUNING.pairs
        return _late_and_busy(load, self.spread)[0]

    def corrected(self, factor: float) -> "Curve":
        """Return the curve of a replica with ``factor`` times the capacity."""
        return self if factor == 1.0 else Curve(factor * self.goodput, self.spread, self.promised)

    def saved(self, late: float) -> float:
        """Return the late requests per second that one more replica saves where the share ``late`` is late.

        With n replicas at a load of u each, n u goodput late(u) requests are late; this is the derivative by
        n. At most 0.9 of the goodput: in an overload each replica saves all of it, and at that price no count
        would be better than another.
        """
        return self.goodput * _steady(self.spread, min(late, _ALL_BUT))[1] if self.goodput > 0.0 else 0.0

    def rate(self, late: float) -> float:
        """Return the requests per second at which the share ``late`` ends late; the inverse of ``late``."""
        return self.goodput * _steady(self.spread, min(late, _ALL_BUT))[0]

    def replicas(self, rate: float, late: float) -> int:
        """Return the fewest, at least 1, with which at most the share ``late`` of ``rate`` is late."""
        return max(1, ceil(rate / self.rate(late) * (1.0 - PRECISION)))


def curve(
    capacity: float,
    slo_latency: float,
    slo_objective: float,
    service_time: float | None = None,
    concurrency: float | None = None,
) -> Curve:
    """Return the curve of a replica that meets ``slo_objective`` up to ``capacity`` requests per second.

    ``service_time`` is that of one request alone, in seconds like ``slo_latency``; None: unknown, and so the
    mean time between two requests at the capacity. ``concurrency``: the streams that the replica holds; None:
    it does not stream. A stream joins between two steps, so it waits for no batch.
    """
    if capacity <= 0.0:
        return Curve(0.0, 0.0)
    held, share = concurrency, 0.0
    if held is None:
        held = capacity * slo_latency
        share = min(1.0, (service_time or 1.0 / capacity) / slo_latency)
    by_chance = 1.0 / (TUNING.per_request * (1.0 + held))
    spread = sqrt(by_chance + (TUNING.wait_spread * share) ** 2)
    promised = _load_at(spread, 1.0 - slo_objective)
    return Curve(capacity / promised, spread, promised)


def observed(seen: Observation) -> Curve:
    """Return the curve of a replica by what was observed of it; without a capacity it serves nothing."""
    return curve(
        seen.capacity or 0.0,
        seen.slo_latency or 0.0,
        seen.slo_objective or 0.0,
        seen.service_time_single,
        seen.concurrency,
    )


def late_shares(spread: float) -> tuple[float, ...]:
    """Return the late share at each of ``LOADS``, so that a prediction is a product of two rows.

    The spread is rounded to hundredths.
    """
    return _late_shares(max(round(spread, 2), 0.01))


@lru_cache(maxsize=64)
def _late_shares(spread: float) -> tuple[float, ...]:
    one = Curve(1.0, spread)
    return tuple(one.late(STEP**power) for power in LOADS)


def _late_and_busy(load: float, spread: float) -> tuple[float, float]:
    """Return the late share at ``load`` (a multiple of the goodput), and the odds of demand beyond it."""
    above = (load - 1.0) / spread
    busy = 0.5 * erfc(-above * _ROOT_HALF)
    excess = exp(-0.5 * above * above) * _NORMAL + above * busy
    # Far below the goodput the two terms cancel, except for rounding.
    return spread * excess / load if excess > 0.0 else 0.0, busy


def _load(spread: float, late: float) -> float:
    """Return the load, as a multiple of the goodput, at which the share ``late`` is late.

    Newton's method: the excess is convex in the load. The start is the load for constant demand; it lies
    above the root, so every step goes down.
    """
    at_pairs, _ = _late_and_busy(TUNING.pairs, spread)
    if late <= at_pairs:
        return TUNING.pairs * late / at_pairs
    load, step = 1.0 / (1.0 - late), 1.0
    while step > PRECISION * load:
        share, busy = _late_and_busy(load, spread)
        step = load * (share - late) / (busy - late)
        load -= step
    return load


@lru_cache(maxsize=1 << 14)
def _steady(spread: float, late: float) -> tuple[float, float]:
    """Return ``Curve.rate`` and ``Curve.saved`` for a goodput of 1.

    The cache helps because most functions are allowed the most or the least that may be late.
    """
    load = _load(spread, late)
    if load < TUNING.pairs:
        return load, load * late
    at_pairs, _ = _late_and_busy(TUNING.pairs, spread)
    late, busy = _late_and_busy(load, spread)
    # Just above ``pairs`` the curve is flatter than the line, but a price must not fall as more may be late.
    return load, min(max(load * (busy - late), TUNING.pairs * at_pairs), _ALL_BUT)


_load_at: Final = lru_cache(maxsize=1 << 14)(_load)
"""The same with a cache: every observation needs the load at the objective, and spreads seldom change."""
_ALL_BUT: Final = 0.9
"""Highest late share of a look-up, and highest price of a replica as a share of the goodput."""
_ROOT_HALF: Final = sqrt(0.5)
_NORMAL: Final = 1.0 / sqrt(2.0 * pi)
