"""Policy ``slo``: requests every replica that saves more late requests than its price. [P]

Owns the prediction: the odds of the rates to come (``scenarios``, ``periodicity``), the late share of a
replica at each of them (``curve``), and the share that may be late now (``budget``). Random routing gives
each replica an independent stream of requests, so one curve serves every count.

The price of a replica is the late requests per second that one saves at the steady load at which exactly the
allowed share is late. Under a steady load that gives the fewest replicas with at most the allowed share
late. Where the load may jump, replicas are pre-warmed as far as the odds of the jump justify them. One price
for all moments is the cheapest way to a given number of late requests (a Lagrange multiplier; the
newsvendor's rule).

Scaling up is judged at the moment when a replica requested now would serve; scaling down over the whole time
in which it could not be brought back. Replicas that do not become ready are no supply; a few are replaced.

Next step: ``allocate`` where functions share a budget of replicas, then ``decide``.
"""

from dataclasses import dataclass, field
from functools import lru_cache
from math import ceil, floor, log
from operator import mul
from typing import Final

from slo_autoscaler.law.curve import Curve, curve
from slo_autoscaler.law.memory import Memory
from slo_autoscaler.law.scenarios import LOWEST, RATIOS, STEP, Followed, Odds, Prior
from slo_autoscaler.model import Reason, Recommendation, Scale
from slo_autoscaler.signals import Observation
from slo_autoscaler.spec import Spec

SUDDEN: Final = 3.0
"""Standard deviations of Poisson arrivals by which the newest interval must exceed the rate to replace it."""
DRAINED_IN: Final = 3.0
"""Horizons in which a backlog is drained. Its requests are late already, and delay none that are on time."""
SETTLED: Final = 60.0
"""Seconds after an overload until predictions are compared again: its late requests are answered later."""
TRUSTED: Final = 0.1
"""Predicted late share from which a comparison says nothing of the curve below saturation."""
REPLACED: Final = 0.1
"""Share of the needed replicas that is requested again if as many do not become ready. A full cluster gives
none, however many are requested."""
WAITED_LITTLE: Final = 0.05
"""Mean wait for a worker, as a share of the SLO. By Markov's inequality at most 5% of requests then waited
for the whole SLO: the others were late in execution, which no replica makes faster."""


@dataclass(slots=True)
class Prediction:
    """The late share of a function by its count of replicas, over the rates that may come."""

    base: float
    """Requests per second; the rates to come are multiples of it."""
    odds: Odds
    replica: Curve
    rate: float = field(init=False)
    """Expected requests per second."""
    _weights: list[float] = field(init=False)
    """Observed odds times ratios: the share of requests that meets each rate."""
    _total: float = field(init=False)
    """Sum of all weights, those of the prior included."""
    _spread: float = field(init=False)
    _known: dict[int, float] = field(init=False, default_factory=dict)
    """Late share by the exponent of the load."""

    def __post_init__(self) -> None:
        odds = self.odds
        self._weights = list(map(mul, odds.seen, RATIOS[odds.begin :]))
        self._total = odds.prior.weight + sum(self._weights)
        self._spread = round(self.replica.spread, 2)
        self.rate = self.base * self._total / odds.moments

    def late(self, replicas: int) -> float:
        """Return the predicted share of late requests with this many replicas, 0 to 1."""
        if replicas <= 0 or self.replica.goodput <= 0.0:
            return 1.0
        load = log(max(self.base / (replicas * self.replica.goodput), _LEAST)) / _LOG_STEP
        whole = floor(load)
        below, above = self._at(whole), self._at(whole + 1)
        return below + (load - whole) * (above - below)

    def _at(self, load: int) -> float:
        found = self._known.get(load)
        if found is None:
            first = min(max(load + LOWEST - _LOADS.start, 0), _LAST)
            begin = first + self.odds.begin
            late = sum(map(mul, self._weights, _shape(self._spread)[begin : begin + len(self._weights)]))
            late += _late_beforehand(self.odds.prior, self._spread, first)
            found = self._known[load] = late / self._total
        return found

    def fewest(self, worth: float, start: int, lowest: int, highest: int) -> int:
        """Return the lowest count, within the bounds, at which one more replica saves less than ``worth``.

        ``worth`` is late requests per second. A replica saves less the more there are, so bisection finds
        the count; it is mostly ``start``.
        """
        worth /= self.rate

        def enough(count: int) -> bool:
            return self.late(count) - self.late(count + 1) < worth

        if lowest <= start <= highest and enough(start):
            highest = start
            if start > lowest and not enough(start - 1):
                return start
        while lowest < highest:
            middle = (lowest + highest) // 2
            if enough(middle):
                highest = middle
            else:
                lowest = middle + 1
        return lowest


