"""What a run of the generator says: attainment, goodput, distributions, recovery. [P]

Owns the meaning of the generators' JSON and nothing else. The next step is ``bench.rig.search``.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from tailbound_lab.load.errors import BenchError


@dataclass(frozen=True, slots=True)
class Second:
    """What became of the requests that were due in one second of a run."""

    second: int
    offered: int
    ok: int
    good: int

    @property
    def attainment(self) -> float:
        """Share of the offered that were good; 1 if none was due."""
        return self.good / self.offered if self.offered else 1.0


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a generator. Latencies are milliseconds; a quantile that misses reach is None."""

    generator: str
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
    """Over all requests, misses as endless."""
    ok_latency_ms: Mapping[str, float | None]
    """Over the 2xx answers alone."""
    lag_ms: Mapping[str, float | None]
    histogram: tuple[tuple[float, int], ...]
    """(upper edge in ms, count) of the 2xx answers, ascending, without empty buckets."""
    per_second: tuple[Second, ...]

    @property
    def attainment(self) -> float:
        """Share of all sent requests that were answered well within the SLO."""
        return self.good / self.sent if self.sent else 0.0

    @property
    def goodput(self) -> float:
        """Requests per second answered well within the SLO."""
        return self.good / self.seconds


def parse_run(text: str) -> Run:
    """Read a generator's line of JSON. Raises ``BenchError`` that says what is wrong with it."""
    try:
        raw: dict[str, Any] = json.loads(text)
        return Run(
            generator=raw["generator"],
            rate=float(raw["rate"]),
            seconds=float(raw["seconds"]),
            sent=int(raw["sent"]),
            ok=int(raw["ok"]),
            good=int(raw["good"]),
            stopped_early=bool(raw["stopped_early"]),
            lagged=bool(raw["lagged"]),
            cpu_s=float(raw["cpu_s"]),
            statuses=dict(raw["statuses"]),
            latency_ms=dict(raw["latency_ms"]),
            ok_latency_ms=dict(raw["ok_latency_ms"]),
            lag_ms=dict(raw["lag_ms"]),
            histogram=tuple((float(edge), int(count)) for edge, count in raw["histogram"]),
            per_second=tuple(
                Second(int(s["second"]), int(s["offered"]), int(s["ok"]), int(s["good"]))
                for s in raw["per_second"]
            ),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise BenchError(f"the generator's answer cannot be read: {error!r} in {text[:200]!r}") from None


def cdf(histogram: Sequence[tuple[float, int]], total: int) -> list[tuple[float, float]]:
    """Points (ms, share of ``total``) of the distribution: it ends below 1 if some were never answered."""
    counts = accumulate(count for _, count in histogram)
    return [(edge, count / total) for (edge, _), count in zip(histogram, counts, strict=True)]


def recovery_seconds(seconds: Sequence[Second], changed: int, objective: float) -> int | None:
    """Whole seconds from ``changed`` until attainment is at ``objective`` and stays; None if it never is."""
    after = [second for second in seconds if second.second >= changed]
    bad = [second.second for second in after if second.attainment < objective]
    if not bad:
        return 0
    return bad[-1] + 1 - changed if after and bad[-1] < after[-1].second else None
