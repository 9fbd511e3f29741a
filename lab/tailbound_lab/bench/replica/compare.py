"""``bench compare``: ours and the peers on every workload, to build/bench/results.json, a report and plots.

A system that cannot be measured stands in the results with the reason; the others go on. Results are
written after every measurement, so a run that is stopped keeps what it has.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from tailbound_lab.bench import report
from tailbound_lab.bench.page import PAGE
from tailbound_lab.bench.rig.measure import FULL, QUICK, SMOKE, Rig, measure
from tailbound_lab.bench.rig.offline import limits
from tailbound_lab.bench.rig.peers import python_of, version_of
from tailbound_lab.bench.rig.systems import Entry, parse_entry
from tailbound_lab.bench.workloads import WORKLOADS, Workload
from tailbound_lab.live.machine import describe
from tailbound_lab.load.generator import build
from tailbound_lab.load.records import BenchError, NotAvailable

EFFORTS = {"full": FULL, "quick": QUICK, "smoke": SMOKE}
SYSTEMS_FULL = "slo,fixed-grid,aimd,unbatched,gunicorn,waitress,of-watchdog,mosec,mosec-grid,litserve,bentoml"
SYSTEMS_QUICK = "slo,mosec,gunicorn"
WORKLOADS_QUICK = "tabular,accelerator"


def add_arguments(made: argparse.ArgumentParser) -> None:
    """The options of ``bench compare``."""
    made.add_argument(
        "--quick", action="store_true", help="two workloads, two peers, short runs: under 10 minutes"
    )
    made.add_argument(
        "--smoke", action="store_true", help="as --quick with runs of a second: does it all work?"
    )
    made.add_argument("--workloads", help=f"comma-separated, of {', '.join(WORKLOADS)} [all]")
    made.add_argument(
        "--systems",
        help=f"comma-separated NAME[:SIZE:WAIT_MS][-grid][+malloc] [{SYSTEMS_FULL}]; also: ray",
    )
    made.add_argument("--workers", type=int, default=2, help="model processes of each system [2]")
    made.add_argument(
        "--add",
        action="store_true",
        help="keep what the last comparison on this machine has of other workloads",
    )
    add_publish(made)


def add_publish(made: argparse.ArgumentParser) -> None:
    """The option that ``bench report`` has too."""
    made.add_argument(
        "--publish", action="store_true", help="write table and plots to docs/benchmarks.md too"
    )


def report_again(options: argparse.Namespace, output: Path) -> int:
    """``bench report``: the last comparison as table and plots."""
    show(load_results(output), output, publish=options.publish)
    return 0


def main(options: argparse.Namespace, output: Path) -> int:
    """Measure, write, print; 0 if everything was measured, 1 if something was skipped or failed."""
    short = options.quick or options.smoke
    entries = [
        parse_entry(text) for text in listed(options.systems, SYSTEMS_QUICK if short else SYSTEMS_FULL)
    ]
    names = listed(options.workloads, WORKLOADS_QUICK if short else ",".join(WORKLOADS))
    if unknown := [name for name in names if name not in WORKLOADS]:
        raise BenchError(f"--workloads {unknown[0]}: there is no such one; there are {', '.join(WORKLOADS)}")
    if options.workers < 1:
        raise BenchError(f"--workers {options.workers}: it must be at least 1")
    effort = "smoke" if options.smoke else "quick" if options.quick else "full"
    output.mkdir(parents=True, exist_ok=True)
    console = Console(stderr=True)
    generator = build(output)
    results: dict[str, Any] = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "machine": describe(),
        "workers": options.workers,
        "effort": effort,
        "offline": {},
        "measurements": [],
    }
    if options.add:
        results = with_others(results, load_results(output), names)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("", total=len(names) * (len(entries) + 1))

        def say(title: str, text: str) -> None:
            progress.update(bar, description=f"{title}: {text}")

        for workload in (WORKLOADS[name] for name in names):
            say(workload.name, "the model alone")
            results["offline"][workload.name] = limits(workload, options.workers, 0.2 if short else 1.0)
            progress.advance(bar)
            body = example(workload)
            for entry in entries:
                title = f"{workload.name}, {entry.label}"
                say(title, "starting")
                rig = Rig(
                    generator,
                    output / "venvs",
                    options.workers,
                    EFFORTS[effort],
                    lambda text, title=title: say(title, text),  # type: ignore[misc] # a default binds the title
                )
                found = _measured(entry, workload, body, rig)
                if found["status"] != "measured":
                    progress.console.print(f"bench: {title}: {found['status']}: {found['reason']}")
                results["measurements"].append(found)
                (output / "results.json").write_text(json.dumps(results, indent=1) + "\n")
                progress.advance(bar)
    show(results, output, publish=options.publish)
    return 0 if all(found["status"] == "measured" for found in results["measurements"]) else 1


def with_others(results: dict[str, Any], last: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """``results`` with what ``last`` has of workloads that are not in ``names``.

    Raises ``BenchError`` if the two cannot stand in one table.
    """
    for key in ("machine", "workers", "effort"):
        if results[key] != last[key]:
            raise BenchError(f"--add: the last comparison had {key} {last[key]!r}, this one {results[key]!r}")
    return results | {
        "offline": {name: found for name, found in last["offline"].items() if name not in names},
        "measurements": [found for found in last["measurements"] if found["workload"] not in names],
    }


def show(results: dict[str, Any], output: Path, *, publish: bool) -> None:
    """Print the table; write it and the plots to ``output``, and to docs/benchmarks.md if told so."""
    text = report.table(results)
    (output / "report.md").write_text(text)
    plots = report.draw(results, output)
    if publish:
        report.publish(results, PAGE)
    sys.stdout.write(text)
    sys.stdout.write(
        "\n" + "\n".join(map(str, [output / "results.json", output / "report.md", *plots])) + "\n"
    )


def load_results(output: Path) -> dict[str, Any]:
    """The results of the last comparison. Raises ``BenchError`` if there are none."""
    try:
        results: dict[str, Any] = json.loads((output / "results.json").read_text())
    except (OSError, ValueError) as error:
        raise BenchError(
            f"{output / 'results.json'} cannot be read ({error}): run bench compare first"
        ) from None
    return results


def example(workload: Workload) -> bytes:
    """A typical body as the workload itself makes it, in a process of its own: torch stays out of here."""
    code = "import sys, handler; sys.stdout.buffer.write(handler.example())"
    done = subprocess.run([sys.executable, "-c", code], cwd=workload.folder, check=False, capture_output=True)
    if done.returncode:
        raise BenchError(
            f"{workload.folder}: example() failed:\n{done.stderr.decode(errors='replace').strip()}"
        )
    return done.stdout


def listed(text: str | None, otherwise: str = "") -> Sequence[str]:
    """The parts of a comma-separated option, or of what is meant without it."""
    return [part.strip() for part in (text or otherwise).split(",") if part.strip()]


def _measured(entry: Entry, workload: Workload, body: bytes, rig: Rig) -> dict[str, Any]:
    identity: dict[str, Any] = {"system": entry.label, "workload": workload.name}
    try:
        if entry.system.requirements:
            package = entry.system.requirements[-1].partition("[")[0]
            rig.say("installing")
            python = python_of(rig.venvs, package, entry.system.requirements)
            identity["version"] = f"{package} {version_of(python, package)}"
        return measure(entry, workload, body, rig) | identity
    except NotAvailable as error:
        return identity | {"status": "skipped", "reason": str(error)}
    except BenchError as error:
        return identity | {"status": "failed", "reason": str(error)}
