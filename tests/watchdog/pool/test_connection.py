"""The watchdog's side of a worker connection, on a real Unix socket; the test plays the worker."""

import asyncio
import shutil
import socket
import struct
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batching_watchdog import wire
from batching_watchdog.messages import Batch, DispatchReason, Failure, Reply, Request
from batching_watchdog.pool.connection import MAX_OUT, Connection, connect
from fuzzing import fuzzed
from watchdog.loops import within


@dataclass
class Log:
    """What the connection said, and an event per word."""

    handshakes: list[wire.Handshake] = field(default_factory=list)
    replies: list[list[Reply]] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    lost: list[Batch | None] = field(default_factory=list)
    word: asyncio.Event = field(default_factory=asyncio.Event)

    def loaded(self, connection: Connection, handshake: wire.Handshake) -> None:
        self.handshakes.append(handshake)
        self.word.set()

    def replied(self, connection: Connection, batch: Batch, replies: list[Reply], cpu_seconds: float) -> None:
        self.replies.append(replies)
        self.cpu_seconds.append(cpu_seconds)
        self.word.set()

    def raised(self, connection: Connection, failure: Failure) -> None:
        self.failures.append(failure)
        self.word.set()

    def closed(self, connection: Connection, batch: Batch | None) -> None:
        self.lost.append(batch)
        self.word.set()

    async def next(self) -> None:
        await self.word.wait()
        self.word.clear()


Worker = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def batch(*bodies: bytes) -> Batch:
    requests = tuple(Request(n, b"POST /\r\n", body, 0.0, 0.0, 0.0) for n, body in enumerate(bodies))
    return Batch(requests, DispatchReason.IDLE, 0.0)


@asynccontextmanager
async def opened() -> AsyncIterator[tuple[Connection, Log, Worker]]:
    folder = tempfile.mkdtemp(prefix="up-")
    accepted: asyncio.Future[Worker] = asyncio.get_running_loop().create_future()
    server = await asyncio.start_unix_server(lambda *streams: accepted.set_result(streams), f"{folder}/s")
    log = Log()
    try:
        async with asyncio.timeout(100):
            connection = await connect(f"{folder}/s", log)
            worker = await accepted
            yield connection, log, worker
            worker[1].close()
            connection.close()
            await connection.gone.wait()
    finally:
        server.close()
        await asyncio.sleep(0)
        shutil.rmtree(folder)


scenario = partial(within, opened, gives=3)


async def shake_hands(log: Log, worker: Worker) -> None:
    worker[1].write(b"".join(wire.encode_handshake(wire.Handshake(1))))
    await log.next()


async def receive(worker: Worker) -> list[tuple[bytes, bytes]]:
    header = wire.decode_header(await worker[0].readexactly(wire.HEADER_SIZE))
    return wire.decode_requests(header, memoryview(await worker[0].readexactly(header.size)))


@pytest.mark.parametrize("error", [None, "no weights"])
@scenario()
async def test_a_connection_is_an_idle_worker_once_a_handshake_says_that_it_has_loaded(
    connection: Connection, log: Log, worker: Worker, error: str | None
):
    assert not connection.idle
    worker[1].write(b"".join(wire.encode_handshake(wire.Handshake(1, error=error))))
    await log.next()
    assert (log.handshakes[0].pid, log.handshakes[0].error) == (1, error)
    assert connection.idle == (error is None)


@pytest.mark.parametrize("out", [1, 2])
@scenario()
async def test_failures_before_the_replies_are_told_of_and_the_replies_follow(
    connection: Connection, log: Log, worker: Worker, out: int
):
    await shake_hands(log, worker)
    failures = [Failure(f"handler error: POST /{n}", "Traceback ..." * 100 * n, str(n)) for n in (1, 2)]
    for _ in range(out):
        connection.send(batch(b"a", b"b"))
    replies = [Reply(500, b"", b"", failed=True)] * 2
    said = b"".join(b for failure in failures for b in wire.encode_failure(failure))
    said += b"".join(wire.encode_replies(replies, 0.1))
    for at in range(0, len(said), 700):
        worker[1].write(said[at : at + 700])
        await asyncio.sleep(0)
    while not log.replies:
        await log.next()
    assert log.failures == failures
    assert log.replies == [replies]
    assert connection.idle == (out == 1)


