"""Runs one server under measurement: starts it, awaits its answer, reads its resources, stops it.

Owns the process and its mark (``processes``); ``systems`` defines the program.
"""

import http.client
import os
import shutil
import subprocess
import tempfile
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from tailbound_lab.bench.rig import processes
from tailbound_lab.bench.rig.systems import MALLOC, OWN_PYTHON, Entry, Launch
from tailbound_lab.bench.rig.venvs import python_of
from tailbound_lab.bench.workloads import IMPORTS, Workload
from tailbound_lab.load.generator import Endpoint, Part
from tailbound_lab.load.records import BenchError
from tailbound_lab.local.ports import free_ports

START_SECONDS = 120.0
SETTLE_SECONDS = 20.0
PROBES = 5
PROBE_TIMEOUT = 10.0
_LOG_TAIL = 1500
# Variables of the caller that would change the measurement.
_DROPPED = ("GLIBC_TUNABLES", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")


def example(workload: Workload) -> bytes:
    """Return a typical body from the workload's own ``example()``, in a process that may load torch."""
    code = "import sys, handler; sys.stdout.buffer.write(handler.example())"
    done = subprocess.run([OWN_PYTHON, "-c", code], cwd=workload.folder, check=False, capture_output=True)
    if done.returncode:
        words = done.stderr.decode(errors="replace").strip()
        raise BenchError(f"{workload.folder}: example() failed:\n{words}")
    return done.stdout


class RunningSystem:
    """A running system; a context manager that leaves no process behind.

    Entering it raises ``NotAvailable`` if the peer cannot be installed, ``BenchError`` if it does not start.
    """

    def __init__(
        self,
        entry: Entry,
        workload: Workload,
        workers: int,
        body: bytes,
        extra: Mapping[str, str] | None = None,
    ) -> None:
        self.system, self.settings = entry.system, entry.settings
        self.workload, self.workers = workload, workers
        self.body, self.content_type = entry.system.wrap(body)
        self._extra = dict(extra or {})
        self._mark = uuid.uuid4().hex
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0
        self.metrics_port = 0

    def __enter__(self) -> Self:
        requirements = self.system.requirements
        python = str(python_of(requirements)) if requirements else OWN_PYTHON
        self.folder = Path(tempfile.mkdtemp(prefix="bench-"))  # short: Unix sockets go below it
        try:
            self._start(python)
            self._wait_ready()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    @property
    def endpoint(self) -> Endpoint:
        """Return the address and the requests for the generator."""
        headers = (("Content-Type", self.content_type),)
        return Endpoint(self.port, (Part(self.body, self.system.path, headers),))

    @property
    def alive(self) -> bool:
        """Return whether the started process still runs."""
        return self._process is not None and self._process.poll() is None

    def usage(self) -> dict[int, processes.Usage]:
        """Return CPU and memory of every process of the server."""
        return processes.usage(self._mark)

    def settled(self) -> bool:
        """Return whether the queue of an overload has drained: successive calls meet the SLO."""
        deadline = time.monotonic() + SETTLE_SECONDS
        quick = 0
        while quick < PROBES and time.monotonic() < deadline:
            start = time.monotonic()
            good = self._call() == 200 and time.monotonic() - start < self.workload.slo
            quick = quick + 1 if good else 0
            if not good:
                time.sleep(0.1)
        return quick >= PROBES

    def log_tail(self) -> str:
        """Return the server's last output."""
        return (self.folder / "log").read_text(errors="replace")[-_LOG_TAIL:].strip()

    def _start(self, python: str) -> None:
        self.port, self.metrics_port = free_ports(2)
        launch = Launch(
            *(self.port, self.workload, self.workers, self.settings, python, self.folder, self.metrics_port)
        )
        command = self.system.launch(launch)
        environment = {name: value for name, value in os.environ.items() if name not in _DROPPED} | {
            processes.MARK: self._mark,
            "TMPDIR": str(self.folder),
            "PYTHONPATH": IMPORTS,
            "PYTHONUNBUFFERED": "1",
            "OMP_NUM_THREADS": "1",
            "MKL_NUM_THREADS": "1",
            "BENCH_FOLDER": str(self.workload.folder),
            "BENCH_WORKERS": str(self.workers),
            "BENCH_SIZE": str(self.settings.size or 1),
            "BENCH_WAIT": str(self.settings.wait_ms or 0),
        }
        if self.settings.malloc:
            environment["GLIBC_TUNABLES"] = MALLOC
        with (self.folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                command.arguments,
                env={**environment, **command.environment, **self._extra},
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _wait_ready(self) -> None:
        # A real request for every system, some per worker; the measurement's warm-up follows.
        deadline = time.monotonic() + START_SECONDS
        answered = 0
        last: object = "no answer"
        while answered < PROBES * self.workers:
            if not self.alive:
                raise BenchError(f"{self.system.name} ended while starting:\n{self.log_tail()}")
            if time.monotonic() > deadline:
                raise BenchError(
                    f"{self.system.name} was not ready in {START_SECONDS:g} s ({last}):\n{self.log_tail()}"
                )
            last = self._call()
            if last == 200:
                answered += 1
            else:
                time.sleep(0.1)

    def _call(self) -> int | str:
        """Return the status of one request, or the error."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PROBE_TIMEOUT)
        try:
            connection.request("POST", self.system.path, self.body, {"Content-Type": self.content_type})
            response = connection.getresponse()
            response.read()
        except (OSError, http.client.HTTPException) as error:
            return repr(error)
        else:
            return response.status
        finally:
            connection.close()

    def _stop(self) -> None:
        if self._process is not None:
            processes.end(self._process, self._mark)
        shutil.rmtree(self.folder, ignore_errors=True)
