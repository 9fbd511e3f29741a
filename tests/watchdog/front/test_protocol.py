"""HTTP on one connection: what is answered to which bytes, and when a connection ends."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial

import pytest

from batching_watchdog.errors import BadRequest, QueueFull
from batching_watchdog.front.admission import DISCARD_BYTES
from batching_watchdog.front.answers import MAX_PIPELINED, SMALL_BYTES
from batching_watchdog.front.connections import Connections
from batching_watchdog.front.protocol import KEEP_ALIVE_SECONDS, LINGER_SECONDS, HttpProtocol
from support.connection import (
    CHUNKED,
    GET,
    LAST,
    LIMITS,
    POST,
    Clock,
    Connection,
    Echo,
    clients,
    post,
    statuses,
)
from support.loops import within

KEEP_ALIVE = b"Connection: keep-alive\r\n"
Step = bytes | float | Callable[[Connection], object]
UPGRADE = b"Connection: upgrade\r\nUpgrade: h2c\r\n"
EXPECT = b"Expect: 100-continue\r\n"
LARGE = replace(LIMITS, max_body_bytes=1 << 20)
GOT, POSTED, MOST = b"GET /a?b=c ", b"POST / abcd", b"x" * 1000

SERVED = {
    "one request": ([GET], [GOT], None),
    "three in a row": ([GET, GET, GET], [GOT] * 3, None),
    "three at once": ([GET * 3], [GOT] * 3, None),
    "a length": ([post(4) + b"abcd"], [POSTED], None),
    "a length in pieces": ([post(4) + b"a", b"bc", b"d"], [POSTED], None),
    "chunked": ([CHUNKED + b"3\r\nabc\r\n", b"1;ext=1\r\nd\r\n0\r\n\r\n"], [POSTED], None),
    "the longest body": ([post(1000) + MOST], [b"POST / " + MOST], None),
    "the longest in chunks": ([CHUNKED + b"3e8\r\n" + MOST + b"\r\n0\r\n\r\n"], [b"POST / " + MOST], None),
    "to be closed": ([LAST], [b"GET / "], "close"),
    "nothing behind a close": ([LAST + GET], [b"GET / "], "close"),
    "HTTP/1.0": ([b"GET / HTTP/1.0\r\n\r\n"], [b"GET / "], "close"),
    "HTTP/1.0 to be kept": ([b"GET / HTTP/1.0\r\n" + KEEP_ALIVE + b"\r\n"], [b"GET / "], "keep-alive"),
    "HTTP/1.0 expects nothing": ([post(4, EXPECT).replace(b"1.1", b"1.0"), b"abcd"], [POSTED], "close"),
    "100 Continue": ([post(4, EXPECT), b"abcd"], [b"", POSTED], None),
    "another expectation": ([post(4, b"Expect: x\r\n"), b"abcd"], [POSTED], None),
    "an upgrade": ([POST + UPGRADE + b"\r\nframe"], [b"POST / "], "close"),
    "an upgrade with a body": ([post(4, UPGRADE) + b"abcd"], [POSTED], "close"),
    "an upgrade with a body in pieces": ([post(4, UPGRADE), b"ab", b"cd"], [POSTED], "close"),
    "an upgrade in chunks": (
        [POST + UPGRADE + b"Transfer-Encoding: chunked\r\n\r\n4\r\nab", b"cd\r\n0\r\n\r\n"],
        [POSTED],
        "close",
    ),
}
"""Reads; the bodies of the answers; the last one's Connection header."""


@pytest.mark.parametrize(("pieces", "bodies", "connection"), SERVED.values(), ids=SERVED)
def test_request_is_answered_and_the_connection_kept_or_closed(pieces, bodies, connection):
    client = Connection()
    answers = client.send(*pieces)
    assert [answer.body for answer in answers] == bodies
    assert {answer.status for answer in answers[:-1]} <= {100, 200}
    assert (answers[-1].status, answers[-1].headers.get("connection")) == (200, connection)
    assert answers[-1].headers["date"] == "Thu, 01 Jan 1970 00:00:00 GMT"
    assert client.wire.closed == (connection == "close")
    assert client.held == 0


