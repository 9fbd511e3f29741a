"""Finds the handler in a folder on a developer's machine, and the settings that it is deployed with.

``try``, ``serve`` and ``testing`` use it; in an image the settings are the environment alone.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from batching_watchdog.errors import HandlerNotLoaded, StackError

SECRETS: Final = Path("/var/openfaas/secrets")
"""Where OpenFaaS mounts them."""
LOCAL_SECRETS: Final = ".secrets"
"""Folder beside the stack file with one file for each secret, as for ``faas-cli local-run``."""
STACK_FILES: Final = ("stack.yaml", "stack.yml")


@dataclass(frozen=True, slots=True)
class Source:
    """A function as its author has it: the folder of its handler, and its environment."""

    folder: Path
    environ: Mapping[str, str]
    slo_from: str
    """Source of slo_latency; empty: the default."""

    @property
    def handler(self) -> str:
        """Path of handler.py, for messages."""
        return str(self.folder / "handler.py")


def find(folder: Path, flags: Mapping[str, str], environ: Mapping[str, str]) -> Source:
    """Return the function in ``folder``; ``flags`` win over ``environ``, and that over its stack file.

    The handler is FOLDER/handler.py or FOLDER/function/handler.py. The stack file is the nearest above the
    folder with a function whose handler is that folder. Raises ``HandlerNotLoaded`` without a handler.py,
    ``StackError`` for a stack file that cannot be read.
    """
    places = [folder, folder / "function"]
    source = next((place for place in places if (place / "handler.py").is_file()), None)
    if source is None:
        raise HandlerNotLoaded(
            f"{folder} has no handler.py, nor has {folder / 'function'}: name the folder that has it, "
            "or begin one with: faas-cli new --lang python3-inference NAME"
        )
    declared, stack_file = _stack_environment(folder.resolve(), environ)
    sources = {"--slo-latency": flags, "the environment": environ, stack_file: declared}
    slo_from = next((name for name, source in sources.items() if source.get("slo_latency", "").strip()), "")
    merged = {**declared, **environ, **flags, "function_path": str(source.resolve())}
    return Source(source, merged, slo_from)


def stack_files(folder: Path) -> list[Path]:
    """Return the places of the stack file of ``folder``, the nearest first."""
    return [above / name for above in folder.resolve().parents for name in STACK_FILES]


def _stack_environment(folder: Path, environ: Mapping[str, str]) -> tuple[Mapping[str, str], str]:
    """Return the environment of the function whose handler is ``folder``, and its stack file.

    Without one: no environment and an empty name. Raises ``StackError``.
    """
    for file in stack_files(folder):
        if file.is_file() and (declared := _declared(file, folder, environ)) is not None:
            return declared, _short(file)
    return {}, ""


def _declared(file: Path, folder: Path, environ: Mapping[str, str]) -> Mapping[str, str] | None:
    """Return the environment of the function whose handler is ``folder``; None if ``file`` has none."""
    shown = _short(file)
    try:
        from batching_watchdog.function import stack  # noqa: PLC0415 - an image has no stack file, and no PyYAML
    except ModuleNotFoundError:
        raise StackError(
            f"{shown}: to read it, install batching-watchdog with its extra cli, or pyyaml"
        ) from None
    for name, function in stack.functions(file.read_text(errors="replace"), environ, shown).items():
        handler = function.get("handler") if isinstance(function, dict) else None
        if isinstance(handler, str) and (file.parent / handler).resolve() == folder:
            where = f"{shown}: {name}"
            given = stack.environment(function, environ, lambda path: (file.parent / path).read_text(), where)
            return _secrets_folder(stack.secrets(function, where), file.parent / LOCAL_SECRETS, where) | given
    return None


def _secrets_folder(secrets: Sequence[str], local: Path, where: str) -> dict[str, str]:
    """Return the variable that says where the secrets are. Raises ``StackError`` for one that is nowhere."""
    if all((SECRETS / name).is_file() for name in secrets):
        return {}
    for name in secrets:
        if not (local / name).is_file():
            raise StackError(
                f"{where}: secrets: {name}: on this machine it is the file {_short(local / name)}"
            )
    return {"secret_mount_path": str(local)}


def _short(file: Path) -> str:
    """Return the shorter of the absolute and the relative path."""
    return min(str(file), os.path.relpath(file), key=len)
