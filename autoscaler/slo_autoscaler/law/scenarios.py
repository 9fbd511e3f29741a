"""Predicts the rate one start-up ahead: odds of the rates that followed similar ones. [P]

Owns the history of the rate. Moments are similar if their rates are within a factor (``LEVEL``). Bins
(``RATIOS``) count the factors by which the rate had changed one start-up later. So ramps, bursts, steps and
their returns need no model. With few moments the odds shrink towards those after any moment, and towards
chance. A small part goes to rises beyond any that was observed (``BEYOND``).

Where the rates repeat (``periodicity``), the rates of one period ago count as well.

Next step: ``recommend`` weighs every count of replicas against these odds.
"""

from array import array
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from math import exp, log
from operator import mul
from typing import Final

STEP: Final = 1.05
"""Ratio of one bin to the one before: 5% of load is one replica of twenty."""
LOWEST: Final = -56
HIGHEST: Final = 66
"""Exponents of the first and the last bin: a fifteenth and 25 times the rate."""
RATIOS: Final = tuple(STEP**power for power in range(LOWEST, HIGHEST + 1))
"""Later rate over current rate, by bin."""

LEVEL: Final = log(1.5)
"""Rates within a factor of 1.5 are similar (logarithm)."""
LIKE_NOTHING: Final = 0.2
"""Share of the mean rate: lower rates count as this one, because ratios to almost 0 say nothing."""
MEMORY: Final = 500.0
"""Observations after which one counts e times less, for each level by itself: 40 minutes of a steady rate."""
LATELY: Final = 60.0
"""Likewise for all levels together: a ramp leads to rates never seen before."""
SHARED: Final = 1.0
"""Weight, in moments, of the odds over all levels: the only ones for a rate never seen before."""
BY_CHANCE: Final = 1.5
"""Weight, in moments, of Poisson arrivals."""
BEYOND: Final = 0.5
"""Weight, in moments, of a rise by any factor x, with odds of ``x ** -TAIL``. Laplace's rule of succession
gives one of n + 1 independent moments; those that follow each other closely are not independent."""
TAIL: Final = 3.0


@dataclass(frozen=True, slots=True, eq=False)
class Prior:
    """Odds before any observation, the same for many functions."""

    odds: Sequence[float]
    """Weight of each of ``RATIOS``, in moments."""
    weights: Sequence[float]
    """Odds times ratios."""
    moments: float
    """Sum of the odds; likewise ``weight`` of the weights."""
    weight: float


@dataclass(frozen=True, slots=True)
class Odds:
    """A weight for each of ``RATIOS``, in moments: the prior and the observed odds."""

    prior: Prior
    begin: int
    """Bin of ``seen[0]``; empty bins at both ends are left out."""
    seen: list[float]

    @property
    def moments(self) -> float:
        """Sum of all weights."""
        return self.prior.moments + sum(self.seen)

    def row(self) -> list[float]:
        """Return the weight of each of ``RATIOS``."""
        row = list(self.prior.odds)
        for index, weight in enumerate(self.seen, self.begin):
            row[index] += weight
        return row

    def repeated(self, base: float, rates: Iterable[float], weight: float) -> "Odds":
        """Return the odds with ``rates`` of one period ago (requests per second, equally likely).

        ``weight``, 0 to 1, is their correlation: with 1 they weigh as much as everything else.
        """
        found = [bin_of(rate / base) for rate in rates]
        begin, last = min([self.begin, *found]), max([self.begin + len(self.seen) - 1, *found])
        before = self.begin - begin
        seen = [*[0.0] * before, *self.seen, *[0.0] * (last + 1 - begin - before - len(self.seen))]
        each = weight * self.moments / max(1, len(found))
        for index in found:
            seen[index - begin] += each
        return Odds(self.prior, begin, seen)


@dataclass(frozen=True, slots=True)
class Tally:
    """Counts of each ratio. A new count weighs ``unit``, which grows, so that older ones lose weight."""

    begin: int = len(RATIOS)
    """The bin of ``counts[0]``; at first beyond all bins, as ``end`` is below."""
    end: int = 0
    counts: "array[float]" = field(default_factory=lambda: array("d"))
    total: float = 0.0
    unit: float = 1.0

    def plus(self, index: int, memory: float) -> "Tally":
        """Return the tally with one more moment; after ``memory`` more it counts e times less."""
        total, unit = self.total + self.unit, self.unit * (1.0 + 1.0 / memory)
        begin, end = min(self.begin, index), max(self.end, index + 1)
        counts = array("d", self.counted(begin, end))
        counts[index - begin] += self.unit
        if unit > _LARGE:
            counts, total, unit = array("d", (each / unit for each in counts)), total / unit, 1.0
        return Tally(begin, end, counts, total, unit)

    def counted(self, begin: int, end: int) -> Collection[float]:
        """Return the count of each bin from ``begin`` to ``end``, which span at least its own."""
        if not self.counts:
            return [0.0] * (end - begin)
        if (begin, end) == (self.begin, self.end):
            return self.counts
        return [*[0.0] * (self.begin - begin), *self.counts, *[0.0] * (end - self.end)]

    @property
    def moments(self) -> float:
        """Sum of the counts, in moments."""
        return self.total / self.unit


