"""Writes the report of a run: report.html, complete in one file, and result.json beside it.

Owns the plots and the text.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from html import escape
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from tailbound_lab.demo.disturbance import MOST_LAG
from tailbound_lab.demo.session import Outcome
from tailbound_lab.demo.table import BASELINE, COLUMNS, TAILBOUND, cells, headline, tracks
from tailbound_lab.demo.watch import Decision
from tailbound_lab.load.openloop import TIMEOUT_SECONDS
from tailbound_lab.load.records import (
    Comparison,
    Sample,
    Summary,
    Track,
    highest_boost,
    highest_replicas,
    percent,
)
from tailbound_lab.simulate.baselines import OpenFaasRule

_COLORS, _OFFERED, _LIMIT = {TAILBOUND: "#1769aa", BASELINE: "#d9822b"}, "#c9d1d9", "#b3261e"
_STYLE: Any = {  # matplotlib types each key of its settings as a literal
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#eaeef2",
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "svg.fonttype": "path",
    "svg.hashsalt": "demo",
}


def overview(comparisons: Sequence[Comparison]) -> Figure:
    """Draw the traffic, the replicas and, where there was one, the boost of all functions side by side."""
    boosted = any((highest_boost(item.tailbound) or 1.0) > 1.0 for item in comparisons)
    heights = [2.0, 1.0, 0.8][: 2 + boosted]
    with rc_context(_STYLE):
        drawn = Figure(figsize=(11.5, 1.2 * sum(heights)), layout="constrained")
        columns = drawn.subplots(
            len(heights),
            len(comparisons),
            sharex="col",
            squeeze=False,
            gridspec_kw={"height_ratios": heights},
        ).T
        for (rate, replicas, *boost), comparison in zip(columns, comparisons, strict=True):
            _draw_rate(rate, comparison)
            _draw_samples(replicas, comparison, "Replicas", lambda sample: sample.replicas, stepped=True)
            for axes in boost:
                _draw_samples(
                    axes,
                    comparison,
                    "CPU limit, times nominal",
                    lambda sample: sample.boost or 1.0,
                    stepped=True,
                )
            rate.set_xlim(0, len(comparison.offered))
    return drawn


def figure(comparison: Comparison) -> Figure:
    """Draw one function's latency and batch size over the same seconds."""
    with rc_context(_STYLE):
        drawn = Figure(figsize=(9.6, 5.2), layout="constrained")
        latency, batch = drawn.subplots(2, 1, sharex=True, gridspec_kw={"height_ratios": [2.0, 1.0]})
        _draw_latency(latency, comparison)
        _draw_samples(batch, comparison, "Mean batch size", lambda sample: sample.batch, stepped=False)
        batch.set_xlabel("seconds")
        batch.set_xlim(0, len(comparison.offered))
        # With constrained layout the labels align only when told to.
        drawn.align_ylabels()
    return drawn


def _draw_rate(axes: Axes, comparison: Comparison) -> None:
    seconds = range(len(comparison.offered))
    sent = [second.sent for second in comparison.tailbound.seconds][: len(seconds)]
    axes.fill_between(seconds, sent, step="post", color=_OFFERED, linewidth=0, label="offered")
    for name, track in reversed(tracks(comparison)):
        good = [second.good for second in track.seconds][: len(seconds)]
        axes.step(seconds, good, where="post", color=_COLORS[name], linewidth=1.5, label=name)
    axes.set_title(f"{comparison.function}: requests/s within the SLO")
    axes.set_ylim(bottom=0)
    axes.legend(loc="upper right")


