"""Runs streams on a handler with ``start`` and ``step``: 1, 2, 4 ... at a time, each to its end.

Offers them to the shell, as the front end does, so the engine learns the seconds of starts and steps, and the
length of streams, as in production.
"""

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count, cycle
from math import inf
from typing import Final

from batching_watchdog import wire
from batching_watchdog.config import Config
from batching_watchdog.engine.effects import Answer, Piece
from batching_watchdog.engine.streams import Streams
from batching_watchdog.errors import Expired, TrialFailed
from batching_watchdog.messages import Reply, Request
from batching_watchdog.shell import Shell
from batching_watchdog.trial import report

STREAM_SECONDS: Final = 6.0
"""Time after which no further streams begin."""
POLL_SECONDS: Final = 0.05
HEAD: Final = wire.request_header_block(b"POST", b"/", [])


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


@dataclass(slots=True)
class Rounds:
    """Runs rounds of streams, one after the other."""

    handler: str
    shell: Shell
    streams: Streams
    config: Config
    bodies: Sequence[bytes]
    tell: Callable[[str, float], None]
    _ids: Iterator[int] = field(default_factory=lambda: count(-2, -1))
    """Below those of the front end's requests."""

    async def run(self) -> list[Streamed]:
        """Double the streams until there are more than the workers hold, or time is up.

        Return all, first the one that was alone. Raises ``TrialFailed`` for a stream that fails, or that
        takes longer than exec_timeout alone.
        """
        ends, size = time.monotonic() + STREAM_SECONDS, 2
        ended = await self._together(1, self.config.exec_timeout)
        while size <= self.config.max_inflight and time.monotonic() < ends:
            ended += await self._together(size, inf)
            if size > self.streams.steady().concurrency:
                break
            size *= 2
        return ended

    async def _together(self, size: int, seconds: float) -> list[Streamed]:
        """Run ``size`` streams to their ends, for at most ``seconds`` each."""
        began, ceiling = time.monotonic(), self.streams.step.ceiling
        streams = [Streamed(began) for _ in range(size)]
        for stream, body in zip(streams, cycle(self.bodies), strict=False):
            self.shell.offer(
                Request(
                    next(self._ids),
                    HEAD,
                    body,
                    arrived=began,
                    deadline=began + self.config.slo_latency,
                    expires=began + seconds,
                    client=stream,
                )
            )
        while any(stream.ended == inf for stream in streams):
            doing = f"serving {size} streams at a time" if size > 1 else "serving one stream"
            self.tell(doing, time.monotonic() - began)
            await asyncio.sleep(POLL_SECONDS)
        failed = next((stream.failed for stream in streams if stream.failed is not None), None)
        # Those that ran out of memory are no fault: fewer run from now on.
        if failed is not None and self.streams.step.ceiling == ceiling:
            raise self._failure(failed, size)
        return [stream for stream in streams if stream.failed is None]

    def _failure(self, failed: Answer, size: int) -> TrialFailed:
        outcome = failed.outcome
        if size > 1:
            return TrialFailed(
                f"{self.handler} fails on {size} streams at a time, not on one: its log has the reason\n"
                "next: see that start and step return one result for each event and state, in order"
            )
        if isinstance(outcome, Reply):
            return TrialFailed(
                report.rejection(self.handler, report.Answer(outcome.status, "", outcome.body))
            )
        if isinstance(outcome, Expired):
            return TrialFailed(
                f"{self.handler}: a stream of its example() does not end within exec_timeout "
                f"({report.duration(self.config.exec_timeout)})\n"
                "next: set exec_timeout to the longest answer, or see that step returns done=True at last"
            )
        return TrialFailed(f"{self.handler}: a stream of its example() failed: {outcome}")