@dataclass(frozen=True, slots=True)
class Followed:
    """Ratios that followed, by the level of the rate at the time, and lately for all levels."""

    by_level: Mapping[int, Tally] = field(default_factory=dict)
    any: Tally = Tally()

    def plus(self, before: float, after: float, nothing: float) -> "Followed":
        """Return the same with one more pair of rates; rates up to ``nothing`` count as no traffic.

        A rate after no traffic says nothing of other levels.
        """
        alone = before <= nothing
        index, level = bin_of(after / max(before, nothing)), _NONE if alone else round(log(before) / LEVEL)
        tally = self.by_level.get(level, _EMPTY).plus(index, MEMORY)
        lately = self.any if alone else self.any.plus(index, LATELY)
        return Followed({**self.by_level, level: tally}, lately)

    def odds(self, believed: float, nothing: float) -> Odds:
        """Return the odds of each ratio to the current rate, ``believed``.

        Up to ``nothing`` the ratios are to ``nothing``.
        """
        if believed <= nothing:
            center, level, share = bin_of(believed / nothing), _NONE, 0.0
        else:
            center, (whole, share) = -LOWEST, divmod(log(believed) / LEVEL, 1.0)
            level = int(whole)
        below, above, lately = (
            self.by_level.get(level, _EMPTY),
            self.by_level.get(level + 1, _EMPTY),
            self.any,
        )
        low, high = (1.0 - share) / below.unit, share / above.unit
        shared = min(1.0, SHARED / max(lately.moments, 1.0)) / lately.unit
        begin, end = min(below.begin, above.begin, lately.begin), max(below.end, above.end, lately.end)
        rows = zip(*(each.counted(begin, end) for each in (below, above, lately)), strict=True)
        seen = [low * one + high * other + shared * any_ for one, other, any_ in rows]
        return Odds(_prior(round(2.0 * log(max(1.0, believed * WINDOW))), center), begin, seen)


WINDOW: Final = 20.0
"""Seconds over which a rate is measured, which gives its share of chance."""

_NONE: Final = -(10**6)
"""Level of no traffic."""
_LARGE: Final = 1e9
_EMPTY: Final = Tally()


@dataclass(frozen=True, slots=True)
class Moments:
    """The rates of the last start-up, and the rates that followed earlier ones."""

    recent: tuple[tuple[float, float], ...] = ()
    """(when, rate), oldest first."""
    then: Followed = Followed()
    """One start-up later, when a replica requested now would serve."""
    meanwhile: Followed = Followed()
    """Until then, while a replica removed now could not be back."""
    mean: float = 0.0
    """Mean rate of half an hour, in requests per second."""
    seen: float = 0.0
    """Seconds observed in all, at most the mean's memory."""

    def after(self, now: float, passed: float, rate: float, believed: float, horizon: float) -> "Moments":
        """Return the history with one more observation.

        ``rate`` is the mean of some seconds, ``believed`` the current rate: it counts as the successor of
        earlier rates, and later ones are compared with it. ``passed`` is the seconds since the last
        observation, ``horizon`` those until a replica requested now would serve.
        """
        seen = min(self.seen + passed, _MEAN_MEMORY)
        mean = self.mean + (rate - self.mean) * (min(1.0, passed / seen) if self.seen else 1.0)
        then, meanwhile = self.then, self.meanwhile
        longest = horizon + 2.0 * max(passed, 1.0)
        kept = [(when, before) for when, before in self.recent if 0.0 < now - when < longest]
        young = [before for when, before in kept if now - when < horizon - passed / 2.0]
        nothing = _nothing(mean)
        if len(young) < len(kept):
            then = then.plus(kept[len(kept) - len(young) - 1][1], believed, nothing)
        if young:
            # One pair per observation is enough: after a few observations every distance was counted.
            meanwhile = meanwhile.plus(young[int(now / max(passed, 1.0)) % len(young)], believed, nothing)
        return Moments((*kept, (now, believed)), then, meanwhile, mean, seen)

    @property
    def nothing(self) -> float:
        """Rate up to which there is no traffic, in requests per second."""
        return _nothing(self.mean)


def _nothing(mean: float) -> float:
    return max(LIKE_NOTHING * mean, _LEAST)


_MEAN_MEMORY: Final = 1800.0
_LEAST: Final = 1e-3


def bin_of(ratio: float) -> int:
    """Return the bin of ``RATIOS`` that is nearest to ``ratio``."""
    if ratio <= RATIOS[0]:
        return 0
    return min(len(RATIOS) - 1, round(log(ratio) / _LOG_STEP) - LOWEST)


_LOG_STEP: Final = log(STEP)


@lru_cache(maxsize=1024)
def _prior(size: int, center: int) -> Prior:
    """Return the odds before any observation.

    The rate stays at the ratio of bin ``center``, except for chance (``exp(size / 2)`` requests are expected
    in ``WINDOW``), or rises by any factor.
    """
    odds = [0.0] * len(RATIOS)
    spread, middle = exp(-size / 4.0), RATIOS[center]
    normal = [(z / 3.0, exp(-((z / 3.0) ** 2) / 2.0)) for z in range(-9, 10)]
    weight = BY_CHANCE / sum(density for _, density in normal)
    for z, density in normal:
        odds[bin_of(middle * (1.0 + z * spread))] += weight * density
    tail = [ratio**-TAIL - (ratio * STEP) ** -TAIL for ratio in RATIOS[center:]]
    for index, share in enumerate(tail, center):
        odds[index] += BEYOND * share / sum(tail)
    weights = tuple(map(mul, odds, RATIOS))
    return Prior(tuple(odds), weights, sum(odds), sum(weights))
