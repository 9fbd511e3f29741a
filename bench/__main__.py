"""The command line: ``make bench``, or ``make bench BENCH_ARGS='compare --quick'``.

single    one function behind our server at one rate (also without a word, as plain `make bench`)
compare   ours and the peers on every workload (also as plain --quick)
soak      half an hour while workers are killed
drift     a model that becomes twice as slow in the middle of a run
report    the last comparison again, as table and plots
"""

import argparse
import sys
from collections.abc import Sequence

from bench import compare, drift, single, soak
from bench.errors import BenchError
from bench.workloads import ROOT

OUTPUT = ROOT / "build" / "bench"
COMMANDS = ("single", "compare", "drift", "soak", "report")


def main(arguments: Sequence[str]) -> int:
    """Run a command; 2 for what can not be measured at all."""
    words = with_command(arguments)
    made = argparse.ArgumentParser(
        prog="bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = made.add_subparsers(dest="command", required=True, metavar="COMMAND")
    single.add_arguments(commands.add_parser("single", help="one function at one rate"))
    compare.add_arguments(commands.add_parser("compare", help="ours and the peers"))
    drift.add_arguments(commands.add_parser("drift", help="a model that becomes slower"))
    soak.add_arguments(commands.add_parser("soak", help="a long run while workers are killed"))
    commands.add_parser("report", help="the last comparison again").add_argument(
        "--publish", action="store_true", help="write it to docs/benchmarks.md too"
    )
    options = made.parse_args(words)
    try:
        OUTPUT.mkdir(parents=True, exist_ok=True)
        if options.command == "single":
            return single.main(options)
        if options.command == "compare":
            return compare.main(options, OUTPUT)
        if options.command == "drift":
            return drift.main(options, OUTPUT)
        if options.command == "soak":
            return soak.main(options, OUTPUT)
        compare.show(compare.load_results(OUTPUT), OUTPUT, publish=options.publish)
    except BenchError as error:
        sys.stderr.write(f"bench: {error}\n")
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


def with_command(arguments: Sequence[str]) -> list[str]:
    """The words with a command before them where none stands: ``--quick`` and ``--smoke`` mean compare."""
    words = list(arguments)
    if words and (words[0] in COMMANDS or words[0] in ("-h", "--help")):
        return words
    return ["compare" if {"--quick", "--smoke"} & set(words) else "single", *words]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
