"""``bench soak``: checks that every request is answered while workers are killed and clients misbehave.

Load comes in slices of a minute: three SLO classes on two paths, and clients with a false start time. A
worker dies by SIGKILL every few seconds. Each second one more client sends a plausible false time, one
disconnects, and one never completes its body. Fails if a request stays unanswered, if memory grows, or if a
class of correct clients misses its objective.
"""

import argparse
import contextlib
import os
import random
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from statistics import median

from tailbound_lab.bench.rig import processes
from tailbound_lab.bench.rig.measure import OBJECTIVE, Generator
from tailbound_lab.bench.rig.record import Record, Row, say
from tailbound_lab.bench.rig.record import Run as Asked
from tailbound_lab.bench.rig.server import Server, example
from tailbound_lab.bench.rig.systems import parse_entry
from tailbound_lab.bench.workloads import CLASSES, WORKLOADS, slo_classes
from tailbound_lab.load.generator import Endpoint, Part, build
from tailbound_lab.load.records import Lagged, Load, Run, percent

SLICE_SECONDS = 60.0
SAMPLE_SECONDS = 5.0
UNANSWERED = ("timeout", "broken", "no_connection", "unfinished")
GROWTH_ALLOWED = 0.05
LIES = ("0", "9" * 19, "1" * 310, "-1", "soon")
"""Start times in nanoseconds: 1970, the year 2286, and texts that are no time."""
LIAR = "liar"
HONESTY = 40.0
"""Correct requests per request with a false start time."""
READ_TIMEOUT = 10.0
PATIENCE = 10.0
"""Seconds beyond its time limit that an answer, or the close of an incomplete request, may take."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``bench soak``."""
    add = parser.add_argument
    add("--rate", type=float, default=2100.0, help="requests/s; 70%% of the maximum is usual [2100]")
    add("--minutes", type=float, default=30.0, help="length of the run [30]")
    add("--kill-every", type=float, default=10.0, help="seconds between two kills [10]")
    add("--workers", type=int, default=2, help="model processes [2]")
    add("--quick", action="store_true", help="half a minute")


def main(options: argparse.Namespace, run: Asked) -> int:
    """Run; 0 if every request was answered, memory is flat and every class met its objective."""
    if options.quick:
        options.minutes = 0.5
    workload, entry = WORKLOADS["accelerator"], parse_entry("slo")
    generator = build(run.folder)
    settings = {"slo_classes": slo_classes(workload), "read_timeout": f"{READ_TIMEOUT:g}s"}
    with Server(entry, workload, options.workers, example(workload), settings) as server:
        watch, bad = Watch(server, options.kill_every), _BadClients(server)
        with every(SAMPLE_SECONDS, watch.look), every(1.0, bad.misbehave):
            slices = offer(options, generator, server, Endpoint(server.port, _mix(server)))
        bad.wait()
        alive = server.alive
    statuses: Counter[str] = Counter()
    for each in slices:
        statuses.update(each.statuses)
    row: Row = {
        "workload": workload.name,
        "rate": options.rate,
        "minutes": options.minutes,
        "killed": watch.killed,
        "sent": sum(each.sent for each in slices),
        "statuses": dict(statuses),
        "unanswered": sum(statuses[name] for name in UNANSWERED) + bad.unanswered,
        "bad_clients": bad.met,
        "within": {name: _attainment(slices, name) for name in (*CLASSES, LIAR)},
        "memory_mb": [round(sample, 1) for sample in watch.own[:1] + watch.own[-1:]],
        "growth": {"watchdog": growth(watch.own), "all": growth(watch.total)},
    }
    run.keep([row])
    met = all(row["within"][name] >= OBJECTIVE for name in CLASSES)
    return int(not alive or row["unanswered"] > 0 or not is_flat(row) or not met)


def table(record: Record) -> str:
    """Return the run in one sentence."""
    (row,) = record.rows
    lines = {
        "load": f"`{row['workload']}`, {row['rate']:,.0f} requests/s for {row['minutes']:g} minutes",
        "workers killed": f"{row['killed']:,}",
        "clients that lied, disconnected or never sent their body": f"{row['bad_clients']:,}",
        "requests": f"{row['sent']:,}",
        "unanswered": f"{row['unanswered']:,}",
        "another status than 200": f"{row['sent'] - row['statuses'].get('200', 0):,}",
        "within SLO": ", ".join(f"{name} {percent(share)}" for name, share in row["within"].items()),
    } | memory_lines(row)
    return "; ".join(f"{name}: {value}" for name, value in lines.items())


def is_flat(row: Row) -> bool:
    """Return whether the memory of a run stayed flat; False for a run too short to tell."""
    return all(share is not None and share <= GROWTH_ALLOWED for share in row["growth"].values())


def memory_lines(row: Row) -> dict[str, str]:
    """Return the parts of a run's sentence that tell its memory."""
    grown = row["growth"]["watchdog"]
    return {
        "memory of the watchdog, first and last": ", ".join(f"{each:.1f} MB" for each in row["memory_mb"]),
        "its growth from the second fifth to the last": "too short a run"
        if grown is None
        else f"{grown:+.1%}",
    }


