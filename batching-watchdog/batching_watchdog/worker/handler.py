"""Loads ``handler.py``, calls it, and answers for its errors.

Owns the handler contract: python3-http's conventions, plus batches. It runs in the worker process and knows
nothing of gunicorn, sockets or frames: events in, replies out. Exceptions of the function never leave it.
Next step: ``serve`` sends the replies back.
"""

import bdb
import inspect
import os
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from batching_watchdog.errors import BadRequest, HandlerNotLoaded, Poisoned
from batching_watchdog.function.event import (
    Context,
    Event,
    browser_hint,
    explain,
    import_handler,
    own_place,
    trace_of,
)
from batching_watchdog.function.messages import Crash, Failure, Reply, Response
from batching_watchdog.observe.logs import LineLimit, printable
from batching_watchdog.observe.trace_context import parse_traceparent
from batching_watchdog.worker.generator import closed_batches
from batching_watchdog.worker.results import (
    FAILED,
    encode,
    first_line,
    listed,
    refusal,
    text_of,
    with_status,
)

_OF_THE_MACHINE: Final = (MemoryError, ImportError, NameError, ConnectionError, TimeoutError)
"""Errors of parse() that blame the function, as does an ``OSError`` with an errno. All others are of the
input, which may make a reader raise anything."""
CLIENT_LINES: Final = 1
"""Lines per second and worker for errors of clients."""


@dataclass(frozen=True, slots=True)
class StreamFunctions:
    """What a function that streams defines: ``start`` and ``step``, or a generator ``handle_batch``."""

    start: Callable[[Sequence[Any], Context], Sequence[Any]]
    step: Callable[[Sequence[Any], Context], Sequence[Any]]
    finish: Callable[[Any, Context], Any] | None
    closed: bool = False
    """Whether those that start together are one batch, which no stream joins."""


