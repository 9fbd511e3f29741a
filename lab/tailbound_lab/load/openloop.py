"""An open-loop HTTP/1.1 load generator: sends requests when they are due, regardless of earlier ones.

Owns the sending and its clock. Latency counts from a request's due time, so a stall of the server appears in
every request that is due meanwhile (no coordinated omission). A library, and a tool:
``python -m tailbound_lab.load.openloop --url URL --rate 100:5,500:10 --slo 100ms``. The next step is
:mod:`tailbound_lab.load.records`, which says what the records mean.

Limits: answers must carry Content-Length or be chunked; plain ``http`` only; one request in flight for each
connection.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import math
import random
import sys
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

import httptools
import uvloop

from slo_autoscaler.fields import parse_duration
from tailbound_lab.load.arrivals import Profile, arrivals, steps
from tailbound_lab.load.records import (
    BROKEN,
    NO_CONNECTION,
    TIMED_OUT,
    Record,
    Summary,
    percentile,
    summarize,
)

TIMEOUT_SECONDS = 10.0
"""Default seconds after which a request without an answer times out."""

_TIMER_TICK = 0.001
_CLOSE_LIMIT = 1.0
_EXPIRY_TICK = 0.05


@dataclass(frozen=True, slots=True)
class Target:
    """URL and bodies of requests; several bodies are sent in turn."""

    url: str
    bodies: tuple[bytes, ...] = (b"",)
    headers: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme != "http" or not parts.hostname:
            raise ValueError(f"url {self.url!r}: expected http://HOST[:PORT]/PATH")


@dataclass(frozen=True, slots=True)
class Stream:
    """The arrivals of one target: two streams with the same profile and seed are identical."""

    target: Target
    profile: Profile
    seed: int = 0

    def times(self) -> list[float]:
        """Draw the arrival times, seconds from the start."""
        # Seeded, to repeat the same arrivals for a twin or another run.
        return arrivals(self.profile, random.Random(self.seed).random)


@dataclass(frozen=True, slots=True)
class Lag:
    """The generator's own lateness at sending, in seconds, which every latency includes."""

    p50: float = 0.0
    p99: float = 0.0
    p999: float = 0.0
    worst: float = 0.0


@dataclass(slots=True, eq=False)
class _Call:
    """One request on its way, from when it is due until its record is written."""

    stream: int
    due: float
    body: int
    done: bool = False
    retried: bool = False
    connection: _Connection | None = field(default=None, repr=False)


class _Connection(asyncio.Protocol):
    """A kept connection that carries one request at a time."""

    __slots__ = ("call", "got", "parser", "pool", "transport", "used")

    def __init__(self, pool: _Pool) -> None:
        self.pool = pool
        self.parser = httptools.HttpResponseParser(self)
        self.transport: asyncio.Transport | None = None
        self.call: _Call | None = None
        self.got = False
        self.used = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # create_connection gives a full transport; uvloop's is one without being asyncio's subclass.
        self.transport = cast("asyncio.Transport", transport)
        self.pool.made.add(self)

    def send(self, call: _Call) -> None:
        """Put one request on the wire."""
        self.call, self.got = call, False
        call.connection = self
        if self.transport is not None:
            self.transport.write(self.pool.messages[call.body])

    def data_received(self, data: bytes) -> None:
        self.got = True
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError:
            self.drop()

    def on_message_complete(self) -> None:
        """Record the answer and give the connection back (called by the parser)."""
        call, self.call = self.call, None
        keep = self.parser.should_keep_alive()
        if call is None:
            self.drop()
            return
        self.used = True
        self.pool.finish(call, self.parser.get_status_code())
        if keep:
            self.pool.free(self)
        else:
            self.drop()

    def connection_lost(self, exc: Exception | None) -> None:
        call, self.call = self.call, None
        self.transport = None
        self.pool.closed(self, call)

    def drop(self) -> None:
        """Close at once, with any request in flight."""
        if self.transport is not None:
            self.transport.abort()


