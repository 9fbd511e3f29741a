"""BentoML: N worker processes, an asynchronous generator for each stream. It has no batches of streams."""

import asyncio
import json
import os
from collections.abc import AsyncGenerator
from types import SimpleNamespace

import bentoml

from tailbound_lab.bench.workloads.stream import handler

WORKERS = int(os.environ["BENCH_WORKERS"])


@bentoml.service(workers=WORKERS, traffic={"timeout": 60})
class Generate:
    """The model as a service."""

    def __init__(self) -> None:
        self.device = asyncio.Lock()

    @bentoml.api(route="/")  # type: ignore[untyped-decorator] # its environment has no types for this one
    async def generate(self, body: str) -> AsyncGenerator[str, None]:
        """One stream; the steps of several take turns on the device."""
        states, done = handler.start([SimpleNamespace(body=body.encode())], None), False
        while not done:
            async with self.device:
                ((piece, done),) = await asyncio.to_thread(handler.step, states, None)
            yield f"data: {json.dumps(piece)}\n\n"
