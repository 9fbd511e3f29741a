"""The simulator's twin of a live run: the same mix on the same engine in virtual time.

It is given what no simulation can know: how much longer than its law says a batch takes here, and what a
request spends outside of its batch. Both are measured at lower rates with requests of one kind. It is not
given what is compared.
"""

import random
import runpy
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from tailbound_lab.bench.rig.measure import LOW_RATE, Bench
from tailbound_lab.bench.workloads import Workload
from tailbound_lab.load import generator
from tailbound_lab.load.arrivals import Profile, arrivals
from tailbound_lab.load.records import BenchError
from tailbound_lab.simulate.function import Function, Service
from tailbound_lab.simulate.mix import Mix, Part
from tailbound_lab.simulate.replica import Replica

MAX_BATCH_SIZE: Final = 256
"""The watchdog's default."""
LEARNING_SECONDS: Final = 10.0
"""At half of the rate, before what counts: a live server has been warmed up, too."""
REST_SECONDS: Final = 2.0
SEEDS: Final = (1, 2, 3)
_SECONDS: Final = 4.0


class Overhead(NamedTuple):
    """Seconds beyond the law: of each batch, and of each request outside of its batch."""

    batch: float
    request: float


def service_seconds(workload: Workload) -> Callable[..., float]:
    """Return the law of a workload that sleeps: its own ``service_seconds``."""
    law: Callable[..., float] = runpy.run_path(str(workload.folder / "handler.py"))["service_seconds"]
    return law


def overhead(bench: Bench, one: Part, law: Callable[[Sequence[Part]], float], rate: float) -> Overhead:
    """Measure with requests of ``one`` kind, of which the law must be affine in the size of a batch.

    Batches are measured at ``rate``, since an idle machine wakes up more slowly; requests at a low rate.
    Raises ``BenchError``.
    """
    _, _, alone, found = _counted(bench, LOW_RATE)
    median = found.get("latency_ms", {}).get("p50")
    batches, size, took, _ = _counted(bench, rate)
    if median is None or not batches:
        raise BenchError("the watchdog's own share could not be measured")
    below = int(size)
    says = law([one] * below) + (size - below) * (law([one] * (below + 1)) - law([one] * below))
    return Overhead(max(0.0, took - says), max(0.0, median / 1e3 - alone))


def _counted(bench: Bench, rate: float) -> tuple[float, float, float, dict[str, Any]]:
    """Offer ``rate``; return batches, their mean size and seconds, and the run."""
    names = ("watchdog_service_seconds_count", "watchdog_batch_size_sum", "watchdog_service_seconds_sum")
    before = [bench.server.metric(name) or 0.0 for name in names]
    found = bench.counted(rate, _SECONDS)
    after = [bench.server.metric(name) or 0.0 for name in names]
    batches, requests, seconds = (now - was for now, was in zip(after, before, strict=True))
    return batches, requests / max(1.0, batches), seconds / max(1.0, batches), found


def simulate(
    parts: Sequence[generator.Part],
    law: Callable[[Sequence[Part]], float],
    slo: float,
    spent: Overhead,
    *,
    rate: float,
    seconds: float,
) -> dict[str, Any]:
    """Return goodput and the attainment of each part, over runs with several seeds."""
    function = Function(Service((1.0,) * MAX_BATCH_SIZE), slo_latency=slo, overhead=spent.request)
    sent: Counter[str] = Counter()
    good: Counter[str] = Counter()
    for seed in SEEDS:
        draw = random.Random(seed).random
        mix = Mix(function, [part(each) for each in parts], lambda batch: law(batch) + spent.batch, draw)
        replica = Replica(function, 0.0, traffic=mix)
        begin = LEARNING_SECONDS + REST_SECONDS
        replica.serve(arrivals(Profile(((0.0, rate / 2), (LEARNING_SECONDS, rate / 2))), draw), begin)
        mix.clear()
        counted = arrivals(Profile(((0.0, rate), (seconds, rate))), draw)
        replica.serve([begin + at for at in counted], float("inf"))
        sent += mix.sent
        good += mix.good
    return {
        "goodput": good.total() / seconds / len(SEEDS),
        "parts": {name: good[name] / sent[name] for name in sent},
    }


def part(sent: generator.Part) -> Part:
    """Return a part of the generator's mix as the engine sees it."""
    headers = dict(sent.headers)
    return Part(
        sent.weight,
        sent.name,
        sent.slo,
        f"POST {sent.path}".encode(),
        headers.get("X-Batch-Key", "").encode(),
        len(sent.body),
        len(sent.body.rstrip()),
        headers.get("X-SLO-Class", "default"),
    )