class _Pool:
    """The connections to one target: uses the youngest idle one, else opens one."""

    def __init__(self, target: Target, finish: Callable[[_Call, int], None]) -> None:
        parts = urlsplit(target.url)
        self.host, self.port = parts.hostname or "", parts.port or 80
        self.finish = finish
        self.messages = [_request(target, body) for body in target.bodies]
        self._idle: list[_Connection] = []
        self.made: set[_Connection] = set()
        self._connecting: set[asyncio.Task[None]] = set()

    def start(self, call: _Call) -> None:
        """Send on an idle connection, or on a new one."""
        while self._idle:
            connection = self._idle.pop()
            if connection.transport is not None and not connection.transport.is_closing():
                connection.send(call)
                return
        self._connect(call)

    def free(self, connection: _Connection) -> None:
        """Return a connection to the pool."""
        self._idle.append(connection)

    def closed(self, connection: _Connection, call: _Call | None) -> None:
        """Remove a connection. A request on it is lost, or sent again if the server cannot have seen it.

        A server may close a kept connection in the moment the request leaves; HTTP clients then repeat it.
        """
        self.made.discard(connection)
        if call is not None and not call.done:
            if connection.used and not connection.got and not call.retried:
                call.retried = True
                self._connect(call)
            else:
                self.finish(call, BROKEN)

    async def close(self) -> None:
        """Close every connection and cancel every attempt to open one; return when they are closed."""
        tasks = list(self._connecting)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for connection in list(self.made):
            connection.call = None
            connection.drop()
        # An aborted transport reports its end in the loop's next turn; one that never does is not waited for.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_LIMIT):
                while self.made:  # noqa: ASYNC110 - for one turn
                    await asyncio.sleep(0)

    def _connect(self, call: _Call) -> None:
        task = asyncio.get_running_loop().create_task(self._connect_and_send(call))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    async def _connect_and_send(self, call: _Call) -> None:
        loop = asyncio.get_running_loop()
        try:
            _, connection = await loop.create_connection(lambda: _Connection(self), self.host, self.port)
        except OSError:
            self.finish(call, NO_CONNECTION)
            return
        if call.done:
            self.free(connection)
        else:
            connection.send(call)


def _request(target: Target, body: bytes) -> bytes:
    parts = urlsplit(target.url)
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    lines = [f"POST {path} HTTP/1.1", f"Host: {parts.netloc}"]
    lines += [f"{name}: {value}" for name, value in target.headers]
    lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


class Generator:
    """Sends every stream's requests when due; :meth:`run` ends when all have ended."""

    def __init__(
        self,
        streams: Sequence[Stream],
        on_record: Callable[[int, Record], None],
        *,
        timeout: float = TIMEOUT_SECONDS,
    ) -> None:
        self._on_record = on_record
        self._timeout = timeout
        self._schedule = sorted((at, index) for index, stream in enumerate(streams) for at in stream.times())
        self._pools = [_Pool(stream.target, self._finish) for stream in streams]
        self._calls: deque[_Call] = deque()
        self._sent = [0] * len(streams)
        self._position = 0
        self._outstanding = 0
        self._lags: list[float] = []
        self._start = 0.0
        self._all_done = asyncio.Event()

    async def run(self, start: float) -> Lag:
        """Send everything from shortly after ``start`` on the loop's clock; return the generator's lag."""
        self._start = start
        expiry = asyncio.create_task(self._expire(), name="expiry")
        done = asyncio.create_task(self._all_done.wait(), name="all done")
        try:
            self._send_due()
            await asyncio.wait((expiry, done), return_when=asyncio.FIRST_COMPLETED)
            if expiry.done():
                expiry.result()  # It never ends by itself: this raises what ended it.
        finally:
            expiry.cancel()
            done.cancel()
            await asyncio.gather(expiry, done, return_exceptions=True)
            for pool in self._pools:
                await pool.close()
        lags = sorted(self._lags)
        p50, p99, p999 = (percentile(lags, share) or 0.0 for share in (0.5, 0.99, 0.999))
        return Lag(p50, p99, p999, lags[-1] if lags else 0.0)

    def _send_due(self) -> None:
        loop = asyncio.get_running_loop()
        schedule = self._schedule
        while self._position < len(schedule):
            at, stream = schedule[self._position]
            due = self._start + at
            now = loop.time()
            if due > now:
                # uvloop's timers count whole milliseconds, and one of none is a busy loop until it is due.
                loop.call_later(max(due - now, _TIMER_TICK), self._send_due)
                return
            self._position += 1
            self._outstanding += 1
            pool = self._pools[stream]
            call = _Call(stream, due, self._sent[stream] % len(pool.messages))
            self._sent[stream] += 1
            self._calls.append(call)
            self._lags.append(now - due)
            pool.start(call)
        self._end_if_done()

    def _finish(self, call: _Call, status: int) -> None:
        if call.done:
            return
        call.done = True
        call.connection = None
        self._outstanding -= 1
        latency = asyncio.get_running_loop().time() - call.due
        self._on_record(call.stream, Record(call.due - self._start, latency, status))
        self._end_if_done()

    def _end_if_done(self) -> None:
        if self._outstanding == 0 and self._position == len(self._schedule):
            self._all_done.set()

    async def _expire(self) -> None:
        # One timeout for all, so requests run out in the order in which they were due: a queue is enough.
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(_EXPIRY_TICK)
            limit = loop.time() - self._timeout
            while self._calls and (self._calls[0].done or self._calls[0].due <= limit):
                call = self._calls.popleft()
                if not call.done:
                    connection = call.connection
                    self._finish(call, TIMED_OUT)
                    if connection is not None:
                        connection.call = None
                        connection.drop()