def test_answer_to_head_has_the_length_but_not_the_body():
    client = Connection()
    client.protocol.data_received(b"HEAD /x HTTP/1.1\r\nHost: x\r\n\r\n")
    head, _, body = bytes(client.wire.sent).partition(b"\r\n\r\n")
    assert b"Content-Length: 8" in head.split(b"\r\n")
    assert body == b""


@pytest.mark.parametrize("status", [204, 304])
def test_status_without_content_has_neither_body_nor_length(status):
    answers = Connection(Echo(status=status)).send(GET * 2)
    assert statuses(answers) == [status] * 2
    assert "content-length" not in answers[0].headers


@pytest.mark.parametrize("size", [SMALL_BYTES, SMALL_BYTES + 1])
def test_answer_of_any_size_and_unknown_status_comes_whole(size):
    (answer,) = Connection(Echo(status=299, answer_size=size)).send(GET)
    assert (answer.status, answer.body) == (299, b"GET /a?b=c ".ljust(size))


def test_several_headers_with_a_captured_name_count_as_the_last_of_them():
    client = Connection()
    client.send(b"GET / HTTP/1.1\r\nHost: x\r\nX-Timeout: 1s\r\nX-Other: a\r\nx-timeOut: 2s\r\n\r\n")
    assert client.application.messages[0].captured_headers == {b"x-timeout": b"2s"}


def test_request_behind_another_is_not_told_to_continue_before_the_answer_to_that():
    client = Connection(Echo(hold=True))
    assert client.send(GET + post(4, b"Expect: 100-continue\r\n")) == []
    assert client.send(b"abcd") == []
    assert statuses(client.release()) == [200, 200]


def test_pipelined_requests_are_answered_in_order_whatever_order_they_finish_in():
    client = Connection(Echo(hold=True))
    client.send(b"".join(b"GET /%d HTTP/1.1\r\nHost: x\r\n\r\n" % number for number in range(3)))
    assert client.release(2, 1) == []
    assert [answer.body for answer in client.release(0)] == [b"GET /0 ", b"GET /1 ", b"GET /2 "]


REFUSED_AT_THE_HEADER = {
    "no body": (GET, b"", False),
    "a body to be dropped": (post(3), b"abc", False),
    "the longest to be dropped": (post(DISCARD_BYTES), b"x" * DISCARD_BYTES, False),
    "too long to be dropped": (post(DISCARD_BYTES + 1), b"", True),
    "chunked": (CHUNKED, b"", True),
    "expects 100": (post(2, EXPECT), b"", True),
    "expects 100 without a body": (POST + EXPECT + b"\r\n", b"", False),
    "its last request": (LAST, b"", True),
}
"""Head; body; whether the connection is closed."""


@pytest.mark.parametrize(
    ("head", "body", "closes"), REFUSED_AT_THE_HEADER.values(), ids=REFUSED_AT_THE_HEADER
)
def test_refusal_leaves_before_the_body_and_keeps_the_connection_if_the_body_can_be_dropped(
    head, body, closes
):
    client = Connection(Echo(refusal=QueueFull(1, 1)), LARGE)
    (answer,) = client.send(head)
    assert (answer.status, answer.headers.get("connection")) == (429, "close" if closes else None)
    client.application.refusal = None
    assert [each.body for each in client.send(body + GET)] == ([] if closes else [b"GET /a?b=c "])
    assert client.held == 0


@pytest.mark.parametrize("streamed", [False, True])
def test_answer_behind_a_stream_that_breaks_off_is_dropped_with_the_connection(streamed):
    client = Connection(Echo(hold=True))
    client.send(GET * 2 + GET[:9])
    broken, behind = client.application.exchanges
    broken.begin(200, b"")
    broken.end(b"", complete=False)
    assert client.wire.closed
    if streamed:
        behind.begin(200, b"")
        assert behind.send(b"x")
        behind.end(b"")
    else:
        behind.respond(200, b"", b"")
    client.lose()
    assert (client.held, client.application.disconnected) == (0, 0)


