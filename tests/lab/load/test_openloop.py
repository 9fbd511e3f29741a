"""The generator against real servers: open loop, keep-alive, refusals, breaks; as process and as command."""

import asyncio
import contextlib
import os
import pickle
import socket
import subprocess
import sys

import pytest

from tailbound_lab.load.arrivals import Profile, steps
from tailbound_lab.load.openloop import Stream, Target, main, offer, parse_duration
from tailbound_lab.load.records import BROKEN, NO_CONNECTION, TIMED_OUT, Ledger, RunError
from tailbound_lab.load.sender import sending

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Server:
    """A tiny real HTTP server: reads one request after the other, answers what ``answer`` says."""

    def __init__(self, answer):
        self.answer = answer
        self.connections = 0
        self.bodies = []
        self.heads = []

    async def handle(self, reader, writer):
        self.connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                self.bodies.append(await reader.readexactly(length))
                self.heads.append(head)
                reply = await self.answer(len(self.bodies))
                if reply is None:
                    break
                writer.write(reply)
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.transport.abort()
            await asyncio.sleep(0)

    @contextlib.asynccontextmanager
    async def run(self):
        tasks = set()

        async def tracked(reader, writer):
            tasks.add(asyncio.current_task())
            await self.handle(reader, writer)

        server = await asyncio.start_server(tracked, "127.0.0.1", 0)
        try:
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/function/x?a=1"
        finally:
            server.close()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


def drive(answer, rate, *, timeout_seconds=50.0, **target):
    """Offer one stream to a server that answers so; return server, records and lag."""

    async def run():
        server = Server(answer)
        async with server.run() as url:
            streams = [Stream(Target(url, **target), steps(rate))]
            records, lag = await offer(streams, timeout_seconds=timeout_seconds)
        return server, records[0], lag

    return asyncio.run(run())


async def prompt(_):
    return OK


async def hang_up(_):
    return None


async def hang_up_every_second(count):
    return OK if count % 2 else None


async def nonsense(_):
    return b"what?\r\n\r\n"


async def refuse(_):
    return b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


async def chunked(_):
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"


@pytest.mark.parametrize(
    ("answer", "status"),
    [(prompt, 200), (refuse, 503), (chunked, 200), (hang_up, BROKEN), (nonsense, BROKEN)],
)
def test_every_planned_request_is_recorded_once_with_what_became_of_it(answer, status):
    server, records, lag = drive(answer, "100:0.4")
    planned = Stream(Target("http://127.0.0.1:1/"), steps("100:0.4")).times()
    assert sorted(record.scheduled for record in records) == pytest.approx(planned, abs=1e-6)
    assert {record.status for record in records} == {status}
    assert answer is not prompt or len(server.bodies) == len(records)
    assert answer is not refuse or server.connections == len(records)  # closed when asked
    assert 0 <= lag.p50 <= lag.p99 <= lag.p999 <= lag.worst


def test_a_stall_shows_in_the_latency_of_every_request_due_meanwhile():
    """A closed loop would wait, send nothing, and report one slow request (coordinated omission)."""

    async def run():
        over = asyncio.Event()

        async def answer(_):
            await over.wait()
            return OK

        server = Server(answer)
        async with server.run() as url:
            ending = asyncio.get_running_loop().call_later(0.5, over.set)
            records, _ = await offer([Stream(Target(url), steps("200:0.4"))])
            ending.cancel()
        return records[0]

    records = asyncio.run(run())
    assert len(records) > 40
    # Each waited for the rest of the stall, so due early means waiting long: latency falls as time goes on.
    assert all(record.latency >= 0.45 - record.scheduled for record in records)


def test_requests_beyond_the_connections_wait_with_their_clock_running():
    async def answer(_):
        await asyncio.sleep(0.02)
        return OK

    server, records, _ = drive(answer, "200:0.25", max_connections=1)
    assert server.connections == 1
    assert {record.status for record in records} == {200}
    assert max(record.latency for record in records) > 0.02 * (len(records) - 1) - 0.25


def test_a_kept_connection_closed_under_a_request_is_repeated_on_a_new_one():
    _, records, _ = drive(hang_up_every_second, "20:0.5", max_connections=1)
    assert {record.status for record in records} == {200}


def test_a_refused_connection_is_recorded_as_such():
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/"
        records, _ = asyncio.run(offer([Stream(Target(url), steps("100:0.2"))]))
    assert {record.status for record in records[0]} == {NO_CONNECTION}


