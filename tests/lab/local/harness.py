"""Runs the platform in-process on the stand-in watchdog, with real processes and sockets."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from tailbound_lab.local.platform import Platform, Settings, open_platform

STANDIN = (sys.executable, str(Path(__file__).with_name("standin.py")))


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
    image: str = "echo:latest"
    defaults: dict[str, Any] = field(default_factory=dict)

    async def call(self, method: str, path: str, **options: Any) -> Answer:
        url = self.platform.gateway_url + path
        async with self.session.request(
            method, url, allow_redirects=False, **{**self.defaults, **options}
        ) as answer:
            return Answer(answer.status, answer.headers, await answer.read())

    async def deploy(self, name: str = "echo", *, ready: bool = True, **body: Any) -> None:
        answer = await self.call(
            "POST", "/system/functions", json={"service": name, "image": self.image, **body}
        )
        assert answer.status == 202, answer.text
        if ready:
            await self.platform.settled()

    async def read(self, name: str = "echo") -> Any:
        return (await self.call("GET", f"/system/function/{name}")).json()


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
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20)) as session,
    ):
        yield Client(platform, session)


def with_platform(folder: Path, scenario: Callable[[Client], Awaitable[None]], **settings: Any) -> None:
    """Run ``scenario`` against a fresh platform."""

    async def run() -> None:
        async with asyncio.timeout(30), platform_client(folder, **settings) as client:
            await scenario(client)

    asyncio.run(run())


def samples(exposition: bytes) -> dict[tuple[Any, ...], float]:
    """The values of an exposition by name and (label, value) pairs."""
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(exposition.decode())
        for sample in family.samples
    }


async def until(condition: Callable[[], Any]) -> None:
    """Return when ``condition()`` holds; the test's own timeout is the limit."""
    while not condition():  # noqa: ASYNC110 - processes and sockets give no event to wait for
        await asyncio.sleep(0.01)
