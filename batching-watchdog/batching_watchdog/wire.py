"""A batch and one frame: how the watchdog and a worker talk over their kept connection. [P]

Owns the bytes on the Unix socket, in both directions; knows nothing of sockets. All integers are
little-endian. Bodies pass through untouched and uncopied on the way out; nothing here parses JSON::

    frame   = magic "TBW1", kind u8, 3 bytes zero, count u32, size u64 (of all that follows), seconds f64,
              count x item, count x head, count x body
    item    = status u16, flags u16, head length u32, body length u32

The items of a frame that cancels are the places of requests in the last frame of requests before it: 4 bytes
of head each. A worker that has not begun that batch does not run these; its reply has status 0 for each.

A request's head is its request line and header lines; a reply's head is header lines ready to be sent;
``seconds`` of a reply frame is the CPU time that the worker has spent on it, 0 if its time says nothing of
what serving costs, since the batch failed and was run again in parts. The handshake carries, in JSON, what
the watchdog must know before the first batch. A failure carries, in JSON, what the function raised: a worker
may send some before the replies to a batch.
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
"""Frames below this many bytes are sent as one buffer: one copy is cheaper than a scatter-gather call."""
SMALL_FRAMES: Final = 64
"""Frames in a row that must have fitted into ``JOIN_BELOW`` bytes before a larger buffer is given back."""
SEND_AT_ONCE: Final = 512
"""Buffers per sendmsg call; the kernel takes 1024 (IOV_MAX)."""
MAX_PART: Final = 2**32 - 1
"""The longest head or body that an item can tell the length of."""

FAILED: Final = 1
"""Flag of a reply: the handler raised for this request."""
_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
"""A token (RFC 9110, 5.6.2)."""
_VALUE: Final = re.compile(r"[^\x00-\x08\x0a-\x1f\x7f]*")
"""No control characters but tabs (RFC 9110, 5.5); clients and proxies take such an answer for broken."""
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
        """Have room for a frame of ``size`` bytes, once per frame; the first ``filled`` bytes stay."""
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
    """What a worker says once it can serve, or why it cannot."""

    pid: int
    error: str | None = None
    trace: str = ""
    """Of ``error``, if the function's code raised it."""
    example: bytes | None = None
    """What the handler's example() returned: a typical body to measure l(b) with."""
    slot: int = 0
    """Which of the pool's places the worker fills: a replaced worker's successor has its slot."""
    mix_paths: bool = True
    """Whether a batch may hold requests of several methods and paths."""
    import_seconds: float = 0.0
    """What importing the handler took."""
    load_seconds: float = 0.0
    """What its load() took."""


