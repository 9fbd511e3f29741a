"""Generates traffic of several kinds, each with its own requests and cost. [P]

Parts have their own path, length, SLO class and budget, and are drawn by share. The engine learns their cost,
as in a watchdog. Next step: ``replica`` serves them.
"""

from bisect import bisect
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Protocol

from batching_watchdog.engine.cost import Cost, CostModel
from batching_watchdog.messages import DEFAULT_CLASS, Request
from tailbound_lab.simulate.function import Function


class Traffic(Protocol):
    """Requests and their cost, as a replica uses them."""

    @property
    def cost(self) -> Cost:
        """The engine's cost model of batches."""

    @property
    def max_batch_size(self) -> int:
        """The largest batch."""

    @property
    def lead(self) -> float:
        """Seconds before the end of a batch from which its worker may get the next."""

    def request(self, number: int, arrived: float) -> Request:
        """Return the next request."""

    def seconds(self, requests: Sequence[Request]) -> float:
        """Return the seconds that a worker takes for a batch."""

    def begun(self, requests: Sequence[Request], begin: float, end: float) -> None:
        """Record a batch that has begun, and will end at ``end``."""


@dataclass(frozen=True, slots=True)
class Part:
    """Requests of one kind in a mix, and how often they come."""

    share: float
    """Weight: over the sum of all, the share of the traffic."""
    name: str = ""
    budget: float | None = None
    """Seconds; None: the function's ``slo_latency``."""
    path: bytes = b"POST /"
    batch_key: bytes = b""
    length: int = 0
    """Bytes of the body, as the engine sees it."""
    cost: float = 0.0
    """Argument of the mix's service times, for example the length to which a batch is padded."""
    slo_class: str = DEFAULT_CLASS


Law = Callable[[Sequence[Part]], float]
"""Seconds of a worker for a batch of these."""


class Mix:
    """Requests of several kinds, drawn by share; counts their outcomes by part."""

    def __init__(
        self,
        function: Function,
        parts: Sequence[Part],
        law: Law,
        draw: Callable[[], float],
        *,
        lead: float = 0.0,
    ) -> None:
        """``draw`` gives numbers from 0 to 1."""
        self._function, self._parts, self._law, self._draw = function, tuple(parts), law, draw
        self._shares = list(accumulate(part.share for part in parts))
        self.max_batch_size, self.lead = len(function.service.seconds), lead
        self.cost = CostModel(self.max_batch_size)
        self.cost.mix_paths()
        self.arrived: dict[str, list[float]] = {}
        """Arrival times of each part's requests."""
        self.good: Counter[str] = Counter()
        self.work = 0.0
        """Seconds that workers need for the batches that they have begun."""
        self.late_work = 0.0
        """Part of these seconds that late requests take, by their share of each batch."""

    def clear(self) -> None:
        """Reset the counts."""
        self.arrived.clear()
        self.good.clear()
        self.work = self.late_work = 0.0

    @property
    def sent(self) -> Counter[str]:
        """Number of requests of each part."""
        return Counter({name: len(times) for name, times in self.arrived.items()})

    def request(self, number: int, arrived: float) -> Request:
        """Draw a part, and return a request of it."""
        part = self._parts[bisect(self._shares, self._draw() * self._shares[-1], hi=len(self._parts) - 1)]
        self.arrived.setdefault(part.name, []).append(arrived)
        return Request(
            number,
            b"",
            b"",
            arrived,
            arrived + (self._function.slo_latency if part.budget is None else part.budget),
            arrived + self._function.timeout,
            (part.batch_key, part.path, part.length.bit_length()),
            part,
            part.slo_class,
        )

    def seconds(self, requests: Sequence[Request]) -> float:
        """Return the seconds of a batch by the law of its parts."""
        return self._law([request.client for request in requests])

    def begun(self, requests: Sequence[Request], begin: float, end: float) -> None:
        """Count the batch's requests that will be on time."""
        answered = end + self._function.overhead
        on_time = [request for request in requests if answered <= request.deadline]
        self.good.update(request.client.name for request in on_time)
        self.work += end - begin
        self.late_work += (end - begin) * (1.0 - len(on_time) / len(requests))
