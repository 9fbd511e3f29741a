"""A slot and a real HTTP connection; the test plays the server, byte by byte."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import pytest

from batching_watchdog.config import HttpUrl
from batching_watchdog.errors import FrameError, StartFailed
from batching_watchdog.pool import jsonlines, remote
from batching_watchdog.pool.remote import Slot, probe
from watchdog.loops import within


class Upstream:
    """A listener; what is read and written goes over the newest connection."""

    def __init__(self) -> None:
        self._accepted: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()
        self.writers: list[asyncio.StreamWriter] = []
        self.port = 0

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)
        await self._accepted.put((reader, writer))

    async def header_block(self, *, new: bool = True) -> str:
        if new:
            self._reader, self._writer = await self._accepted.get()
        return (await self._reader.readuntil(b"\r\n\r\n")).decode()

    async def request(self, *, new: bool = True) -> tuple[str, list[str]]:
        """Header block and bodies of the next batch, on a ``new`` connection or the one before."""
        head = await self.header_block(new=new)
        length = int(head.partition("Content-Length: ")[2].split("\r\n")[0])
        lines = (await self._reader.readexactly(length)).splitlines()
        return head, [json.loads(line)["body"] for line in lines]

    async def rest(self) -> bytes:
        """What still comes until the slot closes the connection, or breaks it off."""
        try:
            return await self._reader.read()
        except ConnectionError:
            return b""

    def answer(self, data: bytes) -> None:
        self._writer.write(data)

    def close(self) -> None:
        self._writer.close()


def requests(*bodies: bytes) -> list[tuple[bytes, bytes]]:
    return [(b"POST /\r\n", body) for body in bodies]


def lines(*bodies: str) -> bytes:
    return b"\n".join(json.dumps({"status": 200, "body": body}).encode() for body in bodies)


def response(body: bytes, status: str = "200 OK", *headers: str) -> bytes:
    head = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(head).encode() + body


@asynccontextmanager
async def opened() -> AsyncIterator[tuple[Slot, Upstream]]:
    upstream = Upstream()
    server = await asyncio.start_server(upstream.accept, "127.0.0.1", 0)
    upstream.port = server.sockets[0].getsockname()[1]
    slot = Slot(HttpUrl("127.0.0.1", upstream.port, "/b?x", "here:1"), lambda slot, batch: None)
    try:
        async with asyncio.timeout(50):
            yield slot, upstream
    finally:
        slot.close()
        server.close()
        for writer in upstream.writers:
            writer.close()
        await asyncio.sleep(0.01)


scenario = partial(within, opened, gives=2)


async def exchange(
    slot: Slot, upstream: Upstream, answer: bytes, *, new: bool = True, end: bool = False
) -> list[bytes]:
    """Post a batch, have it answered, and the connection ended if ``end``; the bodies of the replies."""
    await slot.connect()
    posted = asyncio.ensure_future(slot.post(requests(b"a")))
    assert (await upstream.request(new=new))[1] == ["a"]
    upstream.answer(answer)
    if end:
        upstream.close()
    return [reply.body for reply in await posted]


@scenario()
async def test_batch_is_one_post_and_its_answer_the_replies_however_the_bytes_are_cut(slot, upstream):
    await slot.connect()
    posted = asyncio.ensure_future(slot.post(requests(b"a", b"b")))
    head, bodies = await upstream.request()
    assert head.startswith("POST /b?x HTTP/1.1\r\nHost: here:1\r\n")
    assert f"Content-Type: {jsonlines.CONTENT_TYPE}\r\n" in head
    assert bodies == ["a", "b"]
    data = response(lines("A", "B"))
    for at in range(0, len(data), 7):
        upstream.answer(data[at : at + 7])
        await asyncio.sleep(0)
    assert [reply.body for reply in await posted] == [b"A", b"B"]


@pytest.mark.parametrize("case", ["connection-close", "closed-when-idle", "kept-too-long", "unasked-answer"])
@scenario()
async def test_connection_that_may_end_is_not_used_again(slot, upstream, case, monkeypatch):
    if case == "kept-too-long":
        monkeypatch.setattr(remote, "KEEP_SECONDS", -1.0)
    more = ["Connection: close"] if case == "connection-close" else []
    answer = response(lines("A"), "200 OK", *more) * (2 if case == "unasked-answer" else 1)
    assert await exchange(slot, upstream, answer) == [b"A"]
    if case == "closed-when-idle":
        upstream.close()
        assert slot._connection is not None
        while not slot._connection.broken:  # noqa: ASYNC110 - nothing else tells
            await asyncio.sleep(0.001)
    assert await exchange(slot, upstream, response(lines("B"))) == [b"B"]


@scenario()
async def test_chunked_answers_and_those_that_end_with_the_connection_are_understood(slot, upstream):
    data = lines("A")
    chunks = b"%x\r\n%b\r\n%x\r\n%b\r\n0\r\n\r\n" % (5, data[:5], len(data) - 5, data[5:])
    interim = b"HTTP/1.1 100 Continue\r\n\r\n"
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert await exchange(slot, upstream, interim + chunked + chunks) == [b"A"]
    undelimited = b"HTTP/1.0 200 OK\r\n\r\n" + lines("B")
    assert await exchange(slot, upstream, undelimited, new=False, end=True) == [b"B"]


LONG = b"HTTP/1.1 200 OK\r\nContent-Length: 9999999999\r\n"


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (response(b"no memory", "500 Internal Server Error"), FrameError("status 500: 'no memory'")),
        (response(b"", "204 No Content"), FrameError("status 204")),
        (response(lines("A"), "201 Created"), FrameError("status 201")),
        (response(b"A"), FrameError("line 1")),
        (response(lines()), FrameError("0 replies for 1")),
        (response(lines("A", "B")), FrameError("2 replies for 1")),
        (LONG + b"X-Pad: " + b"x" * 3000 + b"\r\n", FrameError("longer than 2000 bytes")),
        (LONG + b"\r\n" + b"x" * 3000, FrameError("longer than 2000 bytes")),
        (b"", ConnectionError("broke")),
        (response(lines("A"))[:-1], ConnectionError("broke")),
        (b"garbage\r\n\r\n", ConnectionError("not HTTP")),
    ],
)
@scenario()
async def test_wrong_or_broken_answer_is_an_error_of_its_batch_and_the_slot_goes_on(
    slot, upstream, answer, error, monkeypatch
):
    monkeypatch.setattr(remote, "MAX_RESPONSE_BYTES", 2000)
    with pytest.raises(type(error), match=str(error)):
        await exchange(slot, upstream, answer, end=isinstance(error, ConnectionError))
    assert await exchange(slot, upstream, response(lines("B"))) == [b"B"]


@scenario()
async def test_batch_given_up_closes_its_connection_so_that_a_late_answer_is_not_heard(slot, upstream):
    await slot.connect()
    posted = asyncio.ensure_future(slot.post(requests(b"a")))
    await upstream.request()
    posted.cancel()
    with pytest.raises(asyncio.CancelledError):
        await posted
    assert await upstream.rest() == b""
    assert await exchange(slot, upstream, response(lines("B"))) == [b"B"]


@pytest.mark.parametrize(("status", "good"), [("200 OK", True), ("302 Found", True), ("503 Wait", False)])
@scenario()
async def test_probe_asks_for_the_ready_path_and_looks_at_the_status(slot, upstream, status, good):
    url = HttpUrl("127.0.0.1", upstream.port, "/", "x")
    probing = asyncio.ensure_future(probe(url, "/ready", 20.0))
    assert (await upstream.header_block()).startswith("GET /ready HTTP/1.1\r\nHost: x\r\n")
    upstream.answer(response(b"", status))
    if good:
        await probing
    else:
        with pytest.raises(StartFailed, match=r"GET /ready is answered with b'HTTP/1\.1 503 Wait'"):
            await probing


@scenario()
async def test_probe_without_a_path_needs_a_listener_only(slot, upstream):
    await probe(HttpUrl("127.0.0.1", upstream.port, "/", "x"), "", 20.0)
    with pytest.raises(ConnectionRefusedError):
        await probe(HttpUrl("127.0.0.1", 1, "/", "x"), "", 20.0)
