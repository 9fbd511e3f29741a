"""A real Kubernetes API server, if TEST_KUBE_APISERVER (with TEST_KUBE_TOKEN) or KUBECONFIG names one."""

import os
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from autoscaler.kube.kube_server import write_kubeconfig
from slo_autoscaler.kube.client import KubeApi, Resource

ADDRESS = os.environ.get("TEST_KUBE_APISERVER", "")
KUBECONFIG = os.environ.get("KUBECONFIG", "")
NAMESPACES = Resource("v1", "namespaces")

on_double = pytest.mark.parametrize("api", ["double"], indirect=True)
"""For tests that spoil what the API server answers, or need to know each request."""

real = [
    pytest.mark.e2e,
    # Of a server that TEST_KUBE_APISERVER names, nobody knows who vouches for it.
    pytest.mark.filterwarnings("ignore::urllib3.exceptions.InsecureRequestWarning"),
    pytest.mark.skipif(not (ADDRESS or KUBECONFIG), reason="no TEST_KUBE_APISERVER and no KUBECONFIG"),
]


@dataclass(frozen=True, slots=True)
class Access:
    """How an API server is reached: the cluster and the user of a kubeconfig."""

    cluster: Mapping[str, Any]
    user: Mapping[str, Any]

    def kubeconfig(self, folder: Path, token: str | None = None) -> str:
        """Write a kubeconfig, of another user if the test says so; return its path."""
        return write_kubeconfig(folder, self.cluster, self.user if token is None else {"token": token})


def access() -> Access:
    """Return the API server that the environment names."""
    if ADDRESS:
        token = os.environ.get("TEST_KUBE_TOKEN")
        user = {} if token is None else {"token": token}
        return Access({"server": ADDRESS.rstrip("/"), "insecure-skip-tls-verify": True}, user)
    document = yaml.safe_load(Path(KUBECONFIG).read_text())

    def named(kind: str, name: str) -> Any:
        return next(each[kind] for each in document[f"{kind}s"] if each["name"] == name)

    context = named("context", document["current-context"])
    return Access(named("cluster", context["cluster"]), named("user", context["user"]))


def delete(api: KubeApi, path: str) -> None:
    """Delete an object, which the program never does."""
    api._request("DELETE", path)


@contextmanager
def a_namespace(api: KubeApi) -> Iterator[str]:
    name = f"tailbound-test-{uuid.uuid4().hex[:8]}"
    api.create(NAMESPACES.path(), {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    try:
        yield name
    finally:
        delete(api, NAMESPACES.path(name=name))
