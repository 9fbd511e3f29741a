"""``batching-watchdog try FOLDER``: arguments, environment, output and exit statuses.

Only the report goes to stdout. Tracebacks go to stderr, as does the function's own output while it loads.
"""

import argparse
import json
import logging
import os
import re
import sys
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, TextIO

import uvloop

from batching_watchdog.app import configured
from batching_watchdog.config import ignored
from batching_watchdog.errors import HandlerNotLoaded, WatchdogError
from batching_watchdog.folder import Source, find
from batching_watchdog.front.weight import load_weight
from batching_watchdog.logs import TextFormatter, printable
from batching_watchdog.messages import Failure
from batching_watchdog.pool import profile
from batching_watchdog.trial import report
from batching_watchdog.trial.measure import LOADING, measure

KEPT_LINES: Final = 20
"""Last lines of the function's output while it is measured, which an error shows."""
INTERRUPTED: Final = 130
"""The exit status after Ctrl-C, as of a shell."""
OWN: Final = {
    "log_format": "text",
    "prefix_logs": "true",
    "access_log": "false",
    "ready_path": "",
    "PYTHONUNBUFFERED": "1",  # as in the template's image
}
"""Settings that the output of this command needs; they replace the function's own."""
DESCRIPTION: Final = """\
Tries a function on this machine as production would run it: loads FOLDER/handler.py (or
FOLDER/function/handler.py) in real worker processes, measures batches of its example(), sends
example() over HTTP, and reports the rate that one replica serves within the target. If example() returns a
list, or with --bodies, it also serves that mix under load. If the handler has start and step, it runs more
and more streams at a time, and reports the streams that one replica serves on time.

Settings come from the options, then the environment, then the stack file (stack.yaml or stack.yml in a
folder above FOLDER) whose function has FOLDER as its handler. Exit statuses: 0; 1 if the handler is at
fault; 2 if the command is wrong.
"""


@dataclass(slots=True)
class Traces:
    """A log filter that shows each traceback once, before the message, for any number of workers."""

    seen: set[str] = field(default_factory=set)

    def __call__(self, record: logging.LogRecord) -> bool:
        """Return whether the record is shown."""
        if not isinstance(record.msg, Failure):
            return True
        trace = record.msg.trace
        record.msg = f"{trace}\n{record.msg.text}\n"
        again = trace in self.seen
        self.seen.add(trace)
        return not again


@dataclass(slots=True)
class Progress:
    """A line on a terminal that the next output overwrites; other streams show nothing."""

    stream: TextIO
    doing: str = "starting"
    """Current activity."""

    def show(self, doing: str, seconds: float) -> None:
        """Show that ``doing`` has taken ``seconds``."""
        self.doing = doing
        if self.stream.isatty():
            self.stream.write(f"\x1b[K{doing}: {seconds:.0f} s\r")
            self.stream.flush()

    def clear(self) -> None:
        """Remove the line."""
        if self.stream.isatty():
            self.stream.write("\x1b[K")


@dataclass(slots=True)
class Printed:
    """A stream for the output of the workers: shown while they load, afterwards counted, and the end kept."""

    stream: TextIO
    progress: Progress
    lines: int = 0
    kept: deque[str] = field(default_factory=lambda: deque(maxlen=KEPT_LINES))

    def write(self, text: str) -> int:
        """Take a line."""
        if self.progress.doing == LOADING:
            self.progress.clear()
            return self.stream.write(text)
        self.lines += text.count("\n")
        self.kept.append(text)
        return len(text)

    def flush(self) -> None:
        """Show what was written."""
        self.stream.flush()

    def show(self) -> None:
        """Write the end of what was not shown."""
        self.stream.write("".join(self.kept))


