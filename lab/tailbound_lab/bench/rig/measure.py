"""Measures one system on one workload: low rate, maximum, overload, curve, CPU and memory.

A thin shell: :mod:`tailbound_lab.bench.rig.search` chooses the rates, :mod:`tailbound_lab.load.records`
evaluates the runs. A run in which the generator lagged does not count: it is repeated once, then reported
with the reason.
"""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

from tailbound_lab.bench import page
from tailbound_lab.bench.rig import processes
from tailbound_lab.bench.rig.peers import version_of
from tailbound_lab.bench.rig.search import Found, Next, Plan, Trial, next_step
from tailbound_lab.bench.rig.server import Server
from tailbound_lab.bench.rig.systems import Entry
from tailbound_lab.bench.workloads import Workload
from tailbound_lab.load.generator import Endpoint, Generator, Part
from tailbound_lab.load.records import BenchError, Lagged, Run

OBJECTIVE = 0.99
STOP_SHARE = 0.0105
"""Share of missed requests above which a trial has failed and stops."""
OVERLOADS = (1.5, 2.5)
LOW_RATE = 5.0
CAPACITY = "watchdog_capacity_requests_per_second"
_WARM_UP_SECONDS = 2.0
_ATTEMPTS = 2


@dataclass(frozen=True, slots=True)
class Effort:
    """Durations of all parts of a measurement."""

    low_seconds: float
    overload_seconds: float
    ramp_seconds: float
    confirm_seconds: float
    tolerance: float
    max_confirms: int
    curve: tuple[float, ...] = ()
    """Further multiples of the maximum, for the plot of goodput against offered rate."""

    def plan(self, workload: Workload) -> Plan:
        """The search for the maximum."""
        return Plan(
            workload.first_rate,
            ramp_seconds=self.ramp_seconds,
            confirm_seconds=self.confirm_seconds,
            tolerance=self.tolerance,
            max_confirms=self.max_confirms,
        )


FULL = Effort(12.0, 6.0, 1.5, 6.0, 0.03, 10, (0.5, 0.75, 2.0))
QUICK = Effort(4.0, 4.0, 1.0, 4.0, 0.08, 5)
SMOKE = Effort(1.0, 1.0, 0.5, 1.0, 0.3, 1)


@dataclass(frozen=True, slots=True)
class Rig:
    """The settings that all measurements share."""

    generator: Generator
    workers: int
    effort: Effort
    title: str = ""
    """Name of the measurement in progress messages."""

    def say(self, text: str) -> None:
        """Print the progress."""
        page.say(f"{self.title}: {text}")


def measure(entry: Entry, workload: Workload, body: bytes, rig: Rig) -> dict[str, Any]:
    """Return all measures of one system on one workload, as data for JSON. Raises ``BenchError``."""
    found: dict[str, Any] = {"slo_ms": workload.slo * 1e3, "status": "measured"}
    found["settings"] = asdict(entry.settings)
    with Server(entry, workload, rig.workers, body) as server:
        if entry.system.requirements:
            found["version"] = version_of(entry.system.requirements)
        bench = Bench(server, rig)
        bench.warm_up()
        rig.say(f"{LOW_RATE:g} requests/s")
        found["low"] = bench.counted(LOW_RATE, rig.effort.low_seconds)
        answer = bench.maximum(rig.effort.plan(workload))
        found |= {"max_rate": answer.rate, "failed_at": answer.failed_at, "trials": bench.trials}
        found["at_max"] = bench.at_maximum
        if answer.rate:
            for factor in OVERLOADS:
                rig.say(f"{factor:g} x the maximum")
                found[f"overload_{factor:g}"] = bench.counted(
                    answer.rate * factor, rig.effort.overload_seconds
                )
            rig.say("curve")
            found["curve"] = {
                f"{factor:g}": bench.counted(answer.rate * factor, rig.effort.overload_seconds)
                for factor in rig.effort.curve
            }
    if answer.rate and entry.system.predicts_capacity:
        found["capacity"] = predicted(entry, workload, body, rig, answer.rate)
    return found


def predicted(entry: Entry, workload: Workload, body: bytes, rig: Rig, maximum: float) -> float | None:
    """Return the capacity that a fresh server predicts from a run at a third of its maximum.

    Reads it before and after, as a scraper does: a server may learn between two readings.
    """
    with Server(entry, workload, rig.workers, body) as server:
        bench = Bench(server, rig)
        bench.warm_up()
        rig.say("a third of the maximum")
        server.metric(CAPACITY)
        bench.counted(maximum / 3, rig.effort.low_seconds)
        return server.metric(CAPACITY)


