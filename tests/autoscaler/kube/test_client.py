"""The client of the Kubernetes API on a server over real sockets, well and unwell."""

import base64
import threading

import pytest

from autoscaler import doubles
from autoscaler.doubles import free_port
from autoscaler.kube_server import a_deployment, a_kube_server
from slo_autoscaler.errors import (
    ApiError,
    ConfigError,
    ConflictError,
    ForbiddenError,
    GoneError,
    NotFoundError,
    PlatformError,
    UnreachableError,
)
from slo_autoscaler.kube import client as kube_api
from slo_autoscaler.kube.client import KubeApi, Resource

DEPLOYMENTS = Resource("apps/v1", "deployments")
EVENTS = Resource("v1", "events")
ALL = DEPLOYMENTS.path()
WEB = DEPLOYMENTS.path("shop", "web")


@pytest.fixture
def server():
    with a_kube_server() as double:
        double.put("apps/v1", "deployments", a_deployment())
        yield double


@pytest.fixture
def api(server, tmp_path):
    client = KubeApi(server.kubeconfig(tmp_path), timeout=2.0, connections=4)
    yield client
    client.close()


def impatient(server, tmp_path, address=None):
    return KubeApi(server.kubeconfig(tmp_path, address), timeout=0.3, connections=1)


@pytest.mark.parametrize(
    ("path", "text"),
    [
        (EVENTS.path(), "/api/v1/events"),
        (EVENTS.path("shop"), "/api/v1/namespaces/shop/events"),
        (ALL, "/apis/apps/v1/deployments"),
        (DEPLOYMENTS.path("shop", "web", "scale"), "/apis/apps/v1/namespaces/shop/deployments/web/scale"),
        (DEPLOYMENTS.path("a/b", "c d"), "/apis/apps/v1/namespaces/a%2Fb/deployments/c%20d"),
    ],
)
def test_a_kind_of_object_has_paths(path, text):
    assert path == text


def test_objects_are_read_created_changed_replaced_and_deleted(api, server):
    found = api.get(WEB)
    assert found["spec"]["replicas"] == 2
    assert api.patch(WEB, {"metadata": {"labels": {"a": "b"}}})["metadata"]["labels"] == {"a": "b"}
    found = api.get(WEB)
    found["spec"]["replicas"] = 3
    assert api.replace(WEB, found)["metadata"]["generation"] == 2
    created = api.create(DEPLOYMENTS.path("shop"), {"metadata": {"name": "other"}, "spec": {}})
    assert created["metadata"]["uid"]
    api.delete(WEB)
    assert [each["metadata"]["name"] for each in server.all("apps/v1", "deployments")] == ["other"]


def test_a_list_comes_in_pages_of_one_version(api, server, monkeypatch):
    monkeypatch.setattr(kube_api, "PAGE", 2)
    for i in range(4):
        server.put("apps/v1", "deployments", a_deployment(f"d{i}"))
    pages = list(api.pages(ALL))
    assert [len(items) for items, _ in pages] == [2, 2, 1]
    assert len({version for _, version in pages}) == 1


def test_a_list_of_nothing_is_empty(api):
    assert [items for items, _ in api.pages(EVENTS.path())] == [[]]


def test_a_stale_version_is_a_conflict(api):
    found = api.get(WEB)
    api.patch(WEB, {"spec": {"replicas": 5}})
    with pytest.raises(ConflictError, match="status 409 Conflict"):
        api.replace(WEB, found)
    with pytest.raises(ConflictError):
        api.patch(WEB, {"metadata": {"resourceVersion": found["metadata"]["resourceVersion"]}})


def test_what_is_there_already_is_a_conflict_of_its_own_reason(api):
    with pytest.raises(ConflictError) as caught:
        api.create(DEPLOYMENTS.path("shop"), a_deployment())
    assert caught.value.reason == "AlreadyExists"


@pytest.mark.parametrize(
    ("code", "kind"),
    [(401, ForbiddenError), (403, ForbiddenError), (404, NotFoundError), (410, GoneError), (422, ApiError)],
)
def test_a_status_has_an_error_of_its_own_kind(api, server, code, kind):
    server.faults["GET"] = doubles.status(code, b'{"reason": "Because", "message": "of this"}')
    with pytest.raises(kind, match=f"GET {WEB}: status {code} Because: of this") as caught:
        api.get(WEB)
    assert caught.value.status == code


def test_a_role_that_does_not_allow_it_is_named(api, server):
    server.rules = []
    with pytest.raises(ForbiddenError, match="cannot get resource deployments"):
        api.get(WEB)


def test_an_error_that_is_no_status_object_is_shown(api, server):
    server.faults["GET"] = doubles.status(418, b"<html>teapot")
    with pytest.raises(ApiError, match="status 418 : <html>teapot"):
        api.get(WEB)


def then_well(server, prefix, fault, times):
    """Answer with a fault so many times, and then as ever."""
    left = [times]

    def once(handler):
        left[0] -= 1
        if left[0] == 0:
            server.faults.clear()
        fault(handler)

    server.faults[prefix] = once


@pytest.mark.parametrize("code", [429, 503])
def test_a_busy_server_is_asked_again(api, server, code):
    then_well(server, "GET", doubles.status(code), 2)
    assert api.get(WEB)["metadata"]["name"] == "web"
    assert len(server.requests) == 3


def test_the_time_that_a_server_asks_for_is_waited_or_the_error_comes_at_once(api, server):
    def later(handler):
        handler.send_response(429)
        handler.send_header("Retry-After", "60")
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    server.faults["GET"] = later
    with pytest.raises(ApiError, match="status 429") as caught:
        api.get(WEB)
    assert caught.value.retry_after == 60.0
    assert len(server.requests) == 1


