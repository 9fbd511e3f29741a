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
from typing import Final

from slo_autoscaler.config import KnativeConfig
from slo_autoscaler.leader import Leader
from slo_autoscaler.platforms import Platform

_MODES: Final = {"class": ("own_class", "OwnClass"), "floor": ("floor", "Floor")}


def knative(config: KnativeConfig, leader: Leader) -> Platform:
    """Return the platform for the configured mode, the only one that is loaded; raises ``ConfigError``."""
    module, name = _MODES[config.mode]
    make: Callable[[KnativeConfig, Leader], Platform]
    make = getattr(importlib.import_module(f"{__name__}.{module}"), name)
    return make(config, leader)
