"""Traffic of several kinds: what each part asks for, and what it costs. [P]

Parts have their own path, length, SLO class and budget, and are drawn by share. The engine learns what they
cost, as it does in a watchdog. Next step: ``replica`` serves them.
"""

from bisect import bisect
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import exp
from statistics import NormalDist
from typing import Protocol

from batching_watchdog.engine.cost import Cost, CostModel
from batching_watchdog.messages import DEFAULT_CLASS, Request
from tailbound_lab.simulate.function import Function


class Traffic(Protocol):
    """What a replica must know of its requests."""

    @property
    def cost(self) -> Cost:
        """What the engine is to believe that batches cost."""

    @property
    def max_batch_size(self) -> int:
        """The largest batch."""

    @property
    def lead(self) -> float:
        """Seconds before a batch is done from which its worker may have the next."""

    def request(self, number: int, arrived: float) -> Request:
        """Make the next request."""

    def seconds(self, requests: Sequence[Request]) -> float:
        """Return how long a worker takes for a batch."""

    def begun(self, requests: Sequence[Request], begin: float, end: float) -> None:
        """A batch is being run, and will be done at ``end``."""


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
    """Whatever the law of the mix wants to know, such as the length that a batch is padded to."""
    slo_class: str = DEFAULT_CLASS


Law = Callable[[Sequence[Part]], float]
"""Seconds of a worker for a batch of these."""


class Mix:
    """Requests of several kinds, drawn by share; counts by part what became of them."""

    def __init__(
        self,
        function: Function,
        parts: Sequence[Part],
        law: Law,
        draw: Callable[[], float],
        *,
        noise: float = 0.0,
        mix_paths: bool = True,
        lead: float = 0.0,
    ) -> None:
        """``draw`` gives numbers from 0 to 1; ``noise`` is the standard deviation of log service times."""
        self._function, self._parts, self._law, self._draw = function, tuple(parts), law, draw
        self._noise = NormalDist(0.0, noise) if noise else None
        self._shares = list(accumulate(part.share for part in parts))
        self.max_batch_size, self.lead = len(function.service.seconds), lead
        self.cost = CostModel(self.max_batch_size, function.slo_objective)
        if mix_paths:
            self.cost.mix_paths()
        self.arrived: dict[str, list[float]] = {}
        """When the requests of each part came."""
        self.good: Counter[str] = Counter()
        self.work = 0.0
        """Seconds that workers spent, or will have spent on what they have begun."""
        self.late_work = 0.0
        """Of these, the share of each batch that came to late requests."""

    def clear(self) -> None:
        """Forget what has been counted."""
        self.arrived.clear()
        self.good.clear()
        self.work = self.late_work = 0.0

    @property
    def sent(self) -> Counter[str]:
        """Requests of each part."""
        return Counter({name: len(times) for name, times in self.arrived.items()})

    @property
    def attainment(self) -> float:
        """Share of the requests sent that were answered within the SLO of their part; 1 without any."""
        sent = self.sent.total()
        return self.good.total() / sent if sent else 1.0

    def request(self, number: int, arrived: float) -> Request:
        """Draw the part, and make a request of it."""
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
        """Return what the law says, with noise."""
        took = self._law([request.client for request in requests])
        # NormalDist's inverse is defined between 0 and 1 only.
        return (
            took * exp(self._noise.inv_cdf(min(max(self._draw(), 1e-9), 1 - 1e-9))) if self._noise else took
        )

    def begun(self, requests: Sequence[Request], begin: float, end: float) -> None:
        """Count the requests that will be on time."""
        answered = end + self._function.overhead
        on_time = [request for request in requests if answered <= request.deadline]
        self.good.update(request.client.name for request in on_time)
        self.work += end - begin
        self.late_work += (end - begin) * (1.0 - len(on_time) / len(requests))
