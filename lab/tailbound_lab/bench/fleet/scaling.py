"""``bench scaling``: attainment and cost of every scaler on every trace, simulated.

Ours has one configuration for all traces. Every baseline is tuned for each trace, over its complete grid: the
cheapest setting that meets the objective counts, or the one with the fewest misses. The oracle, which knows
the trace and has the same start-up time, shows which traces are feasible.

Routing is random, and one routing moves attainment by 0.05 points. So grids are searched with one routing,
and settings that may be the best are played with all of them. Only simulated time is measured, so the machine
may be busy. ``held_out`` plays other traces.
"""

import argparse
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count, pairwise, product
from pathlib import Path
from typing import Any, Final

from slo_autoscaler.config import Config
from tailbound_lab.bench import page
from tailbound_lab.bench.fleet.plays import Kept, Play, Workload, play_all, together
from tailbound_lab.load.records import BenchError
from tailbound_lab.simulate import SimulationError, baselines, traces
from tailbound_lab.simulate.baselines import Bounds, HpaSettings, OpenFaasRule
from tailbound_lab.simulate.function import Function, Scaler, Service
from tailbound_lab.simulate.oracle import Oracle
from tailbound_lab.simulate.ray_policy import installed, ray_serve
from tailbound_lab.simulate.scalers import DecideScaler
from tailbound_lab.simulate.world import Settings

SECTION = "scaling"

CONFIG: Final = "{{platform: {{gateway_url: http://none}}, prometheus: {{url: http://none}}, defaults: {}}}"
BOUNDS: Final = Bounds(1, 30)
"""Bounds of every scaler, for every trace."""
RUN: Final = Settings(highest=BOUNDS.highest)

ENCODER: Final = Function(Service.affine(0.030, 0.015, 32), slo_latency=0.2)
"""Function for hundreds of requests per second: l(b) = 30 ms + 15 ms x b, 44/s per replica within the SLO."""

GENERATOR: Final = Function(Service.affine(0.6, 0.2, 16), slo_latency=2.0)
"""Function for the language models' traces: l(b) = 600 ms + 200 ms x b, 2/s per replica within 2 s."""

SYNTHETIC_RATE = 150.0
"""Requests per second of the generated traces: their mean or base."""
ROUTINGS: Final = (1, 2, 3)
"""Seeds of the routing: every point is played with each of them."""
SECONDS = 3600
QUICK_SECONDS = 900
"""Maximum seconds of each trace."""
PLAYS: Final = "plays.jsonl"
"""File of kept outcomes, in the bench's folder."""
FEWER: Final = 2.3
"""Factor of fewer misses that counts as better if no scaler meets the objective (Faro, EuroSys'25)."""

OURS: Final = ("slo", "proportional")


NOISE: Final = 0.001
"""Distance of attainment from the objective within which a setting may meet it or not: twice a routing's
effect."""
LEVEL: Final = 0.01
"""Share of replica-seconds below which a difference may come from routing and is no win."""


@dataclass(frozen=True, slots=True)
class Grid:
    """The settings of one system: every target with every combination of the axes."""

    system: str
    shown: str
    """Format of the settings, the target first."""
    targets: tuple[float, ...]
    """Targets, ascending; attainment and cost are assumed to be monotonic in them."""
    first: tuple[float, ...]
    """Targets that are played for every combination; others are played only near the objective."""
    make: Callable[..., Scaler]
    """Called with a workload, a target and one value of each axis."""
    axes: tuple[tuple[float, ...], ...] = ()

    @property
    def size(self) -> int:
        """Number of settings."""
        return len(self.targets) * math.prod(map(len, self.axes))

    def halved(self) -> "Grid":
        """Return a coarser grid: every second one of the first targets and of each axis."""
        first = self.first[::2]
        return replace(self, targets=first, first=first, axes=tuple(axis[::2] for axis in self.axes))

    def play(self, workload: Workload, values: "Values", seed: int) -> Play:
        """Return the play of one setting with one routing."""
        return Play(
            workload,
            replace(RUN, seed=seed),
            self.system,
            self.shown.format(*values),
            lambda at: self.make(at, *values),
        )


