import asyncio

import pytest

from batching_watchdog.errors import QueueFull
from batching_watchdog.front import protocol
from watchdog.http_service import LIMITS, Client, Echo, Service, alive, no_collector, scenario

GET = b"GET /a?b=c HTTP/1.1\r\nHost: x\r\n\r\n"


def test_a_request_is_answered_with_its_length_and_a_date():
    async def body(service: Service, client: Client) -> None:
        await client.send(GET)
        answer = await client.answer()
        assert (answer.status, answer.body) == (200, b"GET /a?b=c ")
        assert answer.headers["date"] == "Thu, 01 Jan 1970 00:00:00 GMT"

    scenario(body)


def test_a_connection_is_kept_for_the_next_request():
    async def body(service: Service, client: Client) -> None:
        for _ in range(3):
            await client.send(GET)
            assert "connection" not in (await client.answer()).headers
        assert len(service.connections) == 1

    scenario(body)


@pytest.mark.parametrize("held", [False, True], ids=["answered", "withdrawn"])
def test_a_connection_that_is_gone_is_freed_without_the_collector(held: bool):
    kinds = protocol.HttpProtocol, protocol.Exchange

    async def body(service: Service, client: Client) -> None:
        await client.send(GET)
        if held:
            await service.until(lambda: len(service.application.exchanges) == 1)
        else:
            await client.answer()
        assert alive(*kinds) >= 1
        service.application.exchanges.clear()
        client.writer.close()
        await service.until(lambda: not len(service.connections))
        await asyncio.sleep(0)
        assert alive(*kinds) == 0

    with no_collector():
        scenario(body, Echo(hold=held))


def test_headers_that_the_application_notes_are_found_by_name_the_first_of_several():
    async def body(service: Service, client: Client) -> None:
        await client.send(
            b"GET / HTTP/1.1\r\nHost: x\r\nX-Timeout: 1s\r\nX-Other: a\r\nx-timeOut: 2s\r\n\r\n"
        )
        await client.answer()
        assert service.application.exchanges[0].noted == {b"x-timeout": b"1s"}

    scenario(body)


