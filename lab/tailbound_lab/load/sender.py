"""The load generator in a process of its own, as its parent sees it.

Owns the hand-over: streams go down in a plan, records come back as lines on a pipe. The process is gone when
the block ends, whatever happened. :mod:`tailbound_lab.load.openloop` is what runs in it.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from tailbound_lab.load import openloop as load
from tailbound_lab.load.openloop import Lag, Stream
from tailbound_lab.load.records import DemoError, Ledger, Record

_LINE_LIMIT = 2**24


class Sender:
    """A running generator; :func:`sending` makes one."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def begun(self) -> float:
        """Return when the traffic begins, on the monotonic clock; to be asked once, before ``read``."""
        line = await self._line()
        if not line:
            raise DemoError("the load generator did not start; its message stands above")
        return float(json.loads(line)["start"])

    async def read(self, ledgers: Sequence[Ledger]) -> Lag:
        """Put the records into their streams' ledgers until the traffic ends; return the generator's lag."""
        lag: Lag | None = None
        while line := await self._line():
            document = json.loads(line)
            for index, scheduled, latency, status in document.get("records", ()):
                ledgers[index].add(Record(scheduled, latency, status))
            if "lag" in document:
                lag = Lag(**document["lag"])
        if lag is None:
            raise DemoError("the load generator ended before its traffic did")
        return lag

    async def _line(self) -> bytes:
        return await self._process.stdout.readline() if self._process.stdout else b""


@asynccontextmanager
async def sending(streams: Sequence[Stream]) -> AsyncIterator[Sender]:
    """Run the generator on some streams for the length of the block."""
    with tempfile.TemporaryDirectory(prefix="demo-load-") as folder:
        plan = _write_plan(Path(folder), streams)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tailbound_lab.load.openloop", "--plan", str(plan)),
            stdout=asyncio.subprocess.PIPE,
            limit=_LINE_LIMIT,
        )
        try:
            yield Sender(process)
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()


def _write_plan(folder: Path, streams: Sequence[Stream]) -> Path:
    """Write the plan and the bodies that it names; return the plan's path."""
    entries: list[tuple[Stream, list[Path]]] = []
    for index, stream in enumerate(streams):
        paths: list[Path] = []
        for number, body in enumerate(stream.target.bodies):
            path = folder / f"{index}-{number}"
            path.write_bytes(body)
            paths.append(path)
        entries.append((stream, paths))
    plan = folder / "plan.json"
    plan.write_text(load.plan(entries, load.GIVE_UP_AFTER))
    return plan
