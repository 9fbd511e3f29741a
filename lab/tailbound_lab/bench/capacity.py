"""``bench capacity``: whether the exported capacity is kept by many kinds of functions, in virtual time.

Each function is drawn at random: l(b) as a line or a measured one, workers, requests that fit into the SLO,
variation of batches, and a model that becomes slower or faster. Bisection on the watchdog's engine, which
learns l(b) as in production, finds the highest rate within the objective. Then a fresh engine serves a third
of that rate for a minute, and the capacity that it exports is compared with the highest rate.

Both are done with a handler that has an ``example()``, as in the template, and without. The watchdog's own
``Profiler`` measures the example.
"""

import argparse
import asyncio
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise, product
from random import Random
from statistics import mean, median, stdev
from typing import Final

from batching_watchdog.config import Config
from batching_watchdog.engine.capacity import sustained
from batching_watchdog.engine.cost import CostModel
from batching_watchdog.function.messages import Batch, Reply, Request
from batching_watchdog.function.wire import Spent
from batching_watchdog.pool.profile import Profiler
from tailbound_lab.bench.rig.pool import play_all
from tailbound_lab.bench.rig.record import Record, Row, Run, markdown
from tailbound_lab.simulate.function import Function, Service
from tailbound_lab.simulate.replica import Replica

OBJECTIVE: Final = 0.99
MAX_BATCH: Final = 256
SEED: Final = 12000
"""Seed of the first function; the constants of ``capacity`` were set on others."""
SHARE: Final = 1 / 3
"""Share of the highest rate that is served for ``LEARN`` seconds."""
LEARN: Final = 60.0
STEP: Final = 1.2
"""Ratio between two rates of the search."""
LOWEST: Final = 1e-5
"""Share of the workers' throughput at which the search for a rate within the objective ends."""
PRECISION: Final = 1.03
"""Maximum ratio between a rate that met the objective and one that did not."""
REQUESTS: Final = 20_000
"""Fewest requests of ``PARTS``."""
PARTS: Final = 6
"""Fewest parts of a run; a rate far beyond the objective stops after one."""
MOST_PARTS: Final = 24
SURE: Final = 2.0
"""Standard errors between the late share and the objective with which a run ends."""
WARM_UP: Final = 20_000
"""Most requests of the warm-up."""
KEPT: Final = 0.9
"""Required share of capacities that are kept."""

MEASURED: Final[Mapping[str, Mapping[int, float]]] = {
    "vision": {1: 168, 4: 286, 8: 181, 16: 196, 32: 175},
    "vision-tuned": {1: 164, 4: 276, 8: 308, 16: 264, 32: 232, 64: 232},
    "text": {1: 4258, 4: 10341, 8: 13558, 16: 16131, 32: 17614, 64: 12152, 128: 11824},
    "tabular": {1: 1602, 4: 2332, 8: 3779, 16: 5196, 32: 6606, 64: 7759, 128: 8100},
}
"""Items per second of one worker by batch size."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """A function, and the deviations of its batches from its l(b)."""

    curve: str
    function: Function
    fits: float
    """Requests whose batch takes the SLO."""
    noise: float
    """Standard deviation of the logarithm of a batch's time."""
    before: float
    """Factor by which the model was slower in the first half of the minute."""


def draw(seed: int) -> Drawn:
    """Return the function of this seed."""
    random = Random(seed)
    slo, fits = math.exp(random.uniform(math.log(0.05), math.log(0.5))), 2.0 * 100 ** random.random()
    if random.random() < 0.5:
        curve, constant = "line", random.uniform(0.02, 0.6) * slo
        service = Service.affine(constant, (slo - constant) / fits, MAX_BATCH)
    else:
        curve = random.choice(sorted(MEASURED))
        seconds = [_through(MEASURED[curve], size) for size in range(1, MAX_BATCH + 1)]
        below = int(fits)
        at_slo = seconds[below - 1] + (seconds[below] - seconds[below - 1]) * (fits - below)
        service = Service(tuple(slo / at_slo * each for each in seconds))
    workers = random.choice((1, 2, 3, 4, 6, 8))
    function = Function(service, workers, slo, OBJECTIVE, max_inflight=10**6, timeout=1e6)
    return Drawn(
        curve, function, fits, random.uniform(0.0, 0.15), random.choice((1.0, 1.0, random.uniform(0.6, 1.7)))
    )


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


