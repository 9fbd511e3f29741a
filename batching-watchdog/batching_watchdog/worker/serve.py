"""Serves batch frames with the handler, in a worker process under gunicorn.

gunicorn owns the process: forking, heartbeats, killing it when it hangs. ``BatchWorker`` loads the function,
accepts one connection on gunicorn's Unix socket, sends its handshake, serves frames until ``pool.connection``
closes the connection, and leaves. There is no event loop and no other thread, so the model has the GIL for
itself. Forked by ``arbiter``. Next step: ``handler``.
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
import threading
import time
import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from types import FrameType
from typing import Any, Final, NoReturn

from gunicorn.workers.base import Worker

from batching_watchdog.errors import HandlerNotLoaded, Poisoned
from batching_watchdog.function import wire
from batching_watchdog.function.event import Context, Event
from batching_watchdog.function.messages import DROPPED, Crash, Failure, Reply
from batching_watchdog.process.launch import die_with_parent
from batching_watchdog.process.machine import RunDelay
from batching_watchdog.process.stacks import stack_file, stack_folder
from batching_watchdog.worker.devices import change_threads, device, take_devices, take_threads, threads
from batching_watchdog.worker.handler import Handler
from batching_watchdog.worker.streams import RunningStreams, measure

HEARTBEAT_SECONDS: Final = 1.0
"""Time between two heartbeats of an idle worker to gunicorn."""
DUMP_SECONDS: Final = 0.5
"""Time for writing the stack of a load() that hangs."""
REPORT_SECONDS: Final = 5.0
"""Time for which a worker that cannot load its handler stays: the backoff of such restarts."""
LEAVE_SECONDS: Final = 1.0
"""Time in which the function's threads and ``atexit`` functions must end in a worker that leaves."""
_LIFE: Final = struct.Struct("d?")


@dataclass(frozen=True, slots=True)
class Preloaded:
    """The handler that the arbiter loaded before it forked the workers, or the problem."""

    handler: Handler | None
    problem: HandlerNotLoaded | None


