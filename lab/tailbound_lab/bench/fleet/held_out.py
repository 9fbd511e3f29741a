"""``bench held-out``: our scaling on cases that set none of its constants, without tuning.

The constants are set on ``bursty``, ``diurnal``, ``step`` and ``spike``. This module has other traces,
start-ups and objectives, and faults. Each case is played with two draws of arrivals and routing: by ours, by
the oracle, and by the HPA on CPU in its usual setting, 70% with the default window.

The oracle knows the trace, the true capacity and the start-up. If it would miss the objective, it keeps more
reserve; no scaler can meet a case that it still misses. The blind oracle knows everything except peaks higher
than any before: its misses are the cost of a first jump. It is played where ours misses. Simulated.
"""

import argparse
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from slo_autoscaler.config import Config
from tailbound_lab.bench import page
from tailbound_lab.bench.fleet.plays import Kept, Make, Play, Workload, play_all, together
from tailbound_lab.simulate import traces
from tailbound_lab.simulate.baselines import Bounds, HpaSettings, hpa_cpu
from tailbound_lab.simulate.function import Function, Scaler, Service
from tailbound_lab.simulate.oracle import Oracle
from tailbound_lab.simulate.scalers import DecideScaler
from tailbound_lab.simulate.traces import Floats, Trace
from tailbound_lab.simulate.world import Settings

SECTION: Final = "held-out"

CONFIG: Final = "{{platform: {{gateway_url: http://none}}, prometheus: {{url: http://none}}, defaults: {}}}"
BOUNDS: Final = Bounds(1, 30)
"""Bounds of every scaler, for every trace."""
RUN: Final = Settings(highest=BOUNDS.highest)
ENCODER: Final = Function(Service.affine(0.030, 0.015, 32), slo_latency=0.2)
"""Function for hundreds of requests per second: l(b) = 30 ms + 15 ms x b, 44/s per replica within the SLO."""
GENERATOR: Final = Function(Service.affine(0.6, 0.2, 16), slo_latency=2.0)
"""Function for the language models' traces: l(b) = 600 ms + 200 ms x b, 2/s per replica within 2 s."""
SECONDS = 3600
QUICK_SECONDS = 900
"""Maximum seconds of each trace."""
PLAYS: Final = "plays.jsonl"
"""File of kept outcomes, in the bench's folder."""

DRAWS: Final = (20, 21)
"""Seeds of arrivals and routing."""
OURS: Final = "slo"
BLIND: Final = "oracle-blind"
SYSTEMS: Final = {OURS: "`slo`", "oracle": "oracle", BLIND: "blind oracle", "hpa-cpu": "HPA on CPU, 70%"}
UTILIZATIONS: Final = (1.1, 0.9, 0.7)
"""Targets of the oracle: the first that meets the objective counts, or the one with the fewest misses."""

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
    """A held-out case: one trace per draw, the function, and the world's faults."""

    name: str
    draws: tuple[Trace, ...]
    function: Function
    world: Settings = RUN

    def plays(self, system: str, settings: str, make: Make) -> list[Play]:
        """Return the plays of one scaler, one per draw."""
        return [
            Play(Workload(trace, self.function), replace(self.world, seed=seed), system, settings, make)
            for seed, trace in zip(DRAWS, self.draws, strict=True)
        ]


def cases(folder: Path | None, seconds: int) -> Iterator[Case]:
    """Yield the held-out cases, at most ``seconds`` long; without ``folder`` no recorded traces."""
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


def recorded(folder: Path | None) -> list[Path]:
    """Return the trace files of ``folder``; none without one."""
    if folder is None or not folder.is_dir():
        return []
    return sorted(folder.glob("*.txt")) + sorted(folder.glob("Azure*.csv"))


def _oracle(utilization: float, *, blind: bool) -> Make:
    def make(at: Workload) -> Oracle:
        function = replace(at.function, learned_capacity=None)
        return Oracle(at.trace, function, utilization, BOUNDS, blind=blind)

    return make