def _draw_latency(axes: Axes, comparison: Comparison) -> None:
    top = TIMEOUT_SECONDS * 1e3
    for name, track in reversed(tracks(comparison)):
        color = _COLORS[name]
        p50, p95, p99 = (_line(track.seconds, name, top) for name in ("p50", "p95", "p99"))
        seconds = range(len(p50))
        middles = [second + 0.5 for second in seconds]
        axes.fill_between(middles, p50, p99, color=color, alpha=0.16, linewidth=0)
        axes.plot(middles, p99, color=color, linewidth=1.8, label=f"{name} p99")
        axes.plot(middles, p95, color=color, linewidth=1.0, linestyle=(0, (4, 2)), label="p95")
        axes.plot(middles, p50, color=color, linewidth=0.9, alpha=0.75, linestyle=(0, (1, 1.5)), label="p50")
    slo = comparison.slo * 1e3
    axes.axhline(slo, color=_LIMIT, linewidth=1.4)
    axes.text(
        len(comparison.offered),
        slo,
        f"SLO {slo:g} ms",
        color=_LIMIT,
        ha="right",
        va="bottom",
        fontweight="bold",
    )
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_title("Latency from the moment a request was due, by the second it was due in")
    axes.set_ylabel("ms (log scale)")
    axes.legend(loc="upper left", ncols=2)


def _line(seconds: Sequence[Summary], name: str, top: float) -> list[float]:
    """Return milliseconds; misses are at the top of the scale, seconds without requests are gaps."""
    values = (getattr(second, name) for second in seconds)
    return [math.nan if value is None else min(value * 1e3, top) for value in values]


def _draw_samples(
    axes: Axes,
    comparison: Comparison,
    title: str,
    pick: Callable[[Sample], float | None],
    *,
    stepped: bool,
) -> None:
    for name, track in reversed(tracks(comparison)):
        seconds = [sample.seconds for sample in track.samples]
        values = [math.nan if (value := pick(sample)) is None else value for sample in track.samples]
        axes.plot(
            seconds,
            values,
            color=_COLORS[name],
            linewidth=1.8,
            drawstyle="steps-post" if stepped else "default",
            label=name,
        )
    axes.set_title(title)
    axes.set_ylim(bottom=0)
    axes.margins(y=0.15)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))


def svg(drawn: Figure) -> str:
    """Return a figure as an SVG element for a page."""
    target = io.StringIO()
    with rc_context(_STYLE):
        drawn.savefig(target, format="svg", metadata={"Date": None}, transparent=True)
    text = target.getvalue()
    return text[text.index("<svg") :]


def page(outcome: Outcome) -> str:
    """Return the whole report as one HTML page without any reference outside itself."""
    rule, arrivals, about_baseline = OpenFaasRule(), "", ""
    if any(item.baseline for item in outcome.comparisons):
        arrivals = (
            f"Each function that Tailbound serves and its copy, served and scaled as {BASELINE} does,"
            " received the same arrivals at the same time. Only Tailbound has the SLO as its target."
        )
        about_baseline = _template("baseline.html").substitute(
            baseline=BASELINE,
            group_wait=f"{rule.group_wait:g}",
            group_interval=f"{rule.group_interval:g}",
            repeat_interval=f"{rule.repeat:g}",
        )
    return _template("page.html").substitute(
        verdict="good" if outcome.met else "warn" if outcome.disturbance else "bad",
        headline=headline(outcome.comparisons),
        seconds=f"{outcome.duration:.0f}",
        disturbance=f"Disturbed: {escape(outcome.disturbance)}" if outcome.disturbance else "",
        table=_table(outcome.comparisons),
        overview=svg(overview(outcome.comparisons)),
        sections="".join(_section(item, outcome.decisions) for item in outcome.comparisons),
        arrivals=arrivals,
        about_baseline=about_baseline,
        timeout_seconds=f"{TIMEOUT_SECONDS:g}",
        conditions="".join(
            f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in _conditions(outcome)
        ),
    )


def _template(name: str) -> Template:
    return Template(resources.files("tailbound_lab.demo").joinpath(name).read_text(encoding="utf-8"))


def _section(item: Comparison, decisions: Sequence[Decision]) -> str:
    name = escape(item.function)
    return (
        f"<section><h2>{name}</h2>"
        f'<div class="plot" role="img" aria-label="Plots for {name}">{svg(figure(item))}</div>'
        f'<p class="claim">{_scaling(item.function, decisions)}</p></section>'
    )


