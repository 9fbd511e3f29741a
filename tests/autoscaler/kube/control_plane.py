"""A real Kubernetes API server: one that is named, or one of its own from the programs on PATH.

TEST_KUBE_APISERVER (a URL, with TEST_KUBE_TOKEN) or KUBECONFIG name one that is there. Otherwise
kube-apiserver and etcd are started on free loopback ports, with RBAC and with the check of owner references
that OpenShift has; kube-controller-manager as well, where a test asks for it. Nobody runs pods: ``Kubelet``
says of each that it runs.
"""

import json
import os
import shutil
import subprocess
import threading
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pytest
import yaml

from autoscaler.doubles import until
from slo_autoscaler.errors import ConflictError, NotFoundError, PlatformError
from slo_autoscaler.kube.client import Document, KubeApi, Resource
from slo_autoscaler.kube.informer import Informer
from tailbound_lab.local.ports import free_ports

ADDRESS = os.environ.get("TEST_KUBE_APISERVER", "")
KUBECONFIG = os.environ.get("KUBECONFIG", "")
PROGRAMS = ("etcd", "kube-apiserver", "openssl")
REASON = "no TEST_KUBE_APISERVER, no KUBECONFIG, and not all of these on PATH: " + ", ".join(PROGRAMS)

PRESENT = bool(ADDRESS or KUBECONFIG or all(shutil.which(each) for each in PROGRAMS))
"""Whether there is, or can be, an API server."""

AUDIT = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    # A watch is told when it begins, everything else when it is answered.
    "omitStages": ["RequestReceived"],
    "rules": [{"level": "Metadata"}],
}

NAMESPACES = Resource("v1", "namespaces")
PODS = Resource("v1", "pods")
ACCOUNTS = Resource("v1", "serviceaccounts")
NODES = Resource("v1", "nodes")
NODE = "tailbound-test"


class Asked(NamedTuple):
    """A request in the words of a Role's rule, and the answer's status."""

    verb: str
    group: str
    resource: str
    code: int


@dataclass(frozen=True, slots=True)
class Access:
    """How an API server is reached: the cluster and the user of a kubeconfig."""

    cluster: Mapping[str, Any]
    user: Mapping[str, Any]
    folder: Path | None = None
    """Of a server that was started here: its keys and logs."""

    @property
    def address(self) -> str:
        """host:port."""
        split = urlsplit(self.cluster["server"])
        return f"{split.hostname}:{split.port or (443 if split.scheme == 'https' else 80)}"

    def kubeconfig(self, folder: Path, address: str | None = None, token: str | None = None) -> str:
        """Write a kubeconfig, by way of a proxy at ``address`` or as another user; return its path."""
        cluster = dict(self.cluster)
        if address is not None:
            split = urlsplit(self.cluster["server"])
            cluster |= {"server": f"{split.scheme}://{address}", "tls-server-name": split.hostname}
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "contexts": [{"name": "test", "context": {"cluster": "c", "user": "u"}}],
            "clusters": [{"name": "c", "cluster": cluster}],
            "users": [{"name": "u", "user": dict(self.user) if token is None else {"token": token}}],
        }
        path = folder / f"kubeconfig-{uuid.uuid4().hex[:6]}"
        path.write_text(yaml.safe_dump(document))
        return str(path)

    def asked(self, user: str) -> list[Asked]:
        """Return what a user has asked of a server that was started here."""
        assert self.folder is not None
        found = []
        for line in (self.folder / "audit.log").read_text().splitlines():
            event = json.loads(line)
            if event["user"]["username"] == user:
                of = event.get("objectRef", {})
                resource = "/".join(filter(None, (of.get("resource"), of.get("subresource"))))
                code = event.get("responseStatus", {}).get("code", 0)
                found.append(Asked(event["verb"], of.get("apiGroup", ""), resource, code))
        return found


@contextmanager
def an_access(folder: Path) -> Iterator[Access]:
    """Give the API server that the environment names, or start one."""
    if ADDRESS:
        token = os.environ.get("TEST_KUBE_TOKEN")
        user = {} if token is None else {"token": token}
        yield Access({"server": ADDRESS.rstrip("/"), "insecure-skip-tls-verify": True}, user)
    elif KUBECONFIG:
        document = yaml.safe_load(Path(KUBECONFIG).read_text())
        (context,) = [
            each["context"] for each in document["contexts"] if each["name"] == document["current-context"]
        ]
        (cluster,) = [each["cluster"] for each in document["clusters"] if each["name"] == context["cluster"]]
        (user,) = [each["user"] for each in document["users"] if each["name"] == context["user"]]
        yield Access(cluster, user)
    else:
        with an_api_server(folder) as access:
            yield access


