"""Sends requests at a rate from within the cluster and writes how many had which answer. Needs no package.

Each has a connection of its own, so that a Service spreads them over new replicas.
"""

import asyncio
import collections
import json
import random
import sys
import urllib.parse


async def send(host, port, request, counts):
    try:
        async with asyncio.timeout(10):
            reader, writer = await asyncio.open_connection(host, port)
            writer.write(request)
            counts[(await reader.readline()).split()[1].decode()] += 1
            writer.close()
    except (OSError, IndexError, TimeoutError) as error:
        counts[type(error).__name__] += 1


async def main(url, rate, seconds):
    at = urllib.parse.urlsplit(url)
    body = b'{"prompt": "' + b"simulated " * 18 + b'"}'
    lines = [f"POST {at.path or '/'} HTTP/1.1", f"Host: {at.netloc}", "Connection: close"]
    head = "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""])
    counts, tasks, loop = collections.Counter(), set(), asyncio.get_running_loop()
    due = loop.time()
    end = due + float(seconds)
    while due < end:
        task = loop.create_task(send(at.hostname, at.port or 80, head.encode() + body, counts))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        due += random.expovariate(float(rate))
        await asyncio.sleep(max(0.0, due - loop.time()))
    await asyncio.gather(*tasks)
    sys.stdout.write(json.dumps(counts))


asyncio.run(main(*sys.argv[1:]))
