"""A real worker under a real arbiter; the test is the watchdog."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from batching_watchdog.config import Config
from batching_watchdog.function.messages import DROPPED
from batching_watchdog.pool.child import worker_environment
from batching_watchdog.pool.connection import Connection, connect
from batching_watchdog.pool.gunicorn import gunicorn_command
from support.heard import Heard, batch
from support.loops import within
from support.processes import bare_environment
from support.waits import until

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


async def patiently_connected(socket: str, heard: Heard) -> Connection:
    while True:
        try:
            return await connect(socket, heard)
        except OSError:
            await asyncio.sleep(0.01)


@asynccontextmanager
async def a_worker(handler: str = HANDLER) -> AsyncIterator[tuple[Heard, Connection]]:
    """One that has loaded ``handler``, and the connection to it."""
    with TemporaryDirectory(prefix="serve-") as name:
        folder = Path(name)
        (folder / "handler.py").write_text(handler)
        environ = {**bare_environment(), "function_path": name}
        config = Config.from_env({**environ, "workers": "1", "exec_timeout": "100s"}, cpus=1.0)
        command = gunicorn_command(config, folder / "s", folder)
        arbiter = await asyncio.create_subprocess_exec(*command, env=worker_environment(config, environ))
        try:
            heard = Heard()
            connection = await patiently_connected(str(folder / "s"), heard)
            await heard.handshake
            yield heard, connection
            connection.close()
            await connection.gone.wait()
        finally:
            arbiter.kill()
            await arbiter.wait()


@within(a_worker, gives=2)
async def test_worker_shakes_hands_and_says_with_its_replies_what_time_they_took(heard, connection):
    handshake = await heard.handshake
    assert (handshake.error, handshake.examples, handshake.index) == (None, (b"typical",), 0)
    assert not handshake.mix_paths
    taken = {}
    for path in (b"/computes", b"/waits"):
        connection.send(batch(b"body", b"body", path=path))
        replies, taken[path] = await heard.answers.get()
        assert [reply.body for reply in replies] == [b"body", b"body"]
    assert taken[b"/computes"].cpu_seconds >= 0.4
    assert taken[b"/waits"].cpu_seconds < 0.4 <= taken[b"/waits"].seconds
    assert all(0.0 <= spent.waited <= spent.seconds for spent in taken.values())
    assert taken[b"/waits"].seconds - taken[b"/waits"].waited >= 0.4, "sleep is no wait for a core"


DIVIDING = "def handle_batch(events, context):\n    return [1 / int(event.body) for event in events]\n"


@within(partial(a_worker, DIVIDING), gives=2)
async def test_worker_lives_on_after_a_batch_that_failed_as_a_whole(heard, connection):
    answers = []
    for bodies in ((b"1", b"2"), (b"1", b"0"), (b"1", b"2")):
        connection.send(batch(*bodies))
        answers.append((await heard.answers.get())[0])
    assert [len(replies) for replies in answers] == [2, 0, 2]
    assert ["ZeroDivisionError" in crash.error for crash in heard.crashes] == [True]
    assert not heard.failures


POISONED = """
def handle(event, context):
    raise type("AcceleratorError", (RuntimeError,), {})("CUDA error: device-side assert triggered")
"""


@within(partial(a_worker, POISONED), gives=2)
async def test_worker_whose_accelerator_is_lost_tells_the_trace_and_ends(heard, connection):
    sent = batch(b"a")
    connection.send(sent)
    await connection.gone.wait()
    assert heard.lost == [sent]
    assert ["device-side assert" in failure.trace for failure in heard.failures] == [True]


@within(a_worker, gives=2)
async def test_worker_does_not_run_what_was_cancelled_before_it_began(heard, connection):
    connection.send(batch(b"a"))
    connection.send(batch(b"b", b"c", b"d"))
    connection.cancel([0])
    connection.cancel([2])
    answers = [await heard.answers.get() for _ in range(2)]
    assert [[reply.body for reply in replies] for replies, _ in answers] == [[b"a"], [b"", b"c", b""]]
    assert [reply == DROPPED for reply in answers[1][0]] == [True, False, True]
    connection.send(batch(b"e"))
    connection.send(batch(b"f"))
    connection.cancel([0])
    await heard.answers.get()
    assert (await heard.answers.get())[0] == [DROPPED]
    connection.cancel([0])  # too late, and of no consequence to the next
    connection.send(batch(b"g", path=b"/seen"))
    assert (await heard.answers.get())[0][0].body == b"a c e g"


LASTING = """
import multiprocessing, os, time

def handle(event, context):
    if event.body == b"end":
        os._exit(1)
    if event.body.startswith(b"/"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # they begin when this process is gone
        forked = []
        for _ in range(4):
            forked.append(os.fork())
            if not forked[-1]:
                time.sleep(600)
        with open(event.body, "w") as file:
            print(*forked, file=file)
        os._exit(1)
    children = multiprocessing.get_context("fork")
    if event.body == b"pool":
        with children.Pool(2) as pool:  # terminate() at the end sends SIGTERM
            return pool.map(abs, [-1, -2])
    if event.body == b"double":
        os.fork()  # and both come back
        return str(os.getpid())
    child = children.Process(target=time.sleep, args=(600,), daemon=True)
    child.start()
    return str(child.pid)
"""


def runs(pid: int) -> bool:
    """Whether a process is there, and no zombie."""
    file = Path(f"/proc/{pid}/cmdline")
    return file.exists() and file.read_bytes() != b""


@within(partial(a_worker, LASTING), gives=2)
async def test_worker_that_dies_is_gone_and_so_are_the_processes_that_it_forked(heard, connection):
    connection.send(batch(b"fork"))
    replies, _ = await heard.answers.get()
    sent = batch(b"end")
    connection.send(sent)
    await connection.gone.wait()
    assert heard.lost == [sent]
    forked = int(replies[0].body)
    until(lambda: not runs(forked), "the forked process has ended")


@within(partial(a_worker, LASTING), gives=2)
async def test_processes_that_begin_after_the_end_of_the_worker_that_forked_them_end_too(heard, connection):
    with TemporaryDirectory() as folder:
        file = Path(folder) / "pids"
        connection.send(batch(bytes(file)))
        await connection.gone.wait()
        forked = list(map(int, file.read_text().split()))
    assert len(forked) == 4
    until(lambda: not any(map(runs, forked)), "the forked processes have ended")


@within(partial(a_worker, LASTING), gives=2)
async def test_processes_of_a_pool_end_when_they_are_told_to(heard, connection):
    connection.send(batch(b"pool"))
    replies, _ = await heard.answers.get()
    assert [reply.body for reply in replies] == [b"[1,2]"]


@within(partial(a_worker, LASTING), gives=2)
async def test_process_that_the_handler_forks_and_lets_return_answers_nothing(heard, connection):
    pids = set()
    for _ in range(3):
        connection.send(batch(b"double"))
        replies, _ = await heard.answers.get()
        pids.add(replies[0].body)
    assert pids == {b"%d" % (await heard.handshake).pid}


FORKING = """
import os, sys

def handle(event, context):
    child = os.fork()
    if not child:
        sys.exit(3)
    return str(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@within(partial(a_worker, FORKING), gives=2)
async def test_process_that_the_handler_forks_ends_by_sys_exit_and_answers_nothing(heard, connection):
    connection.send(batch(b""))
    replies, _ = await heard.answers.get()
    assert [reply.body for reply in replies] == [b"3"]
