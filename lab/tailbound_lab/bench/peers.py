"""``bench peers``: the highest rate of our server and its peers, and their goodput at multiples of it.

A machine's speed changes by a third within minutes, more than the servers differ. So all servers run at the
same time and take turns, one trial each: a slow minute affects every one. Each round has fresh servers.
"""

import argparse
import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Final

from tailbound_lab.bench.rig.measure import Bench, Counted, Generator
from tailbound_lab.bench.rig.record import Record, Row, Run, markdown, say
from tailbound_lab.bench.rig.search import Found, Plan
from tailbound_lab.bench.rig.server import RunningSystem, example
from tailbound_lab.bench.rig.systems import Entry, listed, parse_entry
from tailbound_lab.bench.workloads import WORKLOADS, Workload
from tailbound_lab.load.generator import Endpoint, Part, build
from tailbound_lab.load.records import BenchError

FACTORS: Final = ("0.5", "1", "1.5", "2.5")
"""Multiples of a server's own highest rate."""
OVERLOAD: Final = "1.5"
"""The multiple that the overload table shows."""
SYSTEMS: Final = {
    "tabular": "slo,mosec:64:10,gunicorn,litserve,bentoml",
    "text": "slo,mosec:16:5,gunicorn,litserve,bentoml",
    "vision": "slo,mosec:8:5+malloc,gunicorn,litserve,bentoml",
    "accelerator": "slo,mosec:64:1,gunicorn,litserve,bentoml",
}
"""By workload; mosec has the best size and wait that a search of many has found for it."""
MODELS: Final = {"tabular": "small MLP", "text": "transformer", "vision": "MobileNetV3"}
"""Workload -> its model, where that is no simulation."""
QUICK_SYSTEMS: Final = "slo,mosec:64:1,gunicorn"
QUICK_WORKLOADS: Final = "tabular,accelerator"

FULL: Final = Plan(1.0, ramp_seconds=1.5, confirm_seconds=6.0, tolerance=0.04, max_confirms=8)
QUICK = Plan(1.0, ramp_seconds=1.0, confirm_seconds=3.0, tolerance=0.1, max_confirms=4)
"""Searches, without the workload's first rate. Runs at a multiple take as long as a confirmation."""


@dataclass(frozen=True, slots=True)
class Contender:
    """One server and the mix that it is offered; without parts, the workload's own body."""

    label: str
    entry: Entry
    parts: tuple[Part, ...] = ()
    settings: Mapping[str, str] = field(default_factory=dict)
    """Of the server, besides the target."""


