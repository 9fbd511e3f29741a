"""How much room to keep, from how the error budget is being spent. [P]

Room is what late knowledge costs: the load changes, and replicas come one start-up time later. How much of it
is right depends on the traffic, and what traffic does to a function shows only in its misses. So the error
budget is the measure. What is in hand is spent by planning nearer to the capacity. Misses at a load that was
seen before are regretted: more room would have avoided them, so more is kept, up to what the recent peak
needs. In the long run as many requests miss as the objective allows, less a margin: integral control, as
adaptive conformal inference does it for the coverage of a forecast (Gibbs and Candes, NeurIPS 2021).

Peaks that begin at equal distances (``recurrence``) need not be ready for between.

Accounts are in budget seconds: what the objective allows to miss in a second of mean traffic. Next step:
``decide`` keeps the account in its state, ``policies.slo`` sizes with what it says.
"""

from dataclasses import dataclass, field, replace
from typing import Final

from slo_autoscaler.law.recurrence import BURST, Recurrence
from slo_autoscaler.law.window import History, SlidingMax

PLANNED: Final = 0.55
"""Share of the error budget that is planned to be spent; the rest is for what nobody has planned."""

STEADY: Final = 0.98
"""Likewise, of a load that has been steady for ``FAMILIAR``: it holds little that nobody has planned."""

CALM: Final = 1.5
"""A load is steady if its highest is no more than so many times its mean;"""

SURPRISE: Final = 1.7
"""no longer at all if it is so many times that."""

FAMILIAR: Final = 1200.0
"""Seconds after which a load that has been steady is expected to stay so."""

CREDIT: Final = 400.0
"""Budget seconds in hand with which planning is as near to the capacity as it may be."""

EXCESS: Final = 100.0
"""Budget seconds overspent from which misses speak against the capacity: fewer are chance, for which the room
is there, and answered by more of it."""

REGRET: Final = 200.0
"""Budget seconds regretted with which the room is as large as it may be."""

LONGEST: Final = 800.0
"""Budget seconds: no incident counts for more than this."""

CAREFUL: Final = 0.68
"""Of the usual utilization, with ``LONGEST`` overspent."""

MEAN_MEMORY: Final = 1800.0
"""Seconds in which 63 % of a lasting change of the load enter the mean that budgets are counted in."""

PEAK_SPAN: Final = 3600.0
"""Seconds for which a peak is recent."""

CAUSE: Final = 45.0
"""Misses that are seen now were caused by the load of so many seconds."""

RESUMED: Final = 0.1
"""Traffic had stopped if it was below this share of what it is again."""

AS_HIGH: Final = 0.75
"""A load was seen before if an earlier peak was this share of it: peaks are seen through windows."""


