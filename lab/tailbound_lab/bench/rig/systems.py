"""Defines the measured systems: our own server, and the peers.

A system is data: its start on a port with a number of workers, its packages for pip, and the wrapping of a
body. To add a peer, add a program to ``servers`` and an entry to ``SYSTEMS``. Next step:
:mod:`tailbound_lab.bench.rig.server`, which starts, awaits and stops it.
"""

import base64
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

from tailbound_lab.bench.workloads import Workload
from tailbound_lab.load.records import BenchError

MALLOC: Final = (
    "glibc.malloc.mmap_threshold=268435456"
    ":glibc.malloc.trim_threshold=1073741824"
    ":glibc.malloc.top_pad=67108864"
)
"""``+malloc``: keep glibc from returning large tensors to the kernel after every forward."""

JSON: Final = "application/json"


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of a batching server; unknown ones are ignored, None keeps its default."""

    size: int | None = None
    wait_ms: int | None = None
    malloc: bool = False


@dataclass(frozen=True, slots=True)
class Launch:
    """The arguments of a start: port, workload, number of workers, settings, interpreter."""

    port: int
    workload: Workload
    workers: int
    settings: Settings
    python: str
    temporary: Path
    metrics_port: int = 0


@dataclass(frozen=True, slots=True)
class Command:
    """A program with its arguments and additional environment variables."""

    arguments: tuple[str, ...]
    environment: Mapping[str, str]


def _plain(body: bytes) -> tuple[bytes, str]:
    return body, JSON


@dataclass(frozen=True, slots=True)
class System:
    """One server that can be measured."""

    name: str
    launch: Callable[[Launch], Command]
    requirements: tuple[str, ...] = ()
    """Packages of its own environment; empty: it runs in the bench's."""
    path: str = "/"
    wrap: Callable[[bytes], tuple[bytes, str]] = _plain
    """Converts a workload's body to the system's body and content type."""
    settings: Settings = Settings()


@dataclass(frozen=True, slots=True)
class Entry:
    """A system as the command line names it: ``mosec``, ``mosec:64:10``, ``mosec:64:10+malloc``."""

    label: str
    system: System
    settings: Settings


def listed(text: str) -> list[str]:
    """Return the parts of a comma-separated option."""
    return [part.strip() for part in text.split(",") if part.strip()]


def parse_entry(text: str) -> Entry:
    """Read NAME[:SIZE:WAIT_MS][+malloc]. Raises ``BenchError`` that names the text and the rule."""
    rest, plus, option = text.partition("+")
    if plus and option != "malloc":
        raise BenchError(f"system {text!r}: after + only malloc is known")
    name, *numbers = rest.split(":")
    if name not in SYSTEMS:
        raise BenchError(f"system {text!r}: there is no {name!r}; there are {', '.join(SYSTEMS)}")
    system = SYSTEMS[name]
    size, wait = system.settings.size, system.settings.wait_ms
    if numbers:
        if len(numbers) != 2 or not all(n.isdigit() for n in numbers) or int(numbers[0]) < 1:
            raise BenchError(
                f"system {text!r}: expected NAME:SIZE:WAIT_MS, two whole numbers, such as mosec:32:5"
            )
        size, wait = int(numbers[0]), int(numbers[1])
    return Entry(text, system, Settings(size, wait, bool(plus)))


def _ours(start: Launch) -> Command:
    # The target is all that is set; workers and threads are what every system gets. The rest is the bench's
    # business: where to listen, and not to sleep on SIGTERM.
    environment = {
        "function_path": str(start.workload.folder),
        "port": str(start.port),
        "metrics_port": str(start.metrics_port),
        "slo_latency": f"{start.workload.slo * 1e3:g}ms",
        "workers": str(start.workers),
        "worker_threads": "1",
        "healthcheck_interval": "0s",
    }
    return Command((start.python, "-m", "batching_watchdog"), environment)


def _gunicorn(application: str) -> Callable[[Launch], Command]:
    return lambda start: Command(
        (
            *(start.python, "-m", "gunicorn", "--workers", str(start.workers), "--log-level", "warning"),
            *("--threads", str(start.settings.size or 1)),
            *("--bind", f"127.0.0.1:{start.port}", f"{application}:create_app()"),
        ),
        {"function_path": str(start.workload.folder)},
    )


def _module(name: str) -> Callable[[Launch], Command]:
    return lambda start: Command(
        (start.python, "-m", f"tailbound_lab.bench.servers.{name}", str(start.port)), {}
    )


def _mosec(name: str) -> Callable[[Launch], Command]:
    def launch(start: Launch) -> Command:
        arguments = ("--address", "127.0.0.1", "--port", str(start.port), "--log-level", "warning")
        path = ("--path", str(start.temporary / "mosec"))
        return Command((start.python, "-m", f"tailbound_lab.bench.servers.{name}", *arguments, *path), {})

    return launch


def _bentoml(service: str) -> Callable[[Launch], Command]:
    def launch(start: Launch) -> Command:
        where = ("--host", "127.0.0.1", "--port", str(start.port))
        return Command(
            (start.python, "-m", "bentoml", "serve", f"tailbound_lab.bench.servers.{service}", *where),
            {"BENTOML_DO_NOT_TRACK": "true", "BENTOML_HOME": str(start.temporary / "bentoml")},
        )

    return launch


def _bentoml_body(body: bytes) -> tuple[bytes, str]:
    text = body.decode() if body.isascii() else "base64:" + base64.b64encode(body).decode()
    return json.dumps({"bodies": [text]}).encode(), JSON


def _bentoml_text(body: bytes) -> tuple[bytes, str]:
    return json.dumps({"body": body.decode()}).encode(), JSON


SYSTEMS: Final[Mapping[str, System]] = MappingProxyType(
    {
        system.name: system
        for system in (
            System("slo", _ours),
            # Sync workers and Flask, no batches.
            System("gunicorn", _gunicorn("batching_watchdog.worker.wsgi")),
            System(
                "mosec",
                _mosec("mosec_server"),
                ("mosec",),
                path="/inference",
                settings=Settings(4, 10),  # as in its README
            ),
            System(
                "litserve",
                _module("litserve_server"),
                ("litserve",),
                path="/predict",
                settings=Settings(32, 5),
            ),
            # Adaptive batches; its max_latency_ms is 60,000 by default.
            System(
                "bentoml",
                _bentoml("bentoml_service:Predict"),
                ("bentoml",),
                wrap=_bentoml_body,
                settings=Settings(32, 60_000),
            ),
            # Servers of streams. Sizes: of the streams at once, or of the closed batches.
            System(
                "litserve-streams",
                _module("litserve_streams"),
                ("litserve",),
                path="/predict",
                settings=Settings(40, 0),
            ),
            System(
                "mosec-streams",
                _mosec("mosec_streams"),
                ("mosec",),
                path="/inference",
                settings=Settings(16, 0),
            ),
            System("bentoml-streams", _bentoml("bentoml_streams:Generate"), ("bentoml",), wrap=_bentoml_text),
            System(
                "gunicorn-streams",
                _gunicorn("tailbound_lab.bench.servers.flask_streams"),
                settings=Settings(3, 0),
            ),
        )
    }
)
"""The closed registry of what can be measured."""
OWN_PYTHON: Final = sys.executable