class Handler:
    """A loaded ``handler.py``: batches in, replies out. Exceptions of the function never leave it."""

    def __init__(self, function_path: str, *, threads: int = 1, device: str = "cpu") -> None:
        """Import the handler and run its load(). ``threads`` and ``device``: the context's.

        Raises ``HandlerNotLoaded`` with the place and the function's own error.
        """
        began = time.monotonic()
        module = import_handler(Path(function_path))
        self.import_seconds = time.monotonic() - began
        self._handle_batch: Callable[[Sequence[Any], Context], Sequence[Any]] | None = getattr(
            module, "handle_batch", None
        )
        self._handle: Callable[[Any, Context], Any] | None = getattr(module, "handle", None)
        for name in ("handle_batch", "handle", "start", "step", "finish", "load", "example"):
            function = getattr(module, name, None)
            if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
                raise HandlerNotLoaded(
                    f"{module.__file__}: async def {name}: a worker has no event loop and runs one batch at"
                    f" a time; write def {name}, and run coroutines in it by asyncio.run()"
                )
        parse = getattr(module, "parse", None)
        self._parse: Callable[[Event], Any] | None = parse if _takes_event(parse) else None
        """Makes what the handler gets in place of an event."""
        if callable(parse) and self._parse is None:
            sys.stderr.write(f"{module.__file__}: parse is not called: its argument is not named event\n")
        self._client_lines = LineLimit(CLIENT_LINES)
        self.stream = _stream_functions(module)
        if self.stream is None and not callable(self._handle_batch) and not callable(self._handle):
            raise HandlerNotLoaded(
                f"{module.__file__} defines neither handle_batch(events, context) nor handle(event, context),"
                " nor start(events, context) and step(states, context)"
            )
        self.batched = self._handle_batch is not None
        """Whether it answers a batch in one call."""
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
            self.context = Context(threads, device)
            if load:
                self.context.model = load(self.context) if _takes_context(load) else load()
            self.load_seconds = time.monotonic() - began
            doing = "example()"
            bodies = example() if example else ()
        # Any error of load() ends the start with one message, and so does sys.exit().
        except BaseException as error:
            raise HandlerNotLoaded(explain(doing, error), trace_of(error)) from error
        examples = tuple(bodies) if isinstance(bodies, list | tuple) else (bodies,)
        for body in examples:
            if not isinstance(body, bytes):
                kind = type(body).__name__
                problem = f"example() must return bytes or a list of bytes, not {kind}"
                raise HandlerNotLoaded(f"{module.__file__}: {problem}")
        self.examples: tuple[bytes, ...] = examples
        """Typical bodies; empty without example()."""

    def serve(self, events: Sequence[Event]) -> list[Reply] | Crash:
        """Return one reply per event, in order; a ``Crash`` if a batch of several failed as a whole.

        Raises ``Poisoned`` if this process cannot serve any more.
        """
        replies: dict[Event, Reply] = {}
        inputs = self.inputs(events, replies)
        left = dict(zip((event for event in events if event not in replies), inputs, strict=True))
        parts, searched = [left] if left else [], False
        while parts:
            part = parts.pop()
            try:
                outcome = self._run(part)
            except BadRequest as error:  # of one event, which it names: the others run again
                bad = next(event for event in part if event is error.event)
                replies[bad] = self.error(error, bad)
                del part[bad]
                unread: set[Event] = set()
                if not searched and not _is_json(bad):
                    # Others like it would be a run each, so they run apart: the function may not read them.
                    searched, unread = True, {event for event in part if not _is_json(event)}
                apart = {event: given for event, given in part.items() if event in unread}
                others = {event: given for event, given in part.items() if event not in unread}
                parts += filter(None, (apart, others))
            else:
                if isinstance(outcome, Crash):
                    return outcome
                replies.update(zip(part, outcome, strict=True))
        return [replies[event] for event in events]

    def inputs(self, events: Sequence[Event], answered: dict[Event, Reply]) -> Sequence[Any]:
        """Return what the function gets for events; those that parse() answers, or fails on, get a reply."""
        self._pid = os.getpid()
        if self._parse is None:
            return events
        inputs = []
        for event in events:
            try:
                given = self._parse(event)
            except BaseException as error:  # a handler may raise anything
                self._leave_if_forked()
                answered[event] = self.error(error, event, parsing=True)
            else:
                if isinstance(given, Response):
                    answered[event] = self.reply(given, event)
                else:
                    inputs.append(given)
        return inputs

    def _run(self, inputs: Mapping[Event, Any]) -> list[Reply] | Crash:
        """Return the replies to events, whose ``inputs`` the handler gets; a ``Crash`` if all failed at once.

        Raises the ``BadRequest`` of a batch that names one of its events.
        """
        handle_batch, context = self._handle_batch, self.context
        if handle_batch is None:
            return [self._serve_alone(given, event) for event, given in inputs.items()]
        given = list(inputs.values())  # its own: it may take events off
        results, problem, error = self.guarded(
            lambda: handle_batch(given, context), "handle_batch", len(inputs), "events"
        )
        if not problem:
            return [self.reply(result, event) for result, event in zip(results, inputs, strict=True)]
        if isinstance(error, BadRequest) and any(event is error.event for event in inputs):
            raise error
        if len(inputs) == 1:
            return [self.blamed(problem, error, event) for event in inputs]
        return Crash(problem, FAILED, out_of_memory=is_out_of_memory(error))

    def guarded(
        self, call: Callable[[], Sequence[Any]], name: str, count: int, of: str
    ) -> tuple[list[Any], str, BaseException | None]:
        """Return what ``call`` of the function ``name`` returns, if it has ``count`` results for its ``of``.

        Else the problem, and the error if it raised one. Raises ``Poisoned``.
        """
        try:
            results = call()
            one_by_one = listed(results)
        except BaseException as error:  # the function, or its result, may raise anything
            self._leave_if_forked()
            _end_if_poisoned(error)
            return [], trace_of(error), error
        if one_by_one is None:
            kind = type(results).__name__
            return [], f"{name} returned {kind}, not a list with one result for each of its {of}", None
        if len(one_by_one) != count:
            return [], f"{name} returned {len(one_by_one)} results for {count} {of}", None
        return one_by_one, "", None

    def blamed(self, problem: str, error: BaseException | None, event: Event) -> Reply:
        """Return the reply to an event for what ``guarded`` has returned."""
        return self.failure(problem, event) if error is None else self.error(error, event)

    def quietly(self, call: Callable[[], Any], event: Event) -> None:
        """Call the function; its error goes to the log only. Raises ``Poisoned``."""
        try:
            call()
        except BaseException as error:  # the function may raise anything
            self._leave_if_forked()
            _end_if_poisoned(error)
            self.failure(trace_of(error), event)

    def serve_one(self, event: Event) -> Reply:
        """Return the reply to one event, as the only one of its batch."""
        replies = self.serve([event])
        assert isinstance(replies, list), "only a batch of several crashes"  # noqa: S101 - for the type checker
        return replies[0]

    def _serve_alone(self, given: Any, event: Event) -> Reply:
        assert self._handle is not None, "checked on loading"  # noqa: S101 - for the type checker
        try:
            return self.reply(with_status(self._handle(given, self.context)), event)
        except BaseException as error:  # a handler may raise anything
            self._leave_if_forked()
            return self.error(error, event)

    def _leave_if_forked(self) -> None:
        """Raise the current exception again in a process that the handler forked: sys.exit() ends it so."""
        if os.getpid() != self._pid:
            raise  # noqa: PLE0704 - called while one is handled

    def reply(self, result: Any, event: Event, *, encoded: Callable[[Any], Reply] = encode) -> Reply:
        """Return the reply to a handler's result (the watchdog's README, "The handler")."""
        try:
            if isinstance(result, BaseException):
                return self.error(result, event, shown=text_of(result))
            return encoded(result)
        except BaseException as error:  # a result's own methods may raise anything
            self._leave_if_forked()
            _end_if_poisoned(error)  # a device's error may show when its result is read
            return self.failure(f"the result cannot be sent\n{trace_of(error)}", event)

    def error(
        self, error: BaseException, event: Event, *, parsing: bool = False, shown: bytes = FAILED.body
    ) -> Reply:
        """Return the reply to an event that raised ``error`` or has it as its result; log whose fault it is.

        ``shown``: the body where the function is at fault. Raises ``Poisoned``.
        """
        _end_if_poisoned(error)
        if isinstance(error, bdb.BdbQuit):
            error.add_note("breakpoint() needs a terminal: batching-watchdog serve --debug")
        with suppress(Exception):  # it cannot be sent
            text = _one_line(error)
            if isinstance(error, BadRequest):
                reply = encode(error)
            elif parsing and not hasattr(error, "get_response") and _blames_client(error):
                file, line = own_place(error)
                place = f" ({Path(file).name}, line {line})" if file else ""
                reply = refusal(error, f"{text}{place}{browser_hint(event)}")
                text = first_line(reply.body.decode())
            else:  # Flask's abort() raises what has it
                reply = encode(error.get_response())  # type: ignore[attr-defined]
            if 400 <= reply.status < 500:
                self._log_client_error(text, reply.status, event)
                return reply._replace(client_error=True)
            return reply
        return self.failure(trace_of(error), event)._replace(body=shown.rstrip() + b"\n")

    def _log_client_error(self, text: str, status: int, event: Event) -> None:
        left_out = self._client_lines.admit(time.monotonic())
        if left_out is not None:
            named, call_id, trace_id = _named(event)
            more = f" ({left_out} more such lines were left out)" if left_out else ""
            line = f"client error: {named}: {status}, {text}{more}"
            self.report(Failure(line, "", call_id, trace_id, client_error=True))

    def failure(self, trace: str, event: Event) -> Reply:
        """Return status 500 for one event. The trace goes to the log, never to the client."""
        named, call_id, trace_id = _named(event)
        self.report(Failure(f"handler error: {named}", trace, call_id, trace_id))
        return FAILED