@dataclass(frozen=True, slots=True)
class Case:
    """Servers that take turns on one kind of traffic."""

    name: str
    workload: Workload
    contenders: tuple[Contender, ...]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``bench peers``."""
    add = parser.add_argument
    add("--quick", action="store_true", help="two workloads, two peers, one short round: minutes")
    add("--workloads", help=f"comma-separated, of {', '.join(WORKLOADS)} [all]")
    add("--systems", help="comma-separated NAME[:SIZE:WAIT_MS][+malloc]; ratios are to the first [all]")
    add("--rounds", type=int, help="number of rounds, each with fresh servers [3; 1 with --quick]")
    add("--workers", type=int, default=2, help="model processes of each server [2]")


def main(options: argparse.Namespace, run: Run) -> int:
    """Measure round by round and keep each; 0 if everything was measured."""
    plan = QUICK if options.quick else FULL
    if options.rounds is None:
        options.rounds = 1 if options.quick else 3
    return play(options, run, cases(options), lambda: build(run.folder), plan)


def play(
    options: argparse.Namespace,
    run: Run,
    cases: Sequence[Case],
    generator: Callable[[], Generator],
    plan: Plan,
    factors: Sequence[str] = FACTORS,
) -> int:
    """Measure the cases in each round and keep the rows; 1 if something was not measured."""
    for name, number in (("rounds", options.rounds), ("workers", options.workers)):
        if number < 1:
            raise BenchError(f"--{name} {number}: must be at least 1")
    made, rows = generator(), list[Row]()
    for number in range(1, options.rounds + 1):
        for case in cases:
            servers = ", ".join(contender.label for contender in case.contenders)
            say(f"round {number} of {options.rounds}: {case.name}: {servers}")
            measured = measure(case, made, options.workers, plan, factors)
            rows += [{"workload": case.name, "round": number, **row} for row in measured]
            run.keep(rows)
    return int(any("reason" in row for row in rows))


def cases(options: argparse.Namespace) -> list[Case]:
    """Return what the options name. Raises ``BenchError`` for an unknown workload or system."""
    cases = []
    for name in listed(options.workloads or (QUICK_WORKLOADS if options.quick else ",".join(WORKLOADS))):
        if name not in WORKLOADS:
            raise BenchError(f"--workloads {name}: must be one of {','.join(WORKLOADS)}")
        systems = listed(options.systems or (QUICK_SYSTEMS if options.quick else SYSTEMS[name]))
        if len(set(systems)) != len(systems) or not systems:
            raise BenchError(f"--systems {options.systems}: must name each system once")
        contenders = tuple(Contender(text, parse_entry(text)) for text in systems)
        cases.append(Case(name, WORKLOADS[name], contenders))
    return cases


class _Entrant:
    """A server in a round, and its results. After a failure it takes no more turns."""

    def __init__(self, contender: Contender, title: str) -> None:
        self.contender, self.title, self.reason = contender, title, ""
        self.bench: Bench | None = None
        self._answer: Found | None = None
        self._goodput: dict[str, Counted] = {}

    @property
    def searching(self) -> bool:
        """Whether its highest rate is still to be found."""
        return self.bench is not None and not self.reason and self._answer is None

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Keep the reason of a failure."""
        try:
            yield
        except BenchError as error:
            say(f"{self.title}: {error}")
            self.reason = str(error).partition("\n")[0]

    def search(self, plan: Plan) -> None:
        """Run one more trial."""
        if self.bench is not None:
            self._answer = self.bench.advance(plan)

    def overload(self, factor: str, seconds: float) -> None:
        """Offer a multiple of the highest rate, if there is one."""
        if self.bench is not None and self._answer is not None and self._answer.rate and not self.reason:
            say(f"{self.title}: {factor} times its highest rate")
            if counted := self.bench.counted(self._answer.rate * float(factor), seconds):
                self._goodput[factor] = counted

    def row(self) -> Row:
        """Return the results. Rates are requests per second; a latency that is infinite is None."""
        if self.reason or self.bench is None or self._answer is None:
            return {"system": self.contender.label, "reason": self.reason}
        top = self.bench.highest
        return {
            "system": self.contender.label,
            "highest": self._answer.rate,
            "failed_at": self._answer.failed_at,
            "latency_ms": None if top is None else dict(top.run.latency_ms),
            "cpu_us": None if top is None else round(top.cpu_us, 1),
            "memory_mb": None if top is None else round(top.memory_mb, 1),
            "goodput": {factor: counted.run.goodput for factor, counted in self._goodput.items()},
        }


def measure(
    case: Case, generator: Generator, workers: int, plan: Plan, factors: Sequence[str] = FACTORS
) -> list[Row]:
    """Start all servers of a case, let them take turns, and return a row for each."""
    body, plan = example(case.workload), replace(plan, first_rate=case.workload.first_rate)
    entrants = [_Entrant(contender, f"{case.name}, {contender.label}") for contender in case.contenders]
    with contextlib.ExitStack() as stack:
        for entrant in entrants:
            with entrant.turn():
                say(f"{entrant.title}: starting")
                contender = entrant.contender
                made = RunningSystem(contender.entry, case.workload, workers, body, contender.settings)
                server = stack.enter_context(made)
                endpoint = Endpoint(server.port, contender.parts) if contender.parts else server.endpoint
                entrant.bench = Bench(server, generator, endpoint, entrant.title)
                entrant.bench.warm_up()
        while searching := [entrant for entrant in entrants if entrant.searching]:
            for entrant in searching:
                with entrant.turn():
                    entrant.search(plan)
        for factor in factors:
            for entrant in entrants:
                with entrant.turn():
                    entrant.overload(factor, plan.confirm_seconds)
    return [entrant.row() for entrant in entrants]


