"""Turns the functions of a stack file into what the platform deploys. [P]

``batching_watchdog.function.stack`` reads the file. The caller reads further files: ``read_file`` is an
argument.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from batching_watchdog.errors import StackError as ReadError
from batching_watchdog.function import stack
from tailbound_lab.local.errors import InvalidRequestError, StackError
from tailbound_lab.local.specs import DEFAULT_NAMESPACE, FunctionSpec, parse_deployment


@dataclass(frozen=True, slots=True)
class StackFunction:
    """One function of a stack file; ``handler`` is its folder as written there."""

    spec: FunctionSpec
    handler: str


def parse_stack(
    text: str, environ: Mapping[str, str], read_file: Callable[[str], str], where: str = "stack.yml"
) -> tuple[StackFunction, ...]:
    """Return the functions of a stack file, in the file's order.

    ``environ`` fills ``${VAR}`` and ``${VAR:-default}``; ``read_file`` gives the text of an environment file
    (``OSError`` if there is none). Raises ``StackError`` that names file, function, key and rule.
    """
    try:
        declared = stack.functions(text, environ, where)
        if not declared:
            raise StackError(f"{where}: functions: must name at least one function")
        return tuple(
            _function(name, entry, environ, read_file, f"{where}: {name}") for name, entry in declared.items()
        )
    except ReadError as error:
        raise StackError(str(error)) from None


def _function(
    name: str, entry: object, environ: Mapping[str, str], read_file: Callable[[str], str], where: str
) -> StackFunction:
    if not isinstance(entry, dict):
        raise StackError(f"{where}: must be a map with handler and image")
    handler, image = entry.get("handler"), entry.get("image")
    if not isinstance(handler, str) or not handler:
        raise StackError(f"{where}: handler: required: the folder that holds handler.py")
    body = {
        "service": name,
        "image": image or f"{name}:latest",
        "namespace": entry.get("namespace") or DEFAULT_NAMESPACE,
        "envProcess": entry.get("fprocess") or "",
        "envVars": stack.environment(entry, environ, read_file, where),
        "labels": stack.text_map(entry, "labels", where),
        "annotations": stack.text_map(entry, "annotations", where),
        "limits": entry.get("limits") or {},
    }
    try:
        return StackFunction(parse_deployment(body), handler)
    except InvalidRequestError as error:
        raise StackError(f"{where}: {error}") from None
