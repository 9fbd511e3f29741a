"""``batching-watchdog try FOLDER``: arguments, environment, output and exit statuses.

Only the report goes to stdout. Tracebacks and the function's own output go to stderr.
"""

import argparse
import json
import logging
import os
import re
import sys
from collections import deque
from collections.abc import Sequence
from contextlib import closing, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Final, TextIO, cast

import uvloop

from batching_watchdog.app import configured
from batching_watchdog.errors import HandlerNotLoaded, WatchdogError
from batching_watchdog.front.weight import load_weight
from batching_watchdog.function.folder import find
from batching_watchdog.function.messages import Failure
from batching_watchdog.observe.logs import TextFormatter, printable
from batching_watchdog.pool import profile
from batching_watchdog.trial import report
from batching_watchdog.trial.measure import measure

PRINTED_LINES: Final = 20
"""Of the function's output, at its begin and at its end."""
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


class Printed:
    """What the function prints: its first lines as they come and its last lines at the end, not all."""

    def __init__(self, sink: TextIO) -> None:
        self._sink = sink
        self._shown = 0
        self._last: deque[str] = deque(maxlen=PRINTED_LINES)
        self._left_out = 0

    def write(self, text: str) -> int:
        """Show the lines of ``text``, or keep them for the end."""
        for line in text.splitlines(keepends=True):
            if self._shown < PRINTED_LINES:
                self._shown += line.endswith("\n")
                self._sink.write(line)
            else:
                self._left_out += len(self._last) == PRINTED_LINES
                self._last.append(line)
        return len(text)

    def flush(self) -> None:
        """Show what has been written so far."""
        self._sink.flush()

    def close(self) -> None:
        """Show the last lines."""
        if self._left_out:
            self._sink.write(f"... {self._left_out} lines that the function printed are left out ...\n")
        self._sink.writelines(self._last)
        self._last.clear()


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
    flags = {"slo_latency": options.slo_latency, "workers": options.workers}
    told, stderr, printed = [""], sys.stderr, Printed(sys.stderr)

    def tell(doing: str) -> None:
        if doing != told[-1]:
            told.append(doing)
            stderr.write(f"{doing} ...\n")

    try:
        _log_to_stderr()
        sink = cast("TextIO", printed)
        with closing(printed), redirect_stdout(sink), redirect_stderr(sink):
            function = find(
                options.folder, {name: text for name, text in flags.items() if text} | OWN, os.environ
            )
            config = configured(function.environ)
            trial = uvloop.run(measure(config, load_weight(function.folder), function, bodies, tell))
    except WatchdogError as error:
        if isinstance(error, HandlerNotLoaded) and error.trace:
            sys.stderr.write(f"{printable(error.trace)}\n\n")
        sys.stderr.write(f"batching-watchdog try: {printable(str(error))}\n")
        if options.json:
            sys.stdout.write(json.dumps({"error": str(error)}) + "\n")
        return error.exit_status
    except KeyboardInterrupt:
        sys.stderr.write(f"batching-watchdog try: interrupted while {told[-1] or 'starting'}\n")
        return INTERRUPTED
    text = json.dumps(report.document(trial), indent=2) if options.json else "\n".join(report.lines(trial))
    sys.stdout.write(f"{text}\n")
    return 1 if trial.failed else 0


def _log_to_stderr() -> None:
    """Show warnings, and each traceback once, for any number of workers."""
    traces = set[str]()

    def new(record: logging.LogRecord) -> bool:
        trace = record.msg.trace if isinstance(record.msg, Failure) else ""
        again = trace in traces
        traces.update({trace} - {""})
        return not again

    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(TextFormatter("%(message)s"))
    handler.addFilter(new)
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.getLogger(profile.__name__).setLevel(logging.ERROR)  # how example() is answered is in the report


def _bodies(options: argparse.Namespace) -> list[bytes]:
    """Return the bodies that the options name. Raises ``OSError``."""
    if options.bodies is None:
        return [] if options.body is None else [options.body.read_bytes()]
    files = [file for file in sorted(options.bodies.iterdir()) if file.is_file()]
    return [file.read_bytes() for file in files if not file.name.startswith(".")]


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