@scenario()
async def test_a_frame_larger_than_the_buffer_is_received_whole(
    connection: Connection, log: Log, worker: Worker
):
    await shake_hands(log, worker)
    large = bytes(range(256)) * (wire.JOIN_BELOW // 64)
    for _ in range(2):
        connection.send(batch(large))
        assert (await receive(worker))[0][1] == large
        worker[1].writelines(wire.encode_replies([Reply(200, b"", large)], 0.1))
        await log.next()
        assert log.replies[-1][0].body == large


@pytest.mark.parametrize("together", [True, False])
@scenario()
async def test_a_worker_can_have_its_next_batch_while_it_runs_one(
    connection: Connection, log: Log, worker: Worker, together: bool
):
    await shake_hands(log, worker)
    connection.send(batch(b"a"))
    connection.send(batch(b"b", b"c"))
    assert [sent for _, sent in await receive(worker)] == [b"a"]
    assert [sent for _, sent in await receive(worker)] == [b"b", b"c"]
    first = wire.encode_replies([Reply(200, b"", b"A")], 0.1)
    second = wire.encode_replies([Reply(200, b"", b"B"), Reply(200, b"", b"C")], 0.2)
    if together:
        worker[1].write(b"".join(first + second))
    else:
        worker[1].writelines(first)
        await log.next()
        assert not connection.idle
        worker[1].writelines(second)
    while len(log.replies) < 2:
        await log.next()
    assert [[reply.body for reply in replies] for replies in log.replies] == [[b"A"], [b"B", b"C"]]
    assert log.cpu_seconds == [0.1, 0.2]
    assert connection.idle


@scenario()
async def test_cancel_follows_its_batch_through_a_full_socket(
    connection: Connection, log: Log, worker: Worker
):
    await shake_hands(log, worker)
    large = bytes(8 * wire.JOIN_BELOW)
    connection.send(batch(b"a"))
    connection.send(batch(large, b"b"))
    connection.cancel([1])
    assert [sent for _, sent in await receive(worker)] == [b"a"]
    assert [sent for _, sent in await receive(worker)] == [large, b"b"]
    header = wire.decode_header(await worker[0].readexactly(wire.HEADER_SIZE))
    assert wire.decode_cancel(header, memoryview(await worker[0].readexactly(header.size))) == [1]


@scenario()
async def test_a_worker_that_dies_with_two_batches_ran_the_first(
    connection: Connection, log: Log, worker: Worker
):
    await shake_hands(log, worker)
    first = batch(b"a")
    connection.send(first)
    connection.send(batch(b"b"))
    worker[1].close()
    await log.next()
    assert log.lost == [first]


@pytest.mark.parametrize(
    "answer",
    [
        b"x" * wire.HEADER_SIZE,
        b"".join(wire.encode_replies([], 0.0)),
        b"".join(wire.encode_replies([Reply(200, b"", b""), Reply(200, b"", b"")], 0.0)),
        b"".join(wire.encode_requests([(b"", b"")])),
        b"".join(wire.encode_replies([Reply(200, b"", b"")], 0.0)) + b"more",
        struct.pack("<4sB3xIQd", b"TBW1", wire.Kind.FAILURE, 0, 0, 0.0),
    ],
    ids=["garbage", "too-few", "too-many", "wrong-kind", "unasked-bytes", "failure-of-nothing"],
)
@scenario()
async def test_a_worker_that_breaks_the_protocol_counts_as_dead(
    connection: Connection, log: Log, worker: Worker, answer: bytes
):
    await shake_hands(log, worker)
    sent = batch(b"a")
    connection.send(sent)
    worker[1].write(answer)
    await connection.gone.wait()
    assert log.lost == [sent]
    assert log.replies == []


HANDSHAKE = b"".join(wire.encode_handshake(wire.Handshake(1)))
FRAMES = st.one_of(
    st.just(HANDSHAKE),
    st.just(b"".join(wire.encode_failure(Failure("handler error", "Traceback ...")))),
    st.integers(0, 3).map(lambda count: b"".join(wire.encode_replies([Reply(200, b"", b"x")] * count, 0.1))),
    st.builds(
        lambda kind, count, size, body: struct.pack("<4sB3xIQd", b"TBW1", kind, count, size, 0.0) + body,
        *(st.integers(0, 6), st.integers(0, 5), st.integers(0, 100), st.binary(max_size=100)),
    ),
    st.binary(min_size=1, max_size=100),
)


@fuzzed(200)
@given(
    st.booleans(),
    st.lists(st.integers(1, 3) | st.lists(FRAMES, max_size=3).map(b"".join)),
    st.integers(1, 64),
)
def test_any_bytes_from_a_worker_answer_batches_in_turn_or_end_the_connection(
    greets: bool, steps: list[int | bytes], cut: int
):
    async def run() -> None:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        log, failures = Log(), []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))
        connection = Connection(ours, log)
        sent: list[int] = []
        with theirs:
            for step in (HANDSHAKE, *steps) if greets else steps:
                if isinstance(step, int):
                    if connection.handshake and len(connection._out) < MAX_OUT:
                        connection.send(batch(*[b"a"] * step))
                        sent.append(step)
                    continue
                for at in range(0, len(step), cut):
                    with suppress(BrokenPipeError, ConnectionResetError):
                        theirs.send(step[at : at + cut])
                    await asyncio.sleep(0)
                    await asyncio.sleep(0)
            answered = [len(replies) for replies in log.replies]
            assert answered == sent[: len(answered)]
            assert len(sent) - len(answered) <= MAX_OUT
            lost = list(log.lost)
            connection.close()
            await connection.gone.wait()
        assert not failures
        assert len(log.lost) == 1
        assert lost in ([], log.lost)
        assert (log.lost == [None]) == (len(sent) == len(answered))

    asyncio.run(run())
