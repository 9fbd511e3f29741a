"""Encodes batches as frames for the connection between watchdog and worker. [P]

Owns the bytes on the Unix socket in both directions; knows no sockets. All integers are little-endian. Bodies
pass through unchanged, and without a copy on the way out; only handshake and failure hold JSON::

    frame   = magic "TBW1", kind u8, 3 bytes zero, count u32, size u64 (of all that follows), seconds f64,
              count x item, count x head, count x body
    item    = status u16, flags u16, head length u32, body length u32

The items of a cancel frame are the places of requests in the last frame of requests: 4 bytes of head each. A
worker that has not begun that batch skips these; its reply has status 0 for each.

A request's head is its request line and header lines; a reply's head is header lines ready to be sent;
``seconds`` of a reply frame is the worker's CPU time for it. It is 0 if the batch failed and was run again in
parts, so that its time does not show the cost of serving. The handshake carries, in JSON, the worker's data
for the watchdog. A failure carries, in JSON, the function's exception: a worker may send some before the
replies to a batch.
"""

import json
import re
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final

from batching_watchdog.errors import FrameError
from batching_watchdog.messages import Failure, Reply
from batching_watchdog.speedups import compiled

MAGIC: Final = b"TBW1"
_FRAME: Final = struct.Struct("<4sB3xIQd")
_ITEM: Final = struct.Struct("<HHII")
_INDEX: Final = struct.Struct("<I")
HEADER_SIZE: Final = _FRAME.size
JOIN_BELOW: Final = 1 << 18
"""Bytes below which a frame is sent as one buffer: a copy is cheaper than a scatter-gather call."""
SMALL_FRAMES: Final = 64
"""Successive frames within ``JOIN_BELOW`` bytes after which a larger buffer is freed."""
SEND_AT_ONCE: Final = 512
"""Buffers per sendmsg call; the kernel takes 1024 (IOV_MAX)."""
MAX_PART: Final = 2**32 - 1
"""Maximum bytes of a head or body, by the item's length field."""

