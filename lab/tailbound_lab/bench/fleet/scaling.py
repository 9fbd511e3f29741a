"""Who meets the objective, and what for: our scaling and other scalers' laws on every trace, simulated.

Ours has one configuration for all traces. Every baseline is tuned for each trace by itself, over the whole of
its grid: of its settings that meet the objective the cheapest counts, and if none does, the one with the
fewest misses. The oracle, who knows the trace and waits for the same start-up, says which traces can be
met. Every point is played with several routings (which replica gets which request, by chance), since one
alone moves attainment by a twentieth of a point: near the objective that would be luck.

Nothing is measured here but simulated time; the machine may be busy.
"""

import argparse
import json
import math
import multiprocessing
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from typing import Any, Final

import numpy as np

from slo_autoscaler.config import Config
from tailbound_lab.bench.page import PAGE, marks, rewrite
from tailbound_lab.bench.report import pyplot_for_files
from tailbound_lab.load.records import BenchError
from tailbound_lab.simulate import report, traces
from tailbound_lab.simulate.baselines import (
    Bounds,
    HpaSettings,
    Kpa,
    KpaSettings,
    OpenFaas,
    OpenFaasRule,
    RayServe,
    RaySettings,
    Threshold,
    ThresholdSettings,
    hpa_cpu,
    keda_value,
)
from tailbound_lab.simulate.errors import SimulationError
from tailbound_lab.simulate.function import Function, Service
from tailbound_lab.simulate.oracle import Oracle
from tailbound_lab.simulate.scalers import Ours, Scaler
from tailbound_lab.simulate.traces import Trace
from tailbound_lab.simulate.world import Settings, run

SECTION = "scaling"
BEGIN, END = marks(SECTION)

CONFIG: Final = (
    "{platform: {gateway_url: http://none}, prometheus: {url: http://none}, defaults: {max_replicas: 30}}"
)
"""Ours, for every trace: the defaults, but room to grow. The baselines have the same bounds."""

BOUNDS: Final = Bounds(1, 30)
RUN: Final = Settings(highest=BOUNDS.highest)

ENCODER: Final = Function(Service.affine(0.030, 0.015, 32), slo_latency=0.2)
"""For hundreds of requests per second: l(b) = 30 ms + 15 ms x b, 44/s of one replica within the SLO."""

GENERATOR: Final = Function(Service.affine(0.6, 0.2, 16), slo_latency=2.0)
"""For the few requests per second of the language models' traces: 600 ms + 200 ms x b, 2/s within 2 s."""

SYNTHETIC_RATE = 150.0
"""Requests per second of the generated traces: their mean or base."""
ROUTINGS: Final = (1, 2, 3)
"""Seeds of the routing: every point is played with each of them."""
SECONDS = 3600
QUICK_SECONDS = 900
"""Of each trace, at most."""
FEWER: Final = 2.3
"""How many times fewer misses count as better where nobody meets the objective (Faro, EuroSys'25)."""

OURS: Final = ("slo", "proportional")


@dataclass(frozen=True, slots=True)
class Workload:
    """A trace and the function that it asks for."""

    trace: Trace
    function: Function

    @property
    def name(self) -> str:
        """That of the trace."""
        return self.trace.name


def workloads(folder: Path | None, duration: int) -> list[Workload]:
    """Return the generated traces, and those of ``folder`` if there is one, cut to ``duration`` seconds."""
    made = [
        Workload(traces.generate(kind, SYNTHETIC_RATE, duration), ENCODER)
        for kind in ("spike", "step", "on-off")
    ]
    if folder is None or not folder.is_dir():
        return made
    files = sorted(folder.glob("*.txt")) + sorted(folder.glob("Azure*.csv"))
    try:
        found = [(file, traces.read(file)) for file in files]
    except SimulationError as error:
        raise BenchError(str(error)) from None
    return [
        Workload(_cut(trace, duration), GENERATOR if file.suffix == ".csv" else ENCODER)
        for file, trace in found
    ] + made


def _cut(trace: Trace, duration: int) -> Trace:
    if trace.duration <= duration:
        return trace
    return Trace(trace.name, trace.arrivals[trace.arrivals < duration], float(duration))


