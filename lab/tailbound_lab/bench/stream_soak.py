"""``bench stream-soak``: checks that every stream ends once while workers are killed and clients misbehave.

Load comes in slices of a minute. A worker dies by SIGKILL every few seconds. Each second one more client
reads nothing of a long answer with large pieces, and one leaves after its first piece. Fails if a stream ends
twice or never, if a state of a living worker is not finished once, or if memory grows.
"""

import argparse
import contextlib
import socket
import time
import urllib.request
from collections import Counter
from typing import Final

from prometheus_client.parser import text_string_to_metric_families

from tailbound_lab.bench.rig.record import Record, Row, Run
from tailbound_lab.bench.rig.server import Server, example
from tailbound_lab.bench.soak import (
    SAMPLE_SECONDS,
    Watch,
    every,
    growth,
    is_flat,
    memory_lines,
    offer,
)
from tailbound_lab.bench.streams import INTERVAL, contender
from tailbound_lab.bench.workloads import FOLDER, STREAM
from tailbound_lab.load.generator import Endpoint, Part
from tailbound_lab.load.records import percent
from tailbound_lab.load.streams import StreamGenerator

PATIENCE: Final = 20.0
"""Seconds that a stream may take beyond its last due time."""
STALL_SECONDS: Final = 30.0
"""Time for which a client that reads nothing keeps its connection."""
LONG, LARGE = b"400", b"400,65536"
"""Bodies that ask for 400 pieces, and for ones of 64 KiB."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``bench stream-soak``."""
    add = parser.add_argument
    add("--rate", type=float, default=30.0, help="streams/s; half of the highest rate is usual [30]")
    add("--minutes", type=float, default=15.0, help="length of the run [15]")
    add("--kill-every", type=float, default=10.0, help="seconds between two kills [10]")
    add("--workers", type=int, default=2, help="model processes [2]")


def main(options: argparse.Namespace, run: Run) -> int:
    """Run; 0 if every stream ended once, every state was finished once, and memory is flat."""
    slo = contender("slo")
    settings = {**slo.settings, "function_path": str(FOLDER / "stream_counted")}
    with Server(slo.entry, STREAM, options.workers, example(STREAM), settings) as server:
        before = _counts(server)
        watch, bad = Watch(server, options.kill_every), _BadClients(server.port)
        with every(SAMPLE_SECONDS, watch.look), every(1.0, bad.misbehave):
            slices = offer(
                options, StreamGenerator(INTERVAL, PATIENCE), server, Endpoint(server.port, slo.parts)
            )
        bad.leave()
        counts, opened, twice = _drained(server)
        counts.subtract(before)
        alive = server.alive
    statuses = sum((Counter(dict(each.statuses)) for each in slices), Counter[str]())
    sent = sum(each.sent for each in slices)
    row: Row = {
        "rate": options.rate,
        "minutes": options.minutes,
        "killed": watch.killed,
        "sent": sent,
        "bad_clients": bad.sent,
        "statuses": dict(statuses),
        "never": statuses["timeout"] + counts["in flight"] + opened,
        "ended_more": counts["ended"] - sent - bad.sent + statuses["no_connection"],
        "finished_twice": twice,
        "cancels": {name: counts[name] for name in ("client_left", "slow_reader", "expired")},
        "within": sum(each.good for each in slices) / max(1, sent),
        "memory_mb": [round(sample, 1) for sample in watch.own[:1] + watch.own[-1:]],
        "growth": {"watchdog": growth(watch.own), "all": growth(watch.total)},
    }
    run.keep([row])
    return int(
        not alive or not is_flat(row) or any(row[name] for name in ("never", "ended_more", "finished_twice"))
    )


def table(record: Record) -> str:
    """Return the run in one sentence."""
    (row,) = record.rows
    lines = {
        "load": f"`stream`, {row['rate']:g} streams/s for {row['minutes']:g} minutes",
        "workers killed": f"{row['killed']:,}",
        "clients that stopped reading or left": f"{row['bad_clients']:,}",
        "streams of other clients": f"{row['sent']:,}",
        "of these broken off, as their worker was killed": f"{row['statuses'].get('broken', 0):,}",
        "ended never": f"{row['never']:,}",
        "ended more or less than once, by the metrics": f"{row['ended_more']:+,}",
        "states finished twice": f"{row['finished_twice']:,}",
        "cancelled": ", ".join(f"{name} {count:,}" for name, count in row["cancels"].items()),
        "within SLO": percent(row["within"]),
    } | memory_lines(row)
    return "; ".join(f"{name}: {value}" for name, value in lines.items())


def _counts(server: Server) -> Counter[str]:
    """Return the requests that have ended, and the streams that were cancelled by reason."""
    counts: Counter[str] = Counter()
    with urllib.request.urlopen(f"http://127.0.0.1:{server.metrics_port}/metrics") as answer:
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


def _drained(server: Server) -> tuple[Counter[str], int, int]:
    """Return the counts and the states once no request is in flight and no state open, or after a while."""
    deadline = time.monotonic() + PATIENCE
    while True:
        counts, (opened, twice) = _counts(server), _states(server)
        if not (counts["in flight"] or opened) or time.monotonic() > deadline:
            return counts, opened, twice
        time.sleep(0.1)


def _states(server: Server) -> tuple[int, int]:
    """Return the states that living workers have not finished, and those that any has finished twice."""
    living, opened, twice = server.usage(), 0, 0
    for file in server.folder.glob("states-*"):
        # A worker may have been killed while it wrote.
        written = (file.read_text() or "0 0").split()
        opened += int(written[0]) if int(file.name.partition("-")[2]) in living else 0
        twice += int(written[1])
    return opened, twice


class _BadClients:
    """Clients that stop reading, and clients that leave."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._stalled: list[tuple[float, socket.socket]] = []
        self.sent = 0

    def misbehave(self) -> None:
        """Let one client read nothing, and one leave after its first bytes."""
        self._stalled.append((time.monotonic(), self._request(LARGE)))
        with self._request(LONG) as leaving, contextlib.suppress(OSError):
            leaving.recv(1)
        while self._stalled and time.monotonic() - self._stalled[0][0] > STALL_SECONDS:
            self._stalled.pop(0)[1].close()

    def leave(self) -> None:
        """Close the connections that are left."""
        for _, client in self._stalled:
            client.close()

    def _request(self, body: bytes) -> socket.socket:
        client = socket.create_connection(("127.0.0.1", self._port), timeout=PATIENCE)
        client.sendall(Part(body).message(self._port))
        self.sent += 1
        return client
