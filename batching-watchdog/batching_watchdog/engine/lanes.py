"""The queue of one cost class: requests that may share a batch. [P]

Owns their order. What is on time is kept sorted, by deadline or by arrival as the policy wants it; what is
late, in the order in which it became late. ``Engine`` counts, ``policy`` decides; nothing here looks at a
clock. With equal budgets every request is appended at the end, which costs next to nothing.
"""

from bisect import bisect_left, bisect_right
from collections import deque
from math import inf

from batching_watchdog.engine.cost import ServiceTimes
from batching_watchdog.messages import Request


class Lane:
    """One cost class: its waiting requests and its service times."""

    __slots__ = ("arrived", "key", "keys", "late", "model", "on_time", "served")

    def __init__(self, key: bytes, model: ServiceTimes, now: float) -> None:
        self.key = key
        self.model = model
        self.keys: list[float] = []
        """Of each request on time what it is ordered by; ascending."""
        self.on_time: list[Request] = []
        """The requests on time, beside ``keys``."""
        self.late: deque[Request] = deque()
        self.arrived = 0
        """Requests that came since a batch of it left last."""
        self.served = now
        """When a batch of it left last, or since when it has had requests again."""

    def add(self, request: Request, key: float) -> None:
        """Queue ``request`` behind all with a key up to ``key``."""
        keys = self.keys
        self.arrived += 1
        if not keys or key >= keys[-1]:
            keys.append(key)
            self.on_time.append(request)
            return
        index = bisect_right(keys, key)
        keys.insert(index, key)
        self.on_time.insert(index, request)

    def remove(self, request: Request, key: float) -> None:
        """Take out a request that is on time; ``key`` is what it was added with."""
        keys, on_time = self.keys, self.on_time
        index = bisect_left(keys, key)
        while on_time[index] is not request:
            index += 1
        del keys[index], on_time[index]

    def take(self, size: int) -> list[Request]:
        """Take the first ``size`` that are on time."""
        taken = self.on_time[:size]
        del self.on_time[:size], self.keys[:size]
        return taken

    def take_late(self, size: int) -> list[Request]:
        """Take the first ``size`` that are late."""
        return [self.late.popleft() for _ in range(size)]

    def share_before(self, deadline: float, left: float, workers: int) -> float:
        """Those on time up to ``deadline``, as a share of what ``workers`` can serve in the ``left`` seconds.

        Each takes one batch, after what it has in hand: of ``workers`` that are out of step the first is free
        after one part in ``workers + 1`` of that.
        """
        ahead = bisect_right(self.keys, deadline)
        if not ahead:
            return 0.0
        model = self.model
        in_hand = model.predict_mean(max(1, min(model.best_size, model.largest_within(left))))
        size = min(model.best_size, model.largest_within(left - in_hand / (workers + 1)))
        return ahead / (workers * size) if size else inf

    def kept_up(self, budget: float, ahead: float) -> int:
        """The batch size that can be kept up: a request first waits for ``ahead`` others like its own."""
        return min(self.model.best_size, self.model.largest_within(budget / (1 + ahead)))
