"""The generator against real servers: open loop, keep-alive, refusals, breaks, and its own command line."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys

import pytest

from tailbound_lab.load import openloop as load
from tailbound_lab.load.arrivals import Profile, steps
from tailbound_lab.load.openloop import Stream, Target, offer, parse_duration, plan
from tailbound_lab.load.records import BROKEN, NO_CONNECTION, TIMED_OUT

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


def drive(answer, rate, *, give_up_after=5.0, **target):
    """Offer one stream to a server that answers so; return server, records and lag."""

    async def main():
        server = Server(answer)
        async with server.run() as url:
            records, lag = await offer(
                [Stream(Target(url, **target), steps(rate))], give_up_after=give_up_after
            )
        return server, records[0], lag

    return asyncio.run(main())


async def prompt(_):
    return OK


def test_every_planned_request_is_sent_and_recorded_once():
    stream = Stream(Target("http://127.0.0.1:1/"), steps("300:0.5"))
    server, records, _ = drive(prompt, "300:0.5")
    assert sorted(record.scheduled for record in records) == pytest.approx(stream.times(), abs=1e-6)
    assert {record.status for record in records} == {200}
    assert len(server.bodies) == len(records)


def test_sequential_requests_share_one_connection():
    async def main():
        server = Server(prompt)
        async with server.run() as url:
            # Far enough apart that each answer is back before the next request is due.
            profile = Profile(((0.0, 10.0), (1.0, 10.0)))
            await offer([Stream(Target(url), profile, seed=3)])
        return server

    server = asyncio.run(main())
    assert len(server.bodies) > 3
    assert server.connections < len(server.bodies)


def test_a_stall_shows_in_the_latency_of_every_request_due_meanwhile():
    """A closed loop would wait, send nothing, and report one slow request (coordinated omission)."""
    stall = asyncio.Event

    async def main():
        over = stall()

        async def answer(_):
            await over.wait()
            return OK

        async def end_stall():
            await asyncio.sleep(0.5)
            over.set()

        server = Server(answer)
        async with server.run() as url:
            ending = asyncio.create_task(end_stall())
            records, _ = await offer([Stream(Target(url), steps("200:0.4"))])
            await ending
        return records[0]

    records = asyncio.run(main())
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


def test_a_refused_connection_is_recorded_as_such():
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/"
        records, _ = asyncio.run(offer([Stream(Target(url), steps("100:0.2"))]))
    assert {record.status for record in records[0]} == {NO_CONNECTION}


def test_a_silent_server_costs_the_timeout_and_no_more():
    async def never(_):
        await asyncio.sleep(60)

    _, records, _ = drive(never, "50:0.2", give_up_after=0.3)
    assert {record.status for record in records} == {TIMED_OUT}
    assert all(record.latency >= 0.3 for record in records)


def test_a_connection_that_breaks_before_the_answer_is_a_lost_request():
    async def hang_up(_):
        return None

    _, records, _ = drive(hang_up, "50:0.2")
    assert {record.status for record in records} == {BROKEN}


def test_an_answer_that_is_not_http_is_a_lost_request():
    async def nonsense(_):
        return b"what?\r\n\r\n"

    _, records, _ = drive(nonsense, "50:0.2")
    assert {record.status for record in records} == {BROKEN}


def test_a_kept_connection_closed_under_a_request_is_repeated_on_a_new_one():
    async def every_second(count):
        return OK if count % 2 else None

    _, records, _ = drive(every_second, "20:0.5", max_connections=1)
    assert {record.status for record in records} == {200}


def test_statuses_are_recorded_as_they_come_and_connections_closed_when_asked():
    async def refuse(_):
        return b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"

    server, records, _ = drive(refuse, "60:0.3")
    assert {record.status for record in records} == {503}
    assert server.connections == len(records)


def test_chunked_answers_are_read():
    async def chunked(_):
        return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"

    _, records, _ = drive(chunked, "60:0.3")
    assert {record.status for record in records} == {200}


def test_bodies_are_sent_in_turn_large_ones_whole():
    large = os.urandom(200_000)
    server, records, _ = drive(prompt, "40:0.4", bodies=(b"small", large), headers=(("X-Kind", "test"),))
    assert len(server.bodies) == len(records)
    assert server.bodies.count(large) == len(records) // 2
    assert all(b"X-Kind: test\r\n" in head for head in server.heads)
    assert server.heads[0].startswith(b"POST /function/x?a=1 HTTP/1.1\r\n")


def test_twins_receive_the_very_same_arrivals():
    a = Stream(Target("http://127.0.0.1:1/a"), steps("100:2"), seed=5)
    b = Stream(Target("http://127.0.0.1:1/b"), steps("100:2"), seed=5)
    assert a.times() == b.times() != Stream(b.target, b.profile, seed=6).times()


def test_the_generator_reports_its_own_lag():
    _, _, lag = drive(prompt, "300:0.3")
    assert 0 <= lag.p50 <= lag.p99 <= lag.p999 <= lag.worst


@pytest.mark.parametrize(
    ("text", "seconds"), [("100ms", 0.1), ("1.5s", 1.5), ("2", 2), ("250us", 0.00025), ("1m", 60)]
)
def test_durations_are_read(text, seconds):
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "fast", "1h", "-1s", "0", "nan", "1msms"])
def test_a_wrong_duration_names_itself(text):
    with pytest.raises(ValueError, match="duration"):
        parse_duration(text)


@pytest.mark.parametrize("url", ["https://x/", "x", "http:///path"])
def test_a_url_that_cannot_be_called_is_refused(url):
    with pytest.raises(ValueError, match="expected http://"):
        Target(url)


@contextlib.contextmanager
def server_process():
    """Run a server in a process of its own, for the generator's command line."""
    code = (
        "import http.server as h\n"
        "class H(h.BaseHTTPRequestHandler):\n"
        " protocol_version='HTTP/1.1'\n"
        " def do_POST(s):\n"
        "  s.rfile.read(int(s.headers['Content-Length'])); s.send_response(200)\n"
        "  s.send_header('Content-Length','0'); s.end_headers()\n"
        " def log_message(s,*a): pass\n"
        "import socketserver as t\n"
        "class S(h.ThreadingHTTPServer):\n"
        " server_bind=t.TCPServer.server_bind\n"  # without the look-up of the host's name
        " server_port=property(lambda s: s.server_address[1])\n"
        "x=S(('127.0.0.1',0),H); print(x.server_port,flush=True); x.serve_forever()\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        try:
            yield f"http://127.0.0.1:{process.stdout.readline().strip()}/"
        finally:
            process.kill()


def test_the_command_line_prints_what_became_of_the_requests(tmp_path, capsys):
    body = tmp_path / "body.json"
    body.write_text("{}")
    with server_process() as url:
        status = load.main(["--url", url, "--rate", "50:0.3", "--slo", "2s", "--body", str(body)])
    out = capsys.readouterr().out
    assert status == 0
    assert "attainment 100.0000% within 2000 ms" in out
    assert "lost 0" in out


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
def test_wrong_arguments_stop_with_one_message_and_status_2(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        load.main(arguments)
    assert stop.value.code == 2
    assert "Traceback" not in capsys.readouterr().err


def start_plan(url, tmp_path, rate):
    body = tmp_path / "body"
    body.write_bytes(b"x")
    path = tmp_path / "plan.json"
    path.write_text(plan([(Stream(Target(url), steps(rate), 1), [body])], 2.0))
    # Who runs the tests as a background job ignores SIGINT, and its children would too.
    listening = ("env", "--default-signal=INT")
    return subprocess.Popen(
        [*listening, sys.executable, "-m", "tailbound_lab.load.openloop", "--plan", str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def test_a_plan_is_carried_out_in_another_process_and_told_in_lines(tmp_path):
    with server_process() as url, start_plan(url, tmp_path, "50:0.5") as process:
        lines = [json.loads(line) for line in process.stdout]
    assert process.returncode == 0
    assert lines[0]["start"] > 0
    records = [record for line in lines for record in line.get("records", ())]
    assert len(records) == lines[0]["planned"] > 0
    assert {status for _, _, _, status in records} == {200}
    assert set(lines[-1]["lag"]) == {"p50", "p99", "p999", "worst"}


def test_a_generator_whose_reader_has_gone_ends_by_itself(tmp_path):
    with server_process() as url, start_plan(url, tmp_path, "50:60") as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(20) == 0
        assert process.stderr.read() == b""


def test_an_interrupted_generator_ends_without_a_traceback(tmp_path):
    with server_process() as url, start_plan(url, tmp_path, "50:60") as process:
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=20)
        assert process.returncode == 130
