"""Knative Serving: an autoscaler class of our own, or a floor under Knative's own autoscaler.

A function is a Service, ``<service>.<namespace>``; ``allocation`` says why.

- ``own_class``        mode ``class``: every PodAutoscaler that names our class is ours alone
- ``floor``            mode ``floor``: Knative's autoscaler scales, and we raise its min-scale
- ``objects``          the objects that both watch
- ``minimum`` [P]      the floor as annotations of a Revision
- ``status`` [P]       conditions, status and ServerlessService by Knative's rules
- ``allocation`` [P]   annotations and routes; a service's count for each revision
"""

import importlib
from collections.abc import Callable
from typing import ClassVar, Final, Literal

from pydantic import Field

from slo_autoscaler.fields import ClusterTls, Concurrency, Count, Namespaces, PositiveDuration, settings
from slo_autoscaler.leader import Leader
from slo_autoscaler.platforms import ALL_ACTIVE, Platform, place
from slo_autoscaler.spec import Modes

_MODES: Final = {"class": ("own_class", "OwnClass"), "floor": ("floor", "Floor")}


@settings
class Settings:
    """Revisions of Knative Serving, scaled through the Kubernetes API."""

    kind: Literal["knative"] = "knative"
    """Which platform this section is for."""
    mode: Literal["class", "floor"] = "class"
    """``class``: Revisions of the autoscaler class slo.tailbound.dev are ours. ``floor``: Knative's own
    autoscaler keeps them, and we raise its min-scale."""
    kubeconfig: str | None = None
    """A file. None: the pod's service account, or outside a cluster what KUBECONFIG names."""
    context: str | None = None
    """Of the kubeconfig; None: its current one."""
    namespaces: Namespaces | None = None
    """None: all, which takes a ClusterRole."""
    timeout: PositiveDuration = 5.0
    """For each request, with its retries."""
    concurrency: Concurrency = 8
    """Requests at a time, beside one watch for each kind of object and namespace."""
    resync: PositiveDuration = 300.0
    """Between two lists of everything; in between watches tell what changes."""
    cap: Count | None = None
    """The most replicas that any Revision is to have, whatever its annotations say."""
    cap_retry: PositiveDuration = 300.0
    """How long a refusal is believed."""
    tls: ClusterTls = Field(default_factory=ClusterTls)

    wakes: ClassVar[bool] = True

    @property
    def place(self) -> str:
        """Where this is, for the log."""
        return place(self.kind, self.namespaces)

    @property
    def cluster(self) -> tuple[str | None, str | None, bool | None]:
        """Kubeconfig, context, and whether TLS is strict."""
        return self.kubeconfig, self.context, self.tls.strict


def knative(config: Settings, leader: Leader, modes: Modes = ALL_ACTIVE) -> Platform:
    """Return the platform for the configured mode, the only one that is loaded; raises ``ConfigError``."""
    module, name = _MODES[config.mode]
    make: Callable[[Settings, Leader, Modes], Platform]
    make = getattr(importlib.import_module(f"{__name__}.{module}"), name)
    return make(config, leader, modes)
