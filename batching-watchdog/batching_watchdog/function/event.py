"""Imports the function's own files, and defines the event and the context that their functions receive.

The worker processes import ``handler.py``, the watchdog itself only ``weight.py``. An event is that of
python3-http, made from a request's header block and body.
"""

import importlib.util
import json
import os
import socket
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, Final, NoReturn
from urllib.parse import parse_qsl, unquote

from batching_watchdog.errors import BadRequest, HandlerNotLoaded
from batching_watchdog.function import wire

MAX_TRACE: Final = 1 << 16
"""Maximum characters of a traceback: an error may quote a whole tensor."""
_NOT_THE_FUNCTIONS: Final = (
    f"{Path(__file__).parents[1]}/",
    f"{Path(json.__file__).parent}/",
    "<frozen importlib",
)
"""Prefixes of files whose frames precede the function's own."""


def _not_json(name: str) -> NoReturn:
    raise ValueError(f"JSON has no {name}")


# json.loads takes NaN and Infinity, which JSON has not; with an argument it makes a decoder for each call.
_JSON: Final = json.JSONDecoder(parse_constant=_not_json)


class Event:
    """One request for the handler: python3-http's event, plus ``json()``.

    ``body`` (bytes), ``method``, ``path`` (decoded, without the query), ``query`` and ``headers``: mappings
    with the methods of Flask's that such handlers use (``getlist``, ``get`` with ``type``, ``to_dict``).
    """

    __slots__ = ("_head", "_parsed", "body")

    def __init__(self, head: bytes, body: bytes) -> None:
        self._head = head
        self._parsed: tuple[str, str, Fields, Fields] | None = None
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
    def headers(self) -> "Fields":
        """The request's headers; names are case-insensitive."""
        return self._parse()[2]

    @property
    def query(self) -> "Fields":
        """The query's parameters; of a repeated one, the first."""
        return self._parse()[3]

    def json(self) -> Any:
        """The body as JSON. Raises ``BadRequest``, a ``ValueError``, if it is not: this request gets 400."""
        try:
            return _JSON.decode(self.body.decode(json.detect_encoding(self.body), "surrogatepass"))
        except (ValueError, RecursionError) as error:
            raise BadRequest(f"the body is not JSON: {error}{browser_hint(self)}\n", self) from error

    def _parse(self) -> "tuple[str, str, Fields, Fields]":
        # Most handlers use only the body, so the head is parsed on first use.
        if self._parsed is None:
            method, target, headers = wire.parse_header_block(self._head)
            path, _, query = target.partition("?")
            parameters = Fields(parse_qsl(query, keep_blank_values=True), headers=False)
            self._parsed = (method, unquote(path), Fields(headers, headers=True), parameters)
        return self._parsed


def browser_hint(event: Event) -> str:
    """Return what a browser at the function's URL is told beside an error; empty for other requests."""
    if event.body or event.method != "GET" or event.query:
        return ""
    return ". A GET has no body; to send one: curl --data-binary @FILE URL"


class Context:
    """The handler's second argument, and that of load(context)."""

    __slots__ = ("device", "hostname", "model", "threads")

    def __init__(self, threads: int, device: str) -> None:
        self.hostname = socket.gethostname()
        """python3-http's."""
        self.model: Any = None
        """The result of load()."""
        self.threads = threads
        """Threads that this worker's share of the CPUs is worth, for libraries with pools of their own."""
        self.device = device
        """``cuda`` or ``cpu``, as torch names the device of this worker."""


