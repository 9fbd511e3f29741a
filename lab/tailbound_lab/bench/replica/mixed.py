"""``bench mixed``: mixed traffic on one worker of a simulated device.

- ``paths``: the same total rate on 1, 4 and 16 paths. How much goodput do cost classes cost?
- ``lengths``: ten short texts per long one, where a batch costs as much as its longest text. How close are
the
  classes that the engine finds to manual keys, and how far from one class for all?
- ``classes``: three SLO classes with budgets 1 : 3 : 10, at the capacity and at twice that.

The servers of all variants run at the same time and get the same arrivals in turn, in several rounds: a slow
minute of the machine affects all of them, and each ratio is within one round. Each run at a given rate also
has the simulator's result. Next steps: ``rig.measure`` runs a trial, ``rig.simulated`` simulates it.
"""

import argparse
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from tailbound_lab.bench import page
from tailbound_lab.bench.rig import simulated
from tailbound_lab.bench.rig.measure import FULL, SMOKE, Bench, Rig, maxima, side_by_side
from tailbound_lab.bench.rig.server import Server
from tailbound_lab.bench.rig.systems import listed, parse_entry
from tailbound_lab.bench.workloads import FOLDER, WORKLOADS, Workload
from tailbound_lab.load.generator import Part, build
from tailbound_lab.load.records import BenchError, percent
from tailbound_lab.simulate import mix

SECTION: Final = "mixed"
Service = Callable[..., float]
PADDED: Final = Workload("padded", FOLDER / "padded", 0.1, (), 40.0)
SECONDS: Final = 10.0
"""Length of each run at a given rate."""
LONGEST: Final = 512
"""Characters of the longest text."""
SHORT: Final = tuple(range(8, 68, 6))
LONG: Final = (320, 384, 448, LONGEST)
BUDGETS: Final = MappingProxyType({"interactive": 0.1, "standard": 0.3, "bulk": 1.0})
"""Seconds, by SLO class."""
SHARES: Final = MappingProxyType({"interactive": 5.0, "standard": 3.0, "bulk": 2.0})


@dataclass(frozen=True, slots=True)
class Variant:
    """One server and the mix that it is offered."""

    label: str
    parts: tuple[Part, ...]
    settings: Mapping[str, str] = field(default_factory=dict)
    """Of the server, besides the target."""


@dataclass(frozen=True, slots=True)
class Question:
    """Variants, and the settings of their comparison."""

    workload: Workload
    law: Callable[[Service, Sequence[mix.Part]], float]
    """Returns the seconds of a batch from the workload's own function and the batch's parts."""
    variants: tuple[Variant, ...]
    rates: tuple[float, ...]
    """Requests per second that each is offered."""
    searched: bool = False
    """Whether to search the highest sustained rate of each variant as well."""


def _by_size(service: Service, batch: Sequence[mix.Part]) -> float:
    return service(len(batch))


def _by_longest(service: Service, batch: Sequence[mix.Part]) -> float:
    return service(len(batch), max(part.cost for part in batch))


def on_paths(count: int) -> tuple[Part, ...]:
    """Return equal parts on ``count`` paths."""
    return tuple(Part(b"x" * 200, f"/{number}") for number in range(count))


def of_lengths(*, keys: bool = False, hidden: bool = False) -> tuple[Part, ...]:
    """Return ten short texts for one long one, with a key by hand or with their lengths hidden."""
    lengths = [("short", length, 10 / len(SHORT)) for length in SHORT]
    lengths += [("long", length, 1 / len(LONG)) for length in LONG]
    return tuple(
        Part(
            (b"x" * length).ljust(LONGEST if hidden else 0),
            headers=(("X-Batch-Key", name),) if keys else (),
            weight=weight,
            name=name,
        )
        for name, length, weight in lengths
    )


def of_classes() -> tuple[Part, ...]:
    """Return one part for each SLO class."""
    return tuple(
        Part(b"x" * 200, headers=(("X-SLO-Class", name),), weight=SHARES[name], name=name, slo=budget)
        for name, budget in BUDGETS.items()
    )


