"""Knative Serving: an autoscaler class of our own, or a floor under Knative's own autoscaler.

A function is a Service, ``<service>.<namespace>``; ``allocation`` gives the reason.

- ``own_class``        mode ``class``: scales every PodAutoscaler that names our class
- ``floor``            mode ``floor``: raises the min-scale of revisions that Knative's autoscaler scales
- ``activators``       what waits in Knative's activators for a Service without replicas
- ``queues`` [P]       their pages
- ``objects``          the objects that both modes watch
- ``minimum`` [P]      the floor as annotations of a Revision
- ``status`` [P]       conditions, status and ServerlessService by Knative's rules
- ``allocation`` [P]   annotations and routes; a service's count for each revision
"""

import importlib
from collections.abc import Callable
from typing import ClassVar, Final, Literal

from pydantic import Field

from slo_autoscaler.platforms import ALL_ACTIVE, Platform, place
from slo_autoscaler.platforms.leader import Leader
from slo_autoscaler.settings.fields import (
    ClusterTls,
    Concurrency,
    Count,
    Namespaces,
    PositiveDuration,
    settings,
)
from slo_autoscaler.settings.spec import Modes

_MODES: Final = {"class": ("own_class", "OwnClass"), "floor": ("floor", "Floor")}


@settings
class Settings:
    """Revisions of Knative Serving, scaled through the Kubernetes API."""

    kind: Literal["knative"] = "knative"
    """Kind of platform."""
    mode: Literal["class", "floor"] = "class"
    """``class``: scale Revisions of the autoscaler class slo.tailbound.dev. ``floor``: Knative's own
    autoscaler scales, and this autoscaler raises its min-scale."""
    kubeconfig: str | None = None
    """Kubeconfig file. None: the pod's service account, or outside a cluster the file in KUBECONFIG."""
    context: str | None = None
    """Context of the kubeconfig; None: its current one."""
    namespaces: Namespaces | None = None
    """Namespaces to watch; None: all, which needs a ClusterRole."""
    timeout: PositiveDuration = 5.0
    """Time limit of each request, with its retries."""
    concurrency: Concurrency = 8
    """Number of parallel requests; watches come on top."""
    resync: PositiveDuration = 300.0
    """Time between two complete lists; watches report the changes in between."""
    cap: Count | None = None
    """Maximum number of replicas of any function, whatever its annotations say."""
    cap_retry: PositiveDuration = 300.0
    """Time after which a refused count is requested again."""
    tls: ClusterTls = Field(default_factory=ClusterTls)

    wakes: ClassVar[bool] = True
    on_kubernetes: ClassVar[bool] = True

    @property
    def place(self) -> str:
        """Mode and namespaces, for the log."""
        return place(self.kind, self.namespaces)

    @property
    def cluster(self) -> tuple[str | None, str | None, bool | None]:
        """Kubeconfig, context, and whether TLS is strict."""
        return self.kubeconfig, self.context, self.tls.strict


def knative(config: Settings, leader: Leader, modes: Modes = ALL_ACTIVE) -> Platform:
    """Return the platform for the configured mode; import only this one. Raises ``ConfigError``."""
    module, name = _MODES[config.mode]
    make: Callable[[Settings, Leader, Modes], Platform]
    make = getattr(importlib.import_module(f"{__name__}.{module}"), name)
    return make(config, leader, modes)


def write_hold(config: Settings, function_name: str, text: str | None) -> None:
    """Write the annotation of a hold to a Service, or remove it (None). Raises ``PlatformError``."""
    write: Callable[[Settings, str, str | None], None]
    write = importlib.import_module(f"{__name__}.objects").write_hold
    write(config, function_name, text)
