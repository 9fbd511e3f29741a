"""Where functions run and are scaled.

A platform is a class with the four methods of ``Platform``, a configuration in ``config``, and one line in
``PLATFORMS``. It decides nothing.

- ``openfaas``     the REST API of a gateway or a provider
- ``kubernetes``   Deployments, through the Kubernetes API
- ``knative``      revisions of Knative Serving, through the Kubernetes API
"""

import importlib
from collections.abc import Callable
from typing import Final, Protocol

from slo_autoscaler.config import PlatformConfig
from slo_autoscaler.errors import PlatformError
from slo_autoscaler.leader import Leader
from slo_autoscaler.model import Scale


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


PLATFORMS: Final[dict[str, tuple[str, str]]] = {
    "openfaas": ("slo_autoscaler.platforms.openfaas", "OpenFaas"),
    "kubernetes": ("slo_autoscaler.platforms.kubernetes", "Kubernetes"),
    "knative": ("slo_autoscaler.platforms.knative", "knative"),
}
"""Kind -> (module, maker of the platform). Only the one that is asked for is imported: the Kubernetes
client is large, and OpenFaaS needs none of it."""


def build(config: PlatformConfig, leader: Leader) -> Platform:
    """Return the platform that the configuration names; raises ``ConfigError``.

    A platform that acts between reconciles acts while ``leader`` leads. In a dry run that is never.
    """
    module, name = PLATFORMS[config.kind]
    make: Callable[[PlatformConfig, Leader], Platform] = getattr(importlib.import_module(module), name)
    return make(config, leader)
