"""Offers open-loop traffic while the program does other work: for demo and tests, and as a command.

Owns the running load generator and the reading of its records. Latency counts from a request's due time, so a
stall of the server appears in every request that is due meanwhile (no coordinated omission). The command is
``python -m tailbound_lab.load.openloop --url URL --rate 100:5,500:10 --slo 100ms``.
"""

import argparse
import asyncio
import math
import struct
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from slo_autoscaler.settings.fields import parse_duration
from tailbound_lab.load.arrivals import steps
from tailbound_lab.load.generator import Stream, build, endpoint
from tailbound_lab.load.records import (
    LAYOUT,
    BenchError,
    Ledger,
    Record,
    RunError,
    Summary,
    percentile,
    summarize,
)

TIMEOUT_SECONDS = 10.0
"""Default seconds after which a request without an answer times out."""

_START = struct.Struct("<d")
_RECORD = struct.Struct(LAYOUT)
_CHUNK = 2**16


@dataclass(frozen=True, slots=True)
class Lag:
    """The generator's own lateness at sending, in seconds, which every latency includes."""

    p50: float = 0.0
    p99: float = 0.0
    p999: float = 0.0
    worst: float = 0.0


class Offer:
    """Traffic that is being offered; :func:`offering` makes one."""

    def __init__(self, process: asyncio.subprocess.Process, output: asyncio.StreamReader) -> None:
        self._process = process
        self._output = output

    def kill(self) -> None:
        """End the traffic at once."""
        if self._process.returncode is None:
            self._process.kill()

    async def begun(self) -> float:
        """Return the time at which the traffic begins, on the monotonic clock; call once, before ``read``."""
        try:
            (start,) = _START.unpack(await self._output.readexactly(_START.size))
        except asyncio.IncompleteReadError:
            raise RunError("the load generator did not start; its message stands above") from None
        return float(start)

    async def read(self, ledgers: Sequence[Ledger]) -> Lag:
        """Put the records into their streams' ledgers until the traffic ends; return the generator's lag."""
        lags: list[float] = []
        rest = b""
        while chunk := await self._output.read(_CHUNK):
            whole = len(rest + chunk) // _RECORD.size * _RECORD.size
            data, rest = (rest + chunk)[:whole], (rest + chunk)[whole:]
            for due, latency, lag, status, stream, *_ in _RECORD.iter_unpack(data):
                ledgers[stream].add(Record(due, latency, status))
                lags.append(lag)
        if await self._process.wait():
            raise RunError("the load generator ended before its traffic did; its message stands above")
        lags.sort()
        p50, p99, p999 = (percentile(lags, share) or 0.0 for share in (0.5, 0.99, 0.999))
        return Lag(p50, p99, p999, lags[-1] if lags else 0.0)


@asynccontextmanager
async def offering(
    streams: Sequence[Stream], *, timeout_seconds: float = TIMEOUT_SECONDS
) -> AsyncIterator[Offer]:
    """Offer some streams for the duration of the block.

    Raises :class:`RunError` without a C compiler, ``OSError`` for a host without an address.
    """
    try:
        generator = await asyncio.to_thread(build)
    except BenchError as error:
        raise RunError(str(error)) from None
    lines = b"".join(stream.lines() for stream in streams)
    process = await asyncio.create_subprocess_exec(
        *generator.command(timeout_seconds), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    if process.stdin is None or process.stdout is None:
        raise RunError("the load generator has no pipes")
    traffic = Offer(process, process.stdout)
    try:
        process.stdin.write(lines)
        process.stdin.close()
        yield traffic
    finally:
        traffic.kill()
        await process.wait()


async def offer(
    streams: Sequence[Stream], *, timeout_seconds: float = TIMEOUT_SECONDS
) -> tuple[list[list[Record]], Lag]:
    """Offer the streams' traffic; return each stream's records and the generator's own lag."""
    ledgers = [Ledger(stream.slo) for stream in streams]
    async with offering(streams, timeout_seconds=timeout_seconds) as traffic:
        await traffic.begun()
        lag = await traffic.read(ledgers)
    return [ledger.records for ledger in ledgers], lag


def render(summary: Summary, lag: Lag, slo: float, duration: float) -> str:
    """Return the tool's result as text."""

    def shown(seconds: float | None) -> str:
        if seconds is None:
            return "-"
        return "infinite" if math.isinf(seconds) else f"{seconds * 1e3:.1f} ms"

    attainment = "-" if summary.attainment is None else f"{summary.attainment:.4%}"
    return (
        f"requests   {summary.sent} in {duration:g} s ({summary.sent / duration:.1f}/s)\n"
        f"attainment {attainment} within {slo * 1e3:g} ms\n"
        f"outcomes   good {summary.good}, slow {summary.slow}, refused {summary.refused}, "
        f"failed {summary.failed}, lost {summary.lost}\n"
        f"latency    p50 {shown(summary.p50)}, p95 {shown(summary.p95)}, "
        f"p99 {shown(summary.p99)} (from when each was due; misses are infinite)\n"
        f"own lag    p99 {shown(lag.p99)}, worst {shown(lag.worst)}\n"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the tool; return 0 if every request was answered, 1 if some were lost, 2 if it cannot run."""
    parser = argparse.ArgumentParser(
        prog="python -m tailbound_lab.load.openloop",
        description="Offer open-loop Poisson traffic to one URL and say how it was answered.",
    )
    add = parser.add_argument
    add("--url", required=True, help="where to POST, as http://127.0.0.1:8080/function/tabular")
    add("--rate", default="100:5", metavar="RATE:SECONDS[,...]", help="rates in turn (default: %(default)s)")
    add("--slo", default="100ms", help="answers later than this are misses (default: %(default)s)")
    add("--body", metavar="FILE", help="file whose bytes are the body (default: an empty body)")
    add("--content-type", default="application/json", help="of the body (default: %(default)s)")
    options = parser.parse_args(arguments)
    try:
        body = Path(options.body).read_bytes() if options.body else b""
        there = endpoint(options.url, (body,), (("Content-Type", options.content_type),))
        stream = Stream(there, steps(options.rate), slo=parse_duration(options.slo))
        (records,), lag = asyncio.run(offer([stream]))
    except (ValueError, OSError, RunError) as error:
        # ShapeError is a ValueError; all name the argument and the rule.
        parser.exit(2, f"{parser.prog}: {error}\n")
    except KeyboardInterrupt:
        return 130
    summary = summarize(records, stream.slo)
    sys.stdout.write(render(summary, lag, stream.slo, stream.profile.duration))
    return 1 if summary.lost else 0


if __name__ == "__main__":
    sys.exit(main())