_LOG_STEP: Final = log(STEP)
_LEAST: Final = 1e-6
_LOADS: Final = range(-200, 400)
"""Exponents of ``STEP``: loads of a replica, as multiples of its goodput. Late shares are constant beyond."""
_LAST: Final = len(_LOADS) - len(RATIOS)


@lru_cache(maxsize=64)
def _shape(spread: float) -> tuple[float, ...]:
    """Return the late share at each of ``_LOADS``, so that a prediction is a product of two rows."""
    alike = Curve(1.0, spread)
    return tuple(alike.late(STEP**power) for power in _LOADS)


@lru_cache(maxsize=1 << 14)
def _late_beforehand(prior: Prior, spread: float, first: int) -> float:
    """Return the late part of the prior's weights, which many functions and reconciles share."""
    late: float = sum(map(mul, prior.weights, _shape(spread)[first : first + len(RATIOS)]))
    return late


def recommend(
    spec: Spec, seen: Observation, scale: Scale, memory: Memory, now: float
) -> tuple[Recommendation, Memory]:
    """Return the recommended count, and the memory with this observation.

    Needs an arrival rate, an SLO, and a capacity above 0.
    """
    replica = curve(
        seen.capacity or 0.0, seen.slo_latency or 0.0, seen.slo_objective or 0.0, seen.service_time_single
    )
    believed, horizon = _believed(spec, seen), memory.start_up(spec) + spec.timing.interval
    memory = _learned(spec, seen, scale, memory, replica, believed, horizon, now)
    budget, moments = memory.budget, memory.moments
    replica = replica.corrected(budget.correction, 1.0 - (seen.slo_objective or 0.0))
    base = max(believed, moments.nothing)

    def prediction(followed: Followed, *ahead: float) -> Prediction:
        odds = followed.odds(believed, moments.nothing)
        for rates, agreement in memory.periodicity.repeats(now, ahead):
            odds = odds.repeated(base, rates, agreement)
        return Prediction(base, odds, replica)

    then = prediction(moments.then, horizon, horizon + spec.timing.interval)
    meanwhile = prediction(moments.meanwhile, spec.timing.interval, horizon / 2.0, horizon)
    allowed = budget.allowed(seen.slo_objective or 0.0, moments.mean, spec.budget_period)
    worth = replica.saved(allowed)
    # Enough for the highest of the rates; the policy's bounds come later.
    highest = max(scale.desired, ceil(RATIOS[-1] * base / replica.goodput))
    soon = then.fewest(worth, scale.desired, 1, highest)
    waiting = _backlog(seen, scale)
    drained = ceil((believed + waiting / (DRAINED_IN * horizon)) / replica.goodput) if waiting > 0.0 else 0
    least = max(soon, drained)
    kept = meanwhile.fewest(worth, scale.desired, least, max(least, highest))
    missing = max(0, least - scale.available)
    # Where no node has room, another replica would find none either.
    broken = max(0, memory.stuck(spec, now) - (scale.unschedulable or 0))
    again = min(broken, missing, ceil(REPLACED * least))

    reason = Reason.LOAD_BELOW_CAPACITY
    if drained > max(soon, scale.desired):
        reason = Reason.BACKLOG
    elif least + again > scale.desired:
        late_now = replica.late(believed / max(1, scale.desired - again))
        reason = Reason.LOAD_ABOVE_CAPACITY if late_now > allowed else Reason.PEAK_EXPECTED
    elif kept + again >= scale.desired > 1 and replica.late(believed / (scale.desired - 1)) <= allowed:
        reason = Reason.PEAK_EXPECTED
    elif late_share(seen) is None and (seen.burn_short or 0.0) > 1.0:
        reason = Reason.WILL_NOT_HELP
    found = Recommendation(
        least + again, reason, kept + again, rate=then.rate, allowed=allowed, worth=worth, late=then.late
    )
    return found, memory.with_need(kept, memory.held(spec))


