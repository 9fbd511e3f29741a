"""The demo's command line: ``python -m tailbound_lab.demo``."""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import uvloop
from rich.console import Console

from tailbound_lab.demo.report import write
from tailbound_lab.demo.session import Options, Outcome, run
from tailbound_lab.demo.table import Terminal, explain, verdict
from tailbound_lab.demo.traffic import TRAFFIC
from tailbound_lab.load.arrivals import ShapeError
from tailbound_lab.load.records import RunError
from tailbound_lab.local.errors import PlatformError

MISSED = 3
"""Exit status of a run that missed an SLO; its verdict says what disturbed it, if anything did."""

_PLAIN_WIDTH = 100
_FULL, _QUICK = 120.0, 60.0
_DESCRIPTION = """\
Runs the functions of stack.yml on this machine behind a real Prometheus and the autoscaler, offers them a
traffic peak, and compares with what OpenFaaS does today under the very same arrivals. Watch the table, read
the verdict, open the report."""
_EPILOG = (
    "exit status: 0 if every function met its SLO; 3 if one missed it, and the verdict says whether other "
    "programs or the host of this machine disturbed the run; 1 for a failure; 2 for wrong arguments, 130 "
    "when interrupted."
)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tailbound_lab.demo", description=_DESCRIPTION, epilog=_EPILOG
    )
    add = parser.add_argument
    add("--quick", action="store_true", help=f"{_QUICK:.0f} s of traffic instead of {_FULL:.0f} s")
    add("--duration", type=float, metavar="SECONDS", help="seconds of traffic, in place of both")
    add("--seed", type=int, default=1, help="of the arrivals; the same seed, the same traffic [%(default)s]")
    add("--rate", type=float, default=1.0, metavar="FACTOR", help="times the table's rates [%(default)s]")
    boost_help = "CPU limits for replicas, which the autoscaler raises at once: as root on Linux [none]"
    add("--boost", action="store_true", help=boost_help)
    add("--no-baseline", action="store_true", help="no twins: Tailbound alone, with the machine to itself")
    add("--stack", type=Path, default=Path("stack.yml"), metavar="FILE", help="the functions [%(default)s]")
    out_help = "where report.html, result.json and the run's logs go [%(default)s]"
    add("--out", type=Path, default=Path("build/demo"), metavar="DIR", help=out_help)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo; return the exit status that the help text states."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.ERROR, format="%(levelname)s %(message)s", stream=sys.stderr)
    wanted = Options(
        stack=options.stack,
        out=options.out,
        duration=options.duration or (_QUICK if options.quick else _FULL),
        seed=options.seed,
        traffic=TRAFFIC,
        with_twins=not options.no_baseline,
        rate=options.rate,
        boost=options.boost,
    )
    console = Console()
    if not console.is_terminal:
        console.width = _PLAIN_WIDTH
    try:
        outcome = uvloop.run(_run(wanted, console))
        write(outcome, wanted.out)
    except (RunError, PlatformError, ShapeError) as error:
        sys.stderr.write(f"demo: {error}\n")
        return 1
    except (KeyboardInterrupt, asyncio.CancelledError):
        sys.stderr.write("demo: stopped before its end; there is no result\n")
        return 130
    logs = wanted.out / "run" / "logs"
    for line in (
        f"Report: {wanted.out / 'report.html'}   results: {wanted.out / 'result.json'}   logs: {logs}",
        f"Why: {explain(TRAFFIC[0].function)} --log {logs / 'autoscaler.log'}",
    ):
        console.print(line, highlight=False, soft_wrap=True)
    console.print(verdict(outcome.comparisons, outcome.disturbance))
    return 0 if outcome.met else MISSED


async def _run(options: Options, console: Console) -> Outcome:
    current = asyncio.current_task()
    if current is not None:
        # Also where SIGINT was ignored at the start, as shells do with background jobs.
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, current.cancel)

    with Terminal(console, options.duration) as terminal:
        return await run(options, terminal)


if __name__ == "__main__":
    sys.exit(main())
