"""Turns the results of a handler into replies. [P]

Owns the kinds of results: python3-http's, Flask's, values that are sent as JSON. ``handler`` calls the
function, and answers for its errors.
"""

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Set
from contextlib import suppress
from http import HTTPStatus
from itertools import islice
from typing import Any, Final

from batching_watchdog.errors import BadRequest
from batching_watchdog.function import wire
from batching_watchdog.function.messages import Reply, Response, ServerSentEvent

TEXT: Final = b"Content-Type: text/plain; charset=utf-8\r\n"
FAILED: Final = Reply(
    500,
    TEXT,
    b"the function failed on this request; its log has the reason\n",
    failed=True,
)
_NO_BATCH: Final = (Mapping, Set, str, bytes, bytearray, memoryview)
"""Types that have a length and yet are the result of one request, or have no order."""
_RESPONSE_KEYS: Final = frozenset(("statusCode", "body", "headers"))
SHOWN: Final = 500
"""Maximum characters of an error that a client or a line of the log shows."""
MAX_FIELDS: Final = 20
"""Fields that the answer to a request names: a body may have thousands that are wrong."""
_ADDRESS: Final = re.compile(r" at 0x[0-9a-fA-F]+")
_WITH_PATH: Final = re.compile(r"(.*) - at `(\$.*)`", re.DOTALL)
"""What msgspec raises."""
_STATUSES: Final = frozenset(status.value for status in HTTPStatus if status >= 200)


def listed(results: Any) -> list[Any] | None:
    """Return the results of a batch one by one; None if they are not several, in the order of the requests.

    A frame of data iterates its columns.
    """
    if isinstance(results, _NO_BATCH) or hasattr(results, "columns") or not hasattr(results, "__len__"):
        return None
    try:
        one_by_one = list(results)
    except TypeError:  # an array without dimensions
        return None
    return one_by_one if len(one_by_one) == len(results) else None


def encode(result: Any) -> Reply:  # noqa: PLR0911 - one return per kind of result
    """Return the reply to a handler's result (the watchdog's README, "The handler").

    Raises what its own methods raise, and ``ValueError`` or ``TypeError`` if it cannot be sent.
    """
    if isinstance(result, bytes | bytearray | memoryview):
        return Reply(200, b"Content-Type: application/octet-stream\r\n", bytes(result))
    if isinstance(result, str):
        return Reply(200, TEXT, result.encode())
    if result is None:
        return Reply(200, TEXT, b"")
    if isinstance(result, Response):
        return _reply(result.body, result.status, result.headers)
    if isinstance(result, BadRequest):
        body = result.args[0]
        text = _sendable(body) if isinstance(body, str) else body
        return encode(text)._replace(status=400, client_error=True)
    if isinstance(result, BaseException):
        return FAILED._replace(body=text_of(result))
    if isinstance(result, dict) and _is_response(result):
        headers = result.get("headers") or {}
        return _reply(result.get("body"), result.get("statusCode", 200), headers)
    if hasattr(result, "get_data") and hasattr(result, "status_code"):  # a Flask or werkzeug Response
        return _reply(result.get_data(), result.status_code, result.headers)
    try:
        text = _JSON.encode(result)
    except (TypeError, ValueError) as error:
        raise ValueError(_not_json(result) or str(error)) from None
    return Reply(200, b"Content-Type: application/json\r\n", text.encode())


def encode_piece(piece: Any) -> Reply:
    """Return the reply that carries a piece of a stream, with marks for what is no header of an answer.

    Raises as ``encode``.
    """
    if isinstance(piece, ServerSentEvent):
        marks = wire.mark("event", piece.event) + (wire.mark("id", piece.id) if piece.id else b"")
        reply = encode(piece.data)
        return reply._replace(header_block=marks + reply.header_block)
    reply = encode(piece)
    return as_it_is(reply) if _names_type(piece) else reply


def as_it_is(reply: Reply) -> Reply:
    """Return the reply as a first piece that leaves without a stream around it, as an error does anyway."""
    return (
        reply
        if reply.status >= 400
        else reply._replace(header_block=wire.mark("own", "") + reply.header_block)
    )


def _names_type(piece: Any) -> bool:
    """Return whether a piece has a Content-Type of its own."""
    if isinstance(piece, dict):
        headers = (piece.get("headers") if _is_response(piece) else None) or ()
    else:
        headers = getattr(piece, "headers", ())
    pairs = headers.items() if hasattr(headers, "items") else headers
    return any(str(name).lower() == "content-type" for name, _ in pairs)


