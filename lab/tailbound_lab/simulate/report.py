"""Shows outcomes as a table, JSON and plots.

Owns their presentation; all numbers come from ``Outcome``.
"""

import math
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Final

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from rich.table import Table

from tailbound_lab.simulate.function import Function
from tailbound_lab.simulate.world import Outcome

SMOOTH: Final = 10
"""Seconds over which the plots average."""

_COLUMNS: Final = (
    *("policy", "within SLO", "p50", "p95", "p99"),
    *("replica-seconds", "max", "changes", "reversals"),
)


def seconds(value: float) -> str:
    """Return a latency as text."""
    if math.isinf(value):
        return "timed out"
    return f"{value * 1000:.0f} ms" if value < 1.0 else f"{value:.1f} s"


def table(outcomes: Sequence[Outcome], function: Function) -> Table:
    """Return the table; scalers that meet the objective are green, the cheapest of them bold."""
    objective = function.slo_objective
    # 80 columns must hold the longest row without cuts.
    made = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="dim")
    made.title = f"objective: {objective:.4g} within {seconds(function.slo_latency)}"
    made.title_justify = "left"
    for number, name in enumerate(_COLUMNS):
        heading = name.upper().replace("-", "-\n").replace(" ", "\n")
        made.add_column(heading, justify="right" if number else "left", vertical="bottom", no_wrap=True)
    met = [outcome.replica_seconds for outcome in outcomes if outcome.attainment >= objective]
    for outcome in outcomes:
        good = outcome.attainment >= objective
        style = "bold green" if good and outcome.replica_seconds == min(met) else "green" if good else ""
        made.add_row(
            outcome.scaler,
            f"{100 * outcome.attainment:.2f}%",
            *(seconds(value) for value in (outcome.p50, outcome.p95, outcome.p99)),
            f"{outcome.replica_seconds:,.0f}",
            *(str(count) for count in (outcome.max_replicas, outcome.changes, outcome.reversals)),
            style=style,
        )
    return made


def as_json(outcome: Outcome) -> dict[str, Any]:
    """Return an object for JSON; an infinite latency, of requests that timed out, is null."""
    names = [field.name for field in fields(outcome) if field.name not in ("scaler", "series")]
    values = {name: getattr(outcome, name) for name in names}
    finite = {name: None if value == math.inf else value for name, value in values.items()}
    replicas = [int(count) for count in outcome.series.desired]
    return {"policy": outcome.scaler, **finite, "replicas": replicas}


def draw(outcomes: Sequence[Outcome], function: Function, folder: Path) -> list[Path]:
    """Write pareto.png and series.png into ``folder``."""
    files = [folder / "pareto.png", folder / "series.png"]
    for file, drawn in zip(files, (_pareto(outcomes, function), over_time(outcomes, function)), strict=True):
        drawn.savefig(file, dpi=110)
    return files


def _pareto(outcomes: Sequence[Outcome], function: Function) -> Figure:
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for outcome in outcomes:
        point = (outcome.replica_seconds, 100 * (1 - outcome.attainment))
        axes.scatter(*point)
        axes.annotate(outcome.scaler, point, xytext=(4, 4), textcoords="offset points", fontsize=8)
    axes.axhline(100 * (1 - function.slo_objective), color="0.5", ls=":", lw=1)
    # Logarithmic down to 0.01%, so that 99% and 99.9% are apart.
    axes.set_yscale("symlog", linthresh=0.01)
    axes.set_ylim(bottom=0)
    axes.set(xlabel="replica-seconds", ylabel="missed, % of all requests")
    axes.set_title(f"{outcomes[0].trace}: below and left is better; dotted: the objective")
    axes.grid(alpha=0.3)
    return figure


def over_time(outcomes: Sequence[Outcome], function: Function) -> Figure:
    """Return load, replicas and share within the SLO over time, one line per outcome."""
    figure = Figure(figsize=(9, 8), layout="constrained")
    load, replicas, good = figure.subplots(3, 1, sharex=True)
    arrivals = _mean(outcomes[0].series.arrivals)
    load.plot(_minutes(arrivals), arrivals, color="0.3", lw=1)
    load.set(ylabel="requests/s")
    load.set_title(outcomes[0].trace)
    for outcome in outcomes:
        series = outcome.series
        counts = series.desired
        replicas.step(np.arange(len(counts)) / 60, counts, where="post", lw=1, label=outcome.scaler)
        arrived, answered = _mean(series.arrivals), _mean(series.good)
        with np.errstate(divide="ignore", invalid="ignore"):
            share = np.where(arrived > 0.0, 100 * answered / arrived, np.nan)
        good.plot(_minutes(share), share, lw=1)
    replicas.set(ylabel="replicas")
    replicas.legend(fontsize=8, ncols=4)
    good.axhline(100 * function.slo_objective, color="0.5", ls=":", lw=1)
    good.set(ylabel="within the SLO, %", xlabel="minutes", ylim=(None, 101))
    for axes in (load, replicas, good):
        axes.grid(alpha=0.3)
    return figure


def _mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    whole = len(values) // SMOOTH * SMOOTH
    if not whole:
        return values
    means: NDArray[np.float64] = values[:whole].reshape(-1, SMOOTH).mean(axis=1)
    return means


def _minutes(means: NDArray[np.float64]) -> NDArray[np.float64]:
    minutes: NDArray[np.float64] = (np.arange(len(means)) + 0.5) * SMOOTH / 60
    return minutes