def _learned(
    spec: Spec,
    seen: Observation,
    scale: Scale,
    memory: Memory,
    replica: Curve,
    believed: float,
    horizon: float,
    now: float,
) -> Memory:
    """Return the memory with this observation."""
    rate = seen.arrival_rate or 0.0
    newest = rate if seen.arrival_rate_now is None else seen.arrival_rate_now
    passed = min(max(0.0, now - memory.seen_at), spec.timing.longest_gap)
    shares = tuple(entry for entry in memory.late_shares if 0.0 < now - entry[0] <= SETTLED)
    shares = (*shares, (now, replica.late(newest / max(1, scale.available))))
    window = [share for when, share in shares if now - when <= 2.0 * spec.timing.rate_lag]
    expected = sum(window) / len(window)
    overloaded = max(share for _, share in shares) > TRUSTED
    late, hanging = late_share(seen), _hanging(spec, seen, memory.stalled)
    budget = memory.budget.after(
        passed,
        seen.rate or 0.0,
        expected if seen.burn_short is None else late or 0.0,
        None if late is None or overloaded else expected,
        seen.slo_objective or 0.0,
        spec.budget_period,
    ).with_late(hanging - memory.stalled, seen.slo_objective or 0.0)
    moments = memory.moments
    earlier = moments.recent[0][1] if moments.recent else believed
    peak = max(rate, min(believed, newest))
    return memory.with_data(
        spec,
        now,
        late_shares=shares,
        stalled=hanging,
        moments=moments.after(now, passed, rate, believed, horizon),
        periodicity=memory.periodicity.after(now, peak, earlier, 2.0 * horizon),
        budget=budget,
    )


def late_share(seen: Observation) -> float | None:
    """Return the late share that more replicas would have avoided; None: unknown, or none.

    If requests hardly waited for a worker, they missed because of errors and slow execution.
    """
    if seen.burn_short is None or seen.slo_objective is None:
        return None
    if (
        seen.burn_short > 0.0
        and seen.queue_mean is not None
        and seen.queue_mean <= WAITED_LITTLE * (seen.slo_latency or 0.0)
    ):
        return None
    return min(1.0, seen.burn_short * (1.0 - seen.slo_objective))


def _hanging(spec: Spec, seen: Observation, before: float) -> float:
    """Return the number of requests in flight for the whole window of rates; 0 if the SLO is longer."""
    if (seen.slo_latency or 0.0) >= 2.0 * spec.timing.rate_lag:
        return 0.0
    return before if seen.stalled is None else seen.stalled


def _believed(spec: Spec, seen: Observation) -> float:
    """Return the current rate: that of the newest interval if it is higher than chance explains."""
    rate, newest = seen.arrival_rate or 0.0, seen.arrival_rate_now
    interval = max(spec.timing.rate_lag, 1.0)
    noise = SUDDEN * (max(rate, 1.0 / interval) / interval) ** 0.5
    return newest if newest is not None and newest > rate + noise else rate


def _backlog(seen: Observation, scale: Scale) -> float:
    """Return the requests in flight beyond those that the replicas hold within the SLO (Little's law)."""
    held = max(1, scale.available) * (seen.capacity or 0.0) * (seen.slo_latency or 0.0)
    return max(0.0, (seen.in_flight or 0.0) - held)
