"""Refuses request heads that RFC 9112 forbids and the parser accepts. [P]

llhttp in strict mode refuses invalid and duplicate lengths, a length beside chunked, and chunked that is not
last. This module owns the other rules: Host, end of the message, and a target in origin form. It works on the
parts that the parser's callbacks have collected so far, and raises ``BadRequest``. Used by ``reader``.
"""

import re
from typing import Final, Protocol

from batching_watchdog.errors import BadRequest

MAX_LENGTH_DIGITS: Final = 20
"""Maximum digits of a Content-Length, as of 64 bits. The parser limits the number, but not leading zeros, and
``int`` accepts at most 4300 digits."""
_HOST_BYTES: Final = (
    b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789" + b"-._~%!$&'()*+,;=" + b":[]"
)
"""An authority without user information (RFC 3986, 3.2.2)."""
_ABSOLUTE: Final = re.compile(rb"https?://([^/?#]+)(.*)", re.IGNORECASE | re.DOTALL)


class Head(Protocol):
    """The received part of a request's head, such as ``exchange.Exchange``."""

    method: bytes
    target: bytes
    headers: list[tuple[bytes, bytes]]
    host: bytes | None
    length: int | None
    chunked: bool
    http_1_0: bool
    expects_continue: bool


def read_framing(head: Head, name: bytes, value: bytes) -> None:
    """Apply a header that affects framing or Host; others change nothing."""
    if name == b"host":
        if head.host is not None:
            raise BadRequest("more than one Host header")
        if value.translate(None, _HOST_BYTES):
            raise BadRequest("the Host header is not a host with an optional port")
        head.host = value
    elif name == b"content-length":
        if len(value) > MAX_LENGTH_DIGITS:
            raise BadRequest(f"a Content-Length of more than {MAX_LENGTH_DIGITS} digits")
        head.length = int(value)
    elif name == b"transfer-encoding":
        if head.chunked or value.lower() != b"chunked":
            raise BadRequest("a Transfer-Encoding other than chunked")
        head.chunked = True
    elif name == b"expect":
        head.expects_continue = value.lower() == b"100-continue"


def check_head(head: Head, version: str) -> None:
    """Refuse a complete head that RFC 9112 forbids; convert its target to origin form."""
    if version == "1.1":
        if head.host is None:
            raise BadRequest("HTTP/1.1 without a Host header")
    elif version == "1.0":
        head.http_1_0 = True
        head.expects_continue = False
        if head.chunked:
            raise BadRequest("Transfer-Encoding in HTTP/1.0")
    else:
        raise BadRequest(f"HTTP/{version} is not supported; use 1.1 or 1.0")
    if not head.target.startswith(b"/") or head.method == b"CONNECT":
        _bring_into_origin_form(head)


def _bring_into_origin_form(head: Head) -> None:
    """Take path and Host from an absolute target (RFC 9112, 3.2); accept ``*`` only for OPTIONS."""
    if head.method == b"CONNECT":
        raise BadRequest("CONNECT: this is not a proxy")
    if head.target == b"*":
        if head.method != b"OPTIONS":
            raise BadRequest("the target * is for OPTIONS only")
        return
    match = _ABSOLUTE.fullmatch(head.target)
    if match is None or match[1].translate(None, _HOST_BYTES):
        raise BadRequest("the target is neither a path nor an http URL")
    head.host, rest = match[1], match[2]
    if not rest and head.method == b"OPTIONS":
        head.target = b"*"
    else:
        head.target = rest if rest.startswith(b"/") else b"/" + rest
    others = [header for header in head.headers if header[0].lower() != b"host"]
    head.headers = [(b"Host", head.host), *others]
