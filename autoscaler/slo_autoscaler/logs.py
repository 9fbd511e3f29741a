"""Formats the log on stderr: one event per line, as text or as JSON.

A line has no character that a terminal obeys, because it may repeat texts of tenants. Levels: ERROR needs an
operator, WARNING is a failed action that will be retried, INFO is the rest.
"""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any, Final

from slo_autoscaler.fields import printable

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
