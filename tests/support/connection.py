"""Connections of ``protocol`` in memory: bytes in, what comes out, on a clock that the test moves."""

import asyncio
import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from batching_watchdog.errors import WatchdogError
from batching_watchdog.front.connections import CONNECTION_BYTES, Connections, Limits
from batching_watchdog.front.exchange import Exchange
from batching_watchdog.front.protocol import HttpProtocol
from batching_watchdog.function.wire import parse_header_block

LIMITS = Limits(
    max_body_bytes=1000, read_timeout=30.0, write_timeout=30.0, max_queued_bytes=1 << 22, max_connections=100
)
GET = b"GET /a?b=c HTTP/1.1\r\nHost: x\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: x\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
LAST = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


def post(size: int, headers: bytes = b"") -> bytes:
    """The head of a request with a body of this length."""
    return POST + headers + b"Content-Length: %d\r\n\r\n" % size


@dataclass
class Clock:
    """A clock that the test moves."""

    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass(frozen=True)
class Message:
    """A request as the application gets it."""

    method: bytes
    target: bytes
    header_block: bytes
    captured_headers: dict[bytes, bytes]
    length: int | None
    size: int
    body: bytes
    keep_alive: bool

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """Names in lower case, as they go to the worker."""
        fields = parse_header_block(self.header_block)[2]
        return [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in fields]


@dataclass
class Echo:
    """Answers with method, target and body; keeps exchanges when told to hold them."""

    refusal: WatchdogError | None = None
    hold: bool = False
    status: int = 200
    answer_size: int = 0
    room: float = 1.0
    """Share of the bytes held for which its requests have room."""
    captured_headers: frozenset[bytes] = frozenset((b"x-call-id", b"x-timeout"))
    always_served: frozenset[bytes] = frozenset((b"/always",))
    exchanges: list[Exchange] = field(default_factory=list)
    messages: list[Message] = field(default_factory=list)
    errors: list[WatchdogError] = field(default_factory=list)
    disconnected: int = 0

    def share(self, exchange: Exchange) -> float:
        return 0.5 if exchange.target == b"/bulk" else self.room

    def refuse(self, exchange: Exchange) -> WatchdogError | None:
        return self.refusal

    def handle(self, exchange: Exchange) -> None:
        values = (getattr(exchange, name) for name in Message.__dataclass_fields__)
        self.messages.append(replace(Message(*values), captured_headers=dict(exchange.captured_headers)))
        self.exchanges.append(exchange)
        exchange.on_disconnect = self._disconnect
        if not self.hold:
            self.answer(exchange)

    def answer(self, exchange: Exchange) -> None:
        body = exchange.method + b" " + exchange.target + b" " + exchange.body
        exchange.respond(self.status, b"", body.ljust(self.answer_size))

    def answer_error(self, exchange: Exchange, error: WatchdogError) -> None:
        self.errors.append(error)
        exchange.respond(error.status, b"", b"")

    def _disconnect(self) -> None:
        self.disconnected += 1


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes


class Wire(asyncio.Transport):
    """A client's end: what was written to it, and whether it is read from and still open."""

    def __init__(self) -> None:
        super().__init__()
        self.sent = bytearray()
        self.unread = 0
        """Bytes that the client has not taken, as the kernel would tell."""
        self.reading = True
        self.closed = self.aborted = False

    def write(self, data: bytes) -> None:
        assert not self.closed, "written after closing"
        self.sent += data

    def writelines(self, parts: tuple[bytes, ...]) -> None:
        self.write(b"".join(parts))

    def close(self) -> None:
        self.closed = True

    write_eof = close

    def abort(self) -> None:
        self.closed = self.aborted = True

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return self.unread


def split_answers(sent: bytearray) -> list[Answer]:
    """The answers in what was sent."""
    data, found = bytes(sent), []
    while data:
        head, _, data = data.partition(b"\r\n\r\n")
        line, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value for name, _, value in (each.partition(": ") for each in lines)}
        length = int(headers.get("content-length", "0"))
        found.append(Answer(int(line.split(" ")[1]), headers, data[:length]))
        data = data[length:]
    return found


class Connection:
    """One client. ``beside`` is another client of the same listener."""

    def __init__(
        self,
        application: Echo | None = None,
        limits: Limits = LIMITS,
        beside: "Connection | None" = None,
        clock: Clock | None = None,
    ) -> None:
        self.clock = beside.clock if beside else clock or Clock()
        self.application = beside.application if beside else application or Echo()
        self.connections = beside.connections if beside else Connections(self.application, limits, self.clock)
        self.connections.sweep(0.0)
        self.protocol = HttpProtocol(self.connections)
        self.wire = Wire()
        self.protocol.connection_made(self.wire)

    def send(self, *pieces: bytes) -> list[Answer]:
        """Each piece is one read of the server's; what is answered to them."""
        for piece in pieces:
            self.protocol.data_received(piece)
        return self.answers()

    def answers(self) -> list[Answer]:
        """What came since it was asked for last."""
        sent, self.wire.sent = self.wire.sent, bytearray()
        return split_answers(sent)

    def release(self, *which: int) -> list[Answer]:
        """Answer the exchanges that are held, in this order; what is sent then."""
        for number in which or range(len(self.application.exchanges)):
            self.application.answer(self.application.exchanges[number])
        return self.answers()

    def pass_time(self, seconds: float) -> list[Answer]:
        """What the sweep says when so much time has passed."""
        self.clock.now += seconds
        self.connections.sweep(0.0)
        return self.answers()

    @property
    def held(self) -> int:
        """What is held but for the connections themselves."""
        return self.connections.queued_bytes - CONNECTION_BYTES * len(self.connections.open)

    def lose(self) -> None:
        """The client goes away."""
        self.protocol.connection_lost(None)


def clients(count: int, application: Echo | None = None, limits: Limits = LIMITS) -> list[Connection]:
    """So many clients of one listener."""
    first = Connection(application, limits)
    return [first, *(Connection(beside=first) for _ in range(count - 1))]


def statuses(answers: list[Answer]) -> list[int]:
    return [answer.status for answer in answers]


@dataclass
class Reading:
    """What became of a stream: complete requests, then ``open``, ``closed`` or ``refused`` and why."""

    messages: list[Message] = field(default_factory=list)
    end: str = "open"
    reason: str = ""
    sent: bytes = b""


def read(pieces: list[bytes]) -> Reading:
    """What becomes of a connection on which these pieces come."""
    connection = Connection(limits=replace(LIMITS, max_body_bytes=1 << 20))
    for piece in pieces:
        connection.protocol.data_received(piece)
    application = connection.application
    end = "refused" if application.errors else "closed" if connection.wire.closed else "open"
    assert connection.wire.closed == (end != "open")
    connection.lose()
    assert connection.connections.queued_bytes == 0
    reason = "; ".join(map(str, application.errors))
    return Reading(application.messages, end, reason, bytes(connection.wire.sent))


@contextmanager
def no_collector() -> Iterator[None]:
    """The collector does not run: what is in a cycle stays alive."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def alive(*kinds: type) -> int:
    """How many objects of these kinds there are."""
    # Not isinstance, which asks an object for its class: a proxy of torch answers with a warning.
    return sum(issubclass(type(each), kinds) for each in gc.get_objects())
