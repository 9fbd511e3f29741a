"""The upstream that serves batches over HTTP, and the pool of slots towards it.

In place of ``workers`` when ``upstream_url`` is set. Owns the child process ``fprocess``, if there is one
(start, restart with back-off, kill when it hangs, stop last), knows by probing whether the upstream can be
reached, and offers ``workers`` slots to the batcher while it can. It decides nothing about requests,
but for this: after a connection broke, what is tried again goes out alone, since the other batches may have
died with the same process through no fault of theirs.
"""

import asyncio
import contextlib
import logging
import os
import shlex
import shutil
import signal
import sys
import time
from collections.abc import Mapping
from typing import Final

from batching_watchdog.batcher import Batcher
from batching_watchdog.config import Config, HttpUrl
from batching_watchdog.errors import StartFailed, UpstreamFailed
from batching_watchdog.logs import line_maker
from batching_watchdog.messages import Batch, DispatchReason, Reply
from batching_watchdog.pool.child import Backoff, Tasks, relay, start_child
from batching_watchdog.pool.http_upstream import FORMATS, PROBE_SECONDS, Failure, Slot, probe
from batching_watchdog.pool.supervisor import (
    RECONNECT_SECONDS,
    STOP_SECONDS,
    worker_environment,
)

log = logging.getLogger(__name__)

READY_SECONDS: Final = 1.0
"""Between two looks at an upstream that can be reached."""
SETTLE_SECONDS: Final = 0.25
"""After a connection broke: a dying server may still accept connections for a moment, and what is tried
again there would be lost a second time through no fault of its own."""


