"""A real worker under a real arbiter; the test is the watchdog."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from batching_watchdog import wire
from batching_watchdog.config import Config
from batching_watchdog.messages import DROPPED, Batch, DispatchReason, Failure, Reply, Request
from batching_watchdog.pool.child import worker_environment
from batching_watchdog.pool.connection import Connection, connect
from batching_watchdog.pool.supervisor import gunicorn_command

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

HANDLER = """
import time

seen = []

mix_paths = False

def example():
    return b"typical"

def handle(event, context):
    seen.append(event.body)
    if event.path == "/seen":
        return b" ".join(seen)
    if event.path == "/computes":
        ends = time.process_time() + 0.2
        while time.process_time() < ends:
            pass
    else:
        time.sleep(0.2)
    return event.body
"""


class Watchdog:
    """Hears what happens on the connection."""

    def __init__(self) -> None:
        self.handshake: asyncio.Future[wire.Handshake] = asyncio.get_running_loop().create_future()
        self.failures: list[Failure] = []
        self.answers: asyncio.Queue[tuple[list[Reply], float]] = asyncio.Queue()

    def loaded(self, connection: Connection, handshake: wire.Handshake) -> None:
        self.handshake.set_result(handshake)

    def replied(self, connection: Connection, batch: Batch, replies: list[Reply], cpu_seconds: float) -> None:
        self.answers.put_nowait((replies, cpu_seconds))

    def raised(self, connection: Connection, failure: Failure) -> None:
        self.failures.append(failure)

    def closed(self, connection: Connection, batch: Batch | None) -> None:
        assert batch is None


async def patiently_connected(socket: str, watchdog: Watchdog) -> Connection:
    while True:
        try:
            return await connect(socket, watchdog)
        except OSError:
            await asyncio.sleep(0.01)


@asynccontextmanager
async def a_worker(folder: Path, handler: str = HANDLER) -> AsyncIterator[tuple[Watchdog, Connection]]:
    """One that serves ``handler``, and the connection to it."""
    (folder / "handler.py").write_text(handler)
    environ = {"PATH": os.environ["PATH"], "function_path": str(folder)}
    config = Config.from_env({**environ, "workers": "1", "exec_timeout": "100s"}, cpus=1.0)
    command = gunicorn_command(config, folder / "s", folder)
    arbiter = await asyncio.create_subprocess_exec(*command, env=worker_environment(config, environ))
    try:
        watchdog = Watchdog()
        connection = await patiently_connected(str(folder / "s"), watchdog)
        yield watchdog, connection
        connection.close()
        await connection.gone.wait()
    finally:
        arbiter.kill()
        await arbiter.wait()


def batch(path: bytes, *bodies: bytes) -> Batch:
    requests = tuple(Request(1, b"POST %b\r\n" % path, body, 0.0, 0.0, 0.0) for body in bodies)
    return Batch(requests, DispatchReason.IDLE, 0.0)


def test_a_worker_shakes_hands_and_says_with_its_replies_what_cpu_time_they_took(tmp_path: Path):
    async def run() -> None:
        async with a_worker(tmp_path) as (watchdog, connection):
            handshake = await watchdog.handshake
            assert (handshake.error, handshake.example, handshake.slot) == (None, b"typical", 0)
            assert not handshake.mix_paths
            taken = {}
            for path in (b"/computes", b"/waits"):
                connection.send(batch(path, b"body", b"body"))
                replies, taken[path] = await watchdog.answers.get()
                assert [reply.body for reply in replies] == [b"body", b"body"]
            assert taken[b"/computes"] >= 0.4
            assert taken[b"/waits"] < 0.4

    asyncio.run(run())


def test_a_worker_says_nothing_of_the_cost_of_a_batch_that_it_has_run_again_in_parts(tmp_path: Path):
    handler = "def handle_batch(events, context):\n    return [1 / int(event.body) for event in events]\n"

    async def run() -> None:
        async with a_worker(tmp_path, handler) as (watchdog, connection):
            await watchdog.handshake
            costs = []
            for bodies in ((b"1", b"2"), (b"1", b"0"), (b"1", b"2")):
                connection.send(batch(b"/", *bodies))
                costs.append((await watchdog.answers.get())[1])
            assert [seconds > 0 for seconds in costs] == [True, False, True]
            assert ["ZeroDivisionError" in failure.trace for failure in watchdog.failures] == [True]

    asyncio.run(run())


def test_a_worker_does_not_run_what_was_cancelled_before_it_began(tmp_path: Path):
    async def run() -> None:
        async with a_worker(tmp_path) as (watchdog, connection):
            await watchdog.handshake
            connection.send(batch(b"/waits", b"a"))
            connection.send(batch(b"/waits", b"b", b"c", b"d"))
            connection.cancel([0])
            connection.cancel([2])
            answers = [await watchdog.answers.get() for _ in range(2)]
            assert [[reply.body for reply in replies] for replies, _ in answers] == [[b"a"], [b"", b"c", b""]]
            assert [reply == DROPPED for reply in answers[1][0]] == [True, False, True]
            connection.send(batch(b"/waits", b"e"))
            connection.send(batch(b"/waits", b"f"))
            connection.cancel([0])
            await watchdog.answers.get()
            assert (await watchdog.answers.get())[0] == [DROPPED]
            connection.cancel([0])  # too late, and of no consequence to the next
            connection.send(batch(b"/seen", b"g"))
            assert (await watchdog.answers.get())[0][0].body == b"a c e g"

    asyncio.run(run())
