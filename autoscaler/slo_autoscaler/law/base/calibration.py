"""The capacity that the measured lateness shows, as a factor on the exported one. [P]

Owns one account over ``budget_period``: the late requests that were measured, and for each of ``FACTORS``
those that the curve predicts for the same loads if the capacity is that many times the believed one. The
factor at which both agree corrects every later prediction. The ratio of measured to predicted late requests
would not do: where many requests fit into the SLO, half the capacity has ten thousand times as many late.

Loads beyond the corrected goodput are not compared: there a backlog decides, and would look like no capacity.

Next step: ``recommend`` multiplies the goodput by ``factor``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import exp, floor, log
from operator import add
from typing import Final

from slo_autoscaler.law.base.curve import LOADS, STEP, Curve, late_shares
from slo_autoscaler.law.tuning import TUNING

SPAN: Final = 28
"""Largest power of ``STEP``, up and down: from a quarter of the believed capacity to four times as much. What
lies beyond is found from there."""
FACTORS: Final = tuple(STEP**power for power in range(-SPAN, SPAN + 1, 2))


@dataclass(frozen=True, slots=True)
class Calibration:
    """Late requests measured and predicted; older ones count less."""

    factor: float = 1.0
    believed: float = 1.0
    """The factor at the start of the account, of which ``FACTORS`` are multiples."""
    measured: float = 0.0
    predicted: tuple[float, ...] = (0.0,) * len(FACTORS)
    """By ``FACTORS``."""

    def after(
        self, passed: float, period: float, served: float, late: float, loads: Sequence[float], replica: Curve
    ) -> "Calibration":
        """Return the calibration ``passed`` seconds later.

        ``served`` requests per second were answered, the share ``late`` of them late. ``loads`` are those of
        a replica in that time, as multiples of the goodput of ``replica``, the curve without correction.
        """
        done = served * passed
        if done <= 0.0:
            return self
        kept, requests = exp(-passed / period), done / len(loads)
        measured = self.measured * kept + done * late
        of_loads = (_by_factor(replica.spread, load / self.believed) for load in loads)
        shares = map(sum, zip(*of_loads, strict=True))
        predicted = tuple(
            [kept * before + requests * share for before, share in zip(self.predicted, shares, strict=True)]
        )
        totals = list(map(add, predicted, _doubt(replica.spread, replica.promised)))
        agreed = _agreed(measured + TUNING.doubt, totals)
        # No factor makes the capacity exceed the goodput.
        factor = min(self.believed * agreed, 1.0 / replica.promised)
        if agreed in (FACTORS[0], FACTORS[-1]):
            return Calibration(factor, believed=factor)
        return Calibration(factor, self.believed, measured, predicted)


@lru_cache(maxsize=1 << 14)
def _doubt(spread: float, promised: float) -> tuple[float, ...]:
    """Return the late requests of ``TUNING.doubt`` for each of ``FACTORS``, at most twice as many."""
    one = Curve(1.0, spread).late(promised)
    return tuple(TUNING.doubt * min(share / one, 2.0) for share in _by_factor(spread, promised))


def _by_factor(spread: float, load: float) -> list[float]:
    """Return the late share at ``load`` for each of ``FACTORS`` on the capacity."""
    if load <= 0.0:
        return [0.0] * len(FACTORS)
    table, power = late_shares(spread), log(load) / _LOG_STEP
    below = floor(power)
    part, first = power - below, min(max(below - LOADS.start, SPAN), len(table) - SPAN - 2) + SPAN
    last = first - 2 * SPAN
    ends = last - 2 if last >= 2 else None
    lower, upper = table[first:ends:-2], table[first + 1 : last : -2]
    return [low + part * (high - low) for low, high in zip(lower, upper, strict=True)]


def _agreed(measured: float, totals: Sequence[float]) -> float:
    """Return the factor at which ``totals``, by ``FACTORS`` and never rising, are ``measured``."""
    above = next((index for index, total in enumerate(totals) if total <= measured), len(totals))
    if above in (0, len(totals)):
        return FACTORS[max(0, above - 1)]
    more, less = log(totals[above - 1]), log(max(totals[above], _ALMOST_NONE))
    part = (more - log(measured)) / max(more - less, _ALMOST_NONE)
    return FACTORS[above - 1] * exp(2.0 * part * _LOG_STEP)


_LOG_STEP: Final = log(STEP)
_ALMOST_NONE: Final = 1e-12
