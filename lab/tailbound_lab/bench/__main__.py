"""The command line: ``make bench``, or ``make bench BENCH_ARGS='compare --quick'``.

Owns the list of commands; without one, ``--quick`` and ``--smoke`` mean ``compare``, other options
``single``. Exit statuses: 0 the claim holds; 1 it does not; 2 it cannot be measured.
"""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from tailbound_lab.bench.fleet import adversary, faro, held_out, live, reconcile, scaling, validate
from tailbound_lab.bench.page import add_publish
from tailbound_lab.bench.replica import (
    bound,
    compare,
    interleaved,
    mixed,
    promise,
    single,
    soak,
)
from tailbound_lab.bench.workloads import ROOT
from tailbound_lab.load.records import BenchError

OUTPUT = ROOT / "build" / "bench"
_Command = tuple[Callable[[argparse.Namespace, Path], int], Callable[[argparse.ArgumentParser], None], str]
COMMANDS: Final[Mapping[str, _Command]] = {
    "single": (single.main, single.add_arguments, "one function behind the watchdog at one rate"),
    "compare": (compare.main, compare.add_arguments, "Tailbound and its peers on every workload"),
    "interleaved": (interleaved.main, interleaved.add_arguments, "a few systems side by side, several times"),
    "mixed": (mixed.main, mixed.add_arguments, "several paths, text lengths and SLO classes in one traffic"),
    "bound": (bound.main, bound.add_arguments, "goodput against an upper bound for any batcher, simulated"),
    "soak": (soak.main, soak.add_arguments, "half an hour while workers are killed"),
    "promise": (promise.main, promise.add_arguments, "whether promised rates are kept, simulated"),
    "fleet": (reconcile.main, reconcile.add_arguments, "CPU of one reconcile of up to 10,000 functions"),
    "scaling": (
        scaling.main,
        scaling.add_arguments,
        "Tailbound's scaling beside tuned baselines on every trace, simulated",
    ),
    "held-out": (
        held_out.main,
        held_out.add_arguments,
        "cases that set no constant of the scaling, simulated",
    ),
    "adversary": (
        adversary.main,
        adversary.add_arguments,
        "a search for a trace on which a default baseline beats Tailbound, simulated",
    ),
    "faro": (
        faro.main,
        faro.add_arguments,
        "a full cluster split among jobs, beside Faro's published results, simulated",
    ),
    "live": (live.main, live.add_arguments, "one bursty trace for real, under Tailbound and OpenFaaS CE"),
    "validate": (validate.main, add_publish, "the last live run in the simulator"),
    "report": (compare.report, add_publish, "the last comparison again, as table and plots"),
}


def main(arguments: Sequence[str]) -> int:
    """Run a command."""
    made = argparse.ArgumentParser(prog="bench", description="Measure Tailbound, alone and beside its peers.")
    commands = made.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command, (run, add_arguments, text) in COMMANDS.items():
        parser = commands.add_parser(command, help=text)
        add_arguments(parser)
        parser.set_defaults(run=run)
    options = made.parse_args(with_command(arguments))
    try:
        OUTPUT.mkdir(parents=True, exist_ok=True)
        status: int = options.run(options, OUTPUT)
    except BenchError as error:
        sys.stderr.write(f"bench: {error}\n")
        return 2
    except KeyboardInterrupt:
        return 130
    return status


def with_command(arguments: Sequence[str]) -> list[str]:
    """Return the words, with a command in front if they have none."""
    words = list(arguments)
    if words and (words[0] in COMMANDS or words[0] in ("-h", "--help")):
        return words
    return ["compare" if {"--quick", "--smoke"} & set(words) else "single", *words]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
