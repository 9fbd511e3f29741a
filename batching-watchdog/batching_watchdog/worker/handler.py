"""Loads ``handler.py``, calls it, and turns its results into replies.

Owns the handler contract: python3-http's conventions, plus batches. It runs in the worker process and knows
nothing of gunicorn, sockets or frames: events in, replies out. Exceptions of the function never leave it.
Next step: ``serve`` sends the replies back.
"""

import json
import os
import socket
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from batching_watchdog import wire
from batching_watchdog.errors import HandlerNotLoaded, Poisoned
from batching_watchdog.function import Event, explain, import_handler, trace_of
from batching_watchdog.logs import printable
from batching_watchdog.messages import Crash, Failure, Reply
from batching_watchdog.trace_context import parse_traceparent

_NO_BATCH: Final = (dict, str, bytes)
"""Types that have a length and yet are the result of one request."""
_FAILED: Final = Reply(
    500,
    b"Content-Type: text/plain; charset=utf-8\r\n",
    b"the function failed on this request; its log has the reason\n",
    failed=True,
)


class Context:
    """The handler's second argument: python3-http's ``hostname``, and ``model`` from load()."""

    __slots__ = ("hostname", "model")

    def __init__(self, model: Any) -> None:
        self.hostname = socket.gethostname()
        self.model = model


class Handler:
    """A loaded ``handler.py``: batches in, replies out. Exceptions of the function never leave it."""

    def __init__(self, function_path: str) -> None:
        """Import the handler and run its load().

        Raises ``HandlerNotLoaded`` with the place and the function's own error.
        """
        began = time.monotonic()
        module = import_handler(Path(function_path))
        self.import_seconds = time.monotonic() - began
        self._handle_batch: Callable[[Sequence[Event], Context], Sequence[Any]] | None = getattr(
            module, "handle_batch", None
        )
        self._handle: Callable[[Event, Context], Any] | None = getattr(module, "handle", None)
        if not callable(self._handle_batch) and not callable(self._handle):
            raise HandlerNotLoaded(
                f"{module.__file__} defines neither handle_batch(events, context) nor handle(event, context)"
            )
        self._pid = os.getpid()
        """The process that serves."""
        self.mix_paths: bool = getattr(module, "mix_paths", True)
        if not isinstance(self.mix_paths, bool):
            raise HandlerNotLoaded(f"{module.__file__}: mix_paths must be True or False")
        load, example = getattr(module, "load", None), getattr(module, "example", None)
        self.report: Callable[[Failure], None] = _print
        """Receives each error of the function while it serves."""
        doing = "load()"
        try:
            began = time.monotonic()
            self._context = Context(load() if load else None)
            self.load_seconds = time.monotonic() - began
            doing = "example()"
            self.example: bytes | None = example() if example else None
        # Any error of load() ends the start with one message, and so does sys.exit().
        except BaseException as error:
            raise HandlerNotLoaded(explain(doing, error), trace_of(error)) from error
        if not isinstance(self.example, bytes | None):
            kind = type(self.example).__name__
            raise HandlerNotLoaded(f"{module.__file__}: example() must return bytes, not {kind}")

    def serve(self, events: Sequence[Event]) -> list[Reply] | Crash:
        """Return one reply per event, in order; a ``Crash`` if a batch of several failed as a whole.

        Raises ``Poisoned`` if this process cannot serve any more.
        """
        self._pid = os.getpid()
        if self._handle_batch is None:
            return [self._serve_alone(event) for event in events]
        error = None
        try:
            results = self._handle_batch(events, self._context)
            if isinstance(results, _NO_BATCH) or not hasattr(results, "__len__"):
                kind = type(results).__name__
                problem = f"handle_batch returned {kind}, not a list with one result for each event"
            elif len(results) != len(events):
                problem = f"handle_batch returned {len(results)} results for {len(events)} events"
            else:
                return [self._reply(result, event) for result, event in zip(results, events, strict=True)]
        except BaseException as raised:  # a handler may raise anything; which event is at fault shows alone
            self._leave_if_forked()
            error, problem = raised, trace_of(raised)
            _end_if_poisoned(raised)
        if len(events) == 1:
            return [self._failure(problem, events[0])]
        return Crash(problem, _FAILED, out_of_memory=_is_out_of_memory(error))

    def serve_one(self, event: Event) -> Reply:
        """Return the reply to one event, as the only one of its batch."""
        replies = self.serve([event])
        assert isinstance(replies, list), "only a batch of several crashes"  # noqa: S101 - for the type checker
        return replies[0]

    def _serve_alone(self, event: Event) -> Reply:
        assert self._handle is not None, "checked on loading"  # noqa: S101 - for the type checker
        try:
            return self._reply(self._handle(event, self._context), event)
        except BaseException as error:  # a handler may raise anything
            self._leave_if_forked()
            _end_if_poisoned(error)
            trace = trace_of(error)
            try:
                return self._reply(error.get_response(), event)  # type: ignore[attr-defined] # Flask's abort() has it
            except Exception:  # it has none, or cannot make it
                return self._failure(trace, event)

    def _leave_if_forked(self) -> None:
        """Raise the current exception again in a process that the handler forked: sys.exit() ends it so."""
        if os.getpid() != self._pid:
            raise  # noqa: PLE0704 - called while one is handled

    def _reply(self, result: Any, event: Event) -> Reply:
        """Return the reply to a handler's result (the watchdog's README, "The handler")."""
        try:
            return self._encode_result(result, event)
        except Exception as error:  # a result's own methods may raise anything
            _end_if_poisoned(error)  # a device's error may show when its result is read
            return self._failure(f"the result cannot be sent\n{trace_of(error)}", event)

    def _encode_result(self, result: Any, event: Event) -> Reply:  # noqa: PLR0911 - one return per kind of result
        if isinstance(result, bytes | bytearray | memoryview):
            return Reply(200, b"Content-Type: application/octet-stream\r\n", bytes(result))
        if isinstance(result, str):
            return Reply(200, b"Content-Type: text/plain; charset=utf-8\r\n", result.encode())
        if result is None:
            return Reply(200, b"Content-Type: text/plain; charset=utf-8\r\n", b"")
        if isinstance(result, BaseException):
            return self._failure(trace_of(result), event, shown=str(result))
        if (
            isinstance(result, dict)
            and ("statusCode" in result or "body" in result)
            and result.keys() <= {"statusCode", "body", "headers"}
        ):
            headers = result.get("headers") or {}
            return self._with_status(result.get("body"), result.get("statusCode", 200), headers, event)
        # A number is no body, as in Flask: a pair of score and label is a result of its own.
        if (
            isinstance(result, tuple)
            and 2 <= len(result) <= 3
            and isinstance(result[1], int)
            and not (isinstance(result[0], int | float) or hasattr(result[0], "tolist"))
        ):
            return self._with_status(result[0], result[1], result[2] if len(result) > 2 else {}, event)
        if hasattr(result, "get_data") and hasattr(result, "status_code"):  # a Flask or werkzeug Response
            return self._with_status(result.get_data(), result.status_code, result.headers, event)
        return Reply(200, b"Content-Type: application/json\r\n", _JSON.encode(result).encode())

    def _with_status(self, body: Any, status: Any, headers: Any, event: Event) -> Reply:
        """Return the reply to a result with status and headers: a mapping, or pairs to repeat a name."""
        failed = isinstance(body, BaseException)
        reply = self._failure(trace_of(body), event) if failed else self._encode_result(body, event)
        status = int(status)
        if not 200 <= status <= 599:
            raise ValueError(f"statusCode {status} is not between 200 and 599")
        pairs = list(headers.items() if hasattr(headers, "items") else headers)
        lines = [wire.reply_header(str(name), str(value)) for name, value in pairs]
        if not any(str(name).lower() == "content-type" for name, _ in pairs):
            lines.insert(0, reply.header_block)
        return Reply(status, b"".join(lines), reply.body, reply.failed)

    def _failure(self, trace: str, event: Event, shown: str | None = None) -> Reply:
        """Return status 500 for one event. The trace goes to the log, never to the client."""
        call_id = event.headers.get("X-Call-Id", "")
        # Control characters of a client are escaped, because the log may be read on a terminal.
        named = f"{event.method} {ascii(event.path)[1:-1]}"
        if call_id:
            named += f" [{ascii(call_id)[1:-1]}]"
        context = parse_traceparent(event.headers.get("traceparent", "").encode("latin-1"))
        trace_id = "" if context is None else context.trace_id
        if trace_id:
            named += f" trace {trace_id}"
        self.report(Failure(f"handler error: {named}", trace, call_id, trace_id))
        return _FAILED if shown is None else _FAILED._replace(body=f"{shown}\n".encode())


