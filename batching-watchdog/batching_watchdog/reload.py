"""``batching-watchdog serve FOLDER``: serves a function on its author's machine, and again after each change.

It is production's watchdog with the settings of the stack file. With ``--reload`` that is a child, which
answers what it has when a file changes, and another takes its place. Production has no part in this.
"""

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final

from batching_watchdog import app, logs
from batching_watchdog.errors import WatchdogError
from batching_watchdog.folder import Source, find, stack_files
from batching_watchdog.launch import die_with_parent

POLL_SECONDS: Final = 0.3
"""Between two looks at the files."""
DESCRIPTION: Final = """\
Serves the function in FOLDER on this machine, with the settings that it is deployed with: from the
environment, then from the stack file (stack.yaml or stack.yml in a folder above FOLDER) whose function has
FOLDER as its handler. The port is the setting `port` [8080]. Ctrl-C answers what has arrived, and ends.
"""


def main(arguments: Sequence[str]) -> int:
    """Serve the function that ``arguments`` name until a signal ends it, and return the exit status."""
    parser = argparse.ArgumentParser(
        prog="batching-watchdog serve",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="folder of the function")
    parser.add_argument(
        "--reload", action="store_true", help="start again when a .py file or the stack file changes"
    )
    options = parser.parse_args(arguments)
    if not options.folder.is_dir():
        parser.error(f"FOLDER: {options.folder} is not a folder")
    try:
        source = find(options.folder, {}, os.environ)
    except WatchdogError as error:
        sys.stderr.write(f"batching-watchdog serve: {logs.printable(str(error))}\n")
        return error.exit_status
    return _reloaded(source, options.folder) if options.reload else app.main(source.environ)


def _reloaded(source: Source, folder: Path) -> int:
    """Serve in one child after the other; return the last one's exit status."""
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, signal.default_int_handler)
    child: subprocess.Popen[bytes] | None = None
    try:
        while True:
            served = files(source)
            child = subprocess.Popen(  # noqa: S603 - our own command
                [sys.executable, "-m", "batching_watchdog", "serve", str(folder)],
                process_group=0,  # Ctrl-C reaches it through us alone
                preexec_fn=partial(die_with_parent, signal.SIGTERM, os.getpid()),  # noqa: PLW1509 - one thread
            )
            _wait_for_change(source, served)
            _interrupt(child)
            child.wait()
    except KeyboardInterrupt:
        while child is not None:
            with suppress(KeyboardInterrupt):  # a second signal is the child's too, which then ends at once
                _interrupt(child)
                return child.wait()
        return 0


def _interrupt(child: subprocess.Popen[bytes]) -> None:
    child.send_signal(signal.SIGINT)  # SIGTERM would wait for a platform to see that health checks fail


def _wait_for_change(source: Source, served: Mapping[Path, tuple[int, int]]) -> None:
    """Return after a change of a file since ``served``, as soon as two looks see the same."""
    seen = served
    while True:
        time.sleep(POLL_SECONDS)
        last, seen = seen, files(source)
        if last == seen != served:
            return


def files(source: Source) -> Mapping[Path, tuple[int, int]]:
    """Return time of change and size of each file from which ``source`` is made."""
    states = {}
    for path in (*source.folder.rglob("*.py"), *stack_files(source.folder)):
        try:
            state = path.stat()
        except OSError:  # it has just been removed, or has never been there
            continue
        states[path] = (state.st_mtime_ns, state.st_size)
    return states
