"""Jobs that share the CPUs of one cluster, in virtual time: Faro's simulated setting.

A job's requests wait in one queue and go round robin to its replicas; each replica serves one at a time and
holds a few. The setting and its numbers are those of Faro's artifact (EuroSys'25, github.com/beomyeol/faro,
``src/simulation`` and the experiment ``top9_twitter``), rewritten without SimPy: what is shared between jobs
changes every few seconds only, so each job is an event loop of its own between two such moments.

Owns requests, replicas and pods. A ``Law`` says how many replicas each job gets; ``split`` has some.
"""

from array import array
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import pairwise
from math import inf
from random import Random
from time import process_time

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Lognormal:
    """Seconds: ``least`` more than a lognormal with this ``median`` and this sigma of the logarithm."""

    sigma: float
    least: float
    median: float

    def draw(self, rng: np.random.Generator, count: int) -> Floats:
        """Return ``count`` independent draws."""
        return self.least + self.median * rng.lognormal(0.0, self.sigma, count)

    @property
    def mean(self) -> float:
        """Seconds on average."""
        return float(self.least + self.median * np.exp(self.sigma**2 / 2))


@dataclass(frozen=True, slots=True)
class Setting:
    """What all jobs have in common; times in seconds. The defaults are Faro's."""

    service: Lognormal = Lognormal(0.42247119, 0.07930158, 0.06858078)
    """Of a request on a replica."""
    routing: Lognormal = Lognormal(0.48078407, 0.00348533, 0.00098781)
    """Of a request on its way to the queue, and again of its answer."""
    slo: float = 0.72
    queue: int = 50
    """Requests of a job that may wait for a replica; a request that finds more is lost."""
    held: int = 4
    """Requests that one replica may hold, the running one included."""
    new_pod: float = 35.0
    warm_pod: float = 3.0
    """Until a replica serves: on a pod that is new, and on one that is idle."""
    idle: float = 30.0
    """After that long without a replica a pod goes, unless it is the job's only one."""
    check: float = 5.0
    """Between two searches for idle pods, and between two attempts to get a pod."""
    decide: float = 10.0
    """Between two decisions: a multiple of ``check``."""
    seen: float = 30.0
    """What a law sees of the past."""
    overlapping: bool = False
    """Whether the requests of a minute follow each other with exponential gaps from its beginning, as Faro's
    generator sends them: few minutes then end where the next begins. If not, they are spread by chance."""
    one_change: bool = True
    """Whether a job takes no new count before the last change is made, as with Ray Serve in Faro's simulator.
    Kubernetes takes one at any time."""


MINUTE = 60.0
"""Seconds of one count of a trace, and of one measure."""


Law = Callable[[float, Sequence["Job"], int], Sequence[int]]
"""Returns the replicas of each job from now on, by time, jobs and CPUs; a ``busy`` job keeps its target."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of all requests."""

    violations: float
    """Share of requests slower than the SLO or lost: the mean over minutes and jobs."""
    utility: float
    """Sum over jobs of the mean over minutes of min(1, SLO / p99). Lost requests are the slowest."""
    replicas: float
    """Replicas that serve, on average over time."""
    decision_seconds: float
    """CPU seconds of the longest decision for all jobs."""