def test_connection_close_is_honored_and_said():
    async def body(service: Service, client: Client) -> None:
        await client.send(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert (await client.answer()).headers["connection"] == "close"
        assert await client.closed()

    scenario(body)


def test_http_1_0_closes_unless_it_asks_to_be_kept():
    async def body(service: Service, client: Client) -> None:
        await client.send(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        assert (await client.answer()).headers["connection"] == "keep-alive"
        await client.send(b"GET / HTTP/1.0\r\n\r\n")
        assert (await client.answer()).headers["connection"] == "close"
        assert await client.closed()

    scenario(body)


def test_pipelined_requests_are_answered_in_order_whatever_order_they_finish_in():
    async def body(service: Service, client: Client) -> None:
        await client.send(b"".join(b"GET /%d HTTP/1.1\r\nHost: x\r\n\r\n" % i for i in range(3)))
        await service.until(lambda: len(service.application.exchanges) == 3)
        for exchange in reversed(service.application.exchanges):
            service.application.answer(exchange)
        assert [(await client.answer()).body for _ in range(3)] == [b"GET /0 ", b"GET /1 ", b"GET /2 "]

    scenario(body, Echo(hold=True))


def test_a_pipeline_is_read_only_so_far_ahead():
    async def body(service: Service, client: Client) -> None:
        # Far more than the limit, in more than one read.
        for _ in range(20):
            await client.send(GET * 100)
            await asyncio.sleep(0)
        await service.until(lambda: len(service.application.exchanges) >= protocol.MAX_PIPELINED)
        taken = len(service.application.exchanges)
        await asyncio.sleep(0.05)
        assert len(service.application.exchanges) == taken < 2000
        service.application.hold = False
        for exchange in list(service.application.exchanges):
            service.application.answer(exchange)
        for _ in range(2000):
            assert (await client.answer()).status == 200

    scenario(body, Echo(hold=True))


def test_a_body_with_a_length_arrives_whole():
    async def body(service: Service, client: Client) -> None:
        await client.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n01234")
        await asyncio.sleep(0.01)
        await client.send(b"56789")
        assert (await client.answer()).body == b"POST / 0123456789"

    scenario(body)


def test_a_chunked_body_arrives_whole():
    async def body(service: Service, client: Client) -> None:
        await client.send(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
        await client.send(b"4;ext=1\r\ndefg\r\n0\r\n\r\n")
        assert (await client.answer()).body == b"POST / abcdefg"

    scenario(body)


def test_head_is_answered_with_the_length_but_without_the_body():
    async def body(service: Service, client: Client) -> None:
        await client.send(b"HEAD /x HTTP/1.1\r\nHost: x\r\n\r\n" + GET)
        head = await client.answer(head_only=True)
        assert head.headers["content-length"] == str(len(b"HEAD /x "))
        assert (await client.answer()).body == b"GET /a?b=c "

    scenario(body)


def test_a_status_without_content_has_neither_body_nor_length():
    class NoContent(Echo):
        def answer(self, exchange: protocol.Exchange) -> None:
            exchange.respond(204, b"", b"ignored")

    async def body(service: Service, client: Client) -> None:
        await client.send(GET * 2)
        assert "content-length" not in (await client.answer()).headers
        assert (await client.answer()).status == 204

    scenario(body, NoContent())


def test_expect_100_continue_is_answered_before_the_body_comes():
    async def body(service: Service, client: Client) -> None:
        await client.send(b"POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
        assert (await client.answer()).status == 100
        await client.send(b"ok")
        assert (await client.answer()).body == b"POST / ok"

    scenario(body)


def test_a_request_that_expects_100_is_refused_without_its_body():
    async def body(service: Service, client: Client) -> None:
        await client.send(b"POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
        answer = await client.answer()
        assert (answer.status, answer.headers["connection"]) == (429, "close")

    scenario(body, Echo(refusal=QueueFull(1, 1)))


def test_a_refusal_keeps_the_connection_when_its_small_body_can_be_dropped():
    async def body(service: Service, client: Client) -> None:
        await client.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n")
        assert (await client.answer()).status == 429
        service.application.refusal = None
        await client.send(b"no" + GET)
        assert (await client.answer()).body == b"GET /a?b=c "

    scenario(body, Echo(refusal=QueueFull(1, 1)))


def test_a_refused_chunked_body_closes_the_connection():
    async def body(service: Service, client: Client) -> None:
        await client.send(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        assert (await client.answer()).headers["connection"] == "close"
        assert await client.closed()

    scenario(body, Echo(refusal=QueueFull(1, 1)))


def test_a_body_announced_too_long_is_refused_at_the_header():
    async def body(service: Service, client: Client) -> None:
        await client.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1001\r\n\r\n")
        assert (await client.answer()).status == 413
        assert not service.application.exchanges

    scenario(body)


def test_a_long_body_gets_its_413_even_if_the_client_sends_it_all_first():
    async def body(service: Service, client: Client) -> None:
        size = 4_000_000
        client.writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % size)
        client.writer.write(b"x" * size)
        assert (await client.answer()).status == 413

    scenario(body)


def test_a_chunked_body_that_grows_too_long_is_cut_with_413():
    async def body(service: Service, client: Client) -> None:
        await client.send(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        await client.send(b"3e8\r\n" + b"x" * 1000 + b"\r\n1\r\nx\r\n")
        answer = await client.answer()
        assert (answer.status, answer.headers["connection"]) == (413, "close")
        assert not service.application.exchanges

    scenario(body)


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\n" + b"".join(b"X-%d: %b\r\n" % (i, b"y" * 1000) for i in range(70)),
        b"GET / HTTP/1.1\r\nX: " + b"y" * 600_000,
        b"GET /" + b"y" * 70_000,
    ],
    ids=["many-headers", "one-endless-header", "long-target"],
)
def test_headers_beyond_the_limit_are_refused_with_431(head: bytes):
    async def body(service: Service, client: Client) -> None:
        client.writer.write(head)
        answer = await client.answer()
        assert (answer.status, answer.headers["connection"]) == (431, "close")

    scenario(body)


@pytest.mark.parametrize(
    "data",
    [
        b"hello\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nab",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
        b"GET / HTTP/1.1\r\nHost : x\r\n\r\n",
    ],
    ids=["no-http", "two-lengths", "length-and-chunked", "negative-length", "bad-chunk", "space"],
)
def test_what_is_not_a_request_gets_400_and_a_closed_connection(data: bytes):
    async def body(service: Service, client: Client) -> None:
        await client.send(data)
        answer = await client.answer()
        assert (answer.status, answer.headers["connection"]) == (400, "close")
        assert await client.closed()

    scenario(body)


def test_an_upgrade_is_ignored_and_the_connection_closed_after_the_answer():
    async def body(service: Service, client: Client) -> None:
        await client.send(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: ws\r\n\r\nframe")
        answer = await client.answer()
        assert (answer.status, answer.headers["connection"]) == (200, "close")
        assert await client.closed()

    scenario(body)


def test_a_bad_request_is_refused_after_the_good_ones_before_it_are_answered():
    async def body(service: Service, client: Client) -> None:
        await client.send(GET + b"nonsense\r\n\r\n")
        await service.until(lambda: len(service.application.exchanges) == 1)
        service.application.answer(service.application.exchanges[0])
        assert [(await client.answer()).status for _ in range(2)] == [200, 400]

    scenario(body, Echo(hold=True))


def test_a_client_that_dawdles_over_its_header_is_cut_with_408():
    async def body(service: Service, client: Client) -> None:
        await client.send(b"GET / HTTP/1.1\r\nHo")
        await service.until(lambda: len(service.connections) == 1)
        await asyncio.sleep(0.02)
        service.pass_time(LIMITS.read_timeout + 1)
        answer = await client.answer()
        assert (answer.status, answer.headers["connection"]) == (408, "close")
        service.pass_time(protocol.LINGER_SECONDS + 1)
        assert await client.closed()

    scenario(body)


def test_a_client_that_dawdles_over_its_body_is_cut_with_408():
    async def body(service: Service, client: Client) -> None:
        await client.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n123")
        await asyncio.sleep(0.02)
        service.pass_time(LIMITS.read_timeout + 1)
        assert (await client.answer()).status == 408

    scenario(body)


def test_a_request_that_waits_for_its_answer_is_not_timed_out_here():
    async def body(service: Service, client: Client) -> None:
        await client.send(GET)
        await service.until(lambda: len(service.application.exchanges) == 1)
        service.pass_time(1000)
        service.application.answer(service.application.exchanges[0])
        assert (await client.answer()).status == 200

    scenario(body, Echo(hold=True))


def test_an_idle_connection_is_closed_after_a_while_and_not_before():
    async def body(service: Service, client: Client) -> None:
        await client.send(GET)
        await client.answer()
        service.pass_time(protocol.KEEP_ALIVE_SECONDS - 1)
        await client.send(GET)
        await client.answer()
        service.pass_time(protocol.KEEP_ALIVE_SECONDS + 1)
        assert await client.closed()

    scenario(body)


def test_a_client_that_does_not_read_its_answer_is_cut_after_write_timeout():
    class Big(Echo):
        def answer(self, exchange: protocol.Exchange) -> None:
            exchange.respond(200, b"", b"x" * 30_000_000)

    async def body(service: Service, client: Client) -> None:
        await client.send(GET)
        await service.until(lambda: bool(service.application.exchanges))
        await asyncio.sleep(0.05)
        service.pass_time(LIMITS.write_timeout + 1)
        await service.until(lambda: len(service.connections) == 0)

    scenario(body, Big())


def test_a_client_that_goes_away_is_told_to_the_application_once():
    async def body(service: Service, client: Client) -> None:
        await client.send(GET)
        await service.until(lambda: len(service.application.exchanges) == 1)
        client.writer.close()
        await service.until(lambda: len(service.connections) == 0)
        assert service.application.disconnected == 1
        service.application.answer(service.application.exchanges[0])

    scenario(body, Echo(hold=True))


def test_closing_ends_idle_connections_and_lets_the_others_finish():
    async def body(service: Service, client: Client) -> None:
        idle = await service.connect()
        await idle.send(b"")
        await client.send(GET)
        await service.until(lambda: len(service.application.exchanges) == 1)
        await service.until(lambda: len(service.connections) == 2)
        service.connections.close_idle()
        assert await idle.closed()
        service.application.answer(service.application.exchanges[0])
        assert (await client.answer()).headers["connection"] == "close"
        assert await client.closed()

    scenario(body, Echo(hold=True))


def test_a_second_answer_to_the_same_request_is_ignored():
    async def body(service: Service, client: Client) -> None:
        await client.send(GET)
        await client.answer()
        service.application.answer(service.application.exchanges[0])
        await client.send(b"GET /second HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await client.answer()).body == b"GET /second "

    scenario(body)
