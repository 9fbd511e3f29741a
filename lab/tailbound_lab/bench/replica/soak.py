"""``bench soak``: a long run while workers are killed: is every request answered, does memory stay flat?

Load comes in slices of a minute, one after the other, and a worker dies by SIGKILL every few seconds. What
is written is a line for each slice, build/bench/soak.json and a plot of memory over time.
"""

import argparse
import contextlib
import json
import os
import random
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tailbound_lab.bench import report
from tailbound_lab.bench.page import PAGE, rewrite
from tailbound_lab.bench.replica.compare import example
from tailbound_lab.bench.rig import processes
from tailbound_lab.bench.rig.server import Server
from tailbound_lab.bench.rig.systems import parse_entry
from tailbound_lab.bench.workloads import WORKLOADS
from tailbound_lab.live.machine import describe
from tailbound_lab.load.generator import build
from tailbound_lab.load.records import Lagged

SECTION = "soak"
SLICE_SECONDS = 60.0
SAMPLE_SECONDS = 5.0
UNANSWERED = ("timeout", "broken", "no_connection", "unfinished")
SETTLED_SHARE = 0.2
"""Memory of the first fifth of the run is not judged: buffers and caches fill."""
GROWTH_ALLOWED = 0.05


def add_arguments(made: argparse.ArgumentParser) -> None:
    """The options of ``bench soak``."""
    made.add_argument("--workload", choices=tuple(WORKLOADS), default="accelerator")
    made.add_argument(
        "--rate", type=float, default=2100.0, help="requests/s: 70%% of the maximum, say [2100]"
    )
    made.add_argument("--minutes", type=float, default=30.0, help="how long [30]")
    made.add_argument("--kill-every", type=float, default=10.0, help="seconds between two kills [10]")
    made.add_argument("--workers", type=int, default=2)
    made.add_argument("--publish", action="store_true", help="put result and plot into docs/benchmarks.md")


def main(options: argparse.Namespace, output: Path) -> int:
    """Run; 0 if every request was answered and memory is flat."""
    workload = WORKLOADS[options.workload]
    entry = parse_entry("slo")
    generator = build(output)
    with Server(
        entry.system, entry.settings, workload, options.workers, example(workload), output / "venvs"
    ) as server:
        watch = _Watch(server, options.kill_every)
        watch.start()
        try:
            slices = _offer(options, workload.slo, generator.run, server)
        finally:
            watch.stop()
        alive = server.alive
    statuses: Counter[str] = Counter()
    for each in slices:
        statuses.update(each["statuses"])
    result = {
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "machine": describe(),
        "workload": workload.name,
        "rate": options.rate,
        "minutes": options.minutes,
        "sent": sum(each["sent"] for each in slices),
        "statuses": dict(statuses),
        "unanswered": sum(statuses[name] for name in UNANSWERED),
        "attainment": sum(each["good"] for each in slices) / max(1, sum(each["sent"] for each in slices)),
        "killed": watch.killed,
        "growth": {name: growth(watch.samples, name) for name in ("watchdog", "total")},
        "slices": slices,
        "memory": watch.samples,
    }
    (output / "soak.json").write_text(json.dumps(result, indent=1) + "\n")
    plot = report.draw_memory(result, output / "soak.png")
    shown = ("sent", "statuses", "unanswered", "attainment", "killed", "growth")
    sys.stdout.writelines(f"{name:<12} {result[name]}\n" for name in shown)
    sys.stdout.write(f"{output / 'soak.json'}\n{plot}\n")
    if options.publish:
        publish(result, PAGE)
    flat = all(share is not None and share <= GROWTH_ALLOWED for share in result["growth"].values())
    return 0 if alive and not result["unanswered"] and flat else 1


def publish(result: dict[str, Any], page: Path) -> None:
    """Put result and plot into ``page``. Raises ``BenchError`` if the marks are not there."""
    rewrite(page, SECTION, lambda: _section(result, page.parent / "benchmarks"))


def summary(result: dict[str, Any]) -> str:
    """The outcome in a paragraph of Markdown."""
    others = result["sent"] - result["statuses"].get("200", 0)
    first, last = result["memory"][0]["watchdog"], result["memory"][-1]["watchdog"]
    return (
        f"{result['machine']}, {result['date']}.\n\n"
        f"`{result['workload']}` at {result['rate']:,.0f} requests/s for {result['minutes']:g} minutes,"
        f" {result['killed']} workers killed: {result['sent']:,} requests, {result['unanswered']} unanswered,"
        f" {others:,} with another status than 200, {result['attainment']:.2%} in time. The"
        f" watchdog's memory: {first:.1f} MB at first, {last:.1f} MB at the end"
        f" ({_percent(result['growth']['watchdog'])} from the second fifth of the run to the last)."
    )


def growth(samples: Sequence[dict[str, float]], name: str) -> float | None:
    """How much ``name`` grew: the median of the last fifth against that of the second; None if too short."""
    fifth = int(len(samples) * SETTLED_SHARE)
    if not fifth:
        return None
    early = sorted(sample[name] for sample in samples[fifth : 2 * fifth])
    late = sorted(sample[name] for sample in samples[-fifth:])
    return late[len(late) // 2] / early[len(early) // 2] - 1


def _percent(share: float | None) -> str:
    return "too short to judge" if share is None else f"{share:+.1%}"


def _section(result: dict[str, Any], folder: Path) -> str:
    folder.mkdir(exist_ok=True)
    plot = report.draw_memory(result, folder / "soak.png")
    return f"{summary(result)}\n\n![memory over time](benchmarks/{plot.name})"


def _offer(options: argparse.Namespace, slo: float, run: Any, server: Server) -> list[dict[str, Any]]:
    slices: list[dict[str, Any]] = []
    left = options.minutes * 60
    while left > 0 and server.alive:
        seconds = min(SLICE_SECONDS, left)
        left -= seconds
        try:
            done = run(server.endpoint, rate=options.rate, seconds=seconds, slo=slo, seed=len(slices))
        except Lagged as error:
            # Its latencies say nothing, but what was left unanswered counts.
            sys.stderr.write(f"bench: slice {len(slices) + 1}: {error}\n")
            done = error.run
        slices.append({"sent": done.sent, "good": done.good, "statuses": dict(done.statuses)})
        sys.stdout.write(
            f"{len(slices):4d} min  {done.attainment:8.3%} of {done.sent:,} in time  {dict(done.statuses)}\n"
        )
        sys.stdout.flush()
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
        """Until ``stop``."""
        started = time.monotonic()
        next_kill = started + self._kill_every
        while not self._stopped.wait(SAMPLE_SECONDS):
            used = self._server.usage()
            total = sum(usage.pss for usage in used.values())
            own = sum(usage.pss for usage in used.values() if usage.name.endswith(" batching_watchdog"))
            self.samples.append(
                {"at": time.monotonic() - started, "watchdog": own / 1e6, "total": total / 1e6}
            )
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
