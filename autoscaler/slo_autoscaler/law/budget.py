"""The share of requests that may be late now, and the correction of the predicted lateness. [P]

Owns both integrators. The account holds the requests served and late over ``budget_period``. The budget that
remains decides the share that may be late now. The account has no limit: every late request is paid back. The
calibration compares the measured lateness with the curve's prediction for the same load and replicas. A wrong
capacity shows there and changes every later prediction by one factor.

Only lateness counts, not errors: replicas do not make errors fewer.

Next step: ``recommend`` asks ``allowed`` and ``correction``.
"""

from dataclasses import dataclass, replace
from math import exp
from typing import Final

KEPT_BACK: Final = 0.2
"""Share of the budget that is reserved for the unforeseen. With it, all traces that the constants were set on
meet the objective by more than the chance of routing."""
SPENT_BY: Final = 0.2
"""Share of the period's budget: with this much unspent, twice the usual share may be late."""
LEAST: Final = 1.0 / 3.0
"""Smallest factor on the usual share. A burst out of nothing can overspend the budget a hundredfold; without
a limit, the odds of another such burst would keep its replicas for an hour."""
MOST: Final = 1.5
"""Largest factor on the usual share: one mistake could spend more within minutes."""
CALIBRATED: Final = 900.0
"""Seconds after which a comparison counts e times less."""
DOUBT: Final = 10.0
"""Late requests, predicted and measured alike, at the start: a few say little."""
LARGEST: Final = 16.0
"""Largest correction, up or down: beyond it the capacity is not the cause."""


@dataclass(frozen=True, slots=True)
class Budget:
    """Requests; older ones count less."""

    served: float = 0.0
    spent: float = 0.0
    """Late requests over the share that the objective allows: the requests that earn as much budget."""
    measured: float = DOUBT
    """Late requests of the comparison; likewise ``predicted``."""
    predicted: float = DOUBT

    def after(
        self,
        passed: float,
        served: float,
        late: float,
        expected: float | None,
        objective: float,
        period: float,
    ) -> "Budget":
        """Return the account ``passed`` seconds later.

        ``served`` requests per second were answered, the share ``late`` of them late. ``expected`` is the
        late share that the curve predicts without correction for the load and the replicas of that time;
        None: no comparison.
        """
        kept = exp(-passed / period)
        done = served * passed
        measured, predicted = self.measured, self.predicted
        if expected is not None:
            forgotten = exp(-passed / CALIBRATED)
            measured = DOUBT + (measured - DOUBT) * forgotten + done * late
            predicted = DOUBT + (predicted - DOUBT) * forgotten + done * expected
        spent = done * late / _allowance(objective)
        return Budget(self.served * kept + done, self.spent * kept + spent, measured, predicted)

    def with_late(self, requests: float, objective: float) -> "Budget":
        """Return the account with this many more requests that are late and unanswered."""
        if requests <= 0.0:
            return self
        return replace(
            self, served=self.served + requests, spent=self.spent + requests / _allowance(objective)
        )

    @property
    def correction(self) -> float:
        """Factor on predicted late shares: measured over predicted."""
        return min(max(self.measured / self.predicted, 1.0 / LARGEST), LARGEST)

    def remaining(self, usual: float, period: float) -> float:
        """Return the unspent share of the period's budget: 0 at first, negative if overspent.

        ``usual`` is the mean rate, in requests per second. Each request served earns budget, each late one
        spends it.
        """
        whole = max(self.served, usual * period)
        return (self.served - self.spent) / whole if whole > 0.0 else 0.0

    def allowed(self, objective: float, usual: float, period: float) -> float:
        """Return the share of requests that may be late now.

        It is the objective's without the reserve, times a factor that is linear in the budget that remains.
        """
        factor = 1.0 + self.remaining(usual, period) / SPENT_BY
        return _allowance(objective) * min(max(factor, LEAST), MOST)


def _allowance(objective: float) -> float:
    return (1.0 - objective) * (1.0 - KEPT_BACK)