class Job:
    """One job: its requests, its queue, its replicas and its pods."""

    def __init__(self, counts: Sequence[int], seed: int, setting: Setting, replicas: int = 1) -> None:
        """Draw the requests: exactly ``counts`` of them in each minute."""
        rng = np.random.default_rng(seed)
        draw = _gaps if setting.overlapping else np.random.Generator.random
        begins = [MINUTE * (minute + draw(rng, count)) for minute, count in enumerate(counts) if count]
        self.setting = setting
        self.arrivals: Floats = np.sort(np.concatenate(begins)) if begins else np.empty(0)
        requests = len(self.arrivals)
        self._queued = array("d", np.sort(self.arrivals + setting.routing.draw(rng, requests)).tobytes())
        self._service = array("d", setting.service.draw(rng, requests).tobytes())
        self._back: Floats = setting.routing.draw(rng, requests)
        self._ends = array("d", bytes(8 * requests))
        """When a replica has served the request; 0: not known yet; negative: when it was lost."""
        self._next = 0
        self._waiting: deque[int] = deque()
        self._running: list[tuple[float, int, list[float]]] = []
        self.replicas: list[list[float]] = [[0.0, 0] for _ in range(replicas)]
        """Of each: free from, requests held."""
        self._order = list(self.replicas)
        self._turn = 0
        self._shuffle = Random(seed).shuffle  # noqa: S311 - a simulation
        self._pending: list[tuple[float, int]] = []
        self._idle: list[float] = []
        self.lacking = 0
        """Replicas that wait for a CPU to become free."""
        self._settled = 0.0
        self._now = 0.0
        self.target = replicas
        self.replica_seconds = 0.0

    @property
    def pods(self) -> int:
        """CPUs that the job occupies: serving, starting and idle."""
        return len(self.replicas) + sum(count for _, count in self._pending) + len(self._idle)

    @property
    def busy(self) -> bool:
        """Whether the last change is still being made, and no other one is taken until then."""
        changing = self.lacking > 0 or bool(self._pending) or self._now < self._settled
        return changing and self.setting.one_change

    def rate(self, seconds: float) -> float:
        """Return the arrivals per second of the last ``seconds``."""
        begin, end = np.searchsorted(self.arrivals, (self._now - seconds, self._now))
        return float(end - begin) / seconds

    def mean_latency(self) -> float | None:
        """Return the mean seconds of all requests that were answered or lost in what a law sees."""
        begin = self._now - self.setting.seen
        first, last = np.searchsorted(self.arrivals, (begin - MINUTE, self._now))
        ends = np.abs(np.frombuffer(self._ends)[first:last])
        ends = np.where(ends > 0.0, ends + self._back[first:last], inf)
        among = (ends > begin) & (ends <= self._now)
        latencies = ends[among] - self.arrivals[first:last][among]
        return float(latencies.mean()) if len(latencies) else None

    def scale(self, target: int) -> None:
        """Change the count; replicas that are to be added get their pods by ``add``.

        What has not begun to serve goes first, with its pod; then the newest replica, which leaves its pod.
        """
        self.target = target
        over = len(self.replicas) + sum(count for _, count in self._pending) - target
        self.lacking = max(0, -over)
        while over > 0 and self._pending:
            ready, count = self._pending.pop()
            called_back = min(count, over)
            over -= called_back
            if count > called_back:
                self._pending.append((ready, count - called_back))
        if over > 0:
            del self.replicas[-over:]
            self._idle += [self._now] * over
            self._settled = self._now + self.setting.warm_pod
            self._reorder()

    def add(self, free: int) -> None:
        """Start replicas that are lacking: on idle pods, then on up to ``free`` new ones."""
        warm = min(self.lacking, len(self._idle))
        new = min(self.lacking - warm, free)
        if warm:
            del self._idle[:warm]
            self._pending.append((self._now + self.setting.warm_pod, warm))
        if new:
            self._pending.append((self._now + self.setting.new_pod, new))
        self.lacking -= warm + new

    def drop_idle(self) -> None:
        """Let go of pods that have been idle for long; the job keeps one pod."""
        longest = self._now - self.setting.idle
        over = min(sum(since <= longest for since in self._idle), self.pods - 1)
        del self._idle[:over]

    def advance(self, until: float) -> None:
        """Serve up to ``until``; replicas join when they are ready."""
        for ready, count in sorted(self._pending):
            if ready <= until:
                self._serve(ready)
                self._pending.remove((ready, count))
                self.replicas += [[ready, 0] for _ in range(count)]
                self._reorder()
        self._serve(until)

    def _reorder(self) -> None:
        self._order = list(self.replicas)
        self._shuffle(self._order)
        self._turn = 0

    def _serve(self, until: float) -> None:
        queued, service, ends, index = self._queued, self._service, self._ends, self._next
        running, waiting, order, turn = self._running, self._waiting, self._order, self._turn
        held, limit, requests = self.setting.held, self.setting.queue + 1, len(self._queued)
        self.replica_seconds += (until - self._now) * len(order)
        self._now = until

        def start(request: int, now: float) -> bool:
            nonlocal turn
            for _ in order:
                turn = turn + 1 if turn + 1 < len(order) else 0
                replica = order[turn]
                if replica[1] < held:
                    free = replica[0]
                    end = (now if now > free else free) + service[request]  # noqa: FURB136 - max() is a call
                    replica[0], ends[request] = end, end
                    replica[1] += 1
                    heappush(running, (end, request, replica))
                    return True
            return False

        while True:
            arrival = queued[index] if index < requests else inf
            while running and running[0][0] <= arrival and running[0][0] <= until:
                now, _, replica = heappop(running)
                replica[1] -= 1
                while waiting and start(waiting[0], now):
                    waiting.popleft()
            if arrival > until:
                break
            if waiting or not start(index, arrival):
                if len(waiting) > limit:
                    ends[index] = -arrival
                else:
                    waiting.append(index)
            index += 1
        self._next, self._turn = index, turn

    def measures(self, minutes: int) -> tuple[Floats, Floats]:
        """Return of each minute: the share of requests late or lost, and min(1, SLO / p99).

        A minute without requests violates nothing.
        """
        ends = np.frombuffer(self._ends)
        latencies = np.where(ends > 0.0, ends + self._back - self.arrivals, inf)
        violations, utility = np.zeros(minutes), np.ones(minutes)
        edges = np.searchsorted(self.arrivals, MINUTE * np.arange(minutes + 1))
        for minute, (begin, end) in enumerate(pairwise(edges)):
            if begin < end:
                minute_latencies = latencies[begin:end]
                violations[minute] = (minute_latencies > self.setting.slo).mean()
                # The higher of two neighbors: between a finite latency and a lost request lies no number.
                p99 = np.quantile(minute_latencies, 0.99, method="higher")
                utility[minute] = min(1.0, self.setting.slo / p99)
        return violations, utility


