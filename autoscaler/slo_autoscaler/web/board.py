"""What is shown now: worked out once a second, however many look.

Owns how old a row may be. What is in a row is ``fleet``'s.
"""

import threading
import time
from collections.abc import Callable
from typing import Final

from slo_autoscaler.web import rows as fleet
from slo_autoscaler.web.listener import Decisions
from slo_autoscaler.web.reader import Reader
from slo_autoscaler.web.rows import Notice, Row

KEPT: Final = 1.0
"""Seconds."""


class Board:
    """The rows of all functions; every method may be called from any thread."""

    def __init__(
        self,
        decided: Decisions,
        alive: Callable[[], bool],
        reader: Reader,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._decided = decided
        self._alive = alive
        self._reader = reader
        self._clock = clock
        self._lock = threading.Lock()
        self._until = -1.0
        self._rows: list[Row] = []

    def rows(self) -> list[Row]:
        """Return the row of every function, in the default order."""
        with self._lock:
            now = self._clock()
            if now >= self._until:
                found = (self.row(name) for name in self._decided.functions())
                self._rows = fleet.ordered(row for row in found if row is not None)
                self._until = self._clock() + KEPT
            return self._rows

    def row(self, function_name: str) -> Row | None:
        """Return the row of one function, or None if nothing was decided for it."""
        found = self._decided.decisions(function_name, 1)
        return fleet.row(found["decisions"][-1]) if found and found["decisions"] else None

    def notices(self) -> list[Notice]:
        """Return what is wrong altogether; asks Prometheus only if no function has data."""
        rows = self.rows()
        problem = self._reader.problem() if fleet.blind(rows) else None
        return fleet.notices(rows, alive=self._alive(), problem=problem)
