"""Simulates a live run: the same mix on the same engine in virtual time.

Its inputs from the live server are a request's time outside of its batch, and the time of batches beyond the
workload's own law, both measured with requests of one kind. The compared numbers are not inputs.
"""

import random
import runpy
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from batching_watchdog.engine.prefetch import LEAD
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
"""Seconds of warm-up at half of the rate, as a live server has one."""
REST_SECONDS: Final = 2.0
SEEDS: Final = (1, 2, 3)
_SECONDS: Final = 4.0


@dataclass(frozen=True, slots=True)
class Beyond:
    """Seconds of a live server beyond the workload's law."""

    outside: float
    """That a request spends outside of its batch."""
    batch: float
    """That a batch takes longer."""
    item: float
    """That it takes longer for each of its requests."""


def service_seconds(workload: Workload) -> Callable[..., float]:
    """Return the service times of a workload that sleeps: its own ``service_seconds``."""
    law: Callable[..., float] = runpy.run_path(str(workload.folder / "handler.py"))["service_seconds"]
    return law


def beyond(bench: Bench, single: Part, law: Callable[[Sequence[Part]], float], rate: float) -> Beyond:
    """Measure a live server at a low rate and at ``rate``. Raises ``BenchError``.

    ``bench`` offers ``single`` only; ``law`` gives the seconds of a batch.
    """
    low, high = _counted(bench, LOW_RATE), _counted(bench, rate)
    median = low.get("latency_ms", {}).get("p50")
    if median is None or not low["batches"] or not high["batches"]:
        raise BenchError("the watchdog's own share of a request could not be measured")
    outside = max(0.0, float(median) / 1e3 - float(low["service"]))
    return Beyond(outside, *fitted(low, high, lambda size: law([single] * size)))


def fitted(
    low: Mapping[str, float], high: Mapping[str, float], law: Callable[[int], float]
) -> tuple[float, float]:
    """Return the seconds beyond ``law``, a line in the size: for a batch, and for each of its requests.

    ``low`` and ``high`` have the mean ``size`` of batches and their mean ``service`` time in seconds.
    """
    one, each = law(1), law(2) - law(1)
    longer = [run["service"] - one - (run["size"] - 1.0) * each for run in (low, high)]
    item = max(0.0, (longer[1] - longer[0]) / max(1.0, high["size"] - low["size"]))
    return max(0.0, longer[0] - item * low["size"]), item


def _counted(bench: Bench, rate: float) -> dict[str, Any]:
    """Offer ``rate``; return the run with the number, mean size and mean seconds of its batches."""
    names = ("service_seconds_count", "service_seconds_sum", "batch_size_sum")
    before = [bench.server.metric(f"watchdog_{name}") or 0.0 for name in names]
    run = bench.counted(rate, _SECONDS)
    after = [bench.server.metric(f"watchdog_{name}") or 0.0 for name in names]
    batches, took, requests = (now - was for now, was in zip(after, before, strict=True))
    return run | {
        "batches": batches,
        "service": took / max(1.0, batches),
        "size": requests / max(1.0, batches),
    }


def simulate(
    parts: Sequence[generator.Part],
    law: Callable[[Sequence[Part]], float],
    slo: float,
    rate: float,
    beyond: Beyond,
    *,
    seconds: float,
) -> dict[str, Any]:
    """Return the goodput at ``rate`` and the attainment of each part, over several seeds."""
    function = Function(Service((1.0,) * MAX_BATCH_SIZE), slo_latency=slo, overhead=beyond.outside)
    sent: Counter[str] = Counter()
    good: Counter[str] = Counter()
    for seed in SEEDS:
        draw = random.Random(seed).random
        mix = Mix(function, [part(each) for each in parts], _longer(law, beyond), draw, lead=LEAD)
        replica = Replica(function, 0.0, traffic=mix)
        begin = LEARNING_SECONDS + REST_SECONDS
        replica.serve(arrivals(Profile(((0.0, rate / 2), (LEARNING_SECONDS, rate / 2))), draw), begin)
        mix.clear()
        replica.clear()
        due = arrivals(Profile(((0.0, rate), (seconds, rate))), draw)
        replica.serve([begin + at for at in due], float("inf"))
        sent += mix.sent
        good += mix.good
    return {
        "goodput": good.total() / seconds / len(SEEDS),
        "parts": {
            name: good[name] / sent[name] for name in {each.name: None for each in parts} if sent[name]
        },
    }


def _longer(law: Callable[[Sequence[Part]], float], beyond: Beyond) -> Callable[[Sequence[Part]], float]:
    return lambda batch: law(batch) + beyond.batch + beyond.item * len(batch)


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
