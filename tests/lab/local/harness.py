"""The platform on the stand-in watchdog in this process, or as a user starts it; OpenFaaS' own programs."""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from support.loops import within
from tailbound_lab.local.functions import Function
from tailbound_lab.local.platform import Platform, Settings, open_platform

STANDIN = (sys.executable, str(Path(__file__).with_name("standin.py")))
UP = (sys.executable, "-m", "tailbound_lab.local", "up", "--port", "0")
TWO = {"com.openfaas.scale.min": "2"}


@dataclass
class Answer:
    status: int
    headers: Any
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Client:
    """Calls the platform's one port."""

    platform: Platform
    session: aiohttp.ClientSession
    folder: Path

    @property
    def function(self) -> Function:
        """The only function."""
        (function,) = self.platform.registry
        return function

    async def call(self, method: str, path: str, **options: Any) -> Answer:
        url = self.platform.gateway_url + path
        async with self.session.request(method, url, allow_redirects=False, **options) as answer:
            return Answer(answer.status, answer.headers, await answer.read())

    async def status(self, method: str, path: str, body: object = None) -> int:
        return (await self.call(method, path, json=body)).status

    async def deploy(self, *, method: str = "POST", ready: bool = True, **body: Any) -> None:
        body = {"service": "echo", "image": "echo:latest", **body}
        answer = await self.call(method, "/system/functions", json=body)
        assert answer.status == 202, answer.text
        if ready:
            await self.platform.settled()

    async def scale(self, replicas: object) -> int:
        return await self.status("POST", "/system/scale-function/echo", {"replicas": replicas})

    async def read(self) -> tuple[int, int]:
        """(replicas, available) as a client is told."""
        status = (await self.call("GET", "/system/function/echo")).json()
        return status["replicas"], status["availableReplicas"]

    def start(self, path: str) -> "asyncio.Task[Answer]":
        """A request that takes its time."""
        return asyncio.create_task(self.call("POST", f"/function/{path}", data=b"x"))


@asynccontextmanager
async def platform_client(folder: Path, **settings: Any) -> AsyncIterator[Client]:
    handler = folder / "handler"
    handler.mkdir(exist_ok=True)
    (handler / "handler.py").write_text("def handle(event, context):\n    return event.body\n")
    defaults: dict[str, Any] = {
        "images": {"echo:latest": handler},
        "port": 0,
        "with_prometheus": False,
        "with_autoscaler": False,
        "run_dir": folder / "run",
        "replica_command": STANDIN,
        "stop_grace": 2.0,
    }
    async with (
        open_platform(Settings(**{**defaults, **settings})) as platform,
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=50)) as session,
    ):
        yield Client(platform, session, folder)


def on_platform(**settings: Any) -> Callable[[Callable[..., Awaitable[None]]], Callable[..., None]]:
    """Make of ``async def scenario(client, ...)`` a test against a fresh platform."""

    @asynccontextmanager
    async def opened() -> AsyncIterator[tuple[Client]]:
        with tempfile.TemporaryDirectory() as folder:
            async with platform_client(Path(folder), **settings) as client:
                yield (client,)

    return within(opened)


async def until(condition: Callable[[], Any]) -> None:
    """Return when ``condition()`` holds; the test's own timeout is the limit."""
    while not condition():  # noqa: ASYNC110 - processes and sockets give no event to wait for
        await asyncio.sleep(0.01)


def process(pid: int) -> tuple[str, int]:
    """(state, parent) of a process; one that is not there counts as a zombie."""
    try:
        state, parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]
    except OSError:
        return "Z", 0
    return state, int(parent)


def alive(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    return process(pid)[0] != "Z"


@contextmanager
def up(*options: object, **environ: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The platform as a user starts it, with the real watchdog: the process and its URL."""
    command = [*UP, *map(str, options)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=os.environ | environ) as process:
        try:
            assert process.stdout is not None
            said = takewhile(lambda line: not line.startswith("Ctrl-C"), process.stdout)
            url = {words[0]: words[1] for words in map(str.split, said)}.get("gateway", "")
            assert url, process.communicate()[1]
            yield process, url
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate()


def missing(*programs: str) -> pytest.MarkDecorator:
    """Skip unless every one of ``programs`` is on PATH."""
    absent = [name for name in programs if shutil.which(name) is None]
    return pytest.mark.skipif(bool(absent), reason=f"not on PATH: {', '.join(absent)}")
