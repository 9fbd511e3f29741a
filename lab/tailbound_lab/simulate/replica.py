"""One simulated replica: its queue, its workers, its late lane. [P]

The two-lane batching law (policy ``slo`` of the watchdog), for requests that all have the same budget, so
that order of deadline is order of arrival:

- a free worker takes work at once: what waits, up to the size with the best throughput;
- as much of it as still meets the head's deadline;
- a head that can no longer be on time, or only with a batch smaller than what can be kept up while more than
  that waits, moves to the late lane; the heads that follow then need ``RESERVE`` of the budget to spare;
- the late lane is served when nothing on time wants the worker, or in the room of a batch that has taken all
  that is on time; with late ones batches take no more than half of the SLO, so that a new request can
  still be on time.

The loop runs once per batch, not per request, and decides everything that begins before ``until``; it is the
only hot place of a simulation.
"""

from bisect import bisect_right
from collections import deque
from heapq import heapreplace
from typing import Final

from tailbound_lab.simulate.function import Function

RESERVE: Final = 0.025
"""Of the SLO: what the batcher leaves unused under overload, for an answer's way to the client."""


class Replica:
    """Serves what it is given; what became of it is in ``ends``, ``sizes``, ``order`` and ``lost``."""

    __slots__ = (
        "_best",
        "_clock",
        "_free",
        "_full",
        "_late",
        "_limit",
        "_slo",
        "_timeout",
        "_times",
        "_waiting",
        "ends",
        "lost",
        "order",
        "row",
        "sizes",
    )

    def __init__(self, function: Function, ready_at: float, row: int = 0) -> None:
        """``row`` is the caller's: where it counts what this replica has done."""
        service = function.service
        self._best = service.best_size
        self._slo = function.slo_latency
        self._full = min(self._best, service.largest_within(self._slo / 2))
        self._times = [0.0, *service.seconds[: self._best]]
        self._timeout = function.timeout
        self._limit = function.max_inflight
        self._free: list[tuple[float, int]] = [(ready_at, 0)] * function.workers
        self._waiting: list[float] = []
        self._late: deque[float] = deque()
        self._clock = ready_at
        self.row = row
        self.ends: list[float] = []
        """When each batch was done; may lie after the last ``until``."""
        self.sizes: list[int] = []
        self.order: list[float] = []
        """Arrivals in the order in which they were served: ``sizes`` tells which were together."""
        self.lost: list[float] = []
        """When requests timed out or were refused."""

    @property
    def queued(self) -> int:
        """Requests that wait for a worker."""
        return len(self._waiting) + len(self._late)

    def inside(self, now: float) -> int:
        """Return how many requests wait or are being served at ``now``."""
        return self.queued + sum(size for end, size in self._free if end > now)

    def clear(self) -> None:
        """Forget what has been served."""
        self.ends, self.sizes, self.order, self.lost = [], [], [], []

    def serve(self, arrivals: list[float], until: float) -> None:
        """Take in ``arrivals`` (ascending, none after ``until``), and begin what begins before ``until``."""
        waiting, late, free, times = self._waiting, self._late, self._free, self._times
        waiting += arrivals
        best, full, slo, clock = self._best, self._full, self._slo, self._clock
        reserve = RESERVE * slo
        ends, sizes, order = self.ends, self.sizes, self.order
        first, count = 0, len(waiting)
        while first < count or late:
            at = free[0][0]
            idle_until = waiting[first] if first < count else until
            if late and max(at, clock) < idle_until:
                self._serve_late(max(at, clock))
                continue
            if first == count:
                break
            head = idle_until
            at = max(at, head)
            if at >= until:
                break
            size = 1
            if first + 1 < count and waiting[first + 1] <= at:
                size = bisect_right(waiting, at, first + 1, min(first + best, count)) - first
            crowded = 0 < full < count - first and waiting[first + full] <= at
            slack = head + slo - at - (reserve if crowded and late else 0.0)
            if times[size] > slack:
                fits = bisect_right(times, slack) - 1
                if fits < (full if crowded else 1):
                    late.append(head)
                    clock = at
                    first += 1
                    continue
                size = fits
            order += waiting[first : first + size]
            first += size
            if late and (first == count or waiting[first] > at):
                size += self._ride_along(at, min(slack, slo / 2), size)
            end = at + times[size]
            heapreplace(free, (end, size))
            ends.append(end)
            sizes.append(size)
        del waiting[:first]
        self._clock = clock
        self._give_up(until)

    def _ride_along(self, now: float, span: float, size: int) -> int:
        """Add late requests to a batch of ``size``, so that it takes ``span`` at most; return how many."""
        late = self._late
        self._drop_expired(now)
        riding = max(0, min(len(late), bisect_right(self._times, span) - 1 - size))
        self.order += [late.popleft() for _ in range(riding)]
        return riding

    def _serve_late(self, now: float) -> None:
        late = self._late
        self._drop_expired(now)
        if not late:
            return
        size = min(len(late), self._full or self._best)
        end = now + self._times[size]
        heapreplace(self._free, (end, size))
        self.ends.append(end)
        self.sizes.append(size)
        self.order += [late.popleft() for _ in range(size)]

    def _drop_expired(self, now: float) -> None:
        late = self._late
        while late and late[0] + self._timeout <= now:
            self.lost.append(late.popleft() + self._timeout)

    def _give_up(self, until: float) -> None:
        """Drop requests that timed out; beyond the limit the longest late ones, then the newest."""
        late = self._late
        self._drop_expired(until)
        for _ in range(self.queued - self._limit):
            if late:
                late.popleft()
            else:
                self._waiting.pop()
            self.lost.append(until)
