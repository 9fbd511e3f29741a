"""Evaluates a run: records of requests, replica counts, the generator's report. [P]

Owns the definition of a miss. A failed or unanswered request is a miss, with an infinite latency in every
percentile; without it, a system that refuses most requests would look best. Next step: ``demo`` and ``bench``
show these numbers.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise, takewhile
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray


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

UNFINISHED = -3
"""Status of a request that had no answer when its run was cut short."""

UNANSWERED: Final = {
    NO_CONNECTION: "no_connection",
    TIMED_OUT: "timeout",
    BROKEN: "broken",
    UNFINISHED: "unfinished",
}
"""Names of statuses without an answer in a :class:`Run`."""


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

    def meets(self, objective: float) -> bool:
        """Return whether the attainment reached the objective; without requests it did not."""
        return self.attainment is not None and self.attainment >= objective


@dataclass(frozen=True, slots=True)
class Sample:
    """The state of one function at one moment; None where it could not be read."""

    seconds: float
    replicas: float | None = None
    ready: float | None = None
    batch: float | None = None
    queue: float | None = None
    boost: float | None = None
    """CPU of its replicas as a multiple of their nominal limit."""


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
        """Whether Tailbound met the SLO."""
        return self.tailbound.total.meets(self.objective)


def outcome(record: Record, slo: float) -> str:
    """Return what became of a request, as a field of :class:`Summary`; ``slo`` is in seconds."""
    if 200 <= record.status < 300:
        return "good" if record.latency <= slo else "slow"
    if record.status <= 0:
        return "lost"
    return "refused" if record.status in (429, 503) else "failed"


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
        kind = outcome(record, self.slo)
        self.good += kind == "good"
        self.lost += kind == "lost"

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
    counts, latencies = Counter[str](), []
    for record in records:
        kind = outcome(record, slo)
        counts[kind] += 1
        latencies.append(record.latency if kind in ("good", "slow") else math.inf)
    latencies.sort()
    p50, p95, p99 = (percentile(latencies, share) for share in (0.50, 0.95, 0.99))
    return Summary(len(latencies), p50=p50, p95=p95, p99=p99, **counts)


def per_second(records: Iterable[Record], slo: float, duration: float) -> tuple[Summary, ...]:
    """Return one summary for each second of the run, by the second in which a request was due."""
    buckets: list[list[Record]] = [[] for _ in range(max(1, math.ceil(duration)))]
    for record in records:
        buckets[min(int(record.scheduled), len(buckets) - 1)].append(record)
    return tuple(summarize(bucket, slo) for bucket in buckets)


def recent(records: Sequence[Record], since: float) -> list[Record]:
    """Return the records that ended since a moment, the newest first, from records in order of their end."""
    return list(takewhile(lambda record: record.scheduled + record.latency >= since, reversed(records)))


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


def highest_boost(track: Track) -> float | None:
    """Return the highest boost that was read; None without any."""
    return max((sample.boost for sample in track.samples if sample.boost is not None), default=None)


def percent(share: float | None) -> str:
    """Return a share of requests as text, never rounded up: 100.00% means no miss. A dash for None."""
    return "-" if share is None else f"{math.floor(share * 1e4) / 100:.2f}%"


# The run of a generator, from its output: the start, then these records.

LAYOUT: Final = "<ddfiHHI"
"""Request of openload.c: due, latency, lag, status, stream, message, connection."""
_START_BYTES: Final = 8
_FIELDS: Final = np.dtype(
    {
        "names": ["latency", "lag", "status", "message"],
        "formats": ["<f8", "<f4", "<i4", "<u2"],
        "offsets": [8, 16, 20, 26],
        "itemsize": 32,
    }
)


class Tally(NamedTuple):
    """Numbers of sent requests of one part of a mix, and of those answered successfully within their SLO."""

    sent: int
    good: int

    @property
    def attainment(self) -> float:
        """Share of the sent that were good; 1 if none was sent."""
        return self.good / self.sent if self.sent else 1.0


@dataclass(frozen=True, slots=True)
class Load:
    """Poisson arrivals of one rate, requests per second, for some seconds."""

    rate: float
    seconds: float
    slo: float
    """Target of each request, or of a stream's first piece, in seconds."""
    seed: int = 1
    stop_share: float = 1.0
    """Misses as a share of all requests, beyond which the run is cut short."""


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a generator. Latencies are milliseconds; an infinite quantile is None."""

    load: Load
    sent: int
    ok: int
    good: int
    stopped_early: bool
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
        return self.good / self.load.seconds

    def in_time(self, slo: float) -> Run:
        """Return the run. Raises ``Lagged`` if the generator took over a tenth of ``slo`` at p99."""
        lag, allowed = self.lag_ms["p99"] or 0.0, slo * 100
        if lag > allowed:
            raise Lagged(
                f"at {self.load.rate:g}/s the generator's lag was {lag:.1f} ms at the 99th percentile;"
                f" a tenth of the SLO, {allowed:g} ms, is allowed",
                self,
            )
        return self


def evaluate(output: bytes, load: Load, parts: Sequence[tuple[str, float]], *, stopped_early: bool) -> Run:
    """Evaluate the output of a run of one stream; ``parts`` are names and SLOs (seconds) of its messages."""
    requests = np.frombuffer(output[_START_BYTES:], _FIELDS)
    ok = (requests["status"] >= 200) & (requests["status"] < 300)
    good = ok & (requests["latency"] <= np.array([slo for _, slo in parts])[requests["message"]])
    tallies: dict[str, Tally] = {}
    for index, (name, _) in enumerate(parts):
        own = requests["message"] == index
        sent, met = tallies.get(name, (0, 0))
        tallies[name] = Tally(sent + int(own.sum()), met + int(good[own].sum()))
    statuses, counts = np.unique(requests["status"], return_counts=True)
    latencies = np.sort(np.where(ok, requests["latency"], math.inf))
    return Run(
        load,
        sent=len(requests),
        ok=int(ok.sum()),
        good=int(good.sum()),
        stopped_early=stopped_early,
        statuses={
            UNANSWERED.get(status, str(status)): count
            for status, count in zip(statuses.tolist(), counts.tolist(), strict=True)
        },
        latency_ms=quantiles(latencies),
        lag_ms=quantiles(np.sort(requests["lag"].astype(float))),
        parts=tallies,
    )


def quantiles(ascending: NDArray[np.float64]) -> dict[str, float | None]:
    """Return p50 and p99 in milliseconds; None if infinite."""
    values = ascending.tolist()
    shares = {"p50": percentile(values, 0.5), "p99": percentile(values, 0.99)}
    return {
        name: None if value is None or math.isinf(value) else value * 1e3 for name, value in shares.items()
    }