class _Example:
    """The workers while the watchdog measures ``example()``, one after another, in virtual time."""

    def __init__(self, function: Function, traffic: Learned) -> None:
        settings = {"slo_latency": f"{function.slo_latency}s", "max_batch_size": f"{traffic.max_batch_size}"}
        config = Config.from_env({**settings, "exec_timeout": "1h"}, cpus=1.0)
        self._traffic, self._now, self._workers = traffic, 0.0, function.workers
        self._profiler = Profiler(config, self._learn, traffic.cost.overall, lambda: self._now)

    def measure(self) -> None:
        """Let one worker after another run the examples."""
        for _ in range(self._workers):
            asyncio.run(self._profiler.measure(self, [b"{}"]))

    def send(self, batch: Batch) -> None:
        """Run the batch."""
        self._now += self._traffic.seconds(batch.requests)
        self._profiler.replied(self, [Reply(200, b"", b"")] * len(batch.requests), Spent())

    def cancel(self, indexes: Sequence[int]) -> None:
        """Do nothing: no example is cancelled."""

    def check(self) -> None:
        """Do nothing: no example fails."""

    def _learn(self, size: int, spent: Spent) -> None:
        self._traffic.cost.learn_any(size, spent.seconds)


def maximum(drawn: Drawn, *, example: bool) -> float:
    """Return the highest rate within the objective; 0 if there is none.

    The search descends from the throughput of the workers: where a batch takes about half of the SLO, some
    rates below the highest one miss the objective.
    """
    function = drawn.function
    seconds = function.service.seconds
    high = function.workers * max(size / each for size, each in enumerate(seconds, 1))
    lowest, low = high * LOWEST, high / STEP
    while not _meets(drawn, low, example=example):
        if low < lowest:
            return 0.0
        low, high = low / STEP, low
    while high / low > PRECISION:
        rate = math.sqrt(low * high)
        if _meets(drawn, rate, example=example):
            low = rate
        else:
            high = rate
    return math.sqrt(low * high)


def exported(drawn: Drawn, rate: float, *, example: bool) -> float:
    """Return the capacity that an engine exports after a minute at ``rate``."""
    function, random = drawn.function, Random(7)
    traffic, replica = _started(drawn, random, drawn.before, example=example)
    replica.serve(list(arrivals(random, rate, 0.0, LEARN / 2)), LEARN / 2)
    traffic.factor = 1.0
    replica.serve(list(arrivals(random, rate, LEARN / 2, LEARN)), LEARN)
    if not traffic.cost.overall.learned:
        return 0.0
    return sustained(traffic.cost.mix, function.workers, function.slo_latency, OBJECTIVE).rate


def _started(drawn: Drawn, random: Random, factor: float, *, example: bool) -> tuple[Learned, Replica]:
    """Return a replica of a model that is slower by ``factor``, and its traffic."""
    traffic = Learned(drawn.function, drawn.noise, random)
    traffic.factor = factor
    if example:
        _Example(drawn.function, traffic).measure()
    return traffic, Replica(drawn.function, 0.0, traffic=traffic)


