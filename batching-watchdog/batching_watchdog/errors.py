"""Defines every error of the watchdog, with its HTTP status and reason. [P]

By the place on a request's path::

    start-up      ConfigError, StackError, HandlerNotLoaded, LoadTimedOut, StartFailed
                  (the process ends with a message)
    a trial       TrialFailed  (``batching-watchdog try`` ends with a message)
    protocol      BadRequest, HeadersTooLarge, BodyTooLarge, RequestTimedOut
    admission     QueueFull, TooManyConnections, ShuttingDown, PredictedLate
    queue         PredictedLate, Expired, QueueFull (a late one made room), Abandoned (never sent)
    worker        WorkerDied  (a handler's failure, or its BadRequest, is a Reply made in the worker)

``front.endings`` turns them into answers; no other module uses the statuses.
"""

from typing import ClassVar, Final


class WatchdogError(Exception):
    """Base of the tree. ``status`` answers a request, ``exit_status`` ends the process."""

    status: ClassVar[int] = 500
    reason: ClassVar[str] = "internal"
    exit_status: ClassVar[int] = 1
    retry_after: int | None = None
    """Whole seconds after which the client may retry; None: no Retry-After header."""


class ConfigError(WatchdogError):
    """An environment variable has a value that breaks its rule."""

    exit_status = 2

    def __init__(self, variable: str, value: str, rule: str) -> None:
        super().__init__(f"{variable}={value!r}: {rule}")
        self.variable = variable


class StackError(WatchdogError):
    """A stack file cannot be read; the message names file, function, key and rule."""

    exit_status = 2


class HandlerNotLoaded(WatchdogError):
    """The function's handler cannot be imported, has no handle function, or its load() failed."""

    def __init__(self, text: str, trace: str = "") -> None:
        """``trace``: the traceback of the function's code; empty without an exception."""
        super().__init__(text)
        self.trace = trace


class LoadTimedOut(HandlerNotLoaded):
    """The handler was still being imported, or its load() running, after ``load_timeout`` seconds."""

    def __init__(self, seconds: float, trace: str = "") -> None:
        """``trace``: its stack at that time."""
        where = "; the log has its stack" if trace else ""
        super().__init__(f"load() did not end within load_timeout ({seconds:g} s){where}", trace)


class Poisoned(HandlerNotLoaded):
    """An error of the accelerator that only a new process ends: the worker must leave."""


class TrialFailed(WatchdogError):
    """The handler has loaded but cannot be tried: it has no example(), or does not serve it."""


class StartFailed(WatchdogError):
    """A port is taken, or gunicorn cannot be started."""


class FrameError(WatchdogError):
    """A frame between the watchdog and a worker is not well formed."""


class BadRequest(WatchdogError, ValueError):
    """The client is at fault: its bytes are no HTTP/1.1 request, or not what the handler takes.

    A handler raises it, or returns it as a result: that request gets 400, and the SLO does not count it.
    """

    status = 400
    reason = "bad_request"

    def __init__(self, body: object, event: object = None) -> None:
        """``body``: the answer, any result of a handler. ``event``: the one of a batch that is at fault."""
        super().__init__(body)
        self.event = event


class RequestTimedOut(WatchdogError):
    """The client did not send its whole request within read_timeout."""

    status = 408
    reason = "request_timeout"


class BodyTooLarge(WatchdogError):
    """The body is longer than max_body_bytes."""

    status = 413
    reason = "body_too_large"


class HeadersTooLarge(WatchdogError):
    """The request line and headers are longer than the limit."""

    status = 431
    reason = "headers_too_large"


class QueueFull(WatchdogError):
    """max_inflight requests are queued or running, or max_queued_bytes are held for clients."""

    status = 429
    reason = "queue_full"

    def __init__(self, max_inflight: int, retry_after: int, *, displaced: bool = False) -> None:
        super().__init__(
            f"{max_inflight} requests are queued or running, the limit (max_inflight; best effort: half)"
            + ("; this one was late already and made room for one that is not" if displaced else "")
        )
        self.retry_after = retry_after

    @classmethod
    def of_bytes(cls, most: int) -> "QueueFull":
        """Return the error for a limit on bytes."""
        error = cls(0, 1)
        error.args = (
            f"requests and unread answers would hold more than {most} bytes (max_queued_bytes;"
            " best effort: half)",
        )
        return error


class ShuttingDown(WatchdogError):
    """The watchdog is draining and takes no new requests."""

    status = 503
    reason = "shutting_down"
    retry_after = 1


class TooManyConnections(WatchdogError):
    """As many connections are open as may be, and none was idle."""

    status = 503
    reason = "too_many_connections"
    retry_after = 1

    def __init__(self, most: int) -> None:
        super().__init__(f"too many connections are open; open files and max_queued_bytes allow {most}")


class PredictedLate(WatchdogError):
    """The deadline can no longer be met, and late_requests=shed refuses such requests."""

    status = 503
    reason = "predicted_late"
    retry_after = 1


class Expired(WatchdogError):
    """The request was not answered within its timeout (exec_timeout, or its X-Timeout if that is less)."""

    status = 504
    reason = "expired"


class Abandoned(WatchdogError):
    """The client closed its connection before the answer; the status, nginx's, appears only in the log."""

    status = 499
    reason = "abandoned"


class WorkerDied(WatchdogError):
    """The worker died under this request, and under its retry alone."""

    status = 502
    reason = "worker_died"


REFUSALS: Final = (QueueFull, TooManyConnections, PredictedLate, Expired, BodyTooLarge, ShuttingDown)
"""Errors of valid requests that the watchdog itself refuses. A closed list: each has its reason in the metric
``watchdog_refusals_total`` and in the header X-Watchdog-Reason."""
