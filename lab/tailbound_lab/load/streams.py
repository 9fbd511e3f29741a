"""Offers open-loop streams for ``bench``: requests whose answers come piece by piece, each with a due time.

Piece k is due at the request's arrival + the target of the first piece + k intervals. A stream is good if it
is whole and none of its pieces was late. A ``}`` ends each piece, in whatever format, and the name of a part
is the number of its pieces. Each stream has a connection of its own.
"""

import asyncio
import contextlib
import gc
import math
import os
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import uvloop

from tailbound_lab.load.generator import Endpoint, Part
from tailbound_lab.load.records import (
    BROKEN,
    NO_CONNECTION,
    TIMED_OUT,
    UNANSWERED,
    Load,
    Run,
    quantiles,
)

LOOK_SECONDS: Final = 0.1
"""Time between two looks at what has ended."""


class Client(asyncio.Protocol):
    """One stream. Times are of the event loop's clock."""

    def __init__(self, part: Part, port: int, arrival: float, due: float, interval: float) -> None:
        """``due`` is when the first piece is due."""
        self._message, self._port, self._pieces = part.message(port), port, int(part.name)
        self.arrival, self._due, self._interval = arrival, due, interval
        self._clock = asyncio.get_running_loop().time
        self._transport: asyncio.Transport | None = None
        self._got = 0
        self._late = self._connected = False
        self.ended = False
        self.status = TIMED_OUT
        self.first = self.lag = math.inf
        """Seconds from its arrival to the first piece, and to the request."""

    @property
    def whole(self) -> bool:
        """Whether all of its pieces have come."""
        return self._got == self._pieces

    def missed(self, now: float) -> bool:
        """Return whether it cannot be good any more."""
        if self.whole:
            return self._late
        return self._late or self.ended or now > self._due + self._got * self._interval

    async def offer(self, host: str) -> None:
        """Send the request when it is due."""
        loop = asyncio.get_running_loop()
        await asyncio.sleep(self.arrival - loop.time())
        try:
            self._transport, _ = await loop.create_connection(lambda: self, host, self._port)
        except OSError:
            self.ended, self.status = True, NO_CONNECTION
            return
        self.lag = loop.time() - self.arrival
        self._transport.write(self._message)

    def leave(self) -> None:
        """Close the connection."""
        if self._transport is not None:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        """Judge the pieces that have come together by the due time of the first of them."""
        now = self._clock()
        if not self._connected:
            self._connected, self.status = True, int(data[9:12])
        if pieces := data.count(b"}"):
            self.first = min(self.first, now - self.arrival)
            self._late |= now > self._due + self._got * self._interval
            self._got += pieces

    def connection_lost(self, exc: Exception | None) -> None:
        """Note the end; one that comes early is an error."""
        self.ended = True
        if self.status == TIMED_OUT or (self.status == 200 and not self.whole):
            self.status = BROKEN


@dataclass(frozen=True, slots=True)
class StreamGenerator:
    """Offers streams whose pieces follow each other within ``interval`` seconds."""

    interval: float
    patience: float = 0.0
    """Seconds to wait for streams that are late already; 0: their clients leave when none can be good."""

    def run(self, endpoint: Endpoint, load: Load) -> Run:
        """Offer a load. Raises ``Lagged`` if the generator took over a tenth of the first piece's target."""
        with _before_all_others(), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(self._offer(endpoint, load)).in_time(load.slo)

    async def _offer(self, endpoint: Endpoint, load: Load) -> Run:
        arriving = list(arrivals(endpoint.parts, load.rate, load.seconds, load.seed))
        clock = asyncio.get_running_loop().time
        begin = now = clock()
        clients = [
            Client(part, endpoint.port, begin + after, begin + after + load.slo, self.interval)
            for after, part in arriving
        ]
        tasks = [asyncio.create_task(client.offer(endpoint.host)) for client in clients]
        longest = max(int(part.name) for part in endpoint.parts) * self.interval
        ends = begin + load.seconds + load.slo + longest + self.patience
        allowed = load.stop_share * len(clients)
        while now < ends and (missed := sum(client.missed(now) for client in clients)) <= allowed:
            if not any(not client.ended and (self.patience or not client.missed(now)) for client in clients):
                break
            await asyncio.sleep(LOOK_SECONDS)
            now = clock()
        begun = [client for client in clients if client.arrival <= now]
        run = evaluate(begun, now, load, stopped=missed > allowed)
        for task, client in zip(tasks, clients, strict=True):
            task.cancel()
            client.leave()
        await asyncio.gather(*tasks, return_exceptions=True)
        return run


@contextlib.contextmanager
def _before_all_others() -> Iterator[None]:
    """Let this thread have the processor before the servers if it may, as if it had a machine of its own."""
    usual = os.getpriority(os.PRIO_PROCESS, 0)
    with contextlib.suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, usual - 10)
    gc.freeze()  # a collection would delay the pieces of all streams
    try:
        yield
    finally:
        os.setpriority(os.PRIO_PROCESS, 0, usual)


def arrivals(parts: Sequence[Part], rate: float, seconds: float, seed: int) -> Iterator[tuple[float, Part]]:
    """Yield Poisson arrivals in seconds from the begin, each with a part of the mix."""
    draw, weights, after = random.Random(seed), [part.weight for part in parts], 0.0
    while (after := after + draw.expovariate(rate)) < seconds:
        yield after, draw.choices(parts, weights)[0]


def evaluate(clients: Sequence[Client], now: float, load: Load, *, stopped: bool) -> Run:
    """Return what became of streams until now. Latencies are those of first pieces."""
    statuses = Counter(client.status for client in clients)
    return Run(
        load,
        sent=len(clients),
        ok=sum(client.whole for client in clients),
        good=sum(client.whole and not client.missed(now) for client in clients),
        stopped_early=stopped,
        statuses={UNANSWERED.get(status, str(status)): count for status, count in statuses.items()},
        latency_ms=quantiles(np.sort([client.first for client in clients])),
        lag_ms=quantiles(np.sort([client.lag for client in clients])),
    )
