"""Results as a table in Markdown and as plots.

Owns how build/bench/results.json is shown; it measures nothing. With ``--publish`` the table and the plots
go into docs/benchmarks.md, between the two marks that stand there.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tailbound_lab.bench.page import marks, rewrite

SECTION = "results"
BEGIN, END = marks(SECTION)
PLOTS = (("goodput", "Goodput against offered rate"), ("cdf", "Latency at the maximum"))

_COLORS = 10
"""Matplotlib's cycle has so many; a line beyond them is dashed."""


def table(results: dict[str, Any]) -> str:
    """All measurements, one table for each workload, with what was skipped and why."""
    parts = [
        f"{results['machine']}, {results['workers']} workers, {results['effort']} run of {results['date']}."
    ]
    for workload in workloads(results):
        rows = [found for found in results["measurements"] if found["workload"] == workload]
        parts += [f"### {workload}", *_limit(results["offline"].get(workload)), _rows(rows)]
        parts += [
            f"Capacity that {row['system']} predicts from a run at a third of its maximum: "
            f"{row['capacity']:,.0f} requests/s, {row['capacity'] / row['max_rate']:.2f} of it."
            for row in rows
            if row.get("capacity")
        ]
        reasons = [found for found in rows if found["status"] != "measured"]
        if reasons:
            parts.append(
                "\n".join(f"- {r['system']}: {r['status']}, {one_line(r['reason'])}" for r in reasons)
            )
    return "\n\n".join(parts) + "\n"


def workloads(results: dict[str, Any]) -> list[str]:
    """The workloads of the results, in the order in which they were measured."""
    return list(dict.fromkeys(found["workload"] for found in results["measurements"]))


def one_line(text: str) -> str:
    """The first line of a reason, for a list."""
    return text.strip().splitlines()[0] if text.strip() else "no reason given"


def _limit(offline: dict[str, Any] | None) -> list[str]:
    if offline is None:
        return []
    return [
        f"The model alone, decode included: {offline['all_workers']:,.0f} items/s with {offline['workers']}"
        f" processes at once and batches of {offline['best_size']}."
    ]


