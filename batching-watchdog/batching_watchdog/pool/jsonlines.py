"""Encodes a batch as JSON lines, for an HTTP upstream in any language. [P]

Requests go out, replies come in. One object per line, in order::

    request = {"method", "path", "query", "headers", "body" | "body_base64"}
    reply   = {"status", "headers"?, "body"? | "body_base64"?, "failed"?}

A body is text if it is UTF-8, else base64. ``path`` is still percent-encoded, ``query`` has no "?".
A request's header names are in lower case, with repeated ones joined. A value of a reply's headers may be a
list, which gives one header per entry. Lines end with a line feed; all characters beyond ASCII are escaped,
so that no other character can look like the end of a line.
"""

import binascii
import json
from base64 import b64decode, b64encode
from collections.abc import Iterable, Sequence
from typing import Any, Final

from batching_watchdog.errors import FrameError
from batching_watchdog.messages import Reply
from batching_watchdog.wire import parse_header_block, reply_header

CONTENT_TYPE: Final = "application/vnd.tailbound.batch+jsonlines"


def encode_requests(requests: Sequence[tuple[bytes, bytes]]) -> bytes:
    """Return one line per (head, body) pair. Raises ``FrameError``."""
    objects = (_request(head, body) for head, body in requests)
    return b"".join(json.dumps(each, separators=(",", ":")).encode() + b"\n" for each in objects)


def decode_replies(data: bytes) -> list[Reply]:
    """Return one reply per line, in order. Raises ``FrameError`` that names the line."""
    return [_decoded_reply(line, number) for number, line in _objects(data)]


def _request(head: bytes, body: bytes) -> dict[str, Any]:
    method, target, fields = parse_header_block(head)
    path, _, query = target.partition("?")
    headers: dict[str, str] = {}
    for name, value in fields:
        key = name.lower()
        # RFC 9110 section 5.3; cookies are the exception (RFC 9113 section 8.2.3).
        glue = "; " if key == "cookie" else ", "
        headers[key] = f"{headers[key]}{glue}{value}" if key in headers else value
    return {"method": method, "path": path, "query": query, "headers": headers, **_body(body)}


def _body(body: bytes) -> dict[str, str]:
    try:
        return {"body": body.decode()}
    except UnicodeDecodeError:
        return {"body_base64": b64encode(body).decode()}


def _objects(data: bytes) -> Iterable[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(data.split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise FrameError(f"line {number} is not JSON: {error}") from error
        if not isinstance(value, dict):
            raise FrameError(f"line {number} is not a JSON object")
        yield number, value


def _decoded_reply(line: dict[str, Any], number: int) -> Reply:
    status, failed = line.get("status"), line.get("failed", False)
    if type(status) is not int or not 200 <= status <= 599:
        raise FrameError(f"line {number}: status must be a whole number from 200 to 599, not {status!r}")
    if not isinstance(failed, bool):
        raise FrameError(f"line {number}: failed must be true or false")
    try:
        fields = _fields(line.get("headers", {}), number)
        head = b"".join(reply_header(name, value) for name, value in fields)
    except ValueError as error:
        raise FrameError(f"line {number}: {error}") from error
    return Reply(status, head, _decoded_body(line, number), failed)


def _fields(headers: Any, number: int) -> list[tuple[str, str]]:
    if not isinstance(headers, dict):
        raise FrameError(f"line {number}: headers must be an object")
    fields = []
    for name, value in headers.items():
        for each in value if isinstance(value, list) else [value]:
            if isinstance(each, bool) or not isinstance(each, str | int | float):
                raise FrameError(
                    f"line {number}: header {name!r} must be a string, a number or a list of them"
                )
            fields.append((name, str(each)))
    return fields


def _decoded_body(line: dict[str, Any], number: int) -> bytes:
    text, encoded = line.get("body"), line.get("body_base64")
    if text is not None and encoded is not None:
        raise FrameError(f"line {number} has both body and body_base64")
    if not isinstance(text, str | None) or not isinstance(encoded, str | None):
        raise FrameError(f"line {number}: a body must be a string (JSON in it is text: encode it twice)")
    try:
        if encoded is not None:
            return b64decode(encoded, validate=True)
        return b"" if text is None else text.encode()
    except (binascii.Error, ValueError) as error:
        raise FrameError(f"line {number}: its body cannot be decoded: {error}") from error
