"""Computes an upper bound on goodput, also for batchers that know all arrivals. [P]

The bound is a Lagrangian relaxation (Fisher, "The Lagrangian Relaxation Method for Solving Integer
Programming Problems", Management Science 27, 1981). A batch that starts at s and takes l(b) serves a request
on time only if it arrived by s, and not before s + l(b) - budget. Each worker follows a chain of such
batches. A schedule may not serve a request twice; here chains may, and pay a price per request instead. For
any prices, the sum over all requests plus the gain of each worker's best chain is at least the optimum; a
descent lowers it. One price per kind for all times keeps this small, but makes the bound loose while requests
are scarce: chains then share some. Start times are on a grid and durations are rounded down, so that the
result remains a bound.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

import numpy as np
from numpy.typing import NDArray

from tailbound_lab.simulate import SimulationError
from tailbound_lab.simulate.function import Service

STEPS = 40
"""Steps of the descent on the prices."""


@dataclass(frozen=True, slots=True)
class Kind:
    """Requests that differ only in arrival time: one budget (seconds), one length or path."""

    arrivals: Sequence[float]
    """Ascending."""
    budget: float


@dataclass(frozen=True, slots=True)
class Batches:
    """Batches that may hold requests of these kinds, any number of each, and take l(b)."""

    kinds: tuple[int, ...]
    service: Service


def most_on_time(
    kinds: Sequence[Kind],
    batches: Sequence[Batches],
    workers: int,
    grid: float,
    *,
    until: float = inf,
) -> float:
    """Return an upper bound on the requests that ``workers`` can answer within their budgets.

    ``grid`` is in seconds; if every l(b) is a multiple of it, rounding costs nothing. Workers are idle at the
    first arrival, and begin batches before ``until``.
    """
    counts = np.array([len(kind.arrivals) for kind in kinds], float)
    if not counts.sum():
        return 0.0
    chains = _Chains(kinds, batches, grid, until)
    prices = np.zeros(len(kinds))
    best = float(counts.sum())
    for step in range(1, STEPS + 1):
        gained, served = chains.best(prices)
        found = float(prices @ counts) + workers * gained
        best = min(best, found)
        # Raise the price of requests that chains serve more than once, lower that of unserved ones.
        slope = (counts - workers * served) / np.maximum(counts, 1.0)
        moved = np.clip(prices - slope / step, 0.0, 1.0)
        if np.allclose(moved, prices):
            break
        prices = moved
    return best


class _Chains:
    """The best chain of batches for given prices, by dynamic programming over start times."""

    def __init__(self, kinds: Sequence[Kind], batches: Sequence[Batches], grid: float, until: float) -> None:
        self._count = len(kinds)
        begin = min(kind.arrivals[0] for kind in kinds if len(kind.arrivals))
        end = max(kind.arrivals[-1] + kind.budget for kind in kinds if len(kind.arrivals))
        starts = begin + grid * np.arange(int((end - begin) / grid) + 1, dtype=np.float64)
        self._starts = starts[starts < until]
        self._offers = [_Offers(kinds, each, self._starts, grid) for each in batches]

    def best(self, prices: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        """Return the maximum gain of a chain beyond the prices, and its requests of each kind."""
        slots = len(self._starts)
        gains = [offers.gains(prices) for offers in self._offers]
        steps = [offers.slots for offers in self._offers]
        longest = max(int(step.max()) for step in steps)
        total = np.zeros(slots + longest + 1)
        chosen: list[tuple[int, int] | None] = [None] * slots
        for at in range(slots - 1, -1, -1):
            most = total[at + 1]
            for which, (gain, step) in enumerate(zip(gains, steps, strict=True)):
                value = gain[at] + total[at + step]
                index = int(value.argmax())
                if value[index] > most:
                    most, chosen[at] = value[index], (which, index)
            total[at] = most
        served, at = np.zeros(self._count), 0
        while at < slots:
            if (choice := chosen[at]) is None:
                at += 1
                continue
            which, index = choice
            served += self._offers[which].taken(at, index, prices)
            at += int(steps[which][index])
        return float(total[0]), served


class _Offers:
    """The requests of each kind that a batch could serve on time, by its start and size."""

    def __init__(
        self, kinds: Sequence[Kind], batches: Batches, starts: NDArray[np.float64], grid: float
    ) -> None:
        seconds = np.array(batches.service.seconds)
        widest = max(kinds[kind].budget for kind in batches.kinds)
        seconds = seconds[: max(1, int(np.searchsorted(seconds, widest + grid)))]
        self._kinds, self._total = np.array(batches.kinds), len(kinds)
        self._sizes = np.arange(1, len(seconds) + 1)
        # A start represents all times up to the next grid point, so the next batch may start slightly early.
        self.slots = np.floor(seconds / grid + 1e-9).astype(np.int64)
        if not self.slots[0]:
            raise SimulationError(f"grid: {grid:g} s must be at most the {seconds[0]:g} s of one request")
        self._available = np.zeros((len(batches.kinds), len(starts), len(seconds)), np.int32)
        for row, kind in enumerate(batches.kinds):
            arrivals, budget = np.asarray(kinds[kind].arrivals), kinds[kind].budget
            came = np.searchsorted(arrivals, starts + grid, side="left")
            gone = np.searchsorted(arrivals, starts[:, None] + seconds - budget - 1e-9, side="left")
            self._available[row] = np.maximum(0, came[:, None] - gone)

    def gains(self, prices: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the gain of each start and size: its requests less their prices."""
        order = np.argsort(prices[self._kinds], kind="stable")
        room = np.broadcast_to(self._sizes, self._available.shape[1:]).copy()
        gain = np.zeros(room.shape)
        for row in order:
            taken = np.minimum(room, self._available[row])
            room -= taken
            gain += (1.0 - prices[self._kinds[row]]) * taken
        return gain

    def taken(self, start: int, size: int, prices: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the requests of each kind in one batch."""
        found, room = np.zeros(self._total), int(self._sizes[size])
        for row in np.argsort(prices[self._kinds], kind="stable"):
            taken = min(room, int(self._available[row, start, size]))
            found[self._kinds[row]] += taken
            room -= taken
        return found
