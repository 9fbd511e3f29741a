"""Encodes batches as frames for the connection between watchdog and worker. [P]

Owns the bytes on the Unix socket in both directions; knows no sockets. Both ends run the same Python and
trust each other, so values travel as ``marshal`` writes them, which is faster than code of our own. The
bodies of a large frame follow them unchanged, and without a copy on the way out::

    frame   = magic "TBW2", kind u8, 3 bytes zero, length of values u32, length of bodies u64 (little-endian),
              values, bodies

A request's head is its request line and header lines; a reply's head is header lines ready to be sent. That
of a piece may begin with marks for the front end, which no header looks like (``mark``). A crash stands for
the replies to a batch that failed as a whole. A failure is the function's exception, for the log; a worker
may send some before its replies. A cancel has the places of requests in the last batch: a worker that has not
begun it skips these, and its replies have status 0 for each. Threads are the number that a worker's math
libraries use from its next batch on.

To a worker that streams, a join has the requests that start before its next step, each with the id of its
stream, and a leave has the ids of streams to drop. An iteration has the pieces of one step.
"""

import marshal
import re
import struct
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from enum import IntEnum
from math import inf
from typing import Any, Final, NamedTuple

from batching_watchdog.errors import FrameError
from batching_watchdog.function.messages import Crash, Failure, Iteration, Output, Reply

MAGIC: Final = b"TBW2"
_FRAME: Final = struct.Struct("<4sB3xIQ")
HEADER_SIZE: Final = _FRAME.size
MAX_PART: Final = 2**32 - 1
"""Maximum bytes of a body: a batch of several must be countable in 64 bits."""
JOIN_BELOW: Final = 1 << 18
"""Bytes below which a frame is sent as one buffer: a copy is cheaper than a scatter-gather call."""
SMALL_FRAMES: Final = 64
"""Successive frames within ``JOIN_BELOW`` bytes after which a larger buffer is freed."""
SEND_AT_ONCE: Final = 512
"""Buffers per sendmsg call; the kernel takes 1024 (IOV_MAX)."""
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
    CRASH = 6
    THREADS = 7
    JOIN = 8
    LEAVE = 9
    ITERATION = 10


_KINDS: Final = {kind.value: kind for kind in Kind}


class FrameHeader(NamedTuple):
    """The fixed part of a frame."""

    kind: Kind
    values: int
    """Bytes of the values."""
    bodies: int
    """Bytes of all bodies."""

    @property
    def size(self) -> int:
        """Bytes that follow."""
        return self.values + self.bodies


class Spent(NamedTuple):
    """What a batch took in its worker."""

    seconds: float = 0.0
    """From its begin to its replies."""
    cpu_seconds: float = 0.0
    """CPU time, with that for receiving it and sending the replies before."""
    waited: float = 0.0
    """Seconds of it in which the worker could run and had no core: a CPU quota's, or a neighbor's."""


@dataclass(frozen=True, slots=True)
class Handshake:
    """A worker's first message: its data if it can serve, or the error."""

    pid: int
    error: str | None = None
    trace: str = ""
    """Traceback of ``error``, if the function's code raised it."""
    examples: tuple[bytes, ...] = ()
    """Results of the handler's example(): typical bodies to measure l(b)."""
    batched: bool = False
    """Whether the handler defines handle_batch, not handle alone."""
    index: int = 0
    """Number of the worker in the pool, from 0; a replacement gets that of its predecessor."""
    mix_paths: bool = True
    """Whether a batch may hold requests of several methods and paths."""
    import_seconds: float = 0.0
    """Seconds to import the handler."""
    load_seconds: float = 0.0
    """Seconds of its load()."""
    streams: bool = False
    """Whether the function answers in pieces; then its connection carries joins, leaves and iterations."""
    closed: bool = False
    """Whether no stream may join others: a generator serves one batch to its end."""
    starts: Sequence[tuple[int, float]] = ()
    """Streams and seconds of each start with example()."""
    steps: Sequence[tuple[int, float]] = ()
    """Streams and seconds of each step with example()."""
    forked: bool = False
    """Whether it was forked from a process that had loaded the handler: one more costs neither."""


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


def mark(name: str, value: str) -> bytes:
    """Return the line of a mark. Raises ``ValueError`` for a value that is not one line."""
    if not _VALUE.fullmatch(value):
        raise ValueError(f"{name}={value!r}: must be one line without control characters")
    return f":{name}: {value}\r\n".encode()