Values = tuple[float, ...]
"""A target and one value of each axis."""


def _steps(low: float, high: float, step: float) -> tuple[float, ...]:
    """Return ``low`` to ``high``, both included, without the noise of floats."""
    return tuple(round(low + step * number, 6) for number in range(round((high - low) / step) + 1))


GRIDS: Final[tuple[Grid, ...]] = (
    Grid(
        "oracle",
        "utilization {:g}",
        targets=_steps(0.6, 1.6, 0.05),
        first=(0.6, 0.9, 1.05, 1.2, 1.6),
        make=lambda at, utilization: Oracle(at.trace, at.function, utilization, BOUNDS),
    ),
    Grid(
        "openfaas-ce",
        "factor {:g}, threshold 5/s or {:g} x capacity",
        targets=(10, 20, 50, 100),
        first=(10, 20, 50, 100),
        axes=((0, 1, 3),),
        make=lambda at, factor, replicas: baselines.OpenFaas(
            BOUNDS, OpenFaasRule(factor=int(factor), threshold=max(5.0, replicas * at.function.capacity))
        ),
    ),
    Grid(
        "threshold",
        "down below {:g} x SLO",
        targets=(0.5,),
        first=(0.5,),
        make=lambda _, low: baselines.Threshold(BOUNDS, baselines.ThresholdSettings(low)),
    ),
    Grid(
        "kpa",
        "target {:g}, scale-down-delay {:g} s, windows {:g} s and a tenth of it",
        targets=(*_steps(1.0, 8.0, 0.25), 10.0, 12.0),
        first=(1.0, 2.0, 4.0, 6.0, 12.0),
        axes=((0, 60), (30, 60, 120)),
        make=lambda _, target, delay, window: baselines.Kpa(
            BOUNDS, baselines.KpaSettings(target, window, window / 10.0, down_delay=delay)
        ),
    ),
    Grid(
        "hpa-cpu",
        "target {:g}, down window {:g} s",
        targets=(0.5, 0.55, 0.6, 0.65, 0.7, 0.75, *_steps(0.8, 0.92, 0.01), 0.95),
        first=(0.5, 0.65, 0.8, 0.86, 0.95),
        axes=((60, 300),),
        make=lambda _, share, window: baselines.hpa_cpu(BOUNDS, HpaSettings(share, window)),
    ),
    Grid(
        "keda-value",
        "threshold {:g} x SLO, down window {:g} s",
        targets=_steps(0.5, 1.0, 0.05),
        first=(0.5, 0.7, 0.85, 1.0),
        axes=((60, 300),),
        make=lambda at, share, window: baselines.keda_value(
            BOUNDS, HpaSettings(share * at.function.slo_latency, window)
        ),
    ),
    Grid(
        "ray-serve",
        "target {:g}, delays {:g} s and {:g} s",
        targets=_steps(1.0, 8.0, 0.25),
        first=(1.0, 2.0, 4.0, 8.0),
        axes=((0, 10, 30), (60, 600)),
        make=lambda _, target, up, down: ray_serve(BOUNDS, baselines.RaySettings(target, up, down)),
    ),
    Grid(
        "llm-d",
        "queue threshold {:g}, HPA window {:g} s, every {:g} s",
        targets=(3, 5, 7, 10, 15, 20),
        first=(5, 20),
        axes=((0, 240), (15, 60)),
        make=lambda at, queue, window, interval: baselines.Llmd(
            BOUNDS,
            # The trigger keeps its default's share of the threshold.
            baselines.LlmdSettings(queue, 0.6 * queue, interval=interval, window=window),
            at.function.slots,
        ),
    ),
)


