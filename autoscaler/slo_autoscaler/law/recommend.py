"""Policy ``slo``: requests every replica that saves more late requests than its price. [P]

Owns the prediction: the odds of the rates to come (``history``, ``scenarios``), the late share of a
replica at each of them (``curve``, ``calibration``), and the share that may be late now (``budget``). Random
routing gives each replica an independent stream of requests, so one curve serves every count.

The price of a replica is the late requests per second that one saves at the steady load at which exactly the
allowed share is late. Where the load may jump, replicas are pre-warmed as far as the odds of the jump justify
them. One price for all moments is the cheapest way to a given number of late requests (a Lagrange multiplier;
the newsvendor's rule). Few replicas are coarse steps: the price alone would keep one of them far above the
load with the allowed share late, for as long as the budget lasts. So at the median of the rates to come at
most the allowed share is late. And where few requests come, most of them in rare peaks, no replica may be
worth the price of a steady load. So while requests come and the allowed share is at its least, a replica that
saves more than the objective's share of all requests is always worth it.

The moment that counts is the one at which a replica requested now would serve. A replica is removed only if
no such moment still ahead needs it: it could not be brought back until then (``Memory.needed``).
Replicas that do not become ready are no supply; a few are replaced.

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
from slo_autoscaler.law.curve import LOADS, Curve, curve, late_shares
from slo_autoscaler.law.memory import Memory
from slo_autoscaler.law.scenarios import RATIOS, STEP, STILL, with_rates
from slo_autoscaler.law.situation import Situation
from slo_autoscaler.model import Reason, Recommendation, Scale
from slo_autoscaler.signals import Observation
from slo_autoscaler.spec import Spec

SIGMAS: Final = 3.0
"""Standard deviations beyond which a measurement is no chance."""
DRAINED_IN: Final = 3.0
"""Horizons in which a backlog is drained. Its requests are late already, and delay none that are on time."""
SPARE: Final = 0.9
"""Share of the allowed late requests at which a replica is still spared. Without it a steady load between two
counts would add a replica and remove it again, every few reconciles."""
WAITED_LITTLE: Final = 0.05
"""Mean wait for a worker, as a share of the SLO. By Markov's inequality at most 5% of requests then waited
for the whole SLO: the others were late in execution, which no replica makes faster."""


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
        found = self._known.get(load)
        if found is None:
            first = self._begin + min(max(load - STILL - LOADS.start, 0), _LAST)
            shares = self._shares[first : first + len(self._weights)]
            found = self._known[load] = sum(map(mul, self._weights, shares)) / self._total
        return found

    def worth(self, allowed: float, most: float) -> float:
        """Return the late requests per second that one more replica must save where ``allowed`` may be late.

        It is never more than the share ``most`` of all requests.
        """
        return min(self.replica.saved(allowed), most * self.rate)

    def count(self, allowed: float, most: float, start: int, lowest: int, highest: int) -> int:
        """Return the count that is recommended where the share ``allowed`` may be late: see ``fewest``."""
        lowest = max(lowest, self.steady(self.replica.rate(allowed)))
        return self.fewest(self.worth(allowed, most), start, lowest, highest)

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
    objective = seen.slo_objective or 0.0
    replica = curve(seen.capacity or 0.0, seen.slo_latency or 0.0, objective, seen.service_time_single)
    rate, newest = seen.arrival_rate or 0.0, seen.arrival_rate_now
    believed, lag, interval = _believed(spec, rate, newest), spec.timing.rate_lag, spec.timing.interval
    horizon = memory.start_up(spec) + interval
    history = memory.history.every(interval).after([(now, believed)], horizon)
    load = (rate if newest is None else newest) / (max(1, scale.available) * replica.goodput)
    # Beyond the goodput a comparison says nothing of the curve below, until the backlog has left the rates.
    settled = DRAINED_IN * horizon + 2.0 * lag
    loads = (*[each for each in memory.loads if 0.0 < now - each[0] <= settled], (now, load))
    stalled = _hanging(spec, seen, memory.stalled)
    calibration, budget = _accounts(at, replica, loads, stalled)
    replica = replica.corrected(calibration.factor)
    nothing = history.nothing
    base = max(believed, nothing)

    odds = history.followed.odds(believed, nothing, 2.0 * lag)
    # The moments of one horizon overlap, so they are one independent observation.
    odds = history.levels.returned(odds, base, horizon / interval)
    for rates, share in history.repeats(now + horizon, now + horizon + interval, lag):
        odds = with_rates(odds, base, rates, share)
    then = Prediction(base, odds, replica)
    allowed = budget.allowed(objective, spec.budget_period)
    needy = budget.exhausted(spec.budget_period) and believed > 0.0
    most = 1.0 - objective if needy else inf
    # Enough for the highest of the rates; the policy's bounds come later.
    highest = max(scale.desired, ceil(RATIOS[-1] * base / replica.goodput))
    soon = then.count(allowed, most, scale.desired, 1, highest)
    waiting = _backlog(seen, scale)
    drained = ceil((believed + waiting / (DRAINED_IN * horizon)) / replica.goodput) if waiting > 0.0 else 0
    least = max(soon, drained)
    kept = then.count(SPARE * allowed, SPARE * most, scale.desired, least, highest)
    missing = max(0, least - scale.available)
    # Where no node has room, another replica would find none either.
    broken = max(0, memory.stuck(spec, now) - (scale.unschedulable or 0))
    again = min(broken, missing, 1)

    reason = Reason.LOAD_BELOW_CAPACITY
    if drained > max(soon, scale.desired):
        reason = Reason.BACKLOG
    elif least + again > scale.desired:
        late = replica.late(believed / max(1, scale.desired - again))
        reason = Reason.LOAD_ABOVE_CAPACITY if late > allowed else Reason.PEAK_EXPECTED
    elif kept + again >= scale.desired > 1 and replica.late(believed / (scale.desired - 1)) <= allowed:
        reason = Reason.PEAK_EXPECTED
    elif late_share(seen) is None and (seen.burn_short or 0.0) > 1.0:
        reason = Reason.WILL_NOT_HELP
    found = Recommendation(
        least + again,
        reason,
        kept + again,
        rate=then.rate,
        allowed=allowed,
        worth=then.worth(allowed, most),
        late=then.late,
    )
    return found, memory.with_data(
        spec,
        now,
        kept,
        loads=loads,
        stalled=stalled,
        history=history,
        calibration=calibration,
        budget=budget,
    )


def _accounts(
    at: Situation, replica: Curve, loads: Sequence[tuple[float, float]], stalled: float
) -> tuple[Calibration, Budget]:
    """Return those of ``memory`` with this observation. ``replica`` is without correction."""
    spec, seen, memory, now = at.spec, at.seen, at.memory, at.now
    passed = min(max(0.0, now - memory.seen_at), spec.timing.longest_gap)
    lately = [load for when, load in loads if now - when <= 2.0 * spec.timing.rate_lag]
    late, calibration = late_share(seen), memory.calibration
    if (
        memory.boosted_at is None
        and late is not None
        and max(load for _, load in loads) <= calibration.factor
    ):
        calibration = calibration.after(passed, spec.budget_period, seen.rate or 0.0, late, lately, replica)
    if seen.burn_short is None:
        late = sum(replica.late(load * replica.goodput) for load in lately) / len(lately)
    objective = seen.slo_objective or 0.0
    budget = memory.budget.after(passed, seen.rate or 0.0, late or 0.0, objective, spec.budget_period)
    return calibration, budget.with_late(stalled - memory.stalled, objective)


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


def _believed(spec: Spec, rate: float, newest: float | None) -> float:
    """Return the current rate: that of the newest interval if it is higher than chance explains."""
    interval = max(spec.timing.rate_lag, 1.0)
    noise = SIGMAS * (max(rate, 1.0 / interval) / interval) ** 0.5
    return newest if newest is not None and newest > rate + noise else rate


def _backlog(seen: Observation, scale: Scale) -> float:
    """Return the requests in flight beyond those that the replicas hold within the SLO (Little's law)."""
    held = max(1, scale.available) * (seen.capacity or 0.0) * (seen.slo_latency or 0.0)
    return max(0.0, (seen.in_flight or 0.0) - held)
