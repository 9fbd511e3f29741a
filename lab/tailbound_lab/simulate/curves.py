"""Measures the late share of one replica by its load with the engine.

Owns the measurement: an engine that learns l(b), as in production, from batches of varying times serves
arrivals of one rate in virtual time.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from random import Random
from typing import Final

from batching_watchdog.engine.cost import CostModel
from batching_watchdog.messages import Request
from tailbound_lab.simulate.function import Function
from tailbound_lab.simulate.replica import Replica

MAX_BATCH: Final = 256
REQUESTS: Final = 14_000
"""Minimum requests of a run: at the objective 140 of them are late."""
WARM_SHARE: Final = 1 / 3
"""Share of the rate while the engine learns."""
SETTLE: Final = 0.1
"""First share of a run, whose requests do not count, since the replica was nearly empty."""


class Learned:
    """Requests of one kind whose service times the engine learns, from batches that vary."""

    def __init__(self, function: Function, noise: float, random: Random) -> None:
        """``noise`` is the standard deviation of the logarithm of a batch's time."""
        self.max_batch_size = len(function.service.seconds)
        self.cost = CostModel(self.max_batch_size)
        self.lead = 0.0
        self.factor = 1.0
        """Factor by which the model is slower than its l(b)."""
        self._function, self._noise, self._draw = function, noise, random.lognormvariate

    def request(self, number: int, arrived: float) -> Request:
        """Make the next request."""
        function = self._function
        return Request(number, b"", b"", arrived, arrived + function.slo_latency, arrived + function.timeout)

    def seconds(self, requests: Sequence[Request]) -> float:
        """Draw the seconds that a worker takes for a batch."""
        usual = self._function.service.seconds[len(requests) - 1]
        return self.factor * usual * self._draw(0.0, self._noise)


def arrivals(random: Random, rate: float, begin: float, end: float) -> Iterator[float]:
    """Yield the arrivals of a Poisson process."""
    now = begin
    while (now := now + random.expovariate(rate)) < end:
        yield now


def late_share(
    function: Function,
    noise: float,
    rate: float,
    requests: int = REQUESTS,
    *,
    seed: int = 5,
) -> float:
    """Return the share of some ``requests`` at ``rate`` per second that end after the SLO."""
    random = Random(seed)  # noqa: S311 - not for secrets
    replica = Replica(function, 0.0, traffic=Learned(function, noise, random))
    begin = max(2.0, 100 / rate)
    replica.serve(list(arrivals(random, WARM_SHARE * rate, 0.0, begin)), begin)
    replica.clear()
    end = begin + requests / rate
    came = list(arrivals(random, rate, begin, end))
    replica.serve(came, end)
    first, last = begin + SETTLE * (end - begin), end - function.slo_latency
    served, good = iter(replica.order), 0
    for done, size in zip(replica.ends, replica.sizes, strict=True):
        for _ in range(size):
            arrived = next(served)
            good += first < arrived <= last and done - arrived <= function.slo_latency + 1e-9
    return 1.0 - good / max(1, bisect_right(came, last) - bisect_right(came, first))
