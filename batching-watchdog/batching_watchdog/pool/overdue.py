"""Finds the workers that take too long, and the limit that ends each. [P]

A worker's work is a batch, or an iteration of streams. It is overdue after ten times the latency target, or
its predicted time if that is more. Work of a size that the worker has not run may compile: it has ten times
the longest first work of any worker, too. The batch that waits behind it is queued again. While all workers
are overdue, none can serve in time: the replica is not ready, and if requests wait, overdue workers are
ended. Otherwise ``exec_timeout`` ends a worker, since an input may take long while other workers serve. Until
some worker's first work has ended, ``load_timeout`` does.
"""

from collections.abc import Collection, Hashable, Mapping
from dataclasses import dataclass
from typing import Final, Generic, NamedTuple, TypeVar

from batching_watchdog.config import Config

WorkerT = TypeVar("WorkerT", bound=Hashable)

PERIOD: Final = 0.25
"""Seconds between two looks."""
TIMES: Final = 10
LEAST_SECONDS: Final = 2.0
"""A garbage collection, a page that is read from a disk or a throttled CPU is no hang."""
SETTLED_SECONDS: Final = 0.5
"""After this time streams that join are not in the present iteration."""
GRACE_SECONDS: Final = 1.0
"""Seconds until a worker that is told to end is killed: it writes its stack meanwhile."""


class Work(NamedTuple):
    """A worker's present work."""

    number: int
    """Works that it has ended: a new number is new work."""
    busy: bool
    seconds: float
    """Predicted seconds; 0 if unknown."""
    untried: bool
    """Whether the worker has not run work of this size yet."""
    starting: int = 0
    """Its streams that have been in no iteration that has ended."""


class Kill(NamedTuple, Generic[WorkerT]):
    """End ``worker``."""

    worker: WorkerT
    seconds: float
    """For how long it has been at its work."""
    limit: float
    setting: str
    """The setting that governs the limit, as text."""
    at_once: bool
    """Whether it was told to end, and has not."""


@dataclass(slots=True)
class _Spell:
    """For how long a worker has been at one work."""

    number: int
    seconds: float = 0.0
    due: float = 0.0
    """Seconds after which it is overdue."""
    untried: bool = False
    starting: int = 0
    """Streams that start in it."""
    delays: bool = False
    """Whether streams have joined meanwhile: they wait for its end."""
    told: float | None = None
    """``seconds`` at which it was told to end."""


class Overdue(Generic[WorkerT]):
    """How long each worker has been at its work, by looks at all of them."""

    def __init__(self, config: Config) -> None:
        self._exec_timeout = config.exec_timeout
        self._load_timeout = max(config.load_timeout, config.exec_timeout)
        self._slo_latency = config.slo_latency
        self._now = 0.0
        self._spells: dict[WorkerT, _Spell] = {}
        self._first: float | None = None
        """Seconds of the longest first work that has ended; None: none has."""
        self.workers: set[WorkerT] = set()
        """The workers that were overdue at the last look."""
        self.all = False
        """Whether every worker that serves was."""

    def look(
        self, works: Mapping[WorkerT, Work], serving: Collection[WorkerT], now: float, *, queued: bool
    ) -> list[Kill[WorkerT]]:
        """Return the workers to end. ``queued``: whether requests wait.

        If the last look is long ago, this process stood still, and the workers may have too: only two
        ``PERIOD`` count.
        """
        passed, self._now = min(now - self._now, 2 * PERIOD), now
        for worker, work in works.items():
            self._note(worker, work, passed)
        self._spells = {worker: spell for worker, spell in self._spells.items() if works.get(worker)}
        self.workers = {worker for worker, spell in self._spells.items() if spell.seconds > spell.due}
        self.all = bool(serving) and self.workers.issuperset(serving)
        queued = queued or any(spell.delays for spell in self._spells.values())
        return [
            kill
            for worker, spell in self._spells.items()
            if (kill := self._judged(worker, spell, needed=self.all and queued))
        ]

    def _note(self, worker: WorkerT, work: Work, passed: float) -> None:
        spell = self._spells.get(worker)
        if work.number and (self._first is None or (spell is not None and not spell.number)):
            self._first = max(self._first or 0.0, 0.0 if spell is None else spell.seconds)
        if not work.busy:
            self._spells.pop(worker, None)
            return
        if spell is None or spell.number != work.number:
            spell = self._spells[worker] = _Spell(work.number)
        else:
            spell.seconds += passed
        if spell.seconds < SETTLED_SECONDS:
            spell.untried |= work.untried or not work.number
            spell.starting = work.starting
            compiles = self._first or 0.0 if spell.untried else 0.0
            usual = TIMES * max(self._slo_latency, work.seconds, compiles)
            spell.due = min(self._exec_timeout, max(LEAST_SECONDS, usual))
        spell.delays = work.starting > spell.starting

    def _judged(self, worker: WorkerT, spell: _Spell, *, needed: bool) -> Kill[WorkerT] | None:
        limit, setting = self._limit(spell, needed=needed)
        if spell.seconds <= limit and spell.told is None:
            return None
        if spell.told is None:
            spell.told = spell.seconds
            return Kill(worker, spell.seconds, limit, setting, at_once=False)
        if spell.seconds < spell.told + GRACE_SECONDS:
            return None
        return Kill(worker, spell.seconds, limit, setting, at_once=True)

    def _limit(self, spell: _Spell, *, needed: bool) -> tuple[float, str]:
        if self._first is None:
            return self._load_timeout, "load_timeout, for a worker's first work"
        if needed and spell.due < self._exec_timeout:
            return spell.due, f"{TIMES} times slo_latency or its usual time, while no worker serves"
        if spell.number or TIMES * self._first <= self._exec_timeout:
            return self._exec_timeout, "exec_timeout"
        limit = min(self._load_timeout, TIMES * self._first)
        return limit, f"{TIMES} times the longest first work, at most load_timeout"
