"""The ``slo-autoscaler`` command: ``run`` (also without a word, for it is the main job) and its companions.

Only the command that is asked for is imported: what ``simulate`` needs to draw never enters the controller.
"""

import importlib
import sys
from collections.abc import Callable, Sequence
from typing import Final

COMMANDS: Final[dict[str, tuple[str, str]]] = {
    "run": ("slo_autoscaler.app", "size functions so that they meet their SLO (the default)"),
    "status": (
        "slo_autoscaler.cli.status",
        "show every function: whether its SLO is met, its replicas, and why",
    ),
    "explain": ("slo_autoscaler.cli.explain", "say in sentences what was decided for a function, and why"),
}
"""Word -> (module whose ``main(arguments)`` gives the exit status, what it does)."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that the first word names; return its exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    module, _ = COMMANDS[words.pop(0) if words and words[0] in COMMANDS else "run"]
    run: Callable[[Sequence[str]], int] = importlib.import_module(module).main
    return run(words)


def summary() -> str:
    """Return one line for each command, for the help text."""
    return "commands:\n" + "\n".join(f"  {word:10} {about}" for word, (_, about) in COMMANDS.items())
