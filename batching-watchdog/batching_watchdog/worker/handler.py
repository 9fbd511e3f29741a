"""The function's own code: loading ``handler.py``, calling it, and what its results mean.

Owns the handler contract (design: python3-http's conventions, plus batches). It runs in the worker process
and knows nothing of gunicorn, sockets or frames: events in, replies out. Exceptions of the function never
leave it. Next step: ``serve`` sends the replies back.
"""

import importlib.util
import json
import socket
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Final
from urllib.parse import parse_qsl, unquote

from batching_watchdog import wire
from batching_watchdog.errors import HandlerNotLoaded
from batching_watchdog.logs import printable
from batching_watchdog.messages import Reply

_Convert = Callable[[str], Any] | None


class Event:
    """One request as the handler sees it: python3-http's event, plus ``json()``.

    ``body`` (bytes), ``method``, ``path`` (decoded, without the query), ``query`` and ``headers``: mappings,
    with what such handlers use of Flask's besides (``getlist``, ``get`` with ``type``, ``to_dict``).
    """

    __slots__ = ("_head", "_parsed", "body")

    def __init__(self, head: bytes, body: bytes) -> None:
        self._head = head
        self._parsed: tuple[str, str, Headers, Query] | None = None
        self.body = body

    @property
    def method(self) -> str:
        """The HTTP method, in upper case."""
        return self._parse()[0]

    @property
    def path(self) -> str:
        """The path, percent-decoded."""
        return self._parse()[1]

    @property
    def headers(self) -> "Headers":
        """The request's headers; names are case-insensitive."""
        return self._parse()[2]

    @property
    def query(self) -> "Query":
        """The query's parameters; of a repeated one, the first."""
        return self._parse()[3]

    def json(self) -> Any:
        """The body as JSON. Raises ``ValueError`` if it is not."""
        return json.loads(self.body)

    def _parse(self) -> "tuple[str, str, Headers, Query]":
        # Most handlers look at the body only, so the head is parsed on first use.
        if self._parsed is None:
            method, target, headers = wire.parse_header_block(self._head)
            path, _, query = target.partition("?")
            self._parsed = (method, unquote(path), Headers(headers), Query(query))
        return self._parsed


class Headers(Mapping[str, str]):
    """Read-only headers; lookups ignore case, repeated ones are joined by a comma."""

    __slots__ = ("_fields",)

    def __init__(self, fields: Iterable[tuple[str, str]]) -> None:
        self._fields: dict[str, tuple[str, str]] = {}
        for name, value in fields:
            key = name.lower()
            before = self._fields.get(key)
            self._fields[key] = (before[0], f"{before[1]}, {value}") if before else (name, value)

    def __getitem__(self, name: str) -> str:
        return self._fields[name.lower()][1]

    def __iter__(self) -> Iterator[str]:
        return (name for name, _ in self._fields.values())

    def __len__(self) -> int:
        return len(self._fields)

    def __repr__(self) -> str:
        return f"Headers({dict(self)!r})"

    def get(self, name: str, default: Any = None, type: _Convert = None) -> Any:  # noqa: A002 - Flask's name
        """The header, as ``type`` has it; ``default`` if there is none, or ``type`` does not take it."""
        return _converted(self, name, default, type)

    def getlist(self, name: str) -> list[str]:
        """The header in a list, which is empty if there is none."""
        return [self[name]] if name in self else []


class Query(Mapping[str, str]):
    """Read-only parameters; of a repeated one, the first."""

    __slots__ = ("_values",)

    def __init__(self, query: str) -> None:
        self._values: dict[str, list[str]] = {}
        for name, value in parse_qsl(query, keep_blank_values=True):
            self._values.setdefault(name, []).append(value)

    def __getitem__(self, name: str) -> str:
        return self._values[name][0]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"Query({self._values!r})"

    def get(self, name: str, default: Any = None, type: _Convert = None) -> Any:  # noqa: A002 - Flask's name
        """The parameter, as ``type`` has it; ``default`` if there is none, or ``type`` does not take it."""
        return _converted(self, name, default, type)

    def getlist(self, name: str) -> list[str]:
        """All values of a parameter, in their order."""
        return list(self._values.get(name, ()))

    def to_dict(self) -> dict[str, str]:
        """The first value of each parameter."""
        return dict(self)


