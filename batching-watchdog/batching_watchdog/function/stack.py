"""Reads stack files: faas-cli's YAML, as far as it says how a function runs. [P]

Owns the substitution of ``${VAR}`` in the raw text, the merge of ``environment_file`` over ``environment``,
and every value as the text that faas-cli would send. The caller reads files: ``read_file`` is an argument.
PyYAML comes with the extra ``cli``: an image has no stack file, and no need of it.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import yaml

from batching_watchdog.errors import StackError

_EXPRESSION: Final = re.compile(r"\$\{([^}]*)\}")
_VARIABLE: Final = re.compile(r"([A-Za-z_]\w*)(?::?-(.*))?", re.DOTALL)


class _TextLoader(yaml.SafeLoader):
    """Loads every scalar as text: faas-cli decodes into strings, so ``1.10`` is not 1.1.

    Only ``<<`` keeps its meaning.
    """

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {  # noqa: RUF012 - yaml's own name
        "<": [("tag:yaml.org,2002:merge", re.compile(r"^(?:<<)$"))]
    }


def functions(text: str, environ: Mapping[str, str], where: str) -> Mapping[str, Any]:
    """Return the functions in the ``text`` of a stack file as they are written; none if it has no such key.

    ``environ`` fills ``${VAR}`` and ``${VAR:-default}``. Raises ``StackError`` that names ``where``, key and
    rule.
    """
    declared = _load(text, environ, where).get("functions") or {}
    if not isinstance(declared, dict):
        raise StackError(f"{where}: functions: must be a map of names to functions")
    return declared


def environment(
    function: Mapping[str, Any], environ: Mapping[str, str], read_file: Callable[[str], str], where: str
) -> dict[str, str]:
    """Return the environment of one function, its files over its own.

    ``read_file`` gives the text of such a file (``OSError`` if there is none). Raises as ``functions``.
    """
    merged = dict(text_map(function, "environment", where))
    for path in _texts(function, "environment_file", "files, such as [env.yml]", where):
        try:
            loaded = _load(read_file(path), environ, path)
        except (OSError, UnicodeDecodeError) as error:
            raise StackError(f"{where}: environment_file: {path}: {error}") from None
        merged |= text_map(loaded, "environment", path)
    return merged


def secrets(function: Mapping[str, Any], where: str) -> list[str]:
    """Return the names of one function's secrets. Raises as ``functions``."""
    return _texts(function, "secrets", "names", where)


def text_map(function: Mapping[str, Any], key: str, where: str) -> dict[str, str]:
    """Return the map of names to values below ``key``. Raises as ``functions``."""
    value = function.get(key) or {}
    if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
        raise StackError(f"{where}: {key}: must be a map of names to plain values")
    return value


def _texts(function: Mapping[str, Any], key: str, of: str, where: str) -> list[str]:
    value = function.get(key) or []
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise StackError(f"{where}: {key}: must be a list of {of}")
    return value


def _load(text: str, environ: Mapping[str, str], where: str) -> Mapping[str, Any]:
    """Return the map in ``text``; an empty one for no document."""

    def value(match: re.Match[str]) -> str:
        parts = _VARIABLE.fullmatch(match[1])
        if parts is None:
            raise StackError(f"{where}: {match[0]}: only ${{VAR}} and ${{VAR:-default}} are understood")
        return environ.get(parts[1]) or parts[2] or ""

    try:
        reader = _TextLoader(_EXPRESSION.sub(value, text))
        reader.name = where
        node = reader.get_single_node()
        for key, line in _given_twice(node):
            raise StackError(f"{where}: {key}: is given twice, line {line}")
        document = {} if node is None else reader.construct_document(node)
    except (yaml.YAMLError, RecursionError) as error:
        raise StackError(f"{where}: not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(document, dict):
        raise StackError(f"{where}: must be a map")
    return document


def _given_twice(node: yaml.Node | None, path: str = "") -> Iterator[tuple[str, int]]:
    """Yield key and line of each key that its map has already: YAML itself would keep the last one."""
    if isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield from _given_twice(value, f"{path}[{index}]")
    elif isinstance(node, yaml.MappingNode):
        seen = set()
        for key, value in node.value:
            name = f"{path}.{key.value}" if path else str(key.value)
            if name in seen:
                yield name, key.start_mark.line + 1
            seen.add(name)
            yield from _given_twice(value, name)