def stalls(unread: int = 1) -> Step:
    def step(client: Connection) -> None:
        client.wire.unread = unread
        client.protocol.pause_writing()

    return step


def reads(client: Connection) -> None:
    client.wire.unread = 0
    client.protocol.resume_writing()


def answers(number: int) -> Step:
    return lambda client: client.application.answer(client.application.exchanges[number])


def refuses(client: Connection) -> None:
    client.application.refusal = BadRequest("no")


READ, WRITE, LINGER, KEEP = LIMITS.read_timeout, LIMITS.write_timeout, LINGER_SECONDS, KEEP_ALIVE_SECONDS
# What comes after the 408 is dropped, but read: else a reset would overtake the answer.
CUT = [(READ, ""), (1, "408 closed"), (GET, "closed"), (LINGER, "closed"), (1, "aborted")]
COURSES: dict[str, list[tuple[Step, str]]] = {
    "head does not come": [(GET[:20], ""), *CUT],
    "body does not come": [(post(9) + b"1", ""), (b"2", ""), *CUT],
    "chunks do not come": [(CHUNKED + b"5", ""), (b"\r\na", ""), *CUT],
    "second request does not come": [(GET, ""), (answers(0), "200"), (GET[:5], ""), *CUT],
    "a byte now and then": [(GET[:5], ""), (READ - 1, ""), (GET[5:6], ""), (2, "408 closed")],
    "refused body does not come": [
        *((refuses, ""), (post(9), "400"), (READ + 1, "closed"), (LINGER + 1, "aborted"))
    ],
    "likewise behind one that waits": [
        *((GET, ""), (refuses, ""), (post(9), ""), (READ + 1, ""), (answers(0), "200 400 closed")),
        (LINGER + 1, "aborted"),
    ],
    "idle": [
        *((GET, ""), (answers(0), "200"), (3600, ""), (GET, ""), (answers(1), "200")),  # as long as Envoy's
        *((KEEP, ""), (b"\r\n", ""), (1, "closed")),  # empty lines are no request
    ],
    "waits for its answer": [(GET, ""), (1000, ""), (answers(0), "200"), (KEEP, ""), (1, "closed")],
    "does not read": [(stalls(), "paused"), (WRITE, "paused"), (1, "paused aborted")],
    "reads late": [(stalls(), "paused"), (WRITE, "paused"), (reads, ""), (1, "")],
    "last answer unread": [(LAST, ""), (answers(0), "200 closed"), (WRITE, "closed"), (1, "aborted")],
    "too much unread": [
        *((GET * 3, ""), (stalls(LIMITS.max_queued_bytes), "paused"), (answers(0), "200 paused")),
        *((stalls(LIMITS.max_queued_bytes + 1), "paused"), (answers(1), "paused aborted")),
    ],
    "pipelines": [(GET * (MAX_PIPELINED - 1), ""), (GET, "paused"), (answers(0), "200")],
}
"""What comes, happens, or passes in seconds; what is answered then, and how the connection is."""


@pytest.mark.parametrize("steps", COURSES.values(), ids=COURSES)
def test_connection_takes_its_course(steps):
    client = Connection(Echo(hold=True))
    for number, (step, expected) in enumerate(steps):
        if callable(step):
            step(client)
            came = client.answers()
        else:
            came = client.send(step) if isinstance(step, bytes) else client.pass_time(step)
        wire = client.wire
        state = "aborted" if wire.aborted else "closed" if wire.closed else ""
        seen = [*map(str, statuses(came)), *(["paused"] if not wire.reading else []), state]
        assert " ".join(filter(None, seen)) == expected, f"step {number}"


def test_client_that_goes_away_is_told_to_the_application_once_for_what_is_not_answered():
    client = Connection(Echo(hold=True))
    client.send(GET * 2)
    client.release(0)
    client.lose()
    assert client.application.disconnected == 1
    assert client.release(1) == []
    assert not client.connections.open


