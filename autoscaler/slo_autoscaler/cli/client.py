"""Asks the autoscaler that runs on this machine, or at ``--url``: what ``explain`` and ``status`` share.

Owns where it serves, how long it may take, and what is said when it does not answer.
"""

import argparse
import json
import sys
from http.client import HTTPException
from typing import Any, Final
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

from slo_autoscaler.errors import ConfigError

TIMEOUT: Final = 10.0
"""Seconds that the autoscaler may take to answer."""

EVERYWHERE: Final = ("0.0.0.0", "")  # noqa: S104  (compared with, never listened on)


class NoAnswerError(Exception):
    """The autoscaler does not answer, or something else does: one line that names the address."""


def address(url: str | None, host: str, port: int | None, key: str) -> str:
    """Return ``url``, or where the configuration says that it serves. Raises ``ConfigError``.

    ``key`` is the port's in the configuration.
    """
    if url is not None:
        if not url.startswith(("http://", "https://")):
            raise ConfigError([f"--url: {url!r} must be an http:// or https:// URL"])
        return url.rstrip("/")
    if not port:
        why = (
            "null: there is no page" if port is None else "0 is any port: give the one of the log with --url"
        )
        raise ConfigError([f"{key}: {why}"])
    host = "127.0.0.1" if host in EVERYWHERE else host
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def ask(url: str, path: str, expected: str) -> dict[str, Any]:
    """Return the JSON object at a path, which must have the list ``expected``. Raises ``NoAnswerError``.

    An answer with another status has ``error``, in the autoscaler's own words.
    """
    try:
        document = _fetched(url + path)
    except URLError as error:
        raise NoAnswerError(f"{url}: the autoscaler does not answer: {error.reason}") from None
    except (HTTPException, OSError, ValueError) as error:
        raise NoAnswerError(f"{url}: not the autoscaler's answer, is this its port? {error}") from None
    if isinstance(document, dict) and isinstance(document.get(expected), list):
        return document
    if isinstance(document, dict) and isinstance(document.get("error"), str):
        raise NoAnswerError(str(document["error"]))
    raise NoAnswerError(f"{url}: not the autoscaler's answer, is this its port? {str(document)[:80]}")


def complain(*lines: str) -> None:
    """Write what is wrong to stderr."""
    for line in lines:
        sys.stderr.write(f"slo-autoscaler: {line}\n")


def add_source(parser: argparse.ArgumentParser, default: str) -> Any:
    """Add the flags that say which autoscaler is asked; return their group."""
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--url", help=f"of the running autoscaler [{default}]")
    source.add_argument("--config", metavar="FILE", help="its configuration, for the address")
    return source


def _fetched(url: str) -> object:
    """Return the JSON of an answer, whatever its status."""
    try:
        answer = urlopen(url, timeout=TIMEOUT)  # noqa: S310  (only http and https come here)
    except HTTPError as error:
        answer = error
    with answer:
        return json.load(answer)
