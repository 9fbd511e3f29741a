"""Stores secrets as files: one per secret, mode 0600, below the run folder.

A container would see its secrets at ``/var/openfaas/secrets``; a process finds them in the folder in its
environment variable ``secret_mount_path``. It holds only the secrets that the function requested.
"""

import base64
import binascii
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tailbound_lab.local.errors import ConflictError, InvalidRequestError, NotFoundError


class Secrets:
    """The secrets of every namespace; callers have checked the names."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def names(self, namespace: str) -> list[str]:
        """Return the sorted names of a namespace's secrets; values never leave this module."""
        return sorted(path.name for path in (self._folder / namespace).glob("*"))

    def create(self, name: str, namespace: str, document: Mapping[str, Any]) -> None:
        """Store a new secret. Raises ``ConflictError`` if the name exists."""
        path = self._folder / namespace / name
        if path.exists():
            raise ConflictError(f"secret {name} exists in namespace {namespace}")
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        _write_private(path, _value(document))

    def update(self, name: str, namespace: str, document: Mapping[str, Any]) -> None:
        """Replace a secret's value; a replica sees it after its next start."""
        _write_private(self._existing(name, namespace), _value(document))

    def delete(self, name: str, namespace: str) -> None:
        """Forget a secret."""
        self._existing(name, namespace).unlink()

    def check(self, names: Iterable[str], namespace: str) -> None:
        """Raise ``InvalidRequestError`` with the first secret that does not exist."""
        for name in names:
            if not (self._folder / namespace / name).is_file():
                raise InvalidRequestError(f"secrets: {name!r} does not exist in namespace {namespace}")

    def mount(self, names: Iterable[str], namespace: str, folder: Path) -> None:
        """Create ``folder`` with the secrets ``names``; a deleted one is left out."""
        folder.mkdir(parents=True, mode=0o700)
        for name in names:
            source = self._folder / namespace / name
            if source.is_file():
                _write_private(folder / name, source.read_bytes())

    def _existing(self, name: str, namespace: str) -> Path:
        path = self._folder / namespace / name
        if not path.is_file():
            raise NotFoundError(f"secret {name} does not exist in namespace {namespace}")
        return path


def _write_private(path: Path, value: bytes) -> None:
    # Created with its mode: never readable by others, even before a chmod.
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(value)


def _value(document: Mapping[str, Any]) -> bytes:
    raw, text = document.get("rawValue"), document.get("value")
    try:
        if isinstance(raw, str) and raw:
            return base64.b64decode(raw, validate=True)
    except binascii.Error as error:
        raise InvalidRequestError(f"rawValue: must be base64: {error}") from None
    if isinstance(text, str) and text:
        return text.encode()
    raise InvalidRequestError("value: required: the secret's value, or rawValue in base64")
