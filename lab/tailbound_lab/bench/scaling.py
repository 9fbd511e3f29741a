"""``bench scaling``: our scaling and the scalers that people run, each with its default settings, simulated.

The constants of our law are set on ``bursty``, ``diurnal``, ``step`` and ``spike``. This module plays other
traces, start-ups and objectives, and faults. Each case has two draws of arrivals and routing.
"""

import argparse
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import fsum
from pathlib import Path
from typing import Final

import numpy as np

from slo_autoscaler.config import Config
from tailbound_lab.bench.rig.pool import play_all
from tailbound_lab.bench.rig.record import Record, Row, Run, markdown, say
from tailbound_lab.load.records import BenchError
from tailbound_lab.simulate import SimulationError, traces
from tailbound_lab.simulate.baselines import Bounds
from tailbound_lab.simulate.function import Function, Scaler, Service
from tailbound_lab.simulate.scalers import Experiment, make
from tailbound_lab.simulate.traces import Floats, Trace
from tailbound_lab.simulate.world import Settings
from tailbound_lab.simulate.world import run as simulate

BOUNDS: Final = Bounds(1, 30)
"""Bounds of every scaler, for every trace."""
RUN: Final = Settings(highest=BOUNDS.highest)
ENCODER: Final = Function(Service.affine(0.030, 0.015, 32), slo_latency=0.2)
"""Function for hundreds of requests per second: l(b) = 30 ms + 15 ms x b, 44/s per replica within the SLO."""
GENERATOR: Final = Function(Service.affine(0.6, 0.2, 16), slo_latency=2.0)
"""Function for the language models' traces: l(b) = 600 ms + 200 ms x b, 2/s per replica within 2 s."""
SECONDS: Final = 3600
QUICK_SECONDS = 900
"""Maximum seconds of each trace."""
DRAWS: Final = (20, 21)
"""Seeds of arrivals and routing."""
OURS: Final = "slo"
BOOSTED: Final = "slo, boost 3"
HALVED: Final = "slo, start-ups halved"
"""As with a boost of start-ups, and none of replicas that serve. A start-up takes as many CPU-seconds."""

JITTER: Final = 0.2
"""Largest deviation of a jittered gap from its mean, as a share: even draws deviate by 12% as a rule."""
START_UPS: Final = (60.0, 180.0)
"""Start-up times in seconds; all other cases have 10."""
OBJECTIVES: Final = (0.95, 0.999)
"""Objectives; all other cases have 0.99."""
CAPACITY_ERRORS: Final = (0.7, 1.3)
"""Observed capacity over true capacity."""
MISSED_SCRAPE_EVERY: Final = 12
"""One scrape in twelve."""


