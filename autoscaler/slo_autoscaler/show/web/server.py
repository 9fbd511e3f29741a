"""Serves a WSGI application by waitress, in a bounded number of threads and connections.

Owns sockets, limits, start and stop. Threads see whole requests only: a slow client holds a connection, which
makes room for a new one.
"""

import logging
import socket
import threading
from collections.abc import Callable, Iterable
from typing import Any, Final

from waitress import wasyncore
from waitress.channel import HTTPChannel
from waitress.server import create_server

from slo_autoscaler.errors import ConfigError
from slo_autoscaler.settings.fields import host_and_port

Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]
"""WSGI's."""

THREADS: Final = 4
"""Number of parallel requests."""

CONNECTIONS: Final = 100
"""Connections without a whole request; a further one replaces the oldest."""

MOST_HEADERS: Final = 16 * 1024
"""Maximum bytes of a request's header."""

MOST_READ: Final = 64 * 1024
"""Maximum bytes of a request's body."""

MOST_WRITTEN: Final = 256 * 1024 * 1024
"""Bytes of an answer kept in memory: the file system that waitress would use may be read-only."""

CLIENT_TIMEOUT: Final = 30
"""Seconds after which a silent client is disconnected."""

STOPPING: Final = 2.0
"""Seconds that a stop waits for requests under way."""


class Server:
    """A listener; serves between ``start`` and ``stop``."""

    def __init__(self, name: str, app: Application, host: str, port: int) -> None:
        """Bind. Raises ``ConfigError`` if the address is not available. ``name`` is the thread's."""
        # waitress logs each request that waits for a thread: a client could fill the log.
        logging.getLogger("waitress.queue").setLevel(logging.ERROR)
        listening = listen(host, port)
        self.port = int(listening.getsockname()[1])
        self.address = host_and_port(host, self.port)
        self._sockets: dict[int, Any] = {}
        self._server = create_server(
            app,
            map=self._sockets,
            sockets=[listening],
            threads=THREADS,
            connection_limit=2 * CONNECTIONS,  # those with a request, too
            channel_timeout=CLIENT_TIMEOUT,
            max_request_header_size=MOST_HEADERS,
            max_request_body_size=MOST_READ,
            outbuf_overflow=MOST_WRITTEN,
            outbuf_high_watermark=MOST_WRITTEN,
            ident=None,
        )
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Start serving in threads of its own."""
        self._thread.start()

    def stop(self) -> None:
        """Stop serving and release the port."""
        if self._thread.is_alive():
            # The loop owns the connections, so the loop closes them.
            self._server.trigger.pull_trigger(self._leave)
            self._thread.join(STOPPING)
        self._server.task_dispatcher.shutdown(timeout=STOPPING)
        # Last, because every thread with an answer writes to the trigger.
        self._server.close()

    def _run(self) -> None:
        while self._sockets:
            wasyncore.loop(1.0, use_poll=True, map=self._sockets, count=1)
            silent = [
                channel
                for channel in self._sockets.values()
                if isinstance(channel, HTTPChannel) and not channel.requests
            ]
            if len(silent) > CONNECTIONS:
                silent[0].handle_close()

    def _leave(self) -> None:
        """Close every connection; the loop ends when it has none left."""
        kept = (self._server, self._server.trigger)
        for each in list(self._sockets.values()):
            if each not in kept:
                each.handle_close()
        self._sockets.clear()


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket; ``::`` hears IPv4 as well, and that alone where there is no IPv6.

    Raises ``ConfigError``.
    """
    if host == "::" and not socket.has_dualstack_ipv6():
        host = "0.0.0.0"  # noqa: S104 - what the configuration asks for
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        return socket.create_server(address[:2], family=family, dualstack_ipv6=host == "::")
    except OSError as error:
        raise ConfigError([f"web: cannot listen on {host}:{port}: {error.strerror or error}"]) from None
