"""Workers in another language: sends one POST of JSON lines to ``upstream_url`` per batch.

Replaces ``supervisor`` if ``upstream_url`` is set. A ``Slot`` owns the HTTP: a kept connection, the response
parser (httptools), and the check of answers: status 200 with one reply per request, in order. ``RemotePool``
owns the child process ``fprocess``, if configured. It probes whether the upstream is reachable, and then
offers ``workers`` slots to the shell. It makes one decision about requests: after a broken connection each
retry is sent alone, since the other batches may have died with the same process without causing it.
"""

import asyncio
import contextlib
import logging
import os
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import httptools

from batching_watchdog.config import Config, HttpUrl
from batching_watchdog.errors import FrameError, StartFailed, UpstreamFailed
from batching_watchdog.messages import Batch, Reply
from batching_watchdog.pool import jsonlines
from batching_watchdog.pool.child import RECONNECT_SECONDS, Child, Tasks
from batching_watchdog.shell import Shell

log = logging.getLogger(__name__)

KEEP_SECONDS: Final = 1.0
"""Seconds after which an idle connection is not reused. Servers close theirs (gunicorn after 2 s, Node after
5 s), and a batch sent at that moment would seem to have killed the server."""
GRACE_SECONDS: Final = 0.25
"""Seconds in addition to exec_timeout: the requests expire first, so that none of them is retried."""
PROBE_SECONDS: Final = 5.0
READY_SECONDS: Final = 1.0
"""Seconds between two probes of a reachable upstream."""
SETTLE_SECONDS: Final = 0.25
"""Seconds before a retry after a broken connection: a dying server may still accept connections for a moment,
and the retry would fail as well."""
EXCERPT: Final = 200
"""Bytes of a wrong answer that are shown in the log."""
MAX_RESPONSE_BYTES: Final = 1 << 28
"""Header and body of the answer to one batch."""