def request_header_block(method: bytes, target: bytes, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """``METHOD target`` and one ``name: value`` line per header."""
    parts = [method, b" ", target, b"\r\n"]
    for name, value in headers:
        parts += (name, b": ", value, b"\r\n")
    return b"".join(parts)


def parse_header_block(head: bytes) -> tuple[str, str, list[tuple[str, str]]]:
    """Method, target and headers, decoded as latin-1. Raises ``FrameError``."""
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
    """The line of a reply's head for one header; empty for those that belong to the connection.

    Raises ``ValueError`` for what RFC 9110 does not allow.
    """
    if name.lower() in _HOP_BY_HOP:
        return b""
    if not _NAME.fullmatch(name) or not _VALUE.fullmatch(value):
        raise ValueError(f"{name!r}: {value!r} is not a valid header")
    return f"{name}: {value}\r\n".encode("latin-1")


def encode_requests(requests: Sequence[tuple[bytes, bytes]]) -> list[bytes]:
    """Buffers of the frame that carries these (head, body) pairs to a worker."""
    if compiled is not None:
        frame = compiled.encode_requests(tuple(requests), JOIN_BELOW)
        if frame is not None:
            return [frame]
    return _encode(Kind.REQUESTS, [(0, 0, head, body) for head, body in requests], 0.0)


def encode_replies(replies: Sequence[Reply], seconds: float) -> list[bytes]:
    """Buffers of the frame that carries a worker's replies back, which took ``seconds`` of CPU time."""
    if compiled is not None:
        frame = compiled.encode_replies(tuple(replies), seconds, JOIN_BELOW)
        if frame is not None:
            return [frame]
    items = [
        (reply.status, FAILED if reply.failed else 0, reply.header_block, reply.body) for reply in replies
    ]
    return _encode(Kind.REPLIES, items, seconds)


def encode_cancel(indexes: Sequence[int]) -> bytes:
    """The frame that cancels these requests of the last batch, by their places in it."""
    return b"".join(_encode(Kind.CANCEL, [(0, 0, _INDEX.pack(index), b"") for index in indexes], 0.0))


def encode_handshake(handshake: Handshake) -> list[bytes]:
    """Buffers of the frame with which a worker opens the connection."""
    said = {
        "pid": handshake.pid,
        "error": handshake.error,
        "trace": handshake.trace,
        "slot": handshake.slot,
        "mix_paths": handshake.mix_paths,
        "import_seconds": handshake.import_seconds,
        "load_seconds": handshake.load_seconds,
    }
    items = [(0, 0, json.dumps(said).encode(), b"")]
    if handshake.example is not None:
        items.append((0, 0, b"", handshake.example))
    return _encode(Kind.HANDSHAKE, items, 0.0)


def encode_failure(failure: Failure) -> list[bytes]:
    """Buffers of the frame that says what the function raised, sent before the replies to its batch."""
    said = {
        "text": failure.text,
        "trace": failure.trace,
        "call_id": failure.call_id,
        "trace_id": failure.trace_id,
    }
    return _encode(Kind.FAILURE, [(0, 0, json.dumps(said).encode(), b"")], 0.0)


def decode_header(data: bytes | bytearray | memoryview) -> FrameHeader:
    """The fixed part of a frame, from its first ``HEADER_SIZE`` bytes. Raises ``FrameError``."""
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
    """The (head, body) pairs in the ``header.size`` bytes after the header. Raises ``FrameError``."""
    if compiled is not None and header.kind is Kind.REQUESTS and len(data) == header.size:
        requests = compiled.decode_requests(header.count, data)
        if requests is not None:
            return requests
    return [(head, body) for _, _, head, body in _decode(header, data, Kind.REQUESTS)]


def decode_replies(header: FrameHeader, data: memoryview) -> list[Reply]:
    """The replies in the ``header.size`` bytes after the header, in order. Raises ``FrameError``."""
    if compiled is not None and header.kind is Kind.REPLIES and len(data) == header.size:
        replies = compiled.decode_replies(header.count, data, Reply)
        if replies is not None:
            return replies
    return [
        Reply(status, head, body, bool(flags & FAILED))
        for status, flags, head, body in _decode(header, data, Kind.REPLIES)
    ]


def decode_cancel(header: FrameHeader, data: memoryview) -> list[int]:
    """The places in the ``header.size`` bytes after the header. Raises ``FrameError``."""
    try:
        return [_INDEX.unpack(head)[0] for _, _, head, _ in _decode(header, data, Kind.CANCEL)]
    except struct.error:
        raise FrameError(f"the place of a request takes {_INDEX.size} bytes") from None


def decode_handshake(header: FrameHeader, data: memoryview) -> Handshake:
    """The handshake in the ``header.size`` bytes after the header. Raises ``FrameError``."""
    items = _decode(header, data, Kind.HANDSHAKE)
    kinds = {
        "pid": int,
        "error": str | None,
        "trace": str,
        "slot": int,
        "mix_paths": bool,
        "import_seconds": float,
        "load_seconds": float,
    }
    return Handshake(**_said(header.kind, items, kinds), example=items[1][3] if len(items) > 1 else None)


def decode_failure(header: FrameHeader, data: memoryview) -> Failure:
    """The failure in the ``header.size`` bytes after the header. Raises ``FrameError``."""
    kinds = {"text": str, "trace": str, "call_id": str, "trace_id": str}
    return Failure(**_said(header.kind, _decode(header, data, Kind.FAILURE), kinds))


def _said(
    kind: Kind, items: Sequence[tuple[int, int, bytes, bytes]], kinds: Mapping[str, Any]
) -> dict[str, Any]:
    """The values, of these ``kinds``, in the JSON of a frame's first item. Raises ``FrameError``."""
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
    at = header.count * _ITEM.size
    table = list(_ITEM.iter_unpack(data[:at])) if at <= len(data) == header.size else []
    if len(table) != header.count or at + sum(item[2] + item[3] for item in table) != header.size:
        raise FrameError(
            f"the lengths in a frame of {header.count} items do not add up to {header.size} bytes"
        )
    body_at = at + sum(item[2] for item in table)
    items = []
    for status, flags, head_length, body_length in table:
        head = bytes(data[at : at + head_length])
        body = bytes(data[body_at : body_at + body_length])
        at += head_length
        body_at += body_length
        items.append((status, flags, head, body))
    return items
