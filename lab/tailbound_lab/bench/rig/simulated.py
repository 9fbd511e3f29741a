"""Simulates a live run: the same mix on the same engine in virtual time.

Its inputs from a live server are a request's time outside of its batch, and the seconds of batches beyond the
workload's own law, both measured with requests of one kind. Now and then the machine delays a batch by half
of its time, which costs goodput. So simulated batches deviate as the measured ones do. The compared numbers
are not inputs.
"""

import json
import random
import runpy
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from statistics import fmean
from types import MappingProxyType
from typing import Any, Final

from batching_watchdog.engine.prefetch import LEAD
from tailbound_lab.bench.rig.measure import LOW_RATE, Bench
from tailbound_lab.bench.workloads import Workload
from tailbound_lab.load import generator
from tailbound_lab.load.arrivals import Profile, arrivals
from tailbound_lab.load.records import BenchError
from tailbound_lab.simulate.function import Function, Service
from tailbound_lab.simulate.mix import Law, Mix, Part
from tailbound_lab.simulate.replica import Replica

MAX_BATCH_SIZE: Final = 256
"""The watchdog's default."""
LEARNING_SECONDS: Final = 10.0
"""Seconds of warm-up at half of the rate, as a live server has one."""
REST_SECONDS: Final = 2.0
SEEDS: Final = (1, 2, 3)
LOGGED: Final = MappingProxyType({"access_log": "true", "log_format": "json"})
"""Settings of a server to measure its batches: a line for each request."""
_SECONDS: Final = 4.0


@dataclass(frozen=True, slots=True)
class Beyond:
    """Seconds of a live server beyond the workload's law."""

    outside: float
    """That a request spends outside of its batch."""
    batch: float = 0.0
    """That a batch takes longer on average."""
    item: float = 0.0
    """That it takes longer for each of its requests."""
    deviations: Sequence[float] = (1.0,)
    """Times of single batches as multiples of that average."""


def service_seconds(workload: Workload) -> Callable[..., float]:
    """Return the service times of a workload that sleeps: its own ``service_seconds``."""
    law: Callable[..., float] = runpy.run_path(str(workload.folder / "handler.py"))["service_seconds"]
    return law


def beyond(bench: Bench, single: Part, law: Law, rate: float) -> Beyond:
    """Measure a live server with ``LOGGED`` and one worker at a low rate and at ``rate``.

    ``bench`` offers ``single`` only; ``law`` gives the seconds of a batch. Raises ``BenchError``.
    """
    bench.counted(rate, _SECONDS)  # to learn what batches of that rate take
    (run, low), (_, high) = (_logged(bench, each) for each in (LOW_RATE, rate))
    median = run.get("latency_ms", {}).get("p50")
    if median is None or not low or not high:
        raise BenchError("the watchdog's own share of a request could not be measured")
    outside = max(0.0, float(median) / 1e3 - fmean(seconds for _, seconds in low))
    return Beyond(outside, *fitted(low, high, lambda size: law([single] * size)))


def fitted(
    low: Sequence[tuple[int, float]], high: Sequence[tuple[int, float]], law: Callable[[int], float]
) -> tuple[float, float, Sequence[float]]:
    """Return the seconds beyond ``law``, a line in the size: for a batch, and for each of its requests.

    ``low`` and ``high`` are batches as size and seconds. The third are the times of those of ``high`` as
    multiples of what law and line give.
    """
    sizes = [fmean(size for size, _ in run) for run in (low, high)]
    longer = [fmean(seconds - law(size) for size, seconds in run) for run in (low, high)]
    item = max(0.0, (longer[1] - longer[0]) / max(1.0, sizes[1] - sizes[0]))
    batch = longer[1] - item * sizes[1]
    return batch, item, [seconds / (law(size) + batch + item * size) for size, seconds in high]


def batches(lines: Iterable[str]) -> list[tuple[int, float]]:
    """Return size and seconds of each batch of one worker, from its access log.

    A batch may be sent before the last one has ended.
    """
    found: list[tuple[int, float]] = []
    newest, ended = 0, 0.0
    for line in lines:
        entry = json.loads(line)
        if entry.get("batch", 0) > newest:
            newest, before, ended = entry["batch"], ended, datetime.fromisoformat(entry["time"]).timestamp()
            seconds = min(entry["seconds"] - entry["queue_seconds"], ended - before)
            found.append((entry["batch_size"], seconds))
    return found


def _logged(bench: Bench, rate: float) -> tuple[dict[str, Any], list[tuple[int, float]]]:
    """Offer ``rate``; return the run and its batches."""
    log = bench.server.folder / "log"
    before = log.stat().st_size
    run = bench.counted(rate, _SECONDS)
    return run, batches(log.read_bytes()[before:].decode().splitlines())


def simulate(
    parts: Sequence[generator.Part],
    law: Law,
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
        mix = Mix(function, [part(each) for each in parts], _longer(law, beyond, seed), draw, lead=LEAD)
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


def _longer(law: Law, beyond: Beyond, seed: int) -> Law:
    draw = random.Random(seed)
    return lambda batch: (
        (law(batch) + beyond.batch + beyond.item * len(batch)) * draw.choice(beyond.deviations)
    )


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
