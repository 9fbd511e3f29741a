"""What can go wrong with a measurement, each with a message that names what, where and the rule."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tailbound_lab.load.statistics import Run


class BenchError(Exception):
    """A measurement that cannot be made or does not count."""


class NotAvailable(BenchError):
    """A system that cannot be measured here: it cannot be installed, or its program is not on PATH."""


class Lagged(BenchError):
    """The generator itself was late, so its latencies say nothing about the system; ``run`` has the rest."""

    def __init__(self, message: str, run: "Run") -> None:
        super().__init__(message)
        self.run = run


class DemoError(Exception):
    """The run cannot go on; the message says what the user can do."""
