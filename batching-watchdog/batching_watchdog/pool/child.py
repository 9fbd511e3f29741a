"""Runs a child process and background tasks.

Owns the child's start, output and restarts, its stop together with its descendants, and the detection of
failed background tasks. It does not know the command: ``supervisor`` runs gunicorn.
"""

import asyncio
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from typing import Final, TextIO

from batching_watchdog.config import KEPT_BYTES, Config
from batching_watchdog.observe.logs import lines_maker
from batching_watchdog.process.launch import how_it_ended
from batching_watchdog.process.machine import THREAD_VARIABLES

log = logging.getLogger(__name__)

NICENESS: Final = 5
"""Of workers, beyond ours: a third of our weight on a busy CPU."""
BACKOFF_SECONDS: Final = (0.5, 1.0, 2.0, 5.0, 10.0)
"""Seconds before each restart of a child; the first again after a life of ``STABLE_SECONDS``."""
STABLE_SECONDS: Final = 30.0
RECONNECT_SECONDS: Final = 0.05
"""Seconds between tries to connect to a starting child."""
STOP_SECONDS: Final = 3.0
"""Seconds that an idle child has to stop."""
FLUSH_SECONDS: Final = 0.5
"""Seconds to read the rest of a child's output; a process that left its group can keep the pipe open."""
MAX_LOG_LINE: Final = 1 << 16
BLOCK_BYTES: Final = 1 << 15
"""Output that is copied before the loop continues."""
RELAYED_BYTES: Final = 1 << 22
"""Output of a stream that is copied in a second, some 20,000 lines. More is dropped, since a full pipe would
stop the worker that prints."""
PREFIX_BYTES: Final = 128
"""Cost of a line beside its length."""
MALLOC_TUNABLES: Final = (
    "glibc.malloc.mmap_threshold=268435456"
    ":glibc.malloc.trim_threshold=1073741824"
    ":glibc.malloc.top_pad=67108864"
)
"""Keep big tensors from being unmapped after every forward: two thirds more throughput on a vision model."""


class Backoff:
    """Computes the wait before the next start, longer after every short life."""

    def __init__(self) -> None:
        self._failures = 0

    def after(self, lived: float) -> float:
        """Return the seconds to wait after a child that ran for ``lived`` seconds."""
        self._failures = 1 if lived > STABLE_SECONDS else self._failures + 1
        return BACKOFF_SECONDS[min(self._failures, len(BACKOFF_SECONDS)) - 1]


class Tasks:
    """Named background tasks; the first error becomes the exception of ``failed``."""

    def __init__(self) -> None:
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._running: set[asyncio.Task[None]] = set()

    def spawn(self, coroutine: Coroutine[None, None, None], name: str) -> asyncio.Task[None]:
        """Run ``coroutine`` beside the caller."""
        task = asyncio.get_running_loop().create_task(coroutine, name=name)
        self._running.add(task)
        task.add_done_callback(self._ended)
        return task

    def fail(self, error: Exception) -> None:
        """Set ``error`` on ``failed``, unless it has one."""
        if not self.failed.done():
            self.failed.set_exception(error)

    async def cancel(self) -> None:
        """Cancel all of them and wait for their end."""
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        error = None if task.cancelled() else task.exception()
        if isinstance(error, Exception):
            self.fail(error)