def _scaling(function: str, decisions: Sequence[Decision]) -> str:
    ours = [item for item in decisions if item.function_name.rpartition(".")[0] == function]
    if not ours:
        return "The autoscaler changed nothing here: batching alone sufficed."
    return (
        "What the autoscaler decided: "
        + ", ".join(
            f"{item.before} to {item.after} at {item.seconds:.0f} s (<code>{escape(item.reason)}</code>)"
            for item in ours
        )
        + "."
    )


def _table(comparisons: Sequence[Comparison]) -> str:
    heads = "".join(f'<th scope="col">{name}</th>' for name in ("function", "served by", *COLUMNS))
    rows = "".join(_row(item, system, track) for item in comparisons for system, track in tracks(item))
    return f"<table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>"


def _row(item: Comparison, system: str, track: Track) -> str:
    slo = f"{percent(item.objective)} within {item.slo * 1e3:g} ms"
    name = f"{escape(item.function)}<br/><small>{slo}</small>"
    kind, name = ("first", name) if system == TAILBOUND else ("", "")
    styles = {True: "good", False: "bad", None: ""}
    columns = "".join(f'<td class="{styles[good]}">{text}</td>' for text, good in cells(item, track))
    return f'<tr class="{kind}"><th>{name}</th><td class="system">{system}</td>{columns}</tr>'


def _conditions(outcome: Outcome) -> list[tuple[str, str]]:
    lag = outcome.lag
    tightest = min((item.slo for item in outcome.comparisons), default=math.inf)
    limit = MOST_LAG * tightest
    judgment = "Within" if lag.p999 <= limit else "Tails look worse than they were: above"
    count = max(1, len(outcome.usage))
    own, others, stolen = (
        sum(getattr(second, name) for second in outcome.usage) / count for name in ("own", "others", "stolen")
    )
    used = f"the demo {own:.0%}, other programs {others:.0%}, taken by the host {stolen:.1%}"
    return [
        ("Finished", outcome.finished),
        ("Machine", outcome.host),
        ("CPU during the run", used),
        (
            "Generator's own lag",
            f"p50 {lag.p50 * 1e3:.1f} ms, p99 {lag.p99 * 1e3:.1f} ms, p99.9 {lag.p999 * 1e3:.1f} ms, "
            f"worst {lag.worst * 1e3:.1f} ms; every latency contains it. {judgment} the limit of "
            f"{limit * 1e3:g} ms at p99.9, 5% of the tightest SLO",
        ),
        ("Seed of the arrivals", str(outcome.seed)),
    ]


def result(comparison: Comparison) -> dict[str, object]:
    """Return the machine-readable result of one function, times in seconds.

    An infinite percentile (one that misses reach) is null, and so is every missing measurement.
    """
    tailbound, baseline = comparison.tailbound, comparison.baseline
    return {
        "function": comparison.function,
        "slo": comparison.slo,
        "objective": comparison.objective,
        "met": comparison.met,
        "tailbound": _numbers(tailbound),
        "baseline": _numbers(baseline) if baseline else None,
    }


def _numbers(track: Track) -> dict[str, object]:
    counts = {name: None if value == math.inf else value for name, value in asdict(track.total).items()}
    return counts | {
        "attainment": track.total.attainment,
        "statuses": dict(track.statuses),
        "replica_seconds": track.replica_seconds,
        "max_replicas": highest_replicas(track),
        "max_boost": highest_boost(track),
    }


def write(outcome: Outcome, folder: Path) -> Path:
    """Write report.html and result.json into a folder; return the report's path."""
    folder.mkdir(parents=True, exist_ok=True)
    results = [result(item) | {"disturbance": outcome.disturbance} for item in outcome.comparisons]
    (folder / "result.json").write_text(json.dumps(results, indent=2, allow_nan=False) + "\n")
    target = folder / "report.html"
    target.write_text(page(outcome), encoding="utf-8")
    return target
