"""Keeps one request and its answer while they pass through the front end.

Owns the received part of the request, and its share of the bytes held. ``protocol`` fills it in, and sends
the answers of a connection in order. Next step: ``routes``, which answers.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol


class Responder(Protocol):
    """The connection of an exchange: its methods are those of ``Exchange``."""

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

    protocol: Responder
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

    @property
    def path(self) -> bytes:
        """The target without its query."""
        return self.target.partition(b"?")[0]

    def respond(self, status: int, head: bytes, body: bytes) -> None:
        """Answer. ``head``: complete header lines without Content-Length, Date and Connection."""
        self.protocol.respond(self, status, head, body)

    def begin(self, status: int, head: bytes) -> None:
        """Begin an answer in pieces. ``head``: as of ``respond``."""
        self.protocol.begin(self, status, head)

    def send(self, data: bytes) -> bool:
        """Send the next bytes of the answer; return False if too many wait for the client."""
        return self.protocol.send(self, data)

    def end(self, data: bytes, *, complete: bool = True) -> None:
        """Send the last bytes; without ``complete`` the client sees that the answer breaks off."""
        self.protocol.end(self, data, complete=complete)

    def abort(self) -> None:
        """Cut the connection at once."""
        self.protocol.abort()

    @property
    def stalled(self) -> bool:
        """Whether unread bytes wait for the client."""
        return self.protocol.stalled_since is not None
