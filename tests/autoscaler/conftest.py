"""What a test opens is closed; the API server of those that need one: a double of it, or a real one."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from typing import Protocol, TypeVar

import pytest

from slo_autoscaler.kube.client import KubeApi
from support.cluster import Access, a_namespace, access, real
from support.doubles import Function, Gateway, a_gateway
from support.kube_server import KubeServer, a_kube_server


class Closeable(Protocol):
    """What a test opens."""

    def close(self) -> None: ...


T = TypeVar("T", bound=Closeable)


@pytest.fixture
def keep() -> Iterator[Callable[[T], T]]:
    """Return what the test opens, and close it at the end."""
    with ExitStack() as opened:
        yield lambda one: opened.enter_context(closing(one))


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    """A gateway with function ``a`` at two replicas and ``b`` at one."""
    with a_gateway(a=Function(2), b=Function(1)) as double:
        yield double


@pytest.fixture(params=["double", pytest.param("real", marks=real)])
def api(request: pytest.FixtureRequest) -> Iterator[KubeServer | Access]:
    """An API server; each test that asks for it runs on the double, and on a real one where there is one."""
    if request.param == "real":
        server = access()
        assert server is not None
        yield server
    else:
        with a_kube_server() as server:
            yield server


@pytest.fixture
def kubeconfig(api: KubeServer | Access, tmp_path) -> str:
    """Of a user who may do all."""
    return api.kubeconfig(tmp_path)


@pytest.fixture
def cluster(kubeconfig: str, keep: Callable[[KubeApi], KubeApi]) -> KubeApi:
    """The client of a user who may do all."""
    return keep(KubeApi(kubeconfig, timeout=30.0, connections=8))


@pytest.fixture
def namespace(cluster: KubeApi) -> Iterator[str]:
    """A namespace of the test's own."""
    with a_namespace(cluster) as name:
        yield name
