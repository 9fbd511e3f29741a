"""``slo-autoscaler status``: the status page's table in a terminal.

Owns the layout in 80 columns. The content comes from the running autoscaler (its /api/functions), so that
page and terminal agree. Exit statuses: 0 success; 1 the autoscaler does not answer, or does not know the
function; 2 the command line or the configuration is invalid; 3 a function that is shown misses its SLO.
"""

import argparse
import json
import re
import sys
import textwrap
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final
from urllib.parse import urlencode

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from slo_autoscaler.cli import SHELL, Caller, client
from slo_autoscaler.errors import ConfigError
from slo_autoscaler.show.journal import named
from slo_autoscaler.show.words import COLUMNS, DEFAULT_SORT, SORTS, STATES, numbered

NARROW: Final = 80
"""Default width in a pipe, in columns; in a terminal the table has the terminal's width."""

MISSED: Final = 3
"""Exit status while a function that is shown misses its SLO."""

WIDE: Final = 120
"""Minimum width for all columns of the page."""

_HELD: Final = re.compile(r"^held at \d+: ")

_SHORTER: Final[Mapping[str, Callable[[Mapping[str, Any]], str]]] = {
    "replicas": lambda row: str(row["display"]["replicas"]).partition(" (")[0].replace(" ", ""),
    # The column replicas shows the held count already, except for a shadow.
    "last": lambda row: _HELD.sub(
        f"shadow {row['target_replicas']}: " if row["mode"] == "shadow" else "", row["last"]
    ),
}
"""Shorter texts of cells, for narrow tables."""

_STYLES: Final = {"error": "bold red", "warning": "yellow", "info": "dim"}


def main(arguments: Sequence[str] | None = None, caller: Caller = SHELL) -> int:
    """Run the command; return its exit status."""
    flags = parser(caller).parse_args(arguments)
    console = Console()
    if not console.is_terminal:
        console.width = flags.width or NARROW
    elif flags.width:
        console.width = flags.width
    try:
        while True:
            try:
                with client.reached(flags, caller, page=True) as url:
                    if flags.watch:
                        return _watch(console, url, flags, again=caller.forwards)
                    return _once(console, url, flags)
            except client.NoAnswerError as error:
                client.complain(str(error))
                # A forwarded port ends with its pod.
                if not (flags.watch and caller.forwards):
                    return 1
                time.sleep(flags.interval)
    except ConfigError as error:
        client.complain(*error.lines)
        return 2
    except KeyboardInterrupt:
        return 0


def _asked(url: str, flags: argparse.Namespace) -> dict[str, Any]:
    """Return the document of the chosen functions. Raises ``NoAnswerError``."""
    path = f"/api/functions?{urlencode({'q': flags.filter, 'sort': flags.sort})}"
    document = client.ask(url, path, "functions")
    rows = [row for row in document["functions"] if flags.namespace in (None, row["namespace"])]
    if flags.function:
        chosen: set[str] = set()
        for wanted in flags.function:
            names, near = named(wanted, [row["function_name"] for row in rows])
            if not names:
                hint = f"; did you mean {' or '.join(near)}?" if near else ""
                raise client.NoAnswerError(f"no function {wanted!r}{hint}")
            chosen.update(names)
        rows = [row for row in rows if row["function_name"] in chosen]
    return {**document, "functions": rows}


def _once(console: Console, url: str, flags: argparse.Namespace) -> int:
    document = _asked(url, flags)
    if flags.json:
        sys.stdout.write(json.dumps(document) + "\n")
    else:
        console.print(shown(document, console.width))
    return MISSED if any(row["state"] == "missed" for row in document["functions"]) else 0


def _watch(console: Console, url: str, flags: argparse.Namespace, *, again: bool) -> int:
    """Refresh the table every interval until interrupted.

    At a given address keep trying while the autoscaler is down. Raises ``NoAnswerError`` otherwise.
    """
    interval = flags.interval
    while flags.json or not console.is_terminal:
        _once(console, url, flags)
        time.sleep(interval)
    with Live(console=console, auto_refresh=False, screen=True) as live:
        last: RenderableType = ""
        while True:
            try:
                # Leaves two lines for the message above it when the autoscaler stops.
                last = shown(_asked(url, flags), console.width, console.height - 2)
                live.update(last, refresh=True)
            except client.NoAnswerError as error:
                if again:
                    raise
                live.update(Group(Text(str(error), style=_STYLES["error"]), last), refresh=True)
            time.sleep(interval)


