"""The API server of the tests that need one: a double of it, or a real one."""

from collections.abc import Iterator

import pytest

from autoscaler.kube.control_plane import Access, a_namespace, an_access, real
from autoscaler.kube.kube_server import KubeServer, a_kube_server
from slo_autoscaler.kube.client import KubeApi


@pytest.fixture(scope="session")
def access(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Access]:
    """A real API server, one for all tests of a process."""
    with an_access(tmp_path_factory.mktemp("control-plane")) as found:
        yield found


@pytest.fixture(params=["double", pytest.param("real", marks=real())])
def api(request: pytest.FixtureRequest) -> Iterator[KubeServer | Access]:
    """An API server; each test that asks for it runs on the double, and on a real one where there is one."""
    if request.param == "real":
        yield request.getfixturevalue("access")
    else:
        with a_kube_server() as server:
            yield server


@pytest.fixture
def kubeconfig(api: KubeServer | Access, tmp_path) -> str:
    """Of a user who may do all."""
    return api.kubeconfig(tmp_path)


@pytest.fixture
def cluster(kubeconfig: str) -> Iterator[KubeApi]:
    """The client of a user who may do all."""
    client = KubeApi(kubeconfig, timeout=30.0, connections=8)
    yield client
    client.close()


@pytest.fixture
def namespace(api: KubeServer | Access, cluster: KubeApi) -> Iterator[str]:
    """A namespace of the test's own; without controllers it stays, but none of its Deployments."""
    with a_namespace(cluster) as name:
        yield name
        if isinstance(api, KubeServer):
            return  # it goes with all that is in it
        path = f"/apis/apps/v1/namespaces/{name}/deployments"
        for items, _ in list(cluster.pages(path)):
            for each in items:
                cluster.delete(f"{path}/{each['metadata']['name']}")
