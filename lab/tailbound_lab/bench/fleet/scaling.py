"""``bench scaling``: which scaler meets the objective at what cost, on every trace, simulated.

Ours has one configuration for all traces. Every baseline is tuned for each trace by itself, over the whole of
its grid: of its settings that meet the objective the cheapest counts, and if none does, the one with the
fewest misses. The oracle, which knows the trace and waits for the same start-up, says which traces can be
met. Every point is played with several routings (which replica gets which request, by chance), since one
alone moves attainment by a twentieth of a point: near the objective that would be luck.

Nothing is measured here but simulated time; the machine may be busy. ``held_out`` plays other traces.
"""

import argparse
import json
import math
import multiprocessing
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any, Final

from slo_autoscaler.config import Config
from tailbound_lab.bench import page
from tailbound_lab.bench.fleet.plays import Workload, together
from tailbound_lab.load.records import BenchError
from tailbound_lab.simulate import SimulationError, baselines, report, traces
from tailbound_lab.simulate.baselines import Bounds, HpaSettings, OpenFaasRule
from tailbound_lab.simulate.function import Function, Scaler, Service
from tailbound_lab.simulate.oracle import Oracle
from tailbound_lab.simulate.scalers import DecideScaler
from tailbound_lab.simulate.world import Settings, run

SECTION = "scaling"

CONFIG: Final = "{{platform: {{gateway_url: http://none}}, prometheus: {{url: http://none}}, defaults: {}}}"
BOUNDS: Final = Bounds(1, 30)
"""Of every scaler, for every trace."""
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
PLAYS: Final = "plays.jsonl"
"""Where outcomes are kept, in the bench's folder."""
FEWER: Final = 2.3
"""How many times fewer misses count as better where no scaler meets the objective (Faro, EuroSys'25)."""

OURS: Final = ("slo", "proportional")


Maker = Callable[..., Scaler]
"""Called with a workload and one value of each axis of its grid."""

GRIDS: Final[tuple[tuple[str, str, tuple[tuple[float, ...], ...], Maker], ...]] = (
    (
        "oracle",
        "utilization {:g}",
        ((1.2, 1.1, 1.0, 0.9, 0.8, 0.7, 0.6, 0.5),),
        lambda at, utilization: Oracle(at.trace, at.function, utilization, BOUNDS),
    ),
    (
        "openfaas-ce",
        "factor {:g}, threshold 5/s or {:g} x capacity",
        ((10, 20, 50, 100), (0, 1, 3)),
        lambda at, factor, replicas: baselines.OpenFaas(
            BOUNDS, OpenFaasRule(factor=int(factor), threshold=max(5.0, replicas * at.function.capacity))
        ),
    ),
    (
        "threshold",
        "down below {:g} x SLO",
        ((0.5,),),
        lambda _, low: baselines.Threshold(BOUNDS, baselines.ThresholdSettings(low)),
    ),
    (
        "kpa",
        "target {:g}, scale-down-delay {:g} s",
        ((1, 2, 3, 4, 5, 6, 8, 12), (0, 60)),
        lambda _, target, delay: baselines.Kpa(BOUNDS, baselines.KpaSettings(target, down_delay=delay)),
    ),
    (
        "hpa-cpu",
        "target {:g}, down window {:g} s",
        ((0.5, 0.6, 0.7, 0.8, 0.85, 0.9), (60, 300)),
        lambda _, share, window: baselines.hpa_cpu(BOUNDS, HpaSettings(share, window)),
    ),
    (
        "keda-value",
        "threshold {:g} x SLO, down window {:g} s",
        ((0.5, 0.6, 0.7, 0.8, 0.9, 1.0), (60, 300)),
        lambda at, share, window: baselines.keda_value(
            BOUNDS, HpaSettings(share * at.function.slo_latency, window)
        ),
    ),
    (
        "ray-serve",
        "target {:g}, delays {:g} s and {:g} s",
        ((1, 2, 3, 4, 5, 6, 8), (0, 10, 30), (60, 600)),
        lambda _, target, up, down: baselines.RayServe(BOUNDS, baselines.RaySettings(target, up, down)),
    ),
)
"""System, how its settings are shown, what is tried for each of them, how it is made."""


