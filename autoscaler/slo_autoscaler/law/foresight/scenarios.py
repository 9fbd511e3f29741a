"""Predicts the rate one start-up ahead: odds of the rates that followed similar ones. [P]

Moments are similar if their rates are within a factor (``similar``). Bins (``RATIOS``) count the factors by
which the rate had changed some time later. So ramps, bursts, steps and their returns need no model. With few
moments the odds shrink towards chance. A small part goes to rises beyond any that was observed.

``history`` finds the moments; ``price`` weighs every count of replicas against these odds.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from math import exp, log
from typing import Final

from slo_autoscaler.law.base.curve import STEP
from slo_autoscaler.law.tuning import TUNING

STILL: Final = 64
"""Index of the ratio 1: the lowest is a 22nd."""
HIGHEST: Final = 96
"""Exponent of the highest ratio: 108 times the rate. Rare peaks over little traffic are as high."""
RATIOS: Final = tuple(STEP**power for power in range(-STILL, HIGHEST + 1))
"""Later rate over current rate, by bin."""


@dataclass(frozen=True, slots=True)
class Tally:
    """Counts of ``RATIOS``. A new count weighs ``unit``, which grows: older ones lose weight."""

    counts: Mapping[int, float] = field(default_factory=dict)
    """By bin, in order; most functions use few bins."""
    unit: float = 1.0

    def plus(self, bins: Iterable[int]) -> "Tally":
        """Return the tally with more moments, in order."""
        counts, unit = dict(self.counts), self.unit
        for index in bins:
            counts[index] = counts.get(index, 0.0) + unit
            unit *= _GROWTH
        if unit > 1e9:
            # Far from the limits of a float.
            counts, unit = {index: count / unit for index, count in counts.items()}, 1.0
        if len(counts) > len(self.counts):
            counts = dict(sorted(counts.items()))
        return Tally(counts, unit)


_GROWTH: Final = 1.0 + 1.0 / TUNING.moments
_EMPTY: Final = Tally()


def _power(rate: float) -> int:
    return round(log(rate) / _LOG_STEP)


@dataclass(frozen=True, slots=True)
class Followed:
    """What followed, by the level of the rate at the time."""

    by_level: Mapping[int | None, Tally] = field(default_factory=dict)
    """Ratios by level. At None, no traffic, the rates themselves: powers of ``STEP``."""

    def plus(self, pairs: Iterable[tuple[float, float]], nothing: float) -> "Followed":
        """Return the same with more (rate, later rate), in order; up to ``nothing`` there is no traffic.

        A rate after no traffic says nothing of other levels.
        """
        levels: dict[int | None, list[int]] = {}
        for before, after in pairs:
            if before <= nothing:
                levels.setdefault(None, []).append(_power(max(after, nothing * RATIOS[0])))
                continue
            levels.setdefault(round(log(before) / _LOG_SIMILAR), []).append(bin_of(after / before))
        by_level = dict(self.by_level)
        for level, bins in levels.items():
            by_level[level] = self._at(level).plus(bins)
        return Followed(by_level)

    def odds(self, rate: float, nothing: float, window: float) -> list[float]:
        """Return the weight, in moments, of each ratio of the later rate to ``rate``, at least ``nothing``.

        The current ``rate`` was measured over ``window`` seconds.
        """
        size = round(2.0 * log(max(1.0, rate * window)))
        if rate <= nothing:
            odds, idle = list(_beforehand(bin_of(rate / nothing), size)), self._at(None)
            begin = _power(nothing) - STILL
            for power, count in idle.counts.items():
                odds[min(max(0, power - begin), len(RATIOS) - 1)] += count / idle.unit
            return odds
        level, share = divmod(log(rate) / _LOG_SIMILAR, 1.0)
        odds = list(_beforehand(STILL, size))
        for tally, weight in ((self._at(int(level)), 1.0 - share), (self._at(int(level) + 1), share)):
            for index, count in tally.counts.items():
                odds[index] += weight * count / tally.unit
        return odds

    def _at(self, level: int | None) -> Tally:
        return self.by_level.get(level, _EMPTY)


def with_rates(odds: Sequence[float], base: float, rates: Sequence[float], share: float) -> list[float]:
    """Return the odds of ratios to ``base`` with ``rates``, which take ``share`` of all; the rest stays."""
    weight_of_one = sum(odds) * share / len(rates)
    mixed = [(1.0 - share) * weight for weight in odds]
    for rate in rates:
        mixed[bin_of(rate / base)] += weight_of_one
    return mixed


def bin_of(ratio: float) -> int:
    """Return the bin of ``RATIOS`` that is nearest to ``ratio``."""
    if ratio <= RATIOS[0]:
        return 0
    return min(len(RATIOS) - 1, _power(ratio) + STILL)


_LOG_STEP: Final = log(STEP)
_LOG_SIMILAR: Final = log(TUNING.similar)


@lru_cache(maxsize=1024)
def _beforehand(still: int, size: int) -> tuple[float, ...]:
    """Return the odds before any observation, if ``exp(size / 2)`` requests are expected in a window.

    The rate stays at the ratio of bin ``still``, except for chance, or rises by any factor.
    """
    odds = [0.0] * len(RATIOS)
    spread = exp(-size / 4.0)
    normal = [(z / 3.0, exp(-((z / 3.0) ** 2) / 2.0)) for z in range(-9, 10)]
    weight = TUNING.by_chance / sum(density for _, density in normal)
    for z, density in normal:
        odds[bin_of(RATIOS[still] * (1.0 + z * spread))] += weight * density
    tail = [ratio**-TUNING.tail - (ratio * STEP) ** -TUNING.tail for ratio in RATIOS[still:]]
    for index, share in enumerate(tail, still):
        odds[index] += TUNING.beyond * share / sum(tail)
    return tuple(odds)
