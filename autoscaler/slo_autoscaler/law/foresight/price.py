"""Prices replicas: every one that saves more late requests, over the rates to come, than its price. [P]

Random routing gives each replica an independent stream of requests, so one curve serves every count.

The price of a replica is the late requests per second that one saves at the steady load at which exactly the
allowed share is late. Where the load may jump, replicas are pre-warmed as far as the odds of the jump justify
them. One price for all moments is the cheapest way to a given number of late requests (a Lagrange multiplier;
the newsvendor's rule). Few replicas are coarse steps: the price alone would keep one of them far above the
load with the allowed share late, for as long as the budget lasts. So at the median of the rates to come at
most the allowed share is late (``base``).

A boost carries jumps until replicas serve, and no steady load. So jumps are weighed at a higher capacity, and
the median at the nominal one.

Next step: ``recommend`` asks for the count.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate, compress
from math import ceil, floor, log
from operator import mul
from typing import Final

from slo_autoscaler.law.base.curve import LOADS, STEP, Curve, late_shares
from slo_autoscaler.law.foresight.scenarios import RATIOS, STILL


@dataclass(slots=True)
class Prediction:
    """The late share of a function by its count of replicas, over the rates that may come."""

    base: float
    """Requests per second; the rates to come are multiples of it."""
    odds: Sequence[float]
    """Weight of each of ``RATIOS``."""
    replica: Curve
    gain: float = 1.0
    """Capacity that serves a jump, as a multiple of the replica's: above 1 a boost bridges it."""
    rate: float = field(init=False)
    """Expected requests per second."""
    median: float = field(init=False)
    """Of the requests per second."""
    _begin: int = field(init=False)
    """Index of the first ratio that may come."""
    _weights: list[float] = field(init=False)
    """Odds times ratios from there: the share of requests that meets each rate."""
    _total: float = field(init=False)
    _shares: tuple[float, ...] = field(init=False)
    """Late share of the replica at each of ``LOADS``."""
    _known: dict[int, float] = field(init=False, default_factory=dict)
    """Late share by the exponent of the load."""

    def __post_init__(self) -> None:
        self._begin = next(compress(range(len(RATIOS)), self.odds), 0)
        odds = self.odds[self._begin :]
        self._weights = list(map(mul, odds, RATIOS[self._begin :]))
        self._total = sum(self._weights)
        self._shares = late_shares(self.replica.spread)
        sums = list(accumulate(odds))
        self.rate = self.base * self._total / sums[-1]
        self.median = self.base * RATIOS[self._begin + bisect_left(sums, 0.5 * sums[-1])]

    def late(self, replicas: int) -> float:
        """Return the predicted share of late requests with this many replicas, 0 to 1.

        Where a boost bridges jumps at least that of the median, which it does not carry.
        """
        if replicas <= 0 or self.replica.goodput <= 0.0:
            return 1.0
        late = self._jumps_late(replicas)
        return late if self.gain == 1.0 else max(late, self.replica.late(self.median / replicas))

    def _jumps_late(self, replicas: int) -> float:
        """Return the late share over the rates to come."""
        load = self._load(replicas)
        whole = floor(load)
        below, above = self._at(whole), self._at(whole + 1)
        return below + (load - whole) * (above - below)

    def _load(self, replicas: int) -> float:
        """Return the load of each of so many replicas, as an exponent of ``STEP``."""
        return log(self.base / (replicas * self.gain * self.replica.goodput)) / _LOG_STEP

    def _at(self, load: int) -> float:
        share = self._known.get(load)
        if share is None:
            first = self._begin + min(max(load - STILL - LOADS.start, 0), _LAST)
            shares = self._shares[first : first + len(self._weights)]
            share = self._known[load] = sum(map(mul, self._weights, shares)) / self._total
        return share

    def count(self, allowed: float) -> int:
        """Return the count that is recommended where the share ``allowed`` may be late: see ``fewest``."""
        lowest = self.replica.replicas(self.median, allowed)
        # Enough for the highest of the rates; the policy's bounds come later.
        highest = max(lowest, ceil(RATIOS[-1] * self.base / self.replica.goodput))
        return self.fewest(self.replica.saved(allowed), lowest, lowest, highest)

    def fewest(self, worth: float, start: int, lowest: int, highest: int) -> int:
        """Return the lowest count, within the bounds, at which one more replica saves less than ``worth``.

        ``worth`` is late requests per second. A replica saves less the more there are, so bisection finds
        the count; it is mostly near ``start``.
        """
        worth /= self.rate

        def enough(count: int) -> bool:
            # A replica saves no more than is late, and fewer are late than at the next higher load of the
            # table. So mostly one look-up is enough.
            if self._at(floor(self._load(count)) + 1) < worth:
                return True
            late = self._jumps_late(count)
            return late < worth or late - self._jumps_late(count + 1) < worth

        probes = [start + 1, start - 2, start - 1, start]
        while lowest < highest:
            count = probes.pop() if probes else (lowest + highest) // 2
            if not lowest <= count < highest:
                continue
            if enough(count):
                highest = count
            else:
                lowest = count + 1
        return lowest


_LOG_STEP: Final = log(STEP)
_LAST: Final = len(LOADS) - len(RATIOS)
"""Index of the highest load from which on there is one for each ratio."""
