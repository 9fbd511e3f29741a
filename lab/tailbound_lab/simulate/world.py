"""Simulates a trace on a function under a scaler, second by second.

Owns time, and the start and stop of replicas. In each step, started replicas begin to serve; Prometheus
scrapes; the scaler decides and its count is applied; arrivals are routed; every replica begins its batches
until the end of the step. Routing and arrivals are drawn beforehand from fixed seeds, the same for every
scaler, so that outcomes differ only by the scalers. Next step: ``report``.
"""

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from slo_autoscaler.model import Scale
from slo_autoscaler.signals.counters import SPANS, surely
from slo_autoscaler.signals.record import Observation
from tailbound_lab.simulate import SimulationError, scrape
from tailbound_lab.simulate.function import Booster, Function, Routing, Scaler, Steps
from tailbound_lab.simulate.replica import Replica
from tailbound_lab.simulate.streams import StreamReplica
from tailbound_lab.simulate.traces import Trace

Floats = NDArray[np.float64]

STEP: Final = 1.0
"""Seconds per step; only requests have finer times."""

POLL_SECONDS: Final = 0.02
"""Seconds between two readings of the replicas' load by a least-loaded router; it counts its own requests in
between."""

PLANNED_SHARE: Final = 0.8
"""Share of the capacity that the default number of initial replicas uses."""

PEAK_SPAN: Final = 60.0
"""Minimum seconds for which scrapes are kept: llm-d uses the peaks of a minute."""

DIRECT_STEPS: Final = tuple(math.ceil(span / STEP) for span in SPANS)
"""Seconds over which directly read arrivals are counted, each step."""

NO_LIMIT: Final = Steps(math.inf)

_NOWHERE: Final = 0
"""Row of counters for replicas that are no longer scraped; it is never read."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings of the platform and of Prometheus. Durations are seconds."""

    lowest: int = 1
    highest: int = 20
    replicas: int | None = None
    """Initial replicas; None: those that the trace's first 30 s need at 80% of the capacity."""
    scrape_interval: float = 5.0
    window: float = 30.0
    rate_window: float = 20.0
    seed: int = 1
    """Of the routing."""
    crash_looping: int = 0
    """Number of replicas beyond the first that never become ready. They are requested and paid for, and a
    scale-down removes them before serving ones."""
    missed_scrape_every: int = 0
    """One in this many scrapes fails, of one replica after the other; 0: none fails."""
    boost_delay: float = 1.0
    """Seconds from a decision on CPU above nominal until it is in force."""
    node_cpus: Steps = NO_LIMIT
    """CPUs of the nodes. A replica has as many as workers; a boost gets what the others leave."""

    def __post_init__(self) -> None:
        if not 1 <= self.lowest <= self.highest:
            raise SimulationError(
                f"replicas: the fewest, {self.lowest}, must be at least 1 and at most {self.highest}"
            )


