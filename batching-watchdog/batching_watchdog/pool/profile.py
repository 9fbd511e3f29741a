"""Measures the handler on workers that have loaded, before they serve, with the bodies of its example().

Owns which batches these are and for how long they are sent; what they cost is learned through ``shell``. It
decides nothing about requests, and ``supervisor`` decides which workers are measured.
"""

import asyncio
import time
from typing import Final

from batching_watchdog import wire
from batching_watchdog.config import Config
from batching_watchdog.engine import latency
from batching_watchdog.engine.latency import LatencyModel
from batching_watchdog.messages import Batch, DispatchReason, Request
from batching_watchdog.pool.connection import Connection
from batching_watchdog.shell import Shell

PROFILE_SECONDS: Final = 2.0
"""What measuring l(b) with example() may take before the first workers count as ready."""
PROFILE_RUNS: Final = latency.TRIES


class Profiler:
    """The workers that are being measured, all at once: under load they will run together too."""

    def __init__(self, config: Config, shell: Shell, model: LatencyModel) -> None:
        self._config = config
        self._shell = shell
        self._model = model
        self._running: dict[Connection, asyncio.Future[float]] = {}
        """Ends with the CPU time that the batch took."""

    def replied(self, connection: Connection, cpu_seconds: float) -> None:
        """A worker answered a batch of ours."""
        if not (done := self._running.pop(connection)).done():
            done.set_result(cpu_seconds)

    def closed(self, connection: Connection) -> None:
        """A worker died under a batch of ours."""
        if not (done := self._running.pop(connection)).done():
            done.set_exception(ConnectionResetError("the worker died"))

    async def measure(self, connection: Connection, example: bytes) -> None:
        """Measure l(b) on one worker, size by size. Raises ``ConnectionResetError`` if that kills it.

        Sizes double until one takes longer than the SLO, would hold more than may ever be queued, or two in a
        row have brought nothing.
        """
        ends = time.monotonic() + PROFILE_SECONDS
        config, size = self._config, 1
        largest = min(config.max_batch_size, config.max_queued_bytes // max(1, len(example)))
        while size <= largest and time.monotonic() < ends:
            try:
                seconds = await self._measure_size(connection, example, size)
            except ConnectionResetError as error:
                raise ConnectionResetError(f"at size {size}: {error}") from error
            if seconds > config.slo_latency or size >= 4 * self._model.best_size:
                return
            size *= 2

    async def _measure_size(self, connection: Connection, example: bytes, size: int) -> float:
        seconds = 0.0
        # The first run of a size allocates what later ones reuse: it is not representative.
        for run in range(PROFILE_RUNS + 1):
            done = self._running[connection] = asyncio.get_running_loop().create_future()
            started = time.monotonic()
            connection.send(profile_batch(example, size, started))
            cpu_seconds = await done
            seconds = time.monotonic() - started
            if run:
                self._shell.learn(size, seconds, cpu_seconds)
        return seconds


def profile_batch(example: bytes, size: int, now: float) -> Batch:
    """A batch of ``size`` example bodies, which no client waits for."""
    request = Request(-1, wire.request_header_block(b"POST", b"/", ()), example, now, now, now)
    return Batch((request,) * size, DispatchReason.PROFILE, now)
