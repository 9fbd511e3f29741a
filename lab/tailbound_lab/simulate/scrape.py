"""Simulates Prometheus' view of the replicas.

Owns the samples and the results of ``signals.queries``: rates over at least four scrapes of each replica's
own counters, extrapolated as by Prometheus; quantiles from buckets with the watchdog's edges; gauges of the
last scrape. So requests before a replica's first scrape are not seen, and observations are delayed. Next
step: ``world`` passes the observation to ``decide``.
"""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import nan
from typing import Final

import numpy as np
from numpy.typing import NDArray

from batching_watchdog.engine.streams import Steady
from batching_watchdog.observe.metrics import DEFAULT_BUCKETS, SLO_FRACTIONS
from slo_autoscaler.signals.counters import joined
from slo_autoscaler.signals.gate import admitted
from slo_autoscaler.signals.queries import NEWEST
from slo_autoscaler.signals.record import ON_PAGE, Observation
from tailbound_lab.simulate.function import Exports, Function

Floats = NDArray[np.float64]

UNKNOWN: Final = Exports(Steady(nan, nan), nan)
"""Of a replica before its first scrape."""

TOTAL, GOOD, ERRORS, QUEUED, BUCKETS = range(5)
"""Columns of a row of counters: completions, good ones, errors, seconds waited, then one for each bucket of
latency."""


def edges(slo_latency: float) -> Floats:
    """Return the upper bounds of the watchdog's latency buckets, seconds, without +Inf."""
    own = (round(slo_latency * fraction, 9) for fraction in SLO_FRACTIONS)
    return np.array(sorted({*DEFAULT_BUCKETS, *own}))


@dataclass(slots=True)
class _Target:
    """One replica's samples; ``alive`` until its pod has gone, ``up`` if the last scrape worked."""

    times: deque[float] = field(default_factory=deque)
    counters: deque[Floats] = field(default_factory=deque)
    inside: deque[float] = field(default_factory=deque)
    queued: deque[float] = field(default_factory=deque)
    exports: Exports = UNKNOWN
    """At the last scrape."""
    alive: bool = True
    up: bool = True

    def rated(self, after: float) -> bool:
        """Return whether two samples exist since a moment, enough for a rate."""
        return sum(time > after for time in self.times) > 1

    def forget(self, before: float) -> None:
        while self.times and self.times[0] <= before:
            self.times.popleft()
            self.counters.popleft()
            self.inside.popleft()
            self.queued.popleft()


TOLD: Final[Mapping[str, Callable[[Function, _Target], float]]] = {
    "in_flight": lambda _, target: target.inside[-1],
    "queue_length": lambda _, target: target.queued[-1],
    "capacity": lambda _, target: target.exports.steady.rate,
    "concurrency": lambda _, target: target.exports.steady.concurrency,
    "service_time_single": lambda _, target: target.exports.service_time,
    "process_start_up": lambda function, _: function.start_up,
    "slo_latency": lambda function, _: function.slo_latency,
    "slo_interval": lambda function, _: nan,
    "slo_objective": lambda function, _: function.slo_objective,
}
"""Signal -> what a replica's page tells at its last scrape; NaN: unknown."""
if TOLD.keys() != ON_PAGE.keys():
    raise TypeError(f"signals that no simulated page tells, or none does: {TOLD.keys() ^ ON_PAGE.keys()}")


