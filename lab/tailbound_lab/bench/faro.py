"""``bench faro``: our split of a full cluster among functions, beside Faro's published results.

Faro (Jeong et al., EuroSys'25) splits a cluster among jobs by the effect of replicas on their tails, with
trained predictors. These are not in its artifact (github.com/beomyeol/faro), so this module quotes its
published figures. FairShare, AIAD and Oneshot are played again, which validates this simulator.

Everything is played twice: with Poisson arrivals in each minute, and with those of Faro's generator, whose
minutes overlap. Our policy acts as on Kubernetes, and with one change of a job at a time, as on Ray Serve.
"""

import argparse
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Final

from tailbound_lab.bench.rig.pool import play_all
from tailbound_lab.bench.rig.record import Record, Row, Run, markdown
from tailbound_lab.load.records import BenchError
from tailbound_lab.simulate.cluster import Law, Outcome, Setting, run
from tailbound_lab.simulate.split import ByLatency, LateTable, Ours, fair_share

TRACE: Final = Path("faro10") / "counts.jsonl"
"""Path of the trace in the folder of traces; its own folder may be missing."""
OBJECTIVE: Final = 0.99
"""Objective: Faro evaluates p99."""
SEED: Final = 42
"""Seed of the first job; Faro's."""
NEAR: Final = 0.02
"""Allowed difference of violations between a replayed policy and its published result."""

OURS: Final = "ours"
ONE_CHANGE: Final = "ours, one change at a time"
FAIR_SHARE: Final = "FairShare"
LAWS: Final = (FAIR_SHARE, "AIAD", "Oneshot", ONE_CHANGE, OURS)

POISSON: Final = "Poisson in each minute"
OVERLAPPING: Final = "Faro's generator"
ARRIVALS: Final = (OVERLAPPING, POISSON)

Published = Mapping[str, tuple[float, float | None]]
"""Violations and replicas of each law."""

PUBLISHED: Final[Mapping[tuple[int, int], Published]] = {
    (10, 32): {
        "Faro-FairSum": (0.0314, 31.7),
        "MArk / Cocktail / Barista": (0.142, 31.7),
        "FairShare": (0.163, None),
        "AIAD": (0.095, 29.9),
        "Oneshot": (0.369, 30.5),
    },
}
"""By jobs and cap, from Faro's result files."""


@dataclass(frozen=True, slots=True)
class Play:
    """One policy on one kind of arrivals."""

    arrivals: str
    law: str
    counts: Sequence[Sequence[int]]
    cap: int

    @property
    def setting(self) -> Setting:
        """Return Faro's setting with these arrivals; Kubernetes does not wait for the last change."""
        return replace(Setting(), overlapping=self.arrivals == OVERLAPPING, one_change=self.law != OURS)

    def played(self) -> Outcome:
        """Return the outcome of all requests."""
        law: Law = fair_share
        if self.law in ("AIAD", "Oneshot"):
            law = ByLatency(one_shot=self.law == "Oneshot")
        elif self.law != FAIR_SHARE:
            law = Ours(LateTable(self.setting), OBJECTIVE)
        replicas = self.cap // len(self.counts) if self.law == FAIR_SHARE else 1
        return run(self.counts, self.cap, law, SEED, self.setting, replicas)


