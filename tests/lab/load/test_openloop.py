"""The generator in Python against real servers; in a process of its own, and as a command."""

import asyncio
import os
import pickle
import subprocess
import sys
import threading

import pytest

from lab.load.server import OK, Server
from tailbound_lab.load.arrivals import steps
from tailbound_lab.load.openloop import Stream, Target, main, offer
from tailbound_lab.load.records import TIMED_OUT, Ledger, RunError
from tailbound_lab.load.sender import sending


def test_a_stall_shows_in_the_latency_of_every_request_due_meanwhile():
    """A closed loop would wait, send nothing, and report one slow request (coordinated omission)."""
    over = threading.Event()
    threading.Timer(3, over.set).start()
    with Server(lambda _: over.wait() and OK) as server:
        (records,), _ = asyncio.run(
            offer(
                [Stream(Target(f"http://127.0.0.1:{server.port}/"), steps("200:0.4"))], timeout_seconds=50.0
            )
        )
    assert len(records) > 40
    # Each waited for the rest of the stall; most of it is left to a slow start.
    assert all(record.latency >= 0.5 - record.scheduled for record in records)


def test_a_silent_server_costs_the_timeout():
    over = threading.Event()
    with Server(lambda _: over.wait() and None) as server:
        target = Target(f"http://127.0.0.1:{server.port}/")
        records, _ = asyncio.run(offer([Stream(target, steps("50:0.2"))], timeout_seconds=0.3))
        over.set()
    assert {record.status for record in records[0]} == {TIMED_OUT}
    assert all(0.3 <= record.latency < 20 for record in records[0])


def test_bodies_are_sent_in_turn_large_ones_whole():
    large = os.urandom(200_000)
    with Server(lambda _: OK) as server:
        target = Target(f"http://127.0.0.1:{server.port}/", (b"small", large))
        (records,), _ = asyncio.run(offer([Stream(target, steps("40:0.4"))]))
    assert [body for _, body in server.requests].count(large) == len(records) // 2


@pytest.mark.parametrize("url", ["https://x/", "x", "http:///path"])
def test_a_url_that_cannot_be_called_is_refused(url):
    with pytest.raises(ValueError, match="url"):
        Target(url)


@pytest.fixture
def url():
    with Server(lambda _: OK) as server:
        yield f"http://127.0.0.1:{server.port}/"


def test_a_sender_offers_its_streams_in_another_process(url):
    streams = [Stream(Target(url), steps("50:0.5"), seed) for seed in (1, 2)]
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
    assert streams[0].times() != streams[1].times()


@pytest.mark.parametrize("begun", [True, False])
def test_a_sender_that_dies_is_an_error(begun):
    async def run():
        async with sending([Stream(Target("http://127.0.0.1:1/"), steps("1:60"))]) as sender:
            if begun:
                await sender.begun()
            sender._process.kill()
            await (sender.read([Ledger(1.0)]) if begun else sender.begun())

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


def test_the_command_says_what_became_of_the_requests(url, capsys):
    assert main(["--url", url, "--rate", "50:0.3", "--slo", "50s"]) == 0
    assert "100.0000%" in capsys.readouterr().out
    assert main(["--url", "http://127.0.0.1:1/", "--rate", "50:0.3"]) == 1
    assert main(["--url", url, "--rate", "0:0.1"]) == 0


@pytest.mark.parametrize(
    "wrong", ["", "--url=ftp://x", "--rate=fast", "--slo=soon", "--body=/does/not/exist"]
)
def test_a_wrong_argument_ends_with_status_2(wrong):
    with pytest.raises(SystemExit) as stop:
        main(["--url=http://127.0.0.1:1/", wrong] if wrong else [])
    assert stop.value.code == 2
