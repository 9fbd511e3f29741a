"""One tree of errors; each knows the HTTP status that tells it to a client. [P]

``gateway`` maps them once, at the edge; ``__main__`` prints them as one line.
"""


class PlatformError(Exception):
    """Anything that the user of this platform can do something about; the message says what."""

    status = 500


class InvalidRequestError(PlatformError):
    """A body, name or value that breaks a rule of the provider contract."""

    status = 400


class NotFoundError(PlatformError):
    """A function, secret or namespace that does not exist."""

    status = 404


class ConflictError(PlatformError):
    """Something that exists already, or is still in use."""

    status = 409


class StackError(PlatformError):
    """A stack file that cannot be used; the message names file, function, key and rule."""


class StartError(PlatformError):
    """The platform cannot start: a missing program, a port in use, a file that is not there."""
