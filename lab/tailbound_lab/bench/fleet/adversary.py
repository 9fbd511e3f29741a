"""``bench adversary``: an evolutionary search for a trace on which a default baseline is better than ours.

Ours misses the objective there; the baseline, with its default settings, meets it at no more than twice our
cost. The search does not count what one jump makes late within a start-up: no scaler can foresee it, and a
baseline that is on time there has spare replicas by chance. A trace is a genome of some twenty numbers: a
base rate, three waves, noise, and the function. Traces are short and slow, so that thousands can be tried.
The worst ones are played again with several routings: each shows a fault to fix or a limit to document.

The next generation follows from the earlier traces and a seed, so a stopped search resumes.
"""

import argparse
import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

from tailbound_lab.bench import page
from tailbound_lab.bench.fleet.plays import Workload, code, progress, together, told
from tailbound_lab.bench.fleet.scaling import BOUNDS, ROUTINGS, RUN, ours
from tailbound_lab.bench.pool import pool
from tailbound_lab.load.records import BenchError
from tailbound_lab.simulate import baselines, report, traces
from tailbound_lab.simulate.baselines import HpaSettings
from tailbound_lab.simulate.function import Function, Scaler, Service
from tailbound_lab.simulate.oracle import Oracle
from tailbound_lab.simulate.ray_policy import ray_serve
from tailbound_lab.simulate.traces import Floats
from tailbound_lab.simulate.world import Outcome, Settings, run

SECTION: Final = "adversary"

SECONDS: Final = 1200
"""Length of a trace: ten times the longest start-up."""
HIGHEST_MEAN: Final = 40.0
"""Mean requests per second above which all rates are lowered, to limit the cost of a play."""
HIGHEST_RATE: Final = 240.0
"""Maximum requests per second in any second."""
SLO_LATENCY: Final = 1.0
MAX_BATCH: Final = 16
WAVES: Final = 3

COST_RATIO: Final = 2.0
"""Maximum cost of a baseline, as a multiple of our replica-seconds."""
LIKELIEST: Final = 2
"""Baselines that are tried first; if they lack more than ``HOPELESS``, the others are not tried."""
HOPELESS: Final = 0.5
GENERATION: Final = 24
"""Traces per generation, and the number of earlier ones that are parents."""
IMMIGRANTS: Final = 6
"""Share of a generation that is drawn anew, so that the search does not converge to one optimum."""
MUTATED: Final = 0.25
"""Share of the genes that a child changes."""
MUTATION: Final = 0.15
"""Standard deviation of a change, as a share of the gene's range."""
NEW_SEED: Final = 0.1
"""Share of the children with a new seed."""
CANDIDATES: Final = 3
"""Traces that are played again with every routing: the worst score partly depends on its routings."""


@dataclass(frozen=True, slots=True)
class Wave:
    """A repeated rise by ``height`` requests per second, a plateau, and the fall back."""

    height: float
    period: float
    """Seconds from one start to the next."""
    width: float
    """Share of the period."""
    ramp: float
    """Share of the width that rise and fall take together."""
    jitter: float
    """Largest deviation of a gap, as a share of the period."""
    phase: float
    """Share of the period before the first."""


@dataclass(frozen=True, slots=True)
class Genome:
    """A trace and its function. Rates are requests per second, durations seconds."""

    base: float
    waves: tuple[Wave, ...]
    cv2: float
    """Of the gaps between arrivals; 1: Poisson."""
    start_up: float
    constant: float
    per_request: float
    """l(b) = constant + per_request x b."""
    seed: int
    """Of arrivals and jitter."""

    @classmethod
    def parse(cls, document: Mapping[str, Any]) -> "Genome":
        """Return the genome of ``asdict``'s document. Raises ``BenchError`` for any other."""
        try:
            return cls(**{**document, "waves": tuple(Wave(**wave) for wave in document["waves"])})
        except (KeyError, TypeError) as error:
            raise BenchError(f"genome: must be one that bench adversary has written: {error}") from None

    @property
    def function(self) -> Function:
        """The function that serves the trace."""
        service = Service.affine(self.constant, self.per_request, MAX_BATCH)
        return Function(service, slo_latency=SLO_LATENCY, start_up=self.start_up)

    @property
    def levels(self) -> Floats:
        """Requests per second in each second."""
        levels = traces.steady(self.base, SECONDS)
        for number, wave in enumerate(self.waves):
            draw = np.random.default_rng((self.seed, number))
            begin = wave.phase * wave.period
            while begin < SECONDS:
                levels += wave.height * _hill(begin, wave.width * wave.period, wave.ramp)
                begin += wave.period * (1.0 + wave.jitter * draw.uniform(-1.0, 1.0))
        levels = np.minimum(levels, HIGHEST_RATE)
        levels *= min(1.0, HIGHEST_MEAN / float(np.mean(levels)))
        return levels

    @property
    def workload(self) -> Workload:
        """The trace and its function."""
        trace = traces.from_rates("adversary", self.levels, cv2=self.cv2, seed=self.seed)
        return Workload(trace, self.function)