def test_one_that_stays_busy_is_an_error_when_the_time_is_up(server, tmp_path):
    server.faults["GET"] = doubles.status(503)
    client = impatient(server, tmp_path)
    with pytest.raises(ApiError, match="status 503"):
        client.get(WEB)
    assert len(server.requests) > 1
    client.close()


def test_get_without_patience_sends_one_request(api, server):
    server.faults["GET"] = doubles.status(503)
    with pytest.raises(ApiError):
        api.get(WEB, patient=False)
    assert len(server.requests) == 1


def test_a_creation_that_failed_inside_the_server_is_not_repeated(api, server):
    server.faults["POST"] = doubles.status(500)
    with pytest.raises(ApiError):
        api.create(EVENTS.path("shop"), {})
    assert len(server.requests) == 1


def test_a_call_may_have_less_time_than_the_others(api):
    with pytest.raises(UnreachableError, match="no time is left for it"):
        api.get(WEB, within=0.0)


@pytest.mark.parametrize("fault", [doubles.garbage, doubles.status(200, b"[]"), doubles.status(200, b"")])
def test_an_answer_that_makes_no_sense_is_an_error(api, server, fault):
    server.faults["GET"] = fault
    with pytest.raises(PlatformError, match=r"not JSON|not an object"):
        api.get(WEB)
    with pytest.raises(PlatformError):
        list(api.pages(ALL))


def test_a_list_that_is_none_is_an_error(api, server):
    server.faults["GET"] = doubles.status(200, b'{"items": 3}')
    with pytest.raises(PlatformError, match="not a list of objects"):
        list(api.pages(ALL))


@pytest.mark.parametrize("fault", [doubles.panic, doubles.half(b'{"metadata": {}}')])
def test_an_answer_that_breaks_off_is_unreachable_and_not_asked_for_again(api, server, fault):
    server.faults["GET"] = fault
    with pytest.raises(UnreachableError, match=f"GET {WEB}: "):
        api.get(WEB)
    assert len(server.requests) == 1


@pytest.mark.parametrize("slow", [doubles.hang, doubles.dribble])
def test_an_answer_that_does_not_come_or_does_not_end_has_a_timeout(server, tmp_path, slow):
    done = threading.Event()
    server.faults["GET"] = slow(done)
    client = impatient(server, tmp_path)
    with pytest.raises(UnreachableError):
        client.get(WEB)
    done.set()
    client.close()


def test_a_server_that_is_not_there_is_unreachable(server, tmp_path):
    client = impatient(server, tmp_path, f"127.0.0.1:{free_port()}")
    with pytest.raises(UnreachableError, match=r"GET .*: NewConnectionError: .*refused"):
        client.get(WEB)
    client.close()


def test_connections_are_kept_and_one_that_failed_is_not_used_again(api, server):
    for _ in range(3):
        api.get(WEB)
    server.faults["GET"] = doubles.half(b"{}")
    with pytest.raises(UnreachableError):
        api.get(WEB)
    server.faults.clear()
    assert api.get(WEB)["metadata"]["name"] == "web"


def test_the_token_of_the_kubeconfig_is_sent(server, tmp_path):
    server.token = "secret"
    client = KubeApi(server.kubeconfig(tmp_path), timeout=2.0, connections=1)
    assert client.get(WEB)
    client.close()
    server.token = "changed"
    client = KubeApi(server.kubeconfig(tmp_path), timeout=2.0, connections=1)
    server.token = "again"
    with pytest.raises(ForbiddenError, match="status 401"):
        client.get(WEB)
    client.close()


def test_the_namespace_is_that_of_the_kubeconfigs_context(api):
    assert api.namespace == "ours"


def test_a_context_that_is_not_in_the_kubeconfig_stops_the_start(server, tmp_path):
    with pytest.raises(ConfigError, match=r"platform\.kubeconfig: .*kubeconfig.*nope"):
        KubeApi(server.kubeconfig(tmp_path), "nope", timeout=1.0, connections=1)


@pytest.mark.parametrize("content", [None, "a: [", "3", "{}"])
def test_a_kubeconfig_that_is_none_stops_the_start(tmp_path, content):
    path = tmp_path / "config"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError, match=r"platform\.kubeconfig: .*config: "):
        KubeApi(str(path), timeout=1.0, connections=1)


def test_events_that_make_no_sense_are_errors(api, server):
    def broken(handler):
        doubles.status(200, b'{"type": "ADDED"}\n')(handler)

    server.faults["GET"] = broken
    with pytest.raises(PlatformError, match="an event without an object"):
        list(api.watch(ALL, {}, 1.0))


def test_inside_a_pod_its_service_account_is_used(server, tmp_path, monkeypatch):
    # The package reads the files of the service account where Kubernetes mounts them.
    account = tmp_path / "account"
    account.mkdir()
    certificate = base64.b64encode(b"no certificate").decode()
    for name, text in (("token", "abc"), ("ca.crt", certificate), ("namespace", "mine\n")):
        (account / name).write_text(text)
    from kubernetes.config import incluster_config  # noqa: PLC0415

    monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(account / "token"))
    monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", str(account / "ca.crt"))
    monkeypatch.setattr(kube_api, "_NAMESPACE_FILE", account / "namespace")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    configuration, namespace = kube_api._loaded(None, None)
    assert namespace == "mine"
    assert configuration.host == "https://127.0.0.1:443"
    assert "bearer abc" in {setting["value"] for setting in configuration.auth_settings().values()}
