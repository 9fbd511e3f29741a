"""Whatever happens to a listener's connections: nothing escapes, is lost, or is kept without bound."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import pairwise

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from batching_watchdog.errors import QueueFull
from batching_watchdog.front.answers import REQUEST_BYTES
from batching_watchdog.front.connections import CONNECTION_BYTES, SURPLUS_CONNECTIONS, Connections
from batching_watchdog.front.exchange import Exchange
from batching_watchdog.front.protocol import KEEP_ALIVE_SECONDS, HttpProtocol
from support.connection import CHUNKED, GET, LAST, LIMITS, POST, Clock, Echo, Wire, post, split_answers
from support.fuzzing import fuzzed

FEW = replace(LIMITS, max_body_bytes=5000, max_queued_bytes=120_000, max_connections=4)
MANY = 20
"""Requests before a drain."""
BODY = post(900) + b"x" * 900
REQUESTS = {
    "get": GET,
    "three": GET * 3,
    "many": GET * 200,
    "body": BODY,
    "bodies": BODY * 9,
    "chunks": CHUNKED + b"5\r\nabcde\r\n" + b"1\r\nx\r\n" * 500 + b"0\r\n\r\n",
    "headers": GET[:-2] + b"a: b\r\n" * 100 + b"\r\n",
    "header": GET[:-2] + b"X: " + b"y" * 20_000 + b"\r\n\r\n",
    "always": GET.replace(b"/a", b"/always"),
    "expect": post(9, b"Expect: 100-continue\r\n") + b"x" * 9,
    "upgrade": post(9, b"Connection: upgrade\r\nUpgrade: x\r\n") + b"x" * 9,
    "last": LAST,
}
BEYOND = len(REQUESTS["many"]) + 200 * REQUEST_BYTES
"""One piece and its objects, until it is refused, and the answers to what was admitted."""
PIECES = {
    "chunked": CHUNKED,
    "end of chunks": b"0\r\n\r\n",
    "trailer": b"0\r\nA: b",
    "line end": b"\r\n",
    "too long": post(5001),
    "length": POST + b"Content-Length: 900\r\n",
    "letters": b"y" * 9000,
    "header": b"X: " + b"y" * 20_000,
    "extension": b";" + b"e" * 20_000,
    "zeros": b"0" * 9000,
    "line ends": b"\r\n" * 4000,
    "headers": b"a: b\r\n" * 1500,
}


CUTS = st.sets(st.integers(1, 2000), max_size=2)


class Client(Wire):
    """A client that may stop reading. ``connection_lost`` follows as from a loop."""

    def __init__(self, connections: Connections) -> None:
        super().__init__()
        self.protocol = HttpProtocol(connections)
        self.reads = True
        self.half_closed = False
        self.paused = False
        self.protocol.connection_made(self)

    def write(self, data: bytes) -> None:
        super().write(data)
        if not self.reads:
            self.unread += len(data)
            if not self.paused:
                self.paused = True
                self.protocol.pause_writing()

    def write_eof(self) -> None:
        self.closed = self.half_closed = True

    def read(self) -> None:
        self.reads, self.unread = True, 0
        if self.paused:
            self.paused = False
            self.protocol.resume_writing()

    @property
    def receives(self) -> bool:
        return self.reading and (self.half_closed or not self.closed)

    @property
    def is_lost(self) -> bool:
        return self.aborted or (self.closed and not self.half_closed and not self.unread)


class Machine(RuleBasedStateMachine):
    """Clients connect, send, stall and leave while requests are answered and time passes."""

    @initialize()
    def start(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.problems: list[object] = []
        self.loop.set_exception_handler(lambda _, context: self.problems.append(context))
        self.clock = Clock()
        self.application = Echo(hold=True, answer_size=50)
        self.connections = Connections(self.application, FEW, self.clock)
        self.clients: list[Client] = []
        self.waiting: list[Exchange] = []
        self.seen = 0
        self.answered = 0
        self.do(lambda: self.connections.sweep(0.0))

    def do(self, action: Callable[[], object]) -> None:
        """Act within the loop, and have it do what follows."""

        async def run() -> None:
            action()
            for _ in range(3):
                await asyncio.sleep(0)
            for client in [client for client in self.clients if client.is_lost]:
                self.clients.remove(client)
                client.protocol.connection_lost(None)

        self.loop.run_until_complete(run())
        self.waiting += self.application.exchanges[self.seen :]
        self.seen = len(self.application.exchanges)

    def one(self, data: st.DataObject) -> Client:
        return data.draw(st.sampled_from(self.clients))

    @precondition(lambda self: not self.connections.closing)
    @rule()
    def connect(self) -> None:
        self.do(lambda: self.clients.append(Client(self.connections)))

    @precondition(lambda self: self.clients)
    @rule(data=st.data(), name=st.sampled_from(list(REQUESTS)), cuts=CUTS)
    def ask(self, data: st.DataObject, name: str, cuts: set[int]) -> None:
        request = REQUESTS[name]
        edges = [0, *sorted(cut for cut in cuts if cut < len(request)), len(request)]
        client = self.one(data)
        for start, end in pairwise(edges):
            self.receive(client, request[start:end])

    @precondition(lambda self: self.clients)
    @rule(data=st.data(), piece=st.sampled_from(list(PIECES)) | st.binary(max_size=50))
    def send(self, data: st.DataObject, piece: str | bytes) -> None:
        self.receive(self.one(data), PIECES[piece] if isinstance(piece, str) else piece)

    def receive(self, client: Client, piece: bytes) -> None:
        if client.receives and client in self.clients:
            self.do(partial(client.protocol.data_received, piece))
        self.bounds_hold()

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def answer(self, data: st.DataObject) -> None:
        exchange = self.waiting.pop(data.draw(st.integers(0, len(self.waiting) - 1)))
        self.answered += exchange.on_disconnect is not None
        self.do(partial(self.application.answer, exchange))

    @precondition(lambda self: self.clients)
    @rule(data=st.data(), reads=st.booleans())
    def stall(self, data: st.DataObject, reads: bool) -> None:
        client = self.one(data)
        client.reads = False
        if reads:
            self.do(client.read)

    @precondition(lambda self: self.clients)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        client = self.one(data)
        self.do(client.abort)

    @rule(seconds=st.sampled_from([0.1, 0.1, 0.1, 1.5, 40.0]), refusing=st.sampled_from([False] * 5 + [True]))
    def wait(self, seconds: float, refusing: bool) -> None:
        self.clock.now += seconds
        self.application.refusal = QueueFull(1, 1) if refusing else None
        self.do(lambda: self.connections.sweep(0.0))

    @precondition(lambda self: self.seen > MANY)
    @rule(at_once=st.booleans())
    def drain(self, at_once: bool) -> None:
        self.do(lambda: self.connections.drain(at_once=at_once))

    @invariant()
    def bounds_hold(self) -> None:
        if not hasattr(self, "connections"):
            return
        assert not self.problems
        unread = sum(client.unread for client in self.clients)
        held = self.connections.queued_bytes
        connections = CONNECTION_BYTES * len(self.clients)
        assert connections + unread <= held <= connections + FEW.max_queued_bytes + BEYOND
        assert len(self.connections.open) == len(self.clients)
        assert len(self.clients) <= FEW.max_connections + SURPLUS_CONNECTIONS + 100

    def teardown(self) -> None:
        """What waits is answered, all is read, and every connection ends by itself."""
        if not hasattr(self, "connections"):
            return
        try:
            while self.waiting:
                exchange = self.waiting.pop()
                self.answered += exchange.on_disconnect is not None
                self.do(partial(self.application.answer, exchange))
                for client in self.clients:
                    self.do(client.read)
            for client in self.clients:
                assert all(answer.status >= 100 for answer in split_answers(client.sent))
            for seconds in (KEEP_ALIVE_SECONDS, 40.0, 40.0, 40.0):
                self.wait(seconds, refusing=False)
            self.do(partial(self.connections.drain, at_once=True))
            assert not self.clients
            assert self.connections.queued_bytes == self.connections.surplus == 0
            assert self.answered + self.application.disconnected == self.seen
            self.loop.run_until_complete(asyncio.wait_for(self.connections.drained(), 60))
        finally:
            self.loop.close()


TestMachine = Machine.TestCase
TestMachine.settings = fuzzed(40, stateful_step_count=30, deadline=None)
