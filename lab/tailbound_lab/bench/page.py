"""Shows results as Markdown on the terminal, and with plots in their sections of docs/benchmarks.md.

Owns the presentation. A section of the page is between two marks with its name, and ``--publish`` replaces
the text between them.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from matplotlib.figure import Figure

from tailbound_lab.bench.workloads import ROOT
from tailbound_lab.live.machine import describe
from tailbound_lab.load.records import BenchError

PAGE = ROOT / "docs" / "benchmarks.md"
_COLORS: Final = 10
"""Colors in Matplotlib's cycle; further lines are dashed."""


def add_publish(parser: argparse.ArgumentParser) -> None:
    """Add ``--publish``, which every command with a section has."""
    parser.add_argument(
        "--publish", action="store_true", help="write the results into their section of docs/benchmarks.md"
    )


def origin() -> dict[str, str]:
    """Return the machine and the date of a measurement."""
    return {"machine": describe(), "date": f"{datetime.now(UTC):%Y-%m-%d}"}


def say(text: str) -> None:
    """Print the progress to stderr."""
    sys.stderr.write(f"bench: {text}\n")


def show(
    options: argparse.Namespace,
    section: str,
    text: str,
    draw: Callable[[Path], list[Path]] = lambda _: [],
    decisive: str | None = None,
) -> None:
    """Print a result; with ``--publish`` put it into its section, and what ``draw`` writes to a folder.

    The page takes ``decisive`` instead of ``text`` if there is one: the rows that a reader decides by.
    """
    sys.stdout.write(f"{text.strip()}\n")
    if options.publish:
        shown = (text if decisive is None else decisive).strip()
        rewrite(section, lambda folder: "\n\n".join(filter(None, (shown, images(draw(folder))))))


def rewrite(name: str, content: Callable[[Path], str]) -> None:
    """Replace the section ``name`` of the page with ``content(folder for its plots)``.

    Raises ``BenchError`` without the section's marks, before it calls ``content``.
    """
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    text = PAGE.read_text()
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise BenchError(f"{PAGE}: it needs one line {begin!r} and after it one {end!r}")
    before, after = text.split(begin)[0], text.split(end)[1]
    PAGE.write_text(f"{before}{begin}\n{content(PAGE.with_suffix(''))}\n{end}{after}")


def read(file: Path, **here: object) -> dict[str, Any]:
    """Return the results of an earlier run. Raises ``BenchError`` unless it has the values of ``here``."""
    try:
        document: dict[str, Any] = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise BenchError(f"{file}: no results of an earlier run: {error}") from None
    for name, value in here.items():
        if document.get(name) != value:
            raise BenchError(f"{file}: the earlier run had {name} {document.get(name)!r}, not {value!r}")
    return document


def earlier(file: Path, **here: object) -> dict[str, Any]:
    """Return ``read``'s results; none if there are none with the values of ``here``."""
    try:
        return read(file, **here)
    except BenchError:
        return {}


def keep(file: Path, results: Mapping[str, Any]) -> None:
    """Write results to a file of the bench's folder."""
    file.write_text(json.dumps(results, indent=1) + "\n")