def _named(event: Event) -> tuple[str, str, str]:
    """Return the name of an event in the log, its call id and its trace id."""
    call_id = event.headers.get("X-Call-Id", "")
    # Control characters of a client are escaped, because the log may be read on a terminal.
    named = f"{event.method} {ascii(event.path)[1:-1]}"
    if call_id:
        named += f" [{ascii(call_id)[1:-1]}]"
    context = parse_traceparent(event.headers.get("traceparent", "").encode("latin-1"))
    trace_id = "" if context is None else context.trace_id
    if trace_id:
        named += f" trace {trace_id}"
    return named, call_id, trace_id


def _is_json(event: Event) -> bool:
    try:
        event.json()
    except BadRequest:
        return False
    return True


def _takes_context(load: Callable[..., Any]) -> bool:
    """Return whether ``load`` cannot be called without an argument."""
    try:
        parameters = inspect.signature(load).parameters.values()
    except (TypeError, ValueError):  # it is not Python code
        return False
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return any(each.default is each.empty and each.kind in positional for each in parameters)


def _takes_event(parse: Any) -> bool:
    """Return whether ``parse`` is parse(event), not a helper of the handler's own by that name."""
    try:
        return list(inspect.signature(parse).parameters) == ["event"]
    except (TypeError, ValueError):  # it is not callable, or it is not Python code
        return False