class BatchWorker(Worker):  # type: ignore[misc] # gunicorn is not typed
    """A gunicorn worker that serves frames instead of HTTP."""

    def __init__(self, *args: Any) -> None:
        """Set defaults in the arbiter, which sets the attributes before it forks."""
        super().__init__(*args)
        self.index = 0
        """Number in the pool, from 0."""
        self.load_after = 0.0
        """Seconds to wait before loading, because earlier workers died while loading."""
        self.report: HandlerNotLoaded | None = None
        """Problem to report in place of loading, because too many workers died while loading."""
        self._life = mmap.mmap(-1, _LIFE.size)  # shared with the arbiter after the fork
        self._connection: socket.socket | None = None
        self._forking = threading.local()
        """Where a process is forked: whether that is the worker's main thread."""

    @property
    def loaded_at(self) -> float:
        """Time at which the worker had loaded (``time.monotonic``), also in the arbiter; 0: it has not."""
        seconds: float = _LIFE.unpack_from(self._life)[0]
        return seconds

    @property
    def has_served(self) -> bool:
        """Whether the worker has answered a batch, also in the arbiter."""
        served: bool = _LIFE.unpack_from(self._life)[1]
        return served

    def init_process(self) -> None:
        """Start the worker as gunicorn does, and make it die with the arbiter even by SIGKILL."""
        die_with_parent(signal.SIGKILL, self.ppid)
        os.register_at_fork(
            before=self._before_fork, after_in_child=self._be_no_worker, after_in_parent=self._after_fork
        )
        try:
            super().init_process()
        except KeyboardInterrupt:  # the function's own: gunicorn would end itself, from within this process
            traceback.print_exc()
            sys.exit(1)
        # gunicorn forks the next worker only when this one has ended.
        end = threading.Timer(LEAVE_SECONDS, leave_at_once, (0,))
        end.daemon = True
        end.start()
        if self.app.callable is not None:
            leave_fork()

    def _before_fork(self) -> None:
        """Hold signals back, which the child's copy of a handler would swallow; note what forks."""
        signal.pthread_sigmask(signal.SIG_BLOCK, self.SIGNALS)
        # Not in the child: the worker may have ended before that begins.
        in_main = threading.current_thread() is threading.main_thread()
        self._forking.in_main = in_main and os.getpid() == self.pid

    def _after_fork(self) -> None:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, self.SIGNALS)

    def _be_no_worker(self) -> None:
        """Leave the worker its sockets and signals, and end with it, in a process that the function forks.

        Its copy of the connection would hide the worker's death, and could answer in its place. With the
        worker's handlers it would outlive ``terminate()`` of multiprocessing.
        """
        if self._forking.in_main:  # else the end of a thread would end it
            die_with_parent(signal.SIGKILL, self.pid)
        for held in (*self.sockets, self._connection):
            if held is not None:
                held.close()
        faulthandler.disable()  # its file is the worker's
        signal.set_wakeup_fd(-1)
        for signum in self.SIGNALS:
            if getattr(signal.getsignal(signum), "__self__", None) is self:
                signal.signal(signum, signal.SIG_DFL)
        self._after_fork()

    def handle_quit(self, _sig: int, _frame: FrameType | None) -> None:
        """Leave at once on SIGQUIT and SIGINT, by no exception: the handler could catch it."""
        leave_at_once(0)

    def handle_abort(self, _sig: int, _frame: FrameType | None) -> None:
        """Leave at once on SIGABRT, by which gunicorn ends a worker that hangs."""
        leave_at_once(1)

    def load_wsgi(self) -> None:
        """Load the function in place of a WSGI application; gunicorn calls this before ``run``."""
        self._problem = self.report
        self._handler: Handler | None = None
        take_devices(self.index, self.cfg.workers)
        if self._problem is None:
            self._wait(self.load_after)
            self._load()
        # The model stays: freeze it, so that garbage collection skips it.
        gc.collect()
        gc.freeze()
        _LIFE.pack_into(self._life, 0, time.monotonic(), False)

    def _load(self) -> None:
        preloaded: Preloaded | None = self.app.callable
        if preloaded is not None:
            self._handler, self._problem = preloaded.handler, preloaded.problem
            if self._handler is not None:
                take_threads()
                # The arbiter runs load()'s atexit functions, which may remove files; this process must not.
                atexit._clear()  # noqa: SLF001 - as multiprocessing does; there is no public way
            return
        try:
            self._handler = load_handler(threads())
        except HandlerNotLoaded as error:
            self._problem = error

    def run(self) -> None:
        """Accept the watchdog's connection and serve it until it closes or gunicorn stops the worker."""
        self._keep_stack()
        listener = self.sockets[0]
        listener.setblocking(False)
        poll = self._poll(listener)
        while self._goes_on():
            if not poll.poll(HEARTBEAT_SECONDS * 1000):
                continue
            try:
                connection, _ = listener.accept()
            except BlockingIOError:  # another worker took it, or a signal woke us
                continue
            self._connection = connection
            # The watchdog closes it to replace this worker; it opens a new one to the next.
            with connection, suppress(OSError):
                self._serve(connection)
            return

    def _poll(self, source: socket.socket) -> select.poll:
        """Return a poll of ``source`` that a signal wakes too."""
        poll = select.poll()
        poll.register(source, select.POLLIN)
        poll.register(self.PIPE[0], select.POLLIN)
        return poll

    def _keep_stack(self) -> None:
        """Leave the stack in a file, which the arbiter logs, if a crash or gunicorn ends this process.

        Python's own handlers of signals run between bytecodes, so they see no hang within C.
        """
        # It may be on already (PYTHONFAULTHANDLER): then it would stay as it is, and without SIGABRT.
        faulthandler.disable()
        signal.signal(signal.SIGABRT, self.handle_abort)
        # The function's own signals, as of a timer for each request, fill the pipe: one byte wakes as well.
        signal.set_wakeup_fd(self.PIPE[1], warn_on_full_buffer=False)
        with suppress(OSError):  # no reason not to serve
            self._stack = stack_file(stack_folder(), os.getpid()).open("w")
            faulthandler.enable(self._stack)

    def _wait(self, seconds: float) -> None:
        ends = time.monotonic() + seconds
        while self._goes_on() and time.monotonic() < ends:
            time.sleep(HEARTBEAT_SECONDS / 20)

    def _goes_on(self) -> bool:
        self.notify()
        return bool(self.alive) and os.getppid() == self.ppid

    def _serve(self, connection: socket.socket) -> None:
        connection.settimeout(HEARTBEAT_SECONDS)
        handshake = wire.Handshake(os.getpid(), index=self.index)
        if self._handler is None:
            if self._problem is not None:
                handshake = replace(handshake, error=str(self._problem), trace=self._problem.trace)
            self._send(connection, wire.encode_handshake(handshake))
            # If gunicorn could not preload, the supervisor restarts it with a backoff.
            self._wait(REPORT_SECONDS if self.app.callable is None else HEARTBEAT_SECONDS)
            return
        handshake = replace(
            handshake,
            examples=self._handler.examples,
            batched=self._handler.batched,
            mix_paths=self._handler.mix_paths,
            import_seconds=self._handler.import_seconds,
            load_seconds=self._handler.load_seconds,
            forked=self.app.callable is not None,
        )
        if self._handler.stream is not None:
            self._serve_streams(connection, self._handler, handshake)
            return
        self._handler.report = lambda failure: self._send(connection, wire.encode_failure(failure))
        self._send(connection, wire.encode_handshake(handshake))
        poll = self._poll(connection)
        self._buffer = wire.ReceiveBuffer()
        cpu, delay = time.process_time(), RunDelay()
        while self._goes_on():
            if not poll.poll(HEARTBEAT_SECONDS * 1000):
                continue
            if not self.alive:
                return
            frame = self._frame(connection)
            if frame is None:
                return
            if frame[0].kind is wire.Kind.CANCEL:  # its batch has already run
                continue
            if frame[0].kind is wire.Kind.THREADS:
                self._handler.context.threads = count = wire.decode_threads(*frame)
                change_threads(count)
                continue
            began, delayed = time.monotonic(), delay.seconds()
            events = [Event(head, body) for head, body in wire.decode_requests(*frame)]
            cancelled = self._cancelled(connection, poll)
            try:
                outcome = serve_but(cancelled, events, self._handler)
            except Poisoned as error:
                self._end_poisoned(connection, error)
            # CPU time since the last reply, so that receiving and sending count.
            earlier, cpu = cpu, time.process_time()
            if isinstance(outcome, Crash):
                self._send(connection, wire.encode_crash(outcome))
            else:
                took = time.monotonic() - began
                spent = wire.Spent(took, cpu - earlier, min(took, delay.seconds() - delayed))
                self._send(connection, wire.encode_replies(outcome, spent))
            _LIFE.pack_into(self._life, 0, self.loaded_at, True)

    def _serve_streams(self, connection: socket.socket, handler: Handler, handshake: wire.Handshake) -> None:
        """Serve joins and leaves, with one step of all streams between two looks at the connection."""
        if handler.examples:
            most, interval = int(os.environ["max_streams"]), float(os.environ["slo_interval"])
            try:
                measured = measure(handler, handler.examples, most=most, interval=interval)
                handshake = replace(handshake, starts=measured.starts, steps=measured.steps)
            except HandlerNotLoaded as error:
                handshake = replace(handshake, error=str(error))
        closed = handler.stream is not None and handler.stream.closed
        self._send(connection, wire.encode_handshake(replace(handshake, streams=True, closed=closed)))
        if handshake.error is not None:
            self._wait(REPORT_SECONDS)
            return
        handler.report = lambda failure: self._send(connection, wire.encode_failure(failure))
        self._buffer = wire.ReceiveBuffer()
        poll = self._poll(connection)
        streams = RunningStreams(handler)
        try:
            while self._goes_on():
                left = False
                while self._arrived(connection, poll, 0.0 if streams or left else HEARTBEAT_SECONDS):
                    frame = self._frame(connection)
                    if frame is None:
                        return
                    left |= frame[0].kind is wire.Kind.LEAVE
                    _apply(frame, streams, handler.context)
                if streams or left:
                    self._send(connection, wire.encode_iteration(streams.iterate()))
                    _LIFE.pack_into(self._life, 0, self.loaded_at, True)
                if streams.broken:
                    leave_at_once(1)
        except Poisoned as error:
            self._end_poisoned(connection, error)
        finally:
            streams.close()

    def _end_poisoned(self, connection: socket.socket, error: Poisoned) -> NoReturn:
        self._send(connection, wire.encode_failure(Failure(f"worker must end: {error}", error.trace)))
        leave_at_once(1)

    def _arrived(self, connection: socket.socket, poll: select.poll, seconds: float) -> bool:
        """Wait for bytes of the watchdog; return whether there are some, and the worker goes on."""
        ready = dict(poll.poll(seconds * 1000))
        if self.PIPE[0] in ready:  # a signal: it would wake each further wait
            os.read(self.PIPE[0], 4096)
        return connection.fileno() in ready and bool(self.alive)

    def _cancelled(self, connection: socket.socket, poll: select.poll) -> set[int]:
        """Return the places of cancelled requests in the newest batch, without waiting."""
        places: set[int] = set()
        while connection.fileno() in dict(poll.poll(0)):
            start = connection.recv(wire.HEADER_SIZE, socket.MSG_PEEK)
            # Another kind is the next batch.
            if len(start) < wire.HEADER_SIZE or wire.decode_header(start).kind is not wire.Kind.CANCEL:
                break
            frame = self._frame(connection)
            if frame is None:
                break
            places.update(wire.decode_cancel(*frame))
        return places

    def _frame(self, connection: socket.socket) -> tuple[wire.FrameHeader, memoryview] | None:
        """Return the next frame, in the shared buffer; None where ``_receive`` returns False."""
        if not self._receive(connection, memoryview(self._buffer.data)[: wire.HEADER_SIZE]):
            return None
        header = wire.decode_header(self._buffer.data)
        self._buffer.fit(header.size)
        data = memoryview(self._buffer.data)[: header.size]
        return (header, data) if self._receive(connection, data) else None

    def _receive(self, connection: socket.socket, view: memoryview) -> bool:
        """Fill ``view``; return False if the connection closed or the worker must stop."""
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

    A normal exit would free a copy of everything loaded before the fork. With torch that takes seconds, and
    its finalizers complain about missing atexit functions.
    """
    threading._shutdown()  # type: ignore[attr-defined] # noqa: SLF001 - there is no public way
    atexit._run_exitfuncs()  # noqa: SLF001 - likewise
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def leave_at_once(status: int) -> NoReturn:
    """End this process with ``status`` and without cleaning up, but write the output that it holds."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):  # closed, or interrupted while it wrote
            stream.flush()
    os._exit(status)


