"""Prints a live table while traffic runs, and the verdict at the end.

Owns the texts and colors on the terminal. If standard output is no terminal, the table is printed every ten
seconds.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from tailbound_lab.demo.session import Deployed
from tailbound_lab.load.records import (
    Comparison,
    Sample,
    Summary,
    Track,
    highest_boost,
    highest_replicas,
    percent,
    recent,
    summarize,
)
from tailbound_lab.local.platform import Platform

TAILBOUND, BASELINE = "Tailbound", "OpenFaaS CE"
COLUMNS = (
    *("within\nSLO", "p99 ms", "requests", "failed"),
    *("replica-\nseconds", "max\nreplicas", "max\nboost"),
)
"""Columns of a result; those of failed requests count refused and lost ones."""
_WINDOW = 5.0
_PRINT_INTERVAL = 10.0
_GOOD, _BAD, _WARN, _DIM = "green", "bold red", "yellow", "dim"


def milliseconds(seconds: float | None) -> str:
    """Return whole milliseconds as text, an infinity sign for infinite, a dash for None."""
    if seconds is None:
        return "-"
    return "∞" if math.isinf(seconds) else f"{seconds * 1e3:,.0f}"


def number(value: float | None, digits: int = 0) -> str:
    """Return a number, or a dash for a gap."""
    return "-" if value is None else f"{value:,.{digits}f}"


def factor(value: float | None) -> str:
    """Return a boost, or a dash without one."""
    return "-" if value is None or value <= 1.0 else f"{value:.1f} x"


def _replicas(sample: Sample) -> str:
    if sample.replicas is None or sample.ready is None or sample.ready == sample.replicas:
        return number(sample.replicas)
    return f"{sample.ready:.0f} of {sample.replicas:.0f}"


def _latency(seconds: float | None, slo: float) -> Text:
    style = _DIM if seconds is None else _GOOD if seconds <= slo else _BAD
    return Text(milliseconds(seconds), style)


def _attainment(share: float | None, objective: float) -> Text:
    style = _DIM if share is None else _GOOD if share >= objective else _BAD
    return Text(percent(share), style)


def tracks(item: Comparison) -> list[tuple[str, Track]]:
    """Return who served a function, Tailbound first, with what became of it."""
    return [(TAILBOUND, item.tailbound), *([(BASELINE, item.baseline)] if item.baseline else [])]


def cells(item: Comparison, track: Track) -> list[tuple[str, bool | None]]:
    """Return the text of each of ``COLUMNS``, and whether it is good or bad; None: neither."""
    total = track.total
    failed = total.refused + total.failed + total.lost
    return [
        (percent(total.attainment), total.meets(item.objective)),
        (milliseconds(total.p99), total.p99 is not None and total.p99 <= item.slo),
        (f"{total.sent:,}", None),
        (f"{failed:,}", False if failed else None),
        (number(track.replica_seconds), None),
        (number(highest_replicas(track)), None),
        (factor(highest_boost(track)), None),
    ]


def _table(headings: Sequence[str]) -> Table:
    # For 80 columns: no borders, and units in the headings.
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=0)
    table.add_column("function", no_wrap=True)
    table.add_column("served by", no_wrap=True)
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def _names(function: str, system: str, slo: float) -> tuple[Text, Text]:
    if system == TAILBOUND:
        return Text(function, "bold"), Text(system, "cyan")
    return Text(f"SLO {slo * 1e3:.0f} ms", _DIM), Text(system, "yellow")


def picture(elapsed: float, duration: float, deployed: Sequence[Deployed]) -> RenderableType:
    """Return the live table of a moment, with its progress bar."""
    table = _table(("rate/s", "p95 ms", "p99 ms", "within\nSLO", "replicas", "batch", "queue", "lost"))
    for item in deployed:
        if not item.is_twin:
            table.add_section()
        window, sample = _window(item, elapsed), _sample(item)
        table.add_row(
            *_names(item.spec.name, BASELINE if item.is_twin else TAILBOUND, item.ledger.slo),
            f"{item.profile.rate(elapsed):,.0f}",
            _latency(window.p95, item.ledger.slo),
            _latency(window.p99, item.ledger.slo),
            _attainment(item.ledger.attainment, item.objective),
            _replicas(sample),
            number(sample.batch, 1),
            number(sample.queue),
            Text(f"{item.ledger.lost:,}", _BAD if item.ledger.lost else _DIM),
        )
    bar = Table.grid(padding=(0, 1))
    done = min(elapsed, duration)
    bar.add_row(ProgressBar(duration, done, width=46), f"{done:3.0f} of {duration:.0f} s")
    return Group(table, bar)


def _window(item: Deployed, elapsed: float) -> Summary:
    """Return the summary of the requests that ended in the last seconds."""
    return summarize(recent(item.ledger.records, elapsed - _WINDOW), item.ledger.slo)


def _sample(item: Deployed) -> Sample:
    return item.ledger.samples[-1] if item.ledger.samples else Sample(0.0)


def headline(comparisons: Sequence[Comparison]) -> str:
    """Return on how many functions Tailbound met the SLO, and OpenFaaS CE where it served them too."""
    met = sum(item.met for item in comparisons)
    theirs = [item.baseline.total.meets(item.objective) for item in comparisons if item.baseline]
    other = f"; {BASELINE} on {sum(theirs)} of {len(theirs)}" if theirs else ""
    return f"Tailbound met the SLO on {met} of {len(comparisons)} functions{other}"


def verdict(comparisons: Sequence[Comparison], disturbance: str = "") -> RenderableType:
    """Return the table of the result and the sentences below it."""
    table = _table(COLUMNS)
    styles = {True: _GOOD, False: _BAD, None: ""}
    for item in comparisons:
        for system, track in tracks(item):
            row = (Text(text, styles[good]) for text, good in cells(item, track))
            table.add_row(*_names(item.function, system, item.slo), *row)
        table.add_section()
    return Group(
        table,
        Text("A request that was refused, failed or had no answer has latency ∞.", _DIM),
        *([Text(f"Disturbed: {disturbance}", _WARN)] if disturbance else []),
        Text(
            f"{headline(comparisons)}.",
            f"bold {_GOOD}" if all(item.met for item in comparisons) else _WARN if disturbance else _BAD,
        ),
    )


def explain(function: str) -> str:
    """Return the command that explains a function's decisions, without its source."""
    program = os.path.relpath(Path(sys.executable).with_name("slo-autoscaler"))
    return f"{program} explain {function}"


