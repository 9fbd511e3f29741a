"""Measures the handler on workers that have loaded, before they serve, with the bodies of its example().

Owns which batches these are and for how long they are sent; what they cost is learned through ``shell``. It
decides nothing about requests, and ``supervisor`` decides which workers are measured.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import Final

from batching_watchdog import wire
from batching_watchdog.config import Config
from batching_watchdog.engine import latency
from batching_watchdog.engine.latency import LatencyModel
from batching_watchdog.messages import Batch, DispatchReason, Reply, Request
from batching_watchdog.pool.connection import Connection
from batching_watchdog.shell import Shell

log = logging.getLogger(__name__)

PROFILE_SECONDS: Final = 2.0
"""What measuring l(b) with example() may take before the first workers count as ready: no batch is sent that
would probably last longer. Nothing is known of how long the first one of a size takes, so that may."""
PROFILE_RUNS: Final = latency.TRIES


class Profiler:
    """The workers that are being measured, all at once: under load they will run together too."""

    def __init__(
        self,
        config: Config,
        shell: Shell,
        model: LatencyModel,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config = config
        self._shell = shell
        self._model = model
        self._clock = clock
        self._running: dict[Connection, asyncio.Future[tuple[Sequence[Reply], float]]] = {}
        """Ends with the replies, and the CPU time that the batch took."""
        self._rejected = False
        """The handler does not serve the example, so what that takes says nothing."""
        self.split = False
        """Whether a batch failed and was run again in parts."""

    def replied(self, connection: Connection, replies: Sequence[Reply], cpu_seconds: float) -> None:
        """A worker answered a batch of ours."""
        if not (done := self._running.pop(connection)).done():
            done.set_result((replies, cpu_seconds))

    def closed(self, connection: Connection) -> None:
        """A worker died under a batch of ours."""
        if not (done := self._running.pop(connection)).done():
            done.set_exception(ConnectionResetError("the worker died"))

    async def measure(self, connection: Connection, example: bytes) -> None:
        """Measure l(b) on one worker, size by size. Raises ``ConnectionResetError`` if that kills it.

        Sizes double until one takes longer than the SLO, would hold more than may ever be queued, or two in a
        row have brought nothing; or until the handler rejects the example.
        """
        ends = self._clock() + PROFILE_SECONDS
        config, size, seconds = self._config, 1, 0.0
        largest = min(config.max_batch_size, config.max_queued_bytes // max(1, len(example)))
        while size <= largest and self._clock() + 2 * seconds < ends:
            try:
                seconds = await self._measure_size(connection, example, size, ends)
            except ConnectionResetError as error:
                raise ConnectionResetError(f"at size {size}: {error}") from error
            if self._rejected or seconds > config.slo_latency or size >= 4 * self._model.best_size:
                return
            size *= 2

    async def _measure_size(self, connection: Connection, example: bytes, size: int, ends: float) -> float:
        """Seconds of the last run."""
        seconds = 0.0
        # The first run of a size allocates what later ones reuse: it is not representative.
        for run in range(PROFILE_RUNS + 1):
            done = self._running[connection] = asyncio.get_running_loop().create_future()
            started = self._clock()
            connection.send(profile_batch(example, size, started))
            replies, cpu_seconds = await done
            seconds = self._clock() - started
            self.split |= not cpu_seconds
            rejected = next((reply for reply in replies if reply.failed or reply.status >= 400), None)
            if rejected is not None:
                self._reject(rejected)
            if self._rejected:
                break
            if run:
                self._shell.learn(size, seconds, cpu_seconds)
            if self._clock() + (seconds if run else 0.0) >= ends:
                break
        return seconds

    def _reject(self, reply: Reply) -> None:
        if not self._rejected:
            log.warning(
                "the handler answers example() with status %d: nothing is learned of it", reply.status
            )
        self._rejected = True


def profile_batch(example: bytes, size: int, now: float) -> Batch:
    """A batch of ``size`` example bodies, which no client waits for."""
    head = wire.request_header_block(b"POST", b"/", [(b"X-Call-Id", b"example()")])
    request = Request(-1, head, example, now, now, now)
    return Batch((request,) * size, DispatchReason.PROFILE, now)