def read(folder: Path) -> list[list[int]]:
    """Return the requests of each minute of each job. Raises ``BenchError`` without such a trace."""
    file = next((path for path in (folder / TRACE, folder / TRACE.name) if path.is_file()), None)
    if file is None:
        raise BenchError(f"--traces {folder}: must have {TRACE}, the input of Faro's artifact")
    minutes: list[dict[str, int]] = []
    for number, line in enumerate(file.read_text().splitlines(), 1):
        try:
            named = {
                name: sum(map(int, requests.values()))
                for name, requests in json.loads(line)["counts"].items()
            }
            if not named or min(named.values()) < 0 or (minutes and named.keys() != minutes[0].keys()):
                raise ValueError
        except (ValueError, TypeError, KeyError, AttributeError):
            raise BenchError(
                f'{file}:{number}: must be {{"counts": {{JOB: {{NAME: REQUESTS}}}}}}, with the jobs of line 1'
            ) from None
        minutes.append(named)
    if not minutes:
        raise BenchError(f"{file}: must have a line for each minute")
    return [[minute[name] for minute in minutes] for name in minutes[0]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``bench faro``."""
    add = parser.add_argument
    add("--traces", type=Path, required=True, metavar="DIR", help=f"the folder that has {TRACE}")
    add("--cap", type=int, nargs="+", default=[32], help="CPUs that all jobs share, one a replica [32]")
    add(
        "--json",
        action="store_true",
        help="play Tailbound alone with Poisson arrivals, and print one line of JSON",
    )
    add("--processes", type=int, default=2, help="simulations at a time [2]")


def main(options: argparse.Namespace, run: Run) -> int:
    """Play every cap; return 1 if a replayed policy differs from its published violations."""
    counts = read(options.traces)
    if min(options.cap) < len(counts):
        raise BenchError(
            f"--cap {min(options.cap)}: must be at least one CPU for each of the {len(counts)} jobs"
        )
    if options.json:
        for cap in options.cap:
            line = {"cap": cap, **asdict(Play(POISSON, OURS, counts, cap).played())}
            sys.stdout.write(f"{json.dumps(line)}\n")
        return 0
    plays = [
        Play(arrivals, law, counts, cap) for cap in options.cap for arrivals, law in product(ARRIVALS, LAWS)
    ]
    outcomes = play_all([play.played for play in plays], options.processes)
    rows = [
        {"jobs": len(counts), "cap": play.cap, "arrivals": play.arrivals, "law": play.law, **asdict(outcome)}
        for play, outcome in zip(plays, outcomes, strict=True)
    ]
    run.keep(rows)
    return int(not all(map(near, rows)))


def near(row: Row) -> bool:
    """Return whether a row with Faro's arrivals is close to a published one, if there is one."""
    published = PUBLISHED.get((row["jobs"], row["cap"]), {}).get(row["law"])
    if published is None or row["arrivals"] != OVERLAPPING:
        return True
    return bool(abs(row["violations"] - published[0]) <= NEAR)


def table(record: Record) -> str:
    """Return a table for each cluster: each policy as published, and as played with both arrivals."""
    clusters = dict.fromkeys((row["jobs"], row["cap"]) for row in record.rows)
    return "\n\n".join(_cluster(*cluster, record.rows) for cluster in clusters)


def _cluster(jobs: int, cap: int, rows: Iterable[Row]) -> str:
    published = PUBLISHED.get((jobs, cap), {})
    played = {(row["arrivals"], row["law"]): row for row in rows if (row["jobs"], row["cap"]) == (jobs, cap)}
    lines = []
    for law in dict.fromkeys((*published, *LAWS)):
        violations, replicas = published.get(law, (None, None))
        both = [played.get((arrivals, law), {}) for arrivals in ARRIVALS]
        cells = [_figure(violations, "{:.2%}"), *(_figure(row.get("violations"), "{:.2%}") for row in both)]
        cells += [_figure(replicas, "{:.1f}"), _figure(both[0].get("replicas"), "{:.1f}")]
        lines.append((law.replace(OURS, "Tailbound"), *cells))
    longest = max(row["decision_seconds"] for (_, law), row in played.items() if law == OURS)
    columns = ("policy", "violations, published", *ARRIVALS, "replicas, published", ARRIVALS[0])
    words = f"{jobs} jobs, {cap} CPUs. The longest decision of Tailbound took {1000 * longest:.0f} ms of CPU."
    return f"{words}\n\n{markdown(columns, lines)}"


def _figure(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)