class Terminal:
    """Displays a run: a live table on a terminal, one every ten seconds elsewhere."""

    def __init__(self, console: Console, duration: float) -> None:
        self._console = console
        self._duration = duration
        self._live: Live | None = None
        self._next_print = _PRINT_INTERVAL

    def __enter__(self) -> Terminal:
        self._say("Starting the platform, Prometheus, the autoscaler and the functions ...")
        if self._console.is_terminal:
            # Refreshed by update(): a thread for it would compete with the gateway for the interpreter.
            self._live = Live(console=self._console, auto_refresh=False, transient=True)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def started(self, platform: Platform) -> None:
        """Print that traffic begins, and the addresses of the status page."""
        self._say(f"Traffic for {self._duration:.0f} s begins.")
        if platform.settings.cpu_limits and not platform.boosts:
            self._say("No boost: CPU limits of replicas need Linux, root and a cgroup controller cpu.")
        if platform.page_url is not None:
            self._say(f"Every function, its replicas and why, while this runs: {platform.page_url}/")
        first = next(iter(platform.registry)).spec.name
        self._say(f"In words: {explain(first)} --url {platform.autoscaler_url}")

    def update(self, elapsed: float, deployed: Sequence[Deployed]) -> None:
        """Show a frame: at once on a terminal, every ten seconds elsewhere."""
        if self._live is not None:
            self._live.update(picture(elapsed, self._duration, deployed), refresh=True)
        elif self._next_print <= elapsed < self._duration:
            self._console.print(picture(elapsed, self._duration, deployed))
            self._next_print += _PRINT_INTERVAL

    def _say(self, text: str) -> None:
        # The terminal breaks it: so what is copied is whole.
        self._console.print(text, highlight=False, soft_wrap=True, markup=False)
