"""``kubectl_complete-slo``: completes a command line of ``kubectl slo``, as kubectl asks plugins to.

kubectl passes the words after ``kubectl slo``, the last one as far as it is typed. Each line of the answer is
a word, with a description after a tab; the last line is cobra's directive.
"""

import importlib
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Final

from slo_autoscaler.cli import KUBECTL, client

NO_FILES: Final = ":4"
"""The directive to complete no names of files."""


def main(arguments: Sequence[str], commands: Mapping[str, tuple[str, str]]) -> int:
    """Write the completions of the last word; return 0, as there may be none.

    ``commands``: command -> (its module, its effect).
    """
    *words, begun = arguments or [""]
    for word in _words(commands, words, begun):
        if word.startswith(begun):
            sys.stdout.write(f"{word}\n")
    sys.stdout.write(f"{NO_FILES}\n")
    return 0


def _words(commands: Mapping[str, tuple[str, str]], words: Sequence[str], begun: str) -> list[str]:
    if not words:
        return [f"{name}\t{about}" for name, (_, about) in commands.items()]
    if words[0] not in commands:
        return []
    if begun.startswith("-"):
        usage = importlib.import_module(commands[words[0]][0]).parser(KUBECTL).format_usage()
        return sorted(set(re.findall(r"--[a-z-]+", usage)))
    try:
        with client.forwarded(client.PORT) as url:
            return [str(name) for name in client.ask(url, "/decisions", "functions")["functions"]]
    except client.NoAnswerError:
        return []
