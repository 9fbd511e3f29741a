"""A real Kubernetes API server, if TEST_KUBE_APISERVER (with TEST_KUBE_TOKEN) or TEST_KUBECONFIG names one.

KUBECONFIG alone selects none: many shells have it, and tests write.
"""

import os
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from slo_autoscaler.kube.client import KubeApi, Resource
from support.kube_server import write_kubeconfig

NAMESPACES = Resource("v1", "namespaces")

on_double = pytest.mark.parametrize("api", ["double"], indirect=True)
"""For tests that spoil what the API server answers, or need to know each request."""


@dataclass(frozen=True, slots=True)
class Access:
    """How an API server is reached: the cluster and the user of a kubeconfig."""

    cluster: Mapping[str, Any]
    user: Mapping[str, Any]

    def kubeconfig(self, folder: Path, token: str | None = None) -> str:
        """Write a kubeconfig, of another user if the test says so; return its path."""
        return write_kubeconfig(folder, self.cluster, self.user if token is None else {"token": token})


def access(environment: Mapping[str, str] = os.environ) -> Access | None:
    """Return the API server that the environment names for tests; None: none."""
    if address := environment.get("TEST_KUBE_APISERVER"):
        token = environment.get("TEST_KUBE_TOKEN")
        user = {} if token is None else {"token": token}
        return Access({"server": address.rstrip("/"), "insecure-skip-tls-verify": True}, user)
    if not (path := environment.get("TEST_KUBECONFIG")):
        return None
    document = yaml.safe_load(Path(path).read_text())

    def named(kind: str, name: str) -> Any:
        return next(entry[kind] for entry in document[f"{kind}s"] if entry["name"] == name)

    context = named("context", document["current-context"])
    return Access(named("cluster", context["cluster"]), named("user", context["user"]))


real = [
    pytest.mark.e2e,
    # The CA of a server that TEST_KUBE_APISERVER names is unknown.
    pytest.mark.filterwarnings("ignore::urllib3.exceptions.InsecureRequestWarning"),
    pytest.mark.skipif(access() is None, reason="no TEST_KUBE_APISERVER and no TEST_KUBECONFIG"),
]


def delete(api: KubeApi, path: str) -> None:
    """Delete an object, which the program never does."""
    api._request("DELETE", path)  # noqa: SLF001


@contextmanager
def a_namespace(api: KubeApi) -> Iterator[str]:
    name = f"tailbound-test-{uuid.uuid4().hex[:8]}"
    api.create(NAMESPACES.path(), {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    try:
        yield name
    finally:
        delete(api, NAMESPACES.path(name=name))
