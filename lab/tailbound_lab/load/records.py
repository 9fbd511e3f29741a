"""Evaluates a run: records of requests, replica counts, the generator's report. [P]

Owns the definition of a miss. A failed or unanswered request is a miss, with an infinite latency in every
percentile; without it, a system that refuses most requests would look best. Next step: ``demo`` and ``bench``
show these numbers.

Three sources, in this order: records and samples of a function that is watched (``demo``), replica counts
over time (``bench live``), and the JSON of ``openload.c``.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from typing import Any, Final, NamedTuple


class BenchError(Exception):
    """A measurement is impossible or invalid."""


class NotAvailable(BenchError):
    """A system cannot be measured here: pip cannot install it, or its program is not on PATH."""


class RunError(Exception):
    """The run cannot continue; the message says how to fix it."""


class Lagged(BenchError):
    """The generator itself was late, so its latencies do not describe the system; ``run`` has the rest."""

    def __init__(self, message: str, run: Run) -> None:
        super().__init__(message)
        self.run = run


NO_CONNECTION = 0
"""Status of a request for which no connection could be made."""

TIMED_OUT = -1
"""Status of a request that timed out."""

BROKEN = -2
"""Status of a request whose connection ended before the answer did."""


class Record(NamedTuple):
    """One request: its due time, the seconds from then until its answer, and its status."""

    scheduled: float
    latency: float
    status: int


@dataclass(frozen=True, slots=True)
class Summary:
    """Counts and latency percentiles (seconds; infinite if misses reach them) of some requests."""

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
        """Share of all requests answered successfully within the SLO; None without requests."""
        return self.good / self.sent if self.sent else None


@dataclass(frozen=True, slots=True)
class Sample:
    """The state of one function at one moment; None where it could not be read."""

    seconds: float
    replicas: float | None = None
    ready: float | None = None
    batch: float | None = None
    queue: float | None = None


@dataclass(frozen=True, slots=True)
class Track:
    """The reduced records and samples of one deployed function."""

    total: Summary
    seconds: tuple[Summary, ...]
    samples: tuple[Sample, ...]
    replica_seconds: float | None
    statuses: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Comparison:
    """A function under Tailbound, and its twin under OpenFaaS CE, if it has one."""

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
    """Collects records and samples of one deployed function, with counts for a display."""

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
        """Share of good requests among those answered or timed out so far; None without any."""
        return self.good / len(self.records) if self.records else None


def percentile(ascending: Sequence[float], share: float) -> float | None:
    """Return the nearest-rank percentile of ascending values; None without values."""
    if not ascending:
        return None
    return ascending[max(0, math.ceil(share * len(ascending)) - 1)]


def summarize(records: Iterable[Record], slo: float) -> Summary:
    """Count outcomes against an SLO (seconds) and take percentiles over all requests, misses as infinite."""
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
    """Return the records that ended since a moment, from records in order of their end."""
    found: list[Record] = []
    for record in reversed(records):
        if record.scheduled + record.latency < since:
            break
        found.append(record)
    return found


def replica_seconds(counts: Sequence[tuple[float, float]], duration: float) -> float | None:
    """Integrate (seconds, replicas) over the run, each count held until the next; None without any count.

    A gap keeps the last count, because a failed read does not remove replicas. The first count also holds
    before its time.
    """
    if not counts:
        return None
    edges = [0.0, *(min(max(seconds, 0.0), duration) for seconds, _ in counts[1:]), duration]
    return sum(
        (end - begin) * count
        for (begin, end), (_, count) in zip(pairwise(edges), counts, strict=True)
        if end > begin
    )


def reduce(ledger: Ledger, duration: float) -> Track:
    """Reduce the ledger of one deployed function to its track."""
    statuses = Counter(record.status for record in ledger.records)
    counts = [(sample.seconds, sample.replicas) for sample in ledger.samples if sample.replicas is not None]
    return Track(
        total=summarize(ledger.records, ledger.slo),
        seconds=per_second(ledger.records, ledger.slo, duration),
        samples=tuple(ledger.samples),
        replica_seconds=replica_seconds(counts, duration),
        statuses=tuple(sorted(statuses.items())),
    )


def highest_replicas(track: Track) -> float | None:
    """Return the highest replica count that was read; None without any."""
    return max((sample.replicas for sample in track.samples if sample.replicas is not None), default=None)


def percent(share: float | None) -> str:
    """Return a share of requests as text, never rounded up: 100.00% means no miss. A dash for None."""
    return "-" if share is None else f"{math.floor(share * 1e4) / 100:.2f}%"


def milliseconds(seconds: float | None) -> float | None:
    """Return a latency in milliseconds for JSON; None if it is infinite or missing."""
    return None if seconds is None or math.isinf(seconds) else round(seconds * 1e3, 2)


# Replica counts over time. Times are seconds from the beginning of the run.

_LINE: Final = re.compile(r"(\S+) replicas: (\d+) -> (\d+)")


class Point(NamedTuple):
    """The desired and the ready replicas from ``seconds`` on."""

    seconds: float
    wanted: int
    ready: int


class Change(NamedTuple):
    """A change of the desired count by the provider."""

    seconds: float
    before: int
    after: int


def changes(lines: Iterable[str], begun: datetime, duration: float) -> list[Change]:
    """Return the changes of a run from a function's log, which may hold other lines and times."""
    found: list[Change] = []
    for line in lines:
        match = _LINE.match(line)
        if match is None:
            continue
        seconds = (datetime.fromisoformat(match[1]) - begun).total_seconds()
        if 0 <= seconds <= duration:
            found.append(Change(seconds, int(match[2]), int(match[3])))
    return found


