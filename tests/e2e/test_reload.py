"""``batching-watchdog serve --reload``: a real watchdog whose function changes under load."""

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from support.processes import bare_environment, processes_of
from support.waits import PATIENCE, until
from tailbound_lab.local.ports import free_ports

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

HANDLER = """
import time

def handle_batch(events, context):
    time.sleep(0.02)
    return ["{version}"] * len(events)

def example():
    return b"any"
"""


class Served:
    """The command on a function of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self.write(HANDLER.format(version="first"))
        (folder.parent / "stack.yaml").write_text(
            "functions:\n  fn:\n    handler: ./fn\n"
            "    environment:\n      slo_latency: 90s\n      exec_timeout: 100s\n"
        )
        self.port, self.metrics_port = free_ports(2)
        self.log = folder.parent / "log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "batching_watchdog", "serve", str(folder), "--reload"],
                env={
                    **bare_environment(),
                    "TMPDIR": str(folder.parent),
                    "port": str(self.port),
                    "metrics_port": str(self.metrics_port),
                    "workers": "1",
                },
                stdout=log,
                stderr=log,
            )

    def write(self, handler: str) -> None:
        (self.folder / "handler.py").write_text(handler)

    def call(self) -> tuple[int, bytes]:
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)) as one:
            one.request("POST", "/", b"any")
            response = one.getresponse()
            return response.status, response.read()

    def shows(self, line: str) -> bool:
        with contextlib.closing(
            http.client.HTTPConnection("127.0.0.1", self.metrics_port, timeout=PATIENCE)
        ) as one:
            one.request("GET", "/metrics")
            return line in one.getresponse().read().decode()

    def refuses(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port)).close()
        except ConnectionRefusedError:
            return True
        return False

    def answers(self, answer: tuple[int, bytes]) -> None:
        def seen() -> bool:
            with contextlib.suppress(OSError):  # between two versions nobody listens
                return self.call() == answer
            return False

        until(seen, f"it answers {answer}")

    def says(self, words: str) -> None:
        until(lambda: words in self.log.read_text(), f"{words} in the log")


@pytest.fixture
def served(tmp_path):
    started = Served(tmp_path / "fn")
    try:
        started.says("listens on")
        yield started
    finally:
        started.process.kill()
        started.process.wait()
        for pid in processes_of(started.folder):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def test_change_of_the_handler_takes_effect_with_the_settings_of_the_stack_file(served):
    assert "slo_latency 90s" in served.log.read_text()
    assert served.call() == (200, b"first")
    served.write(HANDLER.format(version="second"))
    served.answers((200, b"second"))


def test_start_shows_a_url_of_loopback_alone_and_each_request_a_line(served):
    served.says(f"http://127.0.0.1:{served.port}")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", served.port))
    assert served.call() == (200, b"first")
    served.says("POST / - 200 OK")


def test_change_that_cannot_be_loaded_shows_its_error_until_it_is_mended(served):
    served.write("def broken(:\n")
    served.says("SyntaxError")
    served.write(HANDLER.format(version="mended"))
    served.answers((200, b"mended"))


def test_interrupt_ends_the_command_and_its_processes(served):
    assert served.call() == (200, b"first")
    served.process.send_signal(signal.SIGINT)
    assert served.process.wait(timeout=PATIENCE) == 0
    until(lambda: not processes_of(served.folder), "no process is left")


@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_second_signal_ends_the_command_at_once_without_a_trace(served, second):
    served.write("import time\ndef handle(event, context):\n    time.sleep(90)\n")
    until(lambda: served.log.read_text().count("listens on") == 2, "the handler that hangs is served")
    with socket.create_connection(("127.0.0.1", served.port)) as client:
        client.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
        until(lambda: served.shows("http_requests_in_flight 1.0"), "the request is there")
        served.process.send_signal(signal.SIGINT)
        until(served.refuses, "it drains")
        served.process.send_signal(second)
        served.process.wait(timeout=PATIENCE)
    assert "second signal" in served.log.read_text()
    assert "KeyboardInterrupt" not in served.log.read_text()
    until(lambda: not processes_of(served.folder), "no process is left")
