"""Real watchdog processes for the e2e tests: start, call, count their children, stop.

Nothing here or in the tests depends on how busy the machine is: waits are for conditions, requests have long
timeouts and a long SLO unless a test is about those, and what must overlap is held by a gate.
"""

import contextlib
import http.client
import os
import resource
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import batching_watchdog
import slo_autoscaler
import tailbound_lab
from support.waits import PATIENCE, until
from tailbound_lab.local.ports import free_ports

ECHO = "def handle(event, context):\n    return event.body\n"
GATED = """
import pathlib, time

def handle(event, context):
    while not pathlib.Path(__file__).with_name("gate").exists():
        time.sleep(0.01)
    return event.body
"""
"""Answers once the test has called ``open_gate``."""

_PACKAGES = (batching_watchdog, slo_autoscaler, tailbound_lab)


def import_path(*first: str | Path) -> str:
    """Return a PYTHONPATH for which a process imports the very packages that the tests import.

    Its interpreter may have other copies installed. Folders in ``first`` come before the packages.
    """
    folders = dict.fromkeys(str(Path(package.__path__[0]).parent) for package in _PACKAGES)
    return os.pathsep.join((*map(str, first), *folders))


def bare_environment() -> dict[str, str]:
    """Return the least environment in which a program of ours runs."""
    return {"PATH": os.environ["PATH"], "PYTHONPATH": import_path()}


@dataclass(frozen=True)
class Answer:
    status: int
    headers: http.client.HTTPMessage
    body: bytes


def processes_of(folder: Path) -> list[int]:
    """Process ids of all whose environment has this function's folder."""
    marker = f"function_path={folder}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and marker in (entry / "environ").read_bytes().split(b"\0"):
                found.append(int(entry.name))
    return found


def read_all(connection: socket.socket) -> bytes:
    """All that comes until the connection ends."""
    return b"".join(iter(lambda: connection.recv(1 << 20), b""))


class Watchdog:
    """One ``batching-watchdog`` process with a handler of the test's own."""

    def __init__(
        self,
        handler: str,
        environment: Mapping[str, str],
        output: int | None = None,
        weight: str = "",
        command: Sequence[str] = (sys.executable, "-m", "batching_watchdog"),
    ) -> None:
        """``output``: the descriptor that its output goes to; None: its log. ``weight``: of weight.py."""
        self.folder = Path(tempfile.mkdtemp(prefix="e2e-"))
        if weight:
            (self.folder / "weight.py").write_text(textwrap.dedent(weight))
        (self.folder / "handler.py").write_text(textwrap.dedent(handler))
        self.port, self.metrics_port = free_ports(2)
        with (self.folder / "log").open("w") as log:
            self.process = subprocess.Popen(
                command,
                env={
                    **bare_environment(),
                    "TMPDIR": str(self.folder),
                    "function_path": str(self.folder),
                    "port": str(self.port),
                    "metrics_port": str(self.metrics_port),
                    "workers": "1",
                    "worker_threads": "1",
                    "slo_latency": f"{PATIENCE:.0f}s",
                    "exec_timeout": f"{PATIENCE:.0f}s",
                    "healthcheck_interval": "0s",
                    **environment,
                },
                stdout=log if output is None else output,
                stderr=log if output is None else output,
            )

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    def open_gate(self) -> None:
        """Let the ``GATED`` handler answer."""
        (self.folder / "gate").touch()

    def close_gate(self) -> None:
        """Let it wait again."""
        (self.folder / "gate").unlink()

    def wait_ready(self) -> None:
        until(lambda: self.process.poll() is not None or self.ready(), f"ready\n{self.log}")
        assert self.process.poll() is None, self.log

    def wait_idle(self, workers: int) -> None:
        until(lambda: self.metric('watchdog_workers{state="idle"}') == workers, f"{workers} idle")

    def ready(self) -> bool:
        return self.call("GET", "/_/ready").status == 200

    def call(
        self,
        method: str = "POST",
        path: str = "/",
        body: Any = b"",
        headers: Mapping[str, str] | None = None,
        *,
        port: int | None = None,
    ) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", port or self.port, timeout=2 * PATIENCE)
        try:
            connection.request(method, path, body, dict(headers or {}))
            response = connection.getresponse()
            return Answer(response.status, response.headers, response.read())
        finally:
            connection.close()

    def call_all(self, bodies: list[bytes]) -> list[Answer]:
        """Call once per body, all at the same time; the answers in the order of the bodies."""
        with ThreadPoolExecutor(len(bodies)) as pool:
            return list(pool.map(lambda body: self.call(body=body), bodies))

    def metric(self, name: str) -> float:
        """The value of the sample ``name``, labels included as they are exposed."""
        text = self.call("GET", "/metrics", port=self.metrics_port).body.decode()
        for line in text.splitlines():
            if line.startswith(name + " "):
                return float(line.rpartition(" ")[2])
        raise AssertionError(f"no sample {name} in:\n{text}")

    def connect(self) -> socket.socket:
        """A connection that takes little of an answer before it is read."""
        connection = socket.socket()
        # Closing resets, so that thousands of ports do not wait out their time afterwards.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(PATIENCE)
        connection.connect(("127.0.0.1", self.port))
        return connection

    def memory(self) -> int:
        """Resident bytes of the watchdog process itself."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * resource.getpagesize()

    def processes(self) -> list[int]:
        """Process ids of gunicorn and the workers."""
        return [pid for pid in processes_of(self.folder) if pid != self.process.pid]

    def gunicorn(self) -> int:
        """The process id of the gunicorn arbiter."""
        return next(pid for pid in self.processes() if _parent(pid) == self.process.pid)

    def workers(self) -> list[int]:
        """The process ids of the workers."""
        arbiter = self.gunicorn()
        return [pid for pid in self.processes() if _parent(pid) == arbiter]

    def kill_workers(self) -> None:
        """SIGKILL to every worker, and wait until others stand in for them."""
        workers, before = self.workers(), self.metric("watchdog_worker_restarts_total")
        for pid in workers:
            os.kill(pid, signal.SIGKILL)
        after = before + len(workers)
        until(lambda: self.metric("watchdog_worker_restarts_total") == after, "all have died")
        self.wait_idle(len(workers))

    def begin_to_drain(self) -> None:
        """SIGTERM, and wait until no connection is accepted."""

        def refused() -> bool:
            with contextlib.suppress(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", self.port)).close()
                return False
            return True

        self.process.send_signal(signal.SIGTERM)
        until(refused, "the listener is closed")

    def stop(self) -> int:
        """SIGTERM, and the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.ended()

    def ended(self) -> int:
        """The exit status, once it has ended and left no process behind."""
        status = self.process.wait(timeout=PATIENCE)
        until(lambda: not self.processes(), "no process is left")
        return status

    def clean_up(self) -> None:
        self.process.kill()
        self.process.wait()
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        shutil.rmtree(self.folder, ignore_errors=True)


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[1])
    except OSError:
        return 0


@contextlib.contextmanager
def watchdog(
    handler: str, output: int | None = None, weight: str = "", **environment: str
) -> Iterator[Watchdog]:
    """A watchdog that is ready, and is gone afterwards whatever happens."""
    with starting_watchdog(handler, output, weight, **environment) as started:
        started.wait_ready()
        yield started


@contextlib.contextmanager
def starting_watchdog(
    handler: str, output: int | None = None, weight: str = "", **environment: str
) -> Iterator[Watchdog]:
    """A watchdog that may not be ready yet, or may never be."""
    started = Watchdog(handler, environment, output, weight)
    try:
        yield started
    finally:
        started.clean_up()
