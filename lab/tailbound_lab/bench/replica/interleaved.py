"""``bench turns``: the maximum of a few systems, searched side by side, again and again.

A machine's speed changes by a third within minutes, more than the systems differ. Here all servers are up at
once and the searches take turns, one trial each, so that a slow minute is everybody's; and all of it is done
several times, each time with fresh servers. Owns that order and how the rounds are shown; what a trial is and
which comes next is :mod:`tailbound_lab.bench.rig.measure`'s and :mod:`tailbound_lab.bench.rig.search`'s.
"""

import argparse
import contextlib
import json
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from tailbound_lab.bench.page import PAGE, rewrite
from tailbound_lab.bench.replica.compare import example, listed
from tailbound_lab.bench.rig.measure import FULL, SMOKE, Bench, Rig
from tailbound_lab.bench.rig.search import Found
from tailbound_lab.bench.rig.server import Server
from tailbound_lab.bench.rig.systems import Entry, parse_entry
from tailbound_lab.bench.workloads import WORKLOADS, Workload
from tailbound_lab.live.machine import describe
from tailbound_lab.load.generator import build
from tailbound_lab.load.records import BenchError

SECTION = "turns"


def add_arguments(made: argparse.ArgumentParser) -> None:
    """The options of ``bench turns``."""
    made.add_argument("--workload", choices=tuple(WORKLOADS), default="text")
    made.add_argument(
        "--systems",
        default="slo,mosec:16:5",
        help="comma-separated NAME[:SIZE:WAIT_MS][+malloc]; the others are compared to the first"
        " [slo,mosec:16:5]",
    )
    made.add_argument("--rounds", type=int, default=3, help="how often, each with fresh servers [3]")
    made.add_argument("--workers", type=int, default=2, help="model processes of each system [2]")
    made.add_argument("--smoke", action="store_true", help="runs of a second: does it all work?")
    made.add_argument(
        "--publish", action="store_true", help="put the tables of every workload into docs/benchmarks.md"
    )


def main(options: argparse.Namespace, output: Path) -> int:
    """Measure, write build/bench/turns.json and print; what it has of other workloads stays, if of here."""
    entries = [parse_entry(text) for text in listed(options.systems)]
    if len({entry.label for entry in entries}) != len(entries) or len(entries) < 2:
        raise BenchError(f"--systems {options.systems}: it must name at least two, each once")
    if tuned := [entry.label for entry in entries if entry.grid]:
        raise BenchError(f"--systems {tuned[0]}: there is no grid here; name a size and a wait")
    for name in ("rounds", "workers"):
        if getattr(options, name) < 1:
            raise BenchError(f"--{name} {getattr(options, name)}: it must be at least 1")
    workload = WORKLOADS[options.workload]
    console = Console(stderr=True)
    generator = build(output)
    body, file = example(workload), output / "turns.json"
    rounds: list[dict[str, dict[str, Any]]] = []
    with console.status("") as status:
        effort = SMOKE if options.smoke else FULL
        rig = Rig(generator, output / "venvs", options.workers, effort, status.update)
        for number in range(1, options.rounds + 1):
            title = f"{workload.name}, round {number} of {options.rounds}"
            rounds.append(_round(entries, workload, body, _titled(rig, title)))
            shown = ", ".join(f"{label} {row['max_rate']:,.0f}/s" for label, row in rounds[-1].items())
            console.print(f"bench: {title}: {shown}")
            results = _keep(file, workload.name, options.workers, rounds)
    sys.stdout.write(tables(results) + "\n")
    if options.publish:
        rewrite(PAGE, SECTION, lambda: tables(results))
    return 0


def _round(entries: Sequence[Entry], workload: Workload, body: bytes, rig: Rig) -> dict[str, dict[str, Any]]:
    """Start every system and search side by side; what was found, by label."""
    plan = rig.effort.plan(workload)
    with contextlib.ExitStack() as stack:
        benches = {}
        for entry in entries:
            own = _titled(rig, entry.label)
            own.say("starting")
            server = Server(entry.system, entry.settings, workload, rig.workers, body, rig.venvs)
            benches[entry.label] = Bench(stack.enter_context(server), own)
            benches[entry.label].warm_up()
        found = together({label: partial(bench.advance, plan) for label, bench in benches.items()})
        return {label: _shown(bench, found[label]) for label, bench in benches.items()}


def _titled(rig: Rig, title: str) -> Rig:
    """The rig with a title before all that it says."""
    return replace(rig, say=lambda text: rig.say(f"{title}: {text}"))


def together(searches: Mapping[str, Callable[[], Found | None]]) -> dict[str, Found]:
    """Call each search in turn until each has its answer; one that has is not called again."""
    found: dict[str, Found] = {}
    while len(found) < len(searches):
        for label, search in searches.items():
            if label not in found and (answer := search()) is not None:
                found[label] = answer
    return found


def tables(results: Mapping[str, Any]) -> str:
    """A table for each workload: the maxima of every round, and what the first system is to each other."""
    parts = [f"{results['machine']}, {results['workers']} workers, {results['date']}."]
    parts += [f"#### {name}, in turn\n\n{table(rounds)}" for name, rounds in results["workloads"].items()]
    return "\n\n".join(parts)


def table(rounds: Sequence[Mapping[str, Mapping[str, Any]]]) -> str:
    """One workload's rounds, a line for each system. CPU is that of the round of the middle maximum."""
    first = next(iter(rounds[0]))
    lines = [
        f"| system | maximum in each round, requests/s | {first} / it"
        " | CPU, us per request: processes + generator |",
        "|---|---|---|---|",
    ]
    for label in rounds[0]:
        rows = [found[label] for found in rounds]
        ratios = [
            found[first]["max_rate"] / found[label]["max_rate"] if found[label]["max_rate"] else None
            for found in rounds
        ]
        top = sorted(rows, key=lambda row: row["max_rate"])[(len(rows) - 1) // 2]
        cells = [
            label,
            ", ".join(f"{row['max_rate']:,.0f}" for row in rows),
            "" if label == first else _spread(ratios),
            " + ".join(f"{used:.0f}" for used in (*top["cpu"], top["generator"])) if top["cpu"] else "-",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _spread(values: Sequence[float | None]) -> str:
    """The middle of the values, and from where to where they go; those that are not known are left out."""
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    middle = f"{statistics.median(known):.2f}"
    return middle if len(known) == 1 else f"{middle} ({min(known):.2f} to {max(known):.2f})"


def _shown(bench: Bench, found: Found) -> dict[str, Any]:
    """What one round says of one system."""
    top = bench.at_maximum or {}
    return {
        "max_rate": found.rate,
        "failed_at": found.failed_at,
        "cpu": [used for share in top.get("cpu", ()) if (used := share["us_per_request"]) >= 1.0],
        "generator": top.get("generator_us_per_request", 0.0),
        "trials": bench.trials,
    }


def _keep(file: Path, workload: str, workers: int, rounds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Write the rounds of a workload, with those of others that this machine measured; all of them."""
    here = {"machine": describe(), "workers": workers}
    others: dict[str, Any] = {}
    with contextlib.suppress(OSError, ValueError):
        last = json.loads(file.read_text())
        if all(last.get(key) == value for key, value in here.items()):
            others = last["workloads"]
    results = here | {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "workloads": others | {workload: rounds},
    }
    file.write_text(json.dumps(results, indent=1) + "\n")
    return results