class Scrapes:
    """The samples of the last minutes. Times are seconds of the simulation."""

    def __init__(self, function: Function, window: float, rate_window: float, keep: float) -> None:
        """``window`` is that of latency and attainment; samples are kept for at least ``keep`` seconds."""
        self._function = function
        self._edges = edges(function.slo_latency)
        self._window = window
        self._rate_window = rate_window
        self._keep = max(window, rate_window, keep)
        self._targets: dict[int, _Target] = {}
        self._gateway: deque[tuple[float, float]] = deque()
        self._scraped_at = -np.inf

    @property
    def columns(self) -> int:
        """Number of counters of a replica."""
        return BUCKETS + len(self._edges) + 1

    def record(
        self, target: int, now: float, counters: Floats, *, inside: float, queued: float, exports: Exports
    ) -> None:
        """Scrape one replica: its counters since it started, and its gauges."""
        seen = self._targets.setdefault(target, _Target())
        seen.forget(now - self._keep)
        seen.times.append(now)
        seen.counters.append(counters.copy())
        seen.inside.append(inside)
        seen.queued.append(queued)
        seen.exports = exports
        seen.up = True
        self._scraped_at = now

    def miss(self, target: int) -> None:
        """Record a failed scrape: the replica's gauges are missing until the next successful one."""
        if target in self._targets:
            self._targets[target].up = False

    def record_gateway(self, now: float, started: float) -> None:
        """Scrape the gateway's counter of started requests."""
        while self._gateway and self._gateway[0][0] <= now - self._keep:
            self._gateway.popleft()
        self._gateway.append((now, started))

    def gone(self, target: int) -> None:
        """Stop scraping a replica; its samples stay in the windows."""
        if target in self._targets:
            self._targets[target].alive = False

    def observe(self, now: float) -> Observation | None:
        """Return the answers at ``now`` to the queries that scaling depends on; None before any scrape."""
        for serial, target in list(self._targets.items()):
            target.forget(now - self._keep)
            if not target.times and not target.alive:
                del self._targets[serial]
        alive = [target for target in self._targets.values() if target.alive and target.up and target.times]
        if not alive:
            return None
        function = self._function
        over_window = self._rates(now, self._window)
        over_rate_window = self._rates(now, self._rate_window)
        objective = function.slo_objective
        p95, p99 = (
            None if over_window is None else quantile(share, self._edges, over_window[BUCKETS:])
            for share in (0.95, 0.99)
        )
        pages = [
            {name: value for name, tell in TOLD.items() if (value := tell(function, target)) >= 0.0}
            for target in alive
        ]
        seen = Observation(
            rate=None if over_rate_window is None else float(over_rate_window[TOTAL]),
            gateway_rate=self._gateway_rate(now),
            rate_now=self._rate_now(now),
            gateway_rate_now=self._gateway_rate_now(now),
            in_flight_growth=self._growth(now),
            attainment=_attainment(over_window),
            samples=None if over_window is None else float(over_window[TOTAL]) * self._window,
            up_replicas=float(len(alive)),
            rated_replicas=float(sum(target.rated(now - self._rate_window) for target in alive)),
            sample_age=now - self._scraped_at,
            queue_mean=_ratio(over_window, QUEUED, TOTAL),
            burn_short=_late(over_rate_window, objective),
            p95=p95,
            p99=p99,
        )
        return admitted(replace(seen, **joined(pages)))

    def peaks(self, now: float, span: float) -> list[tuple[float, float]]:
        """Return each replica's longest queue and most running requests in ``span`` seconds of scrapes."""
        pairs = []
        for target in self._targets.values():
            kept, _ = _within(target.times, now - span)
            if target.alive and kept:
                waited = max(target.queued[index] for index in kept)
                ran = max(target.inside[index] - target.queued[index] for index in kept)
                pairs.append((waited, ran))
        return pairs

    def _rates(self, now: float, window: float) -> Floats | None:
        """Sum the targets' rates; None if no series has two samples in the window."""
        rates = [
            rate(times, [target.counters[index] for index in kept], now, window)
            for target in self._targets.values()
            for kept, times in [_within(target.times, now - window)]
            if len(kept) > 1
        ]
        return np.sum(rates, axis=0) if rates else None

    def _gateway_rate(self, now: float) -> float | None:
        kept, times = _within([time for time, _ in self._gateway], now - self._rate_window)
        if len(kept) < 2:
            return None
        values = [np.array([self._gateway[index][1]]) for index in kept]
        return float(rate(times, values, now, self._rate_window)[0])

    def _gateway_rate_now(self, now: float) -> float | None:
        kept, times = _within([time for time, _ in self._gateway], now - NEWEST * self._rate_window)
        if len(kept) < 2:
            return None
        return (self._gateway[kept[-1]][1] - self._gateway[kept[-2]][1]) / (times[-1] - times[-2])

    def _rate_now(self, now: float) -> float | None:
        def one(target: _Target, kept: list[int], times: list[float]) -> float:
            done = target.counters[kept[-1]][TOTAL] - target.counters[kept[-2]][TOTAL]
            return float(done) / (times[-1] - times[-2]) + _slope(target, kept, times)

        return self._sum(one, now - NEWEST * self._rate_window)

    def _growth(self, now: float) -> float | None:
        return self._sum(_slope, now - self._rate_window)

    def _sum(self, one: Callable[[_Target, list[int], list[float]], float], after: float) -> float | None:
        """Sum over the targets with two samples since a moment; None without such targets."""
        seen = [(target, *_within(target.times, after)) for target in self._targets.values()]
        values = [one(target, kept, times) for target, kept, times in seen if len(kept) > 1]
        return sum(values) if values else None


