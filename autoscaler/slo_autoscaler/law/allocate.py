"""Splits a shared budget of replicas among functions by predicted misses saved. [P]

A replica is worth ``rate x (late(n) - late(n + 1)) x priority``: predicted misses per second. Where the late
share does not fall evenly (an overloaded function gains nothing from one more replica, and all from three),
the next replicas count together, by their average: the concave hull of what is saved, piece by piece.

Knows neither time nor platform; ``current`` is the only memory.
"""

import heapq
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

MOVE_MARGIN: Final = 0.25
"""Share by which a function must gain more than the holder of a replica loses before the replica moves.

A moved replica serves neither function for one start-up, and both gains are predictions from noisy rates."""


@dataclass(frozen=True, slots=True)
class Claim:
    """What one function asks of a shared budget."""

    lowest: int
    """Replicas that it gets before any other function gets more than its own floor."""
    wanted: int
    """Replicas that the law recommends; it never gets more."""
    current: int
    """Replicas that it has now, pending ones included."""
    rate: float
    """Requests per second expected."""
    late: Callable[[int], float]
    """Predicted late share at a count of replicas: falls as the count rises."""
    priority: float = 1.0
    """How much its misses weigh against those of other functions."""

    @property
    def most(self) -> int:
        """The replicas it gets where the budget is no limit."""
        return max(self.lowest, self.wanted)


@dataclass(frozen=True, slots=True)
class Shortfall:
    """What a function lacks because a shared budget is too small."""

    short: int
    """Replicas fewer than wanted."""
    taken: int
    """Replicas of those it has now that go to other functions."""
    late: float
    """Predicted late share with the replicas it gets."""
    late_wanted: float
    """Predicted late share with the replicas it wanted."""


def allocate(claims: Mapping[str, Claim], budget: int) -> dict[str, int]:
    """Return the replicas of each function, at most ``budget`` in all.

    All get what they want if it fits. Otherwise floors come first; if even these do not fit, they are filled
    by priority, then by name. The rest goes to where it saves most. A replica leaves its holder only for a
    gain that exceeds the loss by ``MOVE_MARGIN``, so the same claims with ``current`` as returned change
    nothing. A larger budget takes from a function only where its late share falls unevenly: a piece of
    several replicas that now fits may displace smaller pieces of others.
    """
    given = {name: claim.most for name, claim in claims.items()}
    if sum(given.values()) <= budget:
        return given
    left = max(0, budget)
    for name in sorted(claims, key=lambda name: (-claims[name].priority, name)):
        given[name] = min(claims[name].lowest, left)
        left -= given[name]
    pieces = {name: _pieces(claim) for name, claim in claims.items() if claim.most > claim.lowest}
    queue = [_entry(name, claims[name], given[name], pieces[name][-1]) for name in pieces] if left else []
    heapq.heapify(queue)
    unfit: list[tuple[int, float, str]] = []
    while queue and left:
        value, _, name = heapq.heappop(queue)
        claim, (size, _) = claims[name], pieces[name][-1]
        if size > left:
            unfit.append((min(0, given[name] - claim.current), value, name))
            continue
        pieces[name].pop()
        given[name] += size
        left -= size
        if pieces[name]:
            heapq.heappush(queue, _entry(name, claim, given[name], pieces[name][-1]))
    if left and unfit:
        # No whole piece fits. Part of one saves little, but late shares never rise with replicas.
        given[min(unfit)[2]] += left
    return given


def shortfalls(claims: Mapping[str, Claim], given: Mapping[str, int]) -> dict[str, Shortfall]:
    """Return what each function lacks that gets fewer replicas than it wanted."""
    return {
        name: Shortfall(
            claim.most - given[name],
            max(0, claim.current - given[name]),
            claim.late(given[name]),
            claim.late(claim.most),
        )
        for name, claim in claims.items()
        if given[name] < claim.most
    }


def _entry(name: str, claim: Claim, given: int, piece: tuple[int, float]) -> tuple[float, bool, str]:
    """Return a heap entry: the most valuable piece first, then what is held already, then by name."""
    size, saved = piece
    held = given + size <= claim.current
    value = claim.rate * claim.priority * saved
    return -value * (1.0 + MOVE_MARGIN if held else 1.0), not held, name


def _pieces(claim: Claim) -> list[tuple[int, float]]:
    """Return (replicas, late share saved by each of them) from the wanted count down to the floor.

    The pieces are those of the concave hull: what they save per replica rises down to the floor.
    """
    counts = range(claim.lowest, claim.most + 1)
    hull: list[tuple[int, float]] = []
    for point in zip(counts, map(claim.late, counts), strict=True):
        while len(hull) > 1 and _slope(hull[-2], hull[-1]) < _slope(hull[-1], point):
            hull.pop()
        hull.append(point)
    return [(b[0] - a[0], _slope(a, b)) for a, b in zip(hull[-2::-1], hull[:0:-1], strict=True)]


def _slope(a: tuple[int, float], b: tuple[int, float]) -> float:
    return (a[1] - b[1]) / (b[0] - a[0])
