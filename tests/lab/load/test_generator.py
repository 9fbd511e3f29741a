"""The generator against small real servers: counts, statuses, broken connections, early end, lag."""

import contextlib
import os
import shutil
import socket
import subprocess
import threading
import time
from pathlib import Path

import pytest

from tailbound_lab.load.generator import Endpoint, build
from tailbound_lab.load.records import BenchError, Lagged, parse_run

pytestmark = pytest.mark.e2e

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n1;x=y\r\n!\r\n0\r\nT: 1\r\n\r\n"


class Server:
    """One thread for each connection; ``answer(n)`` is the reply to the n-th request, None to hang up."""

    def __init__(self, answer, close=False):
        self.answer, self.close_after = answer, close
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.port = self.listener.getsockname()[1]
        self.lock = threading.Lock()
        self.requests = []
        self.sockets = []
        self.threads = [threading.Thread(target=self.accept)]
        self.threads[0].start()

    def accept(self):
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self.listener.accept()
                self.sockets.append(connection)
                thread = threading.Thread(target=self.serve, args=(connection,))
                self.threads.append(thread)
                thread.start()

    def serve(self, connection):
        with contextlib.suppress(OSError), connection, connection.makefile("rb") as stream:
            while line := stream.readline():
                head = [line]
                while (line := stream.readline()).strip():
                    head.append(line)
                length = next(int(h.split(b":")[1]) for h in head if h.lower().startswith(b"content-length"))
                with self.lock:
                    self.requests.append((head[0].strip(), stream.read(length)))
                    number = len(self.requests)
                reply = self.answer(number)
                if reply is None:
                    return
                connection.sendall(reply)
                if self.close_after:
                    return

    def stop(self):
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for connection in self.sockets:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in list(self.threads):
            thread.join()


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    if not any(shutil.which(name) for name in ("cc", "gcc", "clang")):
        pytest.skip("needs a C compiler")
    return build(tmp_path_factory.mktemp("load"))


@pytest.fixture
def offer(tmp_path):
    """Offer 100 requests/s for half a second to a server that answers so."""

    def offer(generator, answer, *, close=False, **options):
        body = tmp_path / "body"
        body.write_bytes(b"x" * 1000)
        server = Server(answer, close)
        endpoint = Endpoint(server.port, "/there?a=1", "text/plain", (body,))
        # A long SLO, for the machine may be busy; the lag that is allowed grows with it.
        try:
            return server, generator.run(
                endpoint, **{"rate": 100.0, "seconds": 0.5, "slo": 30.0, "seed": 3, **options}
            )
        finally:
            server.stop()

    return offer


def test_an_answer_that_ends_with_the_connection_is_one(compiled, offer):
    _, run = offer(compiled, lambda n: b"HTTP/1.0 200 OK\r\n\r\nok", close=True)
    assert run.ok == run.sent > 0


@pytest.mark.parametrize(
    ("reply", "close"),
    [(OK, False), (OK, True), (CHUNKED, False)],
    ids=["kept", "closed", "chunked"],
)
def test_every_request_is_sent_whole_and_every_answer_counted(compiled, offer, reply, close):
    server, run = offer(compiled, lambda n: reply, close=close)
    assert run.sent == run.ok == run.good == len(server.requests)
    assert set(server.requests) == {(b"POST /there?a=1 HTTP/1.1", b"x" * 1000)}
    assert sum(count for _, count in run.histogram) == run.ok
    assert sum(second.offered for second in run.per_second) == run.sent
    assert run.latency_ms["p99"] <= run.latency_ms["max"]


def test_refusals_and_broken_connections_are_misses(compiled, offer):
    def answer(n):
        return {0: b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n", 1: None}.get(n % 4, OK)

    _, run = offer(compiled, answer, close=True)
    assert run.statuses["503"] + run.statuses["broken"] + run.statuses["200"] == run.sent
    assert run.good == run.statuses["200"] < run.sent
    assert run.latency_ms["p99"] is None
    assert run.ok_latency_ms["p99"] is not None


def test_answers_after_the_target_are_no_goodput(compiled, tmp_path):
    def answer(n):
        time.sleep(0.1)
        return OK

    body = tmp_path / "body"
    body.write_bytes(b"x")
    server = Server(answer)
    options = {
        "port": server.port,
        "body": body,
        "rate": 50,
        "seconds": 0.5,
        "slo-ms": 50,
        "max-lag-ms": 10000,
    }
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    try:
        run = parse_run(
            subprocess.run([*compiled.command, *words], check=True, capture_output=True, text=True).stdout
        )
    finally:
        server.stop()
    assert run.good == 0
    assert run.ok == run.sent > 0
    assert run.ok_latency_ms["p50"] >= 100.0


def test_nobody_listening_is_a_miss_and_not_a_failure(compiled, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    body = tmp_path / "body"
    body.write_bytes(b"")
    run = compiled.run(Endpoint(port, "/", "a/b", (body,)), rate=50.0, seconds=0.3, slo=30.0)
    assert run.statuses == {"no_connection": run.sent}
    assert run.goodput == 0.0


def test_a_kept_connection_that_closes_as_the_request_leaves_is_tried_again(compiled, offer):
    # Two answers for each connection, and the third request finds it closed without an answer.
    counts = {}

    def answer(n):
        name = threading.current_thread().name
        counts[name] = counts.get(name, 0) + 1
        time.sleep(0.03)  # so that several connections are kept, each of which may be as stale
        return OK if counts[name] <= 2 else None

    _, run = offer(compiled, answer)
    assert run.ok == run.sent


def test_a_hopeless_run_is_cut_short(compiled, offer):
    _, run = offer(
        compiled,
        lambda n: b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n",
        seconds=20.0,
        slo=0.5,
        stop_share=0.01,
    )
    assert run.stopped_early
    assert run.sent < 1000


def test_a_run_in_which_the_generator_was_late_does_not_count(compiled, offer):
    # No machine sends within a nanosecond of when it was due.
    with pytest.raises(Lagged, match="lag"):
        offer(compiled, lambda n: OK, slo=1e-5)


def test_a_body_that_is_not_there_is_an_error_with_its_name(compiled, tmp_path):
    endpoint = Endpoint(1, "/", "a/b", (tmp_path / "absent",))
    with pytest.raises(BenchError, match="absent"):
        compiled.run(endpoint, rate=1.0, seconds=1.0, slo=1.0)


def test_build_without_a_compiler_says_what_to_install(tmp_path):
    with pytest.raises(BenchError, match="install a compiler"):
        build(tmp_path, compilers=("no-such-compiler",))


def test_build_with_a_compiler_that_fails_says_what_it_said(tmp_path):
    compiler = tmp_path / "cc"
    compiler.write_text("#!/bin/sh\necho out of registers >&2; exit 1\n")
    compiler.chmod(0o755)
    with pytest.raises(BenchError, match="out of registers"):
        build(tmp_path / "build", compilers=(str(compiler),))


def test_build_compiles_again_only_what_is_older_than_its_source(tmp_path):
    binary = Path(build(tmp_path).command[0])
    made = binary.stat().st_mtime_ns
    assert Path(build(tmp_path).command[0]).stat().st_mtime_ns == made
    os.utime(binary, (0, 0))
    assert Path(build(tmp_path).command[0]).stat().st_mtime_ns > 0
