"""The worker process: serves batch frames of the handler under gunicorn.

gunicorn owns the process: forking, heartbeats, killing it when it hangs. ``BatchWorker`` loads the function,
accepts one connection on gunicorn's Unix socket, sends its handshake, serves frames until the connection
closes (the other end is ``pool.connection``), and leaves. There is no event loop here and nothing runs beside
the model, so the GIL is the model's alone. Forked by ``arbiter``. Next step: ``handler``.
"""

import atexit
import faulthandler
import gc
import mmap
import os
import select
import signal
import socket
import struct
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, NoReturn

from gunicorn.workers.base import Worker

from batching_watchdog import wire
from batching_watchdog.errors import HandlerNotLoaded
from batching_watchdog.function import STACK_FILE, Event
from batching_watchdog.launch import die_with_parent
from batching_watchdog.messages import DROPPED, Reply
from batching_watchdog.worker.devices import take_devices, take_threads
from batching_watchdog.worker.handler import Handler

HEARTBEAT_SECONDS: Final = 1.0
"""How often an idle worker tells gunicorn that it lives."""
DUMP_SECONDS: Final = 0.5
"""What it may take to write down where a load() hangs."""
REPORT_SECONDS: Final = 5.0
"""How long a worker that cannot load its handler stays to say so: the back-off of such restarts."""
_LIFE: Final = struct.Struct("d?")


@dataclass(frozen=True, slots=True)
class Preloaded:
    """What the arbiter has loaded before the workers were forked: the handler, or why there is none."""

    handler: Handler | None
    problem: HandlerNotLoaded | None


class BatchWorker(Worker):  # type: ignore[misc] # gunicorn is not typed
    """A gunicorn worker that serves frames instead of HTTP."""

    def __init__(self, *args: Any) -> None:
        """Runs in the arbiter, which sets the attributes before it forks."""
        super().__init__(*args)
        self.slot = 0
        """Which of the pool's places this worker fills, from 0."""
        self.load_after = 0.0
        """Seconds to wait before loading: those before it died of that."""
        self.report: HandlerNotLoaded | None = None
        """Do not load, but say this: too many died of it."""
        self._life = mmap.mmap(-1, _LIFE.size)  # what the arbiter still sees after the fork

    @property
    def loaded_at(self) -> float:
        """When the worker came through loading (``time.monotonic``), for the arbiter too; 0 if it has not."""
        at: float = _LIFE.unpack_from(self._life)[0]
        return at

    @property
    def has_served(self) -> bool:
        """Whether the worker has answered a batch, for the arbiter too."""
        served: bool = _LIFE.unpack_from(self._life)[1]
        return served

    def init_process(self) -> None:
        """As gunicorn's, and die with the arbiter even if that is killed."""
        die_with_parent(signal.SIGKILL, self.ppid)
        super().init_process()
        if self.app.callable is not None:
            leave_fork()

    def load_wsgi(self) -> None:
        """Load the function in place of a WSGI application; gunicorn calls this before ``run``."""
        self._problem = self.report
        self._handler: Handler | None = None
        take_devices(self.slot, self.cfg.workers)
        if self._problem is None:
            self._wait(self.load_after)
            self._load()
        # The model is there for good: keep the collector from walking it again and again.
        gc.collect()
        gc.freeze()
        _LIFE.pack_into(self._life, 0, time.monotonic(), False)

    def _load(self) -> None:
        preloaded: Preloaded | None = self.app.callable
        if preloaded is not None:
            self._handler, self._problem = preloaded.handler, preloaded.problem
            if self._handler is not None:
                take_threads()
                # What load() has left to be done at exit, such as removing its files, is not this process's.
                atexit._clear()  # noqa: SLF001 - as multiprocessing does; there is no public way
            return
        try:
            self._handler = load_handler()
        except HandlerNotLoaded as error:
            self._problem = error

    def run(self) -> None:
        """Accept the watchdog's connection and serve it, until it closes or gunicorn says stop."""
        listener = self.sockets[0]
        listener.setblocking(False)
        poll = select.poll()
        poll.register(listener, select.POLLIN)
        poll.register(self.PIPE[0], select.POLLIN)
        while self._goes_on():
            if not poll.poll(HEARTBEAT_SECONDS * 1000):
                continue
            try:
                connection, _ = listener.accept()
            except BlockingIOError:  # another worker took it, or a signal woke us
                continue
            # The watchdog closes it to be rid of this worker; it opens a new one to the next.
            with connection, suppress(OSError):
                self._serve(connection)
            return

    def _wait(self, seconds: float) -> None:
        ends = time.monotonic() + seconds
        while self._goes_on() and time.monotonic() < ends:
            time.sleep(HEARTBEAT_SECONDS / 20)

    def _goes_on(self) -> bool:
        self.notify()
        return bool(self.alive) and os.getppid() == self.ppid

    def _serve(self, connection: socket.socket) -> None:
        connection.settimeout(HEARTBEAT_SECONDS)
        handshake = wire.Handshake(os.getpid(), slot=self.slot)
        if self._handler is None:
            if self._problem is not None:
                handshake = replace(handshake, error=str(self._problem), trace=self._problem.trace)
            self._send(connection, wire.encode_handshake(handshake))
            # gunicorn itself is started again, with a back-off, if it could not preload.
            self._wait(REPORT_SECONDS if self.app.callable is None else HEARTBEAT_SECONDS)
            return
        handshake = replace(
            handshake,
            example=self._handler.example,
            mix_paths=self._handler.mix_paths,
            import_seconds=self._handler.import_seconds,
            load_seconds=self._handler.load_seconds,
        )
        self._handler.report = lambda failure: self._send(connection, wire.encode_failure(failure))
        self._send(connection, wire.encode_handshake(handshake))
        poll = select.poll()
        poll.register(connection, select.POLLIN)
        poll.register(self.PIPE[0], select.POLLIN)
        self._buffer = wire.ReceiveBuffer()
        spent = time.process_time()
        while self._goes_on():
            if not poll.poll(HEARTBEAT_SECONDS * 1000):
                continue
            if not self.alive:
                return
            frame = self._frame(connection)
            if frame is None:
                return
            if frame[0].kind is wire.Kind.CANCEL:  # its batch has been run
                continue
            events = [Event(head, body) for head, body in wire.decode_requests(*frame)]
            cancelled = self._cancelled(connection, poll)
            replies = serve_but(cancelled, events, self._handler)
            # Since the last reply, so that what it takes to receive and to send is not left out.
            earlier, spent = spent, time.process_time()
            seconds = 0.0 if self._handler.repeated else spent - earlier
            self._send(connection, wire.encode_replies(replies, seconds))
            _LIFE.pack_into(self._life, 0, self.loaded_at, True)

    def _cancelled(self, connection: socket.socket, poll: select.poll) -> set[int]:
        """The places of requests in the batch received last that have been cancelled; does not wait."""
        places: set[int] = set()
        while connection.fileno() in dict(poll.poll(0)):
            start = connection.recv(wire.HEADER_SIZE, socket.MSG_PEEK)
            # Or it is the batch after this one.
            if len(start) < wire.HEADER_SIZE or wire.decode_header(start).kind is not wire.Kind.CANCEL:
                break
            frame = self._frame(connection)
            if frame is None:
                break
            places.update(wire.decode_cancel(*frame))
        return places

    def _frame(self, connection: socket.socket) -> tuple[wire.FrameHeader, memoryview] | None:
        """The next frame, in the buffer of all frames. None as ``_receive``."""
        if not self._receive(connection, memoryview(self._buffer.data)[: wire.HEADER_SIZE]):
            return None
        header = wire.decode_header(self._buffer.data)
        self._buffer.fit(header.size)
        data = memoryview(self._buffer.data)[: header.size]
        return (header, data) if self._receive(connection, data) else None

    def _receive(self, connection: socket.socket, view: memoryview) -> bool:
        """Fill ``view``. False if the connection closed, or the worker was told to stop."""
        filled = 0
        while filled < len(view):
            try:
                count = connection.recv_into(view[filled:])
            except TimeoutError:
                if not self._goes_on():
                    return False
                continue
            if not count:
                return False
            filled += count
        return True

    def _send(self, connection: socket.socket, buffers: list[bytes]) -> None:
        if sum(map(len, buffers)) < wire.JOIN_BELOW:
            buffers = [b"".join(buffers)]
        views = [memoryview(buffer) for buffer in buffers]
        first = 0
        while first < len(views):
            try:
                sent = connection.sendmsg(views[first : first + wire.SEND_AT_ONCE])
            except TimeoutError:
                if not self._goes_on():
                    raise ConnectionAbortedError("told to stop while sending") from None
                continue
            while first < len(views) and sent >= len(views[first]):
                sent -= len(views[first])
                first += 1
            if sent:
                views[first] = views[first][sent:]


