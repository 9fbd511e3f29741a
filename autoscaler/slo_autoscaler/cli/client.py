"""Queries the autoscaler on this machine or at ``--url``, for ``explain`` and ``status``.

Owns its address, the time limit, and the messages about a missing answer.
"""

import argparse
import json
import sys
from http.client import HTTPException
from typing import Any, Final
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

from slo_autoscaler.errors import ConfigError
from slo_autoscaler.fields import host_and_port

TIMEOUT: Final = 10.0
"""Time limit of an answer, in seconds."""

EVERYWHERE: Final = ("0.0.0.0", "")  # noqa: S104  (compared with, never listened on)


class NoAnswerError(Exception):
    """The autoscaler does not answer, or another server does; the one-line message names the address."""


def address(url: str | None, host: str, port: int | None, key: str) -> str:
    """Return ``url``, or the address in the configuration. Raises ``ConfigError``.

    ``key`` is the configuration key of the port.
    """
    if url is not None:
        if not url.startswith(("http://", "https://")):
            raise ConfigError([f"--url: {url!r} must be an http:// or https:// URL"])
        return url.rstrip("/")
    if not port:
        why = "null: there is no page" if port is None else "0 is any port: pass the logged address to --url"
        raise ConfigError([f"{key}: {why}"])
    return f"http://{host_and_port('127.0.0.1' if host in EVERYWHERE else host, port)}"


def ask(url: str, path: str, expected: str) -> dict[str, Any]:
    """Return the JSON object at a path, which must have the list ``expected``. Raises ``NoAnswerError``.

    An answer with another status has ``error``, the autoscaler's message.
    """
    try:
        document = _fetched(url + path)
    except URLError as error:
        fault = f"the autoscaler does not answer: {error.reason}; --url takes the address that its log names"
        raise NoAnswerError(f"{url}: {fault}") from None
    except (HTTPException, OSError, ValueError) as error:
        raise NoAnswerError(f"{url}: not an answer of the autoscaler; check the port: {error}") from None
    if isinstance(document, dict) and isinstance(document.get(expected), list):
        return document
    if isinstance(document, dict) and isinstance(document.get("error"), str):
        raise NoAnswerError(str(document["error"]))
    raise NoAnswerError(f"{url}: not an answer of the autoscaler; check the port: {str(document)[:80]}")


def complain(*lines: str) -> None:
    """Write error messages to stderr."""
    for line in lines:
        sys.stderr.write(f"slo-autoscaler: {line}\n")


def add_source(parser: argparse.ArgumentParser, default: str) -> Any:
    """Add the flags that select the autoscaler to query; return their group."""
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--url", help=f"query the autoscaler at URL [{default}]")
    source.add_argument("--config", metavar="FILE", help="read the address from the configuration FILE")
    return source


def _fetched(url: str) -> object:
    """Return the JSON of an answer, whatever its status."""
    try:
        answer = urlopen(url, timeout=TIMEOUT)  # noqa: S310  (only http and https come here)
    except HTTPError as error:
        answer = error
    with answer:
        return json.load(answer)
