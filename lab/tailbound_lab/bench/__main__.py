"""The command line: ``make bench``, or ``make bench BENCH_ARGS='compare --quick'``.

Owns the list of commands; without one, ``compare`` runs.
Exit statuses: 0 the claim holds; 1 it does not; 2 it cannot be measured; 143 ended by SIGTERM.
"""

import argparse
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Final, NoReturn, Protocol

from tailbound_lab.bench.fleet import faro, held_out, reconcile
from tailbound_lab.bench.replica import compare, interleaved, promise, soak
from tailbound_lab.bench.workloads import ROOT
from tailbound_lab.load.records import BenchError

OUTPUT = ROOT / "build" / "bench"


class Question(Protocol):
    """A module that answers one question."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the command's options."""

    def main(self, options: argparse.Namespace, output: Path) -> int:
        """Measure, keep the results below ``output``, print them; return the exit status."""


COMMANDS: Final[Mapping[str, tuple[Question, str]]] = {
    "compare": (compare, "Tailbound and its peers on every workload"),
    "interleaved": (interleaved, "a few systems side by side, several times"),
    "soak": (soak, "half an hour while workers are killed"),
    "promise": (promise, "whether promised rates are kept, simulated"),
    "fleet": (reconcile, "CPU of one reconcile of up to 10,000 functions"),
    "held-out": (held_out, "cases that set no constant of the scaling, simulated"),
    "faro": (faro, "a full cluster split among jobs, beside Faro's published results, simulated"),
}


def main(arguments: Sequence[str]) -> int:
    """Run a command."""
    made = argparse.ArgumentParser(prog="bench", description="Measure Tailbound, alone and beside its peers.")
    commands = made.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command, (question, text) in COMMANDS.items():
        parser = commands.add_parser(command, help=text)
        question.add_arguments(parser)
        parser.set_defaults(run=question.main)
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


def end(number: int, _frame: FrameType | None) -> NoReturn:
    """End this process, and first its servers."""
    signal.signal(number, signal.SIG_IGN)
    sys.exit(128 + number)


def with_command(arguments: Sequence[str]) -> list[str]:
    """Return the words, with a command in front if they have none."""
    words = list(arguments)
    if words and (words[0] in COMMANDS or words[0] in ("-h", "--help")):
        return words
    return ["compare", *words]


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, end)
    sys.exit(main(sys.argv[1:]))
