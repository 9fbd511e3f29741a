"""The client of the Kubernetes API over real sockets, on servers that are well and unwell."""

import threading

import pytest

from slo_autoscaler import errors
from slo_autoscaler.kube import client as kube_client
from slo_autoscaler.kube.client import KubeApi, Resource
from support import doubles
from support.cluster import on_double
from support.kube_server import a_deployment, write_kubeconfig

DEPLOYMENTS = Resource("apps/v1", "deployments")
EVENTS = Resource("v1", "events")


@pytest.fixture
def web(cluster, namespace):
    """The path of a Deployment of two replicas."""
    cluster.create(DEPLOYMENTS.path(namespace), a_deployment(namespace=namespace))
    return DEPLOYMENTS.path(namespace, "web")


@pytest.fixture
def connect(keep):
    """Make clients."""
    return lambda kubeconfig, timeout=10.0: keep(KubeApi(kubeconfig, timeout=timeout, connections=1))


def test_an_object_is_read_changed_and_replaced_and_what_is_not_there_is_not_found(cluster, web):
    assert cluster.patch(web, {"metadata": {"labels": {"a": "b"}}})["metadata"]["labels"] == {"a": "b"}
    found = cluster.get(web)
    found["spec"]["replicas"] = 3
    assert cluster.replace(web, found)["metadata"]["generation"] == 2
    with pytest.raises(errors.NotFoundError, match=f"GET {web}er: status 404"):
        cluster.get(f"{web}er")


def test_pages_of_a_list_have_one_version(cluster, namespace, monkeypatch):
    path = DEPLOYMENTS.path(namespace)
    assert [items for items, _ in cluster.pages(path)] == [[]]
    monkeypatch.setattr(kube_client, "PAGE", 2)
    for i in range(5):
        cluster.create(path, a_deployment(f"d{i}", namespace))
    pages = list(cluster.pages(path))
    names = [[each["metadata"]["name"] for each in items] for items, _ in pages]
    assert names == [["d0", "d1"], ["d2", "d3"], ["d4"]]
    assert len({version for _, version in pages}) == 1


def test_a_write_to_a_stale_version_and_a_creation_of_what_exists_are_conflicts(cluster, namespace, web):
    stale = cluster.get(web)
    cluster.patch(f"{web}/scale", {"spec": {"replicas": 3}})
    version = {"resourceVersion": stale["metadata"]["resourceVersion"]}
    body = a_deployment(namespace=namespace)
    for write in (
        lambda: cluster.replace(web, stale),
        lambda: cluster.patch(f"{web}/scale", {"metadata": version, "spec": {"replicas": 4}}),
        lambda: cluster.create(DEPLOYMENTS.path(namespace), body),
    ):
        with pytest.raises(errors.ConflictError, match="status 409"):
            write()
    assert cluster.get(web)["spec"]["replicas"] == 3


# Faults


@pytest.fixture
def ask(api, cluster, web):
    """Ask for one object once more, without a word in between; ``requests`` are those since then."""
    api.requests.clear()
    return lambda **settings: cluster.get(web, **settings)


def refused(code):
    return doubles.status(code, b'{"reason": "R", "message": "of this"}')


@on_double
@pytest.mark.parametrize(
    ("fault", "kind", "words"),
    [
        (refused(401), errors.ForbiddenError, "status 401 R: of this"),
        (refused(403), errors.ForbiddenError, "status 403"),
        (refused(404), errors.NotFoundError, "status 404"),
        (refused(409), errors.ConflictError, "status 409"),
        (refused(410), errors.GoneError, "status 410"),
        (doubles.status(418, b"<html>teapot"), errors.ApiError, "status 418 : <html>teapot"),
        (doubles.garbage, errors.PlatformError, "not JSON"),
        (doubles.status(200, b"[]"), errors.PlatformError, "not an object"),
        (doubles.panic, errors.UnreachableError, "GET "),
        (doubles.half(b'{"metadata": {}}'), errors.UnreachableError, "GET "),
    ],
)
def test_a_bad_answer_is_an_error_of_its_kind_and_not_repeated(api, ask, cluster, fault, kind, words):
    api.faults["GET"] = fault
    with pytest.raises(kind, match=words):
        ask()
    assert len(api.requests) == 1
    api.faults.clear()
    assert ask(), "the connection that failed is not used again"


@on_double
def test_a_busy_server_is_asked_again_unless_that_is_not_wanted(api, ask):
    left = [429, 503]

    def busy(handler):
        doubles.status(left.pop())(handler)
        if not left:
            api.faults.clear()

    api.faults["GET"] = busy
    assert ask()["metadata"]["name"] == "web"
    assert len(api.requests) == 3
    api.faults["GET"] = doubles.status(503)
    with pytest.raises(errors.ApiError, match="status 503"):
        ask(patient=False)
    assert len(api.requests) == 4


@on_double
def test_a_creation_that_failed_within_the_server_is_not_repeated(api, cluster):
    api.faults["POST"] = doubles.status(503)
    with pytest.raises(errors.ApiError):
        cluster.create(EVENTS.path("shop"), {})
    assert len(api.writes()) == 1


@on_double
@pytest.mark.parametrize("slow", [doubles.hang, doubles.dribble])
def test_an_answer_that_does_not_come_or_does_not_end_has_a_timeout(api, kubeconfig, connect, slow):
    done = threading.Event()
    api.faults["GET"] = slow(done)
    with pytest.raises(errors.UnreachableError):
        connect(kubeconfig, timeout=0.3).get("/")
    done.set()


# Credentials


@on_double
def test_token_and_namespace_are_those_of_the_kubeconfig(api, connect, tmp_path):
    client = connect(api.kubeconfig(tmp_path, "secret"))
    assert client.namespace == "ours"
    assert list(client.pages(DEPLOYMENTS.path()))
    assert [call.user for call in api.calls] == ["secret"]


@pytest.mark.parametrize("content", [None, "a: [", "{}", "context"])
def test_a_kubeconfig_or_a_context_that_is_none_stops_the_start(tmp_path, content):
    path = tmp_path / "config"
    if content == "context":
        path = write_kubeconfig(tmp_path, {"server": "http://127.0.0.1:1"}, {})
    elif content is not None:
        path.write_text(content)
    with pytest.raises(errors.ConfigError, match=r"platform\.kubeconfig: .*config"):
        KubeApi(str(path), "nope" if content == "context" else None, timeout=1.0, connections=1)