def reversals(changed: Sequence[Change], within: float) -> int:
    """Return the number of reversals at most ``within`` seconds after the previous change."""
    return sum(
        (earlier.after > earlier.before) != (later.after > later.before)
        and later.seconds - earlier.seconds <= within
        for earlier, later in pairwise(changed)
    )


def scale_downs(changed: Iterable[Change], begin: float, end: float) -> int:
    """Return the number of changes between two moments that lowered the count."""
    return sum(change.after < change.before and begin <= change.seconds <= end for change in changed)


def start_ups(points: Sequence[Point]) -> list[float]:
    """Return the seconds from the request for each replica until that many were ready.

    The n-th replica is requested when the count first reaches n, and started when n are ready. Replicas that
    are no longer desired before they start do not count, and neither do those of the beginning.
    """
    took: list[float] = []
    asked: dict[int, float] = {}
    for before, now in pairwise(points):
        for number in range(before.wanted + 1, now.wanted + 1):
            asked[number] = now.seconds
        for number in range(now.wanted + 1, before.wanted + 1):
            asked.pop(number, None)
        took += [
            now.seconds - asked.pop(number)
            for number in range(before.ready + 1, now.ready + 1)
            if number in asked
        ]
    return took


# The generator's report: its JSON has these names.


class Tally(NamedTuple):
    """Numbers of sent requests of one part of a mix, and of those answered successfully within their SLO."""

    sent: int
    good: int

    @property
    def attainment(self) -> float:
        """Share of the sent that were good; 1 if none was sent."""
        return self.good / self.sent if self.sent else 1.0


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a generator. Latencies are milliseconds; an infinite quantile is None."""

    rate: float
    seconds: float
    sent: int
    ok: int
    good: int
    stopped_early: bool
    lagged: bool
    cpu_s: float
    statuses: Mapping[str, int]
    latency_ms: Mapping[str, float | None]
    """p50 and p99 over all requests, misses as infinite."""
    lag_ms: Mapping[str, float | None]
    parts: Mapping[str, Tally] = field(default_factory=dict)
    """Results of each part of the mix, by name."""

    @property
    def attainment(self) -> float:
        """Share of all sent requests that were answered successfully within the SLO."""
        return self.good / self.sent if self.sent else 0.0

    @property
    def goodput(self) -> float:
        """Requests per second answered successfully within the SLO."""
        return self.good / self.seconds


def parse_run(text: str, names: Sequence[str] = ("",)) -> Run:
    """Read a generator's line of JSON; ``names`` are those of the messages it was given.

    Raises ``BenchError`` with the fault.
    """
    try:
        raw: dict[str, Any] = json.loads(text)
        parts: dict[str, Tally] = {}
        for name, found in zip(names, raw.pop("messages"), strict=True):
            sent, good = parts.get(name, (0, 0))
            parts[name] = Tally(sent + found["sent"], good + found["good"])
        return Run(**(raw | {"parts": parts}))
    except (ValueError, KeyError, TypeError) as error:
        raise BenchError(f"the generator's answer cannot be read: {error!r} in {text[:200]!r}") from None
