"""A slot and a real HTTP connection; the test plays the server, byte by byte."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import pytest

from batching_watchdog import wire
from batching_watchdog.config import HttpUrl
from batching_watchdog.errors import StartFailed
from batching_watchdog.messages import Batch, DispatchReason, Reply, Request
from batching_watchdog.pool import http_upstream
from batching_watchdog.pool.http_upstream import FORMATS, Failure, Slot, probe


@dataclass
class Log:
    """What the slot said, and an event per word."""

    replies: list[list[Reply]] = field(default_factory=list)
    failures: list[tuple[Batch, Failure, str]] = field(default_factory=list)
    unreachables: int = 0
    again: asyncio.Event = field(default_factory=asyncio.Event)
    word: asyncio.Event = field(default_factory=asyncio.Event)

    def replied(self, slot: Slot, batch: Batch, replies: list[Reply]) -> None:
        self.replies.append(replies)
        self.word.set()

    def lost(self, slot: Slot, batch: Batch, failure: Failure, why: str) -> None:
        self.failures.append((batch, failure, why))
        self.word.set()

    async def unreachable(self, why: str) -> None:
        self.unreachables += 1
        self.word.set()
        await self.again.wait()

    async def next(self) -> None:
        await self.word.wait()
        self.word.clear()


@dataclass
class Upstream:
    """A listener that hands out its connections in the order in which they come."""

    port: int
    accepted: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]]
    writer: asyncio.StreamWriter | None = None
    reader: asyncio.StreamReader | None = None

    async def connection(self) -> None:
        self.reader, self.writer = await self.accepted.get()

    async def request(self) -> tuple[str, list[tuple[bytes, bytes]]]:
        """The head and the decoded body of the next request on the newest connection."""
        assert self.reader is not None
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
        length = int(head.partition("Content-Length: ")[2].split("\r\n")[0])
        return head, wire.decode_frame_of_requests(await self.reader.readexactly(length))

    def answer(self, data: bytes) -> None:
        assert self.writer is not None
        self.writer.write(data)

    def closed(self) -> None:
        assert self.writer is not None
        self.writer.close()


Body = Callable[[Slot, Log, Upstream], Awaitable[None]]


def batch(*bodies: bytes) -> Batch:
    requests = tuple(Request(n, b"POST /\r\n", body, 0.0, 0.0, 0.0) for n, body in enumerate(bodies))
    return Batch(requests, DispatchReason.IDLE, 0.0)


def frame(*bodies: bytes) -> bytes:
    return b"".join(wire.encode_replies([Reply(200, b"", body) for body in bodies], 0.0))


def response(body: bytes, status: str = "200 OK", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def scenario(body: Body, timeout: float = 10.0) -> None:
    async def run() -> None:
        accepted: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()
        everyone: list[asyncio.StreamWriter] = []

        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            everyone.append(writer)
            await accepted.put((reader, writer))

        server = await asyncio.start_server(accept, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        log = Log()
        slot = Slot(HttpUrl("127.0.0.1", port, "/b?x", "here:1"), FORMATS["frame"], timeout, log)
        try:
            async with asyncio.timeout(20):
                await body(slot, log, Upstream(port, accepted))
        finally:
            slot.close()
            server.close()
            for writer in everyone:
                writer.close()
            await asyncio.sleep(0.01)

    asyncio.run(run())


async def send(slot: Slot, upstream: Upstream, *bodies: bytes) -> Batch:
    """Send a batch over a new connection, and receive it there."""
    sent = batch(*bodies)
    slot.send(sent)
    await upstream.connection()
    assert [body for _, body in (await upstream.request())[1]] == list(bodies)
    return sent


def test_a_batch_is_one_post_and_its_answer_the_replies_however_the_bytes_are_cut():
    async def body(slot: Slot, log: Log, upstream: Upstream) -> None:
        slot.send(batch(b"a", b"b"))
        assert slot.busy
        await upstream.connection()
        head, pairs = await upstream.request()
        assert head.startswith("POST /b?x HTTP/1.1\r\nHost: here:1\r\n")
        assert f"Content-Type: {wire.CONTENT_TYPE}\r\n" in head
        assert pairs == [(b"POST /\r\n", b"a"), (b"POST /\r\n", b"b")]
        data = response(frame(b"A", b"B"))
        for at in range(0, len(data), 7):
            upstream.answer(data[at : at + 7])
            await asyncio.sleep(0)
        await log.next()
        assert [reply.body for reply in log.replies[0]] == [b"A", b"B"]
        assert not slot.busy

    scenario(body)


def test_the_connection_is_kept_for_the_next_batch():
    async def body(slot: Slot, log: Log, upstream: Upstream) -> None:
        await send(slot, upstream, b"a")
        for _ in range(3):
            upstream.answer(response(frame(b"A")))
            await log.next()
            slot.send(batch(b"next"))
            await upstream.request()
        assert upstream.accepted.empty()

    scenario(body)


@pytest.mark.parametrize("case", ["connection-close", "closed-when-idle", "kept-too-long"])
def test_a_connection_that_may_end_is_not_used_again(case: str, monkeypatch: pytest.MonkeyPatch):
    if case == "kept-too-long":
        monkeypatch.setattr(http_upstream, "KEEP_SECONDS", -1.0)

    async def body(slot: Slot, log: Log, upstream: Upstream) -> None:
        await send(slot, upstream, b"a")
        upstream.answer(
            response(frame(b"A"), "200 OK", *(["Connection: close"] if case.startswith("conn") else []))
        )
        await log.next()
        if case == "closed-when-idle":
            upstream.closed()
            await asyncio.sleep(0.05)
        await send(slot, upstream, b"b")
        upstream.answer(response(frame(b"B")))
        await log.next()
        assert (len(log.replies), log.failures) == (2, [])

    scenario(body)


def test_chunked_answers_and_those_that_end_with_the_connection_are_understood():
    async def body(slot: Slot, log: Log, upstream: Upstream) -> None:
        await send(slot, upstream, b"a")
        data = frame(b"A")
        chunks = b"%x\r\n%b\r\n%x\r\n%b\r\n0\r\n\r\n" % (5, data[:5], len(data) - 5, data[5:])
        upstream.answer(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        upstream.answer(chunks)
        await log.next()
        slot.send(batch(b"b"))
        await upstream.request()
        upstream.answer(b"HTTP/1.0 200 OK\r\n\r\n" + frame(b"B"))
        upstream.closed()
        await log.next()
        assert [replies[0].body for replies in log.replies] == [b"A", b"B"]

    scenario(body)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (response(b"no memory", "500 Internal Server Error"), "status 500: 'no memory'"),
        (response(b"", "204 No Content"), "status 204"),
        (response(frame(b"A"), "201 Created"), "status 201"),
        (response(b"{}"), "a frame begins with"),
        (response(frame()), "0 replies for 1 requests"),
        (response(frame(b"A", b"B")), "2 replies for 1 requests"),
        (response(frame(b"A") + b"x"), "do not add up"),
        (response(b"".join(wire.encode_replies([Reply(99, b"", b"")], 0.0))), "status 99"),
        (response(b"".join(wire.encode_requests([(b"", b"")]))), "REQUESTS"),
    ],
)
def test_a_wrong_answer_is_told_with_its_reason_and_the_slot_goes_on(answer: bytes, said: str):
    async def body(slot: Slot, log: Log, upstream: Upstream) -> None:
        sent = await send(slot, upstream, b"a")
        upstream.answer(answer)
        await log.next()
        [(lost, failure, why)] = log.failures
        assert (lost, failure) == (sent, Failure.WRONG_ANSWER)
        assert said in why
        await send(slot, upstream, b"b")
        upstream.answer(response(frame(b"B")))
        await log.next()
        assert log.replies[0][0].body == b"B"

    scenario(body)


@pytest.mark.parametrize(
    ("answer", "said"),
    [(b"", "broke"), (response(frame(b"A"))[:-1], "broke"), (b"garbage\r\n\r\n", "not HTTP")],
)
def test_a_connection_that_breaks_takes_its_batch_with_it(answer: bytes, said: str):
    async def body(slot: Slot, log: Log, upstream: Upstream) -> None:
        sent = await send(slot, upstream, b"a")
        upstream.answer(answer)
        upstream.closed()
        await log.next()
        [(lost, failure, why)] = log.failures
        assert (lost, failure, log.replies) == (sent, Failure.BROKEN, [])
        assert said in why

    scenario(body)


@pytest.mark.parametrize("part", [b"X-Pad: " + b"x" * 3000 + b"\r\n", b"\r\n" + b"x" * 3000])
def test_an_answer_that_does_not_end_is_cut_before_it_fills_the_memory(
    part: bytes, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(http_upstream, "MAX_RESPONSE_BYTES", 2000)

    async def body(slot: Slot, log: Log, upstream: Upstream) -> None:
        sent = await send(slot, upstream, b"a")
        upstream.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 9999999999\r\n" + part)
        await log.next()
        [(lost, failure, why)] = log.failures
        assert (lost, failure) == (sent, Failure.WRONG_ANSWER)
        assert "longer than 2000 bytes" in why

    scenario(body)


def test_an_answer_that_nobody_asked_for_closes_the_connection():
    async def body(slot: Slot, log: Log, upstream: Upstream) -> None:
        await send(slot, upstream, b"a")
        upstream.answer(response(frame(b"A")) * 2)
        await log.next()
        await send(slot, upstream, b"b")
        upstream.answer(response(frame(b"B")))
        await log.next()
        assert [replies[0].body for replies in log.replies] == [b"A", b"B"]

    scenario(body)


def test_no_answer_within_exec_timeout_loses_the_batch_and_a_late_one_is_not_heard():
    async def body(slot: Slot, log: Log, upstream: Upstream) -> None:
        sent = await send(slot, upstream, b"a")
        await log.next()
        assert [(lost, failure) for lost, failure, _ in log.failures] == [(sent, Failure.TIMED_OUT)]
        upstream.answer(response(frame(b"late")))
        await send(slot, upstream, b"b")
        upstream.answer(response(frame(b"B")))
        await log.next()
        assert [replies[0].body for replies in log.replies] == [b"B"]

    scenario(body, timeout=0.05)


def test_while_nobody_listens_the_batch_waits_until_it_is_worth_trying_again():
    async def body(slot: Slot, log: Log, upstream: Upstream) -> None:
        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await upstream.accepted.put((reader, writer))

        gone = await asyncio.start_server(accept, "127.0.0.1", 0)
        port = gone.sockets[0].getsockname()[1]
        gone.close()
        waiting = Slot(HttpUrl("127.0.0.1", port, "/", "x"), FORMATS["frame"], 10.0, log)
        waiting.send(batch(b"a"))
        await log.next()
        assert (waiting.busy, log.unreachables) == (True, 1)
        back = await asyncio.start_server(accept, "127.0.0.1", port)
        log.again.set()
        await upstream.connection()
        await upstream.request()
        upstream.answer(response(frame(b"A")))
        await log.next()
        assert (log.replies[0][0].body, log.failures) == (b"A", [])
        waiting.close()
        upstream.closed()
        back.close()

    scenario(body)


def test_a_batch_that_can_not_be_sent_in_time_is_lost_unsent():
    async def body(slot: Slot, log: Log, upstream: Upstream) -> None:
        nobody = Slot(HttpUrl("127.0.0.1", 1, "/", "x"), FORMATS["frame"], 0.05, log)
        sent = batch(b"a")
        nobody.send(sent)
        await log.next()
        await log.next()
        assert [(lost, failure) for lost, failure, _ in log.failures] == [(sent, Failure.UNREACHABLE)]

    scenario(body)


@pytest.mark.parametrize(("status", "good"), [("200 OK", True), ("302 Found", True), ("503 Wait", False)])
def test_a_probe_asks_for_the_ready_path_and_looks_at_the_status(status: str, good: bool):
    async def body(slot: Slot, log: Log, upstream: Upstream) -> None:
        url = HttpUrl("127.0.0.1", upstream.port, "/", "x")
        await probe(url, "", 5.0)
        await upstream.connection()
        probing = asyncio.ensure_future(probe(url, "/ready", 5.0))
        await upstream.connection()
        assert upstream.reader is not None
        assert (await upstream.reader.readuntil(b"\r\n\r\n")).startswith(
            b"GET /ready HTTP/1.1\r\nHost: x\r\n"
        )
        upstream.answer(response(b"", status))
        if good:
            await probing
        else:
            with pytest.raises(StartFailed, match=r"GET /ready is answered with b'HTTP/1\.1 503 Wait'"):
                await probing

    scenario(body)
