"""Dispatches ``slo-autoscaler``: ``run`` (the default), ``status``, ``explain`` and ``hold``.

``kubectl slo`` has all of them but ``run``. Owns the names of the commands. Imports only the requested one.
Next step: ``app`` for ``run``, ``cli`` for the others.
"""

import importlib
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from slo_autoscaler.cli import KUBECTL, SHELL, Caller

COMMANDS: Final[dict[str, tuple[str, str]]] = {
    "run": ("slo_autoscaler.app", "size functions so that they meet their SLO (the default)"),
    "status": (
        "slo_autoscaler.cli.status",
        "show every function: whether its SLO is met, its replicas, and why",
    ),
    "explain": ("slo_autoscaler.cli.explain", "explain in sentences the last decisions for a function"),
    "hold": ("slo_autoscaler.cli.hold", "pause the scaling of a function until a time"),
}
"""Command -> (module whose ``main(arguments)`` returns the exit status, its effect)."""

PLUGIN: Final = {word: entry for word, entry in COMMANDS.items() if word != "run"}
"""The commands of ``kubectl slo``."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that the first word names; return its exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words and words[0] not in COMMANDS and not words[0].startswith("-"):
        return _unknown(words[0], COMMANDS, SHELL, ", or a flag of run")
    word = words.pop(0) if words and words[0] in COMMANDS else "run"
    return _run(word, words, SHELL)


def kubectl(arguments: Sequence[str] | None = None) -> int:
    """Run the command of ``kubectl slo`` that the first word names; return its exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help", "help"):
        sys.stdout.write(f"usage: kubectl slo COMMAND [--help]\n\n{_summary(PLUGIN)}\n")
        return 0
    if words[0] not in PLUGIN:
        return _unknown(words[0], PLUGIN, KUBECTL)
    return _run(words.pop(0), words, KUBECTL)


def complete(arguments: Sequence[str] | None = None) -> int:
    """Complete a command line of ``kubectl slo``; return the exit status."""
    words = sys.argv[1:] if arguments is None else arguments
    run: Callable[..., int] = importlib.import_module("slo_autoscaler.cli.complete").main
    return run(words, PLUGIN)


def _run(word: str, words: Sequence[str], caller: Caller) -> int:
    module, _ = COMMANDS[word]
    try:
        run: Callable[..., int] = importlib.import_module(module).main
    except KeyboardInterrupt:  # Ctrl-C during the imports, half a second
        return 130
    if word == "run":
        return run(words, epilog=_summary(COMMANDS))
    try:
        status = run(words, caller)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader has closed the pipe (`| head`), so the flush at exit would fail as well.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return status


def _unknown(word: str, commands: Iterable[str], caller: Caller, or_else: str = "") -> int:
    """Say that a word is no command, or what does the work of one that was removed."""
    removed: Mapping[str, str] = importlib.import_module("slo_autoscaler.settings.fields").REMOVED
    rule = removed.get(f"slo-autoscaler {word}", f"must be one of {', '.join(commands)}{or_else}")
    sys.stderr.write(f"{caller.program}: {word!r} {rule}\n")
    return 2


def _summary(commands: Mapping[str, tuple[str, str]]) -> str:
    """Return one line for each command, for the help text."""
    return "commands:\n" + "\n".join(f"  {word:10} {about}" for word, (_, about) in commands.items())


if __name__ == "__main__":
    sys.exit(main())
