"""The share of requests that may be late now. [P]

Owns the account of requests served and late, over ``budget_period``. The budget that remains decides the
share that may be late now. The account has no limit; it is paid back as fast as ``TUNING.least`` lets it.

Only lateness counts, not errors: replicas do not make errors fewer.

Next step: ``recommend`` asks ``allowed``.
"""

from dataclasses import dataclass, replace
from math import exp

from slo_autoscaler.law.tuning import TUNING


@dataclass(frozen=True, slots=True)
class Budget:
    """Requests; older ones count less."""

    seconds: float = 0.0
    """Time observed, at most about the period."""
    served: float = 0.0
    spent: float = 0.0
    """Late requests over the share that the objective allows: the requests that earn as much budget."""

    def after(self, passed: float, served: float, late: float, objective: float, period: float) -> "Budget":
        """Return the account ``passed`` seconds later.

        ``served`` requests per second were answered, the share ``late`` of them late.
        """
        kept, done = exp(-passed / period), served * passed
        return Budget(
            self.seconds * kept + passed,
            self.served * kept + done,
            self.spent * kept + done * late / _allowance(objective),
        )

    def with_late(self, requests: float, objective: float) -> "Budget":
        """Return the account with this many more requests that are late and unanswered."""
        if requests <= 0.0:
            return self
        return replace(
            self, served=self.served + requests, spent=self.spent + requests / _allowance(objective)
        )

    def remaining(self, period: float) -> float:
        """Return the unspent share of the period's budget: 0 at first, negative if overspent.

        Each request served earns budget, each late one spends it.
        """
        if self.served <= 0.0:
            return 0.0
        return (1.0 - self.spent / self.served) * min(1.0, self.seconds / period)

    def allowed(self, objective: float, period: float) -> float:
        """Return the share of requests that may be late now.

        It is the objective's without the reserve, times a factor that is linear in the budget that remains.
        """
        allowance = _allowance(objective)
        # Of few requests, one or two late ones are chance.
        evidence = self.served / (self.served + TUNING.few_late / allowance)
        factor = 1.0 + evidence * self.remaining(period) / TUNING.reserve
        return allowance * min(max(factor, TUNING.least), TUNING.most)


def _allowance(objective: float) -> float:
    return (1.0 - objective) * (1.0 - TUNING.reserve)