def split_marks(head: bytes) -> tuple[dict[bytes, bytes], bytes]:
    """Return the marks at the beginning of a piece's head, and its header lines."""
    marks = {}
    while head.startswith(b":"):
        line, _, head = head.partition(b"\r\n")
        name, _, value = line[1:].partition(b": ")
        marks[name] = value
    return marks, head


def encode_requests(requests: Sequence[tuple[bytes, bytes]]) -> list[bytes]:
    """Return the buffers of the frame that carries these (head, body) pairs to a worker."""
    bodies = [body for _, body in requests]
    if sum(map(len, bodies)) < JOIN_BELOW:
        return _encode(Kind.REQUESTS, list(requests))
    return _encode(Kind.REQUESTS, [(head, len(body)) for head, body in requests], bodies)


def encode_replies(replies: Sequence[Reply], spent: Spent) -> list[bytes]:
    """Return the buffers of the frame with a worker's replies."""
    bodies = [reply.body for reply in replies]
    if sum(map(len, bodies)) < JOIN_BELOW:
        return _encode(Kind.REPLIES, (*spent, list(map(tuple, replies))))
    heads = [(status, head, len(body), *marks) for status, head, body, *marks in replies]
    return _encode(Kind.REPLIES, (*spent, heads), bodies)


def encode_crash(crash: Crash) -> list[bytes]:
    """Return the buffers of the frame that stands for the replies to a batch that failed as a whole."""
    return _encode(Kind.CRASH, (crash.error, tuple(crash.reply), crash.out_of_memory))


def encode_cancel(places: Sequence[int]) -> bytes:
    """Return the frame that cancels requests of the last batch, by their places in it."""
    return b"".join(_encode(Kind.CANCEL, list(places)))


def encode_threads(count: int) -> bytes:
    """Return the frame that sets the threads of a worker's math libraries."""
    return b"".join(_encode(Kind.THREADS, count))


def encode_join(requests: Sequence[tuple[int, bytes, bytes]]) -> list[bytes]:
    """Return the buffers of the frame that starts these (stream, head, body) before the next step."""
    return _encode(Kind.JOIN, list(requests))


def encode_leave(streams: Sequence[int]) -> list[bytes]:
    """Return the buffers of the frame that drops these streams before the next step."""
    return _encode(Kind.LEAVE, list(streams))


def encode_iteration(iteration: Iteration) -> list[bytes]:
    """Return the buffers of the frame with the pieces of one step."""
    rows = [(stream, reply and tuple(reply), *marks) for stream, reply, *marks in iteration.outputs]
    return _encode(Kind.ITERATION, (rows, *iteration[1:]))


def encode_handshake(handshake: Handshake) -> list[bytes]:
    """Return the buffers of the frame with which a worker opens the connection."""
    return _encode(Kind.HANDSHAKE, asdict(handshake))


def encode_failure(failure: Failure) -> list[bytes]:
    """Return the buffers of the frame with the function's exception, sent before the batch's replies."""
    return _encode(Kind.FAILURE, asdict(failure))


def decode_header(data: bytes | bytearray | memoryview) -> FrameHeader:
    """Return the fixed part of a frame from its first ``HEADER_SIZE`` bytes. Raises ``FrameError``."""
    if len(data) < HEADER_SIZE:
        raise FrameError(f"a frame begins with {HEADER_SIZE} bytes, got {len(data)}")
    magic, kind, values, bodies = _FRAME.unpack_from(data)
    if magic != MAGIC or kind not in _KINDS:
        raise FrameError(f"a frame begins with {magic!r} and kind {kind}, not {MAGIC!r} and a known kind")
    return FrameHeader(_KINDS[kind], values, bodies)


def decode_requests(header: FrameHeader, data: memoryview) -> list[tuple[bytes, bytes]]:
    """Return the (head, body) pairs in the ``header.size`` bytes after the header. Raises ``FrameError``."""
    with _understood(header, Kind.REQUESTS, data):
        requests: list[tuple[bytes, bytes]] = _values(header, data)
        if header.bodies:
            bodies = _bodies(header, data, [length for _, length in requests])
            return [(head, body) for (head, _), body in zip(requests, bodies, strict=True)]
        return [(head, body) for head, body in requests]


