"""The status page's listener: a Flask application in threads of its own."""

from collections.abc import Callable

from slo_autoscaler.show.web import Plan
from slo_autoscaler.show.web.listener import Decisions
from slo_autoscaler.show.web.reader import Reader
from slo_autoscaler.show.web.server import Server
from slo_autoscaler.show.web.views import create_app


class Page:
    """The page; serves between ``start`` and ``stop``."""

    def __init__(self, config: Plan, decided: Decisions, alive: Callable[[], bool]) -> None:
        """Bind. Raises ``ConfigError`` if the address is not available."""
        self._reader = Reader(config.prometheus)
        host, app = config.web.page_host, create_app(config, decided, alive, self._reader)
        self._server = Server("page", app, host, config.web.page_port or 0)
        self.url = f"http://{self._server.address}"

    def start(self) -> None:
        """Start serving in threads of its own."""
        self._server.start()

    def stop(self) -> None:
        """Stop serving and release the port."""
        self._server.stop()
        self._reader.close()
