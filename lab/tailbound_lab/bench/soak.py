"""``bench soak``, ``bench stream-soak``: does every request, or stream, end once under kills and bad clients?

Load comes in slices of a minute, and a worker dies by SIGKILL every few seconds. Fails if memory grows.

- Requests: three SLO classes on two paths, and clients with a false start time. Each second one more client
  sends a plausible false time, one disconnects, and one never completes its body. Fails if a request stays
  unanswered, or if a class of correct clients misses its objective.
- Streams: each second one more client reads nothing of a long answer with large pieces, and one leaves after
  its first piece. Fails if a stream ends twice or never, or if a living worker finishes a state not once.
"""

import argparse
import contextlib
import os
import random
import signal
import socket
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from statistics import median
from typing import Final, Protocol

from prometheus_client.parser import text_string_to_metric_families

from tailbound_lab.bench.rig import processes
from tailbound_lab.bench.rig.measure import OBJECTIVE, Generator
from tailbound_lab.bench.rig.record import Record, Row, say
from tailbound_lab.bench.rig.record import Run as Asked
from tailbound_lab.bench.rig.server import RunningSystem, example
from tailbound_lab.bench.rig.systems import parse_entry
from tailbound_lab.bench.rig.ticker import every
from tailbound_lab.bench.streams import INTERVAL, contender
from tailbound_lab.bench.workloads import FOLDER, STREAM, WORKLOADS
from tailbound_lab.load.generator import Endpoint, Part, build
from tailbound_lab.load.records import Lagged, Load, Run, percent
from tailbound_lab.load.streams import StreamGenerator

WORKERS: Final = 2
SLICE_SECONDS: Final = 60.0
SAMPLE_SECONDS: Final = 5.0
CLASSES: Final = {"interactive": (1.0, 5.0), "standard": (3.0, 3.0), "bulk": (10.0, 2.0)}
"""SLO classes: the budget as a multiple of the workload's SLO, and the share of the load."""
UNANSWERED: Final = ("timeout", "broken", "no_connection", "unfinished")
GROWTH_ALLOWED: Final = 0.05
LIES: Final = ("0", "9" * 19, "1" * 310, "-1", "soon")
"""Start times in nanoseconds: 1970, the year 2286, and texts that are no time."""
LIAR: Final = "liar"
HONESTY: Final = 40.0
"""Correct requests per request with a false start time."""
READ_TIMEOUT: Final = 10.0
PATIENCE: Final = 10.0
"""Seconds beyond its time limit that an answer, or the close of an incomplete request, may take."""
STREAM_PATIENCE: Final = 20.0
"""Seconds that a stream may take beyond its last due time."""
STALL_SECONDS: Final = 30.0
"""Time for which a client that reads nothing keeps its connection."""
LONG, LARGE = b"400", b"400,65536"
"""Bodies that ask for 400 pieces, and for ones of 64 KiB."""


class Traffic(Protocol):
    """One kind of load, its bad clients, and what is required of it."""

    generator: Generator
    server: RunningSystem

    def endpoint(self) -> Endpoint:
        """Return the load for the running server."""

    def misbehave(self) -> None:
        """Let some more clients misbehave; called each second."""

    def ended(self, slices: Sequence[Run], statuses: Counter[str]) -> tuple[Row, bool]:
        """Return what became of the load while the server still runs, and whether all of it holds."""


@dataclass(frozen=True, slots=True)
class Soak:
    """The question with one kind of load."""

    traffic: Callable[[Asked], Traffic]
    rate: float
    words: Callable[[Row], dict[str, str]]
    """Returns the parts of a run's sentence that are those of this load."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the options."""
        add = parser.add_argument
        add(
            "--rate",
            type=float,
            default=self.rate,
            help="starts/s; half of the maximum is usual [%(default)g]",
        )
        add("--minutes", type=float, default=30.0, help="length of the run [30]")
        add("--kill-every", type=float, default=10.0, help="seconds between two kills [10]")

    def main(self, options: argparse.Namespace, run: Asked) -> int:
        """Run; 0 if the server lives, memory is flat, and all that is required of the load holds."""
        traffic = self.traffic(run)
        with traffic.server as server:
            endpoint, watch = traffic.endpoint(), Watch(server, options.kill_every)
            with every(SAMPLE_SECONDS, watch.look), every(1.0, traffic.misbehave):
                slices = offer(options, traffic.generator, server, endpoint)
            statuses = sum((Counter(dict(part.statuses)) for part in slices), Counter[str]())
            outcome, holds = traffic.ended(slices, statuses)
            alive = server.alive
        row: Row = {
            "rate": options.rate,
            "minutes": options.minutes,
            "killed": watch.killed,
            "sent": sum(part.sent for part in slices),
            "statuses": dict(statuses),
            **outcome,
            "memory_mb": [round(sample, 1) for sample in watch.own[:1] + watch.own[-1:]],
            "growth": {"watchdog": growth(watch.own), "all": growth(watch.total)},
        }
        run.keep([row])
        flat = all(share is not None and share <= GROWTH_ALLOWED for share in row["growth"].values())
        return int(not (alive and flat and holds))

    def table(self, record: Record) -> str:
        """Return the run in one sentence."""
        (row,) = record.rows
        grown = row["growth"]["watchdog"]
        lines = {
            "workers killed": f"{row['killed']:,}",
            **self.words(row),
            "memory of the watchdog, first and last": ", ".join(
                f"{size:.1f} MB" for size in row["memory_mb"]
            ),
            "its growth from the second fifth to the last": "too short a run"
            if grown is None
            else f"{grown:+.1%}",
        }
        load = f"{row['rate']:,.0f}/s for {row['minutes']:g} minutes"
        return "; ".join((load, *(f"{name}: {value}" for name, value in lines.items())))


