"""Runs the open-loop generator in its own process, so that generator and platform do not delay each other.

Owns both ends of the exchange: streams go down as a pickle on standard input, records return as lines of
JSON. The process ends with the block in every case. It runs :mod:`tailbound_lab.load.openloop`.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import pickle
import signal
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict

import uvloop

from tailbound_lab.load.openloop import Generator, Lag, Stream
from tailbound_lab.load.records import Ledger, Record, RunError

_LINE_LIMIT = 2**24
_FLUSH_INTERVAL = 0.2
_START_DELAY = 0.2
_NICENESS = -10


class Sender:
    """A running generator; :func:`sending` makes one."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def begun(self) -> float:
        """Return the time at which the traffic begins, on the monotonic clock; call once, before ``read``."""
        line = await self._line()
        if not line:
            raise RunError("the load generator did not start; its message stands above")
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
            raise RunError("the load generator ended before its traffic did")
        return lag

    async def _line(self) -> bytes:
        return await self._process.stdout.readline() if self._process.stdout else b""


@asynccontextmanager
async def sending(streams: Sequence[Stream]) -> AsyncIterator[Sender]:
    """Run the generator on some streams for the duration of the block."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", "from tailbound_lab.load.sender import child; child()"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=_LINE_LIMIT,
    )
    try:
        if process.stdin is not None:
            process.stdin.write(pickle.dumps(streams))
            process.stdin.close()
        yield Sender(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def child() -> None:
    """Offer the streams from standard input: the main function of the process."""
    # Ctrl-C in a terminal is for the parent alone, which ends this process. A session of its own would do so
    # too, but there the scheduler weighs its niceness against nothing.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    streams: Sequence[Stream] = pickle.load(sys.stdin.buffer)
    gc.freeze()
    uvloop.run(_generate(streams))


class _Lines:
    """Collects records and writes them as JSON lines a few times a second."""

    def __init__(self) -> None:
        self._pending: list[tuple[int, float, float, int]] = []

    def add(self, stream: int, record: Record) -> None:
        self._pending.append((stream, round(record.scheduled, 6), round(record.latency, 6), record.status))

    def flush(self) -> None:
        if self._pending:
            self.write({"records": self._pending})
            self._pending = []

    @staticmethod
    def write(line: dict[str, object]) -> None:
        sys.stdout.write(json.dumps(line, separators=(",", ":")) + "\n")
        sys.stdout.flush()

    async def keep_flushing(self) -> None:
        while True:
            await asyncio.sleep(_FLUSH_INTERVAL)
            self.flush()


async def _generate(streams: Sequence[Stream]) -> None:
    # The measuring instrument goes before what it measures, where the user may order that.
    with contextlib.suppress(PermissionError):
        os.nice(_NICENESS)
    lines = _Lines()
    generator = Generator(streams, lines.add)
    start = asyncio.get_running_loop().time() + _START_DELAY
    # The machine's monotonic clock, so that the parent can place the start in its own time.
    lines.write({"start": start + time.monotonic() - asyncio.get_running_loop().time()})
    flushing = asyncio.create_task(lines.keep_flushing(), name="flush")
    running = asyncio.create_task(generator.run(start), name="generate")
    await asyncio.wait((flushing, running), return_when=asyncio.FIRST_COMPLETED)
    if flushing.done():  # The reader has gone: there is nobody left to generate for.
        running.cancel()
        await asyncio.gather(running, flushing, return_exceptions=True)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return
    flushing.cancel()
    await asyncio.gather(flushing, return_exceptions=True)
    lag = running.result()
    lines.flush()
    lines.write({"lag": asdict(lag)})
