"""Knative's platforms on the double of the API server."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from slo_autoscaler.kube.client import KubeApi
from slo_autoscaler.platforms import Platform
from slo_autoscaler.platforms.knative import Settings as KnativeSettings
from slo_autoscaler.platforms.knative import knative, own_class
from slo_autoscaler.platforms.leader import Leader
from support.knative_world import World, driven
from support.kube_server import KubeServer


@pytest.fixture
def world(api: KubeServer, cluster: KubeApi, namespace: str) -> World:
    """A namespace of Knative Serving."""
    return World(api, cluster, namespace)


@pytest.fixture
def start(kubeconfig: str, world: World, keep: Callable[[Platform], Platform]) -> Callable[..., Platform]:
    """Start platforms. Without a leader the test takes their threads' steps."""

    def start(leader: Leader | None = None, **changes: Any) -> Platform:
        usual = {"kubeconfig": kubeconfig, "namespaces": (world.namespace,), "timeout": 10.0}
        config = KnativeSettings(**{**usual, **changes})
        return keep(driven(config, world.leader) if leader is None else knative(config, leader))

    return start


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Set the time of day that the class goes by: ``clock.now``."""
    clock = SimpleNamespace(now=1.8e9)
    clock.time = lambda: clock.now
    monkeypatch.setattr(own_class, "time", clock)
    return clock