@contextmanager
def a_process(*command: str | Path, log: Path, **environ: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program until the block ends."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            list(map(str, command)), stdout=output, stderr=output, env={**os.environ, **environ}
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@contextmanager
def an_api_server(folder: Path) -> Iterator[Access]:
    """Run etcd and kube-apiserver; give the access of an administrator."""
    client, peer, port = free_ports(3)
    key, tokens, certificates = folder / "accounts.key", folder / "tokens.csv", folder / "certificates"
    subprocess.run(["openssl", "genrsa", "-out", key, "2048"], check=True, capture_output=True, timeout=50)
    policy = folder / "audit.yaml"
    policy.write_text(yaml.safe_dump(AUDIT))
    token = uuid.uuid4().hex
    tokens.write_text(f'{token},admin,admin,"system:masters"\n')
    url = f"https://127.0.0.1:{port}"
    etcd = (
        "etcd",
        f"--data-dir={folder / 'etcd'}",
        f"--listen-client-urls=http://127.0.0.1:{client}",
        f"--advertise-client-urls=http://127.0.0.1:{client}",
        f"--listen-peer-urls=http://127.0.0.1:{peer}",
        f"--initial-advertise-peer-urls=http://127.0.0.1:{peer}",
        f"--initial-cluster=default=http://127.0.0.1:{peer}",
        "--unsafe-no-fsync",
    )
    server = (
        "kube-apiserver",
        f"--etcd-servers=http://127.0.0.1:{client}",
        "--bind-address=127.0.0.1",
        # Loopback is refused for it; nobody connects to it.
        "--advertise-address=192.0.2.1",
        "--endpoint-reconciler-type=none",
        f"--secure-port={port}",
        f"--cert-dir={certificates}",
        f"--token-auth-file={tokens}",
        "--authorization-mode=RBAC",
        "--enable-admission-plugins=OwnerReferencesPermissionEnforcement",
        f"--service-account-key-file={key}",
        f"--service-account-signing-key-file={key}",
        "--service-account-issuer=https://kubernetes.default.svc",
        "--service-cluster-ip-range=10.96.0.0/16",
        f"--audit-policy-file={policy}",
        f"--audit-log-path={folder / 'audit.log'}",
        "--audit-log-mode=blocking",
    )
    with ExitStack() as running:
        running.enter_context(a_process(*etcd, log=folder / "etcd.log"))
        log = folder / "kube-apiserver.log"
        process = running.enter_context(a_process(*server, log=log))
        authority = certificates / "apiserver.crt"
        access = Access({"server": url, "certificate-authority": str(authority)}, {"token": token}, folder)

        config = access.kubeconfig(folder)

        def ready() -> bool:
            assert process.poll() is None, log.read_text()[-2000:]
            if not authority.exists():
                return False
            api = KubeApi(config, timeout=10.0, connections=1)
            try:
                # What makes the roles and the namespaces of a new cluster has run when these are there.
                api.get("/apis/rbac.authorization.k8s.io/v1/clusterroles/view")
                api.get("/api/v1/namespaces/default")
            except PlatformError:
                return False
            finally:
                api.close()
            return True

        until(ready, f"kube-apiserver is ready: {log}", 50.0)
        yield access


@contextmanager
def controllers(access: Access) -> Iterator[None]:
    """Run kube-controller-manager for a server that was started here."""
    assert access.folder is not None
    command = (
        "kube-controller-manager",
        f"--kubeconfig={access.kubeconfig(access.folder)}",
        "--leader-elect=false",
        "--secure-port=0",
        # The one node has no kubelet that would say every few seconds that it is there.
        "--controllers=*,-node-lifecycle-controller",
        f"--service-account-private-key-file={access.folder / 'accounts.key'}",
    )
    with a_process(*command, log=access.folder / "kube-controller-manager.log"):
        yield


@contextmanager
def a_namespace(api: KubeApi) -> Iterator[str]:
    name = f"tailbound-test-{uuid.uuid4().hex[:8]}"
    api.create(NAMESPACES.path(), {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    try:
        yield name
    finally:
        api.delete(NAMESPACES.path(name=name))


def a_token(api: KubeApi, namespace: str, account: str) -> str:
    """Return a token of a service account, as its pod would be given it."""
    body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
    answer = api.create(ACCOUNTS.path(namespace, account, "token"), body)
    return str(answer["status"]["token"])


def kubectl(kubeconfig: str, *arguments: str | Path) -> str:
    """Run kubectl, which must neither fail nor warn; return what it writes."""
    done = subprocess.run(
        ["kubectl", "--kubeconfig", kubeconfig, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    return done.stdout


class Kubelet:
    """A node: says of every pod that it runs and, while ``ready``, that it is ready; starts nothing."""

    def __init__(self, api: KubeApi) -> None:
        self._api = api
        self._numbers = count(1)
        self._ready = True
        self._lock = threading.Lock()
        with suppress(ConflictError):
            api.create(NODES.path(), {"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE}})
        self._pods = Informer(api, PODS, None, lambda pod: pod, resync=60.0, changed=lambda _: self._tend())
        self._pods.start()

    @property
    def ready(self) -> bool:
        return self._ready

    @ready.setter
    def ready(self, ready: bool) -> None:
        self._ready = ready
        self._tend()

    def close(self) -> None:
        self._pods.close()

    def _tend(self) -> None:
        with self._lock, suppress(PlatformError):
            for pod in self._pods.items().values():
                with suppress(NotFoundError, ConflictError):
                    self._tell(pod)

    def _tell(self, pod: Document) -> None:
        state = pod.get("status") or {}
        told = "True" if self._ready else "False"
        said = {each["type"]: each["status"] for each in state.get("conditions") or ()}
        metadata = pod["metadata"]
        path = PODS.path(metadata["namespace"], metadata["name"])
        if metadata.get("deletionTimestamp"):
            self._api.delete(f"{path}?gracePeriodSeconds=0")
            return
        if not pod["spec"].get("nodeName"):
            target = {"apiVersion": "v1", "kind": "Node", "name": NODE}
            binding = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": metadata["name"]}}
            self._api.create(f"{path}/binding", {**binding, "target": target})
            return
        if said.get("Ready") == told:
            return
        number = next(self._numbers)
        address = state.get("podIP") or f"10.{1 + number // 65536}.{number // 256 % 256}.{number % 256}"
        moment = "2026-01-01T00:00:00Z"
        containers = [
            {
                "name": each["name"],
                "image": each["image"],
                "imageID": "none",
                "ready": self._ready,
                "started": True,
                "restartCount": 0,
                "state": {"running": {"startedAt": moment}},
            }
            for each in pod["spec"]["containers"]
        ]
        status = {
            "phase": "Running",
            "podIP": address,
            "podIPs": [{"ip": address}],
            "startTime": moment,
            "containerStatuses": containers,
            "conditions": [
                {"type": kind, "status": value, "lastTransitionTime": moment}
                for kind, value in (("Ready", told), ("ContainersReady", told), ("PodScheduled", "True"))
            ],
        }
        self._api.patch(f"{path}/status", {"status": status})


@contextmanager
def a_kubelet(api: KubeApi) -> Iterator[Kubelet]:
    kubelet = Kubelet(api)
    try:
        yield kubelet
    finally:
        kubelet.close()


on_double = pytest.mark.parametrize("api", ["double"], indirect=True)
"""For tests that spoil what the API server answers, or need to know each request."""


def on_real(*programs: str) -> pytest.MarkDecorator:
    """For tests that need what the double is not, and these programs on PATH."""
    return pytest.mark.parametrize("api", [pytest.param("real", marks=real(*programs))], indirect=True)


def real(*programs: str) -> list[pytest.MarkDecorator]:
    """Return the marks of tests that need an API server, and these programs on PATH."""
    missing = [each for each in programs if shutil.which(each) is None]
    return [
        pytest.mark.e2e,
        # Of a server that TEST_KUBE_APISERVER names, nobody knows who vouches for it.
        pytest.mark.filterwarnings("ignore::urllib3.exceptions.InsecureRequestWarning"),
        pytest.mark.skipif(not PRESENT, reason=REASON),
        pytest.mark.skipif(bool(missing), reason=f"not on PATH: {', '.join(missing)}"),
    ]