def _mix(server: Server) -> tuple[Part, ...]:
    """Return the offered mix: each class on each path, and requests with false start times."""
    (plain,) = server.endpoint.parts
    honest = [
        replace(
            plain,
            path=f"/{path}",
            headers=(*plain.headers, ("X-SLO-Class", name)),
            weight=share,
            name=name,
            slo=factor * server.workload.slo,
        )
        for name, (factor, share) in CLASSES.items()
        for path in range(2)
    ]
    weight = sum(part.weight for part in honest) / HONESTY / len(LIES)
    return (
        *honest,
        *(
            replace(plain, headers=(*plain.headers, ("X-Start-Time", lie)), weight=weight, name=LIAR)
            for lie in LIES
        ),
    )


def _attainment(slices: Sequence[Run], name: str) -> float:
    tallies = [run.parts[name] for run in slices if name in run.parts]
    return sum(tally.good for tally in tallies) / max(1, sum(tally.sent for tally in tallies))


def growth(samples: Sequence[float]) -> float | None:
    """Return the growth of memory: the median of the run's last fifth against that of the second.

    The first fifth does not count, because buffers and caches fill. None with fewer than five samples.
    """
    fifth = len(samples) // 5
    return median(samples[-fifth:]) / median(samples[fifth : 2 * fifth]) - 1 if fifth else None


def offer(options: argparse.Namespace, generator: Generator, server: Server, endpoint: Endpoint) -> list[Run]:
    """Offer the rate for the minutes of the options, in slices, while the server lives."""
    slices: list[Run] = []
    left, slo = options.minutes * 60, server.workload.slo
    while left > 0 and server.alive:
        seconds = min(SLICE_SECONDS, left)
        left -= seconds
        try:
            run = generator.run(endpoint, Load(options.rate, seconds, slo, seed=len(slices)))
        except Lagged as error:
            # Its latencies say nothing, but what was left unanswered counts.
            say(f"slice {len(slices) + 1}: {error}")
            run = error.run
        slices.append(run)
        say(f"slice {len(slices)}: {percent(run.attainment)} of {run.sent:,}, {dict(run.statuses)}")
    return slices


@contextlib.contextmanager
def every(seconds: float, act: Callable[[], None]) -> Iterator[None]:
    """Act in a thread at this interval until the block ends."""
    stopped = threading.Event()

    def run() -> None:
        while not stopped.wait(seconds):
            act()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()


class Watch:
    """Samples of memory in megabytes, of the watchdog's processes and of all; and the kills of workers."""

    def __init__(self, server: Server, kill_every: float) -> None:
        self._server, self._kill_every = server, kill_every
        self._next_kill = time.monotonic() + kill_every
        self._random = random.Random(1)
        self.own: list[float] = []
        self.total: list[float] = []
        self.killed = 0

    def look(self) -> None:
        """Sample, and kill a worker when it is time."""
        used = self._server.usage()
        self.total.append(sum(usage.pss for usage in used.values()) / 1e6)
        watchdog = (usage.pss for usage in used.values() if usage.name.endswith(" batching_watchdog"))
        self.own.append(sum(watchdog) / 1e6)
        now = time.monotonic()
        if now >= self._next_kill:
            self._next_kill += self._kill_every
            self._kill()

    def _kill(self) -> None:
        workers = processes.children_named("batching_watchdog.worker.arbiter", self._server.usage())
        if workers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._random.choice(workers), signal.SIGKILL)
                self.killed += 1


class _BadClients:
    """Clients that lie, disconnect or send half a body, and what became of their requests."""

    def __init__(self, server: Server) -> None:
        self._address = ("127.0.0.1", server.port)
        (self._part,) = server.endpoint.parts
        self._held: list[tuple[float, socket.socket]] = []
        self.met = 0
        self.unanswered = 0

    def misbehave(self) -> None:
        """Send a plausible false time, disconnect, and send half a body, each from one client."""
        self.met += 3
        self._lie()
        message = self._part.message(self._address[1])
        with self._connect() as hasty:
            hasty.sendall(message)
        slow = self._connect()
        slow.sendall(message[:-1])
        self._held.append((time.monotonic(), slow))
        self._release()

    def wait(self) -> None:
        """Wait for connections that the server must still close."""
        while self._held:
            time.sleep(0.1)
            self._release()

    def _connect(self) -> socket.socket:
        return socket.create_connection(self._address, timeout=PATIENCE)

    def _lie(self) -> None:
        """Claim that the request has taken four seconds already: it is late, and must be answered."""
        start = ("X-Start-Time", str(time.time_ns() - 4 * 10**9))
        lying = replace(self._part, headers=(*self._part.headers, start))
        with self._connect() as client:
            client.sendall(lying.message(self._address[1]))
            try:
                self.unanswered += not client.recv(1)
            except OSError:
                self.unanswered += 1

    def _release(self) -> None:
        """Drop connections that the server has answered; count those that outlive its time limit."""
        now, held = time.monotonic(), []
        for since, client in self._held:
            client.settimeout(0.0)
            try:
                answered = bool(client.recv(1))
            except BlockingIOError:
                if now - since < READ_TIMEOUT + PATIENCE:
                    held.append((since, client))
                    continue
                answered = False
            except OSError:
                answered = False
            self.unanswered += not answered
            client.close()
        self._held = held
