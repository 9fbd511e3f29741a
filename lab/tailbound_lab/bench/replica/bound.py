"""``bench bound``: the engine in virtual time against an upper bound for any batcher, simulated.

For each kind of service times, with one SLO and with three, search the capacity: the highest rate at which
every SLO class meets its objective. At and above that rate, compare goodput with the bound, and count the
work for requests that end late. Next step: ``simulate.clairvoyant`` computes the bound.
"""

import argparse
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, NamedTuple

from tailbound_lab.bench import page
from tailbound_lab.load.arrivals import Profile, arrivals
from tailbound_lab.simulate.clairvoyant import Batches, Kind, most_on_time
from tailbound_lab.simulate.function import Function, Service
from tailbound_lab.simulate.mix import Mix, Part
from tailbound_lab.simulate.replica import Replica

SECTION: Final = "bound"
OBJECTIVE: Final = 0.99
RATIO: Final = 0.9
"""Minimum goodput at twice the capacity, as a share of the bound."""
LATE_WORK: Final = 0.02
"""Maximum share of the workers' time for requests that end late."""
LOADS: Final = (1.0, 1.5, 2.0)
SEEDS: Final = (1, 2)
SECONDS: Final = 10.0
LEARNING_SECONDS: Final = 5.0
REST_SECONDS: Final = 3.0
HALVINGS: Final = 8
GRID: Final = 0.0005
"""Seconds; all laws are multiples of it."""


class Law(NamedTuple):
    """l(b) = constant + per_request x b, in seconds, and the tightest budget."""

    constant: float
    per_request: float
    largest: int
    budget: float

    @property
    def label(self) -> str:
        """Its name in the table."""
        return f"{self.constant * 1e3:g} + {self.per_request * 1e3:g} x b ms, {self.budget * 1e3:g} ms"


LAWS: Final = (
    Law(0.008, 0.0005, 128, 0.1),
    Law(0.010, 0.002, 64, 0.1),
    Law(0.032, 0.002, 64, 0.1),
)
WORKERS: Final = (1, 2, 4)
TRAFFIC: Final = {
    "one SLO": (Part(1.0, "all"),),
    "1 : 3 : 10": (Part(5.0, "1", budget=1.0), Part(3.0, "3", budget=3.0), Part(2.0, "10", budget=10.0)),
}
"""Parts, with budgets in those of the law."""


