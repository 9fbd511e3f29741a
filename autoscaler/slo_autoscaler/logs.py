"""Formats the log on stderr: one event per line, as text or as JSON; logs a lasting state once.

A line has no character that a terminal obeys, because it may repeat texts of tenants. Levels: ERROR needs an
operator, WARNING is a failed action that will be retried, INFO is the rest.
"""

import json
import logging
import sys
from collections.abc import Collection, Hashable, Set
from datetime import UTC, datetime
from typing import Any, Final

from slo_autoscaler.settings.fields import printable

FORMATS: Final = ("text", "json")

_TEXT: Final = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def set_up(form: str) -> None:
    """Send every logger's lines to stderr; ``form`` is one of ``FORMATS``."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if form == "json" else TextLines())
    logging.basicConfig(level=logging.INFO, handlers=[handler])


class TextLines(logging.Formatter):
    """Formats records for people; a trace follows on lines of its own."""

    def __init__(self) -> None:
        super().__init__(_TEXT)

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's
        """Return the line."""
        return printable(super().formatMessage(record))


class JsonLines(logging.Formatter):
    """Formats records as JSON for a log collector."""

    def format(self, record: logging.LogRecord) -> str:
        """Return an object: ``time`` (UTC), ``level``, ``logger``, ``text``; ``trace`` if there is one."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "text": record.getMessage(),
        }
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        return json.dumps(line)


class Changes:
    """The present states of one module, each under a key; any thread may change them."""

    def __init__(self, logger: logging.Logger) -> None:
        """``logger`` is the module's."""
        self._logger = logger
        self._states: dict[Hashable, str] = {}

    def __contains__(self, key: Hashable) -> bool:
        """Return whether ``key`` has a state."""
        return key in self._states

    def keys(self) -> Set[Hashable]:
        """Return the keys that have a state."""
        return self._states.keys()

    def say(
        self, key: Hashable, text: str, *, state: str | None = None, level: int = logging.WARNING
    ) -> bool:
        """Log ``text`` if ``state`` (default: the text) is not the state of ``key``; return whether so."""
        state = text if state is None else state
        new = self._states.get(key) != state
        self._states[key] = state
        if new:
            self._logger.log(level, "%s", text)
        return new

    def over(self, key: Hashable, text: str = "") -> None:
        """End the state of ``key``, and log ``text``, if any, unless there was none."""
        if self._states.pop(key, None) is not None and text:
            self._logger.info("%s", text)

    def keep(self, keys: Collection[Hashable]) -> None:
        """Forget the states of all other keys."""
        for key in set(self._states).difference(keys):
            self._states.pop(key, None)