def _apply(frame: tuple[wire.FrameHeader, memoryview], streams: RunningStreams, context: Context) -> None:
    """Apply a frame between two steps."""
    kind = frame[0].kind
    if kind is wire.Kind.JOIN:
        for stream, head, body in wire.decode_join(*frame):
            streams.join(stream, Event(head, body))
    elif kind is wire.Kind.LEAVE:
        for stream in wire.decode_leave(*frame):
            streams.leave(stream)
    else:
        context.threads = count = wire.decode_threads(*frame)
        change_threads(count)


def load_handler(count: int) -> Handler:
    """Load the function for workers of ``count`` threads; end this process by SIGALRM after ``load_timeout``.

    A thread could not end it, because a load() that hangs may hold the GIL. ``stacks.left_stack`` reads the
    stack of that moment, or of a crash. Raises ``HandlerNotLoaded``.
    """
    seconds = float(os.environ["load_timeout"])
    file = stack_file(stack_folder(), os.getpid())
    with file.open("w") as stack:
        faulthandler.enable(stack)
        faulthandler.dump_traceback_later(seconds, file=stack)
        signal.setitimer(signal.ITIMER_REAL, seconds + DUMP_SECONDS)
        try:
            return Handler(os.environ["function_path"], threads=count, device=device())
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0.0)
            faulthandler.cancel_dump_traceback_later()
            faulthandler.disable()
            file.unlink(missing_ok=True)


def serve_but(cancelled: set[int], events: Sequence[Event], handler: Handler) -> list[Reply] | Crash:
    """Return the replies to ``events``; those in ``cancelled`` places do not run and get ``DROPPED``."""
    if not cancelled:
        return handler.serve(events)
    left = [event for place, event in enumerate(events) if place not in cancelled]
    outcome = handler.serve(left) if left else []
    if isinstance(outcome, Crash):
        return outcome
    replies = iter(outcome)
    return [DROPPED if place in cancelled else next(replies) for place in range(len(events))]