def _hill(begin: float, width: float, ramp: float) -> Floats:
    """Return the height in each second of a rise to 1 with ramps at begin and end."""
    middle = np.arange(SECONDS) + 0.5
    edge = max(ramp * width / 2.0, 1e-9)
    height: Floats = np.clip(np.minimum(middle - begin, begin + width - middle) / edge, 0.0, 1.0)
    return height


# Conversion of genes, numbers between 0 and 1, to their values.


class Gene(NamedTuple):
    """The range of one number; ``log``: its logarithm is drawn."""

    low: float
    high: float
    log: bool = False

    def at(self, share: float) -> float:
        """Return the value at the share ``gene`` between low and high."""
        if self.log:
            return self.low * math.exp(share * math.log(self.high / self.low))
        return self.low + (self.high - self.low) * share


_WAVE: Final = {
    "height": Gene(0.0, 120.0),
    "period": Gene(20.0, 1200.0, log=True),
    "width": Gene(0.01, 0.9, log=True),
    "ramp": Gene(0.0, 1.0),
    "jitter": Gene(0.0, 0.3),
    "phase": Gene(0.0, 1.0),
}
_REST: Final = {
    "base": Gene(1.0, 40.0),
    "cv2": Gene(0.5, 8.0, log=True),
    "start_up": Gene(5.0, 120.0, log=True),
    "constant": Gene(0.03, 0.3, log=True),
    "per_request": Gene(0.04, 0.15, log=True),
}
LENGTH: Final = len(_REST) + WAVES * len(_WAVE)

Genes = tuple[float, ...]
Individual = tuple[Genes, int]
"""Genes and the seed of arrivals and jitter."""


def genome(genes: Genes, seed: int) -> Genome:
    """Return the values of the genes, rounded for a short document."""
    shares = iter(genes)

    def values(named: Mapping[str, Gene]) -> dict[str, float]:
        return {name: float(f"{gene.at(next(shares)):.4g}") for name, gene in named.items()}

    return Genome(**values(_REST), waves=tuple(Wave(**values(_WAVE)) for _ in range(WAVES)), seed=seed)


# The score of a trace against ours.


def score(own: Mapping[str, Any], others: Mapping[str, Mapping[str, Any]], objective: float) -> float:
    """Return the score of a trace: above 0 if ours misses the objective and another scaler meets it.

    Then it is our misses beyond the budget, divided by the budget. If ours meets the objective, it is the
    same number, 0 or less. If no other meets it within ``COST_RATIO`` of our cost, it is the shortfall of the
    nearest, below 0. So the search has a gradient from either side.
    """
    over = _over(own, objective)
    if over <= 0.0:
        return over
    least = min(lacks(own, others, objective).values(), default=math.inf)
    return over if least <= 0.0 else -least


def lacks(
    own: Mapping[str, Any], others: Mapping[str, Mapping[str, Any]], objective: float
) -> dict[str, float]:
    """Return each other's shortfall from the objective within ``COST_RATIO`` of our cost; 0: none."""
    return {
        name: max(0.0, _over(other, objective))
        + max(0.0, other["replica_seconds"] / (COST_RATIO * own["replica_seconds"]) - 1.0)
        for name, other in others.items()
    }


def _over(outcome: Mapping[str, Any], objective: float) -> float:
    return float((1.0 - outcome["attainment"]) / (1.0 - objective) - 1.0)


def defaults(at: Workload) -> dict[str, Scaler]:
    """Return the baselines with default settings, the likeliest to meet an objective first."""
    slo = at.function.slo_latency
    return {
        "keda-value": baselines.keda_value(BOUNDS, HpaSettings(slo)),
        "hpa-cpu 70%": baselines.hpa_cpu(BOUNDS, HpaSettings(0.7)),
        "hpa-cpu 80%": baselines.hpa_cpu(BOUNDS, HpaSettings(0.8)),
        "openfaas-ce": baselines.OpenFaas(BOUNDS, baselines.OpenFaasRule()),
        "ray-serve": ray_serve(BOUNDS, baselines.RaySettings()),
        "kpa": baselines.Kpa(BOUNDS, baselines.KpaSettings()),
    }


@dataclass(frozen=True, slots=True)
class Tried:
    """A played trace, and its score."""

    genes: Genes
    seed: int
    score: float
    against: str
    """The nearest baseline; empty if ours meets the objective."""
    at_once: float = 0.0
    """Requests that ours missed within one start-up and two reconciles, as a multiple of the budget."""

    @property
    def fitness(self) -> float:
        """The score without the worst jump, by which the search ranks traces."""
        return self.score - self.at_once if self.score > 0.0 else self.score


