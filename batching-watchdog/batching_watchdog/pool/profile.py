"""Measures the handler on loaded workers before they serve, with the bodies of its example().

Owns the batches and the time limit; ``shell`` learns their cost. It makes no decisions about requests;
``supervisor`` chooses the workers.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import cycle, islice
from typing import Final

from batching_watchdog.config import Config
from batching_watchdog.engine.effects import Worker
from batching_watchdog.engine.latency import LatencyModel
from batching_watchdog.engine.tuning import TUNING
from batching_watchdog.function import wire
from batching_watchdog.function.messages import Batch, Crash, DispatchReason, Reply, Request

log = logging.getLogger(__name__)

PROFILE_SECONDS: Final = 2.0
"""Time limit of measuring l(b) with example() before the first workers count as ready, in seconds. No batch
is sent that would probably exceed it, except the first one of a size, whose time is unknown."""
PROFILE_RUNS: Final = TUNING.tries


class Profiler:
    """Measures several workers at the same time, as they run together under load."""

    def __init__(
        self,
        config: Config,
        learn: Callable[[int, wire.Spent], None],
        model: LatencyModel,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``learn`` takes the size of a batch, and what it took."""
        self._config = config
        self._learn = learn
        self._model = model
        self._clock = clock
        self._running: dict[Worker, asyncio.Future[tuple[Sequence[Reply], wire.Spent]]] = {}
        """Resolves with the replies and what the batch took; without replies it failed as a whole."""
        self._answers = 0
        """Bytes of the answers to the last batch."""
        self._rejected = False
        """Whether the handler rejects the example, so that its time is meaningless."""
        self.split = False
        """Whether a batch failed as a whole."""

    def replied(self, worker: Worker, replies: Sequence[Reply], spent: wire.Spent) -> None:
        """Take a worker's replies to a measured batch; none if it failed as a whole."""
        if not (done := self._running.pop(worker)).done():
            done.set_result((replies, spent))

    def crashed(self, worker: Worker, batch: Batch, crash: Crash) -> None:
        """Take the failure of a measured batch as a whole."""
        if crash.out_of_memory:
            self._out_of_memory(len(batch.requests))
        else:
            self.split = True
        self.replied(worker, (), wire.Spent())

    async def serves(self, worker: Worker, example: bytes) -> bool:
        """Return whether the handler serves the example on ``worker``; False if that dies."""
        try:
            replies, _ = await self._run(worker, [example])
        except ConnectionResetError:
            return False
        return not replies[0].failed

    async def _run(self, worker: Worker, bodies: Sequence[bytes]) -> tuple[Sequence[Reply], wire.Spent]:
        done: asyncio.Future[tuple[Sequence[Reply], wire.Spent]] = asyncio.get_running_loop().create_future()
        self._running[worker] = done
        worker.send(profile_batch(bodies, self._clock()))
        return await done

    def closed(self, worker: Worker, batch: Batch, *, out_of_memory: bool = False) -> None:
        """Handle the death of a worker under a measured batch."""
        if out_of_memory and len(batch.requests) > 1:
            self._out_of_memory(len(batch.requests))
        if not (done := self._running.pop(worker)).done():
            done.set_exception(ConnectionResetError("the worker died"))

    async def measure(self, worker: Worker, examples: Sequence[bytes]) -> None:
        """Measure l(b) on one worker, size by size. Raises ``ConnectionResetError`` if it dies.

        Successive requests have successive ``examples``, so batches are mixed as these are.
        Sizes double until one takes longer than the SLO or exceeds the bytes of a batch, until two in a row
        did not improve the throughput, or until the handler rejects the example.
        """
        ends = self._clock() + PROFILE_SECONDS
        config, size, seconds = self._config, 1, 0.0
        bodies = cycle(examples)
        largest = min(config.max_batch_size, config.max_batch_bytes // max(1, *map(len, examples)))
        while size <= min(largest, self._model.ceiling) and self._clock() + 2 * seconds < ends:
            try:
                seconds = await self._measure_size(worker, bodies, size, ends)
            except ConnectionResetError as error:
                raise ConnectionResetError(f"at size {size}: {error}") from error
            if (
                self._rejected
                or self.split
                or 2 * self._answers > config.max_batch_bytes
                or seconds > config.slo_latency
                or size >= 4 * self._model.best_size
            ):
                return
            size *= 2

    async def _measure_size(self, worker: Worker, bodies: Iterator[bytes], size: int, ends: float) -> float:
        """Seconds of the last run."""
        seconds = 0.0
        # The first run of a size allocates memory that later ones reuse, so it is not representative.
        for run in range(PROFILE_RUNS + 1):
            started = self._clock()
            replies, spent = await self._run(worker, list(islice(bodies, size)))
            if not replies:
                return seconds
            seconds = spent.seconds or self._clock() - started
            self._answers = sum(len(reply.body) for reply in replies)
            rejected = next((reply for reply in replies if reply.failed or reply.status >= 400), None)
            if rejected is not None:
                self._reject(rejected)
            if self._rejected:
                break
            if run:
                self._learn(size, spent._replace(seconds=seconds))
            if self._clock() + (seconds if run else 0.0) >= ends:
                break
        return seconds

    def _out_of_memory(self, size: int) -> None:
        ceiling = self._model.out_of_memory(size)
        log.warning("%d examples ran out of memory: batches have at most %d requests now", size, ceiling)

    def _reject(self, reply: Reply) -> None:
        if not self._rejected:
            log.warning("the handler answers example() with status %d: its time is not learned", reply.status)
        self._rejected = True


def profile_batch(bodies: Sequence[bytes], now: float) -> Batch:
    """Return a batch of requests with these example bodies, for which no client waits."""
    head = wire.request_header_block(b"POST", b"/", [(b"X-Call-Id", b"example()")])
    requests = tuple(Request(-1, head, body, now, now, now) for body in bodies)
    return Batch(requests, DispatchReason.PROFILE, now)
