"""What can fail, and how it is said. [P]

``ConfigError`` stops the start (exit status 2). ``SourceError`` makes every function hold for this
reconcile. ``PlatformError`` concerns one function, or the list of functions, and nothing else.
"""


def brief(error: Exception) -> str:
    """Return an HTTP client's exception in one short line: its kind, and the innermost cause it names."""
    inner = error.args[0] if error.args else ""
    return f"{type(error).__name__}: {str(getattr(inner, 'reason', inner))[:200]}"


class ConfigError(Exception):
    """The configuration is wrong: one line for each fault, naming file, key, value and rule."""

    def __init__(self, lines: list[str]) -> None:
        super().__init__("\n".join(lines))
        self.lines = lines


class SourceError(Exception):
    """Observations could not be had: unreachable, too slow, or an answer that makes no sense."""


class PlatformError(Exception):
    """The platform refused, failed or did not answer."""


class FunctionGoneError(PlatformError):
    """The platform does not know the function (any more)."""


class ScaleChangedError(PlatformError):
    """The count is not the one that was decided on: another writer was faster, and nothing was written."""


class ApiError(PlatformError):
    """The Kubernetes API answered with an error: its HTTP status, and the reason in its words.

    ``retry_after``: seconds that the server asks for before the next try, None if it says nothing.
    """

    def __init__(self, message: str, status: int, reason: str = "", retry_after: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.retry_after = retry_after


class NotFoundError(ApiError):
    """404: there is no such object, or no such kind of object."""


class ConflictError(ApiError):
    """409: the object has changed since it was read, or is there already (reason ``AlreadyExists``)."""


class GoneError(ApiError):
    """410: the resourceVersion that a list or a watch began at is too old; list anew."""


class ForbiddenError(ApiError):
    """401 or 403: the credentials are not known, or the role lacks a rule."""


class UnreachableError(PlatformError):
    """The Kubernetes API gave no whole answer: refused, timed out, or broken off."""
