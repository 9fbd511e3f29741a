"""Reads and scales functions on OpenFaaS, Kubernetes and Knative.

A platform is a module with a class that has the methods of ``Platform``, the section ``Settings`` of the
configuration, ``write_hold``, and one line in ``PLATFORMS``. It makes no decisions.

- ``openfaas``     the REST API of a gateway or a provider
- ``kubernetes``   Deployments, through the Kubernetes API
- ``knative``      revisions of Knative Serving, through the Kubernetes API
"""

import importlib
from collections.abc import Callable, Mapping
from typing import Final, Protocol

from slo_autoscaler.errors import PlatformError
from slo_autoscaler.kube.resize_rules import Boosting, CpuBoost, Range
from slo_autoscaler.model import Scale
from slo_autoscaler.platforms.leader import Leader
from slo_autoscaler.settings.spec import Modes

__all__ = [
    "ALL_ACTIVE",
    "PLATFORMS",
    "Booster",
    "Boosting",
    "CpuBoost",
    "Platform",
    "PlatformSettings",
    "Range",
    "build",
    "place",
]


class PlatformSettings(Protocol):
    """The keys that every platform's ``Settings`` have; further keys are its own."""

    @property
    def kind(self) -> str:
        """Its name in ``PLATFORMS``."""

    @property
    def timeout(self) -> float:
        """Time limit of one request, in seconds."""

    @property
    def concurrency(self) -> int:
        """Number of parallel requests."""

    @property
    def namespaces(self) -> tuple[str, ...] | None:
        """Namespaces of the functions; None: all."""

    @property
    def cap_retry(self) -> float:
        """Seconds after which a refused count is requested again."""

    @property
    def wakes(self) -> bool:
        """Whether a request wakes a function from zero."""

    @property
    def on_kubernetes(self) -> bool:
        """Whether it is the Kubernetes API itself."""

    @property
    def place(self) -> str:
        """Address or namespaces, for the log."""

    @property
    def cluster(self) -> tuple[str | None, str | None, bool | None]:
        """Kubeconfig and context of the API server (None: the pod's own), and ``tls.strict``."""


class Platform(Protocol):
    """A platform as the controller uses it; every method may be called from several threads at once."""

    def scales(self) -> dict[str, Scale | PlatformError]:
        """Return {name.namespace: replicas and bounds} of every function, or raise ``PlatformError``.

        A function with unreadable data has a ``PlatformError`` as its value and does not affect others. Every
        reconcile calls this, so avoid one request per function.
        """

    def scale(self, function_name: str) -> Scale:
        """Return replicas and bounds, or raise ``PlatformError`` (``FunctionGoneError`` if there is none).

        Used while ``scales`` fails.
        """

    def set_scale(self, function_name: str, replicas: int, seen: Scale) -> None:
        """Request a count, or raise ``PlatformError``.

        ``seen`` is the scale of the decision. If another writer has changed it since, write nothing and raise
        ``ScaleChangedError``. The platform may grant less, which the next ``scales`` returns.
        """

    def waiting(self) -> Mapping[str, float]:
        """Return {function without replicas: requests that wait for it}, where only a decision wakes it.

        Called several times a second; never waits, and raises nothing.
        """

    def announce(self, function_name: str, reason: str, message: str) -> None:
        """Write a warning event on the function's object, where the platform has events. Raises nothing.

        Only the leader writes. Equal events within minutes are one.
        """

    def denied(self) -> Mapping[str, str]:
        """Return {namespace or kind: error} that is configured and the rights do not cover; never wait."""

    def watchdogs(self) -> Mapping[str, str]:
        """Return {address of a metrics page: name.namespace} of the replicas; empty where it is unknown.

        Called only while Prometheus does not answer. Raises nothing.
        """

    def close(self) -> None:
        """Close connections."""


class Booster(Protocol):
    """CPU above nominal for serving replicas, as the controller uses it. Only ``close`` waits."""

    def ranges(self) -> Mapping[str, Range]:
        """Return {name.namespace: the factors that its replicas can have}; absent: none but 1."""

    def boosting(self) -> Mapping[str, Boosting]:
        """Return {name.namespace: what its replicas have of their boosts}; from any thread."""

    def boost(self, boosts: Mapping[str, CpuBoost]) -> None:
        """Set the boost of these functions, and take back that of others. Only the leader calls this.

        Functions that were never named here may be another autoscaler's.
        """

    def close(self) -> None:
        """Give all functions nominal CPU if this process leads, within the platform's timeout."""


PLATFORMS: Final[dict[str, tuple[str, str]]] = {
    "openfaas": ("slo_autoscaler.platforms.openfaas", "OpenFaas"),
    "kubernetes": ("slo_autoscaler.platforms.kubernetes", "Kubernetes"),
    "knative": ("slo_autoscaler.platforms.knative", "knative"),
}
"""Kind -> (module, factory of the platform). Only the configured one is imported: the Kubernetes client is
large, and OpenFaaS does not need it."""


ALL_ACTIVE: Final = Modes()
"""Default of ``build``."""


def build(settings: PlatformSettings, leader: Leader, modes: Modes = ALL_ACTIVE) -> Platform:
    """Return the configured platform. Raises ``ConfigError``.

    A platform that acts between reconciles does so only while ``leader`` leads. ``modes`` reads a function's
    label.
    """
    module, name = PLATFORMS[settings.kind]
    make: Callable[[PlatformSettings, Leader, Modes], Platform]
    make = getattr(importlib.import_module(module), name)
    return make(settings, leader, modes)


def write_hold(settings: PlatformSettings, function_name: str, text: str | None) -> None:
    """Write a function's hold where the platform reads it, or remove it (None).

    Raises ``PlatformError``, and ``ConfigError`` without credentials.
    """
    write: Callable[[PlatformSettings, str, str | None], None]
    write = importlib.import_module(PLATFORMS[settings.kind][0]).write_hold
    write(settings, function_name, text)


def default_namespace(settings: PlatformSettings) -> str:
    """Return the namespace of a function whose name is given alone. Raises ``ConfigError``.

    On Kubernetes that is the one of the credentials, as for kubectl.
    """
    if not settings.on_kubernetes:
        return (settings.namespaces or ("default",))[0]
    kubeconfig, context, _ = settings.cluster
    # Imported here, so that an autoscaler of OpenFaaS does not load the package.
    namespace: str = importlib.import_module("slo_autoscaler.kube.client").namespace_of(kubeconfig, context)
    return namespace


def place(kind: str, namespaces: tuple[str, ...] | None) -> str:
    """Return the kind and the namespaces of a platform on Kubernetes, for the log."""
    return f"{kind}, {'all namespaces' if namespaces is None else ' '.join(namespaces)}"
