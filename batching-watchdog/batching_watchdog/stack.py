"""The environment that a stack file gives to the function of one folder. [P]

Reads from faas-cli's schema ``functions``, their ``handler`` and ``environment``, with ``${VAR}`` and
``${VAR:-default}`` replaced. A YAML package would enter every image for it, so this parser knows block
mappings, one-line flow mappings, quotes and comments, and skips anything else.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

_EXPRESSION: Final = re.compile(r"\$\{(\w+)(?::?-([^}]*))?\}")
_ENTRY: Final = re.compile(r"""( *)("[^"]*"|'[^']*'|[^\s"'#:-][^"'#:]*)\s*:(?:\s+(.*))?$""")
_COMMENT: Final = re.compile(r"""^((?:[^"'#]|"[^"]*"|'[^']*'|(?<!\s)#)*?)\s*(?:(?:^|\s)#.*)?$""")


@dataclass(frozen=True, slots=True)
class StackFunction:
    """One function of a stack file."""

    handler: str
    """Folder of the handler, as written in the file."""
    environment: Mapping[str, str]


def functions(text: str, environ: Mapping[str, str]) -> dict[str, StackFunction]:
    """Return the functions in the ``text`` of a stack file by name; ``environ`` fills its expressions."""
    handlers: dict[str, str] = {}
    environments: dict[str, dict[str, str]] = {}
    filled = _EXPRESSION.sub(lambda named: environ.get(named[1]) or named[2] or "", text)
    for path, value in _values(filled):
        match path:
            case ("functions", name, "handler"):
                handlers[name] = value
            case ("functions", name, "environment"):
                environments.setdefault(name, {}).update(_flow(value))
            case ("functions", name, "environment", variable):
                environments.setdefault(name, {})[variable] = value
    return {name: StackFunction(handler, environments.get(name, {})) for name, handler in handlers.items()}


def _values(text: str) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield each scalar with the keys above it."""
    above: list[tuple[int, str]] = []
    for line in text.splitlines():
        entry = _ENTRY.fullmatch(_without_comment(line))
        if entry is None:
            continue
        indent, key = len(entry[1]), _plain(entry[2])
        while above and above[-1][0] >= indent:
            above.pop()
        above.append((indent, key))
        if entry[3]:
            yield tuple(key for _, key in above), _plain(entry[3])


def _without_comment(line: str) -> str:
    kept = _COMMENT.match(line)
    return (kept[1] if kept else line).rstrip()


def _flow(value: str) -> dict[str, str]:
    """Return the pairs of a mapping in braces."""
    pairs = [pair.partition(":") for pair in value.strip("{} ").split(",") if ":" in pair]
    return {_plain(key): _plain(text) for key, _, text in pairs}


def _plain(text: str) -> str:
    text = text.strip()
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'" else text