class Bench:
    """Runs against one live server, and the trials of its search."""

    def __init__(self, server: Server, rig: Rig, parts: tuple[Part, ...] = ()) -> None:
        """``parts`` is the mix to offer instead of the server's one body."""
        self.server, self._rig = server, rig
        self._endpoint = Endpoint(server.port, parts) if parts else server.endpoint
        self._seed = 0
        self._history: list[Trial] = []
        self.trials: list[dict[str, Any]] = []
        self.at_maximum: dict[str, Any] | None = None

    def warm_up(self) -> None:
        """Offer load for lazy initialization, learned service times and caches; ignore the outcome."""
        self._rig.say("warm-up")
        rate = self.server.workload.first_rate / 4
        with contextlib.suppress(Lagged):
            self._run(rate, _WARM_UP_SECONDS)
        self._settle()

    def maximum(self, plan: Plan) -> Found:
        """Search the highest rate that holds; keep every trial in ``trials``."""
        while (answer := self.advance(plan)) is None:
            pass
        return answer

    def advance(self, plan: Plan) -> Found | None:
        """Run one more trial of the search, or return the answer once there is one."""
        step = next_step(self._history, plan)
        if isinstance(step, Found):
            return step
        kind = "confirming" if step.confirm else "ramp"
        self._rig.say(f"{kind} {step.rate:,.0f} requests/s")
        self._history.append(self._try(step))
        return None

    def found(self, answer: Found) -> dict[str, Any]:
        """Return the answer of a search, with the CPU used at the maximum, as data for JSON."""
        top = self.at_maximum or {}
        return {
            "max_rate": answer.rate,
            "failed_at": answer.failed_at,
            "cpu": [used for share in top.get("cpu", ()) if (used := share["us_per_request"]) >= 1.0],
            "generator": top.get("generator_us_per_request", 0.0),
            "trials": self.trials,
        }

    def holds(self, rate: float, seconds: float) -> bool:
        """Return whether ``rate`` holds in one of two runs: noise of the machine may fail one."""
        return any(self._try(Next(rate, seconds, confirm=True)).passed for _ in range(_ATTEMPTS))

    def counted(self, rate: float, seconds: float) -> dict[str, Any]:
        """Return a reported run; only ``reason`` if the generator lagged each time."""
        return self._measured(rate, seconds)[1]

    def _try(self, step: Next) -> Trial:
        run, shown = self._measured(step.rate, step.seconds, STOP_SHARE)
        record: dict[str, Any] = {"rate": step.rate, "confirm": step.confirm, "passed": False}
        if run is None:
            record["reason"] = shown["reason"]
        else:
            record["passed"] = run.attainment >= OBJECTIVE and not run.stopped_early
            record["attainment"], record["stopped_early"] = run.attainment, run.stopped_early
            record["goodput"] = None if run.stopped_early else run.goodput
        self.trials.append(record)
        best = 0.0 if self.at_maximum is None else self.at_maximum["rate"]
        if record["passed"] and step.confirm and step.rate > best:
            self.at_maximum = shown
        return Trial(step.rate, step.confirm, record["passed"])

    def _measured(
        self, rate: float, seconds: float, stop_share: float = 1.0
    ) -> tuple[Run | None, dict[str, Any]]:
        """Return a run and its report; None and the reason if the generator lagged each time."""
        reason = ""
        for _ in range(_ATTEMPTS):
            before, start = self.server.usage(), time.monotonic()
            try:
                run = self._run(rate, seconds, stop_share)
                after, wall = self.server.usage(), time.monotonic() - start
            except Lagged as error:
                reason = str(error)
            else:
                return run, describe(run, processes.shares(before, after, wall, run.ok), after)
            finally:
                self._settle()
        return None, {"rate": rate, "reason": reason}

    def _run(self, rate: float, seconds: float, stop_share: float = 1.0) -> Run:
        self._seed += 1
        return self._rig.generator.run(
            self._endpoint,
            rate=rate,
            seconds=seconds,
            slo=self.server.workload.slo,
            seed=self._seed,
            stop_share=stop_share,
        )

    def _settle(self) -> None:
        if not self.server.alive:
            raise BenchError(f"{self.server.system.name} ended under load:\n{self.server.log_tail()}")
        if not self.server.settled():
            self._rig.say("still slow after a rest; going on")


@contextlib.contextmanager
def side_by_side(
    servers: Mapping[str, Server], rig: Rig, parts: Mapping[str, tuple[Part, ...]]
) -> Iterator[dict[str, Bench]]:
    """Run all servers at the same time; yield a warmed-up bench for each, with its mix if it has one."""
    with contextlib.ExitStack() as stack:
        benches = {}
        for label, server in servers.items():
            own = replace(rig, title=f"{rig.title}: {label}")
            own.say("starting")
            benches[label] = Bench(stack.enter_context(server), own, parts.get(label, ()))
            benches[label].warm_up()
        yield benches


def maxima(benches: Mapping[str, Bench], plan: Plan) -> dict[str, dict[str, Any]]:
    """Search the maximum of each, one trial after the other in turn, as data for JSON."""
    answers = alternate({label: partial(bench.advance, plan) for label, bench in benches.items()})
    return {label: bench.found(answers[label]) for label, bench in benches.items()}


def alternate(searches: Mapping[str, Callable[[], Found | None]]) -> dict[str, Found]:
    """Call the searches in turn until each has its answer; skip finished ones."""
    found: dict[str, Found] = {}
    while len(found) < len(searches):
        for label, search in searches.items():
            if label not in found and (answer := search()) is not None:
                found[label] = answer
    return found


def describe(run: Run, used: list[processes.Share], memory: dict[int, processes.Usage]) -> dict[str, Any]:
    """Return a counted run as data for JSON. Latencies are milliseconds; None is infinite (misses)."""
    return {
        "rate": run.rate,
        "seconds": run.seconds,
        "sent": run.sent,
        "attainment": run.attainment,
        "goodput": run.goodput,
        "parts": {name: tally.attainment for name, tally in run.parts.items()},
        "statuses": dict(run.statuses),
        "latency_ms": dict(run.latency_ms),
        "lag_ms": dict(run.lag_ms),
        "generator_us_per_request": run.cpu_s * 1e6 / max(1, run.sent),
        "cpu": [asdict(share) for share in used],
        "pss_mb": round(sum(usage.pss for usage in memory.values()) / 1e6, 1),
    }