def evaluate(individual: Individual) -> Tried:
    """Play a trace: ours, and if it misses the objective the baselines, until one meets it.

    A trace with a positive score is played with a second routing and counts by its mean, so that the search
    does not collect chance.
    """
    workload = genome(*individual).workload
    objective = workload.function.slo_objective
    own = _played(workload, ours("slo")(workload))
    others: dict[str, dict[str, Any]] = {}
    if _over(own, objective) > 0.0:
        for name, scaler in defaults(workload).items():
            others[name] = _played(workload, scaler)
            lacking = lacks(own, others, objective)
            if lacking[name] <= 0.0 or (len(lacking) == LIKELIEST and min(lacking.values()) > HOPELESS):
                break
    nearest = lacks(own, others, objective)
    against = min(nearest, key=lambda name: nearest[name]) if nearest else ""
    at_once = own["missed_at_once"]
    if against and nearest[against] <= 0.0:
        second = replace(RUN, seed=ROUTINGS[1])
        again = _played(workload, ours("slo")(workload), second)
        at_once = (at_once + again["missed_at_once"]) / 2.0
        own = together([own, again])
        other = _played(workload, defaults(workload)[against], second)
        others = {against: together([others[against], other])}
    return Tried(*individual, score(own, others, objective), against, at_once / (1.0 - objective))


def _played(workload: Workload, scaler: Scaler, world: Settings = RUN) -> dict[str, Any]:
    return told(run(workload.trace, workload.function, scaler, world), workload.function)


# The search.


def offspring(past: Sequence[Tried], seed: int) -> list[Individual]:
    """Return the next generation: the same for the same past and seed.

    Parents are the worst of all traces so far. A child has each gene from one of two parents, and changes
    some. A few are drawn anew, and all of the first generation.
    """
    draw = np.random.default_rng((seed, len(past)))
    parents = sorted(past, key=lambda tried: -tried.fitness)[:GENERATION]
    found = []
    for number in range(GENERATION):
        fresh = not parents or number < IMMIGRANTS
        new_seed = int(draw.integers(1 << 31))
        if fresh:
            found.append((tuple(draw.random(LENGTH).tolist()), new_seed))
            continue
        # The better of two, twice: parents are sorted.
        one, other = (parents[int(draw.integers(len(parents), size=2).min())] for _ in range(2))
        genes = np.where(draw.random(LENGTH) < 0.5, one.genes, other.genes)
        changed = np.where(draw.random(LENGTH) < MUTATED, draw.normal(0.0, MUTATION, LENGTH), 0.0)
        child_seed = new_seed if draw.random() < NEW_SEED else one.seed
        found.append((tuple(np.clip(genes + changed, 0.0, 1.0).tolist()), child_seed))
    return found


Evaluate = Callable[[Sequence[Individual]], Iterable[Tried]]


def search(past: list[Tried], seed: int, number: int, play: Evaluate) -> Iterator[Tried]:
    """Add generations to ``past`` until it has ``number`` traces; yield the worst of all after each."""
    generations = math.ceil((number - len(past)) / GENERATION)
    for _ in progress(range(generations), generations, "generations"):
        past += play(offspring(past, seed))
        yield max(past, key=lambda tried: tried.fitness)


# Presentation.


@dataclass(frozen=True, slots=True)
class Replayed:
    """A trace played with every routing."""

    found: Genome
    outcomes: Mapping[str, Sequence[Outcome]]
    """Of ours, the baselines and the oracle."""
    numbers: Mapping[str, Mapping[str, Any]]
    """Of each scaler over all routings."""
    verdict: Tried
    """The score over all routings, with the nearest baseline; without genes."""


def replay(found: Genome) -> Replayed:
    """Play ours, the baselines and the oracle with every routing."""
    workload = found.workload
    objective = found.function.slo_objective
    outcomes: dict[str, list[Outcome]] = {}
    for seed in ROUTINGS:
        oracle = Oracle(workload.trace, workload.function, 1.0, BOUNDS)
        scalers = {"slo": ours("slo")(workload), **defaults(workload), "oracle": oracle}
        for name, scaler in scalers.items():
            played = run(workload.trace, workload.function, scaler, replace(RUN, seed=seed))
            outcomes.setdefault(name, []).append(played)
    every = {name: [told(each, found.function) for each in several] for name, several in outcomes.items()}
    numbers = {name: together(several) for name, several in every.items()}
    others = {name: numbers[name] for name in numbers if name not in ("slo", "oracle")}
    nearest = lacks(numbers["slo"], others, objective)
    at_once = sum(each["missed_at_once"] for each in every["slo"]) / len(ROUTINGS) / (1.0 - objective)
    verdict = Tried(
        (),
        found.seed,
        score(numbers["slo"], others, objective),
        min(nearest, key=lambda name: nearest[name]),
        at_once,
    )
    return Replayed(found, outcomes, numbers, verdict)


