"""Simulates a live run: the same mix on the same engine in virtual time.

Its inputs from the live run are the mean time of batches, and a request's time outside of its batch, measured
at a low rate. The compared numbers are not inputs.
"""

import random
import runpy
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
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
CORRECTIONS: Final = 3
_SECONDS: Final = 4.0


def service_seconds(workload: Workload) -> Callable[..., float]:
    """Return the service times of a workload that sleeps: its own ``service_seconds``."""
    law: Callable[..., float] = runpy.run_path(str(workload.folder / "handler.py"))["service_seconds"]
    return law


def counted(bench: Bench, rate: float, seconds: float) -> dict[str, Any]:
    """Offer ``rate``; return the run, with the mean seconds of its batches as ``service``."""
    names = ("watchdog_service_seconds_count", "watchdog_service_seconds_sum")
    before = [bench.server.metric(name) or 0.0 for name in names]
    run = bench.counted(rate, seconds)
    batches, took = (
        (bench.server.metric(name) or 0.0) - was for name, was in zip(names, before, strict=True)
    )
    return run | {"service": took / max(1.0, batches)}


def outside(bench: Bench) -> float:
    """Return the seconds that a request spends outside of its batch. Raises ``BenchError``."""
    run = counted(bench, LOW_RATE, _SECONDS)
    median = run.get("latency_ms", {}).get("p50")
    if median is None:
        raise BenchError("the watchdog's own share of a request could not be measured")
    return max(0.0, float(median) / 1e3 - float(run["service"]))


def simulate(
    parts: Sequence[generator.Part],
    law: Callable[[Sequence[Part]], float],
    slo: float,
    run: Mapping[str, Any],
    *,
    overhead: float,
    seconds: float,
) -> dict[str, Any]:
    """Return goodput and the attainment of each part beside those of ``run``, over several seeds.

    ``overhead`` is a request's time outside of its batch. The service times are corrected until the mean time
    of batches equals that of the run.
    """
    function = Function(Service((1.0,) * MAX_BATCH_SIZE), slo_latency=slo, overhead=overhead)
    beyond, rate = 0.0, float(run["rate"])
    for _ in range(CORRECTIONS):
        sent: Counter[str] = Counter()
        good: Counter[str] = Counter()
        work, batches = 0.0, 0
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
            work, batches = work + mix.work, batches + len(replica.sizes)
        beyond = max(0.0, beyond + run.get("service", 0.0) - work / max(1, batches))
    return {
        "goodput": good.total() / seconds / len(SEEDS),
        "parts": {
            name: good[name] / sent[name] for name in {each.name: None for each in parts} if sent[name]
        },
    }


def _longer(law: Callable[[Sequence[Part]], float], beyond: float) -> Callable[[Sequence[Part]], float]:
    return lambda batch: law(batch) + beyond


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
