"""The watchdog's side of a worker connection, on a real Unix socket; the test plays the worker."""

import asyncio
import shutil
import socket
import struct
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batching_watchdog.function import wire
from batching_watchdog.function.messages import Crash, Failure, Iteration, Output, Reply
from batching_watchdog.pool.connection import MAX_OUT, Connection, connect
from batching_watchdog.pool.overdue import Work
from support.fuzzing import fuzzed
from support.heard import Heard, batch
from support.loops import within

Worker = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@asynccontextmanager
async def opened() -> AsyncIterator[tuple[Connection, Heard, Worker]]:
    folder = tempfile.mkdtemp(prefix="up-")
    accepted: asyncio.Future[Worker] = asyncio.get_running_loop().create_future()
    server = await asyncio.start_unix_server(lambda *streams: accepted.set_result(streams), f"{folder}/s")
    heard = Heard()
    try:
        async with asyncio.timeout(100):
            connection = await connect(f"{folder}/s", heard)
            worker = await accepted
            yield connection, heard, worker
            worker[1].close()
            connection.close()
            await connection.gone.wait()
    finally:
        server.close()
        await asyncio.sleep(0)
        shutil.rmtree(folder)


scenario = partial(within, opened, gives=3)


async def shake_hands(heard: Heard, worker: Worker) -> None:
    worker[1].write(b"".join(wire.encode_handshake(wire.Handshake(1))))
    await heard.handshake


async def receive(worker: Worker) -> list[tuple[bytes, bytes]]:
    header = wire.decode_header(await worker[0].readexactly(wire.HEADER_SIZE))
    return wire.decode_requests(header, memoryview(await worker[0].readexactly(header.size)))


@pytest.mark.parametrize("error", [None, "no weights"])
@scenario()
async def test_connection_is_an_idle_worker_once_a_handshake_says_that_it_has_loaded(
    connection, heard, worker, error
):
    assert not connection.idle
    worker[1].write(b"".join(wire.encode_handshake(wire.Handshake(1, error=error))))
    handshake = await heard.handshake
    assert (handshake.pid, handshake.error) == (1, error)
    assert connection.idle == (error is None)


@pytest.mark.parametrize("out", [1, 2])
@scenario()
async def test_failures_before_the_replies_are_told_of_and_the_replies_follow(connection, heard, worker, out):
    await shake_hands(heard, worker)
    failures = [Failure(f"handler error: POST /{n}", "Traceback ..." * 100 * n, str(n)) for n in (1, 2)]
    for _ in range(out):
        connection.send(batch(b"a", b"b"))
    replies = [Reply(500, b"", b"", failed=True)] * 2
    said = b"".join(b for failure in failures for b in wire.encode_failure(failure))
    said += b"".join(wire.encode_replies(replies, wire.Spent(0.1, 0.1)))
    for at in range(0, len(said), 700):
        worker[1].write(said[at : at + 700])
        await asyncio.sleep(0)
    assert await heard.answers.get() == (replies, wire.Spent(0.1, 0.1))
    assert heard.failures == failures
    assert connection.idle == (out == 1)


@scenario()
async def test_replies_stay_unread_while_the_connection_pauses(connection, heard, worker):
    await shake_hands(heard, worker)
    connection.send(batch(b"a"))
    connection.pause(paused=True)
    worker[1].writelines(wire.encode_replies([Reply(200, b"", b"A")], wire.Spent(0.1, 0.1)))
    await worker[1].drain()
    for _ in range(10):
        connection.poll()
        await asyncio.sleep(0.001)
    assert heard.answers.empty()
    connection.pause(paused=False)
    assert (await heard.answers.get())[0] == [Reply(200, b"", b"A")]


