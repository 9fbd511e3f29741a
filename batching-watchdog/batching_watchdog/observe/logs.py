"""Formats the log, and selects the requests that have a line.

One event is one record on stderr: one line, except a traceback in text. The output of workers is relayed
(``pool.child``); ``output`` writes both. The line of a request begins like of-watchdog's. It makes no
decisions about requests. Used by ``front.endings``; ``app`` sets the format.

Levels: ERROR needs the operator (the function or a worker failed), WARNING is a missed target or an omitted
action, INFO is the rest. Only JSON shows them; text does not, like of-watchdog's.
"""

import json
import logging
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any, Final

from batching_watchdog.function.messages import Failure

ERROR_LINES: Final = 10
"""Lines per second for our own errors if requests have none: an overload must not fill the log."""
MISSED_LINES: Final = 100
"""Lines per second for requests that missed, if these have lines."""
SHOWN: Final = 200
"""Maximum bytes of a target, and of a call id, in a line."""

_TIME: Final = "%Y/%m/%d %H:%M:%S"
_CONTROLS: Final = {code: f"\\x{code:02x}" for code in (*range(9), *range(11, 32), *range(127, 160))}
_PHRASES: Final = {status.value: status.phrase for status in HTTPStatus}


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestLine:
    """The outcome of one request. Its ``str`` is the line in text; durations are seconds.

    In JSON it has these fields, without those that are None because they do not apply.
    """

    method: str
    target: str
    status: int
    bytes: int
    """Of the answer's body."""
    seconds: float
    """From arrival to answer."""
    call_id: str | None = None
    """X-Call-Id, which the gateway adds to each request and to its answer."""
    outcome: str | None = None
    """As in ``slo_requests_total``; None: it does not count for the SLO."""
    slo_class: str | None = None
    """The SLO class of the request; None without declared classes."""
    batch: int | None = None
    """Number of its batch, the same for all its requests; see ``messages.Batch.number``."""
    batch_size: int | None = None
    batch_reason: str | None = None
    queue_seconds: float | None = None
    reason: str | None = None
    """Reason of an error of ours, whose message is ``error``."""
    error: str | None = None
    trace_id: str | None = None
    """Id of the request's trace, if it has one (``traceparent``)."""
    left_out: int | None = None
    """Number of lines that were left out before this one."""

    @property
    def level(self) -> int:
        """Return its level in ``logging``."""
        if self.outcome == "error":
            return logging.ERROR
        return logging.INFO if self.outcome in (None, "good") else logging.WARNING

    def __str__(self) -> str:
        parts = (
            self.outcome or "not counted",
            self.slo_class and f"class {self.slo_class}",
            self.batch_reason and f"batch {self.batch} ({self.batch_size}, {self.batch_reason})",
            None if self.queue_seconds is None else f"queued {self.queue_seconds:.4f}s",
            self.reason and f"{self.reason}: {self.error}",
            self.trace_id and f"trace {self.trace_id}",
        )
        left_out = f" ({self.left_out} more such lines were left out)" if self.left_out else ""
        return (
            f"{self.method or '-'} {self.target or '-'}"
            f" - {self.status} {_PHRASES.get(self.status, '')}"
            f" - ContentLength: {human_size(self.bytes)} ({self.seconds:.4f}s)"
            f" [{self.call_id or 'none'}] {', '.join(filter(None, parts))}{left_out}"
        )


class AccessLog:
    """Selects the requests that have a line."""

    def __init__(self, share: float | None, clock: Callable[[], float]) -> None:
        """``share``: share of good requests with a line, from 0 to 1; all that missed have one then.

        None: only our own errors have one.
        """
        self.on = share is not None
        """Whether ``admit`` must be called for requests other than our own errors."""
        self._clock = clock
        self._share = share or 0.0
        self._part = 0.0
        self._limit = LineLimit(MISSED_LINES if self.on else ERROR_LINES)

    def admit(self, *, missed: bool) -> int | None:
        """Return None if this request has no line, else the number of lines left out before it.

        With a share of 1 no line is left out. The share is met by counting, not at random.
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
    """Limits the lines per second; the next line reports the number left out."""

    def __init__(self, lines: int) -> None:
        self._lines = lines
        self._since = float("-inf")
        self._used = 0
        self._skipped = 0

    def admit(self, now: float) -> int | None:
        """Return None to leave this line out, else the number of lines left out before it."""
        if now - self._since >= 1.0:
            self._since, self._used = now, 0
        if self._used >= self._lines:
            self._skipped += 1
            return None
        self._used += 1
        skipped, self._skipped = self._skipped, 0
        return skipped


class FailureLog:
    """Logs errors of the function's code, a bounded number of them: each has a traceback."""

    def __init__(self, log: logging.Logger, clock: Callable[[], float] = time.monotonic) -> None:
        self._log = log
        self._clock = clock
        self._limit = LineLimit(ERROR_LINES)

    def error(self, failure: Failure) -> None:
        """Log ``failure``, unless too many were logged this second."""
        left_out = self._limit.admit(self._clock())
        if left_out:
            self._log.error("%d errors of the function were left out of the log", left_out)
        if left_out is not None:
            self._log.error(failure)


class JsonFormatter(logging.Formatter):
    """Formats one object per line: ``time`` (UTC), ``level``, ``event``, and the event's fields."""

    def format(self, record: logging.LogRecord) -> str:
        """The line for a record."""
        document: dict[str, Any] = {"time": _moment(record.created), "level": record.levelname.lower()}
        if isinstance(record.msg, RequestLine):
            fields = {name: getattr(record.msg, name) for name in RequestLine.__slots__}
            document |= {"event": "request"} | {name: it for name, it in fields.items() if it is not None}
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
    """Formats of-watchdog's lines, safe for a terminal: they may quote a failing handler."""

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


def lines_maker(form: str, stream: str) -> Callable[[Sequence[str]], str]:
    """Return a function that formats a child's lines of ``stream`` like ours, with the time of day."""

    def text_lines(texts: Sequence[str]) -> str:
        prefix = f"{time.strftime(_TIME)} {stream}: "
        return "".join(f"{prefix}{printable(text)}\n" for text in texts)

    def json_lines(texts: Sequence[str]) -> str:
        document = {"time": _moment(time.time()), "level": "info", "event": "output", "stream": stream}
        return "".join(f"{json.dumps({**document, 'text': text})}\n" for text in texts)

    return json_lines if form == "json" else text_lines


def printable(text: str) -> str:
    """Return ``text`` with control characters escaped, except tabs and line feeds: terminals obey them."""
    return text.translate(_CONTROLS)


def human_size(size: int) -> str:
    """Return bytes in the form of of-watchdog's log: ``5B``, ``1.234kB``, ``16MB``."""
    value = float(size)
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.4g}{unit}"
        value /= 1000
    return f"{value:.4g}GB"


def _moment(now: float) -> str:
    return datetime.fromtimestamp(now, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def loggable(value: bytes) -> str:
    """Return a client's bytes as printable text: the log may be shown on a terminal."""
    return ascii(value[:SHOWN].decode("latin-1"))[1:-1]
