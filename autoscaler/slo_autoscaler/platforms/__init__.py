"""Where functions run and are scaled.

A platform is a module with a class that has the four methods of ``Platform``, the section ``Settings`` of the
configuration, and one line in ``PLATFORMS``. It decides nothing.

- ``openfaas``     the REST API of a gateway or a provider
- ``kubernetes``   Deployments, through the Kubernetes API
- ``knative``      revisions of Knative Serving, through the Kubernetes API
"""

import importlib
from collections.abc import Callable
from typing import Final, Protocol

from slo_autoscaler.errors import PlatformError
from slo_autoscaler.leader import Leader
from slo_autoscaler.model import Scale
from slo_autoscaler.spec import Modes


class PlatformSettings(Protocol):
    """What every platform's ``Settings`` say; the other keys are its own."""

    @property
    def kind(self) -> str:
        """Its name in ``PLATFORMS``."""

    @property
    def timeout(self) -> float:
        """Seconds that one request may take."""

    @property
    def concurrency(self) -> int:
        """Requests at a time."""

    @property
    def cap_retry(self) -> float:
        """Seconds that a refusal is believed."""

    @property
    def wakes(self) -> bool:
        """A request wakes a function from zero."""

    @property
    def place(self) -> str:
        """Where this is, for the log."""

    @property
    def cluster(self) -> tuple[str | None, str | None, bool | None]:
        """Kubeconfig and context of the API server that goes with it, None: the pod's own; ``tls.strict``."""


class Platform(Protocol):
    """What the controller needs from a platform. Every method may be called from several threads at once."""

    def scales(self) -> dict[str, Scale | PlatformError]:
        """Return {name.namespace: replicas and bounds} of every function, or raise ``PlatformError``.

        A function of which the platform says nonsense has a ``PlatformError``, and spoils no other. This is
        called in every reconcile, so it must not cost a request for each function where that can be helped.
        """

    def scale(self, function_name: str) -> Scale:
        """Return replicas and bounds, or raise ``PlatformError`` (``FunctionGoneError`` if there is none).

        Used while ``scales`` fails.
        """

    def set_scale(self, function_name: str, replicas: int, seen: Scale) -> None:
        """Ask for a count, or raise ``PlatformError``.

        ``seen`` is what was decided on: if another writer has changed it since, nothing is written, and
        ``ScaleChangedError`` raised. The platform may give less; the next ``scales`` says what it gave.
        """

    def close(self) -> None:
        """Give up connections."""


PLATFORMS: Final[dict[str, tuple[str, str]]] = {
    "openfaas": ("slo_autoscaler.platforms.openfaas", "OpenFaas"),
    "kubernetes": ("slo_autoscaler.platforms.kubernetes", "Kubernetes"),
    "knative": ("slo_autoscaler.platforms.knative", "knative"),
}
"""Kind -> (module, maker of the platform). Only the one that is asked for is imported: the Kubernetes
client is large, and OpenFaaS needs none of it."""


ALL_ACTIVE: Final = Modes()
"""Where nothing is said."""


def build(settings: PlatformSettings, leader: Leader, modes: Modes = ALL_ACTIVE) -> Platform:
    """Return the platform that the configuration names; raises ``ConfigError``.

    A platform that acts between reconciles acts while ``leader`` leads, and reads a function's label by
    ``modes``.
    """
    module, name = PLATFORMS[settings.kind]
    make: Callable[[PlatformSettings, Leader, Modes], Platform]
    make = getattr(importlib.import_module(module), name)
    return make(settings, leader, modes)


def place(kind: str, namespaces: tuple[str, ...] | None) -> str:
    """Return where a platform on Kubernetes is, for the log."""
    return f"{kind}, {'all namespaces' if namespaces is None else ' '.join(namespaces)}"
