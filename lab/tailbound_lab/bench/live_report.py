"""The live comparison as a table, a plot and a section of docs/benchmarks.md.

Owns how build/bench/live.json and live-prometheus-killed.json are shown; it measures nothing.
"""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from tailbound_lab.bench.page import marks, rewrite
from tailbound_lab.load.records import BenchError

SECTION: Final = "live"
BEGIN, END = marks(SECTION)
NAMES: Final = {"ours": "Tailbound", "openfaas_ce": "OpenFaaS CE's law"}
_COLORS: Final = {"ours": "#1769aa", "openfaas_ce": "#d9822b"}
_COLUMNS: Final = (
    "scaled by",
    "in time",
    "violations",
    "p50, ms",
    "p99, ms",
    "replica-seconds",
    "most replicas",
    "changes",
    "flips",
)


def read(file: Path) -> dict[str, Any]:
    """Results as they were written. Raises ``BenchError`` if there are none."""
    try:
        document: dict[str, Any] = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise BenchError(f"{file}: no results of an earlier run: {error}") from None
    return document


def rows(document: dict[str, Any]) -> list[tuple[str, ...]]:
    """The cells of the table, one row for each scaler that ran."""
    return [_row(name, document[key]) for key, name in NAMES.items() if key in document]


def _row(name: str, result: dict[str, Any]) -> tuple[str, ...]:
    return (
        name,
        # Never rounded up: 100 % is for no violation at all.
        f"{int(result['attainment'] * 1e4) / 100:.2f} %",
        f"{result['violations']:,}",
        _latency(result["p50_ms"]),
        _latency(result["p99_ms"]),
        f"{result['replica_seconds']:,.0f}",
        f"{result['replicas_max']}",
        f"{len(result['changes'])}",
        f"{result['flips']}",
    )


def _latency(milliseconds: float | None) -> str:
    return "missed" if milliseconds is None else f"{milliseconds:,.1f}"


def text(document: dict[str, Any]) -> str:
    """For the terminal: what ran, the table, and what the results are judged by."""
    table = [_COLUMNS, *rows(document)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = [_headline(document), ""]
    lines += ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in table]
    lines += ["", *_absence(document)]
    lines += [f"{'yes' if claim['holds'] else 'NO'}: {claim['claim']}" for claim in document["claims"]]
    return "\n".join(lines) + "\n"


def _headline(document: dict[str, Any]) -> str:
    share, slo = document["slo_objective"], document["slo_latency"]
    return (
        f"{document['function']}, {share:.0%} within {slo * 1e3:g} ms; {document['seconds']:g} s, "
        f"{document['ours']['requests']:,} requests, at most {max(document['offered']):.0f}/s; "
        f"seed {document['seed']}; a replica starts in {document['start_up']:.1f} s. "
        f"{document['machine']}, {document['date']}"
    )


def _absence(document: dict[str, Any]) -> list[str]:
    away = document["ours"]["prometheus_away"]
    if away is None:
        return []
    said = ", ".join(f"{reason} ({count})" for reason, count in sorted(away["reasons"].items()))
    return [
        f"Prometheus was killed at {away['begin']:.0f} s and started again at {away['end']:.0f} s. Meanwhile "
        f"the autoscaler decided {away['scale_downs_decided']} scale-downs and the provider carried out "
        f"{away['scale_downs_done']}; in the decision log: {said or 'nothing new'}.",
        "",
    ]


def draw(document: dict[str, Any], file: Path) -> Path:
    """Plot offered and good requests, and the replicas, over the run; returns the file."""
    # Slow to import, and only plots need it.
    from matplotlib import rc_context  # noqa: PLC0415
    from matplotlib.figure import Figure  # noqa: PLC0415

    with rc_context({"svg.hashsalt": "live", "svg.fonttype": "path"}):
        figure = Figure(figsize=(9, 5.5), layout="constrained")
        load, replicas = figure.subplots(2, 1, sharex=True, gridspec_kw={"height_ratios": [2, 1]})
        sent = [due for due, _ in document["ours"]["per_second"]]
        load.fill_between(range(len(sent)), sent, step="post", color="#c9d1d9", lw=0, label="offered")
        for key, name in NAMES.items():
            if key not in document:
                continue
            result, color = document[key], _COLORS[key]
            good = [in_time for _, in_time in result["per_second"]]
            load.step(range(len(good)), good, where="post", color=color, lw=1.2, label=f"{name}, in time")
            steps = [*result["replicas"], [document["seconds"], result["replicas"][-1][1]]]
            replicas.step(*_columns(steps), where="post", color=color, lw=1.6, label=f"{name}, wanted")
            ready = [*result["ready"], [document["seconds"], result["ready"][-1][1]]]
            replicas.step(*_columns(ready), where="post", color=color, lw=0.8, ls=":", label="ready")
        away = document["ours"]["prometheus_away"]
        if away is not None:
            for axes in (load, replicas):
                axes.axvspan(away["begin"], away["end"], color="#b3261e", alpha=0.12, lw=0)
            load.text(away["begin"], max(sent), " no Prometheus", color="#b3261e", va="top")
        load.set(ylabel="requests/s", ylim=(0, None))
        replicas.set(ylabel="replicas", xlabel="seconds", ylim=(0, None), xlim=(0, document["seconds"]))
        for axes in (load, replicas):
            axes.grid(alpha=0.3)
            # A trace ends quietly, so nothing is hidden there.
            axes.legend(loc="upper right", fontsize=8)
        figure.savefig(file, format="svg", metadata={"Date": None})
    return file


def _columns(steps: Sequence[Sequence[float]]) -> tuple[list[float], list[float]]:
    return [at for at, _ in steps], [count for _, count in steps]


def section(documents: Sequence[tuple[dict[str, Any], str]]) -> str:
    """Markdown of some results, each with the path of its plot."""
    parts: list[str] = []
    for document, plot in documents:
        parts.append(f"{_headline(document)}.")
        parts += [line for line in _absence(document) if line]
        lines = [_COLUMNS, ("---",) * len(_COLUMNS), *rows(document)]
        parts.append("\n".join("| " + " | ".join(cells) + " |" for cells in lines))
        parts.append(
            "\n".join(f"- {c['claim']}: {'yes' if c['holds'] else '**no**'}" for c in document["claims"])
        )
        parts.append(f"![replicas and load over time]({plot})")
    return "\n\n".join(parts)


def publish(output: Path, page: Path) -> None:
    """Put the results that there are into ``page`` between its marks; plots in a folder of its name.

    Raises ``BenchError`` if there are no results, or the marks are not there.
    """
    files = [output / f"{name}.json" for name in ("live", "live-prometheus-killed")]
    files = [file for file in files if file.exists()]
    if not files:
        raise BenchError(f"{output}: no results of `bench live` to publish")

    def content() -> str:
        folder = page.with_suffix("")
        folder.mkdir(exist_ok=True)
        shown = []
        for file in files:
            document = read(file)
            plot = shutil.copy(draw(document, file.with_suffix(".svg")), folder)
            shown.append((document, f"{folder.name}/{Path(plot).name}"))
        return section(shown)

    rewrite(page, SECTION, content)