def play(found: Sequence[Case], kept: Kept, processes: int, *, direct: bool = True) -> list[dict[str, Any]]:
    """Return one record per case, with the outcome of each system over both draws.

    ``direct``: ours also reads the load directly.
    """
    hpa = HpaSettings(0.7)
    chosen: list[dict[str, dict[str, Any]]] = [{} for _ in found]

    def together_of(which: Sequence[int], system: str, settings: str, make: Make) -> None:
        plays = [each for index in which for each in found[index].plays(system, settings, make)]
        outcomes = play_all(plays, kept, processes, {OURS})
        for number, index in enumerate(which):
            drawn = outcomes[number * len(DRAWS) : (number + 1) * len(DRAWS)]
            outcome = together(drawn) | {"missed_at_once": max(each["missed_at_once"] for each in drawn)}
            before = chosen[index].get(system)
            if before is None or outcome["attainment"] > before["attainment"]:
                chosen[index][system] = outcome

    page.say(f"{len(found)} cases: ours, then the HPA, then the oracle; the blind one where ours misses")
    everything = range(len(found))
    together_of(everything, OURS, "" if direct else "scrapes alone", ours(OURS, direct=direct))
    together_of(everything, "hpa-cpu", f"{hpa}", lambda _: hpa_cpu(BOUNDS, hpa))

    def missing(system: str, among: Sequence[int] = everything) -> list[int]:
        return [
            index
            for index in among
            if chosen[index][system]["attainment"] < found[index].function.slo_objective
        ]

    for system, which in (("oracle", everything), (BLIND, missing(OURS))):
        for utilization in UTILIZATIONS:
            together_of(which, system, f"{utilization:g}", _oracle(utilization, blind=system == BLIND))
            which = missing(system, which)  # noqa: PLW2901 - those that the next one may meet
    return [
        {"name": case.name, "objective": case.function.slo_objective, "systems": systems}
        for case, systems in zip(found, chosen, strict=True)
    ]


def missed(record: Mapping[str, Any], system: str) -> bool:
    """Return whether a system misses the objective of a case."""
    return bool(record["systems"][system]["attainment"] < record["objective"])


def table(results: Mapping[str, Any], base: Mapping[str, Any] | None = None) -> str:
    """Return all cases as Markdown; with an older record ``base``, the change of Tailbound since then."""
    older = {record["name"]: record["systems"][OURS] for record in base["cases"]} if base else {}
    rows = [
        (*_row(record), *([_change(older.get(record["name"]), record["systems"][OURS])] if base else []))
        for record in results["cases"]
    ]
    columns = (*_COLUMNS, *([f"{SYSTEMS[OURS]} before"] if base else []))
    words = "Bold: below the objective. (*): the oracle misses it too."
    return f"{summary(results)}\n\n{words}\n\n{page.markdown(columns, rows)}\n"


def published(results: Mapping[str, Any]) -> str:
    """Return the summary, and by trace the cases that Tailbound misses, with the range of attainment."""
    lost: dict[str, list[Mapping[str, Any]]] = {}
    for record in results["cases"]:
        if missed(record, OURS):
            lost.setdefault(record["name"].partition("; ")[0], []).append(record)
    words = f"The cases in which {SYSTEMS[OURS]} misses the objective:"
    systems = (cell for each in SYSTEMS.values() for cell in (each, "replica-seconds"))
    columns = ("trace", "cases", *systems, "missed at once")
    rows = [(trace, _settings(found), *_together(found), _at_once(found)) for trace, found in lost.items()]
    return "\n\n".join((summary(results), *((words, page.markdown(columns, rows)) if rows else ())))


def _settings(records: Sequence[Mapping[str, Any]]) -> str:
    return ", ".join(record["name"].partition("; ")[2] or "as it is" for record in records)


