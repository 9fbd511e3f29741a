"""Measures one live server: the trials of a search for its highest rate, and counted runs.

A thin shell: :mod:`tailbound_lab.bench.rig.search` chooses the rates, :mod:`tailbound_lab.load.records`
evaluates the runs. A run in which the generator lagged does not count: it is repeated once.
"""

import contextlib
from dataclasses import dataclass
from typing import Final, Protocol

from tailbound_lab.bench.rig import processes
from tailbound_lab.bench.rig.record import say
from tailbound_lab.bench.rig.search import Found, Plan, Trial, next_step
from tailbound_lab.bench.rig.server import RunningSystem
from tailbound_lab.load.generator import Endpoint
from tailbound_lab.load.records import BenchError, Lagged, Load, Run

OBJECTIVE: Final = 0.99
STOP_SHARE: Final = 0.0105
"""Share of missed requests above which a trial has failed and stops."""
_WARM_UP_SECONDS: Final = 2.0
_ATTEMPTS: Final = 2


class Generator(Protocol):
    """Offers open-loop load: ``load.generator`` whole answers, ``load.streams`` streams."""

    def run(self, endpoint: Endpoint, load: Load) -> Run:
        """Offer a load. Raises ``Lagged`` if the generator was late."""


@dataclass(frozen=True, slots=True)
class Counted:
    """A run that counts, with what it took."""

    run: Run
    cpu_us: float
    """CPU of all processes of the server per answered request, in microseconds."""
    memory_mb: float
    """Their proportional memory after the run."""


class Bench:
    """Runs against one live server, and the trials of its search."""

    def __init__(self, server: RunningSystem, generator: Generator, endpoint: Endpoint, title: str) -> None:
        """``title`` names the server in messages."""
        self._server, self._generator, self._endpoint, self._title = server, generator, endpoint, title
        self._seed = 0
        self._history: list[Trial] = []
        self.highest: Counted | None = None
        """The confirmed run at the highest rate so far."""

    def warm_up(self) -> None:
        """Offer load for lazy initialization, learned service times and caches; ignore the outcome."""
        with contextlib.suppress(Lagged):
            self._run(self._server.workload.first_rate / 4, _WARM_UP_SECONDS, 1.0)
        self._settle()

    def advance(self, plan: Plan) -> Found | None:
        """Run one more trial of the search, or return the answer once there is one."""
        step = next_step(self._history, plan)
        if isinstance(step, Found):
            return step
        say(f"{self._title}: {'confirming' if step.confirm else 'ramp'} {step.rate:,.0f} requests/s")
        counted = self.counted(step.rate, step.seconds, STOP_SHARE)
        passed = counted is not None and counted.run.attainment >= OBJECTIVE and not counted.run.stopped_early
        if passed and step.confirm and (self.highest is None or step.rate > self.highest.run.load.rate):
            self.highest = counted
        self._history.append(Trial(step.rate, step.confirm, passed))
        return None

    def counted(self, rate: float, seconds: float, stop_share: float = 1.0) -> Counted | None:
        """Return a run; None if the generator lagged each time. Raises ``BenchError`` if the server ended."""
        for _ in range(_ATTEMPTS):
            before = self._server.usage()
            try:
                run = self._run(rate, seconds, stop_share)
                after = self._server.usage()
            except Lagged as error:
                say(f"{self._title}: {error}")
            else:
                used = processes.cpu_between(before, after) * 1e6 / max(1, run.ok)
                return Counted(run, used, sum(usage.pss for usage in after.values()) / 1e6)
            finally:
                self._settle()
        return None

    def _run(self, rate: float, seconds: float, stop_share: float) -> Run:
        self._seed += 1
        load = Load(rate, seconds, self._server.workload.slo, self._seed, stop_share)
        return self._generator.run(self._endpoint, load)

    def _settle(self) -> None:
        if not self._server.alive:
            raise BenchError(f"{self._title}: the server ended under load:\n{self._server.log_tail()}")
        if not self._server.settled():
            say(f"{self._title}: still slow after a rest; going on")
