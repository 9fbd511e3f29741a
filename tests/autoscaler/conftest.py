"""The API server of the tests that need a real one."""

from collections.abc import Iterator

import pytest

from autoscaler.control_plane import Access, an_access
from slo_autoscaler.kube.client import KubeApi


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
