"""Queues the requests of one pool of cost classes, which may share a batch. [P]

Owns their order. Requests on time are sorted by deadline or by arrival, as the policy requires. Late requests
stay in the order in which they became late, and are taken from either end. ``Engine`` counts, ``policy``
decides; this module reads no clock. With equal budgets every request is appended at the end, which is cheap.
"""

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Collection
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
        self.late: deque[Request] = deque()
        self.served = now
        """Time when its last batch left, or since which it has requests again."""
        self.overdue_at: dict[str, float] = {}
        """Time from which an SLO class goes first: a request of it is late, and none left on time since."""

    @property
    def model(self) -> ServiceTimes:
        """Service times of its batches."""
        return self.pool.times

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
        if request.deadline < request.slot == key:
            self._move_up(request, index)

    def _move_up(self, request: Request, index: int) -> None:
        """Move a request with its own deadline up among those of its class, by swapping their places.

        Only places of its class change, so that no other class waits longer.
        """
        on_time = self.on_time
        for before in range(index - 1, max(-1, index - 1 - MAX_MOVE), -1):
            other = on_time[before]
            if other.slo_class == request.slo_class:
                if other.deadline <= request.deadline:
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
        end = start + size
        if only is None:
            taken = self.on_time[start:end]
            del self.on_time[start:end], self.keys[start:end]
            return taken
        taken, stays = _first_of(only, self.on_time[start:], size)
        self.on_time[start:] = compress(self.on_time[start:], stays)
        self.keys[start:] = compress(self.keys[start:], stays)
        return taken

    def take_late(self, size: int, only: CostClass | None = None, *, newest: bool = False) -> list[Request]:
        """Take ``size`` that are late, of all or of ``only`` one class: the oldest first, or the newest."""
        late = self.late
        if only is None:
            return [late.pop() if newest else late.popleft() for _ in range(size)]
        if newest:
            late.reverse()
        taken, stays = _first_of(only, late, size)
        self.late = deque(compress(late, stays))
        if newest:
            self.late.reverse()
        return taken

    def share_before(self, slot: float, now: float, workers: int) -> float:
        """Return the requests on time up to ``slot``, as a share of what workers serve until then.

        Each worker takes one batch after its present one. Of ``workers`` that are out of step, the first is
        free after 1 / (``workers`` + 1) of a batch. Requests with too little time for such a batch do not
        count: under overload they are passed over.
        """
        keys, model = self.keys, self.model
        if not keys or keys[0] > slot:
            return 0.0
        in_hand = model.predict_mean(max(1, min(model.best_size, model.largest_within(slot - now))))
        size = min(model.best_size, model.largest_within(slot - now - in_hand / (workers + 1)))
        ahead = bisect_right(keys, slot) - bisect_left(keys, now + model.predict(size))
        return ahead / (workers * size) if size else inf

    def kept_up(self, budget: float, ahead: float) -> int:
        """Return the sustainable batch size, if a request first waits for ``ahead`` batches like its own."""
        return min(self.model.best_size, self.model.largest_within(budget / (1 + ahead)))


def _first_of(
    cost_class: CostClass, requests: Collection[Request], size: int
) -> tuple[list[Request], list[bool]]:
    """The first ``size`` requests of ``cost_class``, and of each of all whether it stays."""
    found = list(islice((each for each in requests if each.cost_class == cost_class), size))
    gone = {each.id for each in found}
    return found, [each.id not in gone for each in requests]