def main(arguments: Sequence[str]) -> int:
    """Try the function that ``arguments`` name, print the report, and return the exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if not options.folder.is_dir():
        parser.error(f"FOLDER: {options.folder} is not a folder")
    try:
        bodies = _bodies(options)
    except OSError as error:
        parser.error(f"{error.filename}: {error.strerror}")
    output = _own_stdout()
    progress = Progress(sys.stderr)
    try:
        function = find(options.folder, _flags(options) | OWN, os.environ)
        trial = _try(function, bodies, progress)
    except WatchdogError as error:
        progress.clear()
        step = report.advice(str(error))
        more = f"\nnext: {step}" if step else ""
        sys.stderr.write(f"batching-watchdog try: {printable(str(error))}{more}\n")
        if options.json:
            output.write(json.dumps({"error": str(error)}) + "\n")
        return error.exit_status
    except KeyboardInterrupt:
        progress.clear()
        sys.stderr.write(f"batching-watchdog try: interrupted while {progress.doing}\n")
        if progress.doing == LOADING:
            sys.stderr.write("next: load_timeout=10s in the environment shows where it is by then\n")
        return INTERRUPTED
    finally:
        output.flush()
    progress.clear()
    output.write(f"{_shown(trial, json_=options.json)}\n")
    output.flush()
    return 1 if isinstance(trial, report.Trial) and trial.split else 0


def _shown(trial: report.Trial | report.StreamTrial, *, json_: bool) -> str:
    if isinstance(trial, report.StreamTrial):
        document, lines = report.stream_document(trial), report.stream_lines(trial)
    else:
        document, lines = report.document(trial), report.lines(trial)
    return json.dumps(document, indent=2) if json_ else "\n".join(lines)


def _try(function: Source, bodies: Sequence[bytes], progress: Progress) -> report.Trial | report.StreamTrial:
    environ = function.environ
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(TextFormatter("%(message)s"))
    handler.addFilter(Traces())
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.getLogger(profile.__name__).setLevel(logging.ERROR)  # how example() is answered is in the report
    config = configured(environ)
    printed, streams = Printed(sys.stderr, progress), (sys.stdout, sys.stderr)
    progress.doing = LOADING
    sys.stdout = sys.stderr = printed  # the pool writes the workers' lines there
    try:
        weight = load_weight(function.folder)
        trial = uvloop.run(measure(config, environ, weight, function, bodies, progress.show))
    except BaseException as error:
        progress.clear()
        printed.show()
        if isinstance(error, HandlerNotLoaded) and error.trace:
            printed.stream.write(f"{printable(error.trace)}\n\n")
        raise
    finally:
        sys.stdout, sys.stderr = streams
    return replace(trial, misspelled=tuple(ignored(environ)), printed=printed.lines)


def _bodies(options: argparse.Namespace) -> list[bytes]:
    """Return the bodies that the options name. Raises ``OSError``."""
    if options.bodies is None:
        return [] if options.body is None else [options.body.read_bytes()]
    files = [file for file in sorted(options.bodies.iterdir()) if file.is_file()]
    return [file.read_bytes() for file in files if not file.name.startswith(".")]


def _flags(options: argparse.Namespace) -> dict[str, str]:
    given = {"slo_latency": options.slo_latency, "workers": options.workers}
    return {name: value for name, value in given.items() if value is not None}


def _seconds(text: str) -> str:
    """Return a duration with its unit; a bare number is seconds."""
    return f"{text}s" if re.fullmatch(r"\d*\.?\d+", text, re.ASCII) else text


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="batching-watchdog try",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="folder of the function")
    parser.add_argument(
        "--slo-latency",
        metavar="DURATION",
        type=_seconds,
        help="latency target, such as 100ms or 0.1 (seconds) [slo_latency of the settings]",
    )
    bodies = parser.add_mutually_exclusive_group()
    bodies.add_argument("--body", metavar="FILE", type=Path, help="body to measure instead of example()")
    bodies.add_argument(
        "--bodies", metavar="DIR", type=Path, help="folder of bodies, one in each file, to measure as a mix"
    )
    parser.add_argument("--workers", metavar="N", help="number of worker processes [workers of the settings]")
    parser.add_argument("--json", action="store_true", help="print the report as a JSON object")
    return parser


def _own_stdout() -> TextIO:
    """Return stdout for the report alone; from now on this process and the workers print to stderr."""
    sys.stdout.flush()
    own = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return own