class Child:
    """A command that is restarted whenever it ends, until it is stopped."""

    def __init__(
        self, name: str, command: Sequence[str], config: Config, environ: Mapping[str, str], tasks: Tasks
    ) -> None:
        """``name`` identifies the child in the log."""
        self._name = name
        self._command = command
        self._config = config
        self.environment = worker_environment(config, environ)
        """Environment of the next start."""
        self._tasks = tasks
        self._process: asyncio.subprocess.Process | None = None
        self._starting = False
        self._stopping = False

    async def keep_running(self, ended: Callable[[str], None]) -> None:
        """Run the command until it is stopped; pass the text of each end to ``ended``, which may raise."""
        backoff = Backoff()
        while True:
            started = time.monotonic()
            how = how_it_ended(await self._run())
            if self._stopping:
                return
            ended(how)
            wait = backoff.after(time.monotonic() - started)
            log.error("%s %s; it is started again in %g s", self._name, how, wait)
            await asyncio.sleep(wait)

    async def stop(self, *, at_once: bool) -> None:
        """Send SIGTERM, then SIGKILL to its group after ``STOP_SECONDS`` (or at once)."""
        self._stopping = True
        process = self._process
        if process is None or process.returncode is not None:
            return
        if at_once:
            self.kill()
        else:
            with suppress(ProcessLookupError):
                process.terminate()
        try:
            await asyncio.wait_for(process.wait(), STOP_SECONDS)
        except TimeoutError:
            log.warning("%s did not stop within %g s and is killed", self._name, STOP_SECONDS)
            self.kill()
            await process.wait()

    def wake(self) -> None:
        """Have gunicorn look at the number of workers now, not within a second. Safe while it starts."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGWINCH)

    @property
    def pid(self) -> int:
        """Process id of its last start; 0 before the first."""
        return 0 if self._process is None else self._process.pid

    def owns(self, pid: int) -> bool:
        """Return whether ``pid`` may be the command, whose exit status is read here."""
        process = self._process
        return self._starting or (process is not None and process.returncode is None and process.pid == pid)

    def kill(self) -> None:
        """Kill the command and its descendants; unless it was stopped, it is started again."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    async def _run(self) -> int:
        """Run the command once; return its exit status, negative if a signal ended it.

        It gets its own session: Ctrl-C in a terminal reaches the whole foreground group, but workers must
        stop last. Its remaining descendants can be killed as a group.
        """
        config = self._config
        output = asyncio.subprocess.PIPE if config.prefix_logs else None
        self._starting = True
        try:
            process = self._process = await asyncio.create_subprocess_exec(
                *self._command,
                env=self.environment,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                limit=MAX_LOG_LINE,
                start_new_session=True,
            )
        finally:
            self._starting = False
        if self._stopping:
            self.kill()  # a stop during the start had no process to kill
        # Else the front end waits for a model's turn whenever it wakes to read a request. Not SCHED_IDLE: the
        # kernel then gives this container's share of a CPU to its neighbors.
        with suppress(OSError):  # it has ended already
            own = os.getpriority(os.PRIO_PROCESS, 0)
            os.setpriority(os.PRIO_PROCESS, process.pid, own + NICENESS)
        relays = [
            self._tasks.spawn(relay(source, sink, lines_maker(config.log_format, stream)), stream)
            for source, sink, stream in (
                (process.stdout, sys.stdout, "stdout"),
                (process.stderr, sys.stderr, "stderr"),
            )
            if source is not None
        ]
        try:
            return await process.wait()
        finally:
            self.kill()  # descendants that outlive it would hold its port
            if relays:
                await asyncio.wait(relays, timeout=FLUSH_SECONDS)


def reap_orphans(owns: Callable[[int], bool]) -> None:
    """Reap processes whose parent has ended: the first process of a container inherits them as zombies.

    ``owns(pid)``: whether it is a child of our own. Its status is left to its waiter, and orphans that ended
    after it wait for the next call.
    """
    with suppress(ChildProcessError):
        while ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            if owns(ended.si_pid):
                return
            os.waitpid(ended.si_pid, os.WNOHANG)


async def relay(
    source: asyncio.StreamReader,
    sink: TextIO,
    form: Callable[[Sequence[str]], str],
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Copy a child's output in blocks of lines, formatted by ``form``. Overlong lines are cut.

    Lines beyond ``RELAYED_BYTES`` in a second are dropped, and counted in the log.
    """
    rest, since, used, dropped = b"", clock(), 0, 0
    while True:
        block = await source.read(BLOCK_BYTES)
        *lines, rest = (rest + block).split(b"\n")
        if len(rest) > MAX_LOG_LINE or (rest and not block):
            lines, rest = [*lines, rest[:MAX_LOG_LINE]], rest[MAX_LOG_LINE:]
        now = clock()
        if dropped and (now >= since + 1.0 or not block):
            log.warning("%d lines that the workers printed were dropped: too many in a second", dropped)
            dropped = 0
        if now >= since + 1.0:
            since, used = now, 0
        used += len(block) + PREFIX_BYTES * len(lines)
        if used > RELAYED_BYTES:
            dropped += len(lines)
        elif lines:
            sink.write(form([line.decode(errors="replace").rstrip("\r") for line in lines]))
            sink.flush()
        if not block:
            return
        await asyncio.sleep(0)


def worker_environment(config: Config, environ: Mapping[str, str]) -> dict[str, str]:
    """Return the workers' environment: ours, with thread counts and malloc set unless the user set them."""
    environment = dict(environ)
    chosen = environ.get("worker_threads", "").strip() not in ("", "auto")
    for variable in THREAD_VARIABLES:
        if chosen or variable not in environ:
            environment[variable] = str(config.worker_threads)
    if len(config.devices) > 1 and config.workers > 1:
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(config.devices)  # devices.take_devices splits it
    if config.kept_bytes == KEPT_BYTES:  # there is memory enough
        environment.setdefault("GLIBC_TUNABLES", MALLOC_TUNABLES)
    environment["function_path"] = config.function_path
    environment["preload"] = config.preload
    environment["load_timeout"] = str(config.load_timeout)
    environment["max_streams"] = str(config.max_streams)
    environment["slo_interval"] = str(config.slo_interval)
    return environment
