"""The constants of the scaling law, each with its unit and its reason. [P]

They were chosen on ``bursty``, ``diurnal``, ``step`` and ``spike``, which are no held-out traces for them.
Grids (``scenarios.RATIOS``, ``curve.LOADS``) and numbers of one module's bookkeeping stand in that module.
"""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Tuning:
    """Constants of prediction, budget, replicas and fleet. Durations are seconds, shares 0 to 1."""

    # The late share of a replica: ``curve``
    per_request: float = 8.0
    """Growth of 1 / variance with each request that fits into the SLO; fitted to the batching engine."""
    wait_spread: float = 0.4
    """Standard deviation that a batch of the length of the SLO adds to the spread; fitted likewise."""
    pairs: float = 0.25
    """Load below which lateness is two requests that meet: the lowest at which the curve always rises."""

    # The rates to come: ``scenarios``, ``history``
    similar: float = 1.5
    """Largest factor between similar rates."""
    nothing: float = 0.2
    """Share of the mean rate up to which there is no traffic: ratios to almost 0 say nothing."""
    moments: float = 500.0
    """Moments of one level after which a moment counts e times less: 40 minutes of a steady rate."""
    by_chance: float = 1.5
    """Weight, in moments, of Poisson arrivals."""
    beyond: float = 0.5
    """Weight, in moments, of rises beyond any observed. Laplace's rule of succession gives 1; moments that
    follow each other closely are not independent."""
    tail: float = 3.0
    """A rise by the factor x has odds of ``x ** -tail``."""
    agreed: float = 0.6
    """Correlation from which a period counts."""
    sigmas: float = 3.0
    """Standard deviations beyond which a measurement is no chance."""

    # What may be late: ``budget``, ``calibration``, ``recommend``
    reserve: float = 0.15
    """Share of the budget that is reserved for the unforeseen; as much unspent doubles what may be late."""
    least: float = 1.0 / 3.0
    """Smallest factor on the usual share: a burst out of nothing would keep its replicas for an hour."""
    most: float = 1.5
    """Largest factor on the usual share: one mistake could spend more within minutes."""
    few_late: float = 3.0
    """Late requests as many as chance makes: a period that allows so many weighs half."""
    doubt: float = 10.0
    """Late requests that agree with the factor believed at the start. As many again change the belief."""
    drained_in: float = 3.0
    """Horizons after an overload in which its backlog is drained: lateness says nothing of the capacity."""
    waited_little: float = 5.0
    """Mean wait for a worker, as a multiple of the share of the SLO that the objective leaves. By Markov's
    inequality at most so many times that share of requests waited for the whole SLO."""
    waited_most: float = 0.05
    """The same as a share of the SLO, for low objectives."""
    late_for: float = 180.0
    """Lateness above the allowed share, with enough replicas by the prediction, that asks for one more."""

    # CPU above nominal: ``boost``
    boost_least: float = 1.05
    """Load of the serving replicas, over their capacity, that boosts them: the capacity errs by less."""
    boost_grain: float = 0.25
    """Factors are multiples of it, so that noise of arrivals resizes nothing. A boost ends in such steps."""
    boost_bridges: float = 120.0
    """Longest start-up that a boost bridges: what a jump has beyond the boost is late for as long."""
    boost_drained_in: float = 1.0
    """Seconds in which a boost should drain the requests beyond those that are served within the SLO."""
    boost_alone: float = 30.0
    """Longest boost that bridges no start-up: load that chance explains is gone by then."""
    boost_longest: float = 3600.0
    """Longest boost of all: a pause of half a minute in an hour shows what nominal replicas can serve."""

    # Replicas: ``memory``
    ready_by: float = 2.0
    """Start-up times after which a replica that does not serve yet is no supply."""
    refused_after_reads: int = 3
    """Reads after which a count below the requested one is a refusal, and no stale read."""
    longest_start_up: float = 600.0
    """A replica that took longer was broken, and says nothing of a start-up."""
    undone_within: float = 300.0
    """A scale-up this soon after a scale-down shows that the lower count was too low."""
    avoided_for: float = 900.0
    """Time for which a count that was too low is not tried again; twice as long if it is again."""
    avoided_most: float = 3600.0
    """Longest such time."""


TUNING: Final = Tuning()