def drained(connections: Connections) -> bool:
    """Whether a drain of these connections is over."""

    async def run() -> bool:
        waiting = asyncio.ensure_future(connections.drained())
        await asyncio.sleep(0)
        return waiting.done() or not waiting.cancel()

    return asyncio.run(run())


def test_drain_closes_idle_connections_and_refuses_a_request_whose_head_has_not_come():
    idle, half, behind = clients(3, Echo(hold=True))
    half.send(GET[:5])
    behind.send(GET + GET[:5])
    idle.connections.drain()
    assert (idle.wire.closed, behind.wire.closed) == (True, False)
    for client, answers, expected in ((half, half.answers(), [503]), (behind, behind.release(), [200, 503])):
        assert statuses(answers) == expected
        assert answers[-1].headers["connection"] == "close"
        assert client.wire.closed


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_drain_closes_a_connection_behind_the_answers_that_it_is_owed(order):
    client = Connection(Echo(hold=True))
    client.send(GET * 2)
    client.release(order[0])
    client.connections.drain()
    assert not client.wire.closed
    client.release(order[1])
    assert client.wire.closed
    client.protocol.pause_writing()
    assert client.connections.unread == 1
    assert not drained(client.connections)
    client.lose()
    assert drained(client.connections)


@pytest.mark.parametrize("head", [post(2), CHUNKED], ids=["a length", "chunked"])
def test_drain_waits_for_a_body_until_its_time_is_over(head):
    served, refused = clients(2, Echo(hold=True))
    served.send(head)
    refused.send(head)
    served.connections.drain()
    served.send(b"ab" if head == post(2) else b"2\r\nab\r\n0\r\n\r\n")
    served.connections.drain(at_once=True)
    (answer,) = refused.answers()
    assert (answer.status, answer.headers["connection"]) == (503, "close")
    (answer,) = served.release()
    assert (answer.status, answer.headers["connection"]) == (200, "close")
    assert served.held == 0


class Lag:
    """A loop that lags behind by a second."""

    reads = 0

    def came_at(self, now: float) -> float:
        return now - 1.0

    def read_done(self) -> None:
        self.reads += 1


@pytest.mark.parametrize(
    "pieces",
    [
        [GET],
        [GET[:9], GET[9:]],
        [post(2) + b"a", b"b"],
        [CHUNKED[:9], CHUNKED[9:] + b"1\r\na", b"\r\n0\r\n\r\n"],
        [CHUNKED, b"0\r\n\r\n"],
    ],
    ids=["at once", "no body", "a length", "chunked", "nothing in chunks"],
)
def test_request_came_when_the_loop_could_first_have_read_its_first_byte_and_its_last(pieces):
    client, lag = Connection(), Lag()
    client.connections.loop_lag = lag
    came = []
    for piece in pieces:
        came.append(client.clock.now - 1.0)
        client.send(piece)
        client.clock.now += 1
    (exchange,) = client.application.exchanges
    assert (exchange.began, exchange.arrived) == (came[0], came[-1])
    assert lag.reads == len(pieces)


@asynccontextmanager
async def listening() -> AsyncIterator[tuple[Echo, asyncio.StreamReader, asyncio.StreamWriter]]:
    """A client of a real listener, both in this loop."""
    connections = Connections(application := Echo(hold=True), LIMITS, Clock())
    server = await asyncio.get_running_loop().create_server(
        partial(HttpProtocol, connections), "127.0.0.1", 0
    )
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    try:
        yield application, reader, writer
    finally:
        writer.close()
        server.close()
        connections.abort()
        await asyncio.sleep(0)


over_a_real_socket = within(listening, gives=3)


@over_a_real_socket
async def test_client_that_sends_all_of_a_long_body_first_reads_its_413(application, reader, writer):
    writer.write(post(4_000_000) + b"x" * 4_000_000)
    assert (await reader.read()).startswith(b"HTTP/1.1 413 ")


@over_a_real_socket
async def test_client_that_closes_its_side_has_left(application, reader, writer):
    writer.write(GET)
    writer.write_eof()
    assert await reader.read() == b""
    assert application.disconnected == 1
