"""What the terminal shows: a live table while traffic runs, the verdict at the end.

Owns the words and colors on the terminal; it reads ledgers and decides nothing. Where standard output is no
terminal, the same numbers come as plain lines every few seconds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from tailbound_lab.load.records import (
    Comparison,
    Ledger,
    Summary,
    Track,
    highest_replicas,
    recent,
    summarize,
)

TAILBOUND, BASELINE = "Tailbound", "OpenFaaS CE"
_WINDOW = 5.0
_PLAIN_INTERVAL = 5.0
_GOOD, _BAD, _DIM = "green", "bold red", "dim"


@dataclass(frozen=True, slots=True)
class Row:
    """One deployed function just now; ``window`` covers the requests that ended in the last seconds."""

    function: str
    system: str
    slo: float
    objective: float
    rate: float
    window: Summary
    attainment: float | None
    lost: int
    replicas: float | None
    ready: float | None
    batch: float | None
    queue: float | None


@dataclass(frozen=True, slots=True)
class Frame:
    """One picture: how far the run is, in which part of its traffic, and the rows."""

    elapsed: float
    duration: float
    phase: str
    rows: tuple[Row, ...]


def row(function: str, system: str, ledger: Ledger, *, objective: float, rate: float, elapsed: float) -> Row:
    """Return a ledger's row at a moment of the run (seconds)."""
    sample = ledger.samples[-1] if ledger.samples else None
    return Row(
        function=function,
        system=system,
        slo=ledger.slo,
        objective=objective,
        rate=rate,
        window=summarize(recent(ledger.records, elapsed - _WINDOW), ledger.slo),
        attainment=ledger.attainment,
        lost=ledger.lost,
        replicas=sample.replicas if sample else None,
        ready=sample.ready if sample else None,
        batch=sample.batch if sample else None,
        queue=sample.queue if sample else None,
    )


def milliseconds(seconds: float | None) -> str:
    """Return whole milliseconds as text, an infinity sign where misses reach, a dash for none."""
    if seconds is None:
        return "-"
    return "∞" if math.isinf(seconds) else f"{seconds * 1e3:,.0f}"


def percent(share: float | None) -> str:
    """Return a share as a percentage that never rounds a miss up to 100."""
    if share is None:
        return "-"
    return f"{math.floor(share * 1e4) / 100:.2f} %"


def number(value: float | None, digits: int = 0) -> str:
    """Return a number, or a dash for a gap."""
    return "-" if value is None else f"{value:,.{digits}f}"


def _replicas(item: Row) -> str:
    if item.replicas is None or item.ready is None or item.ready == item.replicas:
        return number(item.replicas)
    return f"{item.ready:.0f} of {item.replicas:.0f}"


def _latency(seconds: float | None, slo: float) -> Text:
    style = _DIM if seconds is None else _GOOD if seconds <= slo else _BAD
    return Text(milliseconds(seconds), style)


def _attainment(share: float | None, objective: float) -> Text:
    style = _DIM if share is None else _GOOD if share >= objective else _BAD
    return Text(percent(share), style)


def _table(headings: Sequence[str]) -> Table:
    # 80 columns must do: no space is spent on borders, and units stand in the headings.
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=0)
    table.add_column("function", no_wrap=True)
    table.add_column("served by", no_wrap=True)
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def _system(name: str) -> Text:
    return Text(name, "cyan" if name == TAILBOUND else "yellow")


def picture(frame: Frame) -> RenderableType:
    """Return the live table with its progress bar."""
    table = _table(("rate/s", "p95 ms", "p99 ms", "attained", "replicas", "batch", "queue", "lost"))
    previous = ""
    for item in frame.rows:
        first = item.function != previous
        if previous and first:
            table.add_section()
        previous = item.function
        table.add_row(
            Text(item.function, "bold") if first else Text(f"SLO {item.slo * 1e3:.0f} ms", _DIM),
            _system(item.system),
            f"{item.rate:,.0f}",
            _latency(item.window.p95, item.slo),
            _latency(item.window.p99, item.slo),
            _attainment(item.attainment, item.objective),
            _replicas(item),
            number(item.batch, 1),
            number(item.queue),
            Text(f"{item.lost:,}", _BAD if item.lost else _DIM),
        )
    bar = Table.grid(padding=(0, 1))
    bar.add_row(
        ProgressBar(frame.duration, min(frame.elapsed, frame.duration), width=46),
        f"{min(frame.elapsed, frame.duration):3.0f} of {frame.duration:.0f} s",
        Text(frame.phase, "bold"),
    )
    return Group(table, bar)


def lines(frame: Frame) -> list[str]:
    """Return the same as plain text, one line for each row."""
    return [
        f"{frame.elapsed:4.0f} s  {frame.phase:12}  {item.function:12} {item.system:11}"
        f" {item.rate:5.0f}/s  p95 {milliseconds(item.window.p95):>6} ms"
        f"  p99 {milliseconds(item.window.p99):>6} ms"
        f"  attained {percent(item.attainment):>8}  replicas {_replicas(item):>6}"
        f"  batch {number(item.batch, 1):>4}  queue {number(item.queue):>5}  lost {item.lost}"
        for item in frame.rows
    ]


def verdict(comparisons: Sequence[Comparison]) -> RenderableType:
    """Return the sentence of the result and the table below it."""
    table = _table(("attained", "p99 ms", "requests", "late", "errors", "lost", "repl-s", "max"))
    for item in comparisons:
        _add_track(table, item, TAILBOUND, item.tailbound)
        if item.baseline is not None:
            _add_track(table, item, BASELINE, item.baseline)
        table.add_section()
    met = sum(item.met for item in comparisons)
    headline = f"Tailbound met the SLO on {met} of {len(comparisons)} functions."
    return Group(Text(headline, f"bold {'green' if met == len(comparisons) else 'red'}"), table)


def _add_track(table: Table, item: Comparison, system: str, track: Track) -> None:
    total = track.total
    name = Text(item.function, "bold") if system == TAILBOUND else Text(f"SLO {item.slo * 1e3:.0f} ms", _DIM)
    table.add_row(
        name,
        _system(system),
        _attainment(total.attainment, item.objective),
        _latency(total.p99, item.slo),
        *(f"{count:,}" for count in (total.sent, total.slow, total.refused + total.failed)),
        Text(f"{total.lost:,}", _BAD if total.lost else ""),
        number(track.replica_seconds),
        number(highest_replicas(track)),
    )


class Display:
    """The terminal for the length of a run: live where there is one, lines elsewhere."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._live: Live | None = None
        self._next_lines = 0.0

    def __enter__(self) -> Display:
        if self.console.is_terminal:
            # Refreshed by update(): a refreshing thread would compete with the gateway for the interpreter.
            self._live = Live(console=self.console, auto_refresh=False, transient=True)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def say(self, text: str) -> None:
        """Print one line above whatever is live."""
        # The terminal breaks it: so what is copied is whole.
        self.console.print(text, highlight=False, soft_wrap=True)

    def update(self, frame: Frame) -> None:
        """Show a frame: at once on a terminal, every few seconds as lines."""
        if self._live is not None:
            self._live.update(picture(frame), refresh=True)
        elif frame.elapsed >= self._next_lines:
            self._next_lines = frame.elapsed + _PLAIN_INTERVAL
            for line in lines(frame):
                self.console.print(line, highlight=False, soft_wrap=True, markup=False)