def ours(policy: str) -> Callable[[Workload], Scaler]:
    """Return what makes one of our policies for a workload: the defaults, but room to grow."""
    text = CONFIG.format(f"{{policy: {policy}, max_replicas: {BOUNDS.highest}}}")
    config = Config.parse(text, "bench")
    spec, phase = config.target("function.openfaas-fn"), config.prometheus.scrape_interval // 2
    return lambda _: DecideScaler(spec, config.interval, phase, policy)


def recorded(folder: Path | None) -> list[Path]:
    """Return the trace files of ``folder``; none without one."""
    if folder is None or not folder.is_dir():
        return []
    return sorted(folder.glob("*.txt")) + sorted(folder.glob("Azure*.csv"))


def workloads(folder: Path | None, duration: int) -> list[Workload]:
    """Return the generated traces, and those of ``folder`` if there is one, cut to ``duration`` seconds."""
    made = [
        Workload(traces.generate(kind, SYNTHETIC_RATE, duration), ENCODER)
        for kind in ("spike", "step", "on-off")
    ]
    try:
        return [
            Workload(traces.read(file).cut(duration), GENERATOR if file.suffix == ".csv" else ENCODER)
            for file in recorded(folder)
        ] + made
    except SimulationError as error:
        raise BenchError(str(error)) from None


Point = tuple[str, str, Callable[[Workload], Scaler]]


def _grid(*, quick: bool, ours_alone: bool) -> Iterator[Point]:
    """Yield every (system, settings, maker); ``quick`` takes every second value of the baselines' grids."""
    for policy in OURS:
        yield policy, "", ours(policy)
    for system, shown, axes, make in () if ours_alone else GRIDS:
        for values in product(*(axis[:: 2 if quick else 1] for axis in axes)):
            yield system, shown.format(*values), _bound(make, values)


def _bound(make: Maker, values: tuple[float, ...]) -> Callable[[Workload], Scaler]:
    return lambda workload: make(workload, *values)


_work: tuple[list[Workload], list[Point]] = ([], [])
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


def compare(found: list[Workload], grid: list[Point], processes: int) -> list[dict[str, Any]]:
    """Simulate every point of the grid on every workload; one record for each."""
    global _work  # noqa: PLW0603 - lambdas cannot be sent to a process, but a forked one has them
    _work = (found, grid)
    jobs = [(w, g) for w in range(len(found)) for g in range(len(grid))]
    done: list[dict[str, Any]] = []
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("fork")) as pool:
        for record in pool.map(_simulate, jobs):
            done.append(record)
            if len(done) % len(grid) == 0:
                page.say(f"{record['trace']}: done, {len(done)} of {len(jobs)}")
    return done


def chosen(records: Sequence[dict[str, Any]], objective: float) -> dict[str, dict[str, Any]]:
    """Return for each system of one trace its best point: the cheapest that meets, else the fewest misses."""

    def merit(record: Mapping[str, Any]) -> tuple[bool, float, float]:
        misses, cost = 1.0 - record["attainment"], record["replica_seconds"]
        return (False, cost, misses) if record["attainment"] >= objective else (True, misses, cost)

    best: dict[str, dict[str, Any]] = {}
    for record in sorted(records, key=merit):
        best.setdefault(record["system"], record)
    return best


def verdict(best: Mapping[str, Mapping[str, Any]], objective: float) -> tuple[str, str]:
    """Return ``won``, ``lost`` or ``not to be met``, and why, for policy ``slo`` on one trace."""
    own = best["slo"]
    others = {name: found for name, found in best.items() if name not in (*OURS, "oracle")}
    meeting = {name: found for name, found in others.items() if found["attainment"] >= objective}
    meets = own["attainment"] >= objective
    cost = own["replica_seconds"]
    if meeting:
        name, cheapest = min(meeting.items(), key=lambda item: item[1]["replica_seconds"])
        share = cost / cheapest["replica_seconds"] - 1.0
        if not meets:
            return "lost", f"does not meet the objective, {name} does"
        return ("won" if share < 0.0 else "lost"), f"{share:+.1%} replica-seconds to {name}"
    name, nearest = min(others.items(), key=lambda item: -item[1]["attainment"])
    missed, theirs = 1.0 - own["attainment"], 1.0 - nearest["attainment"]
    times = theirs / missed if missed > 0.0 else math.inf
    dearer = cost / nearest["replica_seconds"] - 1.0
    text = (
        f"no baseline meets it; {times:.1f} times fewer misses than {name} for {dearer:+.1%} replica-seconds"
    )
    if not meets and best["oracle"]["attainment"] < objective:
        return "not to be met", text
    return ("won" if meets and times >= FEWER and dearer <= 0.0 else "lost"), text


