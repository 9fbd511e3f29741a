"""Defines the platform's errors, each with its HTTP status. [P]

``gateway`` converts them to answers; ``__main__`` prints them as one line.
"""


class PlatformError(Exception):
    """A failure that the user can fix; the message says how."""

    status = 500


class InvalidRequestError(PlatformError):
    """A body, name or value violates a rule of the provider contract."""

    status = 400


class NotFoundError(PlatformError):
    """A function or a pod does not exist."""

    status = 404


class StackError(PlatformError):
    """A stack file is invalid; the message names file, function, key and rule."""


class StartError(PlatformError):
    """The platform cannot start: a missing program or file, or a port in use."""
