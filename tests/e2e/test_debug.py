"""``batching-watchdog serve --debug``: a terminal, and a debugger in it."""

import http.client
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from support.processes import bare_environment
from support.waits import PATIENCE
from tailbound_lab.local.ports import free_ports

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

BATCHES = """
def handle_batch(events, context):
    double = [2 * int(event.body) for event in events]
    breakpoint()
    return double
"""
STREAMS = """
def start(events, context):
    return [int(event.body) for event in events]

def step(states, context):
    double = [2 * state for state in states]
    breakpoint()
    return [(value, True) for value in double]
"""


class Terminal:
    """What the author of a function sees and types."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._seen = b""

    def wait_for(self, text: str) -> str:
        """Return what is shown up to ``text`` and has not been returned before."""
        while text.encode() not in self._seen:
            shown = b""
            with suppress(OSError):  # Linux' end of a terminal
                shown = os.read(self._descriptor, 4096)
            assert shown, f"no {text} after {self._seen.decode()}"
            self._seen += shown
        before, _, self._seen = self._seen.partition(text.encode())
        return before.decode()

    def type(self, line: str) -> None:
        os.write(self._descriptor, f"{line}\n".encode())


@contextmanager
def debugged(folder: Path, handler: str) -> Iterator[tuple[subprocess.Popen[bytes], Terminal, int]]:
    """The command in a terminal, which serves ``handler``, and its port."""
    (folder / "handler.py").write_text(handler)
    (port,) = free_ports(1)
    own, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "batching_watchdog", "serve", str(folder), "--debug"],
        env=bare_environment() | {"port": str(port), "TERM": "dumb"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    try:
        terminal = Terminal(own)
        terminal.wait_for(f"http://127.0.0.1:{port}")
        yield process, terminal, port
    finally:
        process.kill()
        process.wait()
        os.close(own)


def posted(port: int, body: bytes) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        connection.request("POST", "/", body)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


@pytest.mark.parametrize(
    ("handler", "answer"), [(BATCHES, b"42"), (STREAMS, b"42\n")], ids=["batch", "stream"]
)
def test_breakpoint_of_a_handler_has_the_terminal_and_the_answer_follows(tmp_path, handler, answer):
    with debugged(tmp_path, handler) as (process, terminal, port), ThreadPoolExecutor() as pool:
        asked = pool.submit(posted, port, b"21")
        terminal.wait_for("(Pdb) ")
        terminal.type("p double[0] + 1000")
        assert "1042" in terminal.wait_for("(Pdb) ")
        terminal.type("continue")
        assert asked.result() == (200, answer)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=PATIENCE) == 0


def test_handler_that_cannot_be_loaded_ends_the_command_with_its_traceback(tmp_path):
    (tmp_path / "handler.py").write_text("import no_such_module\n")
    done = subprocess.run(
        [sys.executable, "-m", "batching_watchdog", "serve", str(tmp_path), "--debug"],
        env=bare_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "no_such_module" in done.stderr
    assert "batching-watchdog serve: " in done.stderr
