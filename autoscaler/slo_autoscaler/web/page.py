"""The status page's listener: a Flask application under waitress, in threads of its own.

Owns the socket, and the page's start and stop.
"""

import socket
import threading
from collections.abc import Callable
from typing import Any, Final

from waitress.server import create_server

from slo_autoscaler.errors import ConfigError
from slo_autoscaler.web import Plan
from slo_autoscaler.web.listener import Decisions
from slo_autoscaler.web.reader import Reader
from slo_autoscaler.web.views import create_app

THREADS: Final = 4
"""Requests at a time."""

CONNECTIONS: Final = 100

MOST_READ: Final = 64 * 1024
"""Bytes of a request's body that are read at all."""

MOST_WRITTEN: Final = 256 * 1024 * 1024
"""Bytes of an answer that are held in memory: the file that waitress would take may not be writable."""

CLIENT_TIMEOUT: Final = 30
"""Seconds that a silent client may keep a connection."""

STOPPING: Final = 2.0
"""Seconds that requests under way have to end."""


class Page:
    """The page; serves between ``start`` and ``stop``."""

    def __init__(self, config: Plan, decided: Decisions, alive: Callable[[], bool]) -> None:
        """Bind. Raises ``ConfigError`` when the address cannot be had."""
        web = config.web
        listening = _listen(web.page_host, web.page_port or 0)
        self.url = _url(web.page_host, listening.getsockname()[1])
        self._reader = Reader(config.prometheus)
        self._sockets: dict[int, Any] = {}
        self._server = create_server(
            create_app(config, decided, alive, self._reader),
            map=self._sockets,
            sockets=[listening],
            threads=THREADS,
            connection_limit=CONNECTIONS,
            channel_timeout=CLIENT_TIMEOUT,
            max_request_body_size=MOST_READ,
            outbuf_overflow=MOST_WRITTEN,
            outbuf_high_watermark=MOST_WRITTEN,
            ident=None,
        )
        self._thread = threading.Thread(target=self._server.run, name="page", daemon=True)

    def start(self) -> None:
        """Serve in threads of its own."""
        self._thread.start()

    def stop(self) -> None:
        """Stop serving and give the port back."""
        if self._thread.is_alive():
            # The loop owns the connections, so it is the loop that closes them.
            self._server.trigger.pull_trigger(self._leave)
            self._thread.join(STOPPING)
        self._server.task_dispatcher.shutdown(timeout=STOPPING)
        # Last, as whoever has an answer writes to the trigger.
        self._server.close()
        self._reader.close()

    def _leave(self) -> None:
        """Close every connection and end the loop, which goes on as long as it has something to look at."""
        kept = (self._server, self._server.trigger)
        for each in list(self._sockets.values()):
            if each not in kept:
                each.handle_close()
        self._sockets.clear()


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        return socket.create_server(address[:2], family=family)
    except OSError as error:
        raise ConfigError([f"web: cannot listen on {host}:{port}: {error.strerror or error}"]) from None


def _url(host: str, port: int) -> str:
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"