class Found(NamedTuple):
    """The results of one simulation."""

    goodput: float
    """Requests per second of the batches that began while requests came; the bound counts the same."""
    late_work: float
    attainment: dict[str, float]
    arrived: dict[str, list[float]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``bench bound``."""
    parser.add_argument("--quick", action="store_true", help="the first law with one worker")
    page.add_publish(parser)


def main(options: argparse.Namespace, output: Path) -> int:
    """Simulate, write build/bench/bound.json, print; 0 if the engine is near enough to the bound."""
    laws, counts = (LAWS[:1], WORKERS[:1]) if options.quick else (LAWS, WORKERS)
    rows: list[dict[str, Any]] = []
    for name in TRAFFIC:
        for law in laws:
            for workers in counts:
                page.say(f"{name}, {law.label}, {workers} workers")
                rows += compare(law, workers, name)
    page.keep(output / "bound.json", {"rows": rows})
    page.show(options, SECTION, table(rows), decisive=worst(rows))
    return 0 if all(map(holds, rows)) else 1


def compare(law: Law, workers: int, traffic: str) -> list[dict[str, Any]]:
    """Return one row per load."""
    parts = [
        replace(part, budget=law.budget * (part.budget or 1.0), slo_class=part.name)
        for part in TRAFFIC[traffic]
    ]
    service = Service.affine(law.constant, law.per_request, law.largest)
    function = Function(service, workers, law.budget)
    low, high = 0.0, workers * law.largest / service.seconds[-1]
    for _ in range(HALVINGS):
        rate = (low + high) / 2
        tries = [simulate(function, parts, rate, seed).attainment for seed in SEEDS]
        met = all(sum(tried[part.name] for tried in tries) >= OBJECTIVE * len(tries) for part in parts)
        low, high = (rate, high) if met else (low, rate)
    rows = []
    for load in LOADS:
        runs = [simulate(function, parts, load * low, seed) for seed in SEEDS]
        shared = [Batches(tuple(range(len(parts))), service)]
        bounds = [
            most_on_time(
                [Kind(run.arrived.get(part.name, ()), part.budget or 0.0) for part in parts],
                shared,
                workers,
                GRID,
                until=LEARNING_SECONDS + REST_SECONDS + SECONDS,
            )
            for run in runs
        ]
        rows.append(
            {
                "law": law.label,
                "workers": workers,
                "traffic": traffic,
                "load": load,
                "rate": load * low,
                "bound": sum(bounds) / len(runs) / SECONDS,
                "goodput": sum(run.goodput for run in runs) / len(runs),
                "late_work": sum(run.late_work for run in runs) / len(runs),
                "attainment": {
                    part.name: sum(run.attainment[part.name] for run in runs) / len(runs) for part in parts
                },
            }
        )
    return rows


def simulate(function: Function, parts: Sequence[Part], rate: float, seed: int) -> Found:
    """Let the engine learn at half of the rate, then count the outcomes at ``rate``."""
    draw = random.Random(seed).random
    mix = Mix(function, parts, lambda batch: function.service.seconds[len(batch) - 1], draw)
    replica = Replica(function, 0.0, traffic=mix)
    begin = LEARNING_SECONDS + REST_SECONDS
    replica.serve(arrivals(Profile(((0.0, rate / 2), (LEARNING_SECONDS, rate / 2))), draw), begin)
    mix.clear()
    counted = [begin + at for at in arrivals(Profile(((0.0, rate), (SECONDS, rate))), draw)]
    replica.serve(counted, begin + SECONDS)
    # Without traffic late requests cost nothing, and whoever has long budgets has much to serve yet.
    late_work, goodput = (mix.late_work / mix.work if mix.work else 0.0), mix.good.total() / SECONDS
    replica.serve([], float("inf"))
    sent = mix.sent
    attainment = {part.name: mix.good[part.name] / max(1, sent[part.name]) for part in parts}
    return Found(goodput, late_work, attainment, dict(mix.arrived))


def holds(row: dict[str, Any]) -> bool:
    """Return whether a row passes: objectives at the capacity, the ratio at twice that."""
    if row["load"] == 1.0:
        return bool(min(row["attainment"].values()) >= OBJECTIVE and row["late_work"] <= LATE_WORK)
    enough = row["load"] != max(LOADS) or row["goodput"] >= RATIO * row["bound"]
    return bool(enough and row["late_work"] <= LATE_WORK)


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the comparison as Markdown, one line per engine; failures are bold."""
    lines: dict[tuple[str, ...], list[str]] = {}
    for row in rows:
        engine = (row["traffic"], row["law"], str(row["workers"]), f"{row['rate'] / row['load']:,.0f}")
        found = f"{row['goodput'] / row['bound']:.3f} ({row['late_work']:.1%})"
        lines.setdefault(engine, []).append(_bold(found, holds(row)))
    columns = ("budgets", "l(b), tightest budget", "workers", "capacity, requests/s")
    loads = (f"{load:g} x capacity" for load in LOADS)
    return page.markdown((*columns, *loads), [(*engine, *cells) for engine, cells in lines.items()])


def worst(rows: Sequence[dict[str, Any]]) -> str:
    """Return a line for each law: at each load the lowest ratio and the most late work of all workers."""
    lines: dict[tuple[str, str], dict[float, list[dict[str, Any]]]] = {}
    for row in rows:
        lines.setdefault((row["traffic"], row["law"]), {}).setdefault(row["load"], []).append(row)
    columns = ("budgets", "l(b), tightest budget", "workers", "capacity, requests/s")
    loads = (f"{load:g} x capacity" for load in LOADS)
    cells = []
    for law, found in lines.items():
        engines = found[LOADS[0]]
        workers = ", ".join(str(row["workers"]) for row in engines)
        capacity = "; ".join(f"{row['rate'] / row['load']:,.0f}" for row in engines)
        at_loads = (
            _bold(
                f"{min(row['goodput'] / row['bound'] for row in each):.3f}"
                f" ({max(row['late_work'] for row in each):.1%})",
                all(map(holds, each)),
            )
            for each in found.values()
        )
        cells.append((*law, workers, capacity, *at_loads))
    return page.markdown((*columns, *loads), cells)


def _bold(text: str, holds: bool) -> str:
    return text if holds else f"**{text}**"
