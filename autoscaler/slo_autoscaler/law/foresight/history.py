"""Holds the history of a function's rate: two hours, what followed, and the period in which it repeats. [P]

Timers and working days make peaks at equal intervals (Shahrad et al., USENIX ATC'20). A day and a week are
tried if the metrics' history has them. A jump of the rate proposes its distance to the jump before as a
shorter period. A period counts while the rates of the last two hours correlate with those one period earlier.

``scenarios`` counts what followed; ``recommend`` adds the rates of one period ago.
"""

from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from math import sqrt
from operator import mul
from typing import Final

from slo_autoscaler.law.foresight.scenarios import Followed
from slo_autoscaler.law.tuning import TUNING

SLOT: Final = 5.0
"""Seconds that one stored rate stands for, where no other interval between reconciles is set."""
KEPT: Final = 1440
"""Number of slots: two hours at 5 s, so that a period of an hour occurs twice."""
FEWEST: Final = 12
"""Fewest pairs with a meaningful correlation, and slots between two checks of a period."""


@dataclass(frozen=True, slots=True)
class Repetition:
    """Rates of an earlier time, moved to the present."""

    begin: float
    """Time of the first rate; ``step`` is the distance of two. Both in seconds."""
    step: float
    rates: Sequence[float]
    agreement: float
    """Correlation with the rates of the last two hours."""

    def between(self, first: float, last: float) -> Sequence[float]:
        """Return the rates of the steps from ``first`` to ``last``, in seconds."""
        begin, end = (int((when - self.begin) // self.step) for when in (first, last))
        return self.rates[max(0, begin) : max(0, end + 1)]


@dataclass(frozen=True, slots=True)
class History:
    """The rates of one function."""

    slot: float = SLOT
    """Seconds that one of ``rates`` stands for."""
    begin: int = 0
    """Slot of the first of ``rates``: seconds / ``slot``."""
    rates: "array[float]" = field(default_factory=lambda: array("f"))
    """Requests per second, at most ``KEPT``."""
    followed: Followed = field(default_factory=Followed)
    """Rates one start-up later, when a replica requested now would serve."""
    mean: float = 0.0
    """Mean rate of the last ``TUNING.moments`` moments, in requests per second."""
    moments: int = 0
    """Number of moments, at most as many."""
    jumps: tuple[int, ...] = ()
    """Slots of the last two jumps of the rate."""
    period: int = 0
    """Period in slots; 0: none is known."""
    agreement: float = 0.0
    """Correlation of the rates with those one period earlier."""
    past: tuple[Repetition, ...] = ()
    """Rates around the same time on earlier days."""

    @property
    def nothing(self) -> float:
        """Rate up to which there is no traffic, in requests per second."""
        return _nothing(self.mean)

    def every(self, interval: float) -> "History":
        """Return the history with one rate for each ``interval`` seconds: this one, or a new one."""
        return self if interval == self.slot else History(slot=interval, past=self.past)

    def after(self, observed: Iterable[tuple[float, float]], horizon: float) -> "History":
        """Return the history with more (time, rate), in order; many at once are much cheaper.

        ``horizon`` is the seconds until a replica requested now would serve.
        """
        begin, rates, jumps = self.begin, self.rates[:], self.jumps
        mean, moments, ahead = self.mean, self.moments, max(1, round(horizon / self.slot))
        pairs: list[tuple[float, float]] = []
        for now, rate in observed:
            slot = int(now // self.slot)
            missing = slot - begin - len(rates)
            if not rates or not -1 <= missing < KEPT:
                begin, rates, missing, jumps = slot, array("f"), 0, ()
            if missing < 0:
                rates[-1] = max(rates[-1], rate)
                continue
            # The rate of a gap counts as unchanged.
            rates.extend(rates[-1:] * missing)
            rates.append(rate)
            moments = min(moments + 1, int(TUNING.moments))
            mean += (rate - mean) / moments
            if len(rates) > ahead:
                before = rates[-1 - ahead]
                pairs.append((before, rate))
                if rate > TUNING.similar * before and not (jumps and slot - jumps[-1] <= 2 * ahead):
                    jumps = (*jumps[-1:], slot)
        end, dropped = begin + len(rates), max(0, len(rates) - KEPT)
        del rates[:dropped]
        nothing = _nothing(mean)
        # Every reconcile comes here, and ``replace`` takes five times as long.
        history = History(
            self.slot,
            begin + dropped,
            rates,
            self.followed.plus(pairs, nothing),
            mean,
            moments,
            jumps,
            self.period,
            self.agreement,
            self.past,
        )
        due = end // FEWEST != (self.begin + len(self.rates)) // FEWEST
        return history.reviewed() if due or jumps != self.jumps else history

    def reviewed(self) -> "History":
        """Return the same with the shorter period that counts: the present one, or that of the last jumps."""
        for period in sorted(
            {self.period, *(later - earlier for earlier, later in pairwise(self.jumps))} - {0}
        ):
            # With a short interval, a ramp of some seconds would correlate with itself.
            long_enough = (len(self.rates) - period) * self.slot >= FEWEST * SLOT
            agreed = agreement(self.rates[period:], self.rates[:-period]) if long_enough else 0.0
            if agreed >= TUNING.agreed:
                return replace(self, period=period, agreement=agreed)
        return replace(self, period=0, agreement=0.0) if self.period else self

    def with_past(self, past: Iterable[Sequence[tuple[float, float]]]) -> "History":
        """Return the same with earlier days, each a sequence of (time of today, rate)."""
        return replace(self, past=tuple(self._compared(rates) for rates in past if len(rates) > 1))

    def _compared(self, rates: Sequence[tuple[float, float]]) -> Repetition:
        step = (rates[-1][0] - rates[0][0]) / (len(rates) - 1)
        slots = max(1, round(step / self.slot))
        today, then = [], []
        for when, rate in rates:
            # A rate is the mean of the step that ends there.
            index = int(when // self.slot) - self.begin
            if slots <= index <= len(self.rates):
                today.append(sum(self.rates[index - slots : index]) / slots)
                then.append(rate)
        return Repetition(rates[0][0] - step, step, tuple(rate for _, rate in rates), agreement(today, then))

    def repeats(self, first: float, last: float, slack: float) -> Iterator[tuple[Sequence[float], float]]:
        """Yield the rates one period before ``first`` to ``last``, with their weight. All in seconds.

        The weight is the share of the variance that they explain: the square of the correlation. A step of an
        earlier day hides the peaks in it and weighs half of that. A repetition may come earlier or later by
        ``slack``, but not by a whole step of an earlier day.
        """
        for past in self.past:
            rates = past.between(first, last)
            if rates and past.agreement >= TUNING.agreed:
                yield rates, 0.5 * past.agreement**2
        if self.period:
            own = Repetition((self.begin + self.period) * self.slot, self.slot, self.rates, self.agreement)
            rates = own.between(first - slack, last + slack)
            if rates:
                yield rates, self.agreement**2


def _nothing(mean: float) -> float:
    # One request in two hours is none, whatever the mean.
    return max(TUNING.nothing * mean, 1.0 / (KEPT * SLOT))


def agreement(rates: Sequence[float], earlier: Sequence[float]) -> float:
    """Return the correlation of both over their common length.

    0 if one of them is constant, or if the changes of ``rates`` are not similar to the earlier ones but
    larger: a rise from 20 to 130 is no repetition of one from 0 to 20.
    """
    count = min(len(rates), len(earlier))
    if count < FEWEST:
        return 0.0
    rates, earlier = rates[:count], earlier[:count]
    if min(rates) == max(rates) or min(earlier) == max(earlier):
        return 0.0
    # Centered first: rounding in the squares of high, almost constant rates would look like correlation.
    mean, before = sum(rates) / count, sum(earlier) / count
    one, other = [rate - mean for rate in rates], [rate - before for rate in earlier]
    shared, square = sum(map(mul, one, other)), sum(map(mul, other, other))
    if shared > TUNING.similar * square:
        return 0.0
    spread = sqrt(sum(map(mul, one, one)) * square)
    return min(1.0, shared / spread) if spread > 0.0 else 0.0
