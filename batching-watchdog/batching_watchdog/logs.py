"""The log: the format of every line, the line of a request, and which requests have one.

One event is one record, on stderr: one line, but for a traceback in text. What workers print is relayed
(``pool.child``); ``output`` writes both. The line of a request is of-watchdog's with more behind it. It
decides nothing about a request. Used by ``front.routes``; ``app`` sets the format.

Levels: ERROR is for what the operator has to mend (the function or a worker failed), WARNING for what missed
the target or was not done, INFO for the rest. Text does not show them, as of-watchdog's does not; JSON does.
"""

import json
import logging
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any, Final

from batching_watchdog.messages import Failure

ERROR_LINES: Final = 10
"""Lines per second for our own errors where requests have none: an overload must not fill the log."""
MISSED_LINES: Final = 100
"""Lines per second for requests that missed, where these have lines."""
SHOWN: Final = 200
"""Bytes of a target, and of a call id, that a line shows."""

_TIME: Final = "%Y/%m/%d %H:%M:%S"
_CONTROLS: Final = {code: f"\\x{code:02x}" for code in (*range(9), *range(11, 32), *range(127, 160))}
_PHRASES: Final = {status.value: status.phrase for status in HTTPStatus}


@dataclass(frozen=True, slots=True)
class RequestLine:
    """What became of one request. Its ``str`` is the line in text; durations are seconds."""

    method: bytes
    target: bytes
    status: int
    size: int
    """Bytes of the answer's body."""
    seconds: float
    """From arrival to answer."""
    call_id: bytes | None
    """X-Call-Id, which the gateway gives to each request, and to its client with the answer."""
    outcome: str | None
    """As in ``slo_requests_total``; None: it does not count for the SLO."""
    slo_class: str | None
    """The SLO that it is judged by; None if no classes are declared."""
    batch: int
    """Requests that shared a batch have the same; see ``messages.Batch.number``."""
    batch_size: int
    """0: no worker has seen it."""
    batch_reason: str | None
    queue_seconds: float
    reason: str | None = None
    """Of an error of ours, with its words in ``error``."""
    error: str = ""
    trace_id: str | None = None
    """Of the request's trace, if it belongs to one (``traceparent``)."""
    left_out: int = 0
    """Lines that were left out before this one."""

    @property
    def level(self) -> int:
        """The level of ``logging`` that it has."""
        if self.outcome == "error":
            return logging.ERROR
        return logging.INFO if self.outcome in (None, "good") else logging.WARNING

    def __str__(self) -> str:
        more = [self.outcome or "not counted"]
        if self.slo_class:
            more.append(f"class {self.slo_class}")
        if self.batch_size:
            more.append(f"batch {self.batch} ({self.batch_size}, {self.batch_reason})")
        if self.batch_size or self.queue_seconds:
            more.append(f"queued {self.queue_seconds:.4f}s")
        if self.reason:
            more.append(f"{self.reason}: {self.error}")
        if self.trace_id:
            more.append(f"trace {self.trace_id}")
        left_out = f" ({self.left_out} more such lines were left out)" if self.left_out else ""
        return (
            f"{_text(self.method) or '-'} {_text(self.target) or '-'}"
            f" - {self.status} {_PHRASES.get(self.status, '')}"
            f" - ContentLength: {human_size(self.size)} ({self.seconds:.4f}s)"
            f" [{_text(self.call_id) if self.call_id else 'none'}] {', '.join(more)}{left_out}"
        )

    def document(self) -> dict[str, Any]:
        """The same as an object for JSON, without what does not apply."""
        document: dict[str, Any] = {
            "event": "request",
            "method": _text(self.method),
            "target": _text(self.target),
            "status": self.status,
            "bytes": self.size,
            "seconds": round(self.seconds, 6),
        }
        if self.call_id:
            document["call_id"] = _text(self.call_id)
        if self.outcome:
            document["outcome"] = self.outcome
        if self.slo_class:
            document["slo_class"] = self.slo_class
        if self.batch_size:
            document |= {
                "batch": self.batch,
                "batch_size": self.batch_size,
                "batch_reason": self.batch_reason,
            }
        if self.batch_size or self.queue_seconds:
            document["queue_seconds"] = round(self.queue_seconds, 6)
        if self.reason:
            document |= {"reason": self.reason, "error": self.error}
        if self.trace_id:
            document["trace_id"] = self.trace_id
        if self.left_out:
            document["left_out"] = self.left_out
        return document


