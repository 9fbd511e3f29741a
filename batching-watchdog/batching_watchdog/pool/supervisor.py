"""Runs gunicorn as a child, and the pool of its workers.

Owns the processes behind the queue: starts gunicorn, keeps one connection per worker, learns from the
handshake when a worker can serve, replaces workers that leak memory, and stops gunicorn last. It makes no
decisions about requests: it tells ``shell`` which workers are idle, and which batch died with a worker.
"""

import asyncio
import logging
import math
import mmap
import os
import random
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from batching_watchdog.config import Config
from batching_watchdog.engine.latency import LatencyModel
from batching_watchdog.errors import HandlerNotLoaded, LoadTimedOut, StartFailed
from batching_watchdog.function import wire
from batching_watchdog.function.messages import Batch, Crash, DispatchReason, Failure, Iteration, Reply
from batching_watchdog.observe.logs import FailureLog
from batching_watchdog.pool.child import Backoff, Tasks
from batching_watchdog.pool.connection import Connection
from batching_watchdog.pool.gunicorn import Gunicorn
from batching_watchdog.pool.overdue import PERIOD, Kill, Overdue
from batching_watchdog.pool.profile import Profiler
from batching_watchdog.process.machine import oom_kills
from batching_watchdog.shell import Shell

log = logging.getLogger(__name__)

JITTER: Final = 0.1
"""Random extra share of max_requests that a worker serves, so that workers are not replaced together."""
SICK_SECONDS: Final = 60.0
"""Minimum time between two workers that are replaced without the evidence of example()."""


