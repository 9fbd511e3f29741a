"""``bench interleaved``: searches the maximum of a few systems side by side, in several rounds.

A machine's speed changes by a third within minutes, more than the systems differ. So all servers run at the
same time and the searches alternate, one trial each, so that a slow minute affects every system. Each round
has fresh servers. Owns that order and the presentation of rounds. Next steps: ``rig.measure`` runs a trial,
``rig.search`` chooses it.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tailbound_lab.bench import page
from tailbound_lab.bench.rig.measure import FULL, SMOKE, Rig, maxima, side_by_side
from tailbound_lab.bench.rig.server import Server, example
from tailbound_lab.bench.rig.systems import Entry, listed, parse_entry
from tailbound_lab.bench.workloads import WORKLOADS, Workload
from tailbound_lab.load.generator import build
from tailbound_lab.load.records import BenchError

SECTION = "interleaved"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``bench interleaved``."""
    add = parser.add_argument
    add("--workload", choices=tuple(WORKLOADS), default="text")
    add(
        "--systems",
        default="slo,mosec:16:5",
        help="comma-separated NAME[:SIZE:WAIT_MS][+malloc]; ratios are to the first [slo,mosec:16:5]",
    )
    add("--rounds", type=int, default=3, help="number of rounds, each with fresh servers [3]")
    add("--workers", type=int, default=2, help="model processes of each system [2]")
    add("--smoke", action="store_true", help="runs of a second, to check that all works")
    page.add_publish(parser)


def main(options: argparse.Namespace, output: Path) -> int:
    """Measure, write build/bench/interleaved.json, print; other workloads of this machine stay in it."""
    entries = [parse_entry(text) for text in listed(options.systems)]
    if len({entry.label for entry in entries}) != len(entries) or len(entries) < 2:
        raise BenchError(f"--systems {options.systems}: must name at least two, each once")
    for name in ("rounds", "workers"):
        if getattr(options, name) < 1:
            raise BenchError(f"--{name} {getattr(options, name)}: must be at least 1")
    workload = WORKLOADS[options.workload]
    generator, body = build(output), example(workload)
    effort = SMOKE if options.smoke else FULL
    rounds: list[dict[str, dict[str, Any]]] = []
    for number in range(1, options.rounds + 1):
        title = f"{workload.name}, round {number} of {options.rounds}"
        rig = Rig(generator, options.workers, effort, title)
        rounds.append(_round(entries, workload, body, rig))
        rig.say(", ".join(f"{label} {row['max_rate']:,.0f}/s" for label, row in rounds[-1].items()))
        results = _keep(output / "interleaved.json", workload.name, options.workers, rounds)
    page.show(options, SECTION, _tables(results))
    return 0


def _round(entries: Sequence[Entry], workload: Workload, body: bytes, rig: Rig) -> dict[str, dict[str, Any]]:
    """Start every system and search side by side; return the results by label."""
    servers = {entry.label: Server(entry, workload, rig.workers, body) for entry in entries}
    with side_by_side(servers, rig, {}) as benches:
        return maxima(benches, rig.effort.plan(workload))


def _keep(file: Path, workload: str, workers: int, rounds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    results: dict[str, Any] = page.origin() | {"workers": workers}
    others = page.earlier(file, machine=results["machine"], workers=workers).get("workloads", {})
    results["workloads"] = others | {workload: rounds}
    page.keep(file, results)
    return results


def _tables(results: Mapping[str, Any]) -> str:
    """Return the rounds of all workloads as one table."""
    head = f"{results['machine']}, {results['workers']} workers, {results['date']}."
    return f"{head}\n\n{page.maxima(results['workloads'])}"
