"""Sends requests from a pod of the cluster, at rates that change; needs no package.

    python -c SOURCE URL RATE:SECONDS,...

Each second's line has the latencies in milliseconds of the requests sent in it, -1 for one without a good
answer. Each request has a connection of its own, so that a Service spreads them over new replicas.
"""

import asyncio
import json
import random
import sys
import time
import urllib.parse

BODY = b'{"prompt": "' + b"simulated " * 18 + b'"}'
PATIENCE = 10.0


async def send(host: str, port: int, request: bytes) -> bool:
    """Return whether the answer was 200."""
    try:
        async with asyncio.timeout(PATIENCE):
            reader, writer = await asyncio.open_connection(host, port)
            writer.write(request)
            status = (await reader.readline()).split()[1:2]
            await reader.read()
            writer.close()
            return status == [b"200"]
    except (OSError, TimeoutError):
        return False


async def main(url: str, phases: str) -> None:
    """Send, and write a line for each second whose requests have all ended."""
    at = urllib.parse.urlsplit(url)
    lines = [f"POST {at.path or '/'} HTTP/1.1", f"Host: {at.hostname}", "Connection: close"]
    request = "\r\n".join([*lines, f"Content-Length: {len(BODY)}", "", ""]).encode() + BODY
    begin = time.monotonic()
    seconds: dict[int, list[asyncio.Task[int]]] = {}

    async def one() -> int:
        sent = time.monotonic()
        good = await send(at.hostname or "", at.port or 80, request)
        return round((time.monotonic() - sent) * 1000) if good else -1

    async def tell(second: int) -> None:
        found = await asyncio.gather(*seconds.pop(second, []))
        sys.stdout.write(json.dumps([second, found]) + "\n")
        sys.stdout.flush()

    due, told, ends = 0.0, [], 0.0
    draw = random.Random(1)  # the same arrivals under each scaler
    for phase in phases.split(","):
        rate, length = map(float, phase.split(":"))
        ends += length
        while (due := due + draw.expovariate(rate)) < ends:
            await asyncio.sleep(max(0.0, begin + due - time.monotonic()))
            seconds.setdefault(int(due), []).append(asyncio.create_task(one()))
            told += [asyncio.create_task(tell(each)) for each in list(seconds) if each < int(due) - PATIENCE]
            told = [each for each in told if not each.done()]
        due = ends
    await asyncio.gather(*told, *map(tell, list(seconds)))


asyncio.run(main(*sys.argv[1:]))
