"""Serves only /healthz, so that no client can block the kubelet's probe.

Silent clients can occupy all connections of a listener with a limit, and the kubelet would restart a healthy
pod. Here a new connection replaces the oldest, so a probe is always answered. An asyncio loop needs no thread
per connection.
"""

import asyncio
import threading
from collections.abc import Callable
from typing import Final

from slo_autoscaler.show.web.server import listen

PATH: Final = "/healthz"

CONNECTIONS: Final = 64

SECONDS: Final = 5.0
"""Time limit of a connection, in seconds."""

MOST_HEADERS: Final = 8 * 1024
"""Maximum bytes of a request's header."""


class Probes:
    """The listener; serves between ``start`` and ``stop``."""

    def __init__(self, host: str, port: int, alive: Callable[[], bool]) -> None:
        """Bind. Raises ``ConfigError`` if the address is not available."""
        self._socket = listen(host, port)
        self.port = int(self._socket.getsockname()[1])
        self._alive = alive
        self._open: dict[asyncio.Task[None], None] = {}
        """Connections, the oldest first."""
        self._loop, self._ended = asyncio.new_event_loop(), asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="probes", daemon=True)

    def start(self) -> None:
        """Start serving in a thread of its own."""
        self._thread.start()

    def stop(self) -> None:
        """Stop serving and release the port."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._ended.set)
            self._thread.join()
        self._socket.close()
        self._loop.close()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._listen())

    async def _listen(self) -> None:
        server = await asyncio.start_server(self._serve, sock=self._socket, limit=MOST_HEADERS)
        await self._ended.wait()
        server.close()  # connections under way are cancelled with the loop

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None:
            return
        self._open[task] = None
        if len(self._open) > CONNECTIONS:
            next(iter(self._open)).cancel()
        try:
            async with asyncio.timeout(SECONDS):
                head = await reader.readuntil(b"\r\n\r\n")
                writer.write(self._answer(head))
                await writer.drain()
        except (OSError, EOFError, TimeoutError, asyncio.LimitOverrunError, asyncio.CancelledError):
            writer.transport.abort()  # the client left, was silent, sent too much, or is replaced
        finally:
            self._open.pop(task, None)
            writer.close()

    def _answer(self, head: bytes) -> bytes:
        method, _, rest = head.decode("latin-1").partition(" ")
        path = rest.partition(" ")[0].partition("?")[0]
        if method not in ("GET", "HEAD"):
            return _response("405 Method Not Allowed", "GET\n", method, "Allow: GET, HEAD\r\n")
        if path != PATH:
            return _response("404 Not Found", f"{PATH}\n", method)
        status, text = verdict(alive=self._alive())
        return _response(status, text, method)


def verdict(*, alive: bool) -> tuple[str, str]:
    """Return status line and text of /healthz."""
    if alive:
        return "200 OK", "ok\n"
    return "503 Service Unavailable", "no function was decided for several intervals\n"


def _response(status: str, text: str, method: str, headers: str = "") -> bytes:
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {len(text)}\r\n"
        f"{headers}Connection: close\r\n\r\n"
    )
    return (head + ("" if method == "HEAD" else text)).encode()