class WorkerPool:
    """The workers, reported to the shell as idle, busy or dead. Implements ``connection.Events``."""

    def __init__(
        self,
        config: Config,
        environ: Mapping[str, str],
        shell: Shell,
        model: LatencyModel,
        choose: Callable[[Sequence[bytes]], Sequence[bytes]] = lambda examples: examples,
    ) -> None:
        """``choose``: returns the bodies to measure, given those of the handler's example()."""
        self._choose = choose
        self._config = config
        self._shell = shell
        self._profiler = Profiler(config, shell.learn, model)
        self._failures = FailureLog(log)
        self._measures = True
        """Measures workers before they serve, until the first one serves or the measurement killed one."""
        self._overdue: Overdue[Connection] = Overdue(config)
        self._open: set[Connection] = set()
        """Workers that have loaded, those too that are measured."""
        self._loaded: set[Connection] = set()
        """Those of them that serve."""
        self._left: dict[Connection, int] = {}
        """Requests left for each worker before it is replaced, with ``max_requests``."""
        self._replaces_old = True
        self._workers = config.workers
        """Workers that there should be."""
        self._threads = config.worker_threads
        self._connecting = 0
        """Workers that there are, or that the pool connects to."""
        self._forks = False
        """Whether the newest worker was forked from a process that had loaded the handler."""
        self._stopping = False
        self._came_up = False
        self._away_since = time.monotonic()
        """Time since which no worker can serve; None if one can."""
        self._load_failed = False
        self._paused = False
        """Whether the workers' answers are not read for now."""
        self.restarts = 0
        """Number of workers that died after loading."""
        self.recycled = 0
        """Number of workers replaced after max_requests."""
        self.sick = 0
        """Number of workers replaced because they served nothing any more."""
        self._sick_at = -math.inf
        self.fails_example = False
        """Whether the newest worker that has loaded failed on its own example()."""
        self._example_backoff = Backoff()
        """Of workers that fail on example() before they serve."""
        self._oom_kills = oom_kills()
        self._tasks = Tasks()
        self.failed = self._tasks.failed
        """Ends with ``HandlerNotLoaded`` or ``StartFailed`` if no worker ever came up."""
        self._gunicorn = Gunicorn(config, environ, self._tasks)

    @property
    def not_ready(self) -> str:
        """Why no worker can serve now; empty if one can."""
        if self._loaded:
            return "every worker has been at its batch or step for too long" if self._overdue.all else ""
        if time.monotonic() - self._away_since > self._config.load_timeout:
            return f"no worker has loaded the handler within load_timeout ({self._config.load_timeout:g} s)"
        if self._load_failed:
            return "no worker could load the handler; the log has the reason"
        if self.fails_example:
            return "the handler fails on its own example(); the log has the reason"
        return "no worker has loaded the handler yet"

    def by_state(self) -> dict[str, int]:
        """Number of workers starting, idle and busy."""
        idle = sum(connection.idle for connection in self._loaded)
        return {
            "starting": max(0, self._workers - len(self._loaded)),
            "idle": idle,
            "busy": len(self._loaded) - idle,
        }

    @property
    def split(self) -> bool:
        """Whether the handler failed on a batch of examples, which was then run again in parts."""
        return self._profiler.split

    @property
    def handshakes(self) -> list[wire.Handshake]:
        """What the workers that can serve have said of themselves."""
        return [worker.handshake for worker in self._loaded if worker.handshake is not None]

    def resident_bytes(self) -> dict[int, int]:
        """Resident memory by index, of the workers that have loaded; read from the kernel now."""
        sizes = {handshake.index: resident_bytes(handshake.pid) for handshake in self.handshakes}
        return {index: size for index, size in sizes.items() if size is not None}

    def owns(self, pid: int) -> bool:
        """Return whether ``pid`` may be a child that this pool waits for."""
        return self._gunicorn.owns(pid)

    def poll_workers(self) -> None:
        """Read the available replies of busy workers."""
        for connection in tuple(self._loaded):
            connection.poll()

    def pause_answers(self, *, paused: bool) -> None:
        """Stop or resume reading the workers' answers."""
        self._paused = paused
        for connection in self._loaded:
            connection.pause(paused=paused)

    def start(self) -> None:
        """Start gunicorn, and connect to its workers as they start."""
        self._tasks.spawn(self._gunicorn.keep_running(self._lost), "gunicorn")
        self._tasks.spawn(self._end_overdue(), "overdue")
        self._connect_missing()

    def resize(self, workers: int, threads: int) -> int:
        """Change the workers, and the threads of each; return the workers that there will be.

        More are forked from the loaded handler. Surplus ones end after their batch. Workers that load for
        themselves stay as many as at the start: one more would take the time and the memory of a load().
        """
        workers = workers if self._forks else self._config.workers
        if threads != self._threads:
            self._threads = threads
            for connection in self._loaded:
                connection.set_threads(threads)
        if workers != self._workers:
            try:  # first, as gunicorn would replace a worker that leaves before
                self._gunicorn.set_workers(workers)
            except OSError as error:
                log.warning("workers: %d, not %d: %s", self._workers, workers, error)
                return self._workers
            log.info("workers: %d -> %d, as the CPU quota has changed", self._workers, workers)
            self._workers = workers
            self._connect_missing()
            for connection in [worker for worker in self._loaded if worker.idle]:
                if self._surplus:
                    self._shell.worker_gone(connection)
                    self._replace(connection)
        return workers

    def drain(self) -> None:
        """Stop replacing workers by age: loading again could outlast the drain."""
        self._replaces_old = False

    async def stop(self, *, at_once: bool = False) -> None:
        """Stop gunicorn and its workers."""
        self._stopping = True
        await self._gunicorn.stop(at_once=at_once)
        await self._tasks.cancel()
        self._gunicorn.remove_folder()

    def loaded(self, connection: Connection, handshake: wire.Handshake) -> None:
        """Handle a handshake: a worker has loaded the handler, or reports why it could not."""
        if handshake.error is not None:
            self._load_failed = True
            if not self._came_up:
                self._tasks.fail(HandlerNotLoaded(handshake.error, handshake.trace))
                return
            text = f"a worker could not load the handler again: {handshake.error}"
            log.error(Failure(text, handshake.trace) if handshake.trace else text)
            return
        self._open.add(connection)
        self._forks = handshake.forked
        if handshake.mix_paths:
            self._shell.mix_paths()
        examples = self._choose(handshake.examples)
        if handshake.streams:
            # It has measured its own example(), not what else was chosen.
            measured = (handshake.starts, handshake.steps) if examples == handshake.examples else ((), ())
            self._shell.stream(closed=handshake.closed, starts=measured[0], steps=measured[1])
            self._take_in(connection)
        elif examples and (self._measures or self.sick):
            self._tasks.spawn(self._measure(connection, examples), "profile")
        else:
            self._take_in(connection)

    def replied(self, connection: Connection, batch: Batch, replies: list[Reply], spent: wire.Spent) -> None:
        """Handle a worker's replies: it is idle again, or continues with its next batch."""
        if batch.reason is DispatchReason.PROFILE:
            self._profiler.replied(connection, replies, spent)
            return
        ready = self._stays(connection, len(batch.requests))
        self._shell.batch_done(connection, replies, spent, ready=ready)

    def crashed(self, connection: Connection, batch: Batch, crash: Crash) -> None:
        """Handle a batch that failed as a whole: the worker lives, and none of its requests is answered."""
        if batch.reason is not DispatchReason.RETRY:  # parts fail alike, and one request has its own line
            size = len(batch.requests)
            self._failures.error(Failure(f"handler error: a batch of {size} requests failed", crash.error))
        if batch.reason is DispatchReason.PROFILE:
            self._profiler.crashed(connection, batch, crash)
            return
        self._shell.batch_failed(connection, crash, ready=self._stays(connection, len(batch.requests)))

    def stepped(self, connection: Connection, iteration: Iteration) -> None:
        """Handle an iteration of a worker's streams; replace an old or surplus worker after its last one."""
        if not self._stays(connection, iteration.started):
            self._shell.worker_gone(connection)
        self._shell.stepped(connection, iteration)

    def suspected(self, connection: Connection) -> None:
        """Find out whether a worker whose last batches failed whole can still serve.

        With example() it is tried with that. Without, it is replaced if others serve, at a bounded rate:
        the requests may be the reason.
        """
        if connection.handshake is None:
            return  # it has just died
        if connection.handshake.examples:
            self._tasks.spawn(self._check(connection, connection.handshake.examples[0]), "check")
        elif len(self._loaded) > 1 and time.monotonic() - self._sick_at > SICK_SECONDS:
            self._replace_sick(connection, "its last batches failed whole")
        else:
            self._shell.worker_ready(connection, checked=True)

    def raised(self, connection: Connection, failure: Failure) -> None:
        """Log the function's exception, of which the client gets only the status; or a client's error."""
        if failure.client_error:
            log.info("%s", failure)
        else:
            self._failures.error(failure)

    def closed(self, connection: Connection, batch: Batch | None) -> None:
        """Handle a dead worker. gunicorn starts another, and ``_keep_connected`` connects to it."""
        self._left.pop(connection, None)
        self._open.discard(connection)
        if connection in self._loaded:
            self._discard(connection)
            self.restarts += not self._stopping
        before, self._oom_kills = self._oom_kills, oom_kills()
        out_of_memory = self._oom_kills > before
        if batch is not None and batch.reason is DispatchReason.PROFILE:
            self._profiler.closed(connection, batch, out_of_memory=out_of_memory)
        elif batch is not None:
            log.error(
                "a worker died under batch %d, of %d requests%s",
                batch.number,
                len(batch.requests),
                "; the kernel ended a process of this container for lack of memory" if out_of_memory else "",
            )
        elif connection.streams:
            log.error("a worker died under %d streams", len(connection.streams))
        self._shell.worker_lost(connection, out_of_memory=out_of_memory)

    def _take_in(self, connection: Connection) -> None:
        handshake = connection.handshake
        if not self._came_up and handshake is not None:
            self._shell.came_up()
            log.info(
                "the first worker has loaded the handler: import %.3f s, load() %.3f s%s",
                handshake.import_seconds,
                handshake.load_seconds,
                "" if handshake.mix_paths else "; mix_paths=False: each batch holds one path only",
            )
        self._came_up = True
        self._load_failed = False
        self._measures = False
        self._loaded.add(connection)
        if self._paused:
            connection.pause(paused=True)
        if self._surplus:  # its number has been lowered while it loaded
            self._replace(connection)
            return
        if self._threads != self._config.worker_threads:
            connection.set_threads(self._threads)
        if self._config.max_requests:
            share = 1.0 + JITTER * random.random()  # noqa: S311 - nothing secret
            self._left[connection] = round(self._config.max_requests * share)
        self._shell.worker_ready(connection)

    def _stays(self, connection: Connection, served: int) -> bool:
        """Count ``served`` requests of a worker; return whether it may get more. Else end it once it is idle.

        An old one stays for up to twice as long while another is being replaced, so that they go one by one.
        """
        old = False
        if connection in self._left and self._replaces_old:
            self._left[connection] -= served
            alone = len(self._loaded) < self._workers
            old = self._left[connection] <= (-self._config.max_requests if alone else 0)
        if not (old or self._surplus):
            return True
        if connection.idle:  # else it has another batch or streams, and goes after them
            self.recycled += old and not self._surplus
            self._replace(connection)
        return False

    @property
    def _surplus(self) -> bool:
        """Whether more workers serve than there should be."""
        return len(self._loaded) > self._workers

    async def _check(self, connection: Connection, example: bytes) -> None:
        if connection.handshake is None:
            return  # it has died meanwhile
        if await self._profiler.serves(connection, example):
            self._shell.worker_ready(connection, checked=True)
        elif connection in self._loaded:
            self._replace_sick(connection, "it fails on example() too")

    def _replace_sick(self, connection: Connection, reason: str) -> None:
        log.error("a worker is replaced: %s", reason)
        self.sick += 1
        self._sick_at = time.monotonic()
        self._replace(connection)

    def _replace(self, connection: Connection) -> None:
        """Replace an idle worker: it exits when its connection closes."""
        self._discard(connection)
        connection.close()

    def _discard(self, connection: Connection) -> None:
        self._loaded.discard(connection)
        self._away_since = time.monotonic()

    async def _measure(self, connection: Connection, examples: Sequence[bytes]) -> None:
        """Measure the handler on a worker, then let it serve; replace one that fails on the example.

        All workers that load before the first one serves are measured at the same time, so that all have
        warmed up when requests arrive. Later ones are tried once a sick one was replaced.
        """
        try:
            self.fails_example = not await self._profiler.serves(connection, examples[0])
            if self._stopping:
                return
            if self.fails_example:
                wait = self._example_backoff.after(0.0)
                log.error(
                    "a worker fails on the body that it is measured with: it gets no requests, and another "
                    "takes its place in %g s",
                    wait,
                )
                await asyncio.sleep(wait)
                connection.close()
                return
            self._example_backoff = Backoff()
            if self._measures:
                await self._profiler.measure(connection, examples)
        except ConnectionResetError as error:
            log.warning("measuring the handler with example() ended %s", error)
            self._measures = False
        else:
            self._take_in(connection)

    async def _end_overdue(self) -> None:
        """End the workers that take too long; gunicorn starts others."""
        while True:
            works = {connection: connection.work for connection in self._open}
            now, queued = time.monotonic(), self._shell.queued > 0
            # While answers are not read, a worker waits for slow clients: that is no time of its own.
            if not self._paused:
                for kill in self._overdue.look(works, self._loaded, now, queued=queued):
                    self._kill(kill)
                for worker in self._overdue.workers:
                    self._shell.worker_overdue(worker)
            await asyncio.sleep(PERIOD)

    def _kill(self, kill: Kill[Connection]) -> None:
        """End a worker by SIGABRT, at which it writes its stack; one that does not end, by SIGKILL."""
        handshake = kill.worker.handshake
        if handshake is None:  # it has just died
            return
        log.error(
            "worker %d is ended%s: it has been at its batch or step for %.1f s; its limit is %g s (%s)",
            handshake.pid,
            " by SIGKILL" if kill.at_once else "",
            kill.seconds,
            kill.limit,
            kill.setting,
        )
        with suppress(ProcessLookupError):
            os.kill(handshake.pid, signal.SIGKILL if kill.at_once else signal.SIGABRT)

    def _connect_missing(self) -> None:
        for _ in range(self._workers - self._connecting):
            self._connecting += 1
            self._tasks.spawn(self._keep_connected(), "worker")

    async def _keep_connected(self) -> None:
        """Keep one connection open to any worker that accepts it, until cancelled or surplus."""
        while not self._stopping and self._connecting <= self._workers:
            connection = await self._gunicorn.connect(self)
            if connection is None:
                continue
            try:
                await connection.gone.wait()
            finally:
                connection.close()
        self._connecting -= 1

    def _lost(self, error: LoadTimedOut | StartFailed) -> None:
        """Handle the end of gunicorn, which is started again. Raises ``error`` if no worker ever loaded."""
        self._load_failed |= isinstance(error, LoadTimedOut)
        if not self._came_up:
            raise error
        if isinstance(error, LoadTimedOut):
            log.error(Failure(str(error), error.trace))


def resident_bytes(pid: int, proc: Path = Path("/proc")) -> int | None:
    """Return the resident bytes of a process; None if it has ended, or without a proc file system."""
    try:
        return int((proc / str(pid) / "statm").read_text().split()[1]) * mmap.PAGESIZE
    except (OSError, IndexError, ValueError):
        return None