def test_a_silent_server_costs_the_timeout():
    async def never(_):
        await asyncio.sleep(60)

    _, records, _ = drive(never, "50:0.2", timeout_seconds=0.3)
    assert {record.status for record in records} == {TIMED_OUT}
    assert all(0.3 <= record.latency < 20 for record in records)


def test_bodies_are_sent_in_turn_large_ones_whole():
    large = os.urandom(200_000)
    server, records, _ = drive(prompt, "40:0.4", bodies=(b"small", large), headers=(("X-Kind", "test"),))
    assert server.bodies.count(large) == len(records) // 2
    assert all(b"X-Kind: test\r\n" in head for head in server.heads)
    assert server.heads[0].startswith(b"POST /function/x?a=1 HTTP/1.1\r\n")


def test_twins_receive_the_very_same_arrivals():
    a = Stream(Target("http://127.0.0.1:1/a"), steps("100:2"), seed=5)
    b = Stream(Target("http://127.0.0.1:1/b"), steps("100:2"), seed=5)
    assert a.times() == b.times() != Stream(b.target, b.profile, seed=6).times()


@pytest.mark.parametrize(
    ("text", "seconds"), [("100ms", 0.1), ("1.5s", 1.5), ("2", 2), ("250us", 0.00025), ("1m", 60)]
)
def test_a_duration_is_read(text, seconds):
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "fast", "1h", "-1s", "0", "nan", "1msms"])
def test_a_wrong_duration_is_refused(text):
    with pytest.raises(ValueError, match="duration"):
        parse_duration(text)


@pytest.mark.parametrize("url", ["https://x/", "x", "http:///path"])
def test_a_url_that_cannot_be_called_is_refused(url):
    with pytest.raises(ValueError, match="url"):
        Target(url)


SERVE = """
import asyncio
async def serve(reader, writer):
    while await reader.readuntil(b"\\r\\n\\r\\n"):
        writer.write(b"HTTP/1.1 200 OK\\r\\nContent-Length: 0\\r\\n\\r\\n")
async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()
asyncio.run(main())
"""


@pytest.fixture
def url():
    """A server in a process of its own, for generators outside this one."""
    command = [sys.executable, "-c", SERVE]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        yield f"http://127.0.0.1:{process.stdout.readline().strip()}/"
        process.kill()


def test_a_sender_offers_its_streams_in_another_process(url):
    streams = [Stream(Target(url), Profile(((0.0, 50.0), (0.5, 50.0))), seed) for seed in (1, 2)]
    ledgers = [Ledger(1.0), Ledger(1.0)]

    async def run():
        async with sending(streams) as sender:
            assert await sender.begun() > 0
            return await sender.read(ledgers)

    lag = asyncio.run(run())
    assert lag.worst >= lag.p50
    for stream, ledger in zip(streams, ledgers, strict=True):
        assert {record.status for record in ledger.records} == {200}
        assert sorted(record.scheduled for record in ledger.records) == pytest.approx(
            stream.times(), abs=1e-5
        )


def test_a_sender_that_dies_is_an_error():
    async def run():
        async with sending([Stream(Target("http://127.0.0.1:1/"), steps("1:60"))]) as sender:
            await sender.begun()
            sender._process.kill()
            await sender.read([Ledger(1.0)])

    with pytest.raises(RunError):
        asyncio.run(run())


def test_a_generator_whose_reader_has_gone_ends_by_itself(url):
    command = [sys.executable, "-c", "from tailbound_lab.load.sender import child; child()"]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen(command, **pipes) as process:
        process.stdin.write(pickle.dumps([Stream(Target(url), steps("50:600"))]))
        process.stdin.close()
        process.stdout.readline()
        process.stdout.close()
        assert process.wait() == 0
        assert process.stderr.read() == b""


def test_the_command_line_says_what_became_of_the_requests(url, capsys):
    assert main(["--url", url, "--rate", "50:0.3", "--slo", "50s"]) == 0
    assert "100.0000%" in capsys.readouterr().out
    assert main(["--url", "http://127.0.0.1:1/", "--rate", "50:0.3"]) == 1
    assert main(["--url", url, "--rate", "0:0.1"]) == 0


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--url", "ftp://x"],
        ["--url", "http://127.0.0.1:1/", "--rate", "fast"],
        ["--url", "http://127.0.0.1:1/", "--slo", "soon"],
        ["--url", "http://127.0.0.1:1/", "--body", "/does/not/exist"],
    ],
)
def test_a_wrong_argument_ends_with_status_2(arguments):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