class Slot:
    """Sends one batch at a time to the upstream, over a kept connection."""

    def __init__(self, url: HttpUrl, serve: Callable[["Slot", Batch], None]) -> None:
        """``serve`` starts a batch, and handles ``connect``, ``post`` and ``busy``."""
        self._url = url
        self._serve = serve
        self._connection: _Connection | None = None
        self.busy = False

    def send(self, batch: Batch) -> None:
        """Start ``batch``: a slot is a worker to the shell."""
        assert not self.busy, "one batch at a time"  # noqa: S101 - a caller's bug
        self.busy = True
        self._serve(self, batch)

    def cancel(self, indexes: Sequence[int]) -> None:
        """Do nothing: a slot never has a second batch."""

    async def connect(self) -> None:
        """Open a connection, unless the kept one is still usable. Raises ``OSError``."""
        loop = asyncio.get_running_loop()
        kept = self._connection
        if kept is None or kept.broken or loop.time() - kept.used > KEEP_SECONDS:
            self.close()
            _, self._connection = await loop.create_connection(_Connection, self._url.host, self._url.port)

    async def post(self, requests: Sequence[tuple[bytes, bytes]]) -> list[Reply]:
        """Return the replies to these (head, body) pairs, in order. The slot must be connected.

        Raises ``FrameError`` for a wrong answer, ``ConnectionError`` if the connection broke. Keeps the
        connection only after a correct answer.
        """
        connection, self._connection = self._connection, None
        assert connection is not None, "connected"  # noqa: S101 - a caller's bug
        body = jsonlines.encode_requests(requests)
        header_block = (
            f"POST {self._url.target} HTTP/1.1\r\nHost: {self._url.authority}\r\n"
            f"Content-Type: {jsonlines.CONTENT_TYPE}\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        try:
            status, answer = await connection.post(header_block.encode(), body)
            if status != 200:
                raise FrameError(f"status {status}: {answer[:EXCERPT].decode(errors='replace').strip()!r}")
            replies = jsonlines.decode_replies(answer)
            if len(replies) != len(requests):
                raise FrameError(f"{len(replies)} replies for {len(requests)} requests")
        except BaseException:
            connection.close()
            raise
        self._connection = connection
        return replies

    def close(self) -> None:
        """Close the kept connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class _Connection(asyncio.Protocol):
    """One connection to the upstream; httptools calls the ``on_`` methods."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None
        self._body: list[bytes] = []
        self._size = 0
        """Bytes of the response so far, header included."""
        self._in_body = False
        self._delimited = False
        self.broken = False
        """Whether the connection must not be used again."""
        self.used = self._loop.time()

    async def post(self, header_block: bytes, body: bytes) -> tuple[int, bytes]:
        """Send a request; return the answer's status and body. Raises ``FrameError``, ``ConnectionError``."""
        assert self._transport is not None, "connected"  # noqa: S101 - for the type checker
        self._answer = self._loop.create_future()
        self._transport.writelines((header_block, body))
        return await self._answer

    def close(self) -> None:
        """Close at once."""
        self.broken = True
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Asyncio: connected."""
        self._transport = transport  # type: ignore[assignment] # a stream's; uvloop's is no asyncio.Transport

    def data_received(self, data: bytes) -> None:
        """Asyncio: bytes of a response; without a request they end the connection."""
        self._size += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._fail(ConnectionError(f"what it answered is not HTTP: {error}"))
        else:
            if self._size > MAX_RESPONSE_BYTES:
                self._fail(FrameError(f"it is longer than {MAX_RESPONSE_BYTES} bytes"))

    def eof_received(self) -> None:
        """Asyncio: the server has closed its side; a body without a length ends here."""
        if self._in_body and not self._delimited:
            self._complete(keep=False)

    def connection_lost(self, exc: Exception | None) -> None:
        """Asyncio: the connection is closed."""
        why = f": {exc}" if exc else ""
        self._fail(ConnectionError(f"the connection broke before its answer was complete{why}"))

    def on_header(self, name: bytes, _value: bytes) -> None:
        """httptools: one header."""
        self._delimited |= name.lower() in (b"content-length", b"transfer-encoding")

    def on_headers_complete(self) -> None:
        """httptools: the body follows."""
        self._in_body = True

    def on_body(self, data: bytes) -> None:
        """httptools: a piece of the body."""
        self._body.append(data)

    def on_message_complete(self) -> None:
        """httptools: the response is complete."""
        self._size = 0
        if self._parser.get_status_code() < 200:  # an interim response: the real one follows
            self._body, self._in_body, self._delimited = [], False, False
        else:
            self._complete(keep=bool(self._parser.should_keep_alive()))

    def _complete(self, *, keep: bool) -> None:
        body, self._body = b"".join(self._body), []
        self._in_body = self._delimited = False
        self.used = self._loop.time()
        answer, self._answer = self._answer, None
        if answer is None or not keep:
            self.close()
        if answer is not None and not answer.done():
            answer.set_result((self._parser.get_status_code(), body))

    def _fail(self, error: Exception) -> None:
        self.close()
        answer, self._answer = self._answer, None
        if answer is not None and not answer.done():
            answer.set_exception(error)


class RemotePool:
    """The upstream's slots, reported to the shell as idle, busy or out of reach."""

    def __init__(self, config: Config, url: HttpUrl, environ: Mapping[str, str], shell: Shell) -> None:
        self._config = config
        self._url = url
        self._environ = environ
        self._shell = shell
        self._slots = [Slot(url, self._serve) for _ in range(config.workers)]
        self._offered: set[Slot] = set()
        """Slots that the shell may use or is using; the others are parked here."""
        self._up = asyncio.Event()
        self._down = asyncio.Event()
        self._down.set()
        self._known_down = True
        """Whether the upstream was logged as unreachable; before that it may only be suspected."""
        self._settled_at = 0.0
        self._answers = False
        self._came_up = False
        self._alone_since: float | None = None
        """Time when a connection broke: until the retries are done, only one slot is offered."""
        self._last_reply = 0.0
        self._stopping = False
        self.restarts = 0
        self.recycled = 0
        """Always 0: the upstream's processes are its own."""
        shell.mix_paths()  # an upstream cannot say otherwise
        self._tasks = Tasks()
        self.failed = self._tasks.failed
        """Fails with ``StartFailed`` if ``fprocess`` cannot be started, or ends before its first answer."""
        self._child: Child | None = None
        if config.fprocess:
            command = [sys.executable, "-m", "batching_watchdog.launch", str(os.getpid()), *config.fprocess]
            self._child = Child("fprocess", command, config, environ, self._tasks)

    @property
    def not_ready(self) -> str:
        """Why the upstream cannot serve now; empty if it is reachable and its ``ready_path`` agrees."""
        if not self._up.is_set():
            return "the upstream cannot be reached"
        return "" if self._answers else "the upstream reports that it is not ready"

    def by_state(self) -> dict[str, int]:
        """Return the number of slots by state: unreachable, idle and busy."""
        busy = sum(slot.busy for slot in self._slots)
        free = len(self._slots) - busy
        up = self._up.is_set()
        return {"starting": 0 if up else free, "idle": free if up else 0, "busy": busy}

    def resident_bytes(self) -> dict[int, int]:
        """Return {}: the upstream's processes are its own."""
        return {}

    def drain(self) -> None:
        """Do nothing: no worker is replaced by age here."""

    def owns(self, pid: int) -> bool:
        """Return whether ``pid`` may be a child that this pool waits for."""
        return self._child is not None and self._child.owns(pid)

    def poll_workers(self) -> None:
        """Do nothing: replies of an upstream arrive through the loop."""

    def start(self) -> None:
        """Start ``fprocess`` if configured, and begin to probe the upstream."""
        log.info("batches go to %s", self._url)
        command = self._config.fprocess
        if self._child is not None:
            if shutil.which(command[0], path=self._environ.get("PATH")) is None:
                problem = f"fprocess={shlex.join(command)!r}: there is no program {command[0]!r} on PATH"
                self._tasks.fail(StartFailed(problem))
                return
            self._tasks.spawn(self._child.keep_running(self._ended), "fprocess")
        self._tasks.spawn(self._watch(), "upstream")

    async def stop(self, *, at_once: bool = False) -> None:
        """Stop ``fprocess``, and drop batches under way."""
        self._stopping = True
        if self._child is not None:
            await self._child.stop(at_once=at_once)
        await self._tasks.cancel()
        for slot in self._slots:
            slot.close()

    def _serve(self, slot: Slot, batch: Batch) -> None:
        # Taken now: a request that leaves before the connection is open loses its head and body.
        requests = [(request.header_block, request.body) for request in batch.requests]
        self._tasks.spawn(self._exchange(slot, batch, requests), "batch")

    async def _exchange(self, slot: Slot, batch: Batch, requests: Sequence[tuple[bytes, bytes]]) -> None:
        connected = False
        try:
            async with asyncio.timeout(self._config.exec_timeout + GRACE_SECONDS):
                await self._connect(slot)
                connected = True
                replies = await slot.post(requests)
        except FrameError as error:
            self._lost(slot, batch, f"wrong answer: {error}")
        except TimeoutError:
            what = "answer" if connected else "connection"
            if connected:
                self._kill_if_hung(batch)
            self._lost(slot, batch, f"no {what} within exec_timeout ({self._config.exec_timeout:g} s)")
        except OSError as error:
            # The server, or one of its processes, may have died.
            self._alone_since = time.monotonic()
            self._settled_at = self._alone_since + SETTLE_SECONDS
            self._withdraw()
            self._lost(slot, batch, str(error))
        else:
            self._replied(slot, batch, replies)

    async def _connect(self, slot: Slot) -> None:
        """Connect, without a time limit."""
        while True:
            try:
                return await slot.connect()
            except OSError as error:
                self._mark_down(str(error))
            await asyncio.sleep(RECONNECT_SECONDS)
            await self._up.wait()

    def _replied(self, slot: Slot, batch: Batch, replies: list[Reply]) -> None:
        self._last_reply = time.monotonic()
        self._release(slot)
        self._shell.batch_done(slot, replies, ready=False)
        if batch.dispatched >= (self._alone_since or 0.0) and not self._shell.suspects:
            self._alone_since = None
        self._offer()

    def _lost(self, slot: Slot, batch: Batch, why: str) -> None:
        """Handle a failed batch: retry its requests one by one; those that were retried already fail."""
        log.error("upstream %s: batch of %d: %s", self._url, len(batch.requests), why)
        self._release(slot)
        self._shell.worker_lost(
            slot, UpstreamFailed("upstream failed on this request and on its retry alone")
        )
        self._offer()

    def _release(self, slot: Slot) -> None:
        slot.busy = False
        self._offered.discard(slot)

    def _offer(self) -> None:
        """Offer the allowed number of parked slots to the shell."""
        if not self._up.is_set():
            return
        for slot in self._slots:
            if self._alone_since is not None and self._offered:
                return
            if slot not in self._offered:
                self._offered.add(slot)
                self._shell.worker_ready(slot)

    def _park(self) -> None:
        """Take the idle slots back from the shell."""
        for slot in [slot for slot in self._offered if not slot.busy]:
            self._offered.discard(slot)
            self._shell.worker_gone(slot)

    def _mark_up(self) -> None:
        if self._known_down:
            log.info("the upstream %s can be reached", self._url)
        self._known_down = False
        if not self._came_up:
            self._shell.came_up()
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
        """Offer no slot until ``_watch`` has reached the upstream."""
        self._up.clear()
        self._down.set()
        self._park()

    async def _watch(self) -> None:
        """Probe whether the upstream is reachable, and with ``ready_path`` whether it is ready."""
        path = self._config.ready_path
        while True:
            await asyncio.sleep(max(0.0, self._settled_at - time.monotonic()))
            try:
                await probe(self._url, path, min(PROBE_SECONDS, self._config.exec_timeout))
            except ConnectionRefusedError as error:
                self._answers = False
                self._mark_down(str(error))
            except (OSError, StartFailed):  # slow, or not ready: keep sending requests
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
        """Kill ``fprocess`` if it has not answered any batch since ``batch`` was sent."""
        child = self._child
        if child is not None and child.started <= batch.dispatched and self._last_reply < batch.dispatched:
            log.error("fprocess has answered nothing for %g s and is killed", self._config.exec_timeout)
            child.kill()

    def _ended(self, how: str) -> None:
        """Handle the end of ``fprocess``. Raises ``StartFailed`` if it was never reachable."""
        if not self._came_up:
            command = shlex.join(self._config.fprocess)
            raise StartFailed(f"fprocess={command!r} {how} before {self._url} answered")
        self._mark_down(f"fprocess {how}")


async def probe(url: HttpUrl, path: str, seconds: float) -> None:
    """Check that the upstream accepts a connection and, with ``path``, answers a GET of it below 400.

    Raises ``OSError`` (also as ``TimeoutError``), or ``StartFailed`` with the answer.
    """
    async with asyncio.timeout(seconds):
        reader, writer = await asyncio.open_connection(url.host, url.port)
        try:
            if not path:
                return
            request = f"GET {path} HTTP/1.1\r\nHost: {url.authority}\r\nConnection: close\r\n\r\n"
            writer.write(request.encode())
            line = (await reader.read(1 << 12)).split(b"\r\n")[0]
            status = line.split(b" ")[1] if line.startswith(b"HTTP/1.") and b" " in line else b""
            if not (status.isdigit() and 200 <= int(status) < 400):
                raise StartFailed(f"GET {path} is answered with {line[:EXCERPT]!r}")
        finally:
            writer.transport.abort()