class Fields(Mapping[str, str]):
    """Read-only headers or parameters of a query, with the methods of Flask's that handlers use.

    Names of headers ignore case, and repeated ones are joined by a comma; of a repeated parameter the first
    counts.
    """

    __slots__ = ("_headers", "_values")

    def __init__(self, pairs: Iterable[tuple[str, str]], *, headers: bool) -> None:
        self._headers = headers
        self._values: dict[str, tuple[str, list[str]]] = {}
        """Each name as it came first, and its values."""
        for name, value in pairs:
            self._values.setdefault(name.lower() if headers else name, (name, []))[1].append(value)

    def __getitem__(self, name: str) -> str:
        _, values = self._values[name.lower() if self._headers else name]
        return ", ".join(values) if self._headers else values[0]

    def __iter__(self) -> Iterator[str]:
        return (name for name, _ in self._values.values())

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"Fields({dict(self)!r})"

    def get(
        self,
        name: str,
        default: Any = None,
        type: Callable[[str], Any] | None = None,  # noqa: A002 - Flask's
    ) -> Any:
        """The value, as ``type`` has it; ``default`` if there is none, or ``type`` does not take it."""
        try:
            return self[name] if type is None else type(self[name])
        except (KeyError, TypeError, ValueError):
            return default

    def getlist(self, name: str) -> list[str]:
        """All values of a parameter, in their order; those of a header joined to one."""
        if name not in self:
            return []
        return [self[name]] if self._headers else list(self._values[name][1])

    def to_dict(self) -> dict[str, str]:
        """The first value of each name."""
        return dict(self)


def import_handler(folder: Path) -> ModuleType:
    """Import ``folder``/handler.py as ``function.handler``, so that both ways of importing siblings work.

    Raises ``HandlerNotLoaded``.
    """
    folder = folder.resolve()
    if not (folder / "handler.py").is_file():
        raise HandlerNotLoaded(f"function_path={str(folder)!r}: there is no handler.py in this folder")
    sys.path.insert(0, str(folder))
    return _imported(folder, "handler")


def import_weight(folder: Path) -> ModuleType | None:
    """Import ``folder``/weight.py as ``function.weight``; None if there is none. Raises ``HandlerNotLoaded``.

    It may import its siblings either way, but by their plain names only during its own import: later imports
    of the watchdog must not find modules in ``folder``.
    """
    folder = folder.resolve()
    if not (folder / "weight.py").is_file():
        return None
    sys.path.insert(0, str(folder))
    try:
        return _imported(folder, "weight")
    finally:
        sys.path.remove(str(folder))


def _imported(folder: Path, name: str) -> ModuleType:
    package = ModuleType("function")
    package.__path__ = [str(folder)]
    sys.modules["function"] = package
    file = folder / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"function.{name}", file)
    assert spec is not None and spec.loader is not None  # noqa: S101, PT018 - a .py file always has both
    module = importlib.util.module_from_spec(spec)
    sys.modules[f"function.{name}"] = module
    setattr(package, name, module)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # importing runs the function's code, which may raise anything
        raise HandlerNotLoaded(explain(str(file), error), trace_of(error)) from error
    except SystemExit as error:
        problem = f"{file}: it called sys.exit({error.code!r}) while being imported"
        raise HandlerNotLoaded(problem, trace_of(error)) from error
    return module


def explain(what: str, error: BaseException) -> str:
    """Return one line: the failed step, the place in the function's code, and its own error."""
    file, line_number = own_place(error)
    where = f" ({file}, line {line_number})" if file else ""
    if isinstance(error, SyntaxError):
        where = f" ({error.filename}, line {error.lineno})"
        error = SyntaxError(error.msg)
    (line, *more) = traceback.format_exception_only(error)[0].splitlines()
    return f"{what} failed: {line}{' ...' if more else ''}{where}"


def own_place(error: BaseException) -> tuple[str, int]:
    """Return file and line of the last frame in the function's own folder; an empty file without one."""
    package, frames, place = sys.modules.get("function"), error.__traceback__, ("", 0)
    folder = package.__path__[0] if package else ""
    while frames is not None:
        file = frames.tb_frame.f_code.co_filename
        if os.path.dirname(file) == folder:
            place = file, frames.tb_lineno
        frames = frames.tb_next
    return place


def trace_of(error: BaseException) -> str:
    """Return the traceback as Python prints it, from the function's first frame on, up to ``MAX_TRACE``."""
    frames = _from_the_function(error.__traceback__)
    text = "".join(traceback.format_exception(type(error), error, frames)).rstrip()
    if len(text) <= MAX_TRACE:
        return text
    half = MAX_TRACE // 2
    return f"{text[:half]}\n... {len(text) - 2 * half} characters are left out ...\n{text[-half:]}"


def _from_the_function(frames: TracebackType | None) -> TracebackType | None:
    while frames is not None and frames.tb_frame.f_code.co_filename.startswith(_NOT_THE_FUNCTIONS):
        frames = frames.tb_next
    return frames