def decode_replies(header: FrameHeader, data: memoryview) -> tuple[list[Reply], Spent]:
    """Return the replies in the ``header.size`` bytes after the header, in order. Raises ``FrameError``."""
    with _understood(header, Kind.REPLIES, data):
        *numbers, rows = _values(header, data)
        spent = Spent(*numbers)
        replies = list(map(Reply._make, rows))
        if header.bodies:
            bodies = _bodies(header, data, [reply.body for reply in replies])
            replies = [reply._replace(body=body) for reply, body in zip(replies, bodies, strict=True)]
        if not all(0.0 <= number < inf for number in spent):
            raise ValueError(f"it took {spent}")
        return replies, spent


def decode_crash(header: FrameHeader, data: memoryview) -> Crash:
    """Return the crash in the ``header.size`` bytes after the header. Raises ``FrameError``."""
    with _understood(header, Kind.CRASH, data):
        error, reply, out_of_memory = _values(header, data)
        return Crash(error, Reply._make(reply), out_of_memory)


def decode_cancel(header: FrameHeader, data: memoryview) -> list[int]:
    """Return the places in the ``header.size`` bytes after the header. Raises ``FrameError``."""
    with _understood(header, Kind.CANCEL, data):
        return [int(place) for place in _values(header, data)]


def decode_threads(header: FrameHeader, data: memoryview) -> int:
    """Return the number in the ``header.size`` bytes after the header. Raises ``FrameError``."""
    with _understood(header, Kind.THREADS, data):
        return int(_values(header, data))


def decode_join(header: FrameHeader, data: memoryview) -> list[tuple[int, bytes, bytes]]:
    """Return the requests in the ``header.size`` bytes after the header. Raises ``FrameError``."""
    with _understood(header, Kind.JOIN, data):
        return [(stream, head, body) for stream, head, body in _values(header, data)]


def decode_leave(header: FrameHeader, data: memoryview) -> list[int]:
    """Return the streams in the ``header.size`` bytes after the header. Raises ``FrameError``."""
    with _understood(header, Kind.LEAVE, data):
        return [int(stream) for stream in _values(header, data)]


def decode_iteration(header: FrameHeader, data: memoryview) -> Iteration:
    """Return the iteration in the ``header.size`` bytes after the header. Raises ``FrameError``."""
    with _understood(header, Kind.ITERATION, data):
        rows, *counts = _values(header, data)
        outputs = [Output(stream, reply and Reply._make(reply), *marks) for stream, reply, *marks in rows]
        iteration = Iteration(outputs, *counts)
        if not all(0.0 <= took < inf for took in iteration[1:]):
            raise ValueError(f"it took {iteration[1:]}")
        return iteration


def decode_handshake(header: FrameHeader, data: memoryview) -> Handshake:
    """Return the handshake in the ``header.size`` bytes after the header. Raises ``FrameError``."""
    with _understood(header, Kind.HANDSHAKE, data):
        return Handshake(**_values(header, data))


def decode_failure(header: FrameHeader, data: memoryview) -> Failure:
    """Return the failure in the ``header.size`` bytes after the header. Raises ``FrameError``."""
    with _understood(header, Kind.FAILURE, data):
        return Failure(**_values(header, data))


def _encode(kind: Kind, values: Any, bodies: Sequence[bytes] = ()) -> list[bytes]:
    packed = marshal.dumps(values)
    lead = _FRAME.pack(MAGIC, kind, len(packed), sum(map(len, bodies)))
    return [lead + packed, *filter(None, bodies)]


def _values(header: FrameHeader, data: memoryview) -> Any:
    return marshal.loads(data[: header.values])  # noqa: S302 - our own process wrote it


def _bodies(header: FrameHeader, data: memoryview, lengths: Iterable[Any]) -> list[bytes]:
    start, bodies = header.values, []
    for length in lengths:
        bodies.append(bytes(data[start : start + length]))
        start += length
    if start != header.size:
        raise ValueError(f"bodies of {start - header.values} bytes, not {header.bodies}")
    return bodies


@contextmanager
def _understood(header: FrameHeader, kind: Kind, data: memoryview) -> Iterator[None]:
    """Check the kind and size of a frame; raise ``FrameError`` for values that are not those of its kind."""
    if header.kind is not kind or len(data) != header.size:
        raise FrameError(
            f"expected {kind.name} of {header.size} bytes, got {header.kind.name} of {len(data)}"
        )
    try:
        yield
    except (EOFError, KeyError, IndexError, OverflowError, TypeError, ValueError) as error:
        raise FrameError(f"a {kind.name.lower()} is not understood: {error}") from error