class Requests:
    """Requests of all classes, and clients that lie, disconnect or send half a body."""

    def __init__(self, run: Asked) -> None:
        workload = WORKLOADS["accelerator"]
        budgets = (f"{name}={factor * workload.slo * 1e3:g}ms" for name, (factor, _) in CLASSES.items())
        settings = {
            "slo_classes": ", ".join(budgets),
            "read_timeout": f"{READ_TIMEOUT:g}s",
            "trust_start_time": "true",  # the lies are a gateway's
        }
        self.generator: Generator = build(run.folder)
        self.server = RunningSystem(parse_entry("slo"), workload, WORKERS, example(workload), settings)
        self._clients = ThreadPoolExecutor(64)
        self._answers: list[Future[bool]] = []
        self._bad = 0

    def endpoint(self) -> Endpoint:
        """Return each class on each path, and requests with false start times."""
        plain = self._plain
        honest = [
            replace(
                plain,
                path=f"/{path}",
                headers=(*plain.headers, ("X-SLO-Class", name)),
                weight=share,
                name=name,
                slo=factor * self.server.workload.slo,
            )
            for name, (factor, share) in CLASSES.items()
            for path in range(2)
        ]
        weight = sum(part.weight for part in honest) / HONESTY / len(LIES)
        liars = (
            replace(plain, headers=(*plain.headers, ("X-Start-Time", lie)), weight=weight, name=LIAR)
            for lie in LIES
        )
        return Endpoint(self.server.port, (*honest, *liars))

    def misbehave(self) -> None:
        """Send a plausible false time, disconnect, and send half a body, each from one client."""
        self._bad += 3
        # The request claims to have taken four seconds already: it is late, and must be answered.
        start = ("X-Start-Time", str(time.time_ns() - 4 * 10**9))
        plain, port = self._plain, self.server.port
        message = plain.message(port)
        lying = replace(plain, headers=(*plain.headers, start)).message(port)
        with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as hasty:
            hasty.sendall(message)
        for sent, seconds in ((lying, PATIENCE), (message[:-1], READ_TIMEOUT + PATIENCE)):
            self._answers.append(self._clients.submit(answered, port, sent, seconds))

    def ended(self, slices: Sequence[Run], statuses: Counter[str]) -> tuple[Row, bool]:
        """Wait for what the server must still answer; return what became of all requests."""
        unanswered = sum(statuses[name] for name in UNANSWERED)
        unanswered += sum(not answer.result() for answer in self._answers)
        within = {name: _attainment(slices, name) for name in (*CLASSES, LIAR)}
        met = all(within[name] >= OBJECTIVE for name in CLASSES)
        return {"unanswered": unanswered, "bad_clients": self._bad, "within": within}, met and not unanswered

    @property
    def _plain(self) -> Part:
        (part,) = self.server.endpoint.parts
        return part


