"""Everything that can be killed is killed under traffic: workers, replicas, Prometheus, the autoscaler."""

import asyncio
import contextlib
import os
import shutil
import signal
from pathlib import Path

import pytest

from lab.local.harness import until
from tailbound_lab.load.arrivals import steps
from tailbound_lab.load.generator import Stream, endpoint
from tailbound_lab.load.openloop import offer
from tailbound_lab.local.functions import Function
from tailbound_lab.local.platform import Platform, Settings, open_platform

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(500),
    pytest.mark.skipif(shutil.which("prometheus") is None, reason="needs Prometheus: make install"),
]

# One request at a time for 20 ms: a replica can do 50/s, so 60/s need a second one.
HANDLER = """
import time

def handle(event, context):
    time.sleep(0.02)
    return event.body
"""
RATE, SECONDS = 60, 3
GIVE_UP_SECONDS = 60.0


def kill(pid: int | None) -> None:
    if pid is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def children(pid: int) -> list[int]:
    """Process ids below ``pid``, nearest first."""
    nearest = [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return nearest + [below for child in nearest for below in children(child)]


def test_request_is_answered_and_nothing_scales_down_whatever_is_killed(tmp_path):
    (tmp_path / "fn").mkdir()
    (tmp_path / "fn" / "handler.py").write_text(HANDLER)
    (tmp_path / "stack.yml").write_text(
        "functions: {slow: {handler: fn, image: slow, "
        "environment: {workers: 1, slo_latency: 400ms, exec_timeout: 100s}}}"
    )
    settings = Settings(stack=tmp_path / "stack.yml", port=0, prometheus_port=0, run_dir=tmp_path / "run")

    async def run() -> None:
        async with open_platform(settings) as platform:
            await platform.settled()
            (function,) = platform.registry
            there = endpoint(f"{platform.gateway_url}/function/slow", (b"x",))

            async def statuses() -> list[int]:
                stream = Stream(there, steps(f"{RATE}:{SECONDS}"), 1)
                (records,), _ = await offer([stream], timeout_seconds=GIVE_UP_SECONDS)
                return [record.status for record in records]

            kills = asyncio.create_task(wreak(platform, function))
            while not kills.done():
                # A 502 is an answer where the replica was killed; no answer at all is what must not be.
                assert set(await statuses()) <= {200, 502}
            await kills
            assert set(await statuses()) == {200}

    asyncio.run(run())


async def wreak(platform: Platform, function: Function) -> None:
    assert platform.prometheus is not None
    assert platform.autoscaler is not None
    await until(lambda: function.available >= 2)

    worker = children(function.replicas[0].pid or 0)[-1]
    kill(worker)
    await asyncio.sleep(2)

    kill(function.replicas[0].pid)
    await asyncio.sleep(0.1)
    await until(lambda: function.available == function.desired)

    # As long as Prometheus is away nothing may be scaled down, though its last words may still scale up.
    lowest = function.desired
    for _ in range(20):
        kill(platform.prometheus.pid)
        await asyncio.sleep(0.15)
        assert function.desired >= lowest
        lowest = function.desired

    starts = platform.autoscaler.starts
    kill(platform.autoscaler.pid)
    await until(lambda: platform.autoscaler is not None and platform.autoscaler.starts > starts)
    await asyncio.sleep(3)
    assert function.desired >= 2
