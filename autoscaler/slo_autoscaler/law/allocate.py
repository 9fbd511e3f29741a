"""Splits a shared budget of replicas among functions by predicted misses saved. [P]

A replica is worth ``rate x (late(n) - late(n + 1)) x priority``: predicted misses per second. A moved one
serves neither function for a start-up. So it is worth more to its holder, by its start-up over the time for
which it would stay (``Claim.margin``). Where the late share falls unevenly (an overloaded function gains
nothing from one more replica, and all from three), the next replicas count together, by their average.

Knows neither time nor platform; ``current`` is the only state.
"""

import heapq
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise


@dataclass(frozen=True, slots=True)
class Claim:
    """Request of one function to a shared budget."""

    lowest: int
    """Floor: replicas that it gets before any function gets more than its floor."""
    wanted: int
    """Recommended replicas; it never gets more."""
    current: int
    """Current replicas, pending ones included."""
    rate: float
    """Requests per second expected."""
    late: Callable[[int], float]
    """Predicted late share at a count of replicas: falls as the count rises."""
    priority: float = 1.0
    """Weight of its misses against those of other functions."""
    margin: float = 0.0
    """Gain over loss for which a replica leaves it, less 1."""
    stuck: int = 0
    """Current replicas that should serve by now and do not: where replicas are short, they earn no more."""

    @property
    def most(self) -> int:
        """Replicas that it gets if the budget is no limit."""
        return max(self.lowest, self.wanted)

    def short(self) -> "Claim":
        """Return the claim where replicas are short: of those that do not become ready one may be tried."""
        wanted = min(self.wanted, self.current - self.stuck + 1) if self.stuck else self.wanted
        return replace(self, wanted=wanted, stuck=0)


def allocate(claims: Mapping[str, Claim], budget: int) -> dict[str, int]:
    """Return the replicas of each function, at most ``budget`` in all.

    All get their recommendation if it fits. Otherwise floors come first; if even these do not fit, they are
    filled by priority, then by name. The rest goes to where it saves most. A replica leaves its holder only
    for a gain that exceeds the loss by its ``margin``. So equal functions keep their counts, and the same
    claims with the result as ``current`` change nothing or improve it. A larger budget takes from a function
    only where late shares fall unevenly: several replicas that now fit together may displace single ones.
    """
    given = {name: claim.most for name, claim in claims.items()}
    if sum(given.values()) <= budget:
        return given
    # None can get more than the whole budget, and time and memory grow with the counts.
    claims = {
        name: replace(claim, wanted=budget) if claim.wanted > budget else claim
        for name, claim in claims.items()
    }
    if any(claim.stuck for claim in claims.values()):
        return allocate({name: claim.short() for name, claim in claims.items()}, budget)
    given = _floors(claims, max(0, budget))
    left = max(0, budget) - sum(given.values())
    if not left:
        return given
    saved = {name: _saved(claim) for name, claim in claims.items() if claim.most > claim.lowest}
    queue = [_best(name, claims[name], saved[name], given[name], left) for name in saved]
    heapq.heapify(queue)
    while left:
        _, _, name, size = queue[0]
        if size <= left:
            given[name] += size
            left -= size
        if left and given[name] < claims[name].most:
            heapq.heapreplace(queue, _best(name, claims[name], saved[name], given[name], left))
        else:
            heapq.heappop(queue)
    kept = {name: min(max(claim.lowest, claim.current), claim.most) for name, claim in claims.items()}
    if sum(kept.values()) == budget:
        gain = sum(sums[given[name] - claims[name].lowest] for name, sums in saved.items())
        loss = sum(sums[kept[name] - claims[name].lowest] for name, sums in saved.items())
        return given if gain > loss else kept
    return given


def _floors(claims: Mapping[str, Claim], budget: int) -> dict[str, int]:
    """Return the floors, or as many of them as there is a budget for, by priority, then by name."""
    given = dict.fromkeys(claims, 0)
    for name in sorted(claims, key=lambda name: (-claims[name].priority, name)):
        given[name] = min(claims[name].lowest, budget)
        budget -= given[name]
    return given


def _saved(claim: Claim) -> list[float]:
    """Return the misses per second that each count from the floor up saves; present replicas count more."""
    late = [claim.late(count) for count in range(claim.lowest, claim.most + 1)]
    present = claim.current - claim.lowest
    weights = (
        claim.rate * claim.priority * (1.0 + claim.margin if index < present else 1.0)
        for index in range(len(late) - 1)
    )
    gains = (
        weight * (before - after) for weight, (before, after) in zip(weights, pairwise(late), strict=True)
    )
    return list(accumulate(gains, initial=0.0))


def _best(name: str, claim: Claim, saved: list[float], given: int, left: int) -> tuple[float, bool, str, int]:
    """Return a heap entry: the next replicas, at most ``left``, that save most on average.

    The most valuable comes first, then what it has already, then by name.
    """
    at = given - claim.lowest
    value, fewer = max(
        ((saved[at + size] - saved[at]) / size, -size) for size in range(1, min(left, claim.most - given) + 1)
    )
    size = -fewer
    return -value, given + size > claim.current, name, size
