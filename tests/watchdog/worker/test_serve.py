"""A real worker under a real arbiter; the test is the watchdog."""

import asyncio
import os
from pathlib import Path

import pytest

from batching_watchdog import wire
from batching_watchdog.config import Config
from batching_watchdog.messages import Batch, DispatchReason, Reply, Request
from batching_watchdog.pool.child import worker_environment
from batching_watchdog.pool.connection import Connection, connect
from batching_watchdog.pool.supervisor import gunicorn_command

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

HANDLER = """
import time

mix_paths = False

def example():
    return b"typical"

def handle(event, context):
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
        self.answers: asyncio.Queue[tuple[list[Reply], float]] = asyncio.Queue()

    def loaded(self, connection: Connection, handshake: wire.Handshake) -> None:
        self.handshake.set_result(handshake)

    def replied(self, connection: Connection, batch: Batch, replies: list[Reply], cpu_seconds: float) -> None:
        self.answers.put_nowait((replies, cpu_seconds))

    def closed(self, connection: Connection, batch: Batch | None) -> None:
        assert batch is None


async def patiently_connected(socket: str, watchdog: Watchdog) -> Connection:
    while True:
        try:
            return await connect(socket, watchdog)
        except OSError:
            await asyncio.sleep(0.01)


def test_a_worker_shakes_hands_and_says_with_its_replies_what_cpu_time_they_took(tmp_path: Path):
    (tmp_path / "handler.py").write_text(HANDLER)
    environ = {"PATH": os.environ["PATH"], "function_path": str(tmp_path)}
    config = Config.from_env({**environ, "workers": "1", "exec_timeout": "100s"}, cpus=1.0)
    socket = tmp_path / "s"

    async def run() -> None:
        command = gunicorn_command(config, socket, tmp_path)
        arbiter = await asyncio.create_subprocess_exec(*command, env=worker_environment(config, environ))
        try:
            watchdog = Watchdog()
            connection = await patiently_connected(str(socket), watchdog)
            handshake = await watchdog.handshake
            assert (handshake.error, handshake.example, handshake.slot) == (None, b"typical", 0)
            assert not handshake.mix_paths
            taken = {}
            for path in (b"/computes", b"/waits"):
                request = Request(1, b"POST %b\r\n" % path, b"body", 0.0, 0.0, 0.0)
                connection.send(Batch((request, request), DispatchReason.IDLE, 0.0))
                replies, taken[path] = await watchdog.answers.get()
                assert [reply.body for reply in replies] == [b"body", b"body"]
            assert taken[b"/computes"] >= 0.4
            assert taken[b"/waits"] < 0.4
            connection.close()
            await connection.gone.wait()
        finally:
            arbiter.kill()
            await arbiter.wait()

    asyncio.run(run())