def _together(records: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield for each system the lowest and the highest attainment of some cases, and their cost in all."""
    for system in SYSTEMS:
        yield _range([record["systems"][system]["attainment"] for record in records])
        yield f"{_cost(records, system):,.0f}"


def _at_once(records: Sequence[Mapping[str, Any]]) -> str:
    return _range([record["systems"][OURS]["missed_at_once"] for record in records])


def _range(shares: Sequence[float]) -> str:
    return " to ".join(dict.fromkeys(f"{share:.2%}" for share in (min(shares), max(shares))))


def summary(results: Mapping[str, Any]) -> str:
    """Return the cases that each system meets, and its cost in all and where Tailbound meets it."""
    records = results["cases"]
    lines = [
        f"Simulated, {results['date']}; {len(records)} cases, each with {len(DRAWS)} draws of arrivals and"
        " routing. The objective is 0.99 unless named.\n"
    ]
    for system, heading in SYSTEMS.items():
        if system == BLIND:
            continue
        met = [record for record in records if not missed(record, system)]
        both = [record for record in met if not missed(record, OURS)]
        beside = ""
        if system != OURS and both:
            change = _cost(both, OURS) / _cost(both, system) - 1.0
            more = "more" if change > 0.0 else "fewer"
            beside = (
                f" In the {len(both)} cases where both meet it, {SYSTEMS[OURS]} uses {abs(change):.1%}"
                f" {more} replica-seconds."
            )
        lines.append(
            f"- {heading} meets the objective in {len(met)} cases and uses {_cost(records, system):,.0f}"
            f" replica-seconds in all.{beside}"
        )
    lost = [record for record in records if missed(record, OURS)]
    unforeseen = sum(missed(record, BLIND) for record in lost)
    lines.append(
        f"- The blind oracle misses {unforeseen} of the {len(lost)} cases that {SYSTEMS[OURS]} misses."
    )
    return "\n".join(lines)


_COLUMNS: Final = (
    "case",
    *(
        column
        for system, heading in SYSTEMS.items()
        for column in (heading, "replica-seconds", *(["reversals"] if system == OURS else []))
    ),
)


def _row(record: Mapping[str, Any]) -> tuple[str, ...]:
    cells = [f"{record['name']} (*)" if missed(record, "oracle") else record["name"]]
    for system in SYSTEMS:
        if (outcome := record["systems"].get(system)) is None:
            cells += ["", ""]
            continue
        share = f"{outcome['attainment']:.2%}"
        cells += [
            f"**{share}**" if missed(record, system) else share,
            f"{outcome['replica_seconds']:,.0f}",
            *([f"{outcome['reversals']}"] if system == OURS else []),
        ]
    return tuple(cells)


def _cost(records: Sequence[Mapping[str, Any]], system: str) -> float:
    return float(sum(record["systems"][system]["replica_seconds"] for record in records))


def _change(before: Mapping[str, Any] | None, now: Mapping[str, Any]) -> str:
    if before is None:
        return "not played"
    points = 100.0 * (now["attainment"] - before["attainment"])
    cost = now["replica_seconds"] / before["replica_seconds"] - 1.0
    return (
        f"{before['attainment']:.2%} ({points:+.2f} points), {before['replica_seconds']:,.0f} ({cost:+.1%})"
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``bench held-out``."""
    add = parser.add_argument
    add("--traces", type=Path, metavar="DIR", help="recorded traces too [the generated ones alone]")
    add("--only", metavar="TEXT", help="only cases with this in their name [all]")
    add("--quick", action="store_true", help="the first 15 minutes of every trace")
    add("--scrapes-alone", action="store_true", help="play Tailbound with direct_interval: null")
    add("--base", type=Path, metavar="FILE", help="show the differences to an earlier run's held-out.json")
    add("--processes", type=int, default=2, help="simulations at a time [2]")
    page.add_publish(parser)


def main(options: argparse.Namespace, output: Path) -> int:
    """Play, print and keep the record; 0 if ours meets the objective wherever the blind oracle does."""
    base = None if options.base is None else page.read(options.base)
    found = list(cases(options.traces, QUICK_SECONDS if options.quick else SECONDS))
    found = [case for case in found if (options.only or "") in case.name]
    results: dict[str, Any] = {
        **page.origin(),
        "quick": options.quick,
        "cases": play(found, Kept(output / PLAYS), options.processes, direct=not options.scrapes_alone),
    }
    (output / "held-out.json").write_text(json.dumps(results, indent=1) + "\n")
    page.show(options, SECTION, table(results, base), decisive=published(results))
    return 1 if any(missed(each, OURS) and not missed(each, BLIND) for each in results["cases"]) else 0
