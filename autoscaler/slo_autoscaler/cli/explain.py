"""``slo-autoscaler explain FUNCTION``: the last decisions as sentences.

Decisions come from the running autoscaler (its /decisions), or from a decision log; ``words`` formats them.

Exit statuses: 0 success; 1 neither a decision nor a problem is known for the function, or the autoscaler does
not answer; 2 the command line, the configuration or the log is invalid.
"""

import argparse
import os
import shutil
import sys
import textwrap
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

from slo_autoscaler.cli import SHELL, Caller, client
from slo_autoscaler.config import OVERRIDES
from slo_autoscaler.errors import ConfigError
from slo_autoscaler.settings.fields import MOST, printable, whole
from slo_autoscaler.show.journal import DEFAULT_LAST, named, of_log
from slo_autoscaler.show.words import score, sentence

NARROWEST: Final = 40
"""Minimum width for breaking lines, in columns."""


def of_lines(lines: Iterable[str], wanted: str, last: int) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the last decisions of a log for ``wanted``, or similar names if there are none."""
    found: dict[str, deque[dict[str, Any]]] = {}
    for line in lines:
        decision = of_log(line)
        if decision is not None:
            found.setdefault(decision["function_name"], deque(maxlen=last)).append(decision)
    names, near = named(wanted, sorted(found))
    return [decision for name in names for decision in found[name]], near


def main(arguments: Sequence[str] | None = None, caller: Caller = SHELL) -> int:
    """Run the command; return its exit status."""
    flags = parser(caller).parse_args(arguments)
    flags.function = client.qualified(flags.function, flags.namespace)
    try:
        if flags.log is not None:
            return _tell(*_from_log(flags.log, flags.function, flags.last), flags.function)
        query = urlencode({"function": flags.function, "last": flags.last})
        with client.reached(flags, caller, _overrides(), page=False) as url:
            found = client.ask(url, f"/decisions?{query}", "found")["found"]
    except ConfigError as error:
        client.complain(*error.lines)
        return 2
    except client.NoAnswerError as error:
        client.complain(str(error))
        return 1
    decisions = [each for answer in found for each in answer["decisions"]]
    troubled = [answer for answer in found if answer.get("problem")]
    status = _tell(decisions, [], flags.function) if decisions or not troubled else 0
    for answer in found:
        if answer.get("removed"):
            _say(f"{answer['function_name']} is removed: the platform does not list it any more")
    for answer in troubled:
        _say(f"{answer['function_name']} stays at its count: {answer['problem']}")
    for answer in found:
        if "score" in answer:
            _say(score(answer["function_name"], answer["score"]))
        if answer.get("boost"):
            _say(f"{answer['function_name']}: {answer['boost']}")
    return status


def _overrides() -> dict[str, object]:
    key, variable = OVERRIDES["web_port"]
    port = os.environ.get(variable)
    return {key: port} if port else {}


def _tell(decisions: Sequence[Mapping[str, Any]], near: Sequence[str], function: str) -> int:
    if not decisions:
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        client.complain(f"no decisions for {function!r}{hint}")
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


def _say(text: str) -> None:
    """Write a line without control characters, broken between words for a terminal only."""
    text = printable(text)
    if sys.stdout.isatty():
        width = max(shutil.get_terminal_size().columns, NARROWEST)
        text = textwrap.fill(text, width, subsequent_indent="    ", break_on_hyphens=False)
    sys.stdout.write(text + "\n")


def _whole(text: str) -> int:
    found = whole(text)
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} must be a whole number from 1 to {MOST}")
    return found


def parser(caller: Caller) -> argparse.ArgumentParser:
    """Return the command line's parser."""
    parser = argparse.ArgumentParser(
        prog=f"{caller.program} explain",
        description="Explains in sentences the last decisions for a function. Times are UTC.",
    )
    parser.add_argument(
        "function", metavar="FUNCTION", help="explain this function: name.namespace, or only the name"
    )
    client.add_namespace(parser, "any")
    source = client.add_source(parser, caller, "http://127.0.0.1:8082")
    source.add_argument("--log", metavar="FILE", help="read decisions from the log FILE; - is stdin")
    parser.add_argument(
        "--last", type=_whole, default=DEFAULT_LAST, metavar="N", help=f"show N decisions [{DEFAULT_LAST}]"
    )
    return parser
