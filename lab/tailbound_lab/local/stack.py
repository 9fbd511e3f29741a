"""Reads stack.yml into functions and the folders of their handlers. [P]

Owns the part of faas-cli's stack schema that applies after images are built: substitution of ``${VAR}`` in
the raw text, the merge of ``environment_file`` over ``environment``, and every value as the text that
faas-cli would send. The caller reads files: ``read_file`` is an argument.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import yaml

from slo_autoscaler.fields import parse_yaml
from tailbound_lab.local.errors import InvalidRequestError, StackError
from tailbound_lab.local.specs import DEFAULT_NAMESPACE, FunctionSpec, parse_deployment

_EXPRESSION: Final = re.compile(r"\$\{([^}]*)\}")
_VARIABLE: Final = re.compile(r"([A-Za-z_]\w*)(?::?-(.*))?", re.DOTALL)


@dataclass(frozen=True, slots=True)
class StackFunction:
    """One function of a stack file; ``handler`` is its folder as written there."""

    spec: FunctionSpec
    handler: str


class _TextLoader(yaml.SafeLoader):
    """Loads every scalar as text: faas-cli decodes into strings, so ``1.10`` is not 1.1.

    Only ``<<`` keeps its meaning.
    """

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {  # noqa: RUF012 - yaml's own name
        "<": [("tag:yaml.org,2002:merge", re.compile(r"^(?:<<)$"))]
    }


def parse_stack(
    text: str, environ: Mapping[str, str], read_file: Callable[[str], str], where: str = "stack.yml"
) -> tuple[StackFunction, ...]:
    """Return the functions of a stack file, in the file's order.

    ``environ`` fills ``${VAR}`` and ``${VAR:-default}``; ``read_file`` gives the text of an environment file
    (``OSError`` if there is none). Raises ``StackError`` that names file, function, key and rule.
    """
    document = _load(substitute(text, environ, where), where)
    functions = document.get("functions") or {}
    if not isinstance(functions, dict) or not functions:
        raise StackError(f"{where}: functions: must name at least one function")
    return tuple(
        _function(name, entry, environ, read_file, f"{where}: {name}") for name, entry in functions.items()
    )


def substitute(text: str, environ: Mapping[str, str], where: str) -> str:
    """Return ``text`` with ``${VAR}`` and ``${VAR:-default}`` replaced; unset without default is empty."""

    def value(match: re.Match[str]) -> str:
        parts = _VARIABLE.fullmatch(match[1])
        if parts is None:
            raise StackError(f"{where}: {match[0]}: only ${{VAR}} and ${{VAR:-default}} are understood")
        return environ.get(parts[1]) or parts[2] or ""

    return _EXPRESSION.sub(value, text)


def _function(
    name: str, entry: object, environ: Mapping[str, str], read_file: Callable[[str], str], where: str
) -> StackFunction:
    if not isinstance(entry, dict):
        raise StackError(f"{where}: must be a map with handler and image")
    handler, image = entry.get("handler"), entry.get("image")
    if not isinstance(handler, str) or not handler:
        raise StackError(f"{where}: handler: required: the folder that holds handler.py")
    environment = dict(_text_map(entry, "environment", where))
    files = entry.get("environment_file") or []
    if not isinstance(files, list) or not all(isinstance(path, str) for path in files):
        raise StackError(f"{where}: environment_file: must be a list of files, such as [env.yml]")
    for path in files:
        try:
            loaded = _load(substitute(read_file(path), environ, path), path)
        except (OSError, UnicodeDecodeError) as error:
            raise StackError(f"{where}: environment_file: {path}: {error}") from None
        environment |= _text_map(loaded, "environment", path)
    body = {
        "service": name,
        "image": image or f"{name}:latest",
        "namespace": entry.get("namespace") or DEFAULT_NAMESPACE,
        "envProcess": entry.get("fprocess") or "",
        "envVars": environment,
        "labels": _text_map(entry, "labels", where),
        "annotations": _text_map(entry, "annotations", where),
        "limits": entry.get("limits") or {},
    }
    try:
        return StackFunction(parse_deployment(body), handler)
    except InvalidRequestError as error:
        raise StackError(f"{where}: {error}") from None


def _load(text: str, where: str) -> Mapping[str, Any]:
    try:
        document, wrong = parse_yaml(text, where, _TextLoader)
    except ValueError as error:
        raise StackError(f"{where}: {error}") from None
    for key, rule in wrong:
        raise StackError(f"{where}: {key}: {rule}")
    if not isinstance(document, dict):
        raise StackError(f"{where}: must be a map")
    return document


def _text_map(document: Mapping[str, Any], key: str, where: str) -> dict[str, str]:
    value = document.get(key) or {}
    if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
        raise StackError(f"{where}: {key}: must be a map of names to plain values")
    return value