def _blames_client(error: BaseException) -> bool:
    """Return whether an error of parse() is the client's."""
    if isinstance(error, OSError) and error.errno is not None:  # Pillow's and gzip's have none
        return False
    of_the_machine = isinstance(error, _OF_THE_MACHINE) or is_out_of_memory(error)
    return isinstance(error, Exception) and not of_the_machine


def _one_line(error: BaseException) -> str:
    """Return the error in one line, without the traceback."""
    if isinstance(error, BadRequest):
        return first_line(str(error))
    lines = traceback.format_exception_only(error)
    return first_line(lines[-1] if isinstance(error, SyntaxError) else lines[0])


def _stream_functions(module: ModuleType) -> StreamFunctions | None:
    """Return the functions of a handler that streams, None of another one. Raises ``HandlerNotLoaded``."""
    start, step, finish = (getattr(module, name, None) for name in ("start", "step", "finish"))
    batch = getattr(module, "handle_batch", None)
    if not (callable(start) or callable(step)):
        if batch is None or not inspect.isgeneratorfunction(batch):
            return None
        return StreamFunctions(*closed_batches(batch), closed=True)
    whole = [name for name in ("handle", "handle_batch") if callable(getattr(module, name, None))]
    if whole:
        problem = f"start or step and {whole[0]}: a function streams, or answers as a whole"
        raise HandlerNotLoaded(f"{module.__file__} defines {problem}")
    if not (callable(start) and callable(step)):
        missing = "step(states, context)" if callable(start) else "start(events, context)"
        raise HandlerNotLoaded(f"{module.__file__}: a function that streams must define {missing} too")
    return StreamFunctions(start, step, finish)


def _end_if_poisoned(error: BaseException) -> None:
    """Raise ``Poisoned`` for an error of the accelerator that each later call in this process repeats.

    torch's CUDA errors are sticky, all but the lack of memory (CUDA C++ Programming Guide, "Error Checking").
    """
    if isinstance(error, Poisoned):
        raise error
    named = any(kind.__name__ == "AcceleratorError" for kind in type(error).__mro__)
    sticky = named or (isinstance(error, RuntimeError) and "CUDA error:" in str(error))
    if sticky and not is_out_of_memory(error):
        raise Poisoned(explain("the accelerator", error), trace_of(error)) from error


def is_out_of_memory(error: BaseException | None) -> bool:
    """Return whether ``error`` is Python's or torch's lack of memory, on a device or the host."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    text = str(error).lower() if isinstance(error, RuntimeError) else ""  # some have no type of their own
    return "out of memory" in text or "can't allocate memory" in text


def _print(failure: Failure) -> None:
    sys.stderr.write(f"{printable(str(failure))}\n")
    sys.stderr.flush()