def _converted(values: Mapping[str, str], name: str, default: Any, convert: "_Convert") -> Any:
    if name not in values:
        return default
    if convert is None:
        return values[name]
    try:
        return convert(values[name])
    except (TypeError, ValueError):
        return default


class Context:
    """What the handler gets beside the events: python3-http's ``hostname``, and ``model`` from load()."""

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
        module = _import_handler(Path(function_path))
        self._handle_batch: Callable[[Sequence[Event], Context], Sequence[Any]] | None = getattr(
            module, "handle_batch", None
        )
        self._handle: Callable[[Event, Context], Any] | None = getattr(module, "handle", None)
        if not callable(self._handle_batch) and not callable(self._handle):
            raise HandlerNotLoaded(
                f"{module.__file__} defines neither handle_batch(events, context) nor handle(event, context)"
            )
        self.repeated = False
        """Whether the last batch failed as a whole, and its events were run again in parts."""
        self.mix_paths: bool = getattr(module, "mix_paths", True)
        if not isinstance(self.mix_paths, bool):
            raise HandlerNotLoaded(f"{module.__file__}: mix_paths must be True or False")
        load, example = getattr(module, "load", None), getattr(module, "example", None)
        try:
            self._context = Context(load() if load else None)
            self.example: bytes | None = example() if example else None
        # Whatever the function's load() raises ends the start with one message, and sys.exit() is no way out.
        except (Exception, SystemExit) as error:
            raise HandlerNotLoaded(_explain("load()", error)) from error
        if not isinstance(self.example, bytes | None):
            raise HandlerNotLoaded(f"{module.__file__}: example() must return bytes")

    def serve(self, events: Sequence[Event]) -> list[Reply]:
        """One reply per event, in order. If the batch fails it is run again in halves, and so are they."""
        self.repeated = False
        if self._handle_batch is None:
            return [self._serve_alone(event) for event in events]
        return self._serve_together(events)

    def _serve_together(self, events: Sequence[Event]) -> list[Reply]:
        assert self._handle_batch is not None, "looked at before"  # noqa: S101 - for the type checker
        try:
            results = self._handle_batch(events, self._context)
            if len(results) == len(events):
                return [_reply(result, event) for result, event in zip(results, events, strict=True)]
            problem = f"handle_batch returned {len(results)} results for {len(events)} events"
        except Exception:  # a handler may raise anything; the events are innocent until run alone
            problem = traceback.format_exc()
        if len(events) == 1:
            return [_failure(problem, events[0])]
        self.repeated = True
        half = len(events) // 2
        return self._serve_together(events[:half]) + self._serve_together(events[half:])

    def _serve_alone(self, event: Event) -> Reply:
        assert self._handle is not None, "checked on loading"  # noqa: S101 - for the type checker
        try:
            return _reply(self._handle(event, self._context), event)
        except Exception as error:  # a handler may raise anything
            trace = traceback.format_exc()
            try:
                return _reply(error.get_response(), event)  # type: ignore[attr-defined] # Flask's abort() has it
            except Exception:  # it has none, or cannot make it
                return _failure(trace, event)


def _import_handler(folder: Path) -> ModuleType:
    """Import ``folder``/handler.py as ``function.handler``, so that both ways of importing siblings work."""
    folder = folder.resolve()
    file = folder / "handler.py"
    if not file.is_file():
        raise HandlerNotLoaded(f"function_path={str(folder)!r}: there is no handler.py in this folder")
    package = ModuleType("function")
    package.__path__ = [str(folder)]
    sys.modules["function"] = package
    sys.path.insert(0, str(folder))
    spec = importlib.util.spec_from_file_location("function.handler", file)
    assert spec is not None and spec.loader is not None  # noqa: S101, PT018 - a .py file always has both
    module = importlib.util.module_from_spec(spec)
    sys.modules["function.handler"] = module
    package.handler = module  # type: ignore[attr-defined] # a module takes any attribute
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # importing runs the function's code, which may raise anything
        raise HandlerNotLoaded(_explain(str(file), error)) from error
    except SystemExit as error:
        raise HandlerNotLoaded(f"{file}: it called sys.exit({error.code!r}) while being imported") from error
    return module


