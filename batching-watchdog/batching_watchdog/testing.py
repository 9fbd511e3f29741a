"""Tests a function as production runs it: a real worker process, real events, results encoded as replies.

::

    from batching_watchdog.testing import Function

    FUNCTION = Function(Path(__file__).parent)

    def test_two_bodies_get_two_answers():
        first, second = FUNCTION.batch([b"1", b"2"])
        assert (first.status, first.json()) == (200, {"y": 1})

The worker is production's own (``worker.serve``), in a process of its own, so one test run may try several
functions. It has no queue in front of it, so the test decides which requests share a batch. With
``in_process=True`` the test's process is the worker, where a debugger and coverage see the handler.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final
from unittest.mock import patch

from batching_watchdog.app import configured
from batching_watchdog.config import Config
from batching_watchdog.errors import HandlerNotLoaded, StartFailed, WorkerDied
from batching_watchdog.front.streams import whole
from batching_watchdog.function import wire
from batching_watchdog.function.event import Event, Fields
from batching_watchdog.function.folder import find
from batching_watchdog.function.messages import Crash, Failure, Output, Reply
from batching_watchdog.observe.logs import printable
from batching_watchdog.pool.child import worker_environment
from batching_watchdog.pool.gunicorn import gunicorn_command, new_folder
from batching_watchdog.worker.devices import device, threads
from batching_watchdog.worker.handler import Handler
from batching_watchdog.worker.streams import RunningStreams

POLL_SECONDS: Final = 0.02
"""Between two tries to connect to the worker that starts."""
STOP_SECONDS: Final = 3.0
"""Time in which the worker must end before it is killed."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a client gets for one request."""

    status: int
    headers: Fields
    body: bytes

    def json(self) -> Any:
        """Return the body as JSON. Raises ``ValueError`` if it is not."""
        return json.loads(self.body)


class Function:
    """The function in a folder, with one worker process from its first request until the test run ends."""

    def __init__(
        self, folder: str | Path, environ: Mapping[str, str] | None = None, *, in_process: bool = False
    ) -> None:
        """``folder`` has handler.py; settings come from ``environ``, then from the stack file above.

        ``environ``: None is this process's.

        ``in_process``: load and run the handler in this process, for a debugger and coverage. Functions then
        share their modules by name, and no time limit holds. Raises ``HandlerNotLoaded`` if there is no
        handler.py, ``ConfigError`` for a bad setting.
        """
        own = {"workers": "1", "preload": "false"}
        self._environ = find(Path(folder), own, os.environ if environ is None else environ).environ
        self._config = configured(self._environ)
        self._in_process = in_process
        self._worker: _WorkerProcess | _InProcess | None = None

    @property
    def examples(self) -> Sequence[bytes]:
        """The bodies that the handler's example() returns; none without one."""
        return self._started().examples

    def call(
        self, body: bytes, *, method: str = "POST", path: str = "/", headers: Mapping[str, str] | None = None
    ) -> Answer:
        """Return the answer to one request that is alone in its batch. Raises as ``batch``."""
        return self.batch([body], method=method, path=path, headers=headers)[0]

    def batch(
        self,
        bodies: Sequence[bytes],
        *,
        method: str = "POST",
        path: str = "/",
        headers: Mapping[str, str] | None = None,
    ) -> list[Answer]:
        """Return the answers to requests with these bodies, in order, as one batch.

        A batch that fails as a whole is tried again in halves, as in production. Of a function that streams
        an answer has all pieces, or is the error with which it breaks off. What the handler raises goes to
        stderr. Raises ``HandlerNotLoaded`` if it cannot be loaded, ``WorkerDied`` if it ends the
        worker or takes longer than exec_timeout; the first batch, than load_timeout. Raises ``TypeError`` for
        a body that is not bytes.
        """
        if not all(isinstance(body, bytes) for body in bodies):
            raise TypeError("a body is bytes, as a client sends it: b'text', or json.dumps(value).encode()")
        fields = [
            (name.encode("latin-1"), value.encode("latin-1")) for name, value in (headers or {}).items()
        ]
        head = wire.request_header_block(method.encode(), path.encode(), fields)
        return [
            Answer(reply.status, _headers(reply.header_block), reply.body)
            for reply in self._served([(head, body) for body in bodies])
        ]

    def close(self) -> None:
        """End the worker process; the next request starts another."""
        if self._worker is not None:
            self._worker.stop()
            self._worker = None

    def _served(self, requests: Sequence[tuple[bytes, bytes]]) -> list[Reply]:
        if not requests:
            return []
        worker = self._started()
        try:
            if worker.streams:
                return self._streamed(worker, requests)
            outcome = worker.serve(requests)
        except WorkerDied:
            self.close()
            raise
        if isinstance(outcome, Crash):
            _show(Failure(f"handler error: a batch of {len(requests)} requests failed", outcome.error))
            half = (len(requests) + 1) // 2
            return self._served(requests[:half]) + self._served(requests[half:])
        return outcome

    def _streamed(
        self, worker: "_WorkerProcess | _InProcess", requests: Sequence[tuple[bytes, bytes]]
    ) -> list[Reply]:
        pieces: list[list[Reply]] = [[] for _ in requests]
        for output in worker.stream(requests):
            if output.reply is not None:
                pieces[output.stream].append(output.reply)
        replies = [whole(*request, sent) for request, sent in zip(requests, pieces, strict=True)]
        if any(reply.failed for reply in replies):
            self.close()  # a step that fails ends the worker
        return replies

    def _started(self) -> "_WorkerProcess | _InProcess":
        if self._worker is None:
            kind = _InProcess if self._in_process else _WorkerProcess
            self._worker = kind(self._config, self._environ)
        return self._worker


