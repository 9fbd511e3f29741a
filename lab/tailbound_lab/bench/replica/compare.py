"""``bench compare``: ours and the peers on every workload, to build/bench/results.json and plots.

The results have a reason for a system that cannot be measured; the others continue. Results are written after
every measurement, so a stopped run keeps its results. Next step: ``rig.measure``.
"""

import argparse
from functools import partial
from pathlib import Path
from typing import Any

from tailbound_lab.bench import page
from tailbound_lab.bench.rig.measure import FULL, QUICK, SMOKE, Rig, measure
from tailbound_lab.bench.rig.server import example
from tailbound_lab.bench.rig.systems import OTHER_POLICIES, Entry, listed, parse_entry
from tailbound_lab.bench.workloads import WORKLOADS, Workload
from tailbound_lab.load.generator import build
from tailbound_lab.load.records import BenchError, NotAvailable

SECTION = "results"
EFFORTS = {"full": FULL, "quick": QUICK, "smoke": SMOKE}
SYSTEMS_FULL = "slo,fixed,aimd,unbatched,gunicorn,waitress,of-watchdog,mosec,litserve,bentoml"
SYSTEMS_QUICK = "slo,mosec,gunicorn"
WORKLOADS_QUICK = "tabular,accelerator"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``bench compare``."""
    add = parser.add_argument
    add("--quick", action="store_true", help="two workloads, two peers, short runs: under 10 minutes")
    add("--smoke", action="store_true", help="as --quick, with runs of a second, to check that all works")
    add("--workloads", help=f"comma-separated, of {', '.join(WORKLOADS)} [all]")
    add("--systems", help=f"comma-separated NAME[:SIZE:WAIT_MS][+malloc] [{SYSTEMS_FULL}]")
    add("--workers", type=int, default=2, help="model processes of each system [2]")
    add("--last", action="store_true", help="show the last results again, without a run")
    page.add_publish(parser)


def main(options: argparse.Namespace, output: Path) -> int:
    """Measure, write, print; 0 if everything was measured, 1 if something was skipped or failed."""
    file = output / "results.json"
    results = page.read(file) if options.last else _measure_all(options, output, file)
    draw = partial(page.plots, results)
    draw(output)
    text, decisive_text = page.comparison(results), page.comparison(decisive(results))
    page.show(options, SECTION, text, draw, decisive_text)
    return 0 if all(found["status"] == "measured" for found in results["measurements"]) else 1


def _measure_all(options: argparse.Namespace, output: Path, file: Path) -> dict[str, Any]:
    """Return all measurements; those of other workloads from a similar run on this machine are kept."""
    short = options.quick or options.smoke
    entries = [
        parse_entry(text) for text in listed(options.systems or (SYSTEMS_QUICK if short else SYSTEMS_FULL))
    ]
    names = listed(options.workloads or (WORKLOADS_QUICK if short else ",".join(WORKLOADS)))
    if unknown := [name for name in names if name not in WORKLOADS]:
        raise BenchError(f"--workloads {unknown[0]}: must be one of {', '.join(WORKLOADS)}")
    if options.workers < 1:
        raise BenchError(f"--workers {options.workers}: must be at least 1")
    effort = "smoke" if options.smoke else "quick" if options.quick else "full"
    generator = build(output)
    results: dict[str, Any] = page.origin() | {"workers": options.workers, "effort": effort}
    last = page.earlier(file, **{name: results[name] for name in ("machine", "workers", "effort")})
    results["measurements"] = [
        found for found in last.get("measurements", ()) if found["workload"] not in names
    ]
    for workload in (WORKLOADS[name] for name in names):
        body = example(workload)
        for entry in entries:
            title = f"{workload.name}, {entry.label}"
            rig = Rig(generator, options.workers, EFFORTS[effort], title)
            found = _measured(entry, workload, body, rig)
            if found["status"] != "measured":
                rig.say(f"{found['status']}: {found['reason']}")
            results["measurements"].append(found)
            page.keep(file, results)
    return results


def decisive(results: dict[str, Any]) -> dict[str, Any]:
    """Return the results with each server's best setting alone; the watchdog's other policies count as one.

    What was skipped or failed stays.
    """
    best: dict[tuple[str, str], dict[str, Any]] = {}
    for found in results["measurements"]:
        name = parse_entry(found["system"]).system.name
        server = (found["workload"], "another policy" if name in OTHER_POLICIES else name)
        if (
            found["status"] == "measured"
            and found["max_rate"] > best.get(server, {"max_rate": -1})["max_rate"]
        ):
            best[server] = found
    kept = [
        found
        for found in results["measurements"]
        if found["status"] != "measured" or any(found is each for each in best.values())
    ]
    return results | {"measurements": kept}


def _measured(entry: Entry, workload: Workload, body: bytes, rig: Rig) -> dict[str, Any]:
    identity = {"system": entry.label, "workload": workload.name}
    try:
        return identity | measure(entry, workload, body, rig)
    except NotAvailable as error:
        return identity | {"status": "skipped", "reason": str(error)}
    except BenchError as error:
        return identity | {"status": "failed", "reason": str(error)}
