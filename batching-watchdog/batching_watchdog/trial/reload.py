"""``batching-watchdog serve FOLDER``: serves a function on its author's machine, and again after each change.

It is production's watchdog with the settings of the stack file. With ``--reload`` that is a child, which
answers what it has when a file changes, and another takes its place. With ``--debug`` this process alone runs
the handler, without a watchdog. Production has no part in this.
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

from batching_watchdog import app
from batching_watchdog.errors import HandlerNotLoaded, WatchdogError
from batching_watchdog.front.streams import whole
from batching_watchdog.function.folder import Source, find, stack_files
from batching_watchdog.observe import logs
from batching_watchdog.pool.child import worker_environment
from batching_watchdog.process.launch import die_with_parent

POLL_SECONDS: Final = 0.3
"""Between two looks at the files."""
OWN: Final = {"host": "127.0.0.1", "access_log": "true"}
"""Defaults of this command."""
DESCRIPTION: Final = """\
Serves the function in FOLDER on this machine, with the settings that it is deployed with: from the
environment, then from the stack file (stack.yaml or stack.yml in a folder above FOLDER) whose function has
FOLDER as its handler. Each request has a line in the log (setting `access_log`). The settings `host`
[127.0.0.1], `port` [8080] and `metrics_port` [8081] say where it listens. A second function needs other
ports: `port=8090 metrics_port=8091 batching-watchdog serve FOLDER`. Ctrl-C answers what has arrived and ends.
"""


def main(arguments: Sequence[str]) -> int:
    """Serve the function that ``arguments`` name until a signal ends it, and return the exit status."""
    parser = argparse.ArgumentParser(
        prog="batching-watchdog serve",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="folder of the function")
    kinds = parser.add_mutually_exclusive_group()
    kinds.add_argument(
        "--reload", action="store_true", help="start again when a .py file or the stack file changes"
    )
    kinds.add_argument(
        "--debug",
        action="store_true",
        help="run the handler in this one process, a request at a time, without time limits and batches, so "
        "that breakpoint() works",
    )
    options = parser.parse_args(arguments)
    if not options.folder.is_dir():
        parser.error(f"FOLDER: {options.folder} is not a folder")
    try:
        source = find(options.folder, {}, os.environ)
        environ = OWN | dict(source.environ)
        if options.debug:
            return _debugged(environ)
    except WatchdogError as error:
        trace = f"{error.trace}\n\n" if isinstance(error, HandlerNotLoaded) and error.trace else ""
        sys.stderr.write(logs.printable(f"{trace}batching-watchdog serve: {error}\n"))
        return error.exit_status
    return _reloaded(source, options.folder) if options.reload else app.main(environ)


def _debugged(environ: Mapping[str, str]) -> int:
    """Serve in this process, which keeps the terminal, until Ctrl-C; return the exit status."""
    from werkzeug.serving import make_server  # noqa: PLC0415 - for a debugger only

    from batching_watchdog.worker.wsgi import create_app  # noqa: PLC0415 - likewise

    config = app.configured(environ)
    os.environ.update(worker_environment(config, environ))
    function = create_app(whole=whole)
    function.teardown_request(_take_back_interrupts)
    server = make_server(config.host, config.port, function)
    sys.stderr.write(f"listens on {app.url(config.host, server.port)}\n")
    server.serve_forever()
    return 0


def _take_back_interrupts(_error: BaseException | None) -> None:
    """Let Ctrl-C end the command: a debugger keeps it, and would stop at the next one within the server."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


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
