"""A stand-in for the watchdog: honors ``port``, ``metrics_port`` and SIGTERM, and can misbehave when asked.

Starts in some tens of milliseconds. It waits for files, so a test decides when.
"""

import asyncio
import json
import os
import signal
import sys
from pathlib import Path


async def read_request(reader):
    head = await reader.readuntil(b"\r\n\r\n")
    first, *lines = head.decode().removesuffix("\r\n\r\n").split("\r\n")
    method, target, _ = first.split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    if "transfer-encoding" in headers:
        while size := int(await reader.readline(), 16):
            body += await reader.readexactly(size)
            await reader.readline()
        await reader.readline()
    return method, target, headers, body


def there(path):
    return Path(path).exists()


async def until_there(path):
    while not there(path):  # noqa: ASYNC110 - a file gives no event
        await asyncio.sleep(0.01)


async def serve(reader, writer):
    try:
        while True:
            await answer(writer, *await read_request(reader))
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


def reply(writer, status, body, *extra, head=False):
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *extra, "", ""]
    writer.write("\r\n".join(lines).encode() + (b"" if head else body))


async def answer(writer, method, target, headers, body):
    path, _, query = target.partition("?")
    if path == "/_/health":
        reply(writer, "200 OK", b"OK")
    elif path == "/_/ready":
        ready = there(os.environ.get("ready_file", "/"))
        if not ready:
            print("not ready", flush=True)  # noqa: T201 - a log is what its output is
        reply(writer, "200 OK" if ready else "503 No", b"")
    elif path == "/wait":
        await until_there(query)
        reply(writer, "200 OK", os.environ["HOSTNAME"].encode())
    elif path == "/echo":
        reply(writer, "200 OK", body, "Content-Type: application/octet-stream", "X-Own: 1")
    elif path == "/pieces":  # the second one once the file is there
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n")
        await until_there(query)
        writer.write(b"6\r\nsecond\r\n0\r\n\r\n")
    elif path == "/drop-first" and not there(query):
        os.mknod(query)
        writer.close()
    elif path == "/status":
        reply(writer, f"{query} Whatever", b"answer", "Connection: keep-alive, X-Private", "X-Private: 1")
    else:
        seen = {
            "method": method,
            "target": target,
            "headers": headers,
            "body": body.decode(errors="replace"),
            "replica": os.environ["HOSTNAME"],
            "environ": dict(os.environ),
            "pid": os.getpid(),
        }
        kind = "Content-Type: application/json"
        reply(writer, "200 OK", json.dumps(seen).encode(), kind, head=method == "HEAD")


async def main():
    if "crash_on_start" in os.environ:
        sys.exit("cannot start: told to crash")
    stop = asyncio.Event()
    on_term = (lambda: None) if "ignore_sigterm" in os.environ else stop.set
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, on_term)
    for port in (os.environ["port"], os.environ["metrics_port"]):
        await asyncio.start_server(serve, "127.0.0.1", int(port))
    await stop.wait()


asyncio.run(main())
