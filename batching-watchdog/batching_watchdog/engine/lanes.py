"""Queues the requests on time of one pool of cost classes, which may share a batch. [P]

Owns their order: by deadline or by arrival, as the policy requires. ``Engine`` keeps late requests, and
the policy decides; this module reads no clock. With equal budgets every request is appended, which is cheap.
"""

from bisect import bisect_left, bisect_right
from itertools import compress, islice
from math import inf
from typing import Final

from batching_watchdog.engine.cost import ServiceTimes, Shared
from batching_watchdog.messages import CostClass, Request

MAX_MOVE: Final = 256
"""Maximum places by which a request with its own deadline moves up: each comparison costs time."""


class Lane:
    """One pool: its waiting requests and its service times."""

    __slots__ = ("keys", "late", "on_time", "overdue_at", "pool", "served")

    def __init__(self, pool: Shared, now: float) -> None:
        self.pool = pool
        self.keys: list[float] = []
        """Sort keys of the requests on time, ascending."""
        self.on_time: list[Request] = []
        """The requests on time, parallel to ``keys``."""
        self.late = 0
        """Number of late requests of the pool."""
        self.served = now
        """Time when its last batch left, or since which it has requests again."""
        self.overdue_at: dict[str, float] = {}
        """Time from which an SLO class goes first: a request of it is late, and none left on time since."""

    @property
    def times(self) -> ServiceTimes:
        """Service times of its batches."""
        return self.pool.times

    def budget(self, place: int) -> float:
        """Return the seconds from the arrival to the deadline of the request at ``place``."""
        return self.keys[place] - self.on_time[place].arrived

    def add(self, request: Request, key: float) -> None:
        """Queue ``request`` after all requests with a key up to ``key``."""
        keys, on_time = self.keys, self.on_time
        if not keys or key >= keys[-1]:
            index = len(keys)
            keys.append(key)
            on_time.append(request)
        else:
            index = bisect_right(keys, key)
            keys.insert(index, key)
            on_time.insert(index, request)
        if request.wanted_by < request.deadline == key:
            self._move_up(request, index)

    def _move_up(self, request: Request, index: int) -> None:
        """Move a request that its client wants earlier up among those of its class, by swapping places.

        Only places of its class change, so that no other class waits longer.
        """
        on_time = self.on_time
        for before in range(index - 1, max(-1, index - 1 - MAX_MOVE), -1):
            other = on_time[before]
            if other.slo_class == request.slo_class:
                if other.wanted_by <= request.wanted_by:
                    return
                on_time[before], on_time[index] = request, other
                index = before

    def remove(self, request: Request, key: float) -> None:
        """Remove a request that is on time; ``key`` is its key at ``add``."""
        keys, on_time = self.keys, self.on_time
        index = bisect_left(keys, key)
        if index == len(keys) or on_time[index] is not request:
            index = on_time.index(request)  # of equal keys a later one, or moved up
        del keys[index], on_time[index]

    def take(self, size: int, only: CostClass | None = None, start: int = 0) -> list[Request]:
        """Take ``size`` that are on time from place ``start`` on, of all or of the cost class ``only``."""
        if only is None:
            end = start + size
            taken = self.on_time[start:end]
            del self.on_time[start:end], self.keys[start:end]
            return taken
        places = (place for place in range(start, len(self.keys)) if self.on_time[place].cost_class == only)
        gone = set(islice(places, size))
        taken = [self.on_time[place] for place in sorted(gone)]
        stays = [place not in gone for place in range(len(self.keys))]
        self.on_time[:] = compress(self.on_time, stays)
        self.keys[:] = compress(self.keys, stays)
        return taken

    def share_before(self, deadline: float, now: float, workers: int) -> float:
        """Return the requests on time up to ``deadline``, as a share of what workers serve until then.

        Each worker takes one batch after its present one. Of ``workers`` that are out of step, the first is
        free after 1 / (``workers`` + 1) of a batch. Requests with too little time for such a batch do not
        count: under overload they are passed over.
        """
        keys, times = self.keys, self.times
        if not keys or keys[0] > deadline:
            return 0.0
        in_hand = times.predict_mean(max(1, min(times.best_size, times.largest_within(deadline - now))))
        size = min(times.best_size, times.largest_within(deadline - now - in_hand / (workers + 1)))
        ahead = bisect_right(keys, deadline) - bisect_left(keys, now + times.predict(size))
        return ahead / (workers * size) if size else inf