def _meets(drawn: Drawn, rate: float, *, example: bool) -> bool:
    """Return whether the objective is met at ``rate``, after the same warm-up as before the export.

    Late requests come in clusters, so a share near the objective needs a long run: it ends when the mean of
    its parts differs from the objective by ``SURE`` standard errors.
    """
    function, random = drawn.function, Random(1)
    # Long enough for a backlog to build up that a full SLO of work hides.
    requests = max(REQUESTS, round(40 * function.workers * drawn.fits)) / PARTS
    _, replica = _started(drawn, random, 1.0, example=example)
    begin = max(2.0, 100 / rate, min(LEARN, WARM_UP / (SHARE * rate)))
    replica.serve(list(arrivals(random, SHARE * rate, 0.0, begin)), begin)
    replica.take()
    shares: list[float] = []
    offered, until, late = 0, begin, 0.0
    while len(shares) < MOST_PARTS:
        until, start = until + requests / rate, until
        came = list(arrivals(random, rate, start, until))
        replica.serve(came, until)
        offered += len(came)
        missed = sum(
            each.end - arrived > function.slo_latency
            for each in replica.take().answered
            for arrived in each.arrived
        )
        shares.append(missed / len(came))
        overdue = max(0.0, replica.queued - function.workers * drawn.fits)
        late = mean(shares) + overdue / offered
        if late > 3 * (1 - OBJECTIVE):
            return False
        away = abs(late - (1 - OBJECTIVE)) * math.sqrt(len(shares))
        if len(shares) >= PARTS and away > SURE * stdev(shares):
            break
    return late <= 1 - OBJECTIVE


def _through(rates: Mapping[int, float], size: int) -> float:
    """Return the seconds for ``size``, interpolated between measured sizes."""
    sizes = sorted(rates)
    for low, high in pairwise(sizes):
        if size <= high:
            at_low, at_high = low / rates[low], high / rates[high]
            return at_low + (at_high - at_low) * (size - low) / (high - low)
    return size / rates[sizes[-1]]


def measure(seed: int, *, example: bool) -> Row:
    """Return the function of a seed, its highest rate, and the capacity that it exports, in requests/s."""
    drawn = draw(seed)
    highest = maximum(drawn, example=example)
    return {
        "seed": seed,
        "example": example,
        "curve": drawn.curve,
        "workers": drawn.function.workers,
        "highest": highest,
        "exported": exported(drawn, SHARE * highest, example=example) if highest else 0.0,
    }


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``bench capacity``."""
    add = parser.add_argument
    add("--functions", type=int, default=60, help="number of functions [60]")
    add("--quick", action="store_true", help="4 functions")
    add("--processes", type=int, default=os.cpu_count(), help="simulations at a time [one for each core]")


def main(options: argparse.Namespace, run: Run) -> int:
    """Measure; 0 if 90% of the capacities are kept, with and without ``example()``."""
    seeds = range(SEED, SEED + (4 if options.quick else options.functions))
    plays = [partial(measure, seed, example=example) for seed, example in product(seeds, (True, False))]
    rows = play_all(plays, options.processes)
    run.keep(rows)
    return int(any(kept(rows, example=example) < KEPT for example in (True, False)))


def kept(rows: Sequence[Row], *, example: bool) -> float:
    """Return the share of capacities that are at most the highest rate."""
    able = _met(rows, example=example)
    return sum(bool(row["exported"] <= row["highest"]) for row in able) / max(1, len(able))


def _met(rows: Sequence[Row], *, example: bool) -> list[Row]:
    return [row for row in rows if row["example"] is example and row["highest"]]


def table(record: Record) -> str:
    """Return a row for handlers with and for handlers without ``example()``."""
    columns = (
        "handler",
        "functions that can meet the objective",
        "kept",
        "median of capacity / highest rate",
    )
    lines = []
    for example, name in ((True, "with `example()`"), (False, "without")):
        rows = _met(record.rows, example=example)
        share = median(row["exported"] / row["highest"] for row in rows)
        of_all = f"{len(rows)} of {len(record.rows) // 2}"
        lines.append((name, of_all, f"{kept(rows, example=example):.1%}", f"{share:.2f}"))
    return markdown(columns, lines)
