"""What can fail, and how it is said. [P]

``ConfigError`` stops the start (exit status 2). ``SourceError`` makes every function hold for this
reconcile. ``PlatformError`` concerns one function, or the list of functions, and nothing else.
"""


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
