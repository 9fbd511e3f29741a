"""Defines the kinds of failure, and their one-line texts. [P]

``ConfigError`` stops the start (exit status 2). ``SourceError`` makes every function hold for this
reconcile. ``PlatformError`` concerns one function, or the list of functions, and nothing else.
"""

from collections.abc import Iterator
from typing import Final

STRICT_CHECKS: Final = range(80, 94)
"""OpenSSL's verify codes (x509_vfy.h) of certificates that violate RFC 5280; only strict TLS refuses them."""


def brief(error: BaseException) -> str:
    """Return an HTTP client's exception as one short line: its kind, and the innermost cause.

    For a TLS error the cause is OpenSSL's sentence, with the setting that disables the check if there is one.
    """
    *_, inner = _causes(error)
    text = str(inner if inner is not error or not inner.args else inner.args[0])[:200]
    strict = getattr(inner, "verify_code", None) in STRICT_CHECKS
    hint = "; tls.strict: false disables this check" if strict else ""
    return f"{type(error).__name__}: {text}{hint}"


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception and its causes, outermost first."""
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
    """The source of observations is unreachable, too slow, or gave an invalid answer."""


class PlatformError(Exception):
    """The platform refused, failed or did not answer."""


class UnreadableError(PlatformError):
    """The platform knows the function, and a part of its data is wrong; ``replicas`` is the part that is not.

    ``replicas`` is its count; it takes part in a fleet's budget.
    """

    def __init__(self, message: str, replicas: int) -> None:
        super().__init__(message)
        self.replicas = replicas


class FunctionGoneError(PlatformError):
    """The platform does not know the function, or does not know it any more."""


class ScaleChangedError(PlatformError):
    """Another writer has changed the count since the decision; nothing was written."""


class ApiError(PlatformError):
    """The Kubernetes API or a gateway answered with an error: its HTTP status, and the API's reason.

    ``retry_after``: seconds until the next try that the server requests, None without such a request.
    """

    def __init__(self, message: str, status: int, reason: str = "", retry_after: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.retry_after = retry_after


class NotFoundError(ApiError):
    """404: there is no such object, or no such kind of object."""


class ConflictError(ApiError):
    """409: the object has changed since it was read, or exists already (reason ``AlreadyExists``)."""


class GoneError(ApiError):
    """410: the resourceVersion at which a list or a watch began is too old; list again."""


class ForbiddenError(ApiError):
    """401 or 403: the credentials are unknown, or the role lacks a rule."""


class UnreachableError(PlatformError):
    """The Kubernetes API gave no complete answer: refused, timed out, or broken off."""
