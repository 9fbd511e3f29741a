"""Holds the admitted requests: those on time in a lane for each pool of cost classes, and the late ones. [P]

Owns their order, by deadline. The policy and the engines decide; this module reads no clock. With equal
budgets every request is appended, which is cheap.
"""

from bisect import bisect_left, bisect_right
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from heapq import heapify, heappop, heappush
from itertools import islice
from math import inf
from typing import Final

from batching_watchdog.engine.cost import ServiceTimes, Shared
from batching_watchdog.function.messages import Request

# ``Request.place``: plain numbers, since an Enum's hash is Python code and places change with every request.
GONE: Final = 0
ON_TIME: Final = 1
LATE: Final = 2
SUSPECT: Final = 3
"""In a part of a failed batch that waits or is held."""
RUNNING: Final = 4
BEST_EFFORT: Final = 5
"""Without a deadline, behind all others."""
MAX_LANES: Final = 64
"""Maximum lanes in one choice. A served lane moves behind the others, so all have a turn."""
MAX_MOVE: Final = 256
"""Maximum places by which a request with its own deadline moves up: each comparison costs time."""


class Lane:
    """One pool: its requests on time and its service times."""

    __slots__ = ("deadlines", "on_time", "pool")

    def __init__(self, pool: Shared) -> None:
        self.pool = pool
        self.deadlines: list[float] = []
        """Of the requests on time, ascending."""
        self.on_time: list[Request] = []
        """The requests on time, parallel to ``deadlines``."""

    @property
    def times(self) -> ServiceTimes:
        """Service times of its batches."""
        return self.pool.times

    def budget(self, place: int) -> float:
        """Return the seconds from the arrival to the deadline of the request at ``place``."""
        return self.deadlines[place] - self.on_time[place].arrived

    def add(self, request: Request) -> None:
        """Queue ``request`` after all requests with a deadline up to its own."""
        deadlines, on_time, deadline = self.deadlines, self.on_time, request.deadline
        if not deadlines or deadline >= deadlines[-1]:
            index = len(deadlines)
            deadlines.append(deadline)
            on_time.append(request)
        else:
            index = bisect_right(deadlines, deadline)
            deadlines.insert(index, deadline)
            on_time.insert(index, request)
        if request.wanted_by < deadline:
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

    def remove(self, request: Request) -> None:
        """Remove a request that is on time."""
        deadlines, on_time = self.deadlines, self.on_time
        index = bisect_left(deadlines, request.deadline)
        if index == len(deadlines) or on_time[index] is not request:
            index = on_time.index(request)  # of equal deadlines a later one, or moved up
        del deadlines[index], on_time[index]

    def drop(self, start: int, size: int) -> list[Request]:
        """Remove and return ``size`` requests from place ``start`` on."""
        end = start + size
        taken = self.on_time[start:end]
        del self.on_time[start:end], self.deadlines[start:end]
        return taken

    def slack(self, now: float) -> float:
        """Return the seconds that the lane can wait, with all that fits into a batch on time."""
        return self.deadlines[0] - now - self.times.predict(min(len(self.deadlines), self.times.best_size))

    def share_before(self, deadline: float, now: float, workers: int) -> float:
        """Return the requests on time up to ``deadline``, as a share of what workers serve until then.

        Each worker takes one batch after its present one. Of ``workers`` that are out of step, the first is
        free after 1 / (``workers`` + 1) of a batch. Requests with too little time for such a batch do not
        count: under overload they are passed over.
        """
        deadlines, times = self.deadlines, self.times
        if not deadlines or deadlines[0] > deadline:
            return 0.0
        in_hand = times.predict_mean(max(1, min(times.best_size, times.largest_within(deadline - now))))
        size = min(times.best_size, times.largest_within(deadline - now - in_hand / (workers + 1)))
        ahead = bisect_right(deadlines, deadline) - bisect_left(deadlines, now + times.predict(size))
        return ahead / (workers * size) if size else inf


