"""Offers requests to the shell, as the front end does, so the engine learns as in production.

A function that streams gets 1, 2, 4 ... streams at a time, each to its end; any other a mix of bodies.
"""

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count, cycle
from math import inf
from random import Random
from typing import Any, Final

from batching_watchdog.config import Config
from batching_watchdog.engine.effects import Answer, Piece
from batching_watchdog.engine.streams import Streams
from batching_watchdog.errors import TrialFailed
from batching_watchdog.front.weight import WeightFunction
from batching_watchdog.function import wire
from batching_watchdog.function.messages import Reply, Request
from batching_watchdog.shell import Shell
from batching_watchdog.trial.report import shown

MIX_SECONDS: Final = 4.0
"""Time for which several bodies are served."""
STREAM_SECONDS: Final = 6.0
"""Time after which no further streams begin."""
POLL_SECONDS: Final = 0.05
HEAD: Final = wire.request_header_block(b"POST", b"/", [])


@dataclass(frozen=True, slots=True)
class Offered:
    """Makes requests of bodies, and offers them."""

    shell: Shell
    config: Config
    weight: WeightFunction | None = None
    _ids: Iterator[int] = field(default_factory=lambda: count(-2, -1))
    """Below those of the front end's requests."""

    def offer(self, body: bytes, client: Any, seconds: float) -> None:
        """Offer a request for ``body``, which expires after ``seconds``; ``client`` gets its answer."""
        now = time.monotonic()
        bucket = len(body).bit_length() if self.weight is None else self.weight.bucket(HEAD, body)
        self.shell.offer(
            Request(
                next(self._ids),
                HEAD,
                body,
                arrived=now,
                deadline=now + self.config.slo_latency,
                expires=now + seconds,
                cost_class=(b"", b"POST /", bucket),
                client=client,
            )
        )


@dataclass(slots=True)
class Mix:
    """Offers bodies in random order, as many at a time as are answered within the SLO."""

    offered: Offered
    bodies: Sequence[bytes]
    _open: int = 0
    _wanted: int = 0
    """Requests to keep open."""
    _answered: int = 0
    """Answers since ``_wanted`` last changed."""
    _worst: float = 0.0
    """The longest latency of these, in seconds."""
    _draw: Random = field(default_factory=lambda: Random(0))  # noqa: S311 - the same mix in each trial

    async def serve(self) -> None:
        """Offer bodies for ``MIX_SECONDS``, and wait for the answers."""
        self._wanted = 2 * self.offered.config.workers
        self._fill()
        await asyncio.sleep(MIX_SECONDS)
        self._wanted = 0
        while self._open:  # noqa: ASYNC110 - the answers come to an object without a loop
            await asyncio.sleep(POLL_SECONDS)

    def _fill(self) -> None:
        for _ in range(self._wanted - self._open):
            self._open += 1
            self.offered.offer(self._draw.choice(self.bodies), self, self.offered.config.exec_timeout)

    def deliver(self, answer: Answer) -> None:
        """Count an answer; every so often adapt the number of open requests."""
        config = self.offered.config
        self._open -= 1
        self._answered += 1
        self._worst = max(self._worst, time.monotonic() - answer.request.arrived)
        if self._wanted and self._answered >= 2 * self._wanted:
            if self._worst < config.slo_latency / 2:
                self._wanted = min(2 * self._wanted, max(1, config.max_inflight // 2))
            elif self._worst > config.slo_latency:
                self._wanted = max(config.workers, self._wanted // 2)
            self._answered, self._worst = 0, 0.0
        asyncio.get_running_loop().call_soon(self._fill)


@dataclass(slots=True, eq=False)
class Streamed:
    """A stream, as its client sees it. Times are seconds on the monotonic clock."""

    began: float
    pieces: int = 0
    first_at: float = inf
    ended: float = inf
    failed: Answer | None = None

    def piece(self, piece: Piece) -> None:
        """Count a piece."""
        if piece.reply is not None and piece.reply.status >= 400:
            self.deliver(Answer(piece.request, piece.reply, piece.batch))
            return
        now = time.monotonic()
        if piece.reply is not None:
            self.pieces += 1
            self.first_at = min(self.first_at, now)
        if piece.last:
            self.ended = now

    def deliver(self, answer: Answer) -> None:
        """Note that the stream failed."""
        self.failed, self.ended = answer, time.monotonic()


@dataclass(frozen=True, slots=True)
class Rounds:
    """Runs rounds of streams, one after the other."""

    handler: str
    named: str
    """What the first body is, for messages."""
    offered: Offered
    streams: Streams
    bodies: Sequence[bytes]
    tell: Callable[[str], None]

    async def run(self) -> list[Streamed]:
        """Double the streams until there are more than the workers hold, or time is up.

        Return all, first the one that was alone. Raises ``TrialFailed`` for a stream that fails, or that
        takes longer than exec_timeout alone.
        """
        ends, size, config = time.monotonic() + STREAM_SECONDS, 2, self.offered.config
        ended = await self._together(1, config.exec_timeout)
        while size <= config.max_inflight and time.monotonic() < ends:
            ended += await self._together(size, inf)
            if size > self.streams.steady().concurrency:
                break
            size *= 2
        return ended

    async def _together(self, size: int, seconds: float) -> list[Streamed]:
        """Run ``size`` streams to their ends, for at most ``seconds`` each."""
        self.tell(f"serving {size} streams at a time")
        began, ceiling = time.monotonic(), self.streams.step.ceiling
        streams = [Streamed(began) for _ in range(size)]
        for stream, body in zip(streams, cycle(self.bodies), strict=False):
            self.offered.offer(body, stream, seconds)
        while any(stream.ended == inf for stream in streams):  # noqa: ASYNC110 - likewise
            await asyncio.sleep(POLL_SECONDS)
        failed = next((stream.failed for stream in streams if stream.failed is not None), None)
        # Those that ran out of memory are no fault: fewer run from now on.
        if failed is not None and self.streams.step.ceiling == ceiling:
            outcome = failed.outcome
            said = f"{outcome.status} {shown(outcome.body)}" if isinstance(outcome, Reply) else f"{outcome}"
            raise TrialFailed(
                f"{self.handler} fails on {self.named}, with {size} streams at a time: {said}. See that "
                "start and step return one result for each event and state, and done=True at last"
            )
        return [stream for stream in streams if stream.failed is None]