def ours(policy: str, *, direct: bool = True) -> Callable[[Workload], Scaler]:
    """Return a factory of one of our policies for a workload: defaults with a higher maximum.

    Without ``direct`` it acts as with ``direct_interval: null``.
    """
    text = CONFIG.format(f"{{policy: {policy}, max_replicas: {BOUNDS.highest}}}")
    config = Config.parse(text, "bench")
    spec, phase = config.target("function.openfaas-fn"), config.prometheus.scrape_interval // 2
    return lambda _: DecideScaler(
        spec, config.interval, phase, policy, direct_interval=config.direct_interval if direct else None
    )


def _alone(policy: str) -> Callable[..., Scaler]:
    make = ours(policy)
    return lambda at, _: make(at)


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


class Search:
    """Finds one system's best settings for one trace, and the plays for that. [P]

    1. The first targets are played for every combination of the axes.
    2. Where one of two neighbors may meet the objective and the other may miss it, the target in the middle
       between them is played, unless both cost more than a setting that meets it. If no setting of the system
       meets it, the targets next to that with the fewest misses are played.
    3. The best setting, where those within ``NOISE`` of the objective are taken to meet it, is played with
       every routing. If it then is no longer the best, the next one is, until the best has been.
    """

    def __init__(self, grid: Grid, objective: float) -> None:
        self._grid, self._objective = grid, objective
        self.found: dict[Values, dict[int, Mapping[str, Any]]] = {
            (target, *rest): {} for rest in product(*grid.axes) for target in grid.first
        }
        """Outcomes of each setting by routing."""

    def wanted(self) -> list[tuple[Values, int]]:
        """Return the settings and routings to play next; none if the best is found."""
        first = ROUTINGS[0]
        if new := [values for values, outcomes in self.found.items() if first not in outcomes]:
            return [(values, first) for values in new]
        if between := self._between():
            self.found |= {values: {} for values in between}
            return [(values, first) for values in between]
        best = min(self.found, key=self._merit)
        return [(best, seed) for seed in ROUTINGS if seed not in self.found[best]]

    def records(self) -> Iterator[dict[str, Any]]:
        """Yield the outcome of each played setting."""
        for values, outcomes in self.found.items():
            yield {
                "system": self._grid.system,
                "settings": self._grid.shown.format(*values),
                "routings": len(outcomes),
                **together(list(outcomes.values())),
            }

    def _seen(self, values: Values) -> tuple[float, float, float]:
        """Return attainment, cost, and the uncertainty of the attainment."""
        outcomes = list(self.found[values].values())
        seen = together(outcomes)
        return seen["attainment"], seen["replica_seconds"], NOISE if len(outcomes) < len(ROUTINGS) else 0.0

    def _merit(self, values: Values) -> tuple[bool, float, float]:
        attainment, cost, noise = self._seen(values)
        favored = attainment + noise if attainment + noise >= self._objective else attainment
        return merit(favored, cost, self._objective)

    def _between(self) -> list[Values]:
        seen = {values: self._seen(values) for values in self.found}
        sure = [cost for attainment, cost, noise in seen.values() if attainment - noise >= self._objective]
        cheapest = min(sure, default=math.inf)
        hopeless = all(attainment + noise < self._objective for attainment, _, noise in seen.values())
        best = min(self.found, key=self._merit)
        targets = self._grid.targets
        found = []
        for rest in product(*self._grid.axes):
            played = [index for index, target in enumerate(targets) if (target, *rest) in seen]
            for low, high in pairwise(played):
                ends = [(targets[low], *rest), (targets[high], *rest)]
                attainments, costs, _ = zip(*(seen[end] for end in ends), strict=True)
                crosses = (
                    min(attainments) - NOISE < self._objective <= max(attainments) + NOISE
                    and min(costs) < cheapest
                )
                if high - low > 1 and (crosses or (hopeless and best in ends)):
                    found.append((targets[(low + high) // 2], *rest))
        return found


def compare(
    found: Sequence[Workload], grids: Sequence[Grid], kept: Kept, processes: int
) -> list[dict[str, Any]]:
    """Search every system's best settings on every workload; return a record of each played one."""
    searches = [
        (workload, grid, Search(grid, workload.function.slo_objective))
        for workload in found
        for grid in grids
    ]
    for number in count(1):
        wanted = [
            (search, values, seed, grid.play(workload, values, seed))
            for workload, grid, search in searches
            for values, seed in search.wanted()
        ]
        if not wanted:
            break
        page.say(f"round {number} of the search: {len(wanted):,} plays")
        outcomes = play_all([play for *_, play in wanted], kept, processes, OURS)
        for (search, values, seed, _), outcome in zip(wanted, outcomes, strict=True):
            search.found[values][seed] = outcome
    return [
        {"trace": workload.name, **record} for workload, _, search in searches for record in search.records()
    ]


def merit(attainment: float, cost: float, objective: float) -> tuple[bool, float, float]:
    """Return a sort key: the cheapest that meets the objective first, then the fewest misses."""
    misses = 1.0 - attainment
    return (False, cost, misses) if attainment >= objective else (True, misses, cost)


def chosen(records: Sequence[dict[str, Any]], objective: float) -> dict[str, dict[str, Any]]:
    """Return each system's best setting of one trace, among those played with every routing."""
    best: dict[str, dict[str, Any]] = {}
    sure = [record for record in records if record["routings"] == len(ROUTINGS)]
    for record in sorted(sure, key=lambda at: merit(at["attainment"], at["replica_seconds"], objective)):
        best.setdefault(record["system"], record)
    return best


def verdict(best: Mapping[str, Mapping[str, Any]], objective: float) -> tuple[str, str]:
    """Return ``won``, ``level``, ``lost`` or ``not to be met``, and the reason, for ``slo`` on one trace."""
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
        word = "level" if abs(share) < LEVEL else "won" if share < 0.0 else "lost"
        return word, f"{share:+.1%} replica-seconds against {name}"
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
    """Return the verdicts as Markdown, one line per trace."""
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
    columns = ("oracle", "replica-seconds", "`slo`", "replica-seconds", "`slo` against tuned baselines")
    head = (
        f"Simulated, {results['date']}; {len(results['records']):,} points, those that may be the best"
        f" with {len(ROUTINGS)} routings. Tailbound has one configuration for all traces. Each baseline has"
        f" its best setting for each trace ({results['grid']} settings in all). Ray Serve: {results['ray']}."
    )
    return f"{head}\n\n{page.markdown(('trace', 'requests/s', *columns), rows)}\n"


def _draw(results: Mapping[str, Any], folder: Path) -> Path:
    """Plot every point of every grid, one panel per trace: replica-seconds against misses."""
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
    add("--quick", action="store_true", help="the first 15 minutes and coarse grids")
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
    alone = tuple(Grid(policy, "", (0.0,), (0.0,), _alone(policy)) for policy in OURS)
    grids = alone + tuple(grid.halved() if options.quick else grid for grid in GRIDS)
    records = compare(found, grids, Kept(output / PLAYS), options.processes)
    results: dict[str, Any] = {
        **page.origin(),
        "objective": ENCODER.slo_objective,
        "quick": options.quick,
        "grid": sum(grid.size for grid in GRIDS if grid.system != "oracle"),
        "ray": "its package's own policy function" if installed() else "re-implemented",
        "traces": [{"name": each.name, "rate": each.trace.rate} for each in found],
        "records": records,
    }
    (output / "scaling.json").write_text(json.dumps(results, indent=1) + "\n")
    _draw(results, output)
    page.show(options, SECTION, _table(results), lambda folder: [_draw(results, folder)])
    verdicts = [verdict(_best(results, name), results["objective"])[0] for name in names]
    return 1 if "lost" in verdicts else 0