class Queues:
    """All admitted requests, the lanes and the late ones among them."""

    def __init__(self, most: int) -> None:
        """``most``: the requests that may be admitted at a time."""
        self.most = most
        self.admitted: dict[int, Request] = {}
        """By id, until they leave."""
        self._expiries: list[tuple[float, int]] = []
        """(expiry, id), a heap. Entries of requests that have left are dropped when first or many."""
        self.lanes: dict[Shared, Lane] = {}
        """Lanes with requests on time, the last served one at the end."""
        self.late: OrderedDict[int, Request] = OrderedDict()
        """All late requests in the order in which they became late."""
        self.best_effort: OrderedDict[int, Request] = OrderedDict()
        """All requests without a deadline in order of arrival. They are in no lane: no batch has both."""

    def __len__(self) -> int:
        """Return the number of requests with a deadline that wait, on time or late."""
        return sum(len(lane.deadlines) for lane in self.lanes.values()) + len(self.late)

    @property
    def at_limit(self) -> bool:
        """Whether as many are admitted as may be: one more must replace a late one."""
        return len(self.admitted) >= self.most

    @property
    def best_effort_most(self) -> int:
        """Requests admitted at which best effort has no room: what runs cannot be replaced."""
        return max(1, self.most // 2)

    @property
    def at_best_effort_limit(self) -> bool:
        """Whether as many are admitted as leave no room for best effort."""
        return len(self.admitted) >= self.best_effort_most

    def choice(self) -> list[Lane]:
        """Return the lanes that the policy may choose from."""
        return list(islice(self.lanes.values(), MAX_LANES))

    def replaceable(self) -> Request | None:
        """Return the newest of best effort, else the request that has been late longest; None without."""
        waiting = next(reversed(self.best_effort.values()), None)
        return waiting or next(iter(self.late.values()), None)

    def admit(self, request: Request, pool: Shared) -> None:
        """Take a new request, and queue it."""
        self.admitted[request.id] = request
        heappush(self._expiries, (request.expires, request.id))
        if len(self._expiries) > 64 + 2 * len(self.admitted):
            self._expiries = [entry for entry in self._expiries if entry[1] in self.admitted]
            heapify(self._expiries)
        self.add(request, pool)

    def add(self, request: Request, pool: Shared) -> None:
        """Queue an admitted request as on time; the policy detects whether it is late."""
        if request.best_effort:
            request.place, request.lane = BEST_EFFORT, Lane(pool)
            self.best_effort[request.id] = request
            return
        lane = self.lanes.get(pool)
        if lane is None:
            lane = self.lanes[pool] = Lane(pool)
        request.place, request.lane = ON_TIME, lane
        lane.add(request)

    def serve(self, lane: Lane, requests: Sequence[Request], start: int | None) -> None:
        """Remove requests on time that leave in a batch, a row of them from ``start`` on if it is given."""
        if start is not None:
            lane.drop(start, len(requests))
        else:
            for request in requests:
                lane.remove(request)
        del self.lanes[lane.pool]
        if lane.deadlines:
            self.lanes[lane.pool] = lane

    def go_late(self, lane: Lane, count: int) -> None:
        """Make the first ``count`` requests of a lane late."""
        for request in lane.drop(0, count):
            request.place = LATE
            self.late[request.id] = request
        if not lane.deadlines:
            del self.lanes[lane.pool]

    def leave(self, request: Request) -> None:
        """Remove an admitted request for good."""
        if request.place == LATE:
            del self.late[request.id]
        elif request.place == BEST_EFFORT:
            del self.best_effort[request.id]
        elif request.place == ON_TIME:
            lane: Lane = request.lane
            lane.remove(request)
            if not lane.deadlines:
                del self.lanes[lane.pool]
        request.place = GONE
        del self.admitted[request.id]

    def next_expiry(self) -> float:
        """Return the earliest time at which one expires; infinite without a request."""
        while self._expiries and self._expiries[0][1] not in self.admitted:
            heappop(self._expiries)
        return self._expiries[0][0] if self._expiries else inf

    def expired(self, now: float) -> Iterator[Request]:
        """Yield the requests whose time has come; each must leave before the next one is asked for."""
        while self.next_expiry() <= now:
            yield self.admitted[self._expiries[0][1]]