def table(shown: Replayed, head: str) -> str:
    """Return a trace as Markdown: the outcomes of each scaler, and the genome."""
    objective = shown.found.function.slo_objective
    rows = []
    for name, seen in shown.numbers.items():
        share = f"{seen['attainment']:.2%}"
        rows.append(
            (
                f"`{name}`" if name == "slo" else name,
                share if seen["attainment"] >= objective else f"**{share}**",
                f"{seen['replica_seconds']:,.0f}",
                f"{seen['max_replicas']}",
                f"{seen['reversals']}",
            )
        )
    columns = ("scaler", "within SLO", "replica-seconds", "max replicas", "reversals")
    words = json.dumps(asdict(shown.found))
    return f"{head}\n\n{page.markdown(columns, rows)}\n\n```json\n{words}\n```\n"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``bench adversary``."""
    add = parser.add_argument
    add("--number", type=int, default=2400, help="traces to try in all, earlier runs' included [2400]")
    add("--seed", type=int, default=1, help="seed of the search; another seed starts anew [1]")
    add("--replay", type=Path, metavar="FILE", help="play the genome in FILE again and search nothing")
    add("--processes", type=int, default=2, help="simulations at a time [2]")
    page.add_publish(parser)


def main(options: argparse.Namespace, output: Path) -> int:
    """Search, play the worst with every routing, print and keep it; 1 if a baseline is better there."""
    if options.replay is not None:
        candidates = [Genome.parse(page.read(options.replay))]
        head = f"The genome in `{options.replay.name}`:"
    else:
        past = _search(options, output / "adversary.json")
        best = sorted(past, key=lambda tried: -tried.fitness)[:CANDIDATES]
        candidates = [genome(tried.genes, tried.seed) for tried in best]
        missed = sum(tried.score > 0.0 for tried in past)
        beyond = sum(tried.fitness > 0.0 for tried in past)
        head = (
            f"Simulated, {page.origin()['date']}; {len(past):,} traces of {SECONDS // 60} minutes. On"
            f" {missed:,} of them Tailbound missed the objective and a baseline met it; on {beyond:,} also"
            " without its worst jump. The worst of these:"
        )
    played = [replay(each) for each in progress(candidates, len(candidates), "candidates")]
    worst = max(played, key=lambda each: each.verdict.fitness)
    (output / "adversary-worst.json").write_text(json.dumps(asdict(worst.found), indent=1) + "\n")
    seen = worst.verdict
    head += (
        f" with {len(ROUTINGS)} routings Tailbound misses {seen.score + 1.0:.1f} times the requests that the"
        f" objective allows, {seen.at_once:.1f} times in the worst jump; {seen.against} meets the objective"
        f" for at most {COST_RATIO:g} times the cost."
        if seen.score > 0.0
        else f" with {len(ROUTINGS)} routings no baseline is better there."
    )

    def draw(folder: Path) -> list[Path]:
        folder.mkdir(exist_ok=True)
        shown = [worst.outcomes[name][0] for name in ("slo", seen.against, "oracle")]
        report.over_time(shown, worst.found.function).savefig(folder / "adversary.png", dpi=110)
        return [folder / "adversary.png"]

    draw(output)
    page.show(options, SECTION, table(worst, head), draw)
    return 1 if seen.score > 0.0 else 0


def _search(options: argparse.Namespace, file: Path) -> list[Tried]:
    """Return all traces tried; resumes the search in ``file`` if it is of this seed and this code."""
    genes = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
    origin = {"seed": options.seed, "code": [code(ours=True), genes]}
    past: list[Tried] = []
    if file.exists():
        document = page.read(file)
        if origin.items() <= document.items():
            past = [Tried(**{**tried, "genes": tuple(tried["genes"])}) for tried in document["tried"]]
            page.say(f"{file}: {len(past):,} traces have been tried; resuming")
        else:
            page.say(f"{file}: of another seed or of other code; starting anew")
    with pool(options.processes) as simulations:
        for worst in search(past, options.seed, options.number, lambda few: simulations.map(evaluate, few)):
            document = origin | {"tried": [asdict(tried) for tried in past]}
            file.write_text(json.dumps(document) + "\n")
            page.say(f"{len(past):,} traces; the worst scores {worst.fitness:+.2f} {worst.against}")
    if not past:
        raise BenchError("--number: must be at least 1")
    return past
