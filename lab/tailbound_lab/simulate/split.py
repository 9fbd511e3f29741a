"""Laws that split a cluster among jobs: those that Faro is compared with, and ours.

FairShare, AIAD and Oneshot are defined by Faro's artifact (github.com/beomyeol/faro, ``src/policy.py``), with
its settings. Ours is made of production's ``scenarios`` and ``allocate``. Late shares by count are played
before, in this setting (``LateTable``): no job batches here. There is no account of an error budget, since
the measure has no period, and no wait before scale-down. Nothing is tuned to a trace.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from math import ceil
from typing import Final

import numpy as np

from slo_autoscaler.law.allocate import Claim, allocate
from slo_autoscaler.law.foresight.history import History
from slo_autoscaler.law.foresight.scenarios import RATIOS
from tailbound_lab.simulate.cluster import MINUTE, Floats, Job, Setting

MOST: Final = 100
"""Replicas of a job, in Faro's settings of AIAD and Oneshot."""
UP_AFTER: Final = 3
DOWN_AFTER: Final = 60
"""Decisions in a row for which they see the latency above the SLO, or not, before they act."""


def fair_share(now: float, jobs: Sequence[Job], cap: int) -> list[int]:
    """Change nothing: every job began with the same share of the cluster."""
    return [job.target for job in jobs]


class ByLatency:
    """Faro's AIAD and Oneshot: up by the mean latency of all requests above the SLO, down by it below.

    Lost requests count with the short time after which they were lost. What does not fit into the cluster is
    not asked for; whoever comes down makes room first.
    """

    def __init__(self, *, one_shot: bool) -> None:
        """By one replica each time (AIAD), or with ``one_shot`` to the count x latency / SLO at once."""
        self._one_shot = one_shot
        self._in_a_row: dict[int, int] = {}

    def __call__(self, now: float, jobs: Sequence[Job], cap: int) -> list[int]:
        """Return the counts after one more observation of each job."""
        wanted = [min(max(1, self._wanted(index, job)), MOST) for index, job in enumerate(jobs)]
        given = [job.target for job in jobs]
        free = cap - sum(given)
        for down in (True, False):
            for index, job in enumerate(jobs):
                more = wanted[index] - given[index]
                if not job.busy and (more < 0) is down:
                    more = min(more, free)
                    given[index] += more
                    free -= more
        return given

    def _wanted(self, index: int, job: Job) -> int:
        ratio = (job.mean_latency() or 0.0) / job.setting.slo
        up = ratio > 1.0
        before = self._in_a_row.get(index, 0)
        row = self._in_a_row[index] = (max(before, 0) + 1) if up else (min(before, 0) - 1)
        if -DOWN_AFTER < row < UP_AFTER:
            return job.target
        self._in_a_row[index] = 0
        if self._one_shot:
            return ceil(job.target * ratio)
        return job.target + (1 if up else -1)


class LateTable:
    """The share of requests late or lost by replicas and rate, played in the setting with steady traffic."""

    LOADS: Final = np.array(
        (0.0, 0.2, 0.3, 0.4, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0, 1.05, 1.1, 1.3, 2.0)
    )
    """Erlangs for each replica. Beyond, all is late."""
    COUNTS: Final = (1, 2, 3, 4, 5, 6, 8, 11, 16, 24)
    """Replicas; lines between them, and the last row beyond."""

    def __init__(self, setting: Setting, requests: int = 20_000) -> None:
        """Play ``requests`` for each count and load: some seconds."""
        self._mean = setting.service.mean
        self._rows: dict[int, Floats] = {}
        for count in self.COUNTS:
            row = [0.0, *(_late(setting, count, load, requests) for load in self.LOADS[1:])]
            # More load never makes fewer late: the draws differ.
            self._rows[count] = np.maximum.accumulate(row)

    def late(self, replicas: int, rates: Floats) -> Floats:
        """Return the late share at each rate, requests per second of the whole job; 1 without replicas."""
        if replicas <= 0:
            return np.ones_like(rates)
        if replicas not in self._rows:
            self._rows[replicas] = self._between(replicas)
        late: Floats = np.interp(rates * (self._mean / replicas), self.LOADS, self._rows[replicas])
        return late

    def _between(self, replicas: int) -> Floats:
        above = bisect_left(self.COUNTS, replicas)
        if above == len(self.COUNTS):
            return self._rows[self.COUNTS[-1]]
        low, high = self.COUNTS[above - 1], self.COUNTS[above]
        share = (replicas - low) / (high - low)
        row: Floats = (1.0 - share) * self._rows[low] + share * self._rows[high]
        return row


def _late(setting: Setting, replicas: int, load: float, requests: int) -> float:
    """Return the mean late share of the minutes of steady traffic, but the first."""
    each_minute = max(1, round(MINUTE * load * replicas / setting.service.mean))
    minutes = 1 + ceil(requests / each_minute)
    job = Job([each_minute] * minutes, replicas, setting, replicas)
    job.advance((minutes + 1) * MINUTE)
    return float(job.measures(minutes)[0][1:].mean())


class Ours:
    """The fewest replicas with which the objective is predicted to be met; ``allocate`` where they are short.

    A replica that is asked for serves after the start-up of a new pod, and where the cluster is full only
    after the pod that makes room has been idle for long enough: so far ahead the rates are judged.
    """

    def __init__(self, table: LateTable, objective: float) -> None:
        """Of all requests of a job the share ``objective`` is to be in time."""
        self._table = table
        self._allowed = 1.0 - objective
        self._histories: list[History] = []
        self._changed_at: list[float] = []
        self._full = True

    def __call__(self, now: float, jobs: Sequence[Job], cap: int) -> list[int]:
        """Return the counts after one more observation of each job."""
        setting = jobs[0].setting
        horizon = setting.new_pod + (setting.idle + setting.check if self._full else 0.0) + setting.decide
        seconds = min(setting.seen, now)
        rates = [job.rate(seconds) for job in jobs]
        histories = self._histories or [History().every(setting.decide)] * len(jobs)
        self._changed_at = self._changed_at or [0.0] * len(jobs)
        self._histories = [
            history.after([(now, rate)], horizon) for history, rate in zip(histories, rates, strict=True)
        ]
        claims = {
            str(index): replace(
                self._claim(history, rate, seconds, job.target, cap),
                margin=horizon / (horizon + now - self._changed_at[index]),
            )
            for index, (job, history, rate) in enumerate(zip(jobs, self._histories, rates, strict=True))
        }
        self._full = sum(claim.most for claim in claims.values()) > cap
        kept = {name: job.target for name, job in zip(claims, jobs, strict=True) if job.busy}
        given = allocate(
            {name: claim for name, claim in claims.items() if name not in kept}, cap - sum(kept.values())
        )
        counts = [kept[name] if name in kept else given[name] for name in claims]
        self._changed_at = [
            before if count == job.target else now
            for before, count, job in zip(self._changed_at, counts, jobs, strict=True)
        ]
        return counts

    def _claim(self, history: History, rate: float, seconds: float, current: int, cap: int) -> Claim:
        rates = max(rate, history.nothing) * np.array(RATIOS)
        served = np.array(history.followed.odds(rate, history.nothing, seconds)) * rates
        total = float(served.sum())

        @cache
        def late(replicas: int) -> float:
            return float(served @ self._table.late(replicas, rates)) / total

        wanted = 1
        while wanted < cap and late(wanted) > self._allowed:
            wanted += 1
        # The measure counts every job alike, whatever its traffic.
        return Claim(1, wanted, current, rate, late, priority=1.0 / max(rate, 1.0 / seconds))
