"""What one connection can cost: nothing that a client sends raises, hangs, or is kept without bound."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batching_watchdog.front import protocol
from batching_watchdog.front.protocol import Connections, Exchange, HttpProtocol
from watchdog.http_service import LIMITS, Client, Clock, Echo, Service, Wire, scenario

CHUNKED = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
READ = 1 << 16


class Big(Echo):
    """Answers with more than any socket's buffer takes."""

    def answer(self, exchange: Exchange) -> None:
        exchange.respond(200, b"", b"x" * 30_000_000)


def connect(application: Echo | None = None) -> tuple[HttpProtocol, Wire, Echo]:
    application = application or Echo()
    made = HttpProtocol(Connections(application, LIMITS, Clock()))
    wire = Wire()
    made.connection_made(wire)  # type: ignore[arg-type] # all of a transport that is needed
    return made, wire, application


PIECES = st.one_of(
    st.binary(max_size=200),
    st.sampled_from(
        [
            *(
                b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
                CHUNKED,
                b"5\r\nabcde\r\n",
                b"0\r\n\r\n",
                b"0\r\nA: b",
                b"\r\n",
            ),
            *(
                b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 900\r\n",
                b"Expect: 100-continue\r\n",
                b"y" * 9000,
            ),
            *(b"X: " + b"y" * 20_000, b";" + b"e" * 20_000, b"0" * 9000, b"\r\n" * 4000, b"a: b\r\n" * 1500),
            *(b"Connection: upgrade\r\nUpgrade: x\r\n", b"Connection: close\r\n", b"\x00", b"\xff" * 50),
        ]
    ),
)


@settings(max_examples=300)
@given(st.lists(PIECES, max_size=30), st.booleans())
def test_whatever_comes_nothing_escapes_and_what_is_kept_is_bounded(pieces: list[bytes], hold: bool):
    made, _, application = connect(Echo(hold=hold))
    for piece in pieces:
        made.data_received(piece)
        current = made._current
        if current is not None:
            # One read beyond the limit, since the parser eats a read as a whole.
            assert made._excess <= protocol.MAX_HEADER_BYTES + len(piece)
            assert current.head_size <= protocol.MAX_HEADER_BYTES + len(piece)
            assert sum(map(len, current.chunks or [current.body])) <= LIMITS.max_body_bytes
        assert len(made._pending) <= len(application.exchanges) + 1
    assert all(len(exchange.body) <= LIMITS.max_body_bytes for exchange in application.exchanges)
    made.connection_lost(None)
    assert made._connections.queued_bytes == 0


def endless(start: bytes, more: bytes) -> Callable[[], Iterator[bytes]]:
    def pieces() -> Iterator[bytes]:
        yield start
        while True:
            yield more

    return pieces


@pytest.mark.parametrize(
    "pieces",
    [
        endless(b"GET /", b"y" * READ),
        endless(b"GET / HTTP/1.1\r\nHost: x\r\nA: ", b"y" * READ),
        endless(b"GET / HTTP/1.1\r\nHost: x\r\n", b"a: b\r\n" * 9000),
        endless(CHUNKED, b"0" * READ),
        endless(CHUNKED + b"1;a", b"e" * READ),
        endless(CHUNKED + b'1;a="', b"e" * READ),
        endless(CHUNKED, b"1;" + b"e" * 20_000 + b"\r\nx\r\n"),
        endless(CHUNKED + b"0\r\nA: ", b"y" * READ),
        endless(CHUNKED + b"0\r\n", b"a: b\r\n" * 9000),
    ],
    ids=["target", "header", "headers", "zeros", "extension", "quoted", "extensions", "trailer", "trailers"],
)
def test_what_never_ends_is_cut_after_the_headers_limit(pieces: Callable[[], Iterator[bytes]]):
    made, wire, application = connect()
    sent = 0
    for piece in pieces():
        made.data_received(piece)
        sent += len(piece)
        if wire.closed:
            break
        assert sent < 4 * READ
    assert not application.exchanges


def test_a_body_in_chunks_of_one_byte_is_not_taken_for_abuse():
    made, wire, application = connect()
    made.data_received(CHUNKED)
    for _ in range(LIMITS.max_body_bytes):
        made.data_received(b"1;a=b\r\nx\r\n")
    made.data_received(b"0\r\n\r\n")
    assert not wire.closed
    assert application.exchanges[0].body == b"x" * LIMITS.max_body_bytes


def test_a_large_read_that_ends_within_the_next_request_is_not_taken_for_long_headers():
    made, wire, application = connect()
    made.data_received(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 9000 + b"GET / HT")
    made.data_received(b"TP/1.1\r\nHost: x\r\n\r\n")
    assert not wire.closed
    assert len(application.exchanges) == 9001


def test_empty_lines_do_not_keep_an_idle_connection_open():
    made, wire, _ = connect()
    clock = made._clock
    assert isinstance(clock, Clock)
    for _ in range(8):
        clock.now += 10.0
        made.data_received(b"\r\n")
        made.check_timeouts(clock.now)
    assert wire.closed


def test_a_client_that_pipelines_and_does_not_read_is_cut_when_too_much_waits_for_it():
    made, wire, _ = connect(Big())
    wire.stalled = True
    made.pause_writing()
    made.data_received(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 9)
    assert wire.closed
    assert wire.unsent < protocol.MAX_UNSENT_BYTES + 31_000_000


