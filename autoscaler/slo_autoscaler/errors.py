"""What can fail, and how it is said. [P]

``ConfigError`` stops the start (exit status 2). ``SourceError`` makes every function hold for this
reconcile. ``PlatformError`` concerns one function, or the list of functions, and nothing else.
"""

from collections.abc import Iterator
from typing import Final

STRICT_CHECKS: Final = range(80, 94)
"""OpenSSL's verify codes (x509_vfy.h) of certificates that break RFC 5280, which only strict TLS refuses."""


def brief(error: BaseException) -> str:
    """Return an HTTP client's exception in one short line: its kind, and the innermost cause it names.

    Of a TLS error that is OpenSSL's sentence, and the setting that leaves the check out where there is one.
    """
    *_, inner = _causes(error)
    text = str(inner if inner is not error or not inner.args else inner.args[0])[:200]
    strict = getattr(inner, "verify_code", None) in STRICT_CHECKS
    hint = "; tls.strict: false leaves this check out" if strict else ""
    return f"{type(error).__name__}: {text}{hint}"


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Give an exception and those that it carries, outermost first."""
    inner: object = error
    while isinstance(inner, BaseException):
        yield inner
        first = inner.args[0] if inner.args else None
        inner = next((each for each in (getattr(inner, "reason", None), first) if _is_error(each)), None)


def _is_error(found: object) -> bool:
    return isinstance(found, BaseException)


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
