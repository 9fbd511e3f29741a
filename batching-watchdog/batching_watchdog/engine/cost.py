"""What a batch costs, by cost class. [P]

Requests that cost alike form a class: a method and path, or a value of ``X-Batch-Key``. Each class learns its
own l(b) (``latency``). One more curve is learned from all batches; it stands in for classes that have hardly
run, and is the only one while there is a single class. Clients choose the classes, so their number is
bounded: the one that has not run for longest is forgotten.
"""

from collections import OrderedDict
from typing import Final, Protocol

from batching_watchdog.engine.latency import OBJECTIVE, TRIES, LatencyModel

KNOWN: Final = 2 * TRIES
"""Batches after which a class is believed rather than the average of all."""
MAX_CLASSES: Final = 64
"""Curves that are kept."""


class ServiceTimes(Protocol):
    """l(b) of one cost class: what the policies ask of it."""

    @property
    def best_size(self) -> int:
        """The size with the best throughput, or one that is worth a try."""

    def predict(self, size: int) -> float:
        """Upper quantile of the seconds for ``size`` requests."""

    def predict_mean(self, size: int) -> float:
        """Mean of the seconds for ``size`` requests."""

    def largest_within(self, seconds: float) -> int:
        """The largest size whose upper quantile is at most ``seconds``; 0 if there is none."""


class Cost(Protocol):
    """What the engine asks of all classes together."""

    @property
    def overall(self) -> ServiceTimes:
        """Of any batch."""

    def of(self, key: bytes) -> ServiceTimes:
        """Of a batch of this class."""

    def learn(self, key: bytes | None, size: int, seconds: float) -> None:
        """A batch of ``size`` requests took a worker ``seconds``; no ``key``: they stand for any class."""


class CostModel:
    """The curves of all classes, learned; ``objective`` is the SLO's."""

    def __init__(self, max_batch_size: int, objective: float = OBJECTIVE) -> None:
        self.max_batch_size = max_batch_size
        self._objective = objective
        self.overall = LatencyModel(max_batch_size, objective)
        self._only: bytes | None = None
        """The class of all batches so far, while there is but one."""
        self._own: OrderedDict[bytes, LatencyModel] = OrderedDict()

    def of(self, key: bytes) -> LatencyModel:
        """The curve to plan a batch of this class with."""
        own = self._own.get(key)
        return self.overall if own is None or own.runs < KNOWN else own

    def learn(self, key: bytes | None, size: int, seconds: float) -> None:
        """A batch of ``size`` requests of one class took a worker ``seconds``; None: they stand for any."""
        self.overall.observe(size, seconds)
        if key is None:
            return
        own = self._own.get(key)
        if own is None:
            if self._only is None:
                self._only = key
            if self._only == key and not self._own:
                return
            own = self._own[key] = LatencyModel(self.max_batch_size, self._objective)
            if len(self._own) > MAX_CLASSES:
                self._own.popitem(last=False)
        self._own.move_to_end(key)
        own.observe(size, seconds)
