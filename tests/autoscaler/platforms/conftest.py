"""Knative's platforms on an API server."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from autoscaler.kube.control_plane import Access
from autoscaler.kube.kube_server import KubeServer
from autoscaler.platforms.knative_plane import make_kinds
from autoscaler.platforms.knative_world import World, driven, prepared
from slo_autoscaler.kube.client import KubeApi
from slo_autoscaler.leader import Leader
from slo_autoscaler.platforms import Platform
from slo_autoscaler.platforms.knative import Settings as KnativeSettings
from slo_autoscaler.platforms.knative import knative


@pytest.fixture
def world(api: KubeServer | Access, cluster: KubeApi, namespace: str) -> Iterator[World]:
    """A namespace of Knative Serving, on a server of our own: others have controllers that interfere."""
    if isinstance(api, Access):
        if api.folder is None:
            pytest.skip("the API server was not started here, and its controllers are not known")
        make_kinds(api, cluster)
    world = prepared(api, cluster, namespace)
    yield world
    if isinstance(api, Access):
        world.clear()


@pytest.fixture
def settings(kubeconfig: str, world: World) -> Callable[..., KnativeSettings]:
    """Make settings for the world's namespace."""

    def settings(**changes: Any) -> KnativeSettings:
        usual = {"kubeconfig": kubeconfig, "namespaces": (world.namespace,), "timeout": 10.0}
        return KnativeSettings(**{**usual, **changes})

    return settings


@pytest.fixture
def start(settings: Callable[..., KnativeSettings]) -> Iterator[Callable[..., Platform]]:
    """Start platforms, each closed at the end. Without a leader the test takes their threads' steps."""
    platforms = []

    def start(leader: Leader | None = None, **changes: Any) -> Platform:
        config = settings(**changes)
        platform = driven(config)[0] if leader is None else knative(config, leader)
        platforms.append(platform)
        return platform

    yield start
    for platform in platforms:
        platform.close()
