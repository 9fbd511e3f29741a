"""The command line: ``make bench``, or ``make bench BENCH_ARGS='scaling --quick'``.

Owns the list of questions; without one, ``peers`` is asked, and without any word ``peers --quick``. Exit
statuses: 0 the claim holds; 1 it does not; 2 it cannot be measured; 143 ended by SIGTERM.
"""

import argparse
import signal
import sys
from collections.abc import Mapping, Sequence
from types import FrameType
from typing import Final, NoReturn, Protocol

from tailbound_lab.bench import faro, node, peers, reconcile, scaling, soak, streams
from tailbound_lab.bench.rig import record
from tailbound_lab.bench.rig.record import Record, Run
from tailbound_lab.load.records import BenchError


class Question(Protocol):
    """What answers one question, such as a module."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the question's options."""

    def main(self, options: argparse.Namespace, run: Run) -> int:
        """Measure and keep the rows; return the exit status."""

    def table(self, record: Record) -> str:
        """Return the rows as Markdown, for the terminal and the page."""


COMMANDS: Final[Mapping[str, tuple[Question, str]]] = {
    "peers": (peers, "highest rate and goodput under overload, beside other servers"),
    "streams": (streams, "highest rate of streams on time, and goodput under overload, beside other servers"),
    "scaling": (scaling, "attainment and cost on held-out traces, beside other autoscalers, simulated"),
    "faro": (faro, "a full cluster split among jobs, beside Faro's published results, simulated"),
    "soak": (soak.REQUESTS, "unanswered requests and memory in half an hour while workers are killed"),
    "stream-soak": (soak.STREAMS, "streams that end twice or never while workers are killed, and memory"),
    "node": (node, "a day of traffic in minutes on KUBECONFIG's cluster, beside other autoscalers"),
    "reconcile": (reconcile, "CPU of one reconcile of many functions, on a real Prometheus"),
}


def main(arguments: Sequence[str]) -> int:
    """Ask a question, print its table, and publish the record if wanted."""
    made = argparse.ArgumentParser(prog="bench", description="Measure Tailbound beside its peers.")
    questions = made.add_subparsers(dest="question", required=True, metavar="QUESTION")
    for name, (question, text) in COMMANDS.items():
        parser = questions.add_parser(name, help=text)
        question.add_arguments(parser)
        parser.add_argument("--publish", action="store_true", help="write the record into docs/benchmarks")
    words = with_command(arguments)
    options = made.parse_args(words)
    question, _ = COMMANDS[options.question]
    run = record.begin(options.question, words, record.OUTPUT)
    try:
        status = question.main(options, run)
        file = run.folder / f"{options.question}.json"
        if not getattr(options, "json", False):
            kept = record.read(file)
            sys.stdout.write(f"{kept.origin}\n\n{question.table(kept)}\n")
            if options.publish:
                record.write(kept, record.PUBLISHED)
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
    """Return the words with a question in front, which is ``peers`` if they name none."""
    words = list(arguments)
    if words and (words[0] in COMMANDS or words[0] in ("-h", "--help")):
        return words
    return ["peers", *(words or ["--quick"])]


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, end)
    sys.exit(main(sys.argv[1:]))