class _InProcess:
    """The handler in this process."""

    def __init__(self, _config: Config, environ: Mapping[str, str]) -> None:
        self._environ = environ
        with patch.dict(os.environ, environ):
            self._handler = Handler(environ["function_path"], threads=threads(), device=device())
        self._handler.report = _show
        self.examples = self._handler.examples
        self.streams = self._handler.stream is not None

    def serve(self, requests: Sequence[tuple[bytes, bytes]]) -> list[Reply] | Crash:
        """Return the replies to one batch, or how it failed as a whole."""
        with patch.dict(os.environ, self._environ):
            return self._handler.serve([Event(head, body) for head, body in requests])

    def stream(self, requests: Sequence[tuple[bytes, bytes]]) -> Iterable[Output]:
        """Yield the outputs of requests whose streams start together."""
        streams = RunningStreams(self._handler)
        for stream, (head, body) in enumerate(requests):
            streams.join(stream, Event(head, body))
        while streams:
            with patch.dict(os.environ, self._environ):
                outputs = streams.iterate().outputs
            yield from outputs

    def stop(self) -> None:
        """Do nothing: there is no process to end."""


class _WorkerProcess:
    """A worker process under gunicorn, and the connection to it."""

    def __init__(self, config: Config, environ: Mapping[str, str]) -> None:
        folder = new_folder()
        path = folder / "workers.sock"
        process = subprocess.Popen(  # noqa: S603 - our own command
            gunicorn_command(config, path, folder),
            env=worker_environment(config, environ),
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        connection = socket.socket(socket.AF_UNIX)
        self._connection = connection
        self._replies: BinaryIO = connection.makefile("rb")
        # Also runs when the interpreter ends.
        self.stop = weakref.finalize(self, _stop, process, connection, self._replies, folder)
        while True:
            if process.poll() is not None:
                self.stop()
                raise StartFailed(f"the worker ended with status {process.returncode} before it came up")
            with suppress(OSError):
                connection.connect(str(path))
                break
            time.sleep(POLL_SECONDS)
        self.handshake = wire.decode_handshake(*self._frame())
        if self.handshake.error is not None:
            self.stop()
            sys.stderr.write(f"{printable(self.handshake.trace)}\n")
            raise HandlerNotLoaded(self.handshake.error, self.handshake.trace)
        self.examples, self.streams = self.handshake.examples, self.handshake.streams
        self._config, self._limit = config, "load_timeout"
        connection.settimeout(config.load_timeout)

    def serve(self, requests: Sequence[tuple[bytes, bytes]]) -> list[Reply] | Crash:
        """Return the replies to one batch, or how it failed as a whole."""
        with suppress(OSError):  # its end shows when reading
            self._connection.sendall(b"".join(wire.encode_requests(requests)))
        while True:
            header, data = self._frame()
            if header.kind is wire.Kind.FAILURE:
                _show(wire.decode_failure(header, data))
            elif header.kind is wire.Kind.CRASH:
                self._ran()
                return wire.decode_crash(header, data)
            else:
                self._ran()
                return wire.decode_replies(header, data)[0]

    def stream(self, requests: Sequence[tuple[bytes, bytes]]) -> Iterator[Output]:
        """Yield the outputs of requests whose streams start together."""
        join = [(stream, *request) for stream, request in enumerate(requests)]
        with suppress(OSError):  # its end shows when reading
            self._connection.sendall(b"".join(wire.encode_join(join)))
        left = len(requests)
        while left:
            header, data = self._frame()
            if header.kind is wire.Kind.FAILURE:
                _show(wire.decode_failure(header, data))
                continue
            outputs = wire.decode_iteration(header, data).outputs
            left -= sum(output.done for output in outputs)
            self._ran()
            yield from outputs

    def _frame(self) -> tuple[wire.FrameHeader, memoryview]:
        header = wire.decode_header(self._read(wire.HEADER_SIZE))
        return header, memoryview(self._read(header.size))

    def _ran(self) -> None:
        """Give the next batch ``exec_timeout``: the first one may have compiled."""
        self._limit = "exec_timeout"
        self._connection.settimeout(self._config.exec_timeout)

    def _read(self, size: int) -> bytes:
        try:
            data = self._replies.read(size)
        except ConnectionError:
            data = b""
        except TimeoutError:
            with suppress(ProcessLookupError):
                os.kill(self.handshake.pid, signal.SIGABRT)  # it writes its stack
            raise WorkerDied(f"the worker took longer than {self._limit}, and is ended") from None
        if len(data) < size:
            raise WorkerDied("the worker process ended under this batch; its output has the reason")
        return data


def _show(failure: Failure) -> None:
    sys.stderr.write(f"{printable(str(failure))}\n")


def _headers(block: bytes) -> Fields:
    return Fields(wire.parse_header_block(b"- -\r\n" + block)[2], headers=True)


def _stop(
    process: subprocess.Popen[bytes], connection: socket.socket, replies: BinaryIO, folder: Path
) -> None:
    replies.close()
    connection.close()
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    with suppress(ProcessLookupError):  # what it has started and left
        os.killpg(process.pid, signal.SIGKILL)
    shutil.rmtree(folder, ignore_errors=True)
