"""How many replicas a function had over a run, and what follows from it. [P]

Owns cost, changes of direction and start-up times; ``bench.fleet.live`` collects their sources. Times are
seconds from the beginning of the run.
"""

import re
from collections.abc import Iterable, Sequence
from datetime import datetime
from itertools import pairwise
from typing import Final, NamedTuple

_LINE: Final = re.compile(r"(\S+) replicas: (\d+) -> (\d+)")


class Point(NamedTuple):
    """From ``seconds`` on so many replicas were wanted, and so many were ready."""

    seconds: float
    wanted: int
    ready: int


class Change(NamedTuple):
    """The provider changed the wanted count."""

    seconds: float
    before: int
    after: int


def changes(lines: Iterable[str], begun: datetime, duration: float) -> list[Change]:
    """The changes of a run in the log of a function, which may hold other lines and other times."""
    found: list[Change] = []
    for line in lines:
        match = _LINE.match(line)
        if match is None:
            continue
        seconds = (datetime.fromisoformat(match[1]) - begun).total_seconds()
        if 0 <= seconds <= duration:
            found.append(Change(seconds, int(match[2]), int(match[3])))
    return found


def replica_seconds(points: Sequence[Point], duration: float) -> float:
    """The wanted count, integrated from 0 to ``duration``; before the first point its count is taken."""
    if not points:
        return 0.0
    edges = [0.0, *(min(max(point.seconds, 0.0), duration) for point in points[1:]), duration]
    return sum(
        (end - begin) * point.wanted for (begin, end), point in zip(pairwise(edges), points, strict=True)
    )


def flips(changed: Sequence[Change], within: float) -> int:
    """How often the direction turned no more than ``within`` seconds after the change before."""
    return sum(
        (earlier.after > earlier.before) != (later.after > later.before)
        and later.seconds - earlier.seconds <= within
        for earlier, later in pairwise(changed)
    )


def scale_downs(changed: Iterable[Change], begin: float, end: float) -> int:
    """How many changes between two moments lowered the count."""
    return sum(change.after < change.before and begin <= change.seconds <= end for change in changed)


def start_ups(points: Sequence[Point]) -> list[float]:
    """Seconds from wanting a replica until that many were ready, for each that came while it was wanted.

    The n-th replica is wanted when the count first reaches n, and has come when n are ready. One that is no
    longer wanted before it came is not counted, and neither is one that was there at the beginning.
    """
    took: list[float] = []
    asked: dict[int, float] = {}
    for before, now in pairwise(points):
        for number in range(before.wanted + 1, now.wanted + 1):
            asked[number] = now.seconds
        for number in range(now.wanted + 1, before.wanted + 1):
            asked.pop(number, None)
        took += [
            now.seconds - asked.pop(number)
            for number in range(before.ready + 1, now.ready + 1)
            if number in asked
        ]
    return took