class HttpWorkerPool:
    """Slots as the batcher sees them: idle, busy, out of reach. Implements ``http_upstream.Events``."""

    def __init__(self, config: Config, url: HttpUrl, environ: Mapping[str, str], batcher: Batcher) -> None:
        self._config = config
        self._url = url
        self._environ = environ
        self._batcher = batcher
        batch_format = FORMATS[config.upstream_format]
        self._slots = [Slot(url, batch_format, config.exec_timeout, self) for _ in range(config.workers)]
        self._offered: set[Slot] = set()
        """Slots that the batcher may use or is using; the others are parked here."""
        self._up = asyncio.Event()
        self._down = asyncio.Event()
        self._down.set()
        self._known_down = True
        """Whether it is out of reach and the log says so; else it may be in doubt only."""
        self._settled_at = 0.0
        self._answers = False
        self._came_up = False
        self._alone_since: float | None = None
        """When a connection broke: until the retries are through, one slot only is offered."""
        self._last_reply = 0.0
        self._started = 0.0
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = False
        self.restarts = 0
        self.recycled = 0
        """Always 0: the upstream's processes are its own."""
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Ends with ``StartFailed`` if ``fprocess`` cannot be started, or ends before it ever answered."""
        self._tasks = Tasks(self.failed)

    @property
    def ready(self) -> bool:
        """Whether the upstream accepts connections and, with ``ready_path``, says that it is ready."""
        return self._up.is_set() and self._answers

    def by_state(self) -> dict[str, int]:
        """Number of slots whose upstream is out of reach, idle and busy."""
        busy = sum(slot.busy for slot in self._slots)
        free = len(self._slots) - busy
        return {
            "starting": 0 if self._up.is_set() else free,
            "idle": free if self._up.is_set() else 0,
            "busy": busy,
        }

    def resident_bytes(self) -> dict[int, int]:
        """Nothing: the upstream's processes are its own."""
        return {}

    def drain(self) -> None:
        """Nothing to hold back: no worker is replaced for its age here."""

    def look(self) -> None:
        """Nothing: replies of an upstream come through the loop."""

    def start(self) -> None:
        """Start ``fprocess`` if there is one, and look for the upstream."""
        log.info("batches go to %s as %s", self._url, self._config.upstream_format)
        command = self._config.fprocess
        if command:
            if shutil.which(command[0], path=self._environ.get("PATH")) is None:
                self.failed.set_exception(
                    StartFailed(
                        f"fprocess={shlex.join(command)!r}: there is no program {command[0]!r} on PATH"
                    )
                )
                return
            self._tasks.spawn(self._supervise(), "fprocess")
        self._tasks.spawn(self._watch(), "upstream")

    async def stop(self, *, at_once: bool = False) -> None:
        """Stop ``fprocess``: SIGTERM, then SIGKILL to its group after ``STOP_SECONDS`` (or straight away)."""
        self._stopping = True
        process = self._process
        if process is not None and process.returncode is None:
            if at_once:
                self._kill_group()
            else:
                with contextlib.suppress(ProcessLookupError):
                    process.send_signal(signal.SIGTERM)
            try:
                await asyncio.wait_for(process.wait(), STOP_SECONDS)
            except TimeoutError:
                log.warning("fprocess did not stop within %g s and is killed", STOP_SECONDS)
                self._kill_group()
                await process.wait()
        await self._tasks.cancel()
        for slot in self._slots:
            slot.close()
        self._kill_group()

    def replied(self, slot: Slot, batch: Batch, replies: list[Reply]) -> None:
        """The upstream answered a batch."""
        self._last_reply = time.monotonic()
        self._offered.discard(slot)
        since = self._alone_since
        # Retries go first, so a batch of another kind means that they are through.
        if since is not None and batch.reason is not DispatchReason.RETRY and batch.dispatched >= since:
            self._alone_since = None
        self._batcher.replied(batch, replies)
        self._offer()

    def lost(self, slot: Slot, batch: Batch, failure: Failure, why: str) -> None:
        """A batch came to nothing: its requests are tried again one by one, those that were already fail."""
        log.error("upstream %s: batch of %d: %s", self._url, len(batch.requests), why)
        self._offered.discard(slot)
        if failure is Failure.BROKEN:
            self._alone_since = time.monotonic()
            self._settled_at = self._alone_since + SETTLE_SECONDS
            self._withdraw()
        elif failure is Failure.TIMED_OUT:
            self._kill_if_hung(batch)
        self._batcher.died(
            batch,
            UpstreamFailed("the upstream did not answer this request, and again not when it was tried alone"),
        )
        self._offer()

    async def unreachable(self, why: str) -> None:
        """Wait until the upstream can be reached again."""
        self._mark_down(why)
        await asyncio.sleep(RECONNECT_SECONDS)
        await self._up.wait()

    def _offer(self) -> None:
        """Give the batcher the parked slots that it may have now."""
        if not self._up.is_set():
            return
        for slot in self._slots:
            if self._alone_since is not None and self._offered:
                return
            if slot not in self._offered:
                self._offered.add(slot)
                self._batcher.worker_idle(slot)

    def _park(self) -> None:
        """Take the idle slots back from the batcher."""
        for slot in [slot for slot in self._offered if not slot.busy]:
            self._offered.discard(slot)
            self._batcher.worker_gone(slot)

    def _mark_up(self) -> None:
        if self._known_down:
            log.info("the upstream %s can be reached", self._url)
        self._known_down = False
        self._came_up = True
        self._down.clear()
        self._up.set()
        self._offer()

    def _mark_down(self, why: str) -> None:
        if not self._known_down and not self._stopping:
            log.error("the upstream %s cannot be reached: %s; requests wait for it", self._url, why)
            self.restarts += 1
        self._known_down = True
        self._withdraw()

    def _withdraw(self) -> None:
        """Offer nothing until ``_watch`` has seen the upstream."""
        self._up.clear()
        self._down.set()
        self._park()

    async def _watch(self) -> None:
        """Find out whether the upstream can be reached, and with ``ready_path`` whether it is ready."""
        path = self._config.ready_path
        while True:
            await asyncio.sleep(max(0.0, self._settled_at - time.monotonic()))
            try:
                await probe(self._url, path, min(PROBE_SECONDS, self._config.exec_timeout))
            except ConnectionRefusedError as error:
                self._answers = False
                self._mark_down(str(error))
            except (OSError, StartFailed):  # slow, or not ready: no reason to hold requests back
                self._answers = False
            else:
                self._answers = True
                if not self._up.is_set() and time.monotonic() >= self._settled_at:
                    self._mark_up()
            if not self._up.is_set():
                await asyncio.sleep(RECONNECT_SECONDS)
                continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(READY_SECONDS):
                    await self._down.wait()

    def _kill_if_hung(self, batch: Batch) -> None:
        """Kill ``fprocess`` if it has answered nothing at all since ``batch`` was sent to it."""
        if self._started <= batch.dispatched and self._last_reply < batch.dispatched and self._process:
            log.error("fprocess has answered nothing for %g s and is killed", self._config.exec_timeout)
            self._kill_group()

    async def _supervise(self) -> None:
        """Keep ``fprocess`` running; give up only if it never could be reached."""
        backoff = Backoff()
        while True:
            status = await self._run_command()
            if self._stopping:
                return
            command = shlex.join(self._config.fprocess)
            if not self._came_up:
                if not self.failed.done():
                    self.failed.set_exception(
                        StartFailed(
                            f"fprocess={command!r} ended with status {status} before {self._url} answered"
                        )
                    )
                return
            self._mark_down(f"fprocess ended with status {status}")
            wait = backoff.after(time.monotonic() - self._started)
            log.error("fprocess ended with status %s; it is started again in %g s", status, wait)
            await asyncio.sleep(wait)

    async def _run_command(self) -> int:
        self._started = time.monotonic()
        self._process = process = await start_child(
            (sys.executable, "-m", "batching_watchdog.launch", str(os.getpid()), *self._config.fprocess),
            worker_environment(self._config, self._environ),
            pipes=self._config.prefix_logs,
            low_priority=self._config.low_priority,
        )
        if process.stdout is not None and process.stderr is not None:
            form = self._config.log_format
            self._tasks.spawn(relay(process.stdout, sys.stdout, line_maker(form, "stdout")), "stdout")
            self._tasks.spawn(relay(process.stderr, sys.stderr, line_maker(form, "stderr")), "stderr")
        status = await process.wait()
        # Processes of its own that outlive it would hold the port.
        self._kill_group()
        return status

    def _kill_group(self) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
