"""Real watchdog processes for the e2e tests: start, call, count their children, stop."""

import contextlib
import http.client
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tailbound_lab.local.ports import free_ports

START_SECONDS = 30.0


@dataclass(frozen=True)
class Answer:
    status: int
    headers: http.client.HTTPMessage
    body: bytes


def free_port() -> int:
    """A port that nobody's outgoing connection gets before the process that is to listen on it."""
    return free_ports(1)[0]


def wait_until(condition: Callable[[], Any], what: str, seconds: float = START_SECONDS) -> Any:
    """Poll ``condition`` until it is true; fail, naming ``what``, after ``seconds``."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError, http.client.HTTPException):
            if value := condition():
                return value
        time.sleep(0.02)
    raise AssertionError(f"not within {seconds:g} s: {what}")


class Watchdog:
    """One ``batching-watchdog`` process with a handler of the test's own."""

    def __init__(self, handler: str, environment: Mapping[str, str]) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="e2e-"))
        (self.folder / "handler.py").write_text(textwrap.dedent(handler))
        self.port, self.metrics_port = free_port(), free_port()
        self.log_file = (self.folder / "log").open("w+")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "batching_watchdog"],
            env={
                "PATH": os.environ["PATH"],
                "TMPDIR": str(self.folder),
                "function_path": str(self.folder),
                "port": str(self.port),
                "metrics_port": str(self.metrics_port),
                "workers": "1",
                "worker_threads": "1",
                "healthcheck_interval": "0s",
                **environment,
            },
            stdout=self.log_file,
            stderr=subprocess.STDOUT,
        )

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    def wait_ready(self) -> None:
        wait_until(self.ready_or_dead, f"ready\n{self.log}")
        assert self.process.poll() is None, self.log

    def ready_or_dead(self) -> bool:
        return self.process.poll() is not None or self.call("GET", "/_/ready").status == 200

    def call(
        self,
        method: str = "POST",
        path: str = "/",
        body: Any = b"",
        headers: Mapping[str, str] | None = None,
        *,
        port: int | None = None,
    ) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", port or self.port, timeout=30)
        try:
            connection.request(method, path, body, dict(headers or {}))
            response = connection.getresponse()
            return Answer(response.status, response.headers, response.read())
        finally:
            connection.close()

    def call_all(self, bodies: list[bytes], headers: Mapping[str, str] | None = None) -> list[Answer]:
        """Call once per body, all at the same time; the answers in the order of the bodies."""
        with ThreadPoolExecutor(len(bodies)) as pool:
            futures: list[Future[Answer]] = [
                pool.submit(self.call, "POST", "/", body, headers) for body in bodies
            ]
            return [future.result() for future in futures]

    def metric(self, name: str) -> float:
        """The value of the sample ``name``, labels included as they are exposed."""
        text = self.call("GET", "/metrics", port=self.metrics_port).body.decode()
        for line in text.splitlines():
            if line.startswith(name + " "):
                return float(line.rpartition(" ")[2])
        raise AssertionError(f"no sample {name} in:\n{text}")

    def processes(self) -> list[int]:
        """Process ids of gunicorn and the workers: all whose environment has our folder, but the watchdog."""
        marker = f"function_path={self.folder}".encode()
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != self.process.pid:
                with contextlib.suppress(OSError):
                    if marker in (entry / "environ").read_bytes().split(b"\0"):
                        found.append(int(entry.name))
        return found

    def gunicorn(self) -> int:
        """The process id of the gunicorn arbiter."""
        children = [pid for pid in self.processes() if _parent(pid) == self.process.pid]
        return children[0]

    def workers(self) -> list[int]:
        """The process ids of the workers."""
        arbiter = self.gunicorn()
        return [pid for pid in self.processes() if _parent(pid) == arbiter]

    def stop(self) -> int:
        """SIGTERM, and the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=30)

    def clean_up(self) -> None:
        self.process.kill()
        self.process.wait()
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.log_file.close()
        subprocess.run(["rm", "-rf", str(self.folder)], check=True)


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[1])
    except OSError:
        return 0


@contextlib.contextmanager
def watchdog(handler: str, **environment: str) -> Iterator[Watchdog]:
    """A watchdog that is ready, and is gone afterwards whatever happens."""
    started = Watchdog(handler, environment)
    try:
        started.wait_ready()
        yield started
    finally:
        started.clean_up()


@contextlib.contextmanager
def starting_watchdog(handler: str, **environment: str) -> Iterator[Watchdog]:
    """A watchdog that may not be ready yet, or may never be."""
    started = Watchdog(handler, environment)
    try:
        yield started
    finally:
        started.clean_up()
