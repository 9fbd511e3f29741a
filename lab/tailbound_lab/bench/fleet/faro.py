"""``bench faro``: our split of a full cluster among functions, beside Faro's published results.

Faro (Jeong et al., EuroSys'25) splits a cluster among jobs by the effect of replicas on their tails, with
trained predictors. These are not in its artifact (github.com/beomyeol/faro), so this module quotes its
published figures. FairShare, AIAD and Oneshot are played again, which validates this simulator.

Everything is played twice: with Poisson arrivals in each minute, and with those of Faro's generator, whose
minutes overlap. Our policy acts as on Kubernetes, and with one change of a job at a time, as on Ray Serve. A
stopped run resumes while the code is the same.
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import as_completed
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any, Final

from tailbound_lab.bench import page
from tailbound_lab.bench.fleet.plays import Kept, code, progress
from tailbound_lab.bench.pool import pool
from tailbound_lab.load.records import BenchError
from tailbound_lab.simulate.cluster import Law, Outcome, Setting, run
from tailbound_lab.simulate.split import ByLatency, FairShare, LateTable, Ours

SECTION: Final = "faro"
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
LAWS: Final = ("FairShare", "AIAD", "Oneshot", ONE_CHANGE, OURS)

POISSON: Final = "Poisson in each minute"
OVERLAPPING: Final = "Faro's generator"
ARRIVALS: Final = (OVERLAPPING, POISSON)

Published = Mapping[str, tuple[float, float | None, float | None]]
"""Violations, utility, replicas of each law."""

PUBLISHED: Final[Mapping[tuple[int, int], Published]] = {
    (10, 32): {
        "Faro-FairSum": (0.0314, 9.22, 31.7),
        "MArk / Cocktail / Barista": (0.142, 8.23, 31.7),
        "FairShare": (0.163, None, None),
        "AIAD": (0.095, 8.29, 29.9),
        "Oneshot": (0.369, 5.63, 30.5),
    },
    (10, 100): {
        "Faro-FairSum": (0.0058, None, 39.6),
        "Faro-FairSum, another variant": (0.0082, None, 37.1),
        "MArk / Cocktail / Barista": (0.0088, None, 38.2),
        "AIAD": (0.070, None, 31.4),
        "Oneshot": (0.067, None, 71.1),
    },
    (100, 320): {"Faro, in groups": (0.032, None, None), "AIAD": (0.094, None, None)},
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
    def key(self) -> str:
        """Return the identity of the play: a digest of all that determines its outcome."""
        parts = (code(ours=True), Path(__file__).read_bytes(), self.arrivals, self.law, self.counts, self.cap)
        return hashlib.sha256(repr(parts).encode()).hexdigest()

    @property
    def setting(self) -> Setting:
        """Return Faro's setting with these arrivals; Kubernetes does not wait for the last change."""
        return replace(Setting(), overlapping=self.arrivals == OVERLAPPING, one_change=self.law != OURS)

    def make(self) -> Law:
        """Return the policy in its initial state."""
        match self.law:
            case "FairShare":
                return FairShare()
            case "AIAD" | "Oneshot":
                return ByLatency(one_shot=self.law == "Oneshot")
        page.say(f"{self.law}, {self.arrivals}: playing steady traffic for the table of late shares")
        return Ours(LateTable(self.setting), OBJECTIVE)

    def played(self) -> Outcome:
        """Return the outcome of all requests."""
        law = self.make()
        return run(
            self.counts,
            self.cap,
            law,
            SEED,
            self.setting,
            lambda share: page.say(f"{self.law}, {self.arrivals}: {share:.0%}"),
        )