def ours(policy: str) -> Callable[[Workload], Scaler]:
    """Return what makes one of our policies for a workload, as configured by default."""
    config = Config.parse(CONFIG, "bench")
    spec = config.target("function.openfaas-fn")
    if policy != spec.policy:
        document = CONFIG.replace("max_replicas", f"policy: {policy}, max_replicas")
        spec = Config.parse(document, "bench").target("function.openfaas-fn")
    return lambda workload: Ours(spec, config.interval, config.prometheus.scrape_interval // 2, policy)


def _oracle(at: Workload, utilization: float) -> Scaler:
    return Oracle(at.trace, at.function, utilization, BOUNDS)


def _openfaas(at: Workload, factor: float, replicas: float) -> Scaler:
    threshold = max(5.0, replicas * at.function.capacity)
    return OpenFaas(BOUNDS, OpenFaasRule(factor=int(factor), threshold=threshold))


def _threshold(at: Workload, low: float) -> Scaler:
    del at
    return Threshold(BOUNDS, ThresholdSettings(low))


def _kpa(at: Workload, target: float, delay: float) -> Scaler:
    return Kpa(BOUNDS, KpaSettings(target=target, down_delay=delay))


def _hpa(at: Workload, share: float, window: float) -> Scaler:
    return hpa_cpu(BOUNDS, HpaSettings(share, window))


def _keda(at: Workload, share: float, window: float) -> Scaler:
    return keda_value(BOUNDS, HpaSettings(share * at.function.slo_latency, window))


def _ray(at: Workload, target: float, up: float, down: float) -> Scaler:
    return RayServe(BOUNDS, RaySettings(target, up, down))


Axis = tuple[float, ...]
GRIDS: Final[tuple[tuple[str, str, tuple[Axis, ...], Callable[..., Scaler]], ...]] = (
    ("oracle", "utilization {:g}", ((1.2, 1.1, 1.0, 0.9, 0.8, 0.7, 0.6, 0.5),), _oracle),
    (
        "openfaas-ce",
        "factor {:g}, threshold 5/s or {:g} x capacity",
        ((10, 20, 50, 100), (0, 1, 3)),
        _openfaas,
    ),
    ("threshold", "down below {:g} x SLO", ((0.5,),), _threshold),
    ("kpa", "target {:g}, scale-down-delay {:g} s", ((1, 2, 3, 4, 5, 6, 8, 12), (0, 60)), _kpa),
    ("hpa-cpu", "target {:g}, down window {:g} s", ((0.5, 0.6, 0.7, 0.8, 0.85, 0.9), (60, 300)), _hpa),
    (
        "keda-value",
        "threshold {:g} x SLO, down window {:g} s",
        ((0.5, 0.6, 0.7, 0.8, 0.9, 1.0), (60, 300)),
        _keda,
    ),
    (
        "ray-serve",
        "target {:g}, delays {:g} s and {:g} s",
        ((1, 2, 3, 4, 5, 6, 8), (0, 10, 30), (60, 600)),
        _ray,
    ),
)
"""System, how its settings are shown, what is tried for each of them, how it is made."""


def _grid(quick: bool) -> Iterator[tuple[str, str, Callable[[Workload], Scaler]]]:
    """Every (system, settings, scaler); ``quick`` takes every second value."""
    for policy in OURS:
        yield policy, "", ours(policy)
    for system, shown, axes, make in GRIDS:
        for values in product(*(axis[:: 2 if quick else 1] for axis in axes)):
            yield system, shown.format(*values), _bound(make, values)


def _bound(make: Callable[..., Scaler], values: tuple[float, ...]) -> Callable[[Workload], Scaler]:
    return lambda workload: make(workload, *values)


_work: tuple[list[Workload], list[tuple[str, str, Callable[[Workload], Scaler]]]] = ([], [])
"""What the processes of a comparison share: they are forked when it is set."""


def _simulate(job: tuple[int, int]) -> dict[str, Any]:
    found, grid = _work
    workload = found[job[0]]
    system, settings, make = grid[job[1]]
    return {"trace": workload.name, "system": system, "settings": settings, **played(workload, make)}


def played(workload: Workload, make: Callable[[Workload], Scaler]) -> dict[str, Any]:
    """Return what becomes of a workload under a scaler, over all routings: see ``together``."""
    return together(
        [
            report.as_json(run(workload.trace, workload.function, make(workload), replace(RUN, seed=seed)))
            for seed in ROUTINGS
        ]
    )


def together(played: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return one record of the same point under several routings: means, and the worst of what is rare."""

    def mean(name: str) -> float:
        return math.fsum(outcome[name] for outcome in played) / len(played)

    p99s = [outcome["p99"] for outcome in played]
    return {
        "attainment": mean("attainment"),
        "replica_seconds": mean("replica_seconds"),
        "p99": None if None in p99s else max(p99s),
        "max_replicas": max(outcome["max_replicas"] for outcome in played),
        "changes": round(mean("changes")),
        "flips": max(outcome["flips"] for outcome in played),
    }


def compare(
    found: list[Workload], *, quick: bool, processes: int, only: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """Simulate every point of the grid on every workload; one record for each. ``only`` these systems."""
    global _work  # noqa: PLW0603 - lambdas cannot be sent to a process, but a forked one has them
    _work = (found, [point for point in _grid(quick) if not only or point[0] in only])
    jobs = [(w, g) for w in range(len(found)) for g in range(len(_work[1]))]
    done: list[dict[str, Any]] = []
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("fork")) as pool:
        for record in pool.map(_simulate, jobs):
            done.append(record)
            if len(done) % len(_work[1]) == 0:
                sys.stderr.write(f"{record['trace']}: done, {len(done)} of {len(jobs)}\n")
    return done


def chosen(records: Sequence[dict[str, Any]], objective: float) -> dict[str, dict[str, Any]]:
    """Return for each system of one trace its best point: the cheapest that meets, else the fewest misses."""
    best: dict[str, dict[str, Any]] = {}
    for record in records:
        other = best.get(record["system"])
        if other is None or _merit(record, objective) < _merit(other, objective):
            best[record["system"]] = record
    return best


def _merit(record: Mapping[str, Any], objective: float) -> tuple[bool, float, float]:
    met = record["attainment"] >= objective
    misses = 1.0 - record["attainment"]
    return (False, record["replica_seconds"], misses) if met else (True, misses, record["replica_seconds"])


def verdict(best: Mapping[str, Mapping[str, Any]], objective: float) -> tuple[str, str]:
    """Return ``won``, ``lost`` or ``not to be met``, and why, for policy ``slo`` on one trace."""
    ours = best["slo"]
    others = {name: found for name, found in best.items() if name not in (*OURS, "oracle")}
    meeting = {name: found for name, found in others.items() if found["attainment"] >= objective}
    meets = ours["attainment"] >= objective
    cost = ours["replica_seconds"]
    if meeting:
        name, cheapest = min(meeting.items(), key=lambda item: item[1]["replica_seconds"])
        share = cost / cheapest["replica_seconds"] - 1.0
        if not meets:
            return "lost", f"does not meet the objective, {name} does"
        return ("won" if share < 0.0 else "lost"), f"{share:+.1%} replica-seconds to {name}"
    name, nearest = min(others.items(), key=lambda item: -item[1]["attainment"])
    missed, theirs = 1.0 - ours["attainment"], 1.0 - nearest["attainment"]
    times = theirs / missed if missed > 0.0 else math.inf
    dearer = cost / nearest["replica_seconds"] - 1.0
    text = (
        f"no baseline meets it; {times:.1f} times fewer misses than {name} for {dearer:+.1%} replica-seconds"
    )
    if not meets and best["oracle"]["attainment"] < objective:
        return "not to be met", text
    return ("won" if meets and times >= FEWER and dearer <= 0.0 else "lost"), text


def table(results: Mapping[str, Any]) -> str:
    """Return everything as Markdown: the verdicts, then each trace's systems."""
    objective = results["objective"]
    heads, details = [], []
    for trace in results["traces"]:
        records = [record for record in results["records"] if record["trace"] == trace["name"]]
        best = chosen(records, objective)
        word, why = verdict(best, objective)
        ours, oracle = best["slo"], best["oracle"]
        heads.append(
            f"| {trace['name']} | {trace['rate']:.1f} | {oracle['attainment']:.2%}"
            f" | {oracle['replica_seconds']:,.0f} | {ours['attainment']:.2%}"
            f" | {ours['replica_seconds']:,.0f} | {word}: {why} |"
        )
        details += [_details(trace, best, objective)]
    parts = [
        f"Simulated, {results['date']}; {len(results['records']):,} points, each with {len(ROUTINGS)}"
        f" routings. One configuration of ours; every baseline at its best of {results['grid']} settings for"
        f" each trace.",
        "| trace | requests/s | oracle | its replica-seconds | `slo` | its replica-seconds"
        " | against tuned baselines |\n"
        "|---|---|---|---|---|---|---|\n" + "\n".join(heads),
        *details,
    ]
    return "\n\n".join(parts) + "\n"


def _details(trace: Mapping[str, Any], best: Mapping[str, Mapping[str, Any]], objective: float) -> str:
    rows = []
    for name, found in sorted(best.items(), key=lambda item: _merit(item[1], objective)):
        p99 = "given up" if found["p99"] is None else report.seconds(found["p99"])
        rows.append(
            f"| {name} | {found['settings'] or 'as configured'} | {found['attainment']:.2%} | {p99}"
            f" | {found['replica_seconds']:,.0f} | {found['max_replicas']} | {found['changes']}"
            f" | {found['flips']} |"
        )
    return (
        f"### {trace['name']}\n\n"
        "| scaler | settings | attainment | p99 | replica-seconds | most | changes | flips |\n"
        "|---|---|---|---|---|---|---|---|\n" + "\n".join(rows)
    )


def draw(results: Mapping[str, Any], file: Path) -> Path:
    """Plot every point of every grid, one panel for each trace: replica-seconds against misses."""
    pyplot = pyplot_for_files()
    found = results["traces"]
    columns = min(3, len(found))
    rows = math.ceil(len(found) / columns)
    figure, grid = pyplot.subplots(
        rows, columns, figsize=(4.5 * columns, 3.6 * rows), layout="constrained", squeeze=False
    )
    systems = list(dict.fromkeys(record["system"] for record in results["records"]))
    for axes, trace in zip(grid.flat, found, strict=False):
        for number, system in enumerate(systems):
            points = [r for r in results["records"] if (r["trace"], r["system"]) == (trace["name"], system)]
            axes.scatter(
                [point["replica_seconds"] / 1000 for point in points],
                [100 * (1 - point["attainment"]) for point in points],
                s=60 if system == "slo" else 12,
                marker="*" if system == "slo" else "o",
                zorder=3 if system == "slo" else 2,
                color=f"C{number}",
                label=system,
            )
        axes.axhline(100 * (1 - results["objective"]), color="0.5", ls=":", lw=1)
        axes.set_yscale("symlog", linthresh=0.01)
        axes.set_ylim(0, 100)
        axes.set_title(trace["name"], fontsize=9)
        axes.grid(alpha=0.3)
    for axes in np.ravel(grid)[len(found) :]:
        axes.set_visible(False)
    grid[0][0].legend(fontsize=7)
    figure.supxlabel("1,000 replica-seconds")
    figure.supylabel("missed, % of all requests")
    figure.savefig(file, dpi=110)
    pyplot.close(figure)
    return file


def publish(results: Mapping[str, Any], page: Path) -> None:
    """Put table and plot into ``page`` between its marks. Raises ``BenchError`` if they are not there."""

    def content() -> str:
        folder = page.with_suffix("")
        folder.mkdir(exist_ok=True)
        file = draw(results, folder / "scaling.png")
        return f"{table(results)}\n![scaling]({folder.name}/{file.name})"

    rewrite(page, SECTION, content)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of ``scaling``."""
    parser.add_argument(
        "--traces",
        type=Path,
        metavar="DIR",
        help="recorded traces too (autothrottle's *.txt, Azure's *.csv); else the generated ones alone",
    )
    parser.add_argument("--only", metavar="NAME,...", help="only these traces")
    parser.add_argument("--quick", action="store_true", help="the first 15 minutes and half of every grid")
    parser.add_argument(
        "--ours",
        action="store_true",
        help="play only our policies again; the baselines as the last run left them",
    )
    parser.add_argument("--processes", type=int, default=2, help="at a time [2]")
    parser.add_argument("--publish", action="store_true", help="rewrite the section of docs/benchmarks.md")


def _baselines(file: Path, found: Sequence[Workload], *, quick: bool) -> list[dict[str, Any]]:
    """The baselines' records of the last run. Raises ``BenchError`` if it was not of these traces."""
    try:
        last = json.loads(file.read_text())
    except FileNotFoundError:
        raise BenchError(f"--ours: there is no {file}; run scaling without it first") from None
    names = {workload.name for workload in found}
    missing = names - {trace["name"] for trace in last["traces"]}
    if missing or last.get("quick") != quick:
        what = f"without {', '.join(sorted(missing))}" if missing else "of another length (--quick)"
        raise BenchError(f"--ours: the last run ({file}) was {what}; run scaling without --ours first")
    return [r for r in last["records"] if r["system"] not in OURS and r["trace"] in names]


def main(options: argparse.Namespace, output: Path) -> int:
    """Simulate, print and keep the table; 1 if policy ``slo`` loses anywhere."""
    found = workloads(options.traces, QUICK_SECONDS if options.quick else SECONDS)
    if options.only:
        names = set(options.only.split(","))
        unknown = names - {workload.name for workload in found}
        if unknown:
            known = ", ".join(workload.name for workload in found)
            raise BenchError(f"--only: no trace {', '.join(sorted(unknown))}; there are {known}")
        found = [workload for workload in found if workload.name in names]
    kept = _baselines(output / "scaling.json", found, quick=options.quick) if options.ours else []
    only = OURS if options.ours else ()
    records = compare(found, quick=options.quick, processes=options.processes, only=only) + kept
    results: dict[str, Any] = {
        "date": datetime.now(UTC).date().isoformat(),
        "objective": ENCODER.slo_objective,
        "quick": options.quick,
        "grid": len(records) // len(found),
        "traces": [{"name": each.name, "rate": each.trace.rate} for each in found],
        "records": records,
    }
    (output / "scaling.json").write_text(json.dumps(results, indent=1) + "\n")
    (output / "scaling.md").write_text(table(results))
    draw(results, output / "scaling.png")
    sys.stdout.write(table(results))
    if options.publish:
        publish(results, PAGE)
    objective = ENCODER.slo_objective
    lost = [
        trace["name"]
        for trace in results["traces"]
        if verdict(chosen([r for r in records if r["trace"] == trace["name"]], objective), objective)[0]
        == "lost"
    ]
    return 1 if lost else 0