def leave_fork() -> NoReturn:
    """End this process with status 0, as multiprocessing ends its children.

    The interpreter would take down a copy of all that was loaded before the fork: seconds with torch, whose
    finalizers complain that what they registered at exit is gone.
    """
    threading._shutdown()  # type: ignore[attr-defined] # noqa: SLF001 - there is no public way
    atexit._run_exitfuncs()  # noqa: SLF001 - likewise
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def stack_folder() -> Path:
    """Where processes that load for too long write their stacks."""
    return Path(os.environ.get("load_stacks") or tempfile.gettempdir())


def load_handler() -> Handler:
    """Load the function; ends this process with SIGALRM if that takes longer than ``load_timeout``.

    No thread of ours could: one that hangs may hold the GIL. ``function.left_stack`` tells where it was then.
    Raises ``HandlerNotLoaded``.
    """
    seconds = float(os.environ["load_timeout"])
    file = stack_folder() / STACK_FILE.format(os.getpid())
    with file.open("w") as stack:
        faulthandler.dump_traceback_later(seconds, file=stack)
        signal.setitimer(signal.ITIMER_REAL, seconds + DUMP_SECONDS)
        try:
            return Handler(os.environ["function_path"])
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0.0)
            faulthandler.cancel_dump_traceback_later()
            file.unlink(missing_ok=True)


def serve_but(cancelled: set[int], events: Sequence[Event], handler: Handler) -> list[Reply]:
    """The replies to ``events``, ``DROPPED`` for those in ``cancelled`` places, never run."""
    if not cancelled:
        return handler.serve(events)
    left = [event for place, event in enumerate(events) if place not in cancelled]
    replies = iter(handler.serve(left) if left else ())
    return [DROPPED if place in cancelled else next(replies) for place in range(len(events))]
