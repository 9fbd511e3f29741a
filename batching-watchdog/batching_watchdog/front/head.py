"""What RFC 9112 forbids in a request's head and the parser takes. [P]

llhttp in strict mode refuses bad and duplicate lengths, a length beside chunked, and chunked that is not
last. Owns the rest: whom a request is for, where it ends, and that its target is in origin form. It works on
what the parser's callbacks have gathered so far; each rule that is broken is a ``BadRequest``. Used by
``protocol``.
"""

import re
from typing import Final, Protocol

from batching_watchdog.errors import BadRequest

FRAMING_NAMES: Final = frozenset((b"host", b"expect", b"content-length", b"transfer-encoding"))
"""The headers that ``read_framing`` knows."""
MAX_LENGTH_DIGITS: Final = 20
"""Of a Content-Length, as many as 64 bits have. The parser bounds the number, but not the zeros in front, and
``int`` takes 4300 digits at most."""
_HOST_BYTES: Final = (
    b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789" + b"-._~%!$&'()*+,;=" + b":[]"
)
"""What an authority without user information is made of (RFC 3986, 3.2.2)."""
_ABSOLUTE: Final = re.compile(rb"https?://([^/?#]+)(.*)", re.IGNORECASE | re.DOTALL)


class Head(Protocol):
    """The head of a request as far as it has come: ``protocol.Exchange`` is one."""

    method: bytes
    target: bytes
    headers: list[tuple[bytes, bytes]]
    host: bytes | None
    length: int | None
    chunked: bool
    http_1_0: bool
    expects_continue: bool


def read_framing(head: Head, name: bytes, value: bytes) -> None:
    """Take in a header that says where the request ends or whom it is for; others change nothing."""
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
    """Refuse a head that the parser takes and RFC 9112 does not, and bring its target into origin form."""
    if version == "1.1":
        if head.host is None:
            raise BadRequest("HTTP/1.1 without a Host header")
    elif version == "1.0":
        head.http_1_0 = True
        head.expects_continue = False
        if head.chunked:
            raise BadRequest("Transfer-Encoding in HTTP/1.0")
    else:
        raise BadRequest(f"HTTP/{version} is not spoken here, only 1.1 and 1.0")
    if not head.target.startswith(b"/") or head.method == b"CONNECT":
        _bring_into_origin_form(head)


def _bring_into_origin_form(head: Head) -> None:
    """An absolute target gives the path and the Host (RFC 9112, 3.2); ``*`` is for OPTIONS alone."""
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
