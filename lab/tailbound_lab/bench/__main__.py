"""The command line: ``make bench``, or ``make bench BENCH_ARGS='compare --quick'``.

single    one function behind our server at one rate (also without a word, as plain `make bench`)
compare   ours and the peers on every workload (also as plain --quick)
turns     a few systems side by side, several times: what a ratio is worth
soak      half an hour while workers are killed
drift     a model that becomes twice as slow in the middle of a run
large     what carrying bodies of up to 20 MB costs
fleet     one reconcile of up to 10,000 functions: the autoscaler's CPU time
scaling   simulated: our scaling and other scalers' laws, tuned, on every trace
unseen    simulated: our scaling on traces that it was not made on
live      one bursty trace for real, scaled by the autoscaler and by OpenFaaS CE's law
validate  the last live run in the simulator: how far apart the two are
report    the last comparison again, as table and plots
"""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from tailbound_lab.bench.fleet import held_out as unseen
from tailbound_lab.bench.fleet import live, scaling, validate
from tailbound_lab.bench.fleet import reconcile as fleet
from tailbound_lab.bench.replica import compare, drift, large, single, soak
from tailbound_lab.bench.replica import interleaved as turns
from tailbound_lab.bench.workloads import ROOT
from tailbound_lab.load.records import BenchError

OUTPUT = ROOT / "build" / "bench"
_Command = tuple[Callable[[argparse.Namespace, Path], int], Callable[[argparse.ArgumentParser], None], str]
COMMANDS: Final[Mapping[str, _Command]] = {
    "single": (single.main, single.add_arguments, "one function at one rate"),
    "compare": (compare.main, compare.add_arguments, "ours and the peers"),
    "turns": (turns.main, turns.add_arguments, "a few systems side by side"),
    "drift": (drift.main, drift.add_arguments, "a model that becomes slower"),
    "soak": (soak.main, soak.add_arguments, "a long run while workers are killed"),
    "large": (large.main, large.add_arguments, "the cost of large bodies"),
    "fleet": (fleet.main, fleet.add_arguments, "one reconcile of many functions"),
    "scaling": (scaling.main, scaling.add_arguments, "our scaling and others', simulated"),
    "unseen": (unseen.main, unseen.add_arguments, "our scaling on other traces, simulated"),
    "live": (live.main, live.add_arguments, "the autoscaler and OpenFaaS CE's law, for real"),
    "validate": (validate.main, validate.add_arguments, "the last live run, simulated"),
    "report": (compare.report_again, compare.add_publish, "the last comparison again"),
}


def main(arguments: Sequence[str]) -> int:
    """Run a command; 2 for what cannot be measured at all."""
    words = with_command(arguments)
    made = argparse.ArgumentParser(
        prog="bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = made.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command, (run, add_arguments, text) in COMMANDS.items():
        parser = commands.add_parser(command, help=text)
        add_arguments(parser)
        parser.set_defaults(run=run)
    options = made.parse_args(words)
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
    """The words with a command before them where none stands: ``--quick`` and ``--smoke`` mean compare."""
    words = list(arguments)
    if words and (words[0] in COMMANDS or words[0] in ("-h", "--help")):
        return words
    return ["compare" if {"--quick", "--smoke"} & set(words) else "single", *words]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
