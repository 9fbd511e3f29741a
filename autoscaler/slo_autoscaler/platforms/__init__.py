"""Where functions run and are scaled.

A platform is a class with the four methods of ``Platform`` and one line in ``PLATFORMS``.
"""

from collections.abc import Callable
from typing import Final, Protocol

from slo_autoscaler.config import PlatformConfig
from slo_autoscaler.errors import PlatformError
from slo_autoscaler.model import Scale
from slo_autoscaler.platforms.openfaas import OpenFaas


class Platform(Protocol):
    """What the controller needs from a platform. Every method may be called from several threads at once."""

    def scales(self) -> dict[str, Scale | PlatformError]:
        """Return {name.namespace: replicas and bounds} of every function, or raise ``PlatformError``.

        A function of which the platform says nonsense has a ``PlatformError``, and spoils no other. This is
        called in every reconcile, so it must not cost a request for each function where that can be helped.
        """
        ...

    def scale(self, function_name: str) -> Scale:
        """Return replicas and bounds, or raise ``PlatformError`` (``FunctionGoneError`` if there is none).

        Used while ``scales`` fails.
        """
        ...

    def set_scale(self, function_name: str, replicas: int) -> None:
        """Ask for a count, or raise ``PlatformError``.

        The platform may give less; the next ``scales`` says what it gave.
        """
        ...

    def close(self) -> None:
        """Give up connections."""
        ...


PLATFORMS: Final[dict[str, Callable[[PlatformConfig], Platform]]] = {"openfaas": OpenFaas}
