"""Where functions run and are scaled.

A platform is a class with the three methods of ``Platform`` and one line in ``PLATFORMS``.
"""

from collections.abc import Callable
from typing import Final, Protocol

from slo_autoscaler.config import PlatformConfig
from slo_autoscaler.model import Scale
from slo_autoscaler.platforms.openfaas import OpenFaas


class Platform(Protocol):
    """What the controller needs from a platform. Every method may be called from several threads at once."""

    def functions(self) -> list[str]:
        """Return every function as name.namespace, or raise ``PlatformError``."""
        ...

    def scale(self, function_name: str) -> Scale:
        """Return replicas and bounds, or raise ``PlatformError`` (``FunctionGoneError`` if there is none)."""
        ...

    def set_scale(self, function_name: str, replicas: int) -> None:
        """Ask for a count, or raise ``PlatformError``.

        The platform may give less; the next ``scale`` says what it gave.
        """
        ...

    def close(self) -> None:
        """Give up connections."""
        ...


PLATFORMS: Final[dict[str, Callable[[PlatformConfig], Platform]]] = {"openfaas": OpenFaas}