def _rows(found: Sequence[dict[str, Any]]) -> str:
    head = (
        "| system | maximum, requests/s | p50 / p99 there, ms | p50 / p99 at 5/s, ms | goodput at 1.5x"
        " | at 2.5x | CPU, us per request: server + generator | memory, MB |"
    )
    lines = [head, "|---|---|---|---|---|---|---|---|"]
    measured = [row for row in found if row["status"] == "measured"]
    for row in sorted(measured, key=lambda row: -row["max_rate"]):
        top, settings = row["at_max"] or {}, row["settings"]
        name = row["system"]
        if "grid" in row:
            name += f" (size {settings['size']}, wait {settings['wait_ms']} ms)"
        cpu = sum(share["us_per_request"] for share in top.get("cpu", ()))
        cells = [
            name,
            f"{row['max_rate']:,.0f} ({_bound(row)})" if row["max_rate"] else "none found",
            _pair(top.get("latency_ms")),
            _pair(row["low"].get("latency_ms")),
            _share(row, "overload_1.5"),
            _share(row, "overload_2.5"),
            f"{cpu:,.0f} + {top['generator_us_per_request']:.0f}" if top else "-",
            f"{top['pss_mb']:,.0f}" if top else "-",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _bound(row: dict[str, Any]) -> str:
    """What closed the bracket from above: a rate that failed, or at which the generator could not keep up."""
    failed = row["failed_at"]
    if not failed:
        return "lower bound"
    lagged = any(t["rate"] == failed and t["confirm"] and "reason" in t for t in row["trials"])
    return f"{'generator lagged' if lagged else 'failed'} at {failed:,.0f}"


def _pair(quantiles: dict[str, float | None] | None) -> str:
    if quantiles is None:
        return "-"
    return " / ".join("missed" if q is None else f"{q:.1f}" for q in (quantiles["p50"], quantiles["p99"]))


def _share(row: dict[str, Any], key: str) -> str:
    """Goodput under overload as a share of the maximum, which it would keep if overload cost nothing."""
    run = row.get(key)
    if run is None:
        return "-"
    return "generator lagged" if "reason" in run else f"{run['goodput'] / row['max_rate']:.1%}"


def curve(row: dict[str, Any]) -> list[tuple[float, float]]:
    """Points (offered, goodput), ascending, of every run of a measurement that was not cut short."""
    runs = [
        row.get("at_max"),
        row.get("overload_1.5"),
        row.get("overload_2.5"),
        *row.get("curve", {}).values(),
    ]
    points = [(run["rate"], run["goodput"]) for run in runs if run and "goodput" in run]
    points += [(t["rate"], t["goodput"]) for t in row.get("trials", ()) if t["confirm"] and t.get("goodput")]
    return sorted(set(points))


def draw(results: dict[str, Any], folder: Path) -> list[Path]:
    """Write the plots, two for each workload, as goodput-WORKLOAD.png and cdf-WORKLOAD.png."""
    pyplot = pyplot_for_files()
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for workload in workloads(results):
        rows = [r for r in results["measurements"] if r["workload"] == workload and r["status"] == "measured"]
        rows = [row for row in rows if row["max_rate"]]
        if not rows:
            continue
        for kind, title in PLOTS:
            figure, axes = pyplot.subplots(figsize=(8, 5), layout="constrained")
            for index, row in enumerate(rows):
                points = curve(row) if kind == "goodput" else row["at_max"]["cdf"]
                marker = "o" if kind == "goodput" else None
                axes.plot(
                    [x for x, _ in points],
                    [y for _, y in points],
                    "-" if index < _COLORS else "--",
                    marker=marker,
                    ms=3,
                    label=row["system"],
                )
            if kind == "goodput":
                top = max((x for row in rows for x, _ in curve(row)), default=1.0)
                axes.plot([0, top], [0, top], color="0.8", lw=1, zorder=0)
                axes.set(xlabel="offered, requests/s", ylabel="answered within the SLO, requests/s")
            else:
                axes.axvline(rows[0]["slo_ms"], color="0.6", ls=":", lw=1)
                axes.set(
                    xlabel="latency from when it was due, ms", ylabel="share of all requests", xscale="log"
                )
            axes.set_title(f"{title}: {workload}")
            axes.grid(alpha=0.3)
            axes.legend()
            file = folder / f"{kind}-{workload}.png"
            figure.savefig(file, dpi=110)
            pyplot.close(figure)
            written.append(file)
    return written


def draw_memory(result: dict[str, Any], file: Path) -> Path:
    """Plot the memory of a soak over time."""
    pyplot = pyplot_for_files()
    figure, axes = pyplot.subplots(figsize=(8, 4), layout="constrained")
    minutes = [sample["at"] / 60 for sample in result["memory"]]
    for name in ("total", "watchdog"):
        axes.plot(minutes, [sample[name] for sample in result["memory"]], label=name)
    axes.set(xlabel="minutes", ylabel="memory (PSS), MB", ylim=(0, None))
    axes.set_title(
        f"{result['workload']} at {result['rate']:,.0f} requests/s, {result['killed']} workers killed,"
        f" {result['unanswered']} of {result['sent']:,} requests unanswered"
    )
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(file, dpi=110)
    pyplot.close(figure)
    return file


def pyplot_for_files() -> Any:
    """Matplotlib, drawing to files and to no window."""
    import matplotlib as mpl  # noqa: PLC0415 - a slow import that only plots need

    mpl.use("Agg")
    from matplotlib import pyplot  # noqa: PLC0415 - after the backend is chosen

    return pyplot


def publish(results: dict[str, Any], page: Path) -> None:
    """Put table and plots into ``page`` between its marks; plots beside it, in a folder of its name.

    Raises ``BenchError`` if the marks are not there.
    """

    def content() -> str:
        plots = draw(results, page.with_suffix(""))
        images = "\n".join(f"![{file.stem}]({file.parent.name}/{file.name})" for file in plots)
        return f"{table(results)}\n{images}"

    rewrite(page, SECTION, content)
