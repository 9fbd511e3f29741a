"""A listener of ``protocol`` in the test's own event loop, and a client that sees every byte."""

import asyncio
import gc
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field

from batching_watchdog.errors import WatchdogError
from batching_watchdog.front.protocol import Connections, Exchange, Limits
from batching_watchdog.wire import parse_request_head

LIMITS = Limits(max_body_bytes=1000, read_timeout=30.0, write_timeout=30.0, max_queued_bytes=1 << 20)


@dataclass
class Clock:
    """A clock that the test moves."""

    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Echo:
    """Answers with method, target and body; keeps exchanges when told to hold them."""

    refusal: WatchdogError | None = None
    hold: bool = False
    exchanges: list[Exchange] = field(default_factory=list)
    disconnected: int = 0
    noted_headers: frozenset[bytes] = frozenset((b"x-timeout",))

    def refuse(self, exchange: Exchange) -> WatchdogError | None:
        return self.refusal

    def handle(self, exchange: Exchange) -> None:
        self.exchanges.append(exchange)
        exchange.on_disconnect = self._disconnect
        if not self.hold:
            self.answer(exchange)

    def answer(self, exchange: Exchange) -> None:
        exchange.respond(200, b"", exchange.method + b" " + exchange.target + b" " + exchange.body)

    def answer_error(self, exchange: Exchange, error: WatchdogError) -> None:
        exchange.respond(error.status, b"X-Reason: %b\r\n" % error.reason.encode(), b"")

    def _disconnect(self) -> None:
        self.disconnected += 1


def headers(exchange: Exchange) -> list[tuple[bytes, bytes]]:
    """The headers as they go to the worker."""
    return [
        (name.encode("latin-1"), value.encode("latin-1"))
        for name, value in parse_request_head(exchange.head)[2]
    ]


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes


class Client:
    """One connection, byte by byte."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self, *, head_only: bool = False) -> Answer:
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        line, *lines = head.split("\r\n")[:-2]
        headers = {name.lower(): value for name, value in (field.split(": ", 1) for field in lines)}
        length = 0 if head_only else int(headers.get("content-length", "0"))
        return Answer(int(line.split(" ")[1]), headers, await self.reader.readexactly(length))

    async def closed(self) -> bool:
        """Whether the server has ended the connection and sent nothing more."""
        return await self.reader.read() == b""


@dataclass
class Service:
    application: Echo
    connections: Connections
    clock: Clock
    connect: Callable[[], Awaitable[Client]]

    def pass_time(self, seconds: float) -> None:
        """Let the connections believe that ``seconds`` have passed, and sweep them."""
        self.clock.now += seconds
        self.connections.sweep(time.time())

    async def until(self, condition: Callable[[], bool]) -> None:
        """Give the loop its turns until ``condition`` holds."""
        while not condition():  # noqa: ASYNC110 - sockets have no event for what the test waits for
            await asyncio.sleep(0.001)


class Wire:
    """A transport that goes nowhere; what is written is kept while ``stalled``."""

    def __init__(self) -> None:
        self.closed = False
        self.stalled = False
        self.unsent = 0
        self.answers = 0

    def write(self, data: bytes) -> None:
        assert not self.closed, "written after closing"
        self.answers += 1
        if self.stalled:
            self.unsent += len(data)

    def writelines(self, parts: tuple[bytes, ...]) -> None:
        self.write(b"".join(parts))

    def close(self) -> None:
        self.closed = True

    write_eof = abort = close

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None:
        pass

    resume_reading = pause_reading

    def get_write_buffer_size(self) -> int:
        return self.unsent


@asynccontextmanager
async def serving(application: Echo | None = None, limits: Limits = LIMITS) -> AsyncIterator[Service]:
    application = application or Echo()
    clock = Clock()
    connections = Connections(application, limits, clock)
    connections.sweep(0.0)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(connections.protocol, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    clients: list[Client] = []

    async def connect() -> Client:
        client = Client(*await asyncio.open_connection("127.0.0.1", port))
        clients.append(client)
        return client

    try:
        yield Service(application, connections, clock, connect)
    finally:
        for client in clients:
            client.writer.close()
        server.close()
        connections.abort()
        await asyncio.sleep(0)


def scenario(
    body: Callable[[Service, Client], Awaitable[None]],
    application: Echo | None = None,
    limits: Limits = LIMITS,
) -> None:
    async def run() -> None:
        async with asyncio.timeout(10), serving(application, limits) as service:
            await body(service, await service.connect())

    asyncio.run(run())


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
    return sum(isinstance(each, kinds) for each in gc.get_objects())
