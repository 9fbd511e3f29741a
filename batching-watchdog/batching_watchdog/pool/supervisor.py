"""The gunicorn child and the pool of its workers.

Owns the processes behind the queue: starts gunicorn, keeps one connection per worker, knows from the greeting
when a worker can serve, restarts gunicorn with back-off, stops it last. It decides nothing about requests:
``batcher`` is told which workers are idle, and which batch died with one.
"""

import asyncio
import logging
import math
import mmap
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from batching_watchdog import wire
from batching_watchdog.batcher import Batcher, profile_batch
from batching_watchdog.config import Config
from batching_watchdog.engine import latency
from batching_watchdog.engine.latency import LatencyModel
from batching_watchdog.errors import HandlerNotLoaded, StartFailed
from batching_watchdog.logs import line_maker
from batching_watchdog.messages import Batch, DispatchReason, Reply
from batching_watchdog.pool.child import Backoff, Tasks, relay, start_child
from batching_watchdog.pool.connection import Connection, connect

log = logging.getLogger(__name__)

MALLOC_TUNABLES: Final = (
    "glibc.malloc.mmap_threshold=268435456"
    ":glibc.malloc.trim_threshold=1073741824"
    ":glibc.malloc.top_pad=67108864"
)
"""Keep big tensors from being unmapped after every forward: two thirds more throughput on a vision model."""
THREAD_VARIABLES: Final = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
RECONNECT_SECONDS: Final = 0.05
"""Between tries to reach gunicorn's socket, while it starts."""
STOP_SECONDS: Final = 3.0
"""What gunicorn gets to stop in, once nothing is running any more."""
PROFILE_SECONDS: Final = 2.0
"""What measuring l(b) with example() may take before the first workers count as ready."""
PROFILE_RUNS: Final = latency.TRIES
JITTER: Final = 0.1
"""A worker serves up to this share more than max_requests, so that they are not replaced together."""