def test_no_more_requests_are_taken_from_a_client_that_does_not_read_its_answers():
    async def body(service: Service, client: Client) -> None:
        get = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
        await client.send(get)
        await service.until(lambda: len(service.application.exchanges) == 1)
        other = await service.connect()
        client.writer.write(get)
        service.application.exchanges.clear()
        # Others are served meanwhile.
        await other.send(get)
        assert (await other.answer()).status == 200
        assert len(service.application.exchanges) == 1
        # When it reads, it gets all it asked for.
        assert (await client.answer()).status == 200
        assert (await client.answer()).status == 200

    scenario(body, Big())


def test_an_answer_that_is_never_read_does_not_keep_a_closed_connection():
    made, wire, _ = connect()
    clock = made._clock
    assert isinstance(clock, Clock)
    aborted = []
    wire.abort = lambda: aborted.append(True)  # type: ignore[method-assign] # to tell it from close
    made.data_received(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert wire.closed
    made.check_timeouts(clock.now + LIMITS.write_timeout)
    assert not aborted
    made.check_timeouts(clock.now + LIMITS.write_timeout + 1)
    assert aborted


def test_while_draining_every_pipelined_request_still_gets_its_answer():
    async def body(service: Service, client: Client) -> None:
        await client.send(b"".join(b"GET /%d HTTP/1.1\r\nHost: x\r\n\r\n" % i for i in range(3)))
        await service.until(lambda: len(service.application.exchanges) == 3)
        service.connections.close_idle()
        for exchange in service.application.exchanges:
            service.application.answer(exchange)
        answers = [await client.answer() for _ in range(3)]
        assert [answer.body for answer in answers] == [b"GET /0 ", b"GET /1 ", b"GET /2 "]
        assert answers[-1].headers["connection"] == "close"
        assert await client.closed()

    scenario(body, Echo(hold=True))


def test_hundreds_of_clients_that_dawdle_are_cut_and_others_are_served_meanwhile():
    async def body(service: Service, client: Client) -> None:
        starts = [
            b"GET / HTTP/1.1\r\nHo",
            b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n1",
            CHUNKED + b"5",
        ]
        dawdlers = [await service.connect() for _ in range(300)]
        for number, dawdler in enumerate(dawdlers):
            await dawdler.send(starts[number % len(starts)])
        await service.until(lambda: sum(made._current is not None for made in service.connections) == 300)
        # A byte now and then does not help.
        service.pass_time(LIMITS.read_timeout - 1)
        for dawdler in dawdlers:
            await dawdler.send(b"0")
        await client.send(b"GET /fast HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await client.answer()).body == b"GET /fast "
        service.pass_time(2)
        for dawdler in dawdlers:
            assert (await dawdler.answer()).status == 408
        service.pass_time(protocol.LINGER_SECONDS + 1)
        await service.until(lambda: len(service.connections) == 1)
        await client.send(b"GET /still HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await client.answer()).body == b"GET /still "

    scenario(body)


def post(size: int) -> bytes:
    return b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % size


SMALL = replace(LIMITS, max_queued_bytes=1500)


def test_bodies_beyond_the_budget_are_refused_at_the_header_until_others_are_answered():
    async def body(service: Service, client: Client) -> None:
        await client.send(post(1000) + b"x" * 1000)
        await service.until(lambda: len(service.application.exchanges) == 1)
        other = await service.connect()
        await other.send(post(501))
        assert (await other.answer()).status == 429
        await other.send(b"x" * 501 + post(0))
        await service.until(lambda: len(service.application.exchanges) == 2)
        for exchange in service.application.exchanges:
            service.application.answer(exchange)
        assert (await client.answer()).status == (await other.answer()).status == 200
        assert service.connections.queued_bytes == 0
        await other.send(post(1000) + b"x" * 1000)
        await service.until(lambda: len(service.application.exchanges) == 3)

    scenario(body, Echo(hold=True), SMALL)


def test_chunked_bodies_are_counted_as_they_come_and_cut_at_the_budget():
    async def body(service: Service, client: Client) -> None:
        others = [await service.connect() for _ in range(2)]
        await client.send(CHUNKED + b"384\r\n" + b"x" * 900 + b"\r\n")
        await service.until(lambda: service.connections.queued_bytes == 900)
        # What is announced but has not come takes nothing from the others.
        await others[0].send(post(600))
        await others[1].send(CHUNKED + b"384\r\n" + b"x" * 900 + b"\r\n")
        answer = await others[1].answer()
        assert (answer.status, answer.headers["connection"]) == (429, "close")
        assert service.connections.queued_bytes == 900

    scenario(body, limits=SMALL)


def test_the_bodies_of_clients_that_go_away_are_given_back():
    async def body(service: Service, client: Client) -> None:
        other = await service.connect()
        await client.send(post(700) + b"x" * 700)
        await other.send(post(700) + b"x" * 300)
        await service.until(lambda: service.connections.queued_bytes == 1000)
        client.writer.close()
        other.writer.close()
        await service.until(lambda: not len(service.connections))
        assert service.connections.queued_bytes == 0

    scenario(body, Echo(hold=True), SMALL)
