"""``bench soak``: a long run while workers are killed: is every request answered, does memory stay flat?

Load comes in slices of a minute, one after the other, and a worker dies by SIGKILL every few seconds. Writes
a line for each slice and build/bench/soak.json.
"""

import argparse
import contextlib
import json
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tailbound_lab.bench import page
from tailbound_lab.bench.rig import processes
from tailbound_lab.bench.rig.server import Server, example
from tailbound_lab.bench.rig.systems import parse_entry
from tailbound_lab.bench.workloads import WORKLOADS
from tailbound_lab.load.generator import Generator, build
from tailbound_lab.load.records import Lagged, Run

SECTION = "soak"
SLICE_SECONDS = 60.0
SAMPLE_SECONDS = 5.0
UNANSWERED = ("timeout", "broken", "no_connection", "unfinished")
GROWTH_ALLOWED = 0.05


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``bench soak``."""
    add = parser.add_argument
    add("--workload", choices=tuple(WORKLOADS), default="accelerator")
    add("--rate", type=float, default=2100.0, help="requests/s: 70%% of the maximum, say [2100]")
    add("--minutes", type=float, default=30.0, help="how long [30]")
    add("--kill-every", type=float, default=10.0, help="seconds between two kills [10]")
    add("--workers", type=int, default=2, help="model processes [2]")
    page.add_publish(parser)


def main(options: argparse.Namespace, output: Path) -> int:
    """Run; 0 if every request was answered and memory is flat."""
    workload, entry = WORKLOADS[options.workload], parse_entry("slo")
    generator, body, venvs = build(output), example(workload), output / "venvs"
    with Server(entry.system, entry.settings, workload, options.workers, body, venvs) as server:
        watch = _Watch(server, options.kill_every)
        watch.start()
        try:
            slices = _offer(options, generator, server)
        finally:
            watch.stop()
        alive = server.alive
    statuses: Counter[str] = Counter()
    for run in slices:
        statuses.update(run.statuses)
    sent = sum(run.sent for run in slices)
    result = {
        **page.origin(),
        "workload": workload.name,
        "rate": options.rate,
        "minutes": options.minutes,
        "sent": sent,
        "statuses": dict(statuses),
        "unanswered": sum(statuses[name] for name in UNANSWERED),
        "attainment": sum(run.good for run in slices) / max(1, sent),
        "killed": watch.killed,
        "growth": {name: growth(watch.samples, name) for name in ("watchdog", "total")},
        "memory": watch.samples,
    }
    (output / "soak.json").write_text(json.dumps(result, indent=1) + "\n")
    page.show(options, SECTION, _summary(result))
    flat = all(share is not None and share <= GROWTH_ALLOWED for share in result["growth"].values())
    return 0 if alive and not result["unanswered"] and flat else 1


def growth(samples: Sequence[dict[str, float]], name: str) -> float | None:
    """Return how much ``name`` grew: the median of the last fifth of the run against that of the second.

    The first fifth is not judged, because buffers and caches fill. None if there are fewer than five samples.
    """
    fifth = len(samples) // 5
    if not fifth:
        return None
    early = sorted(sample[name] for sample in samples[fifth : 2 * fifth])
    late = sorted(sample[name] for sample in samples[-fifth:])
    return late[len(late) // 2] / early[len(early) // 2] - 1


def _summary(result: dict[str, Any]) -> str:
    grown = result["growth"]["watchdog"]
    others = result["sent"] - result["statuses"].get("200", 0)
    since = "" if grown is None else " from the second fifth of the run to the last"
    memory = [sample["watchdog"] for sample in result["memory"]] or [0.0]
    return (
        f"{result['machine']}, {result['date']}.\n\n"
        f"`{result['workload']}` at {result['rate']:,.0f} requests/s for {result['minutes']:g} minutes,"
        f" {result['killed']} workers killed: {result['sent']:,} requests, {result['unanswered']} unanswered,"
        f" {others:,} with another status than 200, {page.share(result['attainment'])} within SLO. The"
        f" watchdog's memory: {memory[0]:.1f} MB at first, {memory[-1]:.1f} MB at the end"
        f" ({'too short a run to judge growth' if grown is None else f'{grown:+.1%}'}{since})."
    )


def _offer(options: argparse.Namespace, generator: Generator, server: Server) -> list[Run]:
    slices: list[Run] = []
    left, slo = options.minutes * 60, server.workload.slo
    while left > 0 and server.alive:
        seconds = min(SLICE_SECONDS, left)
        left -= seconds
        try:
            run = generator.run(
                server.endpoint, rate=options.rate, seconds=seconds, slo=slo, seed=len(slices)
            )
        except Lagged as error:
            # Its latencies say nothing, but what was left unanswered counts.
            page.say(f"slice {len(slices) + 1}: {error}")
            run = error.run
        slices.append(run)
        page.say(f"slice {len(slices)}: {page.share(run.attainment)} of {run.sent:,}, {dict(run.statuses)}")
    return slices


class _Watch(threading.Thread):
    """Samples memory and kills workers until told to stop."""

    def __init__(self, server: Server, kill_every: float) -> None:
        super().__init__(daemon=True)
        self._server, self._kill_every = server, kill_every
        self._stopped = threading.Event()
        self._random = random.Random(1)
        self.samples: list[dict[str, float]] = []
        self.killed = 0

    def run(self) -> None:
        """Sample and kill until ``stop``."""
        started = time.monotonic()
        next_kill = started + self._kill_every
        while not self._stopped.wait(SAMPLE_SECONDS):
            used = self._server.usage()
            total = sum(usage.pss for usage in used.values())
            own = sum(usage.pss for usage in used.values() if usage.name.endswith(" batching_watchdog"))
            at = time.monotonic() - started
            self.samples.append({"at": at, "watchdog": own / 1e6, "total": total / 1e6})
            if time.monotonic() >= next_kill:
                next_kill += self._kill_every
                self._kill()

    def stop(self) -> None:
        """End the thread."""
        self._stopped.set()
        self.join()

    def _kill(self) -> None:
        workers = processes.children_named("batching_watchdog.worker.arbiter", self._server.usage())
        if workers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._random.choice(workers), signal.SIGKILL)
                self.killed += 1