@dataclass(frozen=True, slots=True)
class Case:
    """One trace per draw, the function, and the world's faults."""

    name: str
    draws: tuple[Trace, ...]
    function: Function
    world: Settings = RUN


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``bench scaling``."""
    add = parser.add_argument
    add("--traces", type=Path, metavar="DIR", help="recorded traces too [the generated ones alone]")
    add("--only", metavar="TEXT", default="", help="only cases with this in their name [all]")
    names = "; ".join(SCALERS).replace("%", "%%")
    add("--scalers", metavar="NAME;...", help=f"to compare {OURS} with, of {names} [all]")
    add("--quick", action="store_true", help="the first 15 minutes of every trace")
    add("--processes", type=int, default=os.cpu_count(), help="simulations at a time [one for each core]")


def main(options: argparse.Namespace, run: Run) -> int:
    """Play; 0 if no other scaler meets as many objectives as ours for fewer replica-seconds."""
    try:
        every = list(cases(options.traces, QUICK_SECONDS if options.quick else SECONDS))
    except SimulationError as error:
        raise BenchError(str(error)) from None
    asked = [case for case in every if options.only in case.name]
    if not asked:
        raise BenchError(f"--only {options.only}: must be in the name of a case")
    names = options.scalers.split(";") if options.scalers else SCALERS
    chosen = list(dict.fromkeys((OURS, *(name.strip() for name in names))))
    if unknown := set(chosen) - SCALERS.keys():
        raise BenchError(f"--scalers {min(unknown)}: must be of {'; '.join(SCALERS)}")
    say(f"{len(asked)} cases, each with {len(DRAWS)} draws, {', '.join(chosen)}")
    plays = [partial(play, case, system) for case in asked for system in chosen]
    rows = play_all(plays, options.processes)
    run.keep(rows)
    own = _total(rows, OURS)
    others = [_total(rows, system) for system in chosen if system not in (OURS, BOOSTED, HALVED)]
    return int(any(met >= own[0] and cost < own[1] for met, cost in others))


def cases(folder: Path | None, seconds: int) -> Iterator[Case]:
    """Yield the cases, at most ``seconds`` long; without ``folder`` no recorded traces."""
    known = {name: Case(name, draws, function) for name, draws, function in _traces(folder, seconds)}
    yield from (case for name, case in known.items() if name != "bursty")

    def on(*names: str) -> Iterator[tuple[Case, Function]]:
        return ((known[name], known[name].function) for name in names if name in known)

    for start_up in START_UPS:
        for case, function in on("bursty", "diurnal-2", "on-off", "jittered spike"):
            yield replace(
                case,
                name=f"{case.name}; start-up {start_up:g} s",
                function=replace(function, start_up=start_up),
            )
    for objective in OBJECTIVES:
        for case, function in on("diurnal-2", "noisy", "AzureLLMInferenceTrace_conv", "on-off"):
            yield replace(
                case,
                name=f"{case.name}; objective {objective:g}",
                function=replace(function, slo_objective=objective),
            )
    for error in CAPACITY_ERRORS:
        for case, function in on("diurnal-2", "noisy", "on-off"):
            yield replace(
                case,
                name=f"{case.name}; capacity {error - 1.0:+.0%}",
                function=replace(function, learned_capacity=error * function.capacity),
            )
    for words, world in (
        ("one pod crash-loops", replace(RUN, crash_looping=1)),
        ("one scrape in twelve missed", replace(RUN, missed_scrape_every=MISSED_SCRAPE_EVERY)),
    ):
        for case, _ in on("diurnal-2", "noisy", "on-off"):
            yield replace(case, name=f"{case.name}; {words}", world=world)


def _traces(folder: Path | None, seconds: int) -> Iterator[tuple[str, tuple[Trace, ...], Function]]:
    """Yield name, draws and function of the traces; ``bursty`` too, for its other start-ups."""
    for file in recorded(folder):
        if file.stem != "diurnal":
            function = GENERATOR if file.suffix == ".csv" else ENCODER
            draws = tuple(traces.read(file, seed=seed).cut(seconds) for seed in DRAWS)
            yield file.stem, draws, function
    day = np.tile(traces.diurnal(200.0, seconds // 6), 6)
    levels: tuple[tuple[str, Callable[[int], Floats], float], ...] = (
        ("on-off", lambda _: traces.on_off(150.0, seconds), 1.0),
        ("jittered spike", lambda seed: jittered_spike(150.0, seconds, seed), 1.0),
        ("jittered on-off", lambda seed: jittered_on_off(150.0, seconds, seed), 1.0),
        ("spike x3 of 5 s every 300 s", lambda _: traces.spike(150.0, seconds, 3.0, 5, 300), 1.0),
        ("spike x6 of 8 s every 900 s", lambda _: traces.spike(80.0, seconds, 6.0, 8, 900), 1.0),
        ("on 600 s, off 300 s", lambda _: traces.on_off(200.0, seconds, 600, 300), 1.0),
        ("step x4 from 100/s", lambda _: traces.step(100.0, seconds, 4.0), 1.0),
        ("ramp x5", lambda _: traces.ramp(60.0, seconds), 1.0),
        ("a day in 10 minutes, six of them", lambda _: day, 1.0),
        ("Gamma, CV^2 = 4, 150/s", lambda _: traces.steady(150.0, seconds), 4.0),
    )
    for name, rates, cv2 in levels:
        yield name, tuple(traces.from_rates(name, rates(seed), cv2=cv2, seed=seed) for seed in DRAWS), ENCODER


def jittered(every: int, duration: int, seed: int) -> list[int]:
    """Return start times whose gaps vary around ``every`` by up to ``JITTER``."""
    gaps = every * np.random.default_rng(seed).uniform(1.0 - JITTER, 1.0 + JITTER, duration // every * 2 + 2)
    return [int(begin) for begin in np.cumsum(gaps) - every / 2 if begin < duration]


def jittered_spike(rate: float, duration: int, seed: int) -> Floats:
    """Return ``rate`` with spikes to four times as much of 5 s, about every 600 s."""
    levels = traces.steady(rate, duration)
    for begin in jittered(600, duration, seed):
        levels[begin : begin + 5] *= 4.0
    return levels


def jittered_on_off(rate: float, duration: int, seed: int) -> Floats:
    """Return ``rate`` with 180 s of nothing, about every 480 s."""
    levels = traces.steady(rate, duration)
    for begin in jittered(480, duration, seed):
        levels[begin : begin + 180] = 0.0
    return levels


def recorded(folder: Path | None) -> list[Path]:
    """Return the trace files of ``folder``; none without one. Raises ``BenchError`` if it is no folder."""
    if folder is None:
        return []
    if not folder.is_dir():
        raise BenchError(f"--traces {folder}: must be a folder")
    return sorted(folder.glob("*.txt")) + sorted(folder.glob("Azure*.csv"))


NOWHERE: Final = {"platform": {"gateway_url": "http://none"}, "prometheus": {"url": "http://none"}}
SCALERS: Final[Mapping[str, str]] = {
    OURS: "slo",
    BOOSTED: "slo",
    HALVED: "slo",
    "HPA on CPU, 70%": "hpa-cpu:0.7",
    "KEDA on p99 latency": "keda-value",
    "Knative KPA": "kpa",
    "OpenFaaS CE": "openfaas-ce",
}
"""The simulator's name of each, by the name that the table has."""