def markdown(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    lines = [columns, ("---",) * len(columns), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def figure(rows: int = 1, columns: int = 1, **options: Any) -> tuple[Any, Any]:
    """Return a Matplotlib figure and its axes, drawn to files and to no window."""
    made = Figure(layout="constrained", figsize=options.pop("figsize", (8, 5)))
    return made, made.subplots(rows, columns, **options)


def comparison(results: dict[str, Any]) -> str:
    """Return all measurements of ``bench compare``: one table per workload, and the skipped systems."""
    parts = [
        f"{results['machine']}, {results['workers']} workers, {results['effort']} run of {results['date']}."
    ]
    for workload in _workloads(results):
        rows = [found for found in results["measurements"] if found["workload"] == workload]
        measured = [row for row in rows if row["status"] == "measured"]
        facts = [f"**{workload}.**"]
        facts += [
            f"From a run at a third of its maximum `{row['system']}` predicted a capacity of"
            f" {row['capacity']:,.0f} requests/s, {row['capacity'] / row['max_rate']:.2f} times its maximum."
            for row in measured
            if row.get("capacity")
        ]
        parts.append(" ".join(facts))
        if measured:
            parts.append(markdown(_COLUMNS, map(_row, sorted(measured, key=lambda row: -row["max_rate"]))))
        others = [row for row in rows if row["status"] != "measured"]
        if others:
            parts.append("\n".join(f"- {r['system']}: {r['status']}, {_first_line(r)}" for r in others))
    return "\n\n".join(parts) + "\n"


def plots(results: dict[str, Any], folder: Path) -> list[Path]:
    """Write goodput-WORKLOAD.png per workload of ``bench compare``: goodput against offered rate."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for workload in _workloads(results):
        rows = [r for r in results["measurements"] if r["workload"] == workload and r.get("max_rate")]
        if not rows:
            continue
        made, axes = figure()
        for index, row in enumerate(rows):
            line = "-" if index < _COLORS else "--"
            axes.plot(*zip(*curve(row), strict=True), line, marker="o", ms=3, label=row["system"])
        top = max(x for row in rows for x, _ in curve(row))
        axes.plot([0, top], [0, top], color="0.8", lw=1, zorder=0)
        axes.set(xlabel="offered, requests/s", ylabel="answered within the SLO, requests/s")
        axes.set_title(f"Goodput against offered rate: {workload}")
        axes.grid(alpha=0.3)
        axes.legend()
        written.append(folder / f"goodput-{workload}.png")
        made.savefig(written[-1], dpi=110)
    return written


def curve(row: dict[str, Any]) -> list[tuple[float, float]]:
    """Return (offered, goodput), ascending, of every run of a measurement that was not cut short."""
    runs = [row.get(name) for name in ("at_max", "overload_1.5", "overload_2.5")]
    runs += row.get("curve", {}).values()
    points = [(run["rate"], run["goodput"]) for run in runs if run and "goodput" in run]
    points += [(t["rate"], t["goodput"]) for t in row.get("trials", ()) if t["confirm"] and t.get("goodput")]
    return sorted(set(points))


def maxima(traffic: Mapping[str, Sequence[Mapping[str, Mapping[str, Any]]]]) -> str:
    """Return the rounds of ``alternate`` as a table: one line per kind of traffic and system.

    Each ratio compares with the first system's maximum of the same round. CPU is from the round with the
    median maximum.
    """
    lines = []
    for name, rounds in traffic.items():
        first = next(iter(rounds[0]))
        for label in rounds[0]:
            rows = [found[label] for found in rounds]
            ratios = [
                found[first]["max_rate"] / found[label]["max_rate"]
                for found in rounds
                if found[label]["max_rate"]
            ]
            top = sorted(rows, key=lambda row: row["max_rate"])[(len(rows) - 1) // 2]
            cpu = (*top["cpu"], top["generator"]) if top["cpu"] else ()
            lines.append(
                (
                    name,
                    label,
                    ", ".join(f"{row['max_rate']:,.0f}" for row in rows),
                    "" if label == first else spread(ratios),
                    " + ".join(f"{used:.0f}" for used in cpu) or "-",
                )
            )
    columns = (
        "traffic",
        "system",
        "maximum in each round, requests/s",
        "maximum of the first / of this system",
    )
    return markdown((*columns, "CPU, us per request: processes + generator"), lines)


def spread(ratios: Sequence[float]) -> str:
    """Return the median and the range."""
    if not ratios:
        return "-"
    middle = f"{statistics.median(ratios):.2f}"
    return middle if len(ratios) == 1 else f"{middle} ({min(ratios):.2f} to {max(ratios):.2f})"


_COLUMNS: Final = (
    "system",
    "maximum, requests/s",
    "p50 / p99 at the maximum, ms",
    "p50 / p99 at 5/s, ms",
    "goodput at 1.5x",
    "at 2.5x",
    "CPU, us per request: server + generator",
    "memory, MB",
)


def images(files: Iterable[Path]) -> str:
    """Return the Markdown of plots that lie in the page's folder, as one paragraph."""
    return "\n".join(f"![{file.stem}]({file.parent.name}/{file.name})" for file in files)


def _workloads(results: dict[str, Any]) -> list[str]:
    """Return the workloads of the results in the order of measurement."""
    return list(dict.fromkeys(found["workload"] for found in results["measurements"]))


def _first_line(row: dict[str, Any]) -> str:
    return str(row["reason"]).strip().partition("\n")[0] or "no reason given"


def _row(row: dict[str, Any]) -> Sequence[str]:
    top, name = row["at_max"] or {}, row["system"]
    cpu = sum(used["us_per_request"] for used in top.get("cpu", ()))
    return (
        name,
        f"{row['max_rate']:,.0f} ({_bound(row)})" if row["max_rate"] else "none found",
        _pair(top.get("latency_ms")),
        _pair(row["low"].get("latency_ms")),
        _kept(row, "overload_1.5"),
        _kept(row, "overload_2.5"),
        f"{cpu:,.0f} + {top['generator_us_per_request']:.0f}" if top else "-",
        f"{top['pss_mb']:,.0f}" if top else "-",
    )


def _bound(row: dict[str, Any]) -> str:
    """Return the upper end of the bracket: a rate that failed, or at which the generator lagged."""
    failed = row["failed_at"]
    if not failed:
        return "lower bound"
    lagged = any(t["rate"] == failed and t["confirm"] and "reason" in t for t in row["trials"])
    return f"{'generator lagged' if lagged else 'failed'} at {failed:,.0f}"


def _pair(quantiles: dict[str, float | None] | None) -> str:
    if quantiles is None:
        return "-"
    return " / ".join("missed" if q is None else f"{q:.1f}" for q in (quantiles["p50"], quantiles["p99"]))


def _kept(row: dict[str, Any], overload: str) -> str:
    """Return goodput under overload as a share of the maximum: 100% if overload cost nothing."""
    run = row.get(overload)
    if run is None:
        return "-"
    return "generator lagged" if "reason" in run else f"{run['goodput'] / row['max_rate']:.1%}"