def read(folder: Path, jobs: int | None) -> list[list[int]]:
    """Return the requests of each minute of each job, repeated for more ``jobs`` than the trace has.

    Raises ``BenchError`` without such a trace, or if ``jobs`` is no multiple of its jobs.
    """
    file = next((path for path in (folder / TRACE, folder / TRACE.name) if path.is_file()), None)
    if file is None:
        raise BenchError(f"--traces {folder}: must have {TRACE}, the input of Faro's artifact")
    minutes: list[dict[str, int]] = []
    for number, line in enumerate(file.read_text().splitlines(), 1):
        try:
            named = {
                name: sum(int(count) for count in each.values())
                for name, each in json.loads(line)["counts"].items()
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
    counts = [[minute[name] for minute in minutes] for name in minutes[0]]
    copies, rest = divmod(jobs or len(counts), len(counts))
    if rest or not copies:
        raise BenchError(f"--jobs {jobs}: must be a multiple of the trace's {len(counts)} jobs")
    return counts * copies


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``bench faro``."""
    add = parser.add_argument
    add("--traces", type=Path, required=True, metavar="DIR", help=f"the folder that has {TRACE}")
    add("--cap", type=int, default=32, help="CPUs that all jobs share, one for each replica [32]")
    add("--jobs", type=int, help="number of jobs: a multiple of the trace's, with other draws [once each]")
    add(
        "--json",
        action="store_true",
        help="play Tailbound alone with Poisson arrivals, and print one line of JSON",
    )
    add("--processes", type=int, default=2, help="simulations at a time [2]")
    page.add_publish(parser)


def main(options: argparse.Namespace, output: Path) -> int:
    """Play and print; return 1 if a replayed policy differs from its published violations."""
    counts = read(options.traces, options.jobs)
    if options.cap < len(counts):
        raise BenchError(f"--cap {options.cap}: must be at least one CPU for each of the {len(counts)} jobs")
    if options.json:
        return _one_line(Play(POISSON, OURS, counts, options.cap).played(), options.cap)
    plays = [Play(arrivals, law, counts, options.cap) for arrivals, law in product(ARRIVALS, LAWS)]
    kept = Kept(output / "faro.jsonl")
    with pool(options.processes) as simulations:
        running = {simulations.submit(play.played): play for play in plays if kept.find(play.key) is None}
        for done in progress(as_completed(running), len(running)):
            kept.add(running[done].key, asdict(done.result()))
    rows = [{"arrivals": play.arrivals, "law": play.law, **(kept.find(play.key) or {})} for play in plays]
    results = _beside(output / "faro.json", len(counts), options.cap, rows)
    page.show(options, SECTION, _text(results), decisive=_decisive(results))
    return 0 if all(_near(row, len(counts), options.cap) for row in rows) else 1


def _one_line(outcome: Outcome, cap: int) -> int:
    line = {
        "cap": cap,
        "violations": outcome.violations,
        "utility": outcome.utility,
        "replicas": outcome.replicas,
        "decision_seconds": outcome.decision_seconds,
    }
    sys.stdout.write(f"{json.dumps(line)}\n")
    return 0


def _near(row: Mapping[str, Any], jobs: int, cap: int) -> bool:
    """Return whether a row with Faro's arrivals is close to a published one, if there is one."""
    published = PUBLISHED.get((jobs, cap), {}).get(row["law"])
    if published is None or row["arrivals"] != OVERLAPPING:
        return True
    return bool(abs(row["violations"] - published[0]) <= NEAR)


def _beside(file: Path, jobs: int, cap: int, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Add these rows to those of other jobs and caps in the file, and return all."""
    earlier = json.loads(file.read_text())["runs"] if file.exists() else []
    runs = [each for each in earlier if (each["jobs"], each["cap"]) != (jobs, cap)]
    runs.append({"jobs": jobs, "cap": cap, **page.origin(), "rows": rows})
    results = {"runs": sorted(runs, key=lambda each: (each["jobs"], each["cap"]))}
    file.write_text(json.dumps(results, indent=1) + "\n")
    return results


_COLUMNS: Final = (
    "arrivals",
    "policy",
    "violations",
    "violations, published",
    "utility",
    "utility, published",
    "replicas",
    "replicas, published",
)


def named(law: str) -> str:
    """Return a policy's name in the table."""
    return law.replace(OURS, "Tailbound")


def _text(results: Mapping[str, Any]) -> str:
    parts = []
    for each in results["runs"]:
        published = PUBLISHED.get((each["jobs"], each["cap"]), {})
        played = {row["law"] for row in each["rows"]}
        cells = [
            ("published only", named(law), *_cells(None, figures))
            for law, figures in published.items()
            if law not in played
        ]
        cells += [
            (
                row["arrivals"],
                named(row["law"]),
                *_cells(
                    (row["violations"], row["utility"], row["replicas"]),
                    published.get(row["law"]) if row["arrivals"] == OVERLAPPING else None,
                ),
            )
            for row in each["rows"]
        ]
        parts.append(f"{_head(each)}\n\n{page.markdown(_COLUMNS, cells)}")
    return "\n\n".join(parts)


def _decisive(results: Mapping[str, Any]) -> str:
    """Return a line for each policy: violations in each cluster, and replicas with Faro's arrivals."""
    columns = ["policy"]
    lines: dict[str, list[str]] = {}
    for number, each in enumerate(results["runs"]):
        published = PUBLISHED.get((each["jobs"], each["cap"]), {})
        size = f"{each['jobs']} jobs, {each['cap']} CPUs"
        columns += [f"{size}: violations, published / {' / '.join(ARRIVALS)}", "replicas, published / played"]
        found = {(row["arrivals"], row["law"]): row for row in each["rows"]}
        for law in dict.fromkeys((*published, *(row["law"] for row in each["rows"]))):
            told, played = published.get(law), [found.get((arrivals, law)) for arrivals in ARRIVALS]
            violations = (told and told[0], *(row and row["violations"] for row in played))
            replicas = (told and told[2], played[0] and played[0]["replicas"])
            cells = lines.setdefault(law, ["-"] * 2 * len(results["runs"]))
            cells[2 * number : 2 * number + 2] = (
                _figures(violations, "{:.2%}"),
                _figures(replicas, "{:.1f}"),
            )
    heads = "\n".join(f"- {_head(each)}" for each in results["runs"])
    return f"{heads}\n\n{page.markdown(columns, [(named(law), *cells) for law, cells in lines.items()])}"


def _figures(values: Iterable[float | None], form: str) -> str:
    return " / ".join("-" if value is None else form.format(value) for value in values)


def _head(run: Mapping[str, Any]) -> str:
    """Return which cluster it is, and how ours did in it."""
    longest = max(row["decision_seconds"] for row in run["rows"] if row["law"] == OURS)
    published = PUBLISHED.get((run["jobs"], run["cap"]), {})
    return (
        f"{run['jobs']} jobs, {run['cap']} CPUs; {run['date']}. The longest decision of Tailbound took"
        f" {1000 * longest:.0f} ms of CPU.{_verdict(run['rows'], published)}"
    )


def _verdict(rows: Sequence[Mapping[str, Any]], published: Published) -> str:
    """Return our violations with Faro's generator and the fewest published ones, if any."""
    if not published:
        return ""
    best = min(published, key=lambda law: published[law][0])
    found = (
        f"{named(row['law'])} {row['violations']:.2%}"
        for row in rows
        if row["arrivals"] == OVERLAPPING and row["law"] in (OURS, ONE_CHANGE)
    )
    return f" Violations with Faro's generator: {best} {published[best][0]:.2%}; {'; '.join(found)}."


def _cells(
    played: tuple[float, float, float] | None, published: tuple[float, float | None, float | None] | None
) -> list[str]:
    """Return violations, utility and replicas, each as played and as published."""
    return [
        "" if value is None else form.format(value)
        for pair, form in zip(
            zip(played or (None,) * 3, published or (None,) * 3, strict=True),
            ("{:.2%}", "{:.2f}", "{:.1f}"),
            strict=True,
        )
        for value in pair
    ]
