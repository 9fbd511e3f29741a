"""What the records and samples of a run say: attainment, percentiles, replica-seconds, the verdict.

Pure: records and samples in, numbers out. A request that failed or got no answer counts as a miss, and as an
endless latency in every percentile; leaving it out would flatter whoever refuses the most.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

NO_CONNECTION = 0
"""Status of a request for which no connection could be made."""

TIMED_OUT = -1
"""Status of a request that the generator gave up on."""

BROKEN = -2
"""Status of a request whose connection ended before the answer did."""


class Record(NamedTuple):
    """One request: when it was due, how long until its answer from then on (seconds), and its status."""

    scheduled: float
    latency: float
    status: int


@dataclass(frozen=True, slots=True)
class Summary:
    """Counts and latency percentiles (seconds; infinite when reached by misses) of some requests."""

    sent: int = 0
    good: int = 0
    slow: int = 0
    refused: int = 0
    failed: int = 0
    lost: int = 0
    p50: float | None = None
    p95: float | None = None
    p99: float | None = None

    @property
    def attainment(self) -> float | None:
        """Share of all requests answered well within the SLO; None without requests."""
        return self.good / self.sent if self.sent else None


@dataclass(frozen=True, slots=True)
class Sample:
    """What was seen of one function at one moment; None where nothing could be read."""

    seconds: float
    replicas: float | None = None
    ready: float | None = None
    batch: float | None = None
    queue: float | None = None


@dataclass(frozen=True, slots=True)
class Track:
    """One deployed function through the run: its records and samples, reduced."""

    total: Summary
    seconds: tuple[Summary, ...]
    samples: tuple[Sample, ...]
    replica_seconds: float | None
    statuses: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Comparison:
    """A function under Tailbound, and its twin under today's OpenFaaS where there is one."""

    function: str
    slo: float
    objective: float
    offered: tuple[float, ...]
    tailbound: Track
    baseline: Track | None = None

    @property
    def met(self) -> bool:
        """Whether Tailbound's attainment reached the objective; a function without requests did not."""
        attainment = self.tailbound.total.attainment
        return attainment is not None and attainment >= self.objective


@dataclass(slots=True)
class Ledger:
    """Records and samples of one deployed function as they come in; counts for whoever looks meanwhile."""

    slo: float
    records: list[Record] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    good: int = 0
    lost: int = 0

    def add(self, record: Record) -> None:
        """Keep one record."""
        self.records.append(record)
        if record.status <= 0:
            self.lost += 1
        elif 200 <= record.status < 300 and record.latency <= self.slo:
            self.good += 1

    @property
    def attainment(self) -> float | None:
        """Share of good ones among the requests answered or given up so far; None without any."""
        return self.good / len(self.records) if self.records else None


def percentile(ascending: Sequence[float], share: float) -> float | None:
    """Return the nearest-rank percentile of ascending values; None without values."""
    if not ascending:
        return None
    return ascending[max(0, math.ceil(share * len(ascending)) - 1)]


def summarize(records: Iterable[Record], slo: float) -> Summary:
    """Count outcomes against an SLO (seconds) and take percentiles over all requests, misses as endless."""
    good = slow = refused = failed = lost = 0
    latencies: list[float] = []
    for _, latency, status in records:
        if 200 <= status < 300:
            latencies.append(latency)
            if latency <= slo:
                good += 1
            else:
                slow += 1
            continue
        latencies.append(math.inf)
        if status <= 0:
            lost += 1
        elif status in (429, 503):
            refused += 1
        else:
            failed += 1
    latencies.sort()
    return Summary(
        sent=len(latencies),
        good=good,
        slow=slow,
        refused=refused,
        failed=failed,
        lost=lost,
        p50=percentile(latencies, 0.50),
        p95=percentile(latencies, 0.95),
        p99=percentile(latencies, 0.99),
    )


def per_second(records: Iterable[Record], slo: float, duration: float) -> tuple[Summary, ...]:
    """Return one summary for each second of the run, by the second in which a request was due."""
    buckets: list[list[Record]] = [[] for _ in range(max(1, math.ceil(duration)))]
    for record in records:
        buckets[min(int(record.scheduled), len(buckets) - 1)].append(record)
    return tuple(summarize(bucket, slo) for bucket in buckets)


def recent(records: Sequence[Record], since: float) -> list[Record]:
    """Return the records that were answered or given up since a moment, of records in that order."""
    found: list[Record] = []
    for record in reversed(records):
        if record.scheduled + record.latency < since:
            break
        found.append(record)
    return found


def replica_seconds(samples: Sequence[Sample], duration: float) -> float | None:
    """Integrate the replica count over the run, each count held until the next one was read.

    A gap keeps the last count, because replicas do not vanish when nobody can read how many there are;
    before the first count its value is taken. None when no count was ever read.
    """
    counts = [(sample.seconds, sample.replicas) for sample in samples if sample.replicas is not None]
    if not counts:
        return None
    edges = [0.0, *(min(max(seconds, 0.0), duration) for seconds, _ in counts[1:]), duration]
    return sum(
        (end - begin) * count
        for (begin, end), (_, count) in zip(pairwise(edges), counts, strict=True)
        if end > begin
    )


def reduce(ledger: Ledger, duration: float) -> Track:
    """Turn what was collected about one deployed function into its track."""
    counts: dict[int, int] = {}
    for record in ledger.records:
        counts[record.status] = counts.get(record.status, 0) + 1
    return Track(
        total=summarize(ledger.records, ledger.slo),
        seconds=per_second(ledger.records, ledger.slo, duration),
        samples=tuple(ledger.samples),
        replica_seconds=replica_seconds(ledger.samples, duration),
        statuses=tuple(sorted(counts.items())),
    )


def result(comparison: Comparison) -> dict[str, object]:
    """Return the machine-readable result of one function; durations in milliseconds where the name says so.

    A percentile that misses reach is endless and stands as null, as does all that was not measured.
    """
    ours, theirs = comparison.tailbound, comparison.baseline
    return {
        "function": comparison.function,
        "slo_ms": _milliseconds(comparison.slo),
        "objective": comparison.objective,
        "met": comparison.met,
        "attainment": _rounded(ours.total.attainment, 5),
        "baseline_attainment": _rounded(theirs.total.attainment if theirs else None, 5),
        "replica_seconds": _rounded(ours.replica_seconds, 1),
        "baseline_replica_seconds": _rounded(theirs.replica_seconds if theirs else None, 1),
        "p50_ms": _milliseconds(ours.total.p50),
        "p95_ms": _milliseconds(ours.total.p95),
        "p99_ms": _milliseconds(ours.total.p99),
        "baseline_p99_ms": _milliseconds(theirs.total.p99 if theirs else None),
        "requests": ours.total.sent,
        "slow": ours.total.slow,
        "refused": ours.total.refused,
        "failed": ours.total.failed,
        "lost": ours.total.lost,
        "baseline_lost": theirs.total.lost if theirs else None,
        "statuses": {str(status): count for status, count in ours.statuses},
        "replicas_max": highest_replicas(ours),
        "baseline_replicas_max": highest_replicas(theirs) if theirs else None,
    }


def highest_replicas(track: Track) -> float | None:
    """Return the highest replica count that was read; None when none was."""
    return max((sample.replicas for sample in track.samples if sample.replicas is not None), default=None)


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None or math.isinf(seconds) else round(seconds * 1e3, 2)


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)