async def offer(
    streams: Sequence[Stream], *, timeout_seconds: float = TIMEOUT_SECONDS
) -> tuple[list[list[Record]], Lag]:
    """Offer the streams' traffic in this loop; return each stream's records and the generator's own lag."""
    records: list[list[Record]] = [[] for _ in streams]
    generator = Generator(
        streams, lambda index, record: records[index].append(record), timeout=timeout_seconds
    )
    lag = await generator.run(asyncio.get_running_loop().time())
    return records, lag


def render(summary: Summary, lag: Lag, slo: float, duration: float) -> str:
    """Return the tool's result as text."""

    def shown(seconds: float | None) -> str:
        if seconds is None:
            return "-"
        return "infinite" if math.isinf(seconds) else f"{seconds * 1e3:.1f} ms"

    attainment = "-" if summary.attainment is None else f"{summary.attainment:.4%}"
    return (
        f"requests   {summary.sent} in {duration:g} s ({summary.sent / duration:.1f}/s)\n"
        f"attainment {attainment} within {slo * 1e3:g} ms\n"
        f"outcomes   good {summary.good}, slow {summary.slow}, refused {summary.refused}, "
        f"failed {summary.failed}, lost {summary.lost}\n"
        f"latency    p50 {shown(summary.p50)}, p95 {shown(summary.p95)}, "
        f"p99 {shown(summary.p99)} (from when each was due; misses are infinite)\n"
        f"own lag    p99 {shown(lag.p99)}, worst {shown(lag.worst)}\n"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the tool; return 0 if every request was answered, 1 if some were lost, 2 for wrong arguments."""
    parser = argparse.ArgumentParser(
        prog="python -m tailbound_lab.load.openloop",
        description="Offer open-loop Poisson traffic to one URL and say how it was answered.",
    )
    add = parser.add_argument
    add("--url", required=True, help="where to POST, as http://127.0.0.1:8080/function/tabular")
    add("--rate", default="100:5", metavar="RATE:SECONDS[,...]", help="rates in turn (default: %(default)s)")
    add("--slo", default="100ms", help="answers later than this are misses (default: %(default)s)")
    add("--body", metavar="FILE", help="file whose bytes are the body (default: an empty body)")
    add("--content-type", default="application/json", help="of the body (default: %(default)s)")
    options = parser.parse_args(arguments)
    gc.freeze()
    try:
        body = Path(options.body).read_bytes() if options.body else b""
        target = Target(options.url, (body,), (("Content-Type", options.content_type),))
        stream, slo = Stream(target, steps(options.rate)), parse_duration(options.slo)
        records, lag = uvloop.run(offer([stream]))
    except (ValueError, OSError) as error:
        # ShapeError is a ValueError; all name the argument and the rule.
        parser.exit(2, f"{parser.prog}: {error}\n")
    except KeyboardInterrupt:
        return 130
    summary = summarize(records[0], slo)
    sys.stdout.write(render(summary, lag, slo, stream.profile.duration))
    return 1 if summary.lost else 0


if __name__ == "__main__":
    sys.exit(main())
