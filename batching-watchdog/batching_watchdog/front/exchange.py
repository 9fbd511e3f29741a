"""Keeps one request and its answer while they pass through the front end.

Owns the received part of the request, and its share of the bytes held. ``reader`` fills it in, and
``answers`` sends what answers it in its turn. Next step: ``routes``, which answers.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

from batching_watchdog.errors import WatchdogError

SMALL_PART: Final = 1 << 12
"""Bytes up to which parts of a body are joined: a separate object has tens of bytes of overhead."""


class Responder(Protocol):
    """The answers of an exchange's connection: its methods are those of ``Exchange``."""

    @property
    def stalled_since(self) -> float | None:
        """Time since which unread bytes of an answer wait for the client."""

    def respond(self, exchange: "Exchange", status: int, head: bytes, body: bytes) -> None:
        """Store the answer, and send it in its turn."""

    def begin(self, exchange: "Exchange", status: int, head: bytes) -> None:
        """Begin an answer in pieces."""

    def send(self, exchange: "Exchange", data: bytes) -> bool:
        """Send the next bytes of the answer; return False if too many wait for the client."""

    def end(self, exchange: "Exchange", data: bytes, *, complete: bool) -> None:
        """Send the last bytes of the answer."""

    def abort(self) -> None:
        """Close at once."""


@dataclass(slots=True, eq=False)
class Exchange:
    """One request and its answer."""

    responder: Responder
    began: float
    """Arrival time of its first byte."""
    arrived: float
    """Arrival time of the last byte of its head, then of its body: latency counts from here."""
    captured_headers: Mapping[bytes, bytes]
    """The application's captured headers by name. The last value counts: proxies append theirs."""
    method: bytes = b""
    target: bytes = b""
    header_block: bytes = b""
    """Request line and headers, as ``wire.request_header_block`` makes it."""
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    """The headers so far, until they are complete."""
    body: bytes = b""
    chunks: list[bytes] | None = None
    """The body's parts, until it is complete, if there is more than one."""
    head_size: int = 0
    """Bytes of the target, the header and the trailer."""
    size: int = 0
    """Bytes of the body so far."""
    held: int = 0
    """Its share of ``Connections.queued_bytes``."""
    most_held: int = 0
    """Bytes of all requests and answers together beyond which it is refused, once its head is complete."""
    host: bytes | None = None
    length: int | None = None
    """Content-Length; None without a body, or if it is chunked."""
    chunked: bool = False
    http_1_0: bool = False
    keep_alive: bool = True
    expects_continue: bool = False
    head_complete: bool = False
    refused: bool = False
    answer: tuple[bytes, bytes] | None = None
    parts: list[bytes] | None = None
    """Parts of a streamed answer that wait for earlier answers; None: it is not streamed."""
    on_disconnect: Callable[[], None] | None = None
    """Called if the client goes before it is answered. Dropped with the answer, since it may lead back to
    this object, and only what is in no cycle is freed at once."""

    def add(self, part: bytes) -> None:
        """Add a part of the body that is not its first."""
        if self.chunks is None:
            self.chunks = [self.body, part]
        elif len(self.chunks[-1]) + len(part) <= SMALL_PART:
            self.chunks[-1] += part
        else:
            self.chunks.append(part)

    def join(self) -> None:
        """Join the parts of the body, which is complete."""
        self.body = b"".join(self.chunks or ())
        self.chunks = None

    @property
    def path(self) -> bytes:
        """The target without its query."""
        return self.target.partition(b"?")[0]

    def respond(self, status: int, head: bytes, body: bytes) -> None:
        """Answer. ``head``: complete header lines without Content-Length, Date and Connection."""
        self.responder.respond(self, status, head, body)

    def begin(self, status: int, head: bytes) -> None:
        """Begin an answer in pieces. ``head``: as of ``respond``."""
        self.responder.begin(self, status, head)

    def send(self, data: bytes) -> bool:
        """Send the next bytes of the answer; return False if too many wait for the client."""
        return self.responder.send(self, data)

    def end(self, data: bytes, *, complete: bool = True) -> None:
        """Send the last bytes; without ``complete`` the client sees that the answer breaks off."""
        self.responder.end(self, data, complete=complete)

    def abort(self) -> None:
        """Cut the connection at once."""
        self.responder.abort()

    @property
    def stalled(self) -> bool:
        """Whether unread bytes wait for the client."""
        return self.responder.stalled_since is not None


class Application(Protocol):
    """The served application. Its calls are synchronous; an answer may come at once or later."""

    @property
    def captured_headers(self) -> frozenset[bytes]:
        """The headers, in lower case, that ``Exchange.captured_headers`` must hold by name."""

    @property
    def always_served(self) -> frozenset[bytes]:
        """The paths of probes, which are served regardless of the limits."""

    def share(self, exchange: Exchange) -> float:
        """Return the share of ``Limits.max_queued_bytes`` that a request with this head may help to fill."""

    def refuse(self, exchange: Exchange) -> WatchdogError | None:
        """Check a request whose header is complete; an error answers it before its body is read."""

    def handle(self, exchange: Exchange) -> None:
        """Take a complete request; ``exchange.respond`` must be called once."""

    def answer_error(self, exchange: Exchange, error: WatchdogError) -> None:
        """Respond with ``error``."""