def _best(results: Mapping[str, Any], trace: str) -> dict[str, dict[str, Any]]:
    return chosen([r for r in results["records"] if r["trace"] == trace], results["objective"])


def _table(results: Mapping[str, Any]) -> str:
    """Return the verdicts as Markdown, a line for each trace."""
    rows = []
    for trace in results["traces"]:
        best = _best(results, trace["name"])
        cells = [
            cell
            for found in (best["oracle"], best["slo"])
            for cell in (f"{found['attainment']:.2%}", f"{found['replica_seconds']:,.0f}")
        ]
        against = ": ".join(verdict(best, results["objective"]))
        rows.append((trace["name"], f"{trace['rate']:.1f}", *cells, against))
    columns = ("oracle", "its replica-seconds", "`slo`", "its replica-seconds", "against tuned baselines")
    head = (
        f"Simulated, {results['date']}; {len(results['records']):,} points, each with {len(ROUTINGS)}"
        f" routings. One configuration of ours; every baseline at its best of {results['grid']} settings for"
        " each trace."
    )
    return f"{head}\n\n{page.markdown(('trace', 'requests/s', *columns), rows)}\n"


def _draw(results: Mapping[str, Any], folder: Path) -> Path:
    """Plot every point of every grid, one panel for each trace: replica-seconds against misses."""
    found = results["traces"]
    columns = min(3, len(found))
    rows = math.ceil(len(found) / columns)
    figure, grid = page.figure(rows, columns, figsize=(4.5 * columns, 3.6 * rows), squeeze=False)
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
        axes.set(title=trace["name"], ylim=(0, 100), xlabel="1,000 replica-seconds", ylabel="missed, %")
        axes.grid(alpha=0.3)
    for axes in list(grid.flat)[len(found) :]:
        axes.set_visible(False)
    grid[0][0].legend(fontsize=7)
    folder.mkdir(exist_ok=True)
    figure.savefig(folder / "scaling.png", dpi=110)
    return folder / "scaling.png"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``bench scaling``."""
    add = parser.add_argument
    add(
        "--traces",
        type=Path,
        metavar="DIR",
        help="recorded traces too (autothrottle's *.txt, Azure's *.csv) [the generated ones alone]",
    )
    add("--only", metavar="NAME,...", help="only these traces [all]")
    add("--quick", action="store_true", help="the first 15 minutes and half of every grid")
    add("--ours", action="store_true", help="play only our policies; keep the last run's baselines")
    add("--processes", type=int, default=2, help="simulations at a time [2]")
    page.add_publish(parser)


def main(options: argparse.Namespace, output: Path) -> int:
    """Simulate, print and keep the table; 1 if policy ``slo`` loses anywhere."""
    found = workloads(options.traces, QUICK_SECONDS if options.quick else SECONDS)
    known = [workload.name for workload in found]
    names = options.only.split(",") if options.only else known
    if unknown := [name for name in names if name not in known]:
        raise BenchError(f"--only {unknown[0]}: must be one of {', '.join(known)}")
    found = [workload for workload in found if workload.name in names]
    file, kept = output / "scaling.json", []
    if options.ours:
        last = page.read(file, quick=options.quick)["records"]
        kept = [r for r in last if r["system"] not in OURS and r["trace"] in names]
        if missing := [name for name in names if name not in {r["trace"] for r in kept}]:
            raise BenchError(
                f"--ours: the last run was without {missing[0]}; run scaling without --ours first"
            )
    grid = list(_grid(quick=options.quick, ours_alone=options.ours))
    records = compare(found, grid, options.processes) + kept
    results: dict[str, Any] = {
        **page.origin(),
        "objective": ENCODER.slo_objective,
        "quick": options.quick,
        "grid": len(records) // len(found),
        "traces": [{"name": each.name, "rate": each.trace.rate} for each in found],
        "records": records,
    }
    file.write_text(json.dumps(results, indent=1) + "\n")
    _draw(results, output)
    page.show(options, SECTION, _table(results), lambda folder: [_draw(results, folder)])
    verdicts = [verdict(_best(results, name), results["objective"])[0] for name in names]
    return 1 if "lost" in verdicts else 0
