"""Policy ``slo``: requests every replica that saves more late requests than its price. [P]

Owns the prediction: the odds of the rates to come (``history``, ``scenarios``), the late share of a
replica at each of them (``curve``, ``calibration``), and the share that may be late now (``budget``). Random
routing gives each replica an independent stream of requests, so one curve serves every count.

The price of a replica is the late requests per second that one saves at the steady load at which exactly the
allowed share is late. Where the load may jump, replicas are pre-warmed as far as the odds of the jump justify
them. One price for all moments is the cheapest way to a given number of late requests (a Lagrange multiplier;
the newsvendor's rule). Few replicas are coarse steps: the price alone would keep one of them far above the
load with the allowed share late, for as long as the budget lasts. So at the median of the rates to come at
most the allowed share is late.

The moment that counts is the one at which a replica requested now would serve. A replica is removed only if
no such moment still ahead needs it: it could not be brought back until then (``Memory.needed``). None is
removed while more are late than allowed, or will be because they wait. If that lasts for minutes, one is
added, whatever the prediction says. Replicas that do not become ready are no supply; a few are replaced.

Next step: ``allocate`` where functions share a budget of replicas, then ``decide``.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate, compress
from math import ceil, floor, inf, log
from operator import mul
from typing import Final

from slo_autoscaler.law.budget import Budget
from slo_autoscaler.law.calibration import Calibration
from slo_autoscaler.law.curve import LOADS, Curve, late_shares, observed
from slo_autoscaler.law.memory import Memory
from slo_autoscaler.law.scenarios import RATIOS, STEP, STILL, with_rates
from slo_autoscaler.law.situation import Situation
from slo_autoscaler.law.tuning import TUNING
from slo_autoscaler.model import Reason, Recommendation
from slo_autoscaler.signals import Observation


@dataclass(slots=True)
class Prediction:
    """The late share of a function by its count of replicas, over the rates that may come."""

    base: float
    """Requests per second; the rates to come are multiples of it."""
    odds: Sequence[float]
    """Weight of each of ``RATIOS``."""
    replica: Curve
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
        self._weights = list(map(mul, self.odds[self._begin :], RATIOS[self._begin :]))
        self._total = sum(self._weights)
        self._shares = late_shares(self.replica.spread)
        sums = list(accumulate(self.odds))
        self.rate = self.base * self._total / sums[-1]
        self.median = self.base * RATIOS[bisect_left(sums, 0.5 * sums[-1])]

    def late(self, replicas: int) -> float:
        """Return the predicted share of late requests with this many replicas, 0 to 1."""
        if replicas <= 0 or self.replica.goodput <= 0.0:
            return 1.0
        load = self._load(replicas)
        whole = floor(load)
        below, above = self._at(whole), self._at(whole + 1)
        return below + (load - whole) * (above - below)

    def _load(self, replicas: int) -> float:
        """Return the load of each of so many replicas, as an exponent of ``STEP``."""
        return log(self.base / (replicas * self.replica.goodput)) / _LOG_STEP

    def _at(self, load: int) -> float:
        share = self._known.get(load)
        if share is None:
            first = self._begin + min(max(load - STILL - LOADS.start, 0), _LAST)
            shares = self._shares[first : first + len(self._weights)]
            share = self._known[load] = sum(map(mul, self._weights, shares)) / self._total
        return share

    def count(self, allowed: float, start: int, highest: int) -> int:
        """Return the count that is recommended where the share ``allowed`` may be late: see ``fewest``."""
        return self.fewest(
            self.replica.saved(allowed), start, self.steady(self.replica.rate(allowed)), highest
        )

    def steady(self, rate: float) -> int:
        """Return the fewest replicas that get at most ``rate`` each at the median of the rates to come."""
        return max(1, ceil(self.median / rate))

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
            late = self.late(count)
            return late < worth or late - self.late(count + 1) < worth

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


def recommend(at: Situation) -> tuple[Recommendation, Memory]:
    """Return the recommended count, and the memory with this observation.

    Needs an arrival rate, an SLO, and a capacity above 0.
    """
    spec, seen, scale, memory, now = at.spec, at.seen, at.scale, at.memory, at.now
    objective, interval = seen.slo_objective or 0.0, spec.timing.interval
    window = seen.rate_window or 2.0 * spec.timing.rate_lag
    replica = observed(seen)
    rate, newest = seen.arrival_rate or 0.0, seen.arrival_rate_now
    believed = _believed(rate, newest, spec.timing.rate_lag)
    horizon = memory.start_up(spec) + interval
    history = memory.history.every(interval).after([(now, believed)], horizon)
    load = (rate if newest is None else newest) / (max(1, scale.available) * replica.goodput)
    loads = (*[past for past in memory.loads if 0.0 < now - past[0] <= window], (now, load))
    # More wait than can be answered within the SLO: late already, but no counter shows it yet.
    overdue = (seen.queue_length or 0.0) > scale.available * replica.goodput * (seen.slo_latency or 0.0)
    overloaded_at = now if overdue or load > memory.calibration.factor else memory.overloaded_at
    stalled = _hanging(seen, memory.stalled, window)
    late = late_share(seen)
    # While a backlog or a boost is in the rates, a comparison says nothing of the curve.
    settled = not memory.boosts and now - overloaded_at > TUNING.drained_in * horizon + window
    calibration, budget = _accounts(at, replica, loads, late, compare=settled)
    budget = budget.with_late(stalled - memory.stalled, objective)
    replica = replica.corrected(calibration.factor)
    base = max(believed, history.nothing)

    odds: Sequence[float] = history.followed.odds(believed, history.nothing, window)
    for rates, share in history.repeats(now + horizon, now + horizon + interval, window / 2.0):
        odds = with_rates(odds, base, rates, share)
    then = Prediction(base, odds, replica)
    allowed = budget.allowed(objective, spec.budget_period)
    # Enough for the highest of the rates; the policy's bounds come later.
    highest = max(scale.desired, ceil(RATIOS[-1] * base / replica.goodput))
    count = then.count(allowed, scale.desired, highest)
    missing = max(0, count - scale.available)
    # Where no node has room, another replica would find none either.
    broken = max(0, memory.stuck(spec, now) - (scale.unschedulable or 0))
    count += min(broken, missing, 1)

    late_since = None
    if overdue or (late is not None and late > allowed):
        late_since = now if memory.late_since is None else memory.late_since
    reason = Reason.LOAD_BELOW_CAPACITY
    if late_since is not None and count <= scale.desired:
        served_since = -inf if memory.scaled_up_at is None else memory.scaled_up_at + horizon
        lasts = now - max(late_since, served_since) >= window + TUNING.late_for
        reason = Reason.STILL_LATE if lasts else Reason.SCALE_DOWN_UNSAFE
        count = scale.desired + 1 if lasts else scale.desired
    elif count > scale.desired:
        too_late = replica.late(believed / scale.desired) > allowed
        reason = Reason.LOAD_ABOVE_CAPACITY if too_late else Reason.PEAK_EXPECTED
    elif count == scale.desired > 1 and replica.late(believed / (scale.desired - 1)) <= allowed:
        reason = Reason.PEAK_EXPECTED
    elif late is None and (seen.burn_short or 0.0) > 1.0:
        reason = Reason.WILL_NOT_HELP
    worth = replica.saved(allowed) / then.rate
    recommendation = Recommendation(
        count, reason, rate=then.rate, allowed=allowed, worth=worth, late=then.late
    )
    return recommendation, memory.with_data(
        spec,
        now,
        count,
        loads=loads,
        overloaded_at=overloaded_at,
        late_since=late_since,
        stalled=stalled,
        history=history,
        calibration=calibration,
        budget=budget,
    )


def _accounts(
    at: Situation,
    replica: Curve,
    loads: Sequence[tuple[float, float]],
    late: float | None,
    *,
    compare: bool,
) -> tuple[Calibration, Budget]:
    """Return those of the memory with this observation; ``compare``: correct the curve.

    ``replica`` is without correction.
    """
    spec, seen, memory, calibration = at.spec, at.seen, at.memory, at.memory.calibration
    passed = min(max(0.0, at.now - memory.seen_at), spec.timing.longest_gap)
    served, lately = seen.rate or 0.0, [load for _, load in loads]
    if late is None:
        # Unknown: as many as the curve predicts.
        late = sum(replica.late(load * replica.goodput) for load in lately) / len(lately)
    elif compare:
        calibration = calibration.after(passed, spec.budget_period, served, late, lately, replica)
    objective = seen.slo_objective or 0.0
    return calibration, memory.budget.after(passed, served, late, objective, spec.budget_period)


def late_share(seen: Observation) -> float | None:
    """Return the late share that more replicas would have avoided; None: unknown, or none.

    If requests hardly waited for a worker, they were late in execution.
    """
    if seen.burn_short is None or seen.slo_objective is None:
        return None
    share = min(TUNING.waited_most, TUNING.waited_little * (1.0 - seen.slo_objective))
    waited = inf if seen.queue_mean is None else seen.queue_mean
    if seen.burn_short > 0.0 and waited <= share * (seen.slo_latency or 0.0):
        return None
    return min(1.0, seen.burn_short * (1.0 - seen.slo_objective))


def _hanging(seen: Observation, before: float, window: float) -> float:
    """Return the number of requests in flight for the whole window of rates; 0 if the SLO is longer."""
    if (seen.slo_latency or 0.0) >= window:
        return 0.0
    return before if seen.stalled is None else seen.stalled


def _believed(rate: float, newest: float | None, lag: float) -> float:
    """Return the current rate: that of the newest interval if it is higher than chance explains."""
    mean, sigmas = rate * max(lag, 1.0), TUNING.sigmas
    # A Poisson count of the mean exceeds it by the square root of it; of a small one by more.
    chance = (sigmas * mean**0.5 + sigmas * sigmas / 2.0) / max(lag, 1.0)
    return newest if newest is not None and newest > rate + chance else rate
