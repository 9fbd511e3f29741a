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
