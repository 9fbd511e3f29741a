"""Sends requests from a pod of the cluster, at rates that change; needs no package.

    python -c SOURCE URL RATE:SECONDS,...

Each second's line has the latencies in milliseconds of the requests sent in it. In place of a latency it has
minus the status of another answer than 200, -1 without an answer in time and -2 for a broken connection. Each
request has a connection of its own, so that a Service spreads them over new replicas.
"""

import asyncio
import json
import random
import sys
import time
import urllib.parse

BODY = b'{"prompt": "' + b"simulated " * 18 + b'"}'
PATIENCE = 10.0


async def send(host: str, port: int, request: bytes) -> int:
    """Return the status of the answer, 1 without one in time, 2 for a broken connection."""
    try:
        async with asyncio.timeout(PATIENCE):
            reader, writer = await asyncio.open_connection(host, port)
            writer.write(request)
            status = int((await reader.readline()).split()[1])
            await reader.read()
            writer.close()
            return status
    except TimeoutError:
        return 1
    except (OSError, IndexError):
        return 2


async def main(url: str, phases: str) -> None:
    """Send, and write a line for each second once all requests have ended."""
    at = urllib.parse.urlsplit(url)
    lines = [f"POST {at.path or '/'} HTTP/1.1", f"Host: {at.netloc}", "Connection: close"]
    request = "\r\n".join([*lines, f"Content-Length: {len(BODY)}", "", ""]).encode() + BODY
    begin = time.monotonic()

    async def one() -> int:
        sent = time.monotonic()
        status = await send(at.hostname or "", at.port or 80, request)
        return round((time.monotonic() - sent) * 1000) if status == 200 else -status

    seconds: dict[int, list[asyncio.Task[int]]] = {}
    draw = random.Random(1)  # the same arrivals under each scaler
    due = ends = 0.0
    for phase in phases.split(","):
        rate, length = map(float, phase.split(":"))
        ends += length
        while (due := due + draw.expovariate(rate)) < ends:
            await asyncio.sleep(max(0.0, begin + due - time.monotonic()))
            seconds.setdefault(int(due), []).append(asyncio.create_task(one()))
        due = ends
    for second, sent in seconds.items():
        sys.stdout.write(f"{json.dumps([second, await asyncio.gather(*sent)])}\n")


asyncio.run(main(*sys.argv[1:]))