@dataclass(frozen=True, slots=True)
class Headroom:
    """The accounts of one function, and the peaks that they are about."""

    overspent: float = 0.0
    """Budget seconds beyond what was planned, of all misses; negative: in hand."""
    regret: float = 0.0
    """Likewise, of those misses that more room would have avoided, and nothing in hand paid for; never
    negative."""
    mean_rate: float | None = None
    """Requests per second; None before the first one."""
    known_for: float = 0.0
    """Seconds that the mean is of; at most ``MEAN_MEMORY``."""
    burst: History = field(default_factory=lambda: History(BURST))
    """The load of the last ``BURST`` seconds."""
    peaks: SlidingMax = field(default_factory=lambda: SlidingMax(PEAK_SPAN))
    """The highest load before that."""
    recurrence: Recurrence = field(default_factory=Recurrence)
    """When peaks began."""

    def after(self, now: float, passed: float, rate: float, quick: float, burn: float | None) -> "Headroom":
        """Return the accounts ``passed`` seconds later.

        ``rate`` is the load (requests per second), ``quick`` the newest view of it, ``burn`` how fast the
        budget is spent: 1 is as fast as the objective allows, None is not told and changes no account.
        """
        peaks = self.peaks
        for when, load in self.burst.entries:
            if now - when >= BURST:
                peaks = peaks.push(now, load)
        newest = max(rate, quick)
        # At the first look the rate, which is of a longer window, is all that is known of before.
        lowest = self._lowest(now, rate)
        earlier = peaks.value(now) or 0.0
        known = self.peak(now)
        recurrence = self.recurrence.after(now, newest, lowest, known, earlier)
        burst = self.burst.push(now, newest)
        seen = replace(self, burst=burst, peaks=peaks, recurrence=recurrence)
        if self.mean_rate is None:
            return replace(seen, mean_rate=rate) if rate > 0.0 else seen
        span = min(self.known_for + passed, MEAN_MEMORY)
        mean = self.mean_rate + (rate - self.mean_rate) * (passed / span if span > 0.0 else 0.0)
        # After a sudden peak the next may come, unless it is known when.
        sudden = recurrence.distances is None and recurrence.repeated(now, PEAK_SPAN)
        surprise = SURPRISE if sudden or mean <= 0.0 else max(known, newest) / mean
        planned = _planned(surprise, span)
        change = passed * (burn - planned) * rate / mean if burn is not None and mean > 0.0 else 0.0
        cause = max(load for _, load in burst.within(now, CAUSE))
        avoidable = earlier >= AS_HIGH * cause and self.overspent >= 0.0
        return replace(
            seen,
            mean_rate=mean,
            known_for=span,
            overspent=min(max(self.overspent + change, -CREDIT), LONGEST),
            regret=min(max(self.regret + (change if avoidable else min(change, 0.0)), 0.0), LONGEST),
        )

    def utilization(self, usual: float, most: float) -> float:
        """Return the utilization to plan with: ``usual``, up to ``most`` with credit, less when overspent."""
        if self.overspent > 0.0:
            return usual * (1.0 - (1.0 - CAREFUL) * self.overspent / LONGEST)
        return usual + (most - usual) * min(max(-self.overspent / CREDIT, 0.0), 1.0)

    def peak(self, now: float) -> float:
        """Return the highest load of the last hour, requests per second."""
        return max(max((load for _, load in self.burst.entries), default=0.0), self.peaks.value(now) or 0.0)

    def standing(self, now: float, load: float, ahead: float) -> float:
        """Return the requests per second that must be served at once whenever they come; 0 without regret.

        Between ``load`` and the recent peak, by how much is regretted; and 0 as long as no peak is due within
        ``ahead`` seconds.
        """
        share = min(self.regret / REGRET, 1.0)
        if share <= 0.0 or not self.recurrence.due(now, ahead):
            return 0.0
        return load + share * max(0.0, self.peak(now) - load)

    @property
    def excessive(self) -> bool:
        """More is overspent than by chance: the capacity may not be what was learned."""
        return self.overspent > EXCESS

    @property
    def prepared(self) -> bool:
        """The next peak will find all that the recent one needed, for it is known when it comes."""
        return self.regret >= REGRET and self.recurrence.distances is not None

    def resumed(self, now: float, load: float) -> bool:
        """Tell whether ``load`` follows (nearly) nothing and is one of the last hour: work taken up again."""
        return self._lowest(now, load) < RESUMED * load <= RESUMED * self.peak(now)

    def moved(self, seconds: float) -> "Headroom":
        """Return the same accounts, as if everything had happened ``seconds`` later."""
        return replace(
            self,
            burst=self.burst.moved(seconds),
            peaks=self.peaks.moved(seconds),
            recurrence=self.recurrence.moved(seconds),
        )

    def _lowest(self, now: float, unseen: float) -> float:
        """The lowest load of the burst that is going on; ``unseen`` if nothing of it has been seen."""
        return min((load for _, load in self.burst.within(now, BURST)), default=unseen)


def _planned(surprise: float, known_for: float) -> float:
    """The share of the budget that is planned to be spent.

    ``surprise`` is the highest load as a multiple of its mean, which is of ``known_for`` seconds.
    """
    steadiness = min(max((SURPRISE - surprise) / (SURPRISE - CALM), 0.0), 1.0)
    return PLANNED + (STEADY - PLANNED) * steadiness * min(known_for / FAMILIAR, 1.0)