def _gaps(rng: np.random.Generator, count: int) -> Floats:
    return np.concatenate(([0.0], np.cumsum(rng.exponential(1.0 / count, count - 1))))


def run(
    counts: Sequence[Sequence[int]],
    cap: int,
    law: Law,
    seed: int = 42,
    setting: Setting = Setting(),
    replicas: int = 1,
) -> Outcome:
    """Play the counts of each job's minutes under a law; each job begins with ``replicas``."""
    jobs = [Job(own, seed + number, setting, replicas) for number, own in enumerate(counts)]
    minutes = max(map(len, counts))
    every = round(setting.decide / setting.check)
    ticks = round(minutes * MINUTE / setting.check)
    longest = 0.0
    queue: list[Job] = []
    for tick in range(1, ticks + 1):
        now = tick * setting.check
        for job in jobs:
            job.advance(now)
        if tick % every == 0:
            began = process_time()
            targets = law(now, jobs, cap)
            longest = max(longest, process_time() - began)
            for job, target in zip(jobs, targets, strict=True):
                if target != job.target and not job.busy:
                    job.scale(target)
                    queue += [job] if job.lacking and job not in queue else []
        for job in jobs:
            job.drop_idle()
        for job in queue:
            job.add(cap - sum(other.pods for other in jobs))
        queue = [job for job in queue if job.lacking]
    for job in jobs:
        job.advance(ticks * setting.check + MINUTE)
    measures = [job.measures(minutes) for job in jobs]
    seconds = minutes * MINUTE
    return Outcome(
        violations=float(np.mean([violations for violations, _ in measures])),
        utility=float(sum(utility.mean() for _, utility in measures)),
        replicas=(sum(job.replica_seconds - len(job.replicas) * MINUTE for job in jobs)) / seconds,
        decision_seconds=longest,
    )
