"""Knative Serving: an autoscaler class of our own.

A function is a Service, ``<service>.<namespace>``; ``allocation`` gives the reason.

- ``own_class``        scales every PodAutoscaler that names our class
- ``activators``       what waits in Knative's activators for a Service without replicas
- ``queues`` [P]       their pages
- ``objects``          the objects that it watches
- ``status`` [P]       conditions, status and ServerlessService by Knative's rules
- ``allocation`` [P]   annotations and routes; a service's count for each revision
"""

import importlib
from collections.abc import Callable
from typing import ClassVar, Literal

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


@settings
class Settings:
    """Revisions of Knative Serving, scaled through the Kubernetes API."""

    kind: Literal["knative"] = "knative"
    """Kind of platform."""
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
        """Kind and namespaces, for the log."""
        return place(self.kind, self.namespaces)

    @property
    def cluster(self) -> tuple[str | None, str | None, bool | None]:
        """Kubeconfig, context, and whether TLS is strict."""
        return self.kubeconfig, self.context, self.tls.strict


def knative(config: Settings, leader: Leader, modes: Modes = ALL_ACTIVE) -> Platform:
    """Return the platform. Raises ``ConfigError``."""
    make: Callable[[Settings, Leader, Modes], Platform]
    make = importlib.import_module(f"{__name__}.own_class").OwnClass
    return make(config, leader, modes)


def write_hold(config: Settings, function_name: str, text: str | None) -> None:
    """Write the annotation of a hold to a Service, or remove it (None). Raises ``PlatformError``."""
    write: Callable[[Settings, str, str | None], None]
    write = importlib.import_module(f"{__name__}.objects").write_hold
    write(config, function_name, text)