FAILED: Final = 1
"""Flag of a reply: the handler raised for this request."""
_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
"""A token (RFC 9110, 5.6.2)."""
_VALUE: Final = re.compile(r"[^\x00-\x08\x0a-\x1f\x7f]*")
"""A header value without control characters other than tabs (RFC 9110, 5.5); clients reject such answers."""
_HOP_BY_HOP: Final = frozenset(
    ("connection", "content-length", "date", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade")
)


class ReceiveBuffer:
    """The buffer for the frames of one connection: it grows with them, and shrinks again."""

    __slots__ = ("_small", "data")

    def __init__(self) -> None:
        self.data = bytearray(JOIN_BELOW)
        self._small = 0

    def fit(self, size: int, filled: int = 0) -> None:
        """Make room for a frame of ``size`` bytes, once per frame; keep the first ``filled`` bytes."""
        if size > JOIN_BELOW:
            self._small = 0
        elif len(self.data) > JOIN_BELOW:
            self._small += 1
        else:
            return
        if size > len(self.data) or (self._small >= SMALL_FRAMES and filled <= JOIN_BELOW):
            fitted = bytearray(max(size, JOIN_BELOW))
            fitted[:filled] = memoryview(self.data)[:filled]
            self.data, self._small = fitted, 0


class Kind(IntEnum):
    """What a frame is."""

    HANDSHAKE = 1
    REQUESTS = 2
    REPLIES = 3
    CANCEL = 4
    FAILURE = 5


@dataclass(frozen=True, slots=True)
class FrameHeader:
    """The fixed part of a frame. ``size`` is the number of bytes that follow it."""

    kind: Kind
    count: int
    size: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Handshake:
    """A worker's first message: its data if it can serve, or the error."""

    pid: int
    error: str | None = None
    trace: str = ""
    """Traceback of ``error``, if the function's code raised it."""
    example: bytes | None = None
    """Result of the handler's example(): a typical body to measure l(b)."""
    index: int = 0
    """Number of the worker in the pool, from 0; a replacement gets that of its predecessor."""
    mix_paths: bool = True
    """Whether a batch may hold requests of several methods and paths."""
    import_seconds: float = 0.0
    """Seconds to import the handler."""
    load_seconds: float = 0.0
    """Seconds of its load()."""


def request_header_block(method: bytes, target: bytes, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return ``METHOD target`` and one ``name: value`` line per header."""
    parts = [method, b" ", target, b"\r\n"]
    for name, value in headers:
        parts += (name, b": ", value, b"\r\n")
    return b"".join(parts)


def parse_header_block(head: bytes) -> tuple[str, str, list[tuple[str, str]]]:
    """Return method, target and headers, decoded as latin-1. Raises ``FrameError``."""
    if not head.endswith(b"\r\n"):
        raise FrameError("the head of a request does not end with its line")
    line, *lines = head.decode("latin-1").split("\r\n")[:-1]
    method, _, target = line.partition(" ")
    headers = []
    for field in lines:
        name, _, value = field.partition(": ")
        headers.append((name, value))
    return method, target, headers


def reply_header(name: str, value: str) -> bytes:
    """Return the line of a reply's head for one header; empty for headers of the connection.

    Raises ``ValueError`` for a header that RFC 9110 forbids.
    """
    if name.lower() in _HOP_BY_HOP:
        return b""
    if not _NAME.fullmatch(name) or not _VALUE.fullmatch(value):
        raise ValueError(f"{name!r}: {value!r} is not a valid header")
    return f"{name}: {value}\r\n".encode("latin-1")


def encode_requests(requests: Sequence[tuple[bytes, bytes]]) -> list[bytes]:
    """Return the buffers of the frame that carries these (head, body) pairs to a worker."""
    if compiled is not None:
        frame = compiled.encode_requests(tuple(requests), JOIN_BELOW)
        if frame is not None:
            return [frame]
    return _encode(Kind.REQUESTS, [(0, 0, head, body) for head, body in requests], 0.0)


def encode_replies(replies: Sequence[Reply], seconds: float) -> list[bytes]:
    """Return the buffers of the frame with a worker's replies, which took ``seconds`` of CPU time."""
    if compiled is not None:
        frame = compiled.encode_replies(tuple(replies), seconds, JOIN_BELOW)
        if frame is not None:
            return [frame]
    items = [
        (reply.status, FAILED if reply.failed else 0, reply.header_block, reply.body) for reply in replies
    ]
    return _encode(Kind.REPLIES, items, seconds)


def encode_cancel(indexes: Sequence[int]) -> bytes:
    """Return the frame that cancels requests of the last batch, by their places in it."""
    return b"".join(_encode(Kind.CANCEL, [(0, 0, _INDEX.pack(index), b"") for index in indexes], 0.0))


def encode_handshake(handshake: Handshake) -> list[bytes]:
    """Return the buffers of the frame with which a worker opens the connection."""
    said = {
        "pid": handshake.pid,
        "error": handshake.error,
        "trace": handshake.trace,
        "index": handshake.index,
        "mix_paths": handshake.mix_paths,
        "import_seconds": handshake.import_seconds,
        "load_seconds": handshake.load_seconds,
    }
    items = [(0, 0, json.dumps(said).encode(), b"")]
    if handshake.example is not None:
        items.append((0, 0, b"", handshake.example))
    return _encode(Kind.HANDSHAKE, items, 0.0)


def encode_failure(failure: Failure) -> list[bytes]:
    """Return the buffers of the frame with the function's exception, sent before the batch's replies."""
    said = {
        "text": failure.text,
        "trace": failure.trace,
        "call_id": failure.call_id,
        "trace_id": failure.trace_id,
    }
    return _encode(Kind.FAILURE, [(0, 0, json.dumps(said).encode(), b"")], 0.0)


def decode_header(data: bytes | bytearray | memoryview) -> FrameHeader:
    """Return the fixed part of a frame from its first ``HEADER_SIZE`` bytes. Raises ``FrameError``."""
    if len(data) < HEADER_SIZE:
        raise FrameError(f"a frame begins with {HEADER_SIZE} bytes, got {len(data)}")
    magic, kind, count, size, seconds = _FRAME.unpack_from(data)
    if magic != MAGIC:
        raise FrameError(f"a frame begins with {magic!r}, not {MAGIC!r}")
    if kind not in Kind.__members__.values():
        raise FrameError(f"a frame is of unknown kind {kind}")
    if not count * _ITEM.size <= size <= count * (_ITEM.size + 2 * MAX_PART):
        raise FrameError(f"{count} items cannot make a frame of {size} bytes")
    if not 0.0 <= seconds < float("inf"):
        raise FrameError(f"a frame says that it took {seconds} seconds")
    return FrameHeader(Kind(kind), count, size, seconds)


def decode_requests(header: FrameHeader, data: memoryview) -> list[tuple[bytes, bytes]]:
    """Return the (head, body) pairs in the ``header.size`` bytes after the header. Raises ``FrameError``."""
    if compiled is not None and header.kind is Kind.REQUESTS and len(data) == header.size:
        requests = compiled.decode_requests(header.count, data)
        if requests is not None:
            return requests
    return [(head, body) for _, _, head, body in _decode(header, data, Kind.REQUESTS)]


def decode_replies(header: FrameHeader, data: memoryview) -> list[Reply]:
    """Return the replies in the ``header.size`` bytes after the header, in order. Raises ``FrameError``."""
    if compiled is not None and header.kind is Kind.REPLIES and len(data) == header.size:
        replies = compiled.decode_replies(header.count, data, Reply)
        if replies is not None:
            return replies
    return [
        Reply(status, head, body, bool(flags & FAILED))
        for status, flags, head, body in _decode(header, data, Kind.REPLIES)
    ]


def decode_cancel(header: FrameHeader, data: memoryview) -> list[int]:
    """Return the places in the ``header.size`` bytes after the header. Raises ``FrameError``."""
    try:
        return [_INDEX.unpack(head)[0] for _, _, head, _ in _decode(header, data, Kind.CANCEL)]
    except struct.error:
        raise FrameError(f"the place of a request takes {_INDEX.size} bytes") from None


def decode_handshake(header: FrameHeader, data: memoryview) -> Handshake:
    """Return the handshake in the ``header.size`` bytes after the header. Raises ``FrameError``."""
    items = _decode(header, data, Kind.HANDSHAKE)
    kinds = {
        "pid": int,
        "error": str | None,
        "trace": str,
        "index": int,
        "mix_paths": bool,
        "import_seconds": float,
        "load_seconds": float,
    }
    return Handshake(**_said(header.kind, items, kinds), example=items[1][3] if len(items) > 1 else None)


def decode_failure(header: FrameHeader, data: memoryview) -> Failure:
    """Return the failure in the ``header.size`` bytes after the header. Raises ``FrameError``."""
    kinds = {"text": str, "trace": str, "call_id": str, "trace_id": str}
    return Failure(**_said(header.kind, _decode(header, data, Kind.FAILURE), kinds))


def _said(
    kind: Kind, items: Sequence[tuple[int, int, bytes, bytes]], kinds: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the values of these ``kinds`` in the JSON of a frame's first item. Raises ``FrameError``."""
    try:
        said = json.loads(items[0][2])
        values = {name: said[name] for name in kinds}
    except (IndexError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise FrameError(f"a {kind.name.lower()} is not understood: {error}") from error
    wrong = [name for name, kind in kinds.items() if not isinstance(values[name], kind)]
    if wrong:
        raise FrameError(f"a {kind.name.lower()} is not understood: {wrong[0]} is {values[wrong[0]]!r}")
    return values


def _encode(kind: Kind, items: Sequence[tuple[int, int, bytes, bytes]], seconds: float) -> list[bytes]:
    size = _ITEM.size * len(items)
    table, heads, bodies = [b""], [], []
    for status, flags, head, body in items:
        size += len(head) + len(body)
        try:
            table.append(_ITEM.pack(status, flags, len(head), len(body)))
        except struct.error:
            raise FrameError(
                f"status {status}, head of {len(head)} and body of {len(body)} bytes do not fit into a frame"
            ) from None
        heads.append(head)
        if body:
            bodies.append(body)
    table[0] = _FRAME.pack(MAGIC, kind, len(items), size, seconds)
    return [b"".join(table + heads), *bodies]


def _decode(header: FrameHeader, data: memoryview, kind: Kind) -> list[tuple[int, int, bytes, bytes]]:
    if header.kind is not kind:
        raise FrameError(f"expected a frame of {kind.name}, got {header.kind.name}")
    offset = header.count * _ITEM.size
    table = list(_ITEM.iter_unpack(data[:offset])) if offset <= len(data) == header.size else []
    if len(table) != header.count or offset + sum(item[2] + item[3] for item in table) != header.size:
        raise FrameError(
            f"the lengths in a frame of {header.count} items do not add up to {header.size} bytes"
        )
    body_offset = offset + sum(item[2] for item in table)
    items = []
    for status, flags, head_length, body_length in table:
        head = bytes(data[offset : offset + head_length])
        body = bytes(data[body_offset : body_offset + body_length])
        offset += head_length
        body_offset += body_length
        items.append((status, flags, head, body))
    return items