def _end_if_poisoned(error: BaseException) -> None:
    """Raise ``Poisoned`` for an error of the accelerator that each later call in this process repeats.

    torch's CUDA errors are sticky, all but the lack of memory (CUDA C++ Programming Guide, "Error Checking").
    """
    if isinstance(error, Poisoned):
        raise error
    named = any(kind.__name__ == "AcceleratorError" for kind in type(error).__mro__)
    sticky = named or (isinstance(error, RuntimeError) and "CUDA error:" in str(error))
    if sticky and not _is_out_of_memory(error):
        raise Poisoned(explain("the accelerator", error), trace_of(error)) from error


def _is_out_of_memory(error: BaseException | None) -> bool:
    """Return whether ``error`` is Python's or torch's lack of memory, on a device or the host."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    text = str(error).lower() if isinstance(error, RuntimeError) else ""  # some have no type of their own
    return "out of memory" in text or "can't allocate memory" in text


def _print(failure: Failure) -> None:
    sys.stderr.write(f"{printable(str(failure))}\n")
    sys.stderr.flush()


def _to_list(value: Any) -> Any:
    """Return an array or a tensor as a list; raise ``TypeError`` for anything else."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is not JSON")


# With arguments json.dumps makes a new encoder for each call. NaN and Infinity are not JSON.
_JSON: Final = json.JSONEncoder(default=_to_list, separators=(",", ":"), allow_nan=False)