def rate(times: Sequence[float], counters: Sequence[Floats], now: float, window: float) -> Floats:
    """Return the per-second rate of counters that never reset, by Prometheus' own extrapolation.

    The increase between first and last sample is extended to the window's edges, but by no more than half the
    mean distance of samples where the next one is further away than 1.1 of it, and not below zero
    (``extrapolatedRate`` in promql/functions.go). At least two samples.
    """
    increase = counters[-1] - counters[0]
    sampled = times[-1] - times[0]
    apart = sampled / (len(times) - 1)
    before, after = times[0] - (now - window), now - times[-1]
    to_start = apart / 2 if before >= 1.1 * apart else before
    to_end = apart / 2 if after >= 1.1 * apart else after
    with np.errstate(divide="ignore", invalid="ignore"):
        to_zero = np.where(increase > 0.0, sampled * counters[0] / increase, np.inf)
    extended: Floats = sampled + np.minimum(to_start, to_zero) + to_end
    return increase * extended / sampled / window


def slope(times: Sequence[float], values: Sequence[float]) -> float:
    """Return the least squares slope per second, as ``deriv`` does. At least two different times."""
    mean_t, mean_v = sum(times) / len(times), sum(values) / len(values)
    spread = sum((t - mean_t) ** 2 for t in times)
    return sum((t - mean_t) * (v - mean_v) for t, v in zip(times, values, strict=True)) / spread


def _slope(target: _Target, kept: list[int], times: list[float]) -> float:
    return slope(times, [target.inside[index] for index in kept])


def quantile(share: float, bounds: Floats, counts: Floats) -> float | None:
    """Return ``histogram_quantile``: linear inside a bucket, the highest bound in the last one.

    ``counts`` are those of each bucket, not cumulated, with that beyond the last bound as the last. None
    without any.
    """
    cumulated = np.cumsum(counts)
    total = float(cumulated[-1])
    if total <= 0.0:
        return None
    rank = share * total
    index = int(np.searchsorted(cumulated, rank))
    if index >= len(bounds):
        return float(bounds[-1])
    low = float(bounds[index - 1]) if index else 0.0
    below = float(cumulated[index - 1]) if index else 0.0
    return low + (float(bounds[index]) - low) * (rank - below) / float(counts[index])


def _within(times: Sequence[float] | deque[float], after: float) -> tuple[list[int], list[float]]:
    kept = [index for index, time in enumerate(times) if time > after]
    return kept, [times[index] for index in kept]


def _attainment(rates: Floats | None) -> float | None:
    share = _ratio(rates, GOOD, TOTAL)
    return None if share is None else min(1.0, share)


def _ratio(rates: Floats | None, above: int, below: int) -> float | None:
    if rates is None or rates[below] <= 0.0:
        return None
    return float(rates[above] / rates[below])


def _late(rates: Floats | None, objective: float) -> float | None:
    """Return the late share over that of the objective; an error is not late."""
    if rates is None or rates[TOTAL] <= 0.0:
        return None
    return max(0.0, float(rates[TOTAL] - rates[GOOD] - rates[ERRORS]) / float(rates[TOTAL])) / (
        1.0 - objective
    )