class WorkerPool:
    """Workers from the batcher's point of view: idle, busy, dead. Implements ``upstream.Events``."""

    def __init__(
        self, config: Config, environ: Mapping[str, str], batcher: Batcher, model: LatencyModel
    ) -> None:
        self._config = config
        self._environ = environ
        self._batcher = batcher
        self._model = model
        self._greeted: set[Connection] = set()
        self._left: dict[Connection, int] = {}
        """Requests that a worker still serves before it is replaced, with ``max_requests``."""
        self._replaces_old = True
        self._profiles = True
        """Workers measure the handler before they serve: until the first serves, or one died of it."""
        self._profiling: dict[Connection, asyncio.Future[float]] = {}
        """Ends with the CPU time that the batch took."""
        self._directory = Path(tempfile.mkdtemp(prefix="watchdog-"))
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = False
        self._came_up = False
        self.restarts = 0
        """Workers that died after they had loaded."""
        self.recycled = 0
        """Workers replaced after max_requests."""
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Ends with ``HandlerNotLoaded`` or ``StartFailed`` if no worker ever came up."""
        self._tasks = Tasks(self.failed)

    @property
    def ready(self) -> bool:
        """Whether a worker can serve now."""
        return bool(self._greeted)

    def by_state(self) -> dict[str, int]:
        """Number of workers starting, idle and busy."""
        idle = sum(connection.idle for connection in self._greeted)
        return {
            "starting": max(0, self._config.workers - len(self._greeted)),
            "idle": idle,
            "busy": len(self._greeted) - idle,
        }

    def resident_bytes(self) -> dict[int, int]:
        """Resident memory per slot, of the workers that have loaded; read from the kernel now."""
        sizes = {
            connection.greeting.slot: resident_bytes(connection.greeting.pid)
            for connection in self._greeted
            if connection.greeting is not None
        }
        return {slot: size for slot, size in sizes.items() if size is not None}

    def look(self) -> None:
        """Take in what busy workers have answered by now."""
        for connection in tuple(self._greeted):
            connection.look()

    def start(self) -> None:
        """Start gunicorn, and connect to its workers as they come up."""
        self._tasks.spawn(self._supervise(), "gunicorn")
        for number in range(self._config.workers):
            self._tasks.spawn(self._keep_connected(), f"worker-{number}")

    def drain(self) -> None:
        """Replace no worker for its age any more: loading again could outlast the drain."""
        self._replaces_old = False

    async def stop(self, *, at_once: bool = False) -> None:
        """Stop gunicorn: SIGTERM, then SIGKILL after ``STOP_SECONDS`` (or straight away)."""
        self._stopping = True
        process = self._process
        if process is not None and process.returncode is None:
            # The workers die with the arbiter, see launch.die_with_parent.
            process.send_signal(signal.SIGKILL if at_once else signal.SIGTERM)
            try:
                await asyncio.wait_for(process.wait(), STOP_SECONDS)
            except TimeoutError:
                log.warning("gunicorn did not stop within %g s and is killed", STOP_SECONDS)
                process.kill()
                await process.wait()
        await self._tasks.cancel()
        shutil.rmtree(self._directory, ignore_errors=True)

    def greeted(self, connection: Connection, greeting: wire.Greeting) -> None:
        """A worker has loaded the handler, or says why it could not."""
        if greeting.error is not None:
            if self._came_up:
                log.error("a worker could not load the handler again: %s", greeting.error)
            elif not self.failed.done():
                self.failed.set_exception(HandlerNotLoaded(greeting.error))
        elif greeting.example is not None and self._profiles:
            self._tasks.spawn(self._profile(connection, greeting.example), "profile")
        else:
            self._take_in(connection)

    def replied(self, connection: Connection, batch: Batch, replies: list[Reply], cpu_seconds: float) -> None:
        """A worker answered and is idle again."""
        if batch.reason is DispatchReason.PROFILE:
            if not (done := self._profiling.pop(connection)).done():
                done.set_result(cpu_seconds)
            return
        if self._is_old(connection, len(batch.requests)):
            self._recycle(connection)
        else:
            self._batcher.worker_idle(connection)
        self._batcher.replied(batch, replies, cpu_seconds)

    def closed(self, connection: Connection, batch: Batch | None) -> None:
        """A worker is gone. gunicorn starts another, and ``_keep_connected`` finds it."""
        self._left.pop(connection, None)
        if connection in self._greeted:
            self._greeted.discard(connection)
            self._batcher.worker_gone(connection)
            self.restarts += not self._stopping
        if batch is None:
            return
        if batch.reason is DispatchReason.PROFILE:
            if not (done := self._profiling.pop(connection)).done():
                done.set_exception(ConnectionResetError("the worker died"))
        else:
            self._batcher.died(batch)

    def _take_in(self, connection: Connection) -> None:
        if not self._came_up:
            log.info("the first worker has loaded the handler")
        self._came_up = True
        self._profiles = False
        self._greeted.add(connection)
        if self._config.max_requests:
            share = 1.0 + JITTER * random.random()  # noqa: S311 - nothing secret
            self._left[connection] = round(self._config.max_requests * share)
        self._batcher.worker_idle(connection)

    def _is_old(self, connection: Connection, served: int) -> bool:
        """Count ``served`` more requests of a worker: whether it is to be replaced now.

        It stays for up to twice as long while another one is away: a pool is best replaced one by one.
        """
        if connection not in self._left or not self._replaces_old:
            return False
        self._left[connection] -= served
        left = self._left[connection]
        alone = len(self._greeted) < self._config.workers
        return left <= (-self._config.max_requests if alone else 0)

    def _recycle(self, connection: Connection) -> None:
        """Replace a worker that has nothing to do: it leaves when its connection closes."""
        self.recycled += 1
        self._greeted.discard(connection)
        connection.close()

    async def _profile(self, connection: Connection, example: bytes) -> None:
        """Measure l(b) on a worker, size by size, before it serves; then let it serve.

        All workers that load before the first serves do so at once: what runs together under load is measured
        together, and none has still to warm up when requests come. Sizes double until one takes longer than
        the SLO, would hold more than may ever be queued, or two in a row have brought nothing.
        """
        ends = time.monotonic() + PROFILE_SECONDS
        head = wire.request_head(b"POST", b"/", ())
        config, size = self._config, 1
        largest = min(config.max_batch_size, config.max_queued_bytes // max(1, len(example)))
        try:
            while size <= largest and time.monotonic() < ends:
                seconds = await self._measure(connection, example, head, size)
                if seconds > config.slo_latency or size >= 4 * self._model.best_size:
                    break
                size *= 2
        except ConnectionResetError as error:
            log.warning("measuring the handler with example() ended at size %d: %s", size, error)
            self._profiles = False
            return
        self._take_in(connection)

    async def _measure(self, connection: Connection, example: bytes, head: bytes, size: int) -> float:
        seconds = 0.0
        # The first run of a size allocates what later ones reuse: it is not representative.
        for run in range(PROFILE_RUNS + 1):
            done = self._profiling[connection] = asyncio.get_running_loop().create_future()
            started = time.monotonic()
            connection.send(profile_batch(example, head, size, started))
            cpu_seconds = await done
            seconds = time.monotonic() - started
            if run:
                self._batcher.learn(size, seconds, cpu_seconds)
        return seconds

    async def _keep_connected(self) -> None:
        """One connection to whichever worker accepts it, for ever."""
        while not self._stopping:
            try:
                connection = await connect(str(self._socket), self)
            except OSError:  # gunicorn is starting, or starting again
                await asyncio.sleep(RECONNECT_SECONDS)
                continue
            try:
                await connection.gone.wait()
            finally:
                connection.close()

    async def _supervise(self) -> None:
        """Keep gunicorn running; give up only if no worker ever came up."""
        backoff = Backoff()
        while True:
            started = time.monotonic()
            status = await self._run_gunicorn()
            if self._stopping:
                return
            if not self._came_up:
                if not self.failed.done():
                    self.failed.set_exception(StartFailed(f"gunicorn {how_it_ended(status)} {self._doing}"))
                return
            wait = backoff.after(time.monotonic() - started)
            log.error("gunicorn %s; it is started again in %g s", how_it_ended(status), wait)
            await asyncio.sleep(wait)

    async def _run_gunicorn(self) -> int:
        self._process = process = await start_child(
            gunicorn_command(self._config, self._socket, self._directory),
            worker_environment(self._config, self._environ),
            pipes=self._config.prefix_logs,
            low_priority=self._config.low_priority,
        )
        if process.stdout is not None and process.stderr is not None:
            await asyncio.gather(
                relay(process.stdout, sys.stdout, line_maker(self._config.log_format, "stdout")),
                relay(process.stderr, sys.stderr, line_maker(self._config.log_format, "stderr")),
            )
        return await process.wait()

    @property
    def _doing(self) -> str:
        # Its socket is there once the handler has been preloaded.
        preloading = self._config.preload and not self._socket.exists()
        return "while it preloaded the handler" if preloading else "before a worker came up"

    @property
    def _socket(self) -> Path:
        return self._directory / "workers.sock"


def gunicorn_command(config: Config, socket: Path, directory: Path) -> list[str]:
    """The command that runs gunicorn with our worker class on a Unix socket."""
    # The heartbeat file is touched every second: memory is the place for it, a disk may stall.
    heartbeat = "/dev/shm" if os.access("/dev/shm", os.W_OK) else str(directory)  # noqa: S108 - gunicorn makes a safe file in it
    return [
        *(sys.executable, "-m", "batching_watchdog.worker.arbiter", str(os.getpid())),
        *("--bind", f"unix:{socket}"),
        *("--workers", str(config.workers)),
        *("--worker-class", "batching_watchdog.worker.serve.BatchWorker"),
        *("--worker-tmp-dir", heartbeat),
        *("--timeout", str(math.ceil(config.exec_timeout) + 1)),
        *("--graceful-timeout", str(math.ceil(STOP_SECONDS))),
        *("--log-level", "error"),
        "--no-control-socket",
        *(("--preload",) if config.preload else ()),
    ]


def worker_environment(config: Config, environ: Mapping[str, str]) -> dict[str, str]:
    """The workers' environment: ours, with thread counts and malloc set unless the user did."""
    environment = dict(environ)
    chosen = environ.get("worker_threads", "").strip() not in ("", "auto")
    for variable in THREAD_VARIABLES:
        if chosen or variable not in environ:
            environment[variable] = str(config.worker_threads)
    if config.preload:
        # A pool of threads would not survive the fork, so there is none before it: see worker.take_threads.
        environment["worker_threads"] = environment["OMP_NUM_THREADS"]
        environment.update(dict.fromkeys(THREAD_VARIABLES, "1"))
    if len(config.devices) > 1 and config.workers > 1:
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(config.devices)  # worker.take_devices splits it
    environment.setdefault("GLIBC_TUNABLES", MALLOC_TUNABLES)
    environment["function_path"] = config.function_path
    return environment


def how_it_ended(status: int) -> str:
    """What a child's exit status says, in words; asyncio has signals as negative ones."""
    if status >= 0:
        return f"ended with status {status}"
    try:
        return f"was killed by {signal.Signals(-status).name}"
    except ValueError:  # a real-time signal
        return f"was killed by signal {-status}"


def resident_bytes(pid: int, proc: Path = Path("/proc")) -> int | None:
    """Resident memory of a process; None if it has gone, or if there is no such file system."""
    try:
        return int((proc / str(pid) / "statm").read_text().split()[1]) * mmap.PAGESIZE
    except (OSError, IndexError, ValueError):
        return None
