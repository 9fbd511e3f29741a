"""Hypothesis judges answers here, never speed: the machine may be busy with other tests."""

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from autoscaler.control_plane import Access, an_access
from slo_autoscaler.platforms.kube_api import KubeApi

settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")


@pytest.fixture(scope="session")
def access(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Access]:
    """A real API server, one for all tests of a process."""
    with an_access(tmp_path_factory.mktemp("control-plane")) as found:
        yield found


@pytest.fixture
def kubeconfig(access: Access, tmp_path) -> str:
    """Of a user who may do all."""
    return access.kubeconfig(tmp_path)


@pytest.fixture
def cluster(kubeconfig: str) -> Iterator[KubeApi]:
    """The API of the real server, for a user who may do all."""
    client = KubeApi(kubeconfig, timeout=10.0, connections=8)
    yield client
    client.close()