class AccessLog:
    """Which requests have a line."""

    def __init__(self, share: float | None, clock: Callable[[], float]) -> None:
        """``share``: of the good requests that have a line, from 0 to 1; all that missed have one then.

        None: no request has one but for an error of our own.
        """
        self.on = share is not None
        """Whether requests are asked about at all, but for our own errors."""
        self._clock = clock
        self._share = share or 0.0
        self._part = 0.0
        self._limit = LineLimit(MISSED_LINES if self.on else ERROR_LINES)

    def admit(self, *, missed: bool) -> int | None:
        """None: this request has no line. Else it has, and so many before it were left out.

        With a share of 1 nothing is ever left out. The share is met by counting, not by lot.
        """
        if self._share == 1.0:
            return 0
        if missed:
            return self._limit.admit(self._clock())
        self._part += self._share
        if self._part < 1.0:
            return None
        self._part -= 1.0
        return 0


class LineLimit:
    """At most so many lines per second; what is left out is counted and said with the next."""

    def __init__(self, lines: int) -> None:
        self._lines = lines
        self._since = float("-inf")
        self._used = 0
        self._skipped = 0

    def admit(self, now: float) -> int | None:
        """None: leave this line out. Else write it, and say how many were left out before it."""
        if now - self._since >= 1.0:
            self._since, self._used = now, 0
        if self._used >= self._lines:
            self._skipped += 1
            return None
        self._used += 1
        skipped, self._skipped = self._skipped, 0
        return skipped


class JsonFormatter(logging.Formatter):
    """One object per line: ``time`` (UTC), ``level``, ``event``, and what belongs to the event."""

    def format(self, record: logging.LogRecord) -> str:
        """The line for a record."""
        document: dict[str, Any] = {"time": _moment(record.created), "level": record.levelname.lower()}
        if isinstance(record.msg, RequestLine):
            document |= record.msg.document()
        elif isinstance(record.msg, Failure):
            failure = record.msg
            document |= {"event": "failure", "text": failure.text, "trace": failure.trace}
            if failure.call_id:
                document["call_id"] = failure.call_id
            if failure.trace_id:
                document["trace_id"] = failure.trace_id
        else:
            document |= {"event": "log", "text": record.getMessage()}
        if record.exc_info:
            document["trace"] = self.formatException(record.exc_info)
        return json.dumps(document)


class TextFormatter(logging.Formatter):
    """Of-watchdog's lines, safe for a terminal: what a handler says when it fails is among them."""

    def format(self, record: logging.LogRecord) -> str:
        """The line for a record."""
        return printable(super().format(record))


def set_up(form: str) -> None:
    """Send the log to stderr, as ``text`` (of-watchdog's) or ``json``."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        JsonFormatter() if form == "json" else TextFormatter("%(asctime)s %(message)s", _TIME)
    )
    logging.basicConfig(level=logging.INFO, handlers=[handler])


def missing_line(stream: str, missing: int) -> str:
    """The line, with its line feed, that says how many lines of ``stream`` are missing at its place."""
    text = "%d lines of %s were dropped: the process that reads it is too slow, or writing it failed"
    record = logging.LogRecord(__name__, logging.WARNING, __file__, 0, text, (missing, stream), None)
    handlers = logging.getLogger().handlers
    return f"{handlers[0].format(record) if handlers else record.getMessage()}\n"


def line_maker(form: str, stream: str) -> Callable[[str], str]:
    """What puts the lines that a child wrote to ``stream`` into our format, with the time of day."""

    def text_line(text: str) -> str:
        return f"{time.strftime(_TIME)} {stream}: {printable(text)}"

    def json_line(text: str) -> str:
        moment = _moment(time.time())
        return json.dumps(
            {"time": moment, "level": "info", "event": "output", "stream": stream, "text": text}
        )

    return json_line if form == "json" else text_line


def printable(text: str) -> str:
    """``text`` with control characters other than tabs and line feeds escaped: a terminal would obey them."""
    return text.translate(_CONTROLS)


def human_size(size: int) -> str:
    """Bytes as of-watchdog's log has them: ``5B``, ``1.234kB``, ``16MB``."""
    value = float(size)
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.4g}{unit}"
        value /= 1000
    return f"{value:.4g}GB"


def _moment(now: float) -> str:
    return datetime.fromtimestamp(now, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _text(value: bytes) -> str:
    """Printable, whatever a client has sent: the log may be read on a terminal."""
    return ascii(value[:SHOWN].decode("latin-1"))[1:-1]