def _is_response(result: dict[Any, Any]) -> bool:
    """Return whether a dict is python3-http's answer, not a value."""
    return "statusCode" in result or ("body" in result and result.keys() <= _RESPONSE_KEYS)


def _reply(body: Any, status: Any, headers: Any) -> Reply:
    """Return the reply to a result with status and headers: a mapping, or pairs to repeat a name."""
    reply = encode(body)
    status = int(status)
    if not 200 <= status <= 599:
        raise ValueError(f"statusCode {status} is not between 200 and 599")
    pairs = list(headers.items() if hasattr(headers, "items") else headers)
    lines = [wire.reply_header(str(name), str(value)) for name, value in pairs]
    if not any(str(name).lower() == "content-type" for name, _ in pairs):
        lines.insert(0, reply.header_block)
    return reply._replace(status=status, header_block=b"".join(lines))


def refusal(error: BaseException, text: str) -> Reply:
    """Return the 400 for an error of reading a request: the fields that it names as JSON, or ``text``."""
    fields: list[dict[str, str]] = []
    with suppress(Exception):  # an error may have such attributes and mean something else
        named = islice(_fields(error), MAX_FIELDS)
        fields = [{"path": path, "message": first_line(message)} for path, message in named]
    return encode({"errors": fields} if fields else f"{text}\n")._replace(status=400)


def _fields(error: Any) -> Iterator[tuple[str, str]]:
    """Yield path and message of each field that an error of pydantic, jsonschema or msgspec names."""
    if hasattr(error, "errors"):
        for field in error.errors():
            keys = (f"[{key}]" if isinstance(key, int) else f".{key}" for key in field["loc"])
            yield f"${''.join(keys)}", field["msg"]
    elif hasattr(error, "json_path"):
        yield error.json_path, error.message
    elif match := _WITH_PATH.fullmatch(str(error)):
        yield match[2], match[1]


def text_of(error: BaseException) -> bytes:
    """Return the body of an answer that shows ``error``."""
    return f"{_sendable(_ADDRESS.sub('', str(error)))}\n".encode()


def first_line(text: str) -> str:
    """Return the first line of ``text`` without addresses of objects, up to ``SHOWN`` characters."""
    return _sendable(_ADDRESS.sub("", text.partition("\n")[0])[:SHOWN])


def _sendable(text: str) -> str:
    """Return ``text`` with lone surrogates escaped: JSON of a client may have them, and UTF-8 has not."""
    return text.encode(errors="backslashreplace").decode()


def with_status(result: Any) -> Any:
    """Return ``handle``'s (body, status) or (body, status, headers), as Flask's, as a ``Response``.

    Any other result is returned as it is. Only a registered status counts: (label, class index) is a value.
    So is a pair that begins with a number.
    """
    if (
        isinstance(result, tuple)
        and 2 <= len(result) <= 3
        and isinstance(result[1], int)
        and result[1] in _STATUSES
        and not (isinstance(result[0], int | float) or hasattr(result[0], "tolist"))
        and (len(result) == 2 or isinstance(result[2], list) or hasattr(result[2], "items"))
    ):
        return Response(*result)
    return result


def _to_list(value: Any) -> Any:
    """Return an array or a tensor as a list; raise ``TypeError`` for anything else."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is not JSON")


def _not_json(value: Any, place: str = "the result") -> str:
    """Return place and type of the first part of ``value`` that JSON has not; empty without one."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, str | int | None) or (isinstance(value, float) and math.isfinite(value)):
        return ""
    if isinstance(value, list | tuple):
        items: Iterable[tuple[Any, Any]] = enumerate(value)
    elif isinstance(value, dict):
        items = value.items()
        for key in value:
            if not isinstance(key, str | int | float | None):
                return f"{place} has a key of type {type(key).__name__}: {key!r}, which JSON cannot hold"
    else:
        what = value if isinstance(value, float) else type(value).__name__
        return f"{place} is {what}, which JSON cannot hold"
    return next(filter(None, (_not_json(inner, f"{place}[{key!r}]") for key, inner in items)), "")


# With arguments json.dumps makes a new encoder for each call. NaN and Infinity are not JSON.
_JSON: Final = json.JSONEncoder(default=_to_list, separators=(",", ":"), allow_nan=False)
