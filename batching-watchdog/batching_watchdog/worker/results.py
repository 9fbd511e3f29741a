"""Turns the results of a handler into replies. [P]

Owns the kinds of results: python3-http's, Flask's, values that are sent as JSON. ``handler`` calls the
function, and answers for its errors.
"""

import json
import math
from http import HTTPStatus
from typing import Any, Final

from batching_watchdog import wire
from batching_watchdog.errors import BadRequest
from batching_watchdog.messages import Reply, Response

TEXT: Final = b"Content-Type: text/plain; charset=utf-8\r\n"
FAILED: Final = Reply(
    500,
    TEXT,
    b"the function failed on this request; its log has the reason\n",
    failed=True,
)
_STATUSES: Final = frozenset(status.value for status in HTTPStatus if status >= 200)


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
        return _with_status(result.body, result.status, result.headers)
    if isinstance(result, BadRequest):
        return encode(result.args[0])._replace(status=400, client_error=True)
    if isinstance(result, BaseException):
        return FAILED._replace(body=f"{result}\n".encode())
    if (
        isinstance(result, dict)
        and ("statusCode" in result or "body" in result)
        and result.keys() <= {"statusCode", "body", "headers"}
    ):
        headers = result.get("headers") or {}
        return _with_status(result.get("body"), result.get("statusCode", 200), headers)
    if _has_status(result):
        return _with_status(result[0], result[1], result[2] if len(result) > 2 else {})
    if hasattr(result, "get_data") and hasattr(result, "status_code"):  # a Flask or werkzeug Response
        return _with_status(result.get_data(), result.status_code, result.headers)
    try:
        text = _JSON.encode(result)
    except ValueError as error:
        raise ValueError(_not_finite(result) or str(error)) from None
    return Reply(200, b"Content-Type: application/json\r\n", text.encode())


def _with_status(body: Any, status: Any, headers: Any) -> Reply:
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


def _has_status(result: Any) -> bool:
    """Return whether a result is (body, status) or (body, status, headers), as Flask's, and not a value.

    Only a registered status counts: (label, class index) is a value. So is a pair that begins with a number.
    """
    return (
        isinstance(result, tuple)
        and 2 <= len(result) <= 3
        and isinstance(result[1], int)
        and result[1] in _STATUSES
        and not (isinstance(result[0], int | float) or hasattr(result[0], "tolist"))
        and (len(result) == 2 or isinstance(result[2], list) or hasattr(result[2], "items"))
    )


def _to_list(value: Any) -> Any:
    """Return an array or a tensor as a list; raise ``TypeError`` for anything else."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is not JSON")


def _not_finite(value: Any, place: str = "the result") -> str:
    """Return the place of the first number in ``value`` that JSON has not; empty without one."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, float) and not math.isfinite(value):
        return f"{place} is {value}, which JSON cannot hold"
    items = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list | tuple)
        else ()
    )
    return next(filter(None, (_not_finite(inner, f"{place}[{key!r}]") for key, inner in items)), "")


# With arguments json.dumps makes a new encoder for each call. NaN and Infinity are not JSON.
_JSON: Final = json.JSONEncoder(default=_to_list, separators=(",", ":"), allow_nan=False)