def table(record: Record, factors: Sequence[str] = FACTORS) -> str:
    """Return one table, medians over the rounds with the range of rates and ratios, and its notes."""
    columns = (
        *("workload", "server", "highest rate, requests/s", "the first server's / this one's"),
        *(f"goodput at {factor}x" for factor in factors),
        *("p50 / p99 at the highest, ms", "CPU, us per request", "memory, MB"),
    )
    lines = []
    for name in dict.fromkeys(row["workload"] for row in record.rows):
        rows = [row for row in record.rows if row["workload"] == name]
        systems = dict.fromkeys(row["system"] for row in rows)
        lines += [[name, *_cells(system, rows, factors)] for system in systems]
    notes = [
        f"- `{row['workload']}`, {row['system']}, round {row['round']}: {row['reason']}"
        for row in record.rows
        if "reason" in row
    ]
    return "\n\n".join(filter(None, (markdown(columns, lines), "\n".join(notes))))


def overload(record: Record) -> str:
    """Return one table of the real models: each server's highest rate, and the share in time beyond it.

    A server has one row, whatever its settings on a workload. A model has no share where the generator lagged
    behind any server.
    """
    cells: dict[str, dict[str, list[Row]]] = {}
    for row in record.rows:
        if row.get("highest") and row["workload"] in MODELS:
            name = row["system"].partition(":")[0]
            server = cells.setdefault("Tailbound" if name == "slo" else name, {})
            server.setdefault(row["workload"], []).append(row)
    workloads = dict.fromkeys(name for server in cells.values() for name in server)
    lagged = {
        name
        for server in cells.values()
        for name, rows in server.items()
        if not all(OVERLOAD in row["goodput"] for row in rows)
    }
    heads, lines = ["server"], [[server] for server in cells]
    for name in workloads:
        found = [own.get(name, []) for own in cells.values()]
        heads.append(f"{MODELS[name]}: requests/s, 99% within {1000 * WORKLOADS[name].slo:g} ms")
        for line, rows in zip(lines, found, strict=True):
            line.append(_middle([row["highest"] for row in rows], "{:,.0f}"))
        if name not in lagged:
            heads.append(f"of {OVERLOAD} times as many, in time")
            for line, rows in zip(lines, found, strict=True):
                line.append(_middle([_in_time(row) for row in rows], "{:.0%}"))
    whole = f"{1 / float(OVERLOAD):.0%} in time: the whole capacity."
    notes = [f"{whole} More: fuller batches are faster. Less: answers came late."]
    notes += [
        f"To the {MODELS[name]} the load's generator could not send {OVERLOAD} times as many."
        for name in workloads
        if name in lagged
    ]
    return f"{markdown(heads, lines)}\n\n{' '.join(notes)}"


def _in_time(row: Row) -> float:
    """Return the share of the requests beyond the highest rate that was in time."""
    # By chance a few more than that may have come.
    share: float = row["goodput"][OVERLOAD] / (row["highest"] * float(OVERLOAD))
    return min(1.0, share)


def _cells(system: str, rows: Sequence[Row], factors: Sequence[str]) -> list[str]:
    first = {row["round"]: row.get("highest") for row in rows if row["system"] == rows[0]["system"]}
    own = [row for row in rows if row["system"] == system and row.get("highest")]
    ratios = [first[row["round"]] / row["highest"] for row in own if first.get(row["round"])]
    kept = [
        [row["goodput"][factor] / row["highest"] for row in own if factor in row["goodput"]]
        for factor in factors
    ]
    latency = " / ".join(
        _middle([row["latency_ms"][name] for row in own if row["latency_ms"][name] is not None], "{:.1f}")
        for name in ("p50", "p99")
    )
    return [
        system,
        _spread([row["highest"] for row in own], "{:,.0f}"),
        "" if system == rows[0]["system"] else _spread(ratios, "{:.2f}"),
        *(_middle(shares, "{:.1%}") for shares in kept),
        latency,
        _middle([row["cpu_us"] for row in own], "{:,.0f}"),
        _middle([row["memory_mb"] for row in own], "{:,.0f}"),
    ]


def _middle(values: Sequence[float], form: str) -> str:
    return form.format(median(values)) if values else "-"


def _spread(values: Sequence[float], form: str) -> str:
    """Return the median, and the range where there are several."""
    text = _middle(values, form)
    return text if len(values) < 2 else f"{text} ({form.format(min(values))} to {form.format(max(values))})"