def _explain(what: str, error: BaseException) -> str:
    """One line: what failed, where in the function's code, and its own error."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
    if isinstance(error, SyntaxError):
        where = f" ({error.filename}, line {error.lineno})"
        error = SyntaxError(error.msg)
    return f"{what} failed: {type(error).__name__}: {error}{where}"


def _reply(result: Any, event: Event) -> Reply:
    """The reply that a handler's result means (the template's README, "The handler")."""
    try:
        return _encode_result(result, event)
    except Exception:  # a result's own methods may raise anything
        return _failure(f"a result cannot be sent: {traceback.format_exc()}", event)


def _encode_result(result: Any, event: Event) -> Reply:  # noqa: PLR0911 - one return per kind of result
    if isinstance(result, bytes | bytearray | memoryview):
        return Reply(200, b"Content-Type: application/octet-stream\r\n", bytes(result))
    if isinstance(result, str):
        return Reply(200, b"Content-Type: text/plain; charset=utf-8\r\n", result.encode())
    if result is None:
        return Reply(200, b"Content-Type: text/plain; charset=utf-8\r\n", b"")
    if isinstance(result, BaseException):
        return _failure("".join(traceback.format_exception(result)), event, shown=str(result))
    if (
        isinstance(result, dict)
        and ("statusCode" in result or "body" in result)
        and result.keys() <= {"statusCode", "body", "headers"}
    ):
        headers = result.get("headers") or {}
        return _with_status(result.get("body"), result.get("statusCode", 200), headers, event)
    if isinstance(result, tuple) and 2 <= len(result) <= 3 and isinstance(result[1], int):
        return _with_status(result[0], result[1], result[2] if len(result) > 2 else {}, event)
    if hasattr(result, "get_data") and hasattr(result, "status_code"):  # a Flask or werkzeug Response
        return _with_status(result.get_data(), result.status_code, result.headers, event)
    return Reply(200, b"Content-Type: application/json\r\n", _JSON.encode(result).encode())


def _with_status(body: Any, status: Any, headers: Any, event: Event) -> Reply:
    """The reply to a result with status and headers: a mapping or pairs, so that a name can be repeated."""
    failed = isinstance(body, BaseException)
    reply = _failure(str(body), event) if failed else _encode_result(body, event)
    status = int(status)
    if not 200 <= status <= 599:
        raise ValueError(f"statusCode {status} is not between 200 and 599")
    pairs = list(headers.items() if hasattr(headers, "items") else headers)
    lines = [wire.reply_header(str(name), str(value)) for name, value in pairs]
    if not any(str(name).lower() == "content-type" for name, _ in pairs):
        lines.insert(0, reply.header_block)
    return Reply(status, b"".join(lines), reply.body, reply.failed)


def _to_list(value: Any) -> Any:
    """Arrays and tensors know how to become lists; nothing else is guessed."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is not JSON")


# json.dumps makes a new one for each call if it is told anything. NaN and Infinity are not JSON.
_JSON: Final = json.JSONEncoder(default=_to_list, separators=(",", ":"), allow_nan=False)


def _failure(trace: str, event: Event, shown: str | None = None) -> Reply:
    """Status 500 for one event. The trace goes to the log, never to the client."""
    call_id = event.headers.get("X-Call-Id", "none")
    # What a client sent is shown without control characters: the log may be read on a terminal.
    named = f"{event.method} {ascii(event.path)[1:-1]} [{ascii(call_id)[1:-1]}]"
    sys.stderr.write(f"handler error: {named}\n{printable(trace.rstrip())}\n")
    sys.stderr.flush()
    text = shown or "the function failed on this request; its log has the reason"
    return Reply(500, b"Content-Type: text/plain; charset=utf-8\r\n", f"{text}\n".encode(), failed=True)
