"""Finds the period with which the rates repeat, and yields the rates of one period ago. [P]

Timers and working days make peaks at equal intervals (Shahrad et al., USENIX ATC'20). A day and a week are
tried if the metrics' history has them. Each jump of the rate proposes its distances to earlier jumps as
shorter periods. A period counts while the rates of the last two hours correlate with those one period
earlier.

Next step: ``scenarios.repeated``.
"""

from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from math import sqrt
from operator import mul
from typing import Final

SLOT: Final = 5.0
"""Seconds that one stored rate stands for."""
KEPT: Final = 1440
"""Number of slots: two hours, so that a period of an hour occurs twice."""
JUMP: Final = 1.5
"""Factor over the rate one start-up ago: such a jump may begin a period."""
JUMPS: Final = 4
"""Number of jumps kept."""
AGREED: Final = 0.6
"""Correlation from which a period counts."""
ALIKE: Final = 0.1
"""Difference of two correlations that is chance."""
SLACK: Final = 2
"""Slots by which a repetition may come earlier or later."""


@dataclass(frozen=True, slots=True)
class Periodicity:
    """The rates of two hours, and the period in which they repeat."""

    begin: int = 0
    """Slot of the first of ``rates``: seconds / ``SLOT``."""
    rates: "array[float]" = field(default_factory=lambda: array("f"))
    jumps: tuple[int, ...] = ()
    """Slots in which the rate jumped, oldest first."""
    period: int = 0
    """Period in slots; 0: none is known."""
    agreement: float = 0.0
    """Correlation of the rates with those one period earlier."""
    past: tuple["Past", ...] = ()
    """Rates around the same time on earlier days."""

    def after(self, now: float, rate: float, earlier: float, shortest: float) -> "Periodicity":
        """Return the same with one more rate.

        ``earlier`` is the rate one start-up ago. No period is shorter than ``shortest`` seconds.
        """
        slot = int(now // SLOT)
        begin, rates = self.begin, self.rates
        missing = slot - begin - len(rates)
        if not rates or missing < -1 or missing >= KEPT:
            return replace(self, begin=slot, rates=array("f", (rate,)), jumps=(), period=0, agreement=0.0)
        if missing < 0:
            return replace(self, rates=rates[:-1] + array("f", (max(rates[-1], rate),)))
        dropped = max(0, len(rates) + missing + 1 - KEPT)
        rates = rates[dropped:]
        # The rate of a gap counts as unchanged.
        rates.extend(self.rates[-1:] * missing)
        rates.append(rate)
        found = Periodicity(begin + dropped, rates, self.jumps, self.period, self.agreement, self.past)
        first = not self.jumps or slot - self.jumps[-1] > shortest / SLOT
        if rate > JUMP * earlier and first:
            found = replace(found, jumps=(*self.jumps[1 - JUMPS :], slot))
        elif slot % _REVIEWED:
            return found
        return _reviewed(found, int(shortest / SLOT))

    def with_past(self, past: Iterable[Sequence[tuple[float, float]]]) -> "Periodicity":
        """Return the same with earlier days, each a sequence of (time of today, rate)."""
        return replace(self, past=tuple(self._compared(rates) for rates in past if len(rates) > 1))

    def _compared(self, rates: Sequence[tuple[float, float]]) -> "Past":
        step = (rates[-1][0] - rates[0][0]) / (len(rates) - 1)
        slots = max(1, round(step / SLOT))
        today, then = [], []
        for when, rate in rates:
            # A rate is the mean of the step that ends there.
            index = int(when // SLOT) - self.begin
            if slots <= index <= len(self.rates):
                today.append(sum(self.rates[index - slots : index]) / slots)
                then.append(rate)
        return Past(rates[0][0] - step, step, tuple(rate for _, rate in rates), agreement(today, then))

    def repeats(self, now: float, ahead: Sequence[float]) -> Iterator[tuple[list[float], float]]:
        """Yield the rates ``ahead`` seconds from now, one period ago, with their correlation."""
        slots = {int((now + seconds) // SLOT) - self.begin for seconds in ahead}
        for periods in (1, 2, 3) if self.period else ():
            around = [
                slot - periods * self.period + off for slot in slots for off in range(-SLACK, SLACK + 1)
            ]
            found = [self.rates[index] for index in around if 0 <= index < len(self.rates)]
            if found:
                yield found, self.agreement
        for past in self.past:
            if past.agreement >= AGREED:
                steps = {int((now + seconds - past.begin) // past.step) for seconds in ahead}
                found = [past.rates[index] for index in steps if 0 <= index < len(past.rates)]
                if found:
                    yield found, past.agreement


@dataclass(frozen=True, slots=True)
class Past:
    """Rates of an earlier day, moved to today."""

    begin: float
    """Time of the first rate; ``step`` is the distance of two. Both in seconds."""
    step: float
    rates: tuple[float, ...]
    agreement: float
    """Correlation with the rates of the last two hours."""


def _reviewed(periodicity: Periodicity, shortest: int) -> Periodicity:
    """Return the same with the best period: the present one, or a distance from the last jump to another."""
    jumps, kept = periodicity.jumps, len(periodicity.rates)
    tried = {jumps[-1] - jump for jump in jumps if shortest <= jumps[-1] - jump <= kept} | {
        periodicity.period
    }
    agreed = {each: _agrees(periodicity, each) for each in sorted(tried - {0})}
    best = max(agreed.values(), default=0.0)
    if best < AGREED:
        return replace(periodicity, period=0, agreement=0.0)
    # Multiples of the period correlate as well, so take the shortest.
    return replace(
        periodicity,
        period=next(each for each, found in agreed.items() if found > best - ALIKE),
        agreement=best,
    )


def _agrees(periodicity: Periodicity, period: int) -> float:
    return agreement(periodicity.rates[period:], periodicity.rates[:-period])


def agreement(rates: Sequence[float], earlier: Sequence[float]) -> float:
    """Return the correlation of both over their common length; 0 if one of them is constant."""
    count = min(len(rates), len(earlier))
    if count < _FEWEST:
        return 0.0
    rates, earlier = rates[:count], earlier[:count]
    mean, before = sum(rates) / count, sum(earlier) / count
    # Centered first: rounding in the squares of high, almost constant rates would look like correlation.
    one, other = [rate - mean for rate in rates], [rate - before for rate in earlier]
    spread = sqrt(sum(map(mul, one, one)) * sum(map(mul, other, other)))
    if spread <= _ROUNDING * count * mean * before:
        return 0.0
    together: float = sum(map(mul, one, other))
    return together / spread


_ROUNDING: Final = 1e-9
"""Share of the product of two rates below which their change is rounding."""
_FEWEST: Final = 12
"""Fewest pairs with a meaningful correlation."""
_REVIEWED: Final = 12
"""Slots between two checks of a period."""