def shown(document: Mapping[str, Any], width: int, height: int | None = None) -> RenderableType:
    """Return the table of /api/functions in ``width`` columns (and ``height`` lines, if given)."""
    notices = [
        Text(f"{_WORDS[notice['level']]}: {notice['text']}", style=_STYLES[notice["level"]])
        for notice in document["notices"]
    ]
    parts: list[RenderableType] = [*notices]
    rows = document["functions"]
    summary = Text(_summary(document), style="dim")
    if rows:
        kept = len(rows) if height is None else _fitting(len(rows), [*notices, summary], width, height)
        parts.append(_table(rows[:kept], width))
        if kept < len(rows):
            parts.append(Text(f"… {len(rows) - kept:,} more; --filter and --sort choose", style="dim"))
    else:
        matches = document["summary"]["functions"]
        parts.append(
            Text("No function matches." if matches else "No decision was made for any function yet.")
        )
    parts.append(summary)
    return Group(*parts)


def _fitting(rows: int, around: Sequence[Text], width: int, height: int) -> int:
    """Return the number of rows that fit between the heading and the surrounding texts."""
    room = height - 1 - sum(len(textwrap.wrap(text.plain, width)) for text in around)
    return rows if rows <= room else max(1, room - 1)


def _table(rows: Sequence[Mapping[str, Any]], width: int) -> Table:
    columns = [column for column in COLUMNS if width >= WIDE or not column.minor]
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="dim", expand=False)
    for column in columns:
        heading, last = column.title.upper(), column.key == "last"
        table.add_column(
            heading,
            justify="right" if column.numeric else "left",
            no_wrap=True,
            overflow="ellipsis",
            # Names and decisions may be shortened, numbers may not.
            ratio=1 if last else None,
            max_width=max(12, width * 3 // 10) if column.key == "function" else None,
            min_width=None if last or column.key == "function" else len(heading),
        )
    table.expand = True
    for row in rows:
        table.add_row(*(_cell(row, column.key, short=width < WIDE) for column in columns))
    return table


def _cell(row: Mapping[str, Any], key: str, *, short: bool) -> Text:
    text = str(row["display"][key])
    if short and key in _SHORTER:
        text = _SHORTER[key](row)
    if key in row["breaches"]:
        # Marked for terminals without colors as well.
        return Text(text.upper() if key == "state" else f"!{text}", style="bold red")
    return Text(text, style="dim" if key == "state" and row["state"] != "met" else "")


def _summary(document: Mapping[str, Any]) -> str:
    summary = document["summary"]
    states = ", ".join(f"{count:,} {STATES[state]}" for state, count in summary["states"].items() if count)
    return (
        f"{numbered(summary['functions'], 'function')}{f': {states}' if states else ''};"
        f" {numbered(summary['ready'], 'replica')} serving, target {summary['target_replicas']:,};"
        f" {document['time'][11:19]} UTC"
    )


_WORDS: Final = {"error": "Error", "warning": "Warning", "info": "Note"}


def _sort(text: str) -> str:
    if text.removeprefix("-") not in SORTS:
        raise argparse.ArgumentTypeError(f"{text!r} must be one of {', '.join(SORTS)}; prefix - reverses")
    return text


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.2 <= value <= 3600:
        raise argparse.ArgumentTypeError(f"{text!r} must be seconds, from 0.2 to 3600")
    return value


def _columns(text: str) -> int:
    if not (text.isascii() and text.isdecimal()) or int(text) < 40:
        raise argparse.ArgumentTypeError(f"{text!r} must be a whole number of at least 40")
    return int(text)


def parser(caller: Caller) -> argparse.ArgumentParser:
    """Return the command line's parser."""
    parser = argparse.ArgumentParser(
        prog=f"{caller.program} status",
        description="Shows every function: whether its SLO is met, its replicas, and the last decision."
        f" Exit status {MISSED}: a function that is shown misses its SLO.",
    )
    add = parser.add_argument
    add("function", nargs="*", metavar="FUNCTION", help="show only these: name.namespace, or only the name")
    client.add_namespace(parser, "all")
    client.add_source(parser, caller, "http://127.0.0.1:8083")
    add(
        "--filter", default="", metavar="WORDS", help="show functions with WORDS in name, mode, SLO or reason"
    )
    add(
        "--sort",
        type=_sort,
        default=DEFAULT_SORT,
        metavar="COLUMN",
        help=f"sort by {', '.join(SORTS)}; --sort=-COLUMN reverses [{DEFAULT_SORT}: most urgent first]",
    )
    add("--watch", action="store_true", help="refresh the table until Ctrl-C")
    add(
        "--interval",
        type=_seconds,
        default=2.0,
        metavar="SECONDS",
        help="with --watch: refresh every SECONDS [2]",
    )
    add("--json", action="store_true", help="print the autoscaler's JSON instead of a table")
    add("--width", type=_columns, metavar="COLUMNS", help="limit the table to COLUMNS [terminal's; pipe: 80]")
    return parser