_DECLARED: Final = ", ".join(f"{name}={budget * 1e3:g}ms" for name, budget in BUDGETS.items())
QUESTIONS: Final[Mapping[str, Question]] = MappingProxyType(
    {
        "paths": Question(
            WORKLOADS["accelerator"],
            _by_size,
            tuple(Variant(f"{count} path{'s' * (count > 1)}", on_paths(count)) for count in (1, 4, 16)),
            (1400.0, 2500.0),
        ),
        "lengths": Question(
            PADDED,
            _by_longest,
            (
                Variant("nothing set", of_lengths()),
                Variant("X-Batch-Key by hand", of_lengths(keys=True)),
                Variant("one class for all", of_lengths(hidden=True)),
            ),
            (600.0, 1200.0),
            searched=True,
        ),
        "classes": Question(
            WORKLOADS["accelerator"],
            _by_size,
            (Variant("three SLO classes", of_classes(), {"slo_classes": _DECLARED}),),
            (1400.0, 2800.0),
        ),
    }
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``bench mixed``."""
    add = parser.add_argument
    add("--questions", default=",".join(QUESTIONS), help="kinds of traffic, comma-separated [%(default)s]")
    add("--rounds", type=int, default=3, help="number of rounds, each with fresh servers [3]")
    add("--smoke", action="store_true", help="runs of a second, to check that all works")
    page.add_publish(parser)


def main(options: argparse.Namespace, output: Path) -> int:
    """Measure, write build/bench/mixed.json, print; questions that are not asked again stay in it."""
    names = listed(options.questions)
    if unknown := [name for name in names if name not in QUESTIONS]:
        raise BenchError(f"--questions {unknown[0]}: there are {', '.join(QUESTIONS)}")
    if options.rounds < 1:
        raise BenchError(f"--rounds {options.rounds}: must be at least 1")
    generator = build(output)
    effort = SMOKE if options.smoke else replace(FULL, overload_seconds=SECONDS)
    results: dict[str, Any] = {**page.origin()}
    earlier = page.earlier(output / "mixed.json", machine=results["machine"])
    results["questions"] = earlier.get("questions", {})
    for name in names:
        rounds = []
        for number in range(1, options.rounds + 1):
            rig = Rig(generator, 1, effort, f"{name}, round {number} of {options.rounds}")
            rounds.append(_round(QUESTIONS[name], rig))
        results["questions"][name] = rounds
        page.keep(output / "mixed.json", results)
    page.show(options, SECTION, _tables(results), decisive=_tables(results, rates=1))
    return 0


def _round(question: Question, rig: Rig) -> dict[str, Any]:
    """Start the server of every variant; return the results by label."""
    entry, workload = parse_entry("slo"), question.workload
    servers = {
        variant.label: Server(entry, workload, rig.workers, variant.parts[0].body, variant.settings)
        for variant in question.variants
    }
    parts = {variant.label: variant.parts for variant in question.variants}
    with side_by_side(servers, rig, parts) as benches:
        at_rates: dict[str, dict[str, Any]] = {label: {} for label in benches}
        for bench in benches.values():  # lets the engine learn cost classes, which is not measured
            bench.counted(min(question.rates) / 2, rig.effort.overload_seconds)
        for rate in question.rates:
            for label, bench in benches.items():
                rig.say(f"{label}: {rate:,.0f} requests/s")
                at_rates[label][f"{rate:g}"] = bench.counted(rate, rig.effort.overload_seconds)
        found: dict[str, Any] = {"rates": at_rates}
        if question.searched:
            found["maxima"] = maxima(benches, rig.effort.plan(workload))
    # The parts of the longest batches: a delay is a large multiple of a short one.
    law = partial(question.law, simulated.service_seconds(workload))
    longest = max(question.variants[0].parts, key=lambda sent: law([simulated.part(sent)]))
    with Server(entry, workload, rig.workers, longest.body, simulated.LOGGED) as server:
        single = Bench(server, rig, (longest,))
        beyond = simulated.beyond(single, simulated.part(longest), law, max(question.rates))
        found["beyond"] = asdict(beyond)
    rig.say("simulated")
    for variant in question.variants:
        for offered, run in at_rates[variant.label].items():
            run["simulated"] = simulated.simulate(
                *(variant.parts, law, workload.slo, float(offered), beyond),
                seconds=rig.effort.overload_seconds,
            )
    return found


def _tables(results: Mapping[str, Any], rates: int | None = None) -> str:
    """Return all questions as one table, each at its highest ``rates``, or at all of them."""
    questions = results["questions"]
    lines = [
        (name, *line)
        for name, rounds in questions.items()
        for line in at_rates([found["rates"] for found in rounds], rates)
    ]
    parts = [f"{results['machine']}, {results['date']}.", page.markdown(_COLUMNS, lines)]
    searched = {name: rounds for name, rounds in questions.items() if QUESTIONS[name].searched}
    if searched:
        parts.append(
            page.maxima({name: [found["maxima"] for found in rounds] for name, rounds in searched.items()})
        )
    return "\n\n".join(parts)


_COLUMNS: Final = (
    *("question", "offered", "traffic", "goodput, requests/s"),
    *("ratio to the first traffic", "within SLO", "simulated"),
)


def at_rates(
    rounds: Sequence[Mapping[str, Mapping[str, Any]]], highest: int | None = None
) -> list[tuple[str, ...]]:
    """Return a line for each rate (or the ``highest`` so many) and variant.

    It has the median over the rounds, and the range of the ratios.
    """
    first = next(iter(rounds[0]))
    lines: list[tuple[str, ...]] = []
    for rate in sorted(rounds[0][first], key=float)[-highest if highest else 0 :]:
        for label in rounds[0]:
            runs = [found[label][rate] for found in rounds if "goodput" in found[label][rate]]
            ratios = [
                found[label][rate]["goodput"] / found[first][rate]["goodput"]
                for found in rounds
                if found[label][rate].get("goodput") and found[first][rate].get("goodput")
            ]
            lines.append(
                (
                    f"{float(rate):,.0f}/s",
                    label,
                    f"{statistics.median(run['goodput'] for run in runs):,.0f}"
                    if runs
                    else "generator lagged",
                    "" if label == first else page.spread(ratios),
                    _shares([run["parts"] for run in runs]),
                    _shares([found[label][rate]["simulated"]["parts"] for found in rounds]),
                )
            )
    return lines


def _shares(rounds: Sequence[Mapping[str, float]]) -> str:
    """Return the median attainment of each part."""
    return ", ".join(
        f"{name} {percent(statistics.median(found[name] for found in rounds))}".strip()
        for name in (rounds[0] if rounds else ())
    )
