"""Measures the late share of one replica by its load with the engine, for the capacity's table.

Owns the measurement: an engine that learns l(b), as in production, from batches of varying times serves
arrivals of one rate in virtual time. ``python -m tailbound_lab.simulate.curves`` computes ``SHARES`` of
``batching_watchdog.engine.capacity``, in about ten minutes of one core, and prints it as source.
"""

import math
import sys
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from random import Random
from typing import Final

from batching_watchdog.engine.capacity import CONSTANTS, FITTING, OBJECTIVE, VARIATION, WORKERS
from batching_watchdog.engine.cost import CostModel
from batching_watchdog.messages import Request
from tailbound_lab.simulate.function import Function, Service
from tailbound_lab.simulate.replica import Replica

MAX_BATCH: Final = 256
LATENCY: Final = 0.2
"""SLO of the table's functions in seconds. Only ratios to it matter."""
REQUESTS: Final = 14_000
"""Minimum requests of a run: at the objective 140 of them are late."""
HELD_OFTEN: Final = 22
"""Minimum number of full batches per worker in a run: a backlog within the SLO needs time to grow."""
WARM_SHARE: Final = 1 / 3
"""Share of the rate while the engine learns."""
SETTLE: Final = 0.1
"""First share of a run, whose requests do not count, since the replica was nearly empty."""
BRACKETS: Final = 8
"""Halvings of the range in the search for the rate, with short runs."""
NEAR: Final = (0.72, 0.88, 1.0, 1.12, 1.3, 1.6)
"""Multiples of the found rate at which late shares are measured."""


class Learned:
    """Requests of one kind whose service times the engine learns, from batches that vary."""

    def __init__(self, function: Function, noise: float, random: Random) -> None:
        """``noise`` is the standard deviation of the logarithm of a batch's time."""
        self.max_batch_size = len(function.service.seconds)
        self.cost = CostModel(self.max_batch_size, function.slo_objective)
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

    def begun(self, requests: Sequence[Request], begin: float, end: float) -> None:
        """Do nothing: the replica counts the outcomes."""


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


def highest_rate(function: Function, noise: float, late: float) -> float:
    """Return the requests per second at which the share ``late`` ends after the SLO."""
    service = function.service
    held = function.workers * service.largest_within(function.slo_latency)
    high = 1.2 * held / function.slo_latency
    low = 0.002 * high
    for _ in range(BRACKETS):
        middle = math.sqrt(low * high)
        if late_share(function, noise, middle, REQUESTS // 3, seed=3) > late:
            high = middle
        else:
            low = middle
    rates = [near * math.sqrt(low * high) for near in NEAR]
    requests = max(REQUESTS, HELD_OFTEN * held)
    return _crossing(
        rates, _never_falling([late_share(function, noise, rate, requests) for rate in rates]), late
    )


def _never_falling(shares: Sequence[float]) -> list[float]:
    """Return the nearest non-decreasing shares: falling neighbors are pooled (Ayer and others, 1955)."""
    pools: list[tuple[float, int]] = []
    for share in shares:
        pools.append((share, 1))
        while len(pools) > 1 and pools[-2][0] >= pools[-1][0]:
            (above, many), (below, few) = pools.pop(-2), pools.pop()
            pools.append(((above * many + below * few) / (many + few), many + few))
    return [share for share, count in pools for _ in range(count)]


def _crossing(rates: Sequence[float], shares: Sequence[float], late: float) -> float:
    """Return the rate at which ``shares`` reach ``late``, log-linear between them, proportional below."""
    if shares[0] >= late:
        return rates[0] * late / shares[0]
    logs = [math.log(max(1e-5, share)) for share in shares]
    index = min(bisect_right(logs, math.log(late)), len(rates) - 1)
    rise = logs[index] - logs[index - 1]
    part = min(1.0, (math.log(late) - logs[index - 1]) / rise) if rise > 0.0 else 1.0
    return rates[index - 1] + part * (rates[index] - rates[index - 1])


def main() -> int:
    """Print the table, one line per number of workers and of fitting requests."""
    for workers in WORKERS:
        for fitting in FITTING:
            line = []
            for constant in CONSTANTS:
                each = (1.0 - constant) * LATENCY / fitting
                service = Service.affine(constant * LATENCY, each, MAX_BATCH)
                function = Function(service, workers, LATENCY, OBJECTIVE, max_inflight=10**6)
                rate = highest_rate(function, VARIATION, 1.0 - OBJECTIVE)
                line.append(min(1000, round(1000 * rate * LATENCY / (workers * fitting))))
            sys.stdout.write(" ".join(map(str, line)) + "\n")
            sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
