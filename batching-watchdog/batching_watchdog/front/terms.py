"""Reads from a request's headers what it asks for: its class, its times, its batch key.

Owns X-SLO-Class, X-Deadline-Ms, X-Timeout, X-Start-Time and X-Batch-Key. A value that cannot be true counts
as absent. Used by ``routes``.
"""

import time
from collections.abc import Callable
from math import inf
from typing import Final

from batching_watchdog.config import Config, parse_duration
from batching_watchdog.front.exchange import Exchange
from batching_watchdog.function.messages import DEFAULT_CLASS

TIMEOUT: Final = b"x-timeout"
START_TIME: Final = b"x-start-time"
BATCH_KEY: Final = b"x-batch-key"
SLO_CLASS: Final = b"x-slo-class"
DEADLINE_MS: Final = b"x-deadline-ms"
BEST_EFFORT_SHARE: Final = 0.5
"""Share of max_queued_bytes that requests of best effort may fill: the rest is left to others."""
MAX_START_TIME_DIGITS: Final = 20
MAX_UPSTREAM_SECONDS: Final = 5.0
"""Maximum age of X-Start-Time in seconds: an older one is from another clock, or was queued on purpose."""


class Terms:
    """The terms of requests under one configuration."""

    def __init__(self, config: Config, clock: Callable[[], float]) -> None:
        self.headers = frozenset((TIMEOUT, BATCH_KEY, DEADLINE_MS))
        """The headers that are read."""
        if config.trust_start_time:
            self.headers |= {START_TIME}
        self._config = config
        self._clock = clock
        self._class_names: dict[bytes, str] = {}
        """Classes by the value of X-SLO-Class. Empty without declared classes: then the header is ignored."""
        if len(config.slos) > 1:
            self.headers |= {SLO_CLASS}
            self._class_names = {name.encode(): name for name in config.slos}
        self.class_lines = {name: b"X-SLO-Class: %b\r\n" % text for text, name in self._class_names.items()}
        """Header lines of answers by class. Empty if none are declared: then logs and spans tell none."""
        self._grouped = (b"", b"")
        self._last_group = (b"", b"")

    def share(self, exchange: Exchange) -> float:
        """Return the share of max_queued_bytes that this request may help to fill."""
        slo = self._config.slos[self.slo_class(exchange)]
        return BEST_EFFORT_SHARE if slo.latency == inf else 1.0

    def slo_class(self, exchange: Exchange) -> str:
        """Return the class that a request names; ``DEFAULT_CLASS`` without one, or for an undeclared name.

        An undeclared name is no error: removing a class must not break clients that still name it. Answer,
        log and metrics show the class of the request.
        """
        name = exchange.captured_headers.get(SLO_CLASS)
        return DEFAULT_CLASS if name is None else self._class_names.get(name, DEFAULT_CLASS)

    def times(self, exchange: Exchange, slo_class: str) -> tuple[float, float, float]:
        """Return from the header: end of the class's budget, expiry, and when the client wants the answer."""
        budget, timeout, spent = self._config.slos[slo_class].latency, self._config.exec_timeout, 0.0
        arrived, captured, class_budget = exchange.arrived, exchange.captured_headers, budget
        if captured:
            if DEADLINE_MS in captured:
                budget = _tighter(captured[DEADLINE_MS], budget)
            if TIMEOUT in captured:
                timeout = _shorter(captured[TIMEOUT], timeout)
                budget = min(budget, timeout)
            if START_TIME in captured:
                # Time before the first byte arrived; the transfer after it does not count.
                began = time.time() - (self._clock() - exchange.began)
                spent = _spent(captured[START_TIME], began, timeout)
        if class_budget == inf:
            return inf, arrived + timeout, inf
        arrived_upstream = arrived - spent
        return arrived_upstream + class_budget, arrived + timeout, arrived_upstream + budget

    def group(self, exchange: Exchange) -> tuple[bytes, bytes]:
        """Return (batch key, method and path), cached because most requests repeat the previous one."""
        key = (exchange.method, exchange.target)
        if key != self._grouped:
            self._grouped, self._last_group = key, (b"", b"%b %b" % (exchange.method, exchange.path))
        if BATCH_KEY in exchange.captured_headers:
            return exchange.captured_headers[BATCH_KEY], self._last_group[1]
        return self._last_group


def _shorter(value: bytes, timeout: float) -> float:
    """Return X-Timeout in seconds if it is a duration below ``timeout``; else ``timeout``, as of-watchdog."""
    try:
        asked = parse_duration(value.decode("ascii"))
    except ValueError:
        return timeout
    return asked if 0.0 < asked < timeout else timeout


def _tighter(value: bytes, budget: float) -> float:
    """Return X-Deadline-Ms in seconds if it is a positive number below ``budget``; otherwise ``budget``."""
    if not value.replace(b".", b"", 1).isdigit():
        return budget
    asked = float(value) / 1000
    return asked if 0.0 < asked < budget else budget


def _spent(value: bytes, wall_clock: float, timeout: float) -> float:
    """Return the seconds since the gateway's X-Start-Time (UTC nanoseconds); 0 if it is implausible."""
    # More digits than a present time would overflow a float, or int().
    if not value.isdigit() or len(value) > MAX_START_TIME_DIGITS:
        return 0.0
    spent = wall_clock - int(value) * 1e-9
    return spent if 0.0 < spent < min(timeout, MAX_UPSTREAM_SECONDS) else 0.0