def answered(port: int, message: bytes, seconds: float) -> bool:
    """Send a message from a client of its own; return whether an answer begins within these seconds."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=seconds) as client:
            client.sendall(message)
            return bool(client.recv(1))
    except OSError:
        return False


class Streams:
    """Streams of all lengths, and clients that stop reading or leave."""

    def __init__(self, _: Asked) -> None:
        self._contender = contender("slo")
        settings = {**self._contender.settings, "function_path": str(FOLDER / "stream_counted")}
        self.generator: Generator = StreamGenerator(INTERVAL, STREAM_PATIENCE)
        self.server = RunningSystem(self._contender.entry, STREAM, WORKERS, example(STREAM), settings)
        self._before: Counter[str] = Counter()
        self._stalled: list[tuple[float, socket.socket]] = []
        self._bad = 0

    def endpoint(self) -> Endpoint:
        """Return the streams of ``bench streams``; what has ended so far is none of them."""
        self._before = self._counts()
        return Endpoint(self.server.port, self._contender.parts)

    def misbehave(self) -> None:
        """Let one client read nothing, and one leave after its first bytes."""
        self._stalled.append((time.monotonic(), self._request(LARGE)))
        with self._request(LONG) as leaving, contextlib.suppress(OSError):
            leaving.recv(1)
        while self._stalled and time.monotonic() - self._stalled[0][0] > STALL_SECONDS:
            self._stalled.pop(0)[1].close()

    def ended(self, slices: Sequence[Run], statuses: Counter[str]) -> tuple[Row, bool]:
        """Close the connections that are left and await the drain; return what became of all streams."""
        for _, client in self._stalled:
            client.close()
        counts, opened, twice = self._drained()
        counts.subtract(self._before)
        sent = sum(part.sent for part in slices)
        must_be_none = {
            "never": statuses["timeout"] + counts["in flight"] + opened,
            "ended_more": counts["ended"] - sent - self._bad + statuses["no_connection"],
            "finished_twice": twice,
        }
        row = {
            "bad_clients": self._bad,
            **must_be_none,
            "cancels": {name: counts[name] for name in ("client_left", "slow_reader", "expired")},
            "within": sum(part.good for part in slices) / max(1, sent),
        }
        return row, not any(must_be_none.values())

    def _request(self, body: bytes) -> socket.socket:
        client = socket.create_connection(("127.0.0.1", self.server.port), timeout=STREAM_PATIENCE)
        client.sendall(Part(body).message(self.server.port))
        self._bad += 1
        return client

    def _counts(self) -> Counter[str]:
        """Return the requests that have ended, and the streams that were cancelled by reason."""
        counts: Counter[str] = Counter()
        with urllib.request.urlopen(f"http://127.0.0.1:{self.server.metrics_port}/metrics") as answer:
            text = answer.read().decode()
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.name in ("slo_requests_total", "watchdog_abandoned_requests_total"):
                    counts["ended"] += int(sample.value)
                elif sample.name == "watchdog_stream_cancels_total":
                    counts[sample.labels["reason"]] = int(sample.value)
                elif sample.name == "http_requests_in_flight":
                    counts["in flight"] = int(sample.value)
        return counts

    def _drained(self) -> tuple[Counter[str], int, int]:
        """Return counts and states once no request is in flight and no state open, or after a while."""
        deadline = time.monotonic() + STREAM_PATIENCE
        while True:
            counts, (opened, twice) = self._counts(), self._states()
            if not (counts["in flight"] or opened) or time.monotonic() > deadline:
                return counts, opened, twice
            time.sleep(0.1)

    def _states(self) -> tuple[int, int]:
        """Return the states that living workers have not finished, and those that any has finished twice."""
        living, opened, twice = self.server.usage(), 0, 0
        for file in self.server.folder.glob("states-*"):
            # A worker may have been killed while it wrote.
            written = (file.read_text() or "0 0").split()
            opened += int(written[0]) if int(file.name.partition("-")[2]) in living else 0
            twice += int(written[1])
        return opened, twice


def _of_requests(row: Row) -> dict[str, str]:
    return {
        "clients that lied, disconnected or never sent their body": f"{row['bad_clients']:,}",
        "requests": f"{row['sent']:,}",
        "unanswered": f"{row['unanswered']:,}",
        "another status than 200": f"{row['sent'] - row['statuses'].get('200', 0):,}",
        "within SLO": ", ".join(f"{name} {percent(share)}" for name, share in row["within"].items()),
    }


def _of_streams(row: Row) -> dict[str, str]:
    return {
        "clients that stopped reading or left": f"{row['bad_clients']:,}",
        "streams of other clients": f"{row['sent']:,}",
        "of these broken off, as their worker was killed": f"{row['statuses'].get('broken', 0):,}",
        "ended never": f"{row['never']:,}",
        "ended more or less than once, by the metrics": f"{row['ended_more']:+,}",
        "states finished twice": f"{row['finished_twice']:,}",
        "cancelled": ", ".join(f"{name} {count:,}" for name, count in row["cancels"].items()),
        "within SLO": percent(row["within"]),
    }


REQUESTS: Final = Soak(Requests, 2100.0, _of_requests)
STREAMS: Final = Soak(Streams, 30.0, _of_streams)


def _attainment(slices: Sequence[Run], name: str) -> float:
    tallies = [run.parts[name] for run in slices if name in run.parts]
    return sum(tally.good for tally in tallies) / max(1, sum(tally.sent for tally in tallies))


def growth(samples: Sequence[float]) -> float | None:
    """Return the growth of memory: the median of the run's last fifth against that of the second.

    The first fifth does not count, because buffers and caches fill. None with fewer than five samples.
    """
    fifth = len(samples) // 5
    return median(samples[-fifth:]) / median(samples[fifth : 2 * fifth]) - 1 if fifth else None


def offer(
    options: argparse.Namespace, generator: Generator, server: RunningSystem, endpoint: Endpoint
) -> list[Run]:
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


class Watch:
    """Samples of memory in megabytes, of the watchdog's processes and of all; and the kills of workers."""

    def __init__(self, server: RunningSystem, kill_every: float) -> None:
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
