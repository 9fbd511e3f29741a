"""Dispatches ``slo-autoscaler``: ``run`` (the default), ``status``, ``explain``, ``openslo`` and ``hold``.

Owns the names of the commands. Imports only the requested command. Next step: ``app`` for ``run``, ``cli``
for the others.
"""

import importlib
import os
import sys
from collections.abc import Callable, Sequence
from typing import Final

COMMANDS: Final[dict[str, tuple[str, str]]] = {
    "run": ("slo_autoscaler.app", "size functions so that they meet their SLO (the default)"),
    "status": (
        "slo_autoscaler.cli.status",
        "show every function: whether its SLO is met, its replicas, and why",
    ),
    "explain": ("slo_autoscaler.cli.explain", "explain in sentences the last decisions for a function"),
    "openslo": ("slo_autoscaler.cli.openslo", "print the SLOs that functions declare as OpenSLO v1"),
    "hold": ("slo_autoscaler.cli.hold", "pause the scaling of a function until a time"),
}
"""Command -> (module whose ``main(arguments)`` returns the exit status, its effect)."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that the first word names; return its exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words and words[0] not in COMMANDS and not words[0].startswith("-"):
        sys.stderr.write(
            f"slo-autoscaler: {words[0]!r} must be one of {', '.join(COMMANDS)}, or a flag of run\n"
        )
        return 2
    word = words.pop(0) if words and words[0] in COMMANDS else "run"
    module, _ = COMMANDS[word]
    try:
        run: Callable[..., int] = importlib.import_module(module).main
    except KeyboardInterrupt:  # Ctrl-C during the imports, half a second
        return 130
    if word == "run":
        return run(words, epilog=_summary())
    try:
        status = run(words)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader has closed the pipe (`| head`), so the flush at exit would fail as well.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return status


def _summary() -> str:
    """Return one line for each command, for the help text."""
    return "commands:\n" + "\n".join(f"  {word:10} {about}" for word, (_, about) in COMMANDS.items())


if __name__ == "__main__":
    sys.exit(main())
