"""Command line of the watchdog: serves by its environment alone, or tries a handler."""

import os
import sys

from batching_watchdog import __version__, app
from batching_watchdog.config import DESCRIPTIONS

USAGE = """usage: batching-watchdog [--version] [--help]
       batching-watchdog try FOLDER [--help]
       batching-watchdog serve FOLDER [--reload | --debug] [--help]

Serves a Python model with SLO-aware batches. To serve it takes no arguments: everything is
set by environment variables, with of-watchdog's names where the meaning is the same.
`try` measures the handler in FOLDER on this machine, and ends. `serve` serves it with the settings of its
stack file, and again after each change, or for a debugger.

"""


def main() -> None:
    """Run the watchdog until SIGTERM; exit 0 after a clean drain, 1 on a failure, 2 on a bad value."""
    arguments = sys.argv[1:]
    if arguments[:1] == ["try"]:
        # Imported here: serving needs none of it.
        from batching_watchdog.trial import command  # noqa: PLC0415 - as said

        sys.exit(command.main(arguments[1:]))
    if arguments[:1] == ["serve"]:
        from batching_watchdog.trial import reload  # noqa: PLC0415 - as above

        sys.exit(reload.main(arguments[1:]))
    if arguments == ["--version"]:
        sys.stdout.write(f"batching-watchdog {__version__}\n")
        return
    if arguments:
        width = max(map(len, DESCRIPTIONS))
        lines = [f"  {name:<{width}}  {text}\n" for name, text in DESCRIPTIONS.items()]
        (sys.stdout if arguments in (["--help"], ["-h"]) else sys.stderr).write(USAGE + "".join(lines))
        sys.exit(0 if arguments in (["--help"], ["-h"]) else 2)
    sys.exit(app.main(os.environ))


if __name__ == "__main__":
    main()