@dataclass(frozen=True, slots=True)
class Series:
    """The counts of each second."""

    arrivals: Floats
    good: Floats
    """Requests that arrived in it and were answered within the SLO."""
    desired: Floats
    ready: Floats


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of a trace under one scaler."""

    scaler: str
    trace: str
    requests: int
    attainment: float
    """Share of all requests that were answered within the SLO."""
    p50: float
    """Seconds, over all requests; infinite if timeouts reach it. ``p95`` and ``p99`` alike."""
    p95: float
    p99: float
    replica_seconds: float
    """Replica-seconds of desired replicas, including starting ones: the cost."""
    max_replicas: int
    """Maximum number of desired replicas."""
    changes: int
    reversals: int
    """Changes against the direction of the last one, less than a start-up time after it."""
    cpu_seconds: float
    """CPU-seconds of desired replicas, one CPU for each worker, with what boosts add."""
    series: Series


def run(trace: Trace, function: Function, scaler: Scaler, settings: Settings | None = None) -> Outcome:
    """Play ``trace`` on ``function`` under ``scaler``; the same arguments give the same outcome.

    Requests that are still inside at the end are served to their end.
    """
    world = _World(trace, function, settings or Settings())
    due = scaler.phase
    for index in range(math.ceil(trace.duration / STEP)):
        now = index * STEP
        world.begin(now)
        if now >= due:
            due += scaler.interval * max(1, math.ceil((now - due + 1e-9) / scaler.interval))
            wanted = scaler.scale(world, now)
            if wanted is not None:
                world.resize(wanted)
            if isinstance(scaler, Booster):
                world.boost(scaler.factor)
        world.step()
    return world.finish(scaler.name)


class _World:
    """The replicas and their measurements; also the ``View`` of scalers."""

    def __init__(self, trace: Trace, function: Function, settings: Settings) -> None:
        self._trace, self._function, self._settings = trace, function, settings
        arrivals = trace.arrivals
        self._steps = math.ceil(trace.duration / STEP)
        self._bounds = np.searchsorted(arrivals, np.arange(self._steps + 1) * STEP).tolist()
        self._draws = np.random.default_rng(settings.seed).random(len(arrivals))
        self._scrapes = scrape.Scrapes(
            function, settings.window, settings.rate_window, keep=max(2 * settings.rate_window, PEAK_SPAN)
        )
        self._edges = scrape.edges(function.slo_latency)
        self._counters = np.zeros((64, self._scrapes.columns))
        self._unused = list(range(len(self._counters) - 1, _NOWHERE, -1))
        self._scrape_at, self._scrape_number = 0.0, 0
        self._index = -1
        # Of answers that are still to come: arrival, end, latency, seconds waited, row.
        self._arrived, self._ends, self._latencies, self._waits = (np.zeros(0) for _ in range(4))
        self._rows = np.zeros(0, dtype=np.int64)
        self._answered: list[tuple[Floats, Floats, NDArray[np.bool_]]] = []
        """(arrivals, latencies, which are errors)."""
        self._errors = np.random.default_rng([settings.seed, 1])
        self._held: list[float] = []
        self._serial = 0
        self._factor = 1.0
        self._boosts: list[tuple[float, float]] = []
        """Factors that are decided and not yet in force, each with its time."""
        self._ready: list[tuple[int, Replica | StreamReplica]] = []
        self._firsts: deque[tuple[float, float]] = deque()
        self._gaps: deque[tuple[float, float]] = deque()
        first = settings.replicas
        if first is None:
            begin = min(30.0, trace.duration)
            load = float(np.searchsorted(arrivals, begin)) / begin
            first = math.ceil(load / (PLANNED_SHARE * function.capacity)) if function.capacity else 1
        self._desired = min(max(first, settings.lowest), settings.highest)
        broken = min(settings.crash_looping, self._desired - 1)
        self._starting = [math.inf] * broken
        for _ in range(self._desired - broken):
            self._start(0.0)
        shape = self._steps + 1
        # Running sums at the beginning of each step, so that any average is a difference.
        self._inside_seconds, self._done, self._busy, self._ready_seconds = (
            np.zeros(shape) for _ in range(4)
        )
        self._wanted, self._served_by, self._cpus = (np.zeros(self._steps) for _ in range(3))

    # What scalers see.

    @property
    def scale(self) -> Scale:
        """The scale by the platform."""
        return Scale(self._desired, len(self._ready), min=self._settings.lowest, max=self._settings.highest)

    def observe(self) -> Observation | None:
        """Return Prometheus' observation."""
        return self._scrapes.observe(self._index * STEP)

    def direct_rate(self) -> float:
        """Return the arrivals per second of the last second or three, less three standard deviations."""
        past = [steps for steps in DIRECT_STEPS if steps <= self._index]
        bounds, index = self._bounds, self._index
        return max(
            (surely([(bounds[index] - bounds[index - steps], steps * STEP)]) for steps in past), default=0.0
        )

    def direct_in_flight(self) -> float:
        """Return the requests inside the replicas now."""
        pending = sum(replica.pending for _, replica in self._ready)
        return float(len(self._ends) + len(self._held) + pending)

    def concurrency(self, span: float) -> float:
        """Return the mean number of requests inside."""
        return self._mean(self._inside_seconds, span)

    def successes(self, span: float) -> float:
        """Return the rate of answers."""
        return self._mean(self._done, span)

    def utilization(self, span: float) -> float | None:
        """Return the mean busy share of the workers' time."""
        ready = self._mean(self._ready_seconds, span)
        if ready <= 0.0:
            return None
        return min(1.0, self._mean(self._busy, span) / (ready * self._function.workers))

    def pieces(self, span: float) -> tuple[list[float], list[float]]:
        """Return latencies of the first pieces, and mean intervals of streams that ended, in ``span``."""
        now = self._index * STEP
        firsts, gaps = (
            [value for at, value in kept if now - span < at <= now] for kept in (self._firsts, self._gaps)
        )
        return firsts, gaps

    def peaks(self, span: float) -> list[tuple[float, float]]:
        """Return the peaks of queue and batch of each replica."""
        return self._scrapes.peaks(self._index * STEP, span)

    def _mean(self, sums: Floats, span: float) -> float:
        begin = max(0, self._index - round(span / STEP))
        return float(sums[self._index] - sums[begin]) / max(STEP, (self._index - begin) * STEP)

    # What happens.

    def begin(self, now: float) -> None:
        """Let started replicas serve, and Prometheus scrape."""
        self._index += 1
        for ready_at in [ready_at for ready_at in self._starting if ready_at <= now + 1e-9]:
            self._starting.remove(ready_at)
            self._start(now)
        while self._boosts and self._boosts[0][0] <= now + 1e-9:
            self._factor = self._boosts.pop(0)[1]
        if now >= self._scrape_at:
            self._scrape_at += self._settings.scrape_interval
            self._scrape(now)

    def boost(self, factor: float) -> None:
        """Give serving replicas ``factor`` times their nominal CPU, after the platform's delay."""
        if factor != (self._boosts[-1][1] if self._boosts else self._factor):
            self._boosts.append((self._index * STEP + self._settings.boost_delay, factor))

    def _boosted(self) -> float:
        """Return the factor in force, by what the nodes have idle."""
        nominal, ready = self._function.workers, len(self._ready)
        idle = self._settings.node_cpus.at(self._index * STEP) - self._desired * nominal
        return max(1.0, min(self._factor, 1.0 + idle / (ready * nominal))) if ready else 1.0

    def resize(self, wanted: int) -> None:
        """Request more replicas, or remove some: starting ones first, then the youngest."""
        wanted = min(max(wanted, 0), self._settings.highest)
        now = self._index * STEP
        added = wanted - self._desired
        if added > 0:
            broken = min(added, self._settings.crash_looping - self._starting.count(math.inf), wanted - 1)
            self._starting += [math.inf] * broken + [now + self._function.start_up] * (added - broken)
        for _ in range(self._desired - wanted):
            if self._starting:
                self._starting.pop()
                continue
            serial, replica = self._ready.pop()
            replica.serve([], math.inf)
            self._collect([replica])
            self._rows[self._rows == replica.row] = _NOWHERE
            self._counters[replica.row] = 0.0
            self._unused.append(replica.row)
            self._scrapes.gone(serial)
        self._desired = wanted

    def step(self) -> None:
        """Route the step's arrivals, serve, and count the answers."""
        begin, end = self._index * STEP, (self._index + 1) * STEP
        low, high = self._bounds[self._index], self._bounds[self._index + 1]
        arrivals, draws = self._trace.arrivals[low:high], self._draws[low:high]
        boosted = self._boosted()
        speed = boosted * self._function.speed.at(begin)
        for _, replica in self._ready:
            replica.run_at(speed, begin)
        held_before = len(self._held)
        inside_before = len(self._ends) + held_before + sum(replica.pending for _, replica in self._ready)
        if not self._ready:
            self._held += arrivals.tolist()
        elif self._function.routing is Routing.RANDOM or len(self._ready) == 1:
            self._route(arrivals, draws, end)
        else:
            self._route_by_load(arrivals.tolist(), begin, end)
        self._collect([replica for _, replica in self._ready])

        finished = self._ends <= end
        ends = self._ends[finished]
        self._count(finished)
        answered = ends[np.isfinite(self._latencies[finished])]
        index = self._index
        inside = inside_before * STEP + float(np.sum(end - arrivals)) - float(np.sum(end - ends))
        self._inside_seconds[index + 1] = self._inside_seconds[index] + max(0.0, inside)
        self._done[index + 1] = self._done[index] + len(answered)
        self._ready_seconds[index + 1] = self._ready_seconds[index] + len(self._ready) * STEP
        self._wanted[index], self._served_by[index] = self._desired, len(self._ready)
        cpus = self._desired + (boosted - 1.0) * len(self._ready)
        self._cpus[index] = cpus * self._function.workers
        self._keep(~finished)

    def finish(self, scaler: str) -> Outcome:
        """Serve the remaining requests, and return the outcome."""
        for _, replica in self._ready:
            replica.serve([], math.inf)
        self._collect([replica for _, replica in self._ready])
        self._answered.append((self._arrived, self._latencies, self._failed(self._latencies)))
        # Requests that no replica took, and those that timed out, have no latency.
        arrived, latencies, failed = (np.concatenate(parts) for parts in zip(*self._answered, strict=True))
        served = np.isfinite(latencies)
        arrived, latencies, failed = arrived[served], latencies[served], failed[served]
        requests = len(self._trace.arrivals)
        good = (latencies <= self._function.slo_latency + 1e-9) & ~failed
        lost = np.full(requests - len(latencies), math.inf)
        quantiles = _quantiles(np.concatenate((latencies, lost)))
        seconds = np.clip(arrived[good], 0.0, self._steps - 0.5).astype(np.int64)
        moves = [
            (index * STEP, after - before)
            for index, (before, after) in enumerate(pairwise(self._wanted.tolist()), 1)
            if after != before
        ]
        reversals = sum(
            (first > 0) != (second > 0) and later - earlier < self._function.start_up
            for (earlier, first), (later, second) in pairwise(moves)
        )
        return Outcome(
            scaler=scaler,
            trace=self._trace.name,
            requests=requests,
            attainment=float(np.count_nonzero(good)) / requests if requests else 1.0,
            p50=quantiles[0],
            p95=quantiles[1],
            p99=quantiles[2],
            replica_seconds=float(np.sum(self._wanted)) * STEP,
            max_replicas=int(np.max(self._wanted)),
            changes=len(moves),
            reversals=reversals,
            cpu_seconds=float(np.sum(self._cpus)) * STEP,
            series=Series(
                arrivals=np.diff(np.array(self._bounds, dtype=np.float64)),
                good=np.bincount(seconds, minlength=self._steps).astype(np.float64),
                desired=self._wanted,
                ready=self._served_by,
            ),
        )

    def _start(self, now: float) -> None:
        if not self._unused:
            self._unused = list(range(2 * len(self._counters) - 1, len(self._counters) - 1, -1))
            self._counters = np.concatenate((self._counters, np.zeros_like(self._counters)))
        self._serial += 1
        function, row = self._function, self._unused.pop()
        replica = (
            Replica(function, now, row)
            if function.streaming is None
            else StreamReplica(function, function.streaming, now, row)
        )
        self._ready.append((self._serial, replica))

    def _route(self, arrivals: Floats, draws: Floats, end: float) -> None:
        replicas = len(self._ready)
        chosen = (draws * replicas).astype(np.int64)
        order = np.argsort(chosen, kind="stable")
        moments = arrivals[order].tolist()
        cuts = np.searchsorted(chosen[order], np.arange(replicas + 1)).tolist()
        for index, (_, replica) in enumerate(self._ready):
            own = moments[cuts[index] : cuts[index + 1]]
            replica.serve(self._held[index::replicas] + own if self._held else own, end)
        self._held = []

    def _route_by_load(self, arrivals: list[float], begin: float, end: float) -> None:
        arrivals, self._held = self._held + arrivals, []
        replicas = [replica for _, replica in self._ready]
        polls = round((end - begin) / POLL_SECONDS)
        taken = 0
        for number in range(1, polls + 1):
            until = begin + number * POLL_SECONDS if number < polls else end
            given: list[list[float]] = [[] for _ in replicas]
            if taken < len(arrivals) and arrivals[taken] < until:
                inside = [replica.inside(until - POLL_SECONDS) for replica in replicas]
                while taken < len(arrivals) and arrivals[taken] < until:
                    least = inside.index(min(inside))
                    given[least].append(arrivals[taken])
                    inside[least] += 1
                    taken += 1
            for replica, own in zip(replicas, given, strict=True):
                replica.serve(own, until)

    def _collect(self, replicas: Sequence[Replica | StreamReplica]) -> None:
        """Collect from the replicas the time at which each request will be answered."""
        answered, rows, lost, lost_rows = [], [], [], []
        for replica in replicas:
            served = replica.take()
            self._busy[self._index + 1] += served.busy
            self._firsts += served.firsts
            self._gaps += served.gaps
            answered += served.answered
            rows += [replica.row] * len(served.answered)
            lost += served.lost
            lost_rows += [replica.row] * len(served.lost)
        if not answered and not lost:
            return
        sizes = np.array([len(batch.arrived) for batch in answered], dtype=np.int64)
        arrived = np.array([moment for batch in answered for moment in batch.arrived])
        begin, end, judged, row = (
            np.repeat(np.array(column), sizes)
            for column in (
                *([getattr(batch, name) for batch in answered] for name in ("begin", "end", "judged")),
                np.array(rows, dtype=np.int64),
            )
        )
        overhead = self._function.overhead
        gone = np.full(len(lost), math.inf)
        self._arrived = np.concatenate((self._arrived, arrived, lost))
        self._ends = np.concatenate((self._ends, end + overhead, lost))
        self._latencies = np.concatenate((self._latencies, judged + overhead - arrived, gone))
        self._waits = np.concatenate((self._waits, begin - arrived, np.zeros(len(lost))))
        self._rows = np.concatenate((self._rows, row, np.array(lost_rows, dtype=np.int64)))

    def _count(self, finished: NDArray[np.bool_]) -> None:
        """Add the answers of this step to their replicas' counters."""
        rows, latencies = self._rows[finished], self._latencies[finished]
        counters, height = self._counters, len(self._counters)
        failed = self._failed(latencies)
        good = (latencies <= self._function.slo_latency + 1e-9) & ~failed
        served = np.isfinite(latencies) & ~failed
        counters[:, scrape.ERRORS] += np.bincount(rows[failed], minlength=height)
        counters[:, scrape.TOTAL] += np.bincount(rows, minlength=height)
        counters[:, scrape.GOOD] += np.bincount(rows[good], minlength=height)
        counters[:, scrape.QUEUED] += np.bincount(rows, self._waits[finished], minlength=height)
        buckets = len(self._edges) + 1
        # A latency exactly at an edge belongs below it, despite rounding.
        bucket = np.searchsorted(self._edges, latencies[served] - 1e-9)
        cells = np.bincount(rows[served] * buckets + bucket, minlength=height * buckets)
        counters[:, scrape.BUCKETS :] += cells.reshape(height, buckets)
        if len(latencies):
            self._answered.append((self._arrived[finished], latencies, failed))

    def _failed(self, latencies: Floats) -> NDArray[np.bool_]:
        """Draw which of the answers are errors."""
        drawn: NDArray[np.bool_] = self._errors.random(len(latencies)) < self._function.errors
        return drawn & np.isfinite(latencies)

    def _keep(self, kept: NDArray[np.bool_]) -> None:
        self._arrived, self._ends = self._arrived[kept], self._ends[kept]
        self._latencies, self._waits = self._latencies[kept], self._waits[kept]
        self._rows = self._rows[kept]
        index = self._index
        self._busy[index + 1] += self._busy[index]

    def _scrape(self, now: float) -> None:
        running = np.bincount(self._rows, minlength=len(self._counters))
        self._scrape_number += 1
        every = self._settings.missed_scrape_every
        for serial, replica in self._ready:
            if every and (self._scrape_number + serial) % every == 0:
                self._scrapes.miss(serial)
                continue
            queued = float(replica.queued)
            self._scrapes.record(
                serial,
                now,
                self._counters[replica.row],
                inside=float(replica.pending + running[replica.row]),
                queued=queued,
                exports=replica.exports(now),
            )
        self._scrapes.record_gateway(now, float(self._bounds[self._index]))


def _quantiles(latencies: Floats) -> tuple[float, float, float]:
    """Return p50, p95 and p99, each a measured latency (nearest rank)."""
    if not len(latencies):
        return 0.0, 0.0, 0.0
    ranks = [max(0, math.ceil(share * len(latencies)) - 1) for share in (0.5, 0.95, 0.99)]
    ordered = np.partition(latencies, ranks)
    return float(ordered[ranks[0]]), float(ordered[ranks[1]]), float(ordered[ranks[2]])
