"""``slo-autoscaler explain FUNCTION``: the last decisions as sentences.

Decisions come from the running autoscaler (its /decisions), or from a decision log; ``words`` has the words.

Exit statuses: 0 told; 1 nothing is known of the function, or the autoscaler does not answer; 2 the command
line, the configuration or the log cannot be used.
"""

import argparse
import json
import os
import shutil
import sys
import textwrap
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from http.client import HTTPException
from pathlib import Path
from typing import Any, Final
from urllib.error import HTTPError, URLError
from urllib.parse import urlencode
from urllib.request import urlopen

from slo_autoscaler.config import OVERRIDES, read_web
from slo_autoscaler.errors import ConfigError
from slo_autoscaler.journal import DEFAULT_LAST, named, of_log
from slo_autoscaler.words import score, sentence

TIMEOUT: Final = 10.0
"""Seconds that the autoscaler may take to answer."""

NARROWEST: Final = 40
"""Columns of a terminal for which lines are broken."""


def of_lines(lines: Iterable[str], wanted: str, last: int) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the last decisions of a log for ``wanted``, and names spelled alike when there are none."""
    found: dict[str, deque[dict[str, Any]]] = {}
    for line in lines:
        decision = of_log(line)
        if decision is not None:
            found.setdefault(decision["function_name"], deque(maxlen=last)).append(decision)
    names, near = named(wanted, sorted(found))
    return [decision for name in names for decision in found[name]], near


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    flags = _parser().parse_args(arguments)
    try:
        if flags.log is not None:
            return _tell(*_from_log(flags.log, flags.function, flags.last), flags.function)
        found = _asked(flags.url or _own_url(flags.config), flags.function, flags.last)
    except ConfigError as error:
        for line in error.lines:
            _complain(line)
        return 2
    if isinstance(found, str):
        _complain(found)
        return 1
    decisions = [decision for answer in found for decision in answer["decisions"]]
    status = _tell(decisions, [], flags.function)
    for answer in found:
        if "score" in answer:
            _say(score(answer["function_name"], answer["score"]))
    return status


def _tell(decisions: Sequence[Mapping[str, Any]], near: Sequence[str], function: str) -> int:
    if not decisions:
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        _complain(f"no decisions for {function!r}{hint}")
        return 1
    several_days = len({str(decision["time"])[:10] for decision in decisions}) > 1
    for decision in decisions:
        _say(sentence(decision, with_date=several_days))
    return 0


def _from_log(path: str, function: str, last: int) -> tuple[list[dict[str, Any]], list[str]]:
    try:
        if path == "-":
            return of_lines(sys.stdin, function, last)
        with Path(path).open(encoding="utf-8", errors="replace") as lines:
            return of_lines(lines, function, last)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            [f"--log: {path}: cannot be read: {getattr(error, 'strerror', 'not text')}"]
        ) from None


def _own_url(config: str | None) -> str:
    """Return where the autoscaler of this machine serves, by its configuration or the default."""
    key, variable = OVERRIDES["web_port"]
    port = os.environ.get(variable)
    web = read_web(config, {key: port} if port else {})
    if web.port == 0:
        raise ConfigError([f"{config}: web.port: 0 is any port: give the one of the log with --url"])
    host = "127.0.0.1" if web.host in ("0.0.0.0", "") else web.host  # noqa: S104  (a comparison)
    return f"http://{f'[{host}]' if ':' in host else host}:{web.port}"


def _asked(url: str, function: str, last: int) -> list[dict[str, Any]] | str:
    """Return what the running autoscaler says, or what is to be complained of."""
    if not url.startswith(("http://", "https://")):
        raise ConfigError([f"--url: {url!r} must be an http:// or https:// URL"])
    address = f"{url.rstrip('/')}/decisions?{urlencode({'function': function, 'last': last})}"
    try:
        document = _fetched(address)
    except URLError as error:
        return f"{url}: the autoscaler does not answer: {error.reason}"
    except (HTTPException, OSError, ValueError) as error:
        return f"{url}: no answer that makes sense, is this its web port? {error}"
    if isinstance(document, dict) and isinstance(document.get("found"), list):
        return list(document["found"])
    if isinstance(document, dict) and isinstance(document.get("error"), str):
        return str(document["error"])
    return f"{url}: no answer that makes sense, is this its web port? {str(document)[:80]}"


def _fetched(address: str) -> object:
    """Return the JSON of an answer, whatever its status."""
    try:
        answer = urlopen(address, timeout=TIMEOUT)  # noqa: S310  (only http and https come here)
    except HTTPError as error:
        answer = error
    with answer:
        return json.load(answer)


def _say(text: str) -> None:
    """Write a line; a terminal gets it broken between words, a pipe whole."""
    if sys.stdout.isatty():
        width = max(shutil.get_terminal_size().columns, NARROWEST)
        text = textwrap.fill(text, width, subsequent_indent="    ", break_on_hyphens=False)
    sys.stdout.write(text + "\n")


def _complain(line: str) -> None:
    sys.stderr.write(f"slo-autoscaler: {line}\n")


def _whole(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} must be a whole number of at least 1")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="slo-autoscaler explain",
        description="Says in sentences what was decided for a function, and why. Times are UTC.",
    )
    parser.add_argument("function", metavar="FUNCTION", help="name.namespace, or the name alone")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--url", help="of the running autoscaler's web port [http://127.0.0.1:8082]")
    source.add_argument("--config", metavar="FILE", help="its configuration, for the port")
    source.add_argument("--log", metavar="FILE", help="a decision log instead; - is the standard input")
    parser.add_argument(
        "--last", type=_whole, default=DEFAULT_LAST, metavar="N", help=f"how many [{DEFAULT_LAST}]"
    )
    return parser
