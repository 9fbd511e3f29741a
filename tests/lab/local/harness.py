"""Runs the platform in-process on the stand-in watchdog, with real processes and sockets."""

import asyncio
import functools
import inspect
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from tailbound_lab.local.functions import Function
from tailbound_lab.local.platform import Platform, Settings, open_platform

STANDIN = (sys.executable, str(Path(__file__).with_name("standin.py")))
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
    defaults: dict[str, Any] = field(default_factory=dict)

    @property
    def function(self) -> Function:
        """The only function."""
        (function,) = self.platform.registry
        return function

    async def call(self, method: str, path: str, **options: Any) -> Answer:
        url = self.platform.gateway_url + path
        async with self.session.request(
            method, url, allow_redirects=False, **{**self.defaults, **options}
        ) as answer:
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
        found = (await self.call("GET", "/system/function/echo")).json()
        return found["replicas"], found["availableReplicas"]

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

    def decorate(scenario: Callable[..., Awaitable[None]]) -> Callable[..., None]:
        @functools.wraps(scenario)
        def test(tmp_path: Path, **given: Any) -> None:
            async def run() -> None:
                async with asyncio.timeout(55), platform_client(tmp_path, **settings) as client:
                    await scenario(client, **given)

            asyncio.run(run())

        _, *rest = inspect.signature(scenario).parameters.values()
        folder = inspect.Parameter("tmp_path", inspect.Parameter.POSITIONAL_OR_KEYWORD)
        test.__signature__ = inspect.Signature([folder, *rest])  # type: ignore[attr-defined]
        return test

    return decorate


async def until(condition: Callable[[], Any]) -> None:
    """Return when ``condition()`` holds; the test's own timeout is the limit."""
    while not condition():  # noqa: ASYNC110 - processes and sockets give no event to wait for
        await asyncio.sleep(0.01)


def alive(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