@scenario()
async def test_crash_stands_for_the_replies_to_its_batch(connection, heard, worker):
    await shake_hands(heard, worker)
    connection.send(batch(b"a", b"b"))
    connection.send(batch(b"c"))
    crash = Crash("Traceback ...", Reply(500, b"X: y\r\n", b"failed", failed=True), out_of_memory=True)
    replies = [Reply(200, b"", b"C")]
    worker[1].writelines(wire.encode_crash(crash) + wire.encode_replies(replies, wire.Spent(0.1, 0.1)))
    assert (await heard.answers.get())[0] == []
    assert (await heard.answers.get())[0] == replies
    assert heard.crashes == [crash]
    assert connection.idle


@scenario()
async def test_frame_larger_than_the_buffer_is_received_whole(connection, heard, worker):
    await shake_hands(heard, worker)
    large = bytes(range(256)) * (wire.JOIN_BELOW // 64)
    for _ in range(2):
        connection.send(batch(large))
        assert (await receive(worker))[0][1] == large
        worker[1].writelines(wire.encode_replies([Reply(200, b"", large)], wire.Spent(0.1, 0.1)))
        assert (await heard.answers.get())[0][0].body == large


@pytest.mark.parametrize("together", [True, False])
@scenario()
async def test_worker_can_have_its_next_batch_while_it_runs_one(connection, heard, worker, together):
    await shake_hands(heard, worker)
    connection.send(batch(b"a"))
    connection.send(batch(b"b", b"c"))
    assert [sent for _, sent in await receive(worker)] == [b"a"]
    assert [sent for _, sent in await receive(worker)] == [b"b", b"c"]
    first = wire.encode_replies([Reply(200, b"", b"A")], wire.Spent(0.1, 0.1))
    second = wire.encode_replies([Reply(200, b"", b"B"), Reply(200, b"", b"C")], wire.Spent(0.2, 0.2))
    if together:
        worker[1].write(b"".join(first + second))
    else:
        worker[1].writelines(first)
        while heard.answers.empty():  # noqa: ASYNC110 - the first must stay in it
            await asyncio.sleep(0)
        assert not connection.idle
        worker[1].writelines(second)
    told = [await heard.answers.get() for _ in range(2)]
    assert [[reply.body for reply in replies] for replies, _ in told] == [[b"A"], [b"B", b"C"]]
    assert [spent.cpu_seconds for _, spent in told] == [0.1, 0.2]
    assert connection.idle


@scenario()
async def test_work_is_the_batch_that_runs_and_its_size_is_tried_once_one_has_ended(
    connection, heard, worker
):
    await shake_hands(heard, worker)
    works = [connection.work]
    for sent in (batch(b"a"), batch(b"b")):
        sent.seconds = 0.5
        connection.send(sent)
        works.append(connection.work)
    worker[1].writelines(wire.encode_replies([Reply(200, b"", b"A")], wire.Spent(0.1, 0.1)))
    await heard.answers.get()
    works.append(connection.work)
    assert [(work.number, work.busy) for work in works] == [(0, False), (0, True), (0, True), (1, True)]
    assert [(work.untried, work.seconds) for work in works[1:]] == [(True, 0.5), (True, 0.5), (False, 0.5)]


@scenario()
async def test_worker_whose_streams_have_left_is_at_work_until_its_iteration_ends(connection, heard, worker):
    worker[1].write(b"".join(wire.encode_handshake(wire.Handshake(1, streams=True))))
    await heard.handshake
    joined = batch(b"a", b"b")
    connection.join(joined)
    outputs = [Output(request.id, Reply(200, b"", b"A"), False) for request in joined.requests]
    worker[1].writelines(wire.encode_iteration(Iteration(outputs, 2, 0.25, 2, 0.5, 0.0)))
    await heard.iterations.get()
    assert connection.work == Work(1, busy=True, seconds=0.75, untried=False)
    connection.leave([request.id for request in joined.requests])
    assert connection.work.busy
    worker[1].writelines(wire.encode_iteration(Iteration([], 0, 0.0, 0, 0.0, 0.0)))
    await heard.iterations.get()
    assert not connection.work.busy


@scenario()
async def test_cancel_follows_its_batch_through_a_full_socket(connection, heard, worker):
    await shake_hands(heard, worker)
    large = bytes(8 * wire.JOIN_BELOW)
    connection.send(batch(b"a"))
    connection.send(batch(large, b"b"))
    connection.cancel([1])
    assert [sent for _, sent in await receive(worker)] == [b"a"]
    assert [sent for _, sent in await receive(worker)] == [large, b"b"]
    header = wire.decode_header(await worker[0].readexactly(wire.HEADER_SIZE))
    assert wire.decode_cancel(header, memoryview(await worker[0].readexactly(header.size))) == [1]


@scenario()
async def test_worker_that_dies_with_two_batches_ran_the_first(connection, heard, worker):
    await shake_hands(heard, worker)
    first = batch(b"a")
    connection.send(first)
    connection.send(batch(b"b"))
    worker[1].close()
    await connection.gone.wait()
    assert heard.lost == [first]


@pytest.mark.parametrize(
    "answer",
    [
        b"x" * wire.HEADER_SIZE,
        b"".join(wire.encode_replies([], wire.Spent(0.0, 0.0))),
        b"".join(wire.encode_replies([Reply(200, b"", b""), Reply(200, b"", b"")], wire.Spent(0.0, 0.0))),
        b"".join(wire.encode_requests([(b"", b"")])),
        b"".join(wire.encode_replies([Reply(200, b"", b"")], wire.Spent(0.0, 0.0))) + b"more",
        struct.pack("<4sB3xIQ", wire.MAGIC, wire.Kind.FAILURE, 0, 0),
    ],
    ids=["garbage", "too-few", "too-many", "wrong-kind", "unasked-bytes", "failure-of-nothing"],
)
@scenario()
async def test_worker_that_breaks_the_protocol_counts_as_dead(connection, heard, worker, answer):
    await shake_hands(heard, worker)
    sent = batch(b"a")
    connection.send(sent)
    worker[1].write(answer)
    await connection.gone.wait()
    assert heard.lost == [sent]
    assert heard.answers.empty()


HANDSHAKE = b"".join(wire.encode_handshake(wire.Handshake(1)))
FRAMES = st.one_of(
    st.just(HANDSHAKE),
    st.just(b"".join(wire.encode_failure(Failure("handler error", "Traceback ...")))),
    st.integers(0, 3).map(
        lambda count: b"".join(wire.encode_replies([Reply(200, b"", b"x")] * count, wire.Spent(0.1, 0.1)))
    ),
    st.just(b"".join(wire.encode_crash(Crash("Traceback ...", Reply(500, b"", b""))))),
    st.builds(
        lambda kind, values, bodies, rest: struct.pack("<4sB3xIQ", wire.MAGIC, kind, values, bodies) + rest,
        *(st.integers(0, 7), st.integers(0, 40), st.integers(0, 100), st.binary(max_size=100)),
    ),
    st.binary(min_size=1, max_size=100),
)


@fuzzed(60)
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
        heard, failures = Heard(), []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))
        connection = Connection(ours, heard)
        sent: list[int] = []
        with theirs:
            for step in (HANDSHAKE, *steps) if greets else steps:
                if isinstance(step, int):
                    if connection.handshake and len(sent) - heard.answers.qsize() < MAX_OUT:
                        connection.send(batch(*[b"a"] * step))
                        sent.append(step)
                    continue
                for at in range(0, len(step), cut):
                    with suppress(BrokenPipeError, ConnectionResetError):
                        theirs.send(step[at : at + cut])
                    await asyncio.sleep(0)
                    await asyncio.sleep(0)
            answered = [len(heard.answers.get_nowait()[0]) for _ in range(heard.answers.qsize())]
            assert all(count in (0, size) for count, size in zip(answered, sent, strict=False))
            assert answered.count(0) == len(heard.crashes)
            assert len(sent) - len(answered) <= MAX_OUT
            lost = list(heard.lost)
            connection.close()
            await connection.gone.wait()
        assert not failures
        assert len(heard.lost) == 1
        assert lost in ([], heard.lost)
        assert (heard.lost == [None]) == (len(sent) == len(answered))

    asyncio.run(run())
