"""How much room to keep, from how the error budget is being spent. [P]

Room is what late knowledge costs: the load changes, and replicas come one start-up time later. How much of it
is right depends on the traffic, and what the traffic does to a function is seen only in its misses. So the
error budget is the measure. What is in hand is spent by planning nearer to the capacity; when it is
overspent, what the recent peak needed is kept, so that the next such peak finds it. In the long run as many
requests miss as the objective allows, less a margin: integral control, and with a bounded account it is what
adaptive conformal inference does for the coverage of a forecast (Gibbs and Candes, NeurIPS 2021).
"""

from dataclasses import dataclass, field, replace
from typing import Final

from slo_autoscaler.window import SlidingMax

PLANNED: Final = 0.8
"""Share of the error budget that is planned to be spent; the rest is for what nobody has planned."""

CREDIT: Final = 300.0
"""Budget seconds in hand with which planning is as near to the capacity as it may be."""

DEBT: Final = 600.0
"""Budget seconds overspent with which all that the recent peak needed is kept."""

LONGEST_DEBT: Final = 3600.0
"""Budget seconds: no incident is atoned for longer than this."""

MEAN_MEMORY: Final = 1800.0
"""Seconds in which 63 % of a lasting change of the load enter the mean that budgets are counted in."""

PEAK_SPAN: Final = 3600.0
"""Seconds for which a peak is recent."""


@dataclass(frozen=True, slots=True)
class Budget:
    """The account of one function."""

    overspent: float = 0.0
    """Budget seconds (what may miss in a second of mean traffic), negative while some are in hand."""
    mean_rate: float | None = None
    peaks: SlidingMax = field(default_factory=lambda: SlidingMax(PEAK_SPAN))

    def after(self, now: float, passed: float, rate: float, peak: float, burning: float) -> "Budget":
        """Return the account ``passed`` seconds later.

        ``rate`` is the load, ``peak`` the quickest view of it, ``burning`` is rate x burn rate.
        """
        if self.mean_rate is None:
            mean = rate if rate > 0.0 else None
        else:
            mean = self.mean_rate + (rate - self.mean_rate) * min(1.0, passed / MEAN_MEMORY)
        spent = self.overspent
        if mean:
            spent += passed * (burning - PLANNED * rate) / mean
        return replace(
            self,
            overspent=min(max(spent, -CREDIT), LONGEST_DEBT),
            mean_rate=mean,
            peaks=self.peaks.push(now, peak),
        )

    def utilisation(self, usual: float, most: float) -> float:
        """Return the share of the capacity to plan with, between ``usual`` and ``most``."""
        return usual + (most - usual) * min(max(-self.overspent / CREDIT, 0.0), 1.0)

    def standing(self, now: float, load: float) -> float:
        """Return the rate that must be served at once whenever it comes: between ``load`` and the recent peak."""
        share = min(max(self.overspent / DEBT, 0.0), 1.0)
        peak = self.peaks.value(now) or 0.0
        return load + share * max(0.0, peak - load) if share > 0.0 else 0.0

    def moved(self, seconds: float) -> "Budget":
        """Return the same account, as if everything had happened ``seconds`` later."""
        return replace(self, peaks=self.peaks.moved(seconds))
