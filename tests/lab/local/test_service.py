"""A program beside the functions, through its life."""

import asyncio
import os
import sys

from tailbound_lab.local.ports import free_ports
from tailbound_lab.local.services import Service
from tailbound_lab.local.supervisor import Launch


def test_a_service_that_was_stopped_is_waited_for_again_when_it_is_started_again(tmp_path):
    (port,) = free_ports(1)
    command = (sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1")
    service = Service(
        "web",
        lambda: Launch(command, os.environ, cwd=tmp_path),
        tmp_path / "web.log",
        f"http://127.0.0.1:{port}/",
    )

    async def run():
        async with asyncio.timeout(20):
            for starts in (1, 2):
                await service.start(10.0)
                assert (service.pid is None, service.starts) == (False, starts)
                await service.stop(0.0)
                assert service.pid is None

    asyncio.run(run())