def scaler(system: str, trace: Trace, function: Function) -> Scaler:
    """Return a scaler in its initial state; ours under its default configuration."""
    boost = {"boost": {"max_factor": 3.0}} if system == BOOSTED else {}
    defaults = {"max_replicas": BOUNDS.highest, **boost}
    config = Config.parse(json.dumps(NOWHERE | {"defaults": defaults}), "the simulator")
    # Reconciles come half a scrape interval after a scrape, the mean delay.
    phase = config.prometheus.scrape_interval // 2
    spec = config.target("function.openfaas-fn")
    at = Experiment(trace, function, BOUNDS, spec, config.interval, phase, config.direct_interval)
    return make(SCALERS[system], at)


def play(case: Case, system: str) -> Row:
    """Return what a scaler did in a case: means over the draws."""
    function = case.function
    if system == HALVED:
        function = replace(function, start_up=0.5 * function.start_up)
    outcomes = [
        simulate(trace, function, scaler(system, trace, function), replace(case.world, seed=seed))
        for seed, trace in zip(DRAWS, case.draws, strict=True)
    ]
    means = {
        name: fsum(getattr(outcome, name) for outcome in outcomes) / len(DRAWS)
        for name in ("attainment", "replica_seconds", "cpu_seconds", "changes")
    }
    return {"case": case.name, "objective": case.function.slo_objective, "system": system, **means}


def met(row: Row) -> bool:
    """Return whether the objective was met."""
    return bool(row["attainment"] >= row["objective"])


def _total(rows: Sequence[Row], system: str) -> tuple[int, float]:
    """Return the number of cases that a system meets, and its replica-seconds in all cases."""
    own = [row for row in rows if row["system"] == system]
    return sum(map(met, own)), fsum(row["replica_seconds"] for row in own)


def table(record: Record) -> str:
    """Return the cases that each system meets and its cost, and the cases that ours misses."""
    by_case: dict[str, dict[str, Row]] = {}
    for row in record.rows:
        by_case.setdefault(row["case"], {})[row["system"]] = row
    systems = tuple(dict.fromkeys(row["system"] for row in record.rows))
    lines = []
    for system in systems:
        number, cost = _total(record.rows, system)
        cpu = fsum(row["cpu_seconds"] for row in record.rows if row["system"] == system)
        beside = _beside(by_case.values(), system)
        lines.append((system, f"{number} of {len(by_case)}", f"{cost:,.0f}", f"{cpu:,.0f}", beside))
    columns = (
        "scaler",
        "cases met",
        "replica-seconds",
        "CPU-seconds",
        f"replica-seconds of {OURS} where both meet the objective",
    )
    missed = ((name, of[OURS]["attainment"]) for name, of in by_case.items() if not met(of[OURS]))
    lost = ", ".join(f"{name} ({attainment:.2%})" for name, attainment in missed)
    end = f"\n\nRequests within the SLO in the cases that {OURS} misses: {lost}." if lost else ""
    return markdown(columns, lines) + end


def _beside(cases: Iterable[Mapping[str, Row]], system: str) -> str:
    """Return the replica-seconds of ours against another system's, where both meet the objective."""
    both = [of for of in cases if met(of[OURS]) and met(of[system])]
    if system == OURS or not both:
        return ""
    own, theirs = (fsum(of[name]["replica_seconds"] for of in both) for name in (OURS, system))
    return f"{own / theirs - 1.0:+.1%} in {len(both)}"
