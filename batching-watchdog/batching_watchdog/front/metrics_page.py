"""Serves the metrics port: only /metrics. Used by ``app``."""

from typing import Final

from batching_watchdog.errors import WatchdogError
from batching_watchdog.front.endings import TEXT, error_head
from batching_watchdog.front.exchange import Exchange
from batching_watchdog.observe.metrics import Exposition

READ_ONLY: Final = TEXT + b"Allow: GET, HEAD\r\n"
ACCEPT: Final = b"accept"


class MetricsPage:
    """The application on the metrics port: only /metrics."""

    captured_headers = frozenset((ACCEPT,))
    always_served = frozenset((b"/metrics",))

    def __init__(self, exposition: Exposition) -> None:
        self._exposition = exposition

    def share(self, exchange: Exchange) -> float:
        """Return 1: all requests are alike."""
        return 1.0

    def refuse(self, exchange: Exchange) -> WatchdogError | None:
        """Return None: no request is refused at the header."""
        return None

    def handle(self, exchange: Exchange) -> None:
        """Serve /metrics."""
        if exchange.path != b"/metrics":
            exchange.respond(404, TEXT, b"/metrics is here, the function is on its own port\n")
        elif exchange.method not in (b"GET", b"HEAD"):
            exchange.respond(405, READ_ONLY, b"")
        else:
            accept = exchange.captured_headers.get(ACCEPT, b"").decode("latin-1")
            text, content_type = self._exposition.scrape(accept)
            exchange.respond(200, f"Content-Type: {content_type}\r\n".encode(), text)

    def answer_error(self, exchange: Exchange, error: WatchdogError) -> None:
        """Respond with an error of the protocol."""
        exchange.respond(error.status, error_head(error), f"{error}\n".encode())
