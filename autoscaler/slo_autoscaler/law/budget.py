"""What may be late now: one account of the error budget, and how well lateness was predicted. [P]

Owns both integrators. The account holds what was served and what of it was late, over ``budget_period``;
what is left of what the objective allows decides what may be late now. It is unclamped: all that was late
is paid back. The calibration compares lateness as measured with what the curve said at the same load and
replicas: a capacity that is wrong shows there, and bends every later prediction by one factor.

Only lateness counts, not errors: no count of replicas makes them fewer.

Next step: ``recommend`` asks ``allowed`` and ``correction``.
"""

from dataclasses import dataclass, replace
from math import exp
from typing import Final

KEPT_BACK: Final = 0.1
"""Of what the objective allows, for what nobody foresees."""
SPENT_BY: Final = 0.2
"""Of the period's budget: with so much in hand twice as much as usual may be late, but no more than
``MOST``."""
MOST: Final = 1.5
"""Times the usual share: more could be spent within minutes by one mistake."""
PAID_BY: Final = 0.08
"""Of the period's budget: with so much overspent half as much as usual may be late, with twice that a
third."""
BEGUN: Final = 0.25
"""Of a period: an account is never taken to be smaller, so that one that has just begun gives no extremes."""
CALIBRATED: Final = 900.0
"""Seconds after which a comparison counts e times less."""
DOUBT: Final = 10.0
"""Late requests, predicted and measured, that stand for no error: few say nothing."""
LARGEST: Final = 16.0
"""Correction, either way: beyond that something else is wrong than the capacity."""


@dataclass(frozen=True, slots=True)
class Budget:
    """Requests, older ones counted less."""

    served: float = 0.0
    spent: float = 0.0
    """Late ones, in multiples of what the objective allowed of each: budget, in requests served."""
    measured: float = DOUBT
    """Late ones, of the comparison; likewise ``predicted``."""
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
        """Return the account after ``passed`` more seconds.

        ``served`` requests per second were answered then, the share ``late`` of them late. ``expected`` is
        the share that the curve, uncorrected, gives for the load and the replicas of that time; None: no
        comparison.
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
        """Return the account after so many more that are late and were not answered: they hang."""
        if requests <= 0.0:
            return self
        return replace(
            self, served=self.served + requests, spent=self.spent + requests / _allowance(objective)
        )

    @property
    def correction(self) -> float:
        """Factor on predicted late shares: what was measured over what the curve said."""
        return min(max(self.measured / self.predicted, 1.0 / LARGEST), LARGEST)

    def remaining(self, usual: float, period: float) -> float:
        """Return the share of the period's budget that is in hand: 0 even, as at first, below 0 overspent.

        ``usual`` is the mean rate, in requests per second. What was served has earned, what was late spent.
        """
        whole = max(self.served, BEGUN * usual * period)
        return (self.served - self.spent) / whole if whole > 0.0 else 0.0

    def allowed(self, objective: float, usual: float, period: float) -> float:
        """Return the share of requests that may be late now.

        The objective's, less what is kept back, while the account is even. In hand: more, in proportion.
        Overspent: less, without end but ever slower, so that one disaster does not buy replicas for hours.
        """
        left = self.remaining(usual, period)
        if left >= 0.0:
            factor = min(1.0 + left / SPENT_BY, MOST)
        else:
            debt = -left * max(self.served, BEGUN * usual * period) / max(self.served, usual * period)
            factor = 1.0 / (1.0 + debt / PAID_BY)
        return _allowance(objective) * factor


def _allowance(objective: float) -> float:
    return (1.0 - objective) * (1.0 - KEPT_BACK)
